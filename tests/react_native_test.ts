/**
 * Tests the client in a realm that has only the globals of React Native. They come from its
 * `setUpXHR`, `setUpTimers` and `setUpDOM`. The engine lacks `Promise.withResolvers`, as Hermes
 * does. The second test adds the polyfills from the recipe, with Deno's `URL` and `TextDecoder` in
 * place of Expo's.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import { createContext, runInContext } from "node:vm";
import { assertEquals, assertThrows } from "@std/assert";
import type { connect as connectClient } from "../client.ts";
import { bundleClient } from "../examples/shared/site.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

/**
 * The globals of React Native, each a class or function of the host, plus the engine's own globals.
 */
const GLOBALS = {
  console,
  setTimeout,
  clearTimeout,
  setInterval,
  clearInterval,
  setImmediate,
  queueMicrotask,
  Event,
  EventTarget,
  CustomEvent,
  Headers,
  Request,
  Response,
  fetch,
  Blob,
  FormData,
  TextEncoder,
  performance: { now: () => performance.now() },
  navigator: { product: "ReactNative" },
};

/** Removes the built-ins that Hermes lacks, and adds React Native's signals and sockets. */
const SETUP = `
delete Promise.withResolvers;
globalThis.AbortSignal = class AbortSignal extends EventTarget {
  aborted = false;
};
globalThis.AbortController = class AbortController {
  signal = new AbortSignal();
  abort() {
    if (this.signal.aborted) return;
    this.signal.aborted = true;
    this.signal.dispatchEvent(new Event("abort"));
  }
};
`;

/** React Native's sockets do not report their buffered bytes. */
class NativeSocket extends WebSocket {
  override get bufferedAmount(): number {
    return undefined as unknown as number;
  }
}

async function realm(): Promise<{
  run(code: string): unknown;
  readonly connect: typeof connectClient;
}> {
  const bundle = await bundleClient(new URL("../client.ts", import.meta.url));
  const code = bundle.replace(
    /export\s*\{([^}]*)\};?\s*$/,
    (_, names: string) =>
      `globalThis.client={${
        names.split(",").map((name) => name.trim().split(" as ").toReversed().join(":")).join()
      }};`,
  );
  const context = createContext({ ...GLOBALS, WebSocket: NativeSocket });
  const run = (code: string): unknown => runInContext(code, context);
  run(SETUP);
  run(`(() => {${code}})()`);
  return { run, connect: run("(...args) => client.connect(...args)") as typeof connectClient };
}

async function polyfills(): Promise<string> {
  const page = await Deno.readTextFile(new URL("../docs/recipes/react-native.md", import.meta.url));
  const [, code] = page.match(/```js file=polyfills.js ignore\n(.*?)```/s)!;
  return code!.replace(/^import .*$/m, "");
}

Deno.test("connect() lists everything that React Native lacks in one UnsupportedError", async () => {
  const { connect } = await realm();
  const error = assertThrows(() => connect("ws://localhost/")) as Error;
  assertEquals([error.name, error.message], [
    "UnsupportedError",
    "Cannot connect: this runtime has no Promise.withResolvers, URL, " +
    "AbortSignal.prototype.throwIfAborted, TextDecoder, crypto.getRandomValues",
  ]);
});

Deno.test("The client on React Native connects, sends a request, recovers a topic, and wakes up", async () => {
  await using server = listen({
    webTransport: false,
    authorize: () => true,
    history: { news: {} },
    requests: { double: ({ data }) => 2 * Number(data), count: countTo },
  });
  const { run, connect } = await realm();
  Object.assign(run("globalThis") as object, {
    URL,
    URLSearchParams,
    TextDecoder,
    getRandomValues: crypto.getRandomValues.bind(crypto),
  });
  run(await polyfills());
  let wake: (() => void) | undefined;
  const client = connect(server.url, {
    backoff: { firstDelayMs: 60_000, maxDelayMs: 60_000 },
    life: {
      subscribe(listener) {
        wake = listener;
        return () => wake = undefined;
      },
    },
  });
  assertEquals(await soon(client.request("double", 21)), 42);
  const items: unknown[] = [];
  for await (const item of client.requestStream("count", 3)) items.push(item);
  assertEquals(items, [0, 1, 2]);
  const news = client.subscribe("news");
  await soon(news.ready);
  const seen: unknown[] = [];
  void (async () => {
    for await (const { data } of news) seen.push(data);
  })();
  await server.topics.append("news", "a");
  await until(() => seen.length === 1);
  for (const session of server.manager.all()) void session.close({ code: 4000 });
  await until(() => client.status.current.name === "reconnecting");
  await server.topics.append("news", "b");
  wake!();
  await until(() => seen.length === 2);
  assertEquals(seen, ["a", "b"]);
  await client.close();
  assertEquals(wake, undefined);
});

async function* countTo({ data }: { readonly data: unknown }): AsyncGenerator<number> {
  for (let n = 0; n < Number(data); n++) yield n;
}
