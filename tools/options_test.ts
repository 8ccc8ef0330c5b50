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

Deno.test("optionsOf() reads past functions, strings and comments in the options", () => {
  const blocks = [
    'serve({ fetch: (request) => f({ tls: "}" }), /* hosts: 1 */ async onOpen() { tls; }, port })',
  ];
  assertEquals(optionsOf({ references, programs: [], blocks }).inNoPage, [
    ...["serve.rates.shared", "serve.tls", "serve.hosts", "serve.api.path", "connect.port"],
  ]);
});

/** Documented options without an example. An option leaves the list; a new one has an example. */
const WITHOUT_EXAMPLE: readonly string[] = [
  "connect.headStartMs",
  "connect.upgrade",
  "connect.serverCertificateHashes",
  "connect.endOnRefusal",
  "connect.connectAfter",
  "connect.connectTimeoutMs",
  "connect.life",
  "connect.backoff.maxAttempts",
  "connect.flowControl",
  "connect.requests",
  "connect.onDropped",
  "connect.onGoAway",
  "connect.onHandlerError",
  "connect.sendQueue.maxMessages",
  "connect.sendQueue.maxBytes",
  "connect.sendQueue.policy",
  "connect.receiveQueue.maxMessages",
  "connect.receiveQueue.maxBytes",
  "connect.maxMessageBytes",
  "connect.maxInvalidMessages",
  "connect.maxRequests",
  "connect.concurrency",
  "connect.requestTimeoutMs",
  "connect.closeTimeoutMs",
  "connect.handshakeTimeoutMs",
  "connect.runtime",
  "serve.http",
  "serve.webTransport.cacheFolder",
  "serve.webTransport.engine",
  "serve.reusePort",
  "serve.signal",
  "serve.onHandlerError",
  "serve.onRefused",
  "serve.moq",
  "serve.session.sendQueue.maxMessages",
  "serve.session.sendQueue.maxBytes",
  "serve.session.receiveQueue.maxBytes",
  "serve.session.maxMessageBytes",
  "serve.session.maxInvalidMessages",
  "serve.session.maxRequests",
  "serve.session.concurrency",
  "serve.session.requestTimeoutMs",
  "serve.session.closeTimeoutMs",
  "serve.session.handshakeTimeoutMs",
  "serve.runtime",
];

Deno.test("Each option is set in an example or in a code block of a page", async () => {
  const { inNoPage } = await documentedOptions(new URL("../", import.meta.url));
  assertEquals(inNoPage, WITHOUT_EXAMPLE);
});
