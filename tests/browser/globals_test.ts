/**
 * Tests the client in pages that lack a global, for example because of a policy, an extension or an
 * old browser. The list of globals is not written by hand: it consists of all names in the client's
 * code that are globals of the browser.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { createContext, runInContext } from "node:vm";
import { serve } from "../../mod.ts";
import { type Browser, clientInParts, newPage, testInBrowsers } from "./browsers.ts";

/**
 * Globals that every browser with modules has, and without which a page can neither wait nor use the
 * others.
 */
const GIVEN = ["EventTarget", "Headers", "clearTimeout", "setTimeout"];

/** The globals of the language, which are as old as its syntax. */
const LANGUAGE = new Set<string>(
  runInContext("Object.getOwnPropertyNames(globalThis)", createContext()),
);

/** Newer functions of globals that older browsers have. */
const MEMBERS = [
  "AbortSignal.any",
  "AbortSignal.prototype.throwIfAborted",
  "AbortSignal.timeout",
  "Array.fromAsync",
  "Promise.try",
  "Promise.withResolvers",
  "Uint8Array.prototype.toBase64",
  "URL.canParse",
  "URL.parse",
  "crypto.getRandomValues",
  "crypto.randomUUID",
  "crypto.subtle",
];

/** Runs in a frame, which reports its outcome to the page. The names to remove are in its URL. */
const FRAME = `<!doctype html><script>
const page = parent;
const tell = (outcome) => page.postMessage(outcome, "*");
for (const path of location.hash.slice(1).split(",").filter((path) => path)) {
  const keys = path.split(".");
  const name = keys.pop();
  let owner = keys.reduce((at, key) => at[key], globalThis);
  while (!Object.hasOwn(owner, name)) owner = Object.getPrototypeOf(owner);
  Object.defineProperty(owner, name, { value: undefined, configurable: true, writable: true });
}
</script><script type="module">
try {
  const { connect } = await import("/client.js");
  const client = connect("/");
  const chat = client.subscribe("chat", { last: 1 });
  await client.publish("chat", "Hello");
  for await (const { data } of chat) if (data === "Hello") break;
  const items = [];
  for await (const item of client.requestStream("count", 2)) items.push(item);
  const reply = await client.request("double", 2);
  const { transport } = client.session;
  await client.close();
  tell([items.length, reply, transport].join(" "));
} catch (error) {
  tell(error.name + ": " + error.message);
}
</script>`;

async function openServer() {
  const parts = await clientInParts();
  const names = new Set([...parts.values()].flatMap((code) => code.match(/[A-Za-z_$][\w$]*/g)));
  const server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: false,
    authorize: () => true,
    history: { chat: {} },
    requests: {
      double: ({ data }) => 2 * Number(data),
      async *count({ data }) {
        for (let n = 0; n < Number(data); n++) yield n;
      },
    },
    limits: { maxSessionsPerAddress: 1_000 },
    fetch({ url }) {
      const { pathname } = new URL(url);
      const part = parts.get(pathname);
      const html = pathname === "/frame" ? FRAME : "<!doctype html><title>Page</title>";
      return new Response(part ?? html, {
        headers: { "content-type": part === undefined ? "text/html" : "text/javascript" },
      });
    },
  });
  return { server, names };
}

/** Loads the page in a frame for each list of missing globals, and returns what it reports. */
async function outcomes(browser: Browser, site: string, lists: readonly string[][]) {
  const page = await newPage(browser);
  await page.goto(site);
  return await page.evaluate(async (lists) => {
    // deno-lint-ignore no-explicit-any
    const { document, addEventListener } = globalThis as any;
    const show = (list: string[]) => {
      const frame = document.createElement("iframe");
      const outcome = new Promise<string>((resolve) => {
        const late = () => resolve("The frame reported nothing");
        setTimeout(late, 60_000);
        addEventListener("message", (event: { source: unknown; data: string }) => {
          if (event.source === frame.contentWindow) resolve(event.data);
        });
      });
      frame.src = `/frame#${list}`;
      document.body.append(frame);
      return outcome.finally(() => frame.remove());
    };
    const seen: string[] = [];
    // A browser opens six connections to a host, and each client on HTTP uses two.
    for (let i = 0; i < lists.length; i += 2) {
      seen.push(...await Promise.all(lists.slice(i, i + 2).map(show)));
    }
    return seen;
  }, lists);
}

/** Returns true if an outcome is the error that names a missing global, or a function of it. */
function isNamed(outcome: string, path: string): boolean {
  const [, list] = /^UnsupportedError: Cannot connect: this runtime has no (.*)$/.exec(outcome) ??
    [];
  return list?.split(", ").some((name) => `${name}.`.startsWith(`${path}.`)) ?? false;
}

testInBrowsers("connect() works without a global, or names it in its error", async (browser) => {
  const { server, names } = await openServer();
  await using _ = server;
  const site = server.url.replace("ws:", "http:");
  const page = await newPage(browser);
  const globals: string[] = await page.evaluate(() => Object.getOwnPropertyNames(globalThis));
  const missing = [
    ...globals.filter((name) => names.has(name) && !LANGUAGE.has(name) && !GIVEN.includes(name)),
    ...await page.evaluate(
      (paths) =>
        paths.filter((path) =>
          // deno-lint-ignore no-explicit-any
          path.split(".").reduce((at, key) => at?.[key], globalThis as any) !== undefined
        ),
      MEMBERS,
    ),
  ];
  assert(
    ["WebSocket", "fetch", "crypto", "MessageChannel"].every((name) => missing.includes(name)),
  );
  for (const others of [[], ["WebSocket"]]) {
    const lists = missing.map((name) => [...new Set([...others, name])]);
    const seen = await outcomes(browser, site, lists);
    const faults = seen.flatMap((outcome, i) => {
      const list = lists[i]!;
      const transport = list.includes("WebSocket") ? "http" : "websocket";
      const isGood = isNamed(outcome, list.at(-1)!) || outcome === `2 4 ${transport}`;
      return isGood ? [] : [`without ${list}: ${outcome}`];
    });
    assertEquals(faults, []);
    const named = seen.filter((outcome) => outcome.startsWith("UnsupportedError"));
    assert(named.length > 0 && named.length < missing.length);
  }
});
