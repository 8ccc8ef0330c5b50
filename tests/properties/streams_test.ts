/** Streams and datagrams: all bytes, ends and resets, and credit given back. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import type { Client } from "../../client/client.ts";
import { CloseCode, StreamError } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import type { OpenStreamOptions } from "../../transport/connection.ts";
import { type Drawn, keyOf } from "./draw.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Credit of both ends; each stream of a case needs more than its own. */
const CREDIT = {
  maxData: 16_384,
  maxStreamData: 4_096,
  maxStreamsBidi: 4,
  maxStreamsUni: 2,
} as const;

/** Bytes of each stream, and of each write. */
const [STREAM_BYTES, WRITE_BYTES] = [9_000, 3_000] as const;

/** Most streams at once, beyond the credit of both kinds. */
const MOST = 6;

/** Time after which an opening without credit gives up, in milliseconds. */
const GIVES_UP_MS = 100;

/** Bytes without a short period. */
const PATTERN = Uint8Array.from(
  { length: STREAM_BYTES + MOST },
  (_, i) => (i * 7 + (i >> 8)) & 255,
);

type ClientSession = NonNullable<Client["session"]>;

/** Calls of one kind, all at once. */
const step = fc.record({
  kind: fc.constantFrom(
    "echo",
    "push",
    "a handler that fails",
    "openings without credit",
    "datagrams",
  ),
  count: fc.integer({ min: 1, max: MOST }),
});

type Step = Drawn<typeof step>;

property("streams of both sides and datagrams transfer all bytes under little credit", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    steps: fc.array(step, { minLength: 1, maxLength: 6 }),
  }),
  async check(world, { transport, steps }) {
    let fails = false;
    const { server, host } = world.serve("server", () => ({
      flowControl: CREDIT,
      async onStream(stream) {
        if (fails) throw new Error("as planned");
        if (stream.direction === "unidirectional") return void await bytesOf(stream.readable);
        await stream.readable.pipeTo(stream.writable).catch(() => {});
      },
      requests: {
        push: async ({ data }: { readonly data: unknown }, session: Session) => {
          await Promise.all(
            payloads(Number(data)).map(async (payload) =>
              await write(await session.createUnidirectionalStream(), payload)
            ),
          );
        },
      } as never,
      onOpen: ({ datagrams }) => void datagrams.readable.pipeTo(datagrams.writable).catch(() => {}),
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports: transport === "websocket" ? [transport] : [transport, "websocket"],
      flowControl: CREDIT,
    });
    const { near, far } = await world.meet(client, server);
    assertEquals(near.transport, transport);
    for (const { kind, count } of steps) {
      fails = kind === "a handler that fails";
      const running = play(world, client, { kind, count });
      const [expected, received] = await world.inTime(kind, running);
      assertEquals(received, expected, kind);
    }
    await world.pause(200);
    const { streams, credit } = server.manager.stats();
    assertEquals([streams.active, credit.waiting], [0, 0], "streams and calls without credit");
    assertEquals([near.stats.activeStreams, far.stats.activeStreams], [0, 0]);
  },
});

/** Plays a step; resolves with the expected and the received outcomes. */
async function play(
  world: World,
  client: Client,
  { kind, count }: Step,
): Promise<[readonly unknown[], readonly unknown[]]> {
  const session = client.session!;
  const all = payloads(count);
  const { resetCodes } = session.connection.capabilities;
  // The QUIC of the runtime can't reset a stream: the peer sees an end.
  const failed = resetCodes ? CloseCode.handlerFailed : "an end";
  const each = (run: (payload: Uint8Array<ArrayBuffer>) => Promise<unknown>) =>
    Promise.all(all.map(run));
  switch (kind) {
    case "echo":
      return [all.map(hashOf), await each((payload) => echo(session, payload))];
    case "push":
      return [all.map(hashOf).sort(), (await pushed(client, count)).sort()];
    case "a handler that fails": {
      const received = await each((payload) => endOf(echo(session, payload)));
      return [all.map(() => failed), received];
    }
    case "openings without credit":
      // Only this transport counts the openings itself.
      return session.transport === "websocket" ? await openings(world, session, count) : [[], []];
    case "datagrams":
      return await datagrams(world, session, count);
  }
}

/** The bytes of streams, all different. */
function payloads(count: number): Uint8Array<ArrayBuffer>[] {
  return Array.from({ length: count }, (_, i) => PATTERN.slice(i, i + STREAM_BYTES));
}

/** The length and a sum of bytes, which tells two payloads apart. */
function hashOf(bytes: Uint8Array): string {
  return `${bytes.length}:${bytes.reduce((sum, byte) => (sum * 31 + byte) >>> 0, 7)}`;
}

async function write(
  stream: WritableStream<Uint8Array<ArrayBuffer>>,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const writer = stream.getWriter();
  for (let at = 0; at < bytes.length; at += WRITE_BYTES) {
    await writer.write(bytes.slice(at, at + WRITE_BYTES));
  }
  await writer.close();
}

async function bytesOf(readable: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return concat(await Array.fromAsync(readable));
}

async function echo(session: ClientSession, bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const { readable, writable } = await session.createBidirectionalStream();
  const writing = write(writable as never, bytes).catch(() => {});
  const hash = hashOf(await bytesOf(readable));
  await writing;
  return hash;
}

/** Takes the streams that the server pushes. */
async function pushed(client: Client, count: number): Promise<string[]> {
  const asked = client.request("push", count);
  const texts: Promise<string>[] = [];
  for await (const { readable } of client.session!.incomingStreams()) {
    texts.push(bytesOf(readable).then(hashOf));
    if (texts.length === count) break;
  }
  await asked;
  return await Promise.all(texts);
}

/** Tells how a stream ended: by an end, or a reset with a code. */
async function endOf(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => "an end",
    (error) => error instanceof StreamError ? error.streamErrorCode : `${error}`,
  );
}

/** Opens streams while others have all credit: until there is credit, for a time, or until a signal. */
async function openings(
  world: World,
  session: ClientSession,
  count: number,
): Promise<[string[], string[]]> {
  const create = (options?: OpenStreamOptions) => session.createBidirectionalStream(options);
  const end = async ({ readable, writable }: Awaited<ReturnType<typeof create>>) => {
    await writable.close();
    await bytesOf(readable);
  };
  const held = await Promise.all(Array.from({ length: CREDIT.maxStreamsBidi }, () => create()));
  const kinds = payloads(count).map((_, i) => (["opens", "times out", "aborts"] as const)[i % 3]!);
  const outcomes = kinds.map((kind) => {
    const stop = new AbortController();
    if (kind === "aborts") void world.pause(GIVES_UP_MS / 2).then(() => stop.abort());
    const timeoutMs = kind === "times out" ? GIVES_UP_MS : undefined;
    return outcomeOf(create({ signal: stop.signal, timeoutMs }).then(end));
  });
  await world.pause(1.5 * GIVES_UP_MS);
  await Promise.all(held.map(end));
  const expected = { opens: "fulfilled", "times out": "TimeoutError", aborts: "AbortError" };
  return [kinds.map((kind) => expected[kind]), await Promise.all(outcomes)];
}

/** Sends numbered datagrams and receives them again; then the largest one, and a larger one. */
async function datagrams(
  world: World,
  session: ClientSession,
  count: number,
): Promise<[unknown[], unknown[]]> {
  const writer = session.datagrams.writable.getWriter();
  const reader = session.datagrams.readable.getReader();
  const got: unknown[] = [];
  for (let number = 0; number < count; number++) {
    await writer.write(Uint8Array.of(number));
    got.push((await reader.read()).value?.[0]);
    await world.pause(5);
  }
  writer.releaseLock();
  const { maxDatagramSize } = session.datagrams;
  for (const size of [maxDatagramSize, maxDatagramSize + 1]) {
    const sending = Promise.try(() => session.sendDatagram(new Uint8Array(size)));
    got.push(await outcomeOf(sending.then(() => {})));
  }
  got.push((await reader.read()).value?.length);
  reader.releaseLock();
  const numbers = payloads(count).map((_, i) => i);
  return [[...numbers, "fulfilled", "RangeError", maxDatagramSize], got];
}

/** Calls that open or accept streams and datagrams, and end with the session. */
const CALLS = {
  "open a stream": async (session: Session | ClientSession) =>
    await bytesOf((await session.createBidirectionalStream()).readable as never),
  "open a stream of one direction": async (session: Session | ClientSession) =>
    await (await session.createUnidirectionalStream()).getWriter().closed,
  "accept streams": (session: Session | ClientSession) =>
    Array.fromAsync<unknown>(session.incomingStreams()),
  "receive datagrams": async (session: Session | ClientSession) =>
    await Array.fromAsync(session.datagrams.readable),
} as const;

property("each call that opens or accepts streams has an outcome once its session ends", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    isServer: fc.boolean(),
    calls: fc.array(keyOf(CALLS)),
    end: fc.constantFrom("this side closes", "the other side closes", "a cut", "a silent cut"),
    code: fc.constantFrom(CloseCode.normal, 3_000, 4_000),
    /** Time of the client to load the code of streams. */
    loadMs: fc.constantFrom(0, 5, 100),
    /** Steps of promises, then milliseconds, between the calls and the end. */
    steps: fc.nat(6),
    pauseMs: fc.constantFrom(0, 1, 4),
  }),
  async check(world, { transport, isServer, calls, end, code, loadMs, steps, pauseMs }) {
    const { server, host } = world.serve("server", () => ({
      session: { heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 } },
      onStream: (stream) => void ("readable" in stream && outcomeOf(bytesOf(stream.readable))),
      onError() {},
    }));
    const client = world.connect("client", host, {
      transports: transport === "websocket" ? [transport] : [transport, "websocket"],
      onError() {},
    });
    const { near, far } = await world.meet(client, server);
    const [session, other] = isServer ? [far, near] : [near, far];
    const machine = world.host("client");
    // The first stream of a client over WebSocket waits for code to load.
    world.network.slowLoads(machine, loadMs);
    let left = calls.length;
    for (const call of calls) {
      void outcomeOf(Promise.try<unknown, []>(() => CALLS[call](session))).then(() => left--);
    }
    for (let i = 0; i < steps; i++) await Promise.resolve();
    if (pauseMs > 0) await world.pause(pauseMs);
    if (end === "this side closes") void session.close({ code });
    else if (end === "the other side closes") void other.close({ code });
    else world.cut(machine, end === "a silent cut");
    await world.inTime("the end of the session", session.closed);
    await world.until("all outcomes", () => left === 0, 1_000);
  },
});

property("a reader gets what arrived before the end of its session, and then the end", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    isServer: fc.boolean(),
    end: fc.constantFrom("this side closes", "the other side closes", "a cut"),
    /** Streams of each direction, and datagrams. */
    count: fc.nat(CREDIT.maxStreamsUni),
    /** The streams have no end yet. */
    isOpen: fc.boolean(),
    /** The reader begins after the end. */
    isLate: fc.boolean(),
  }),
  async check(world, { transport, isServer, end, count, isOpen, isLate }) {
    const { server, host } = world.serve("server", () => ({ flowControl: CREDIT }));
    const client = world.connect("client", host, {
      transports: [transport],
      flowControl: CREDIT,
    });
    const { near, far } = await world.meet(client, server);
    const [{ connection, closed }, other] = isServer ? [far, near] : [near, far];
    const read = () =>
      Promise.all(
        [
          connection.incomingBidirectionalStreams,
          connection.incomingUnidirectionalStreams,
          connection.datagrams.readable,
        ].map(async (list) => {
          const got: unknown[] = [];
          const outcome = await collect<unknown>(list, (item) => void got.push(item));
          return { got, outcome };
        }),
      );
    const early = isLate ? undefined : read();
    for (let n = 0; n < count; n++) {
      await other.sendDatagram(Uint8Array.of(n));
      const { writable } = await other.createBidirectionalStream();
      for (const stream of [writable, await other.createUnidirectionalStream()]) {
        const writer = stream.getWriter();
        void outcomeOf(writer.closed);
        await writer.write(PATTERN.slice(0, WRITE_BYTES));
        if (!isOpen) await writer.close();
      }
    }
    await world.pause(200);
    if (end === "a cut") world.cut(world.host("client"));
    else void ((end === "this side closes") === isServer ? far : near).close();
    await world.inTime("the end of the session", closed);
    const lists = await world.inTime("the end of all lists", early ?? read(), 1_000);
    for (const { got, outcome } of lists) {
      const isLost = isLate && end === "a cut";
      assertEquals(got.length, isLost ? 0 : count);
      assertEquals(outcome, end === "a cut" ? "ConnectionError" : "fulfilled");
    }
    assertEquals(connection.inspect?.unreadStreams ?? 0, 0);
    // Other transports may drop the bytes of streams with the connection.
    if (transport !== "websocket") return;
    for (const stream of lists.slice(0, 2).flatMap(({ got }) => got)) {
      const { readable = stream } = stream as { readonly readable?: unknown };
      const bytes = bytesOf(readable as ReadableStream<Uint8Array>);
      const received = await bytes.then(({ length }) => length, () => "an error");
      assertEquals(received, isOpen ? "an error" : WRITE_BYTES);
    }
  },
});
