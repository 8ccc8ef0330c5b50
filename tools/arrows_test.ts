import { assertEquals } from "@std/assert";
import { checkArrows } from "./arrows.ts";

const EXPORTS = { ".": "./mod.ts", "./client": "./client.ts", "./session": "./session/mod.ts" };

/** Checks a repository with the given files; returns the messages, each with path and line. */
function check(files: Record<string, string>): string[] {
  return checkArrows({
    files: new Map(Object.entries(files)),
    name: "@skein/skein",
    exports: EXPORTS,
  }).map(({ path, line, message }) => `${path}:${line} ${message}`);
}

const importing = (...specifiers: string[]) =>
  specifiers.map((specifier) => `import { x } from "${specifier}";\n`).join("");

Deno.test("checkArrows() accepts a repository that follows every rule", () => {
  const found = check({
    "errors.ts": "export class SkeinError extends Error {}\n",
    "transport/connection.ts": importing("../errors.ts", "./_wire.ts"),
    "transport/_wire.ts": "",
    "transport/websocket_server.ts": "Deno.upgradeWebSocket;\n",
    "transport/h3/server.ts": importing("../_wire.ts", "../connection.ts"),
    "session/session.ts": importing("../transport/connection.ts", "../errors.ts"),
    "session/mod.ts": 'export { Session } from "./session.ts";\n',
    "pubsub/topics.ts": importing("../session/mod.ts"),
    "moq/track.ts": importing("../pubsub/topics.ts"),
    "brokers/redis/broker.ts": importing("../../pubsub/topics.ts", "../../streams/logs/log.ts"),
    "streams/logs/log.ts": importing("../../pubsub/topics.ts"),
    "serve_workers.ts": 'await import("./streams/logs/log.ts");\n',
    "manager/manager.ts": importing("../session/session.ts", "../transport/connection.ts"),
    "server/metrics/measures.ts": importing("../../manager/manager.ts", "../../pubsub/topics.ts"),
    "operations/otel/otel.ts": importing("../../server/metrics/measures.ts"),
    "streams/mod.ts": importing("../server/feature.ts"),
    "server/origin.ts": importing("../errors.ts"),
    "server/server.ts": importing(
      "../pubsub/topics.ts",
      "../manager/manager.ts",
      "./metrics/measures.ts",
      "../transport/websocket_server.ts",
      "./origin.ts",
      "npm:zod@4",
    ),
    "server.ts": 'export { serve } from "./server/server.ts";\n',
    "client.ts": `// Deno is not named here.\n${importing("./client/client.ts")}`,
    "client/client.ts": importing("../session/session.ts", "./backoff.ts"),
    "client/backoff.ts": 'export const text = "Deno";\n',
    "client/deno.ts": importing("../session/session.ts", "./backoff.ts", "../transport/quic.ts"),
    "transport/quic.ts": "Deno.connectQuic;\n",
    "testing/mod.ts": importing(
      "../session/session.ts",
      "../pubsub/topics.ts",
      "../server/server.ts",
    ),
    "mod.ts": 'export { x } from "./server.ts";\nexport { y } from "./client/deno.ts";\n',
    "session/session_test.ts": importing("../pubsub/topics.ts", "../server.ts", "./_x.ts"),
    "tests/interop/x.ts": `${importing("../../server.ts")}export default {};\n`,
    "examples/chat/server.ts": importing(
      "@skein/skein/client",
      "../../mod.ts",
      "./room.ts",
      "@std/assert",
    ),
    "examples/chat/room.ts": "",
    "session/a.ts": 'import { b } from "./b.ts";\n',
    "session/b.ts": "",
  });
  assertEquals(found, []);
});

/** A folder with a number of empty source files, and tests. */
const folder = (name: string, count: number) =>
  Object.fromEntries(
    Array.from({ length: count }, (_, i) => [[`${name}/${i}.ts`, ""], [`${name}/${i}_test.ts`, ""]])
      .flat(),
  );

const breaches: [what: string, files: Record<string, string>, found: string[]][] = [
  [
    "errors.ts that imports",
    { "errors.ts": importing("npm:zod") },
    ['errors.ts:1 errors.ts imports nothing, received "npm:zod"'],
  ],
  [
    "a test that is imported",
    { "tests/a.ts": importing("./b_test.ts"), "tests/b_test.ts": "" },
    ['tests/a.ts:1 tests/b_test.ts is a test: what tests share is in a file without "_test" in its name'],
  ],
  [
    "a folder with too many files, tests not counted",
    { ...folder("tests/soak", 20), ...folder("tools/site", 21) },
    ["tools/site:1 a folder has at most 20 source files, received 21"],
  ],
  [
    "an import against the arrows",
    { "transport/a.ts": `\n${importing("../session/b.ts")}`, "session/b.ts": "" },
    ["transport/a.ts:2 transport may import errors, base, transport; received session/b.ts (session)"],
  ],
  [
    "pubsub and manager that know each other",
    {
      "pubsub/a.ts": importing("../manager/b.ts"),
      "manager/b.ts": "",
      "manager/c.ts": 'export type { T } from "../pubsub/d.ts";\n',
      "pubsub/d.ts": "",
    },
    [
      "manager/c.ts:1 manager may import errors, base, transport, session, manager; " +
      "received pubsub/d.ts (pubsub)",
      "pubsub/a.ts:1 pubsub may import errors, base, transport, session, pubsub; " +
      "received manager/b.ts (manager)",
    ],
  ],
  [
    "a module below that imports the surface",
    { "manager/a.ts": importing("../mod.ts"), "mod.ts": "" },
    ["manager/a.ts:1 manager may import errors, base, transport, session, manager; received mod.ts (mod)"],
  ],
  [
    "testing that the server imports",
    {
      "server/x.ts": importing("../testing/b.ts"),
      "testing/b.ts": importing("../client/a.ts"),
      "client/a.ts": "",
    },
    [
      "server/x.ts:1 server may import errors, base, transport, session, pubsub, manager, server; " +
      "received testing/b.ts (testing)",
    ],
  ],
  [
    "a client that imports the server, or the other way round",
    {
      "client.ts": importing("./client/a.ts"),
      "client/a.ts": importing("../server.ts"),
      "server/x.ts": importing("../client/a.ts"),
      "server.ts": "",
    },
    [
      "client/a.ts:1 client may import errors, base, transport, session, client; " +
      "received server.ts (mod)",
      "client/a.ts:1 browsers load this file (client.ts > client/a.ts), and it imports server.ts",
      "server/x.ts:1 server may import errors, base, transport, session, pubsub, manager, server; " +
      "received client/a.ts (client)",
    ],
  ],
  [
    "a core that imports a wing",
    { "pubsub/a.ts": importing("../brokers/redis/b.ts"), "brokers/redis/b.ts": "" },
    [
      "pubsub/a.ts:1 pubsub may import errors, base, transport, session, pubsub; " +
      "received brokers/redis/b.ts (brokers)",
    ],
  ],
  [
    "a server that imports a wing",
    { "server/a.ts": 'import type { B } from "../moq/b.ts";\n', "moq/b.ts": "" },
    [
      "server/a.ts:1 server may import errors, base, transport, session, pubsub, manager, server; " +
      "received moq/b.ts (moq)",
    ],
  ],
  [
    "a dynamic import against the arrows",
    { "session/a.ts": 'await import("../server.ts");\n', "server.ts": "" },
    ["session/a.ts:1 session may import errors, base, transport, session; received server.ts (mod)"],
  ],
  [
    "a broker that imports more of streams than logs, and an entry that loads logs at once",
    {
      "brokers/a.ts": importing("../streams/logs/b.ts", "../streams/c.ts"),
      "serve_workers.ts": importing("./streams/logs/b.ts"),
      "streams/logs/b.ts": "",
      "streams/c.ts": "",
    },
    [
      "brokers/a.ts:2 brokers may import errors, base, transport, session, pubsub, logs, brokers; " +
      "received streams/c.ts (streams)",
      "serve_workers.ts:1 mod may import errors, base, transport, session, pubsub, manager, client, " +
      "server, mod; received streams/logs/b.ts (logs)",
    ],
  ],
  [
    "a private file of another folder",
    { "session/a.ts": importing("../transport/_b.ts"), "transport/_b.ts": "" },
    ["session/a.ts:1 transport/_b.ts is private to transport/"],
  ],
  [
    "Deno below client.ts",
    {
      "client.ts": importing("./session/a.ts"),
      "session/a.ts": importing("../transport/b.ts"),
      "transport/b.ts": "// Deno\nconst text = `Deno ${Deno.build.os}`;\nx.Deno;\n",
    },
    [
      "transport/b.ts:2 browsers load this file " +
      "(client.ts > session/a.ts > transport/b.ts), and it names Deno",
      "transport/b.ts:3 browsers load this file " +
      "(client.ts > session/a.ts > transport/b.ts), and it names Deno",
    ],
  ],
  [
    "the same below what client.ts imports when it needs it",
    {
      "client.ts": 'const x = await import("./transport/_a.ts").catch(() => {});\n',
      "transport/_a.ts": 'export { b } from "./b.ts";\nimport "./c_server.ts";\n',
      "transport/b.ts": "Deno.build;\n",
      "transport/c_server.ts": "",
    },
    [
      "transport/_a.ts:2 browsers load this file " +
      "(client.ts > transport/_a.ts), and it imports transport/c_server.ts",
      "transport/b.ts:1 browsers load this file " +
      "(client.ts > transport/_a.ts > transport/b.ts), and it names Deno",
    ],
  ],
  [
    "a server half or a Node module below client.ts",
    {
      "client.ts": importing("./transport/native_server.ts", "node:fs"),
      "transport/native_server.ts": "Deno;\n",
    },
    [
      "client.ts:1 browsers load this file (client.ts), and it imports transport/native_server.ts",
      "client.ts:2 browsers load this file (client.ts), and it imports node:fs",
    ],
  ],
  [
    "a cycle, once",
    {
      "session/a.ts": importing("./b.ts"),
      "session/b.ts": importing("./c.ts"),
      "session/c.ts": importing("./a.ts"),
    },
    ["session/c.ts:1 import cycle: session/a.ts > session/b.ts > session/c.ts > session/a.ts"],
  ],
  [
    "cycles of types, and of a module that is loaded later",
    {
      "session/a.ts": 'import type { B } from "./b.ts";\nawait import("./c.ts");\n',
      "session/b.ts": importing("./a.ts"),
      "session/c.ts": importing("./a.ts"),
    },
    [
      "session/b.ts:1 import cycle: session/a.ts > session/b.ts > session/a.ts",
      "session/c.ts:1 import cycle: session/a.ts > session/c.ts > session/a.ts",
    ],
  ],
  [
    "default exports",
    {
      "session/a.ts": "export default 1;\n",
      "session/b.ts": "const b = 1;\nexport { b as default };\n",
    },
    [
      "session/a.ts:1 default exports are not used here",
      "session/b.ts:2 default exports are not used here",
    ],
  ],
  [
    "a mod.ts that re-exports everything",
    { "session/mod.ts": 'export * from "./a.ts";\n', "session/a.ts": "" },
    ["session/mod.ts:1 a mod.ts re-exports by name"],
  ],
  [
    "a library file that imports the package by name, or a test",
    { "session/a.ts": importing("@skein/skein", "../tests/b.ts"), "tests/b.ts": "" },
    [
      'session/a.ts:1 the library imports itself by relative paths, received "@skein/skein"',
      "session/a.ts:2 session may import errors, base, transport, session; received tests/b.ts (free)",
    ],
  ],
  [
    "an example that reaches inside",
    {
      "examples/a.ts": importing("../session/queue.ts", "../session/mod.ts"),
      "session/queue.ts": "",
    },
    ["examples/a.ts:1 an example imports only what is exported, received session/queue.ts"],
  ],
  [
    "a test across folders that reaches inside, and one that no longer does",
    {
      "tests/a_test.ts": importing("../session/queue.ts", "../session/mod.ts", "./b.ts"),
      "tests/b.ts": importing("../session/queue.ts"),
      "tests/server_test.ts": importing("../session/mod.ts"),
      "session/queue.ts": "",
    },
    [
      "tests/a_test.ts:1 a test in tests/ imports only what is exported, received session/queue.ts",
      "tests/server_test.ts:1 imports only what is exported: take it off the list of tools/arrows.ts",
    ],
  ],
];

for (const [what, files, found] of breaches) {
  Deno.test(`checkArrows() reports ${what}`, () => assertEquals(check(files), found));
}
