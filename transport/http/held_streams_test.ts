/**
 * Tests sessions over HTTP behind proxies that let the start of an event stream pass and hold back
 * the rest, and on networks that are only slow.
 *
 * @module
 */
import { assertEquals, assertGreater, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { connectBy, type MakePlatform } from "../../client/connect.ts";
import { denoPlatform } from "../../client/deno.ts";
import { type Client, ConnectionError, platformRuntime } from "../../mod.ts";
import { createServer, type Server, type ServerOptions } from "../../server.ts";
import type { Connection } from "../mod.ts";
import type { HttpPath } from "./client.ts";
import { MAX_UNACKNOWLEDGED_BYTES } from "./server.ts";
import { fallBackToHttp } from "../race/http_fallback.ts";
import { withLastResort } from "../race/last_resort.ts";
import { checkTransports } from "../race/options.ts";
import { fetchFrom, HttpEnds, type HttpEndsOptions } from "../../tests/pairs/http.ts";
import { passTime, until } from "../../tests/waiting.ts";

type Proxy = NonNullable<HttpEndsOptions["proxy"]>;

/** Passes on the pieces of an event stream. */
type PassOn = (piece: Uint8Array, pass: (piece: Uint8Array) => void) => void | Promise<void>;

/** Creates a proxy that passes on each event stream by new rules, and polls as they are. */
function onStreams(rules: () => PassOn): Proxy {
  return async (request, serve) => {
    const response = await serve(request);
    const isStream = request.method === "GET" && !response.headers.has("content-length");
    if (!isStream || response.body === null) return response;
    const passOn = rules();
    const body = response.body.pipeThrough(
      new TransformStream<Uint8Array, Uint8Array>({
        transform: (piece, controller) => passOn(piece, (part) => controller.enqueue(part)),
      }),
    );
    return new Response(body, response);
  };
}

/** Passes on the first bytes only. */
function firstBytes(max: number): () => PassOn {
  return () => {
    let left = max;
    return (piece, pass) => {
      if (left > 0) pass(piece.subarray(0, left));
      left -= piece.length;
    };
  };
}

const HOLDING: Readonly<Record<string, () => PassOn>> = {
  "all pieces after the first": () => {
    let count = 0;
    return (piece, pass) => count++ === 0 ? pass(piece) : undefined;
  },
  "each piece until the next": () => {
    let last: Uint8Array | undefined;
    return (piece, pass) => {
      if (last !== undefined) pass(last);
      last = piece;
    };
  },
  "all bytes after the first 40": firstBytes(40),
  "all bytes after the first 300": firstBytes(300),
};

const PADDING = "x".repeat(150);

/** More events than pass in the three streams after which a client gives up. */
const COUNT = 7;

/** Opens a connection through a proxy in this process. */
async function open(proxy: Proxy, time: FakeTime) {
  const requests = { stream: 0, poll: 0, post: 0 };
  const ends = new HttpEnds({
    proxy(request, serve) {
      const kind = request.headers.has("skein-poll") ? "poll" : "stream";
      requests[request.method === "GET" ? kind : "post"]++;
      return proxy(request, serve);
    },
  });
  const path: HttpPath = { polls: false };
  const runtime = platformRuntime();
  runtime.monotonic = () => Date.now(); // Fake, too.
  const opening = ends.open({ runtime, fetch: ends.fetch, path });
  await passTime(time, 3_100);
  const { client, server } = await opening;
  return { ends, client, server, path, requests, frames: received(client) };
}

/** Collects the frames of a connection. */
function received({ frames }: Connection): unknown[] {
  const all: unknown[] = [];
  frames!.receive({ receiveFrame: (frame) => void all.push(frame), framesEnded() {} });
  return all;
}

for (const [what, rules] of Object.entries(HOLDING)) {
  Deno.test(`A client over HTTP polls if a proxy holds back ${what}`, async () => {
    using time = new FakeTime();
    const { client, server, path, frames, ...opened } = await open(onStreams(rules), time);
    await using _ends = opened.ends;
    received(server);
    for (let i = 0; i < COUNT; i++) {
      client.frames!.send(`${i}`);
      await passTime(time, 10);
      server.frames!.send(`${i} ${PADDING}`);
      await passTime(time, 2_990);
      // Only a post that follows tells the client that the event was written.
      client.frames!.send("and");
      await passTime(time, 3_100);
      assertGreater(frames.length, i);
    }
    const sent = Array.from({ length: COUNT }, (_, i) => `${i} ${PADDING}`);
    assertEquals([frames, path.polls], [sent, true]);
    // The client has given up on streams for this network.
    const { stream } = opened.requests;
    server.frames!.send("last");
    await passTime(time, 10);
    assertEquals([frames.at(-1), opened.requests.stream], ["last", stream]);
    client.close();
    await passTime(time, 100);
  });
}

Deno.test("A client over HTTP ends its responses itself, because fetch may forget the signal", async () => {
  using time = new FakeTime();
  let [isHeld, cancelled] = [false, 0];
  const gets: string[] = [];
  const ends = new HttpEnds({
    proxy: async (request, serve) => {
      const response = await serve(request);
      if (request.method !== "GET") return response;
      gets.push(request.headers.has("skein-poll") ? "poll" : "stream");
      const stalled = () => new Promise<void>(() => {});
      const reader = response.body!.getReader();
      const body = new ReadableStream<Uint8Array>({
        async pull(controller) {
          const { value } = await reader.read();
          if (isHeld) return await stalled();
          controller.enqueue(value!);
        },
        cancel(reason) {
          cancelled++;
          return reader.cancel(reason);
        },
      });
      return new Response(body, response);
    },
  });
  await using _ends = ends;
  const runtime = platformRuntime();
  runtime.monotonic = () => Date.now(); // Fake, too.
  // As in Deno, after the response has been collected as garbage.
  const forgetful: typeof fetch = (input, init) => ends.fetch(input, { ...init, signal: null });
  const open = () => ends.open({ runtime, fetch: forgetful });
  const lost = await open();
  lost.client.terminate!();
  await passTime(time, 10);
  assertEquals([gets.splice(0), cancelled], [["stream"], 1]);
  const { client, server } = await open();
  received(server);
  isHeld = true;
  server.frames!.send("held");
  client.frames!.send("and");
  await passTime(time, 3_100);
  assertEquals([gets, cancelled], [["stream", "poll"], 2]);
  // The rest of a response to a poll may be late, too.
  await passTime(time, 41_000);
  assertEquals([gets, cancelled], [["stream", "poll", "poll"], 3]);
  client.terminate!();
  await passTime(time, 10_000);
});

Deno.test("A client over HTTP requests streams slowly while a proxy cuts each of them", async () => {
  using time = new FakeTime();
  let streams = 0;
  const ends = new HttpEnds({
    proxy: async (request, serve) => {
      const response = await serve(request);
      if (request.method !== "GET" || streams++ === 0) return response;
      await response.body!.cancel();
      return new Response("", response);
    },
  });
  await using _ends = ends;
  const runtime = platformRuntime();
  runtime.monotonic = () => Date.now(); // Fake, too.
  const { client, server } = await ends.open({
    runtime,
    fetch: async (input, init) => {
      const response = await ends.fetch(input, init);
      if (streams > 1) return response;
      // The first stream delivers its first event, and ends.
      const { value } = await response.body!.getReader().read();
      return new Response(value, response);
    },
  });
  received(server);
  await passTime(time, 60_000);
  const before = streams;
  await passTime(time, 60_000);
  assertGreater(120, streams - before); // The delays are random, of 2 s on average.
  client.terminate!();
  await passTime(time, 40_000);
});

Deno.test("A client over HTTP returns to event streams if few of them are held", async () => {
  using time = new FakeTime();
  let [streams, held] = [0, 0];
  const proxy = onStreams(() => {
    const number = ++streams;
    return (piece, pass) => number === held ? undefined : pass(piece);
  });
  const { client, server, path, frames, requests, ends } = await open(proxy, time);
  await using _ends = ends;
  received(server);
  for (let i = 0; i < 5; i++) {
    server.frames!.send("before");
    await passTime(time, 25_000);
    held = streams;
    server.frames!.send("held");
    client.frames!.send("and");
    await passTime(time, 3_100);
    await passTime(time, 25_000);
    assertEquals(frames.length, 2 * (i + 1));
  }
  assertEquals([path, requests.stream], [{ polls: false, chances: 1 }, 6]);
  client.close();
  await passTime(time, 100);
});

const SLOW: Readonly<Record<string, { readonly rules: () => PassOn; readonly postMs: number }>> = {
  "delivers bytes every 2 s": { rules: () => slowly(2_000), postMs: 0 },
  "needs 7 s for each piece and 2 s for each request": {
    rules: () => slowly(7_000),
    postMs: 2_000,
  },
};

/** Passes on each piece after a delay. */
function slowly(ms: number): PassOn {
  return async (piece, pass) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    pass(piece);
  };
}

for (const [what, { rules, postMs }] of Object.entries(SLOW)) {
  Deno.test(`A client over HTTP does not poll on a slow network that ${what}`, async () => {
    using time = new FakeTime();
    let isSlow = false;
    const slow = onStreams(() => {
      const passOn = rules();
      return (piece, pass) => isSlow ? passOn(piece, pass) : pass(piece);
    });
    const { client, server, requests, frames, ends } = await open(async (request, serve) => {
      const response = await slow(request, serve);
      if (isSlow && request.method === "POST") {
        await new Promise((resolve) => setTimeout(resolve, postMs));
      }
      return response;
    }, time);
    await using _ends = ends;
    received(server);
    server.frames!.send("first");
    await passTime(time, 100);
    isSlow = true;
    for (let i = 0; i < 5; i++) {
      server.frames!.send("x".repeat(30_000));
      client.frames!.send("and");
      await passTime(time, 3_000);
    }
    await passTime(time, 40_000);
    assertEquals([frames.length, requests.stream, requests.poll], [6, 1, 0]);
    client.close();
    await passTime(time, 10_000);
  });
}

Deno.test("A client over HTTP does not poll while the server waits for acknowledgments", async () => {
  using time = new FakeTime();
  let isLost = true;
  const { client, server, requests, frames, ends } = await open((request, serve) => {
    const headers = new Headers(request.headers);
    if (isLost && request.method === "POST") headers.set("last-event-id", "0");
    return serve(new Request(request, { headers }));
  }, time);
  await using _ends = ends;
  received(server);
  const count = 2 * MAX_UNACKNOWLEDGED_BYTES / 32_768;
  for (let i = 0; i < count; i++) server.frames!.send("x".repeat(32_768));
  for (let i = 0; i < 5; i++) {
    client.frames!.send("and");
    await passTime(time, 1_000);
  }
  assertEquals(frames.length, count / 2);
  isLost = false;
  client.frames!.send("and");
  await passTime(time, 1_000);
  assertEquals([frames.length, requests.stream, requests.poll], [count, 1, 0]);
  client.close();
  await passTime(time, 100);
});

/** The requests of a client that can only use HTTP, without a network. */
interface Page {
  readonly client: Client;
  readonly server: Server;
  /** The kind of each GET request, in order. */
  readonly gets: string[];
}

function page(
  { proxy = (request, serve) => serve(request), token, ...serving }: ServerOptions & {
    readonly proxy?: Proxy;
    readonly token?: string;
  },
): Page {
  const server = createServer(serving);
  const gets: string[] = [];
  const send = fetchFrom((request) => {
    const kind = request.headers.has("skein-poll") ? "poll" : "stream";
    if (request.method === "GET") gets.push(kind);
    return proxy(request, async (request) => await server.fetch(request));
  });
  const load = () =>
    Promise.resolve({
      fallBackToHttp: (...[dial, options]: Parameters<typeof fallBackToHttp>) =>
        fallBackToHttp(dial, options, { fetch: send }),
    });
  const platform: MakePlatform = (options) => {
    const none = () => Promise.reject(new Error("None"));
    return denoPlatform(withLastResort(none, checkTransports(options), load));
  };
  const client = connectBy(platform, "http://chat.example/", {
    transports: ["http"],
    ...(token && { token }),
  });
  return { client, server, gets };
}

async function close(time: FakeTime, client: Client, server: Server): Promise<void> {
  const closed = Promise.all([client.close(), server.close()]);
  await passTime(time, 10_000);
  await closed;
}

/** Lets `authenticate` take 8 s. */
class Slow {
  readonly #asked = Promise.withResolvers<void>();

  readonly authenticate = async (): Promise<string> => {
    this.#asked.resolve();
    await new Promise((resolve) => setTimeout(resolve, 8_000));
    return "ann";
  };

  /** Resolves once the server has asked, which takes real time and no fake time. */
  get asked(): Promise<void> {
    return this.#asked.promise;
  }
}

/** Waits until the client is connected, in real time. */
async function connects({ status }: Client): Promise<void> {
  await until(() => status.current.name === "connected");
}

Deno.test("A session over HTTP whose token takes 8 s to check opens on its event stream", async () => {
  using time = new FakeTime();
  const slow = new Slow();
  const { client, server, gets } = page({
    authenticate: slow.authenticate,
    tokens: { inMessage: true },
    token: "secret",
  });
  await slow.asked;
  await passTime(time, 7_900);
  assertEquals([client.session?.id, gets], [undefined, ["stream"]]);
  await passTime(time, 100);
  await connects(client);
  assertEquals(gets, ["stream"]);
  await passTime(time, 10_000);
  assertEquals(gets, ["stream"]);
  await close(time, client, server);
});

Deno.test("A session over HTTP whose request takes 8 s to check opens on its event stream", async () => {
  using time = new FakeTime();
  const slow = new Slow();
  const { client, server, gets } = page({ authenticate: slow.authenticate });
  await slow.asked;
  await passTime(time, 8_000);
  await connects(client);
  // The response was late, but it arrived before the response to a poll.
  assertEquals(gets, ["stream", "poll"]);
  await passTime(time, 10_000);
  assertEquals(gets, ["stream", "poll"]);
  await close(time, client, server);
});

Deno.test("A client over HTTP ends the session of the slower of its two first requests", async () => {
  using time = new FakeTime();
  const isChecked = Promise.withResolvers<string>();
  const { client, server, gets } = page({ authenticate: () => isChecked.promise });
  await passTime(time, 4_000);
  assertEquals(gets, ["stream", "poll"]);
  isChecked.resolve("ann");
  await passTime(time, 1_000);
  assertEquals(server.manager.all().map(({ id }) => id), [client.session!.id]);
  await close(time, client, server);
});

Deno.test("A session over HTTP opens although the server has no room for a second request", async () => {
  using time = new FakeTime();
  const slow = new Slow();
  const { client, server, gets } = page({
    authenticate: slow.authenticate,
    proxy: (request, serve) =>
      gets.length === 2
        ? new Response(null, { status: 429, headers: { "skein-transport": "http" } })
        : serve(request),
  });
  await slow.asked;
  await passTime(time, 8_000);
  await connects(client);
  assertEquals(gets, ["stream", "poll"]);
  await close(time, client, server);
});

Deno.test("A client over HTTP reports why its poll failed if its event stream is held", async () => {
  using time = new FakeTime();
  const ends = new HttpEnds({
    proxy: (request) =>
      request.headers.has("skein-poll")
        ? Response.json({ detail: "No room" }, {
          status: 429,
          headers: { "skein-transport": "http" },
        })
        : new Promise<never>(() => {}),
  });
  await using _ends = ends;
  const opening = assertRejects(
    () => ends.open({ fetch: ends.fetch }),
    ConnectionError,
    "No room",
  );
  await passTime(time, 10_100);
  await opening;
});

for (const [what, rules] of Object.entries(HOLDING)) {
  for (const token of ["secret", undefined]) {
    const who = token === undefined ? "without a token" : "with a token";
    Deno.test(`A session over HTTP ${who} opens if a proxy holds back ${what}`, async () => {
      using time = new FakeTime();
      const { client, server, gets } = page({
        proxy: onStreams(rules),
        authenticate: () => "ann",
        onMessage: (message) => message.reply(message.data),
        ...(token && { token, tokens: { inMessage: true } }),
      });
      await passTime(time, 7_000);
      assertEquals(client.status.current.name, "connected");
      const replies: unknown[] = [];
      for (let i = 0; i < 5; i++) {
        void client.request("echo", i).then((reply) => replies.push(reply));
        await passTime(time, 6_000);
        assertEquals(replies.length, i + 1);
      }
      assertEquals(gets.at(-1), "poll");
      await close(time, client, server);
    });
  }
}
