import { assertEquals } from "@std/assert";
import { documentedOptions, optionsOf } from "./options.ts";

const references = {
  serve: "| `port` | 0 |\n| `rates.shared` | — |\n| `tls` | — |\n| `hosts` | — |\n| `api.path` |\n",
  connect: "| `port` | 0 |\n",
};

Deno.test("optionsOf() lists options that no program sets, and no code block of a page", () => {
  const programs = ["const api: Api = { path: '/' };\nserve({ port: 0, api, a: [{ tls: 1 }] })"];
  const blocks = ["createServer<User>({ rates: { a: { b: 1 }, shared: true }, onOpen() {} })"];
  assertEquals(optionsOf({ references, programs, blocks }), {
    all: [
      ...["serve.port", "serve.rates.shared", "serve.tls", "serve.hosts", "serve.api.path"],
      "connect.port",
    ],
    inNoExample: ["serve.rates.shared", "serve.tls", "serve.hosts", "connect.port"],
    inNoPage: ["serve.tls", "serve.hosts", "connect.port"],
  });
});

Deno.test("optionsOf() finds the options of a constant that a call receives or spreads", () => {
  const blocks = [
    "const bounds = { port: 0, api: { path: '/' } };\nserve({ ...bounds, tls: f(...all) })",
    "const retries = { port: 1 };\nconnect(server.url, retries)",
  ];
  assertEquals(optionsOf({ references, programs: [], blocks }).inNoPage, [
    ...["serve.rates.shared", "serve.hosts"],
  ]);
});

Deno.test("optionsOf() reads past functions, strings and comments in the options", () => {
  const blocks = [
    'serve({ fetch: (request) => f({ tls: "}" }), /* hosts: 1 */ async onOpen() { tls; }, port })',
  ];
  assertEquals(optionsOf({ references, programs: [], blocks }).inNoPage, [
    ...["serve.rates.shared", "serve.tls", "serve.hosts", "serve.api.path", "connect.port"],
  ]);
});

Deno.test("optionsOf() knows the calls that create features", () => {
  const features = {
    durableStreams: "| `tail.ms` |\n| `path` |\n",
    metrics: "| `path` |\n",
    MoqServer: "| `limits.maxSessions` |\n| `mux` |\n",
  };
  const programs = [
    "const tail = { ms: 1 };\nserve({ features: [durableStreams({ tail }), metrics()] })",
    "const moq = new MoqServer({ limits: { maxSessions: 1 } }); listenMoq({ mux })",
  ];
  assertEquals(
    optionsOf({ references: features, programs, blocks: [] }).inNoPage,
    ["durableStreams.path", "metrics.path"],
  );
});

Deno.test("Each option is set in an example or in a code block of a page", async () => {
  const { inNoPage } = await documentedOptions(new URL("../", import.meta.url));
  assertEquals(inNoPage, []);
});
