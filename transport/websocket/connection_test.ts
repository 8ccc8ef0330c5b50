import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ConnectionError, TimeoutError } from "../../errors.ts";
import type { Multiplexer } from "../qmux/multiplexer.ts";
import { type StreamsPart, WebSocketConnection, type WebSocketLike } from "./connection.ts";
import type { Frame } from "../connection.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** An open client socket. The test plays the peer. */
class Peer extends EventTarget implements WebSocketLike {
  binaryType: BinaryType = "blob";
  readonly bufferedAmount = 0;
  readonly protocol = "skein.1";
  readyState = 1;
  closed: readonly unknown[] | undefined = undefined;
  close(...args: unknown[]): void {
    this.readyState = 2;
    this.closed = args;
  }
  send(): void {}
  /** Replies to a close. */
  respond(): void {
    this.dispatchEvent(new CloseEvent("close", { code: 1000, wasClean: true }));
  }
  say(data: string | Uint8Array<ArrayBuffer>): void {
    this.dispatchEvent(
      new MessageEvent("message", { data: typeof data === "string" ? data : data.buffer }),
    );
  }
}

/** A loaded multiplexer that records its input, and has one stream of each kind. */
class Loaded implements Multiplexer {
  readonly received: number[] = [];
  readonly granted: unknown[] = [];
  readonly sent: Uint8Array[] = [];
  ended: readonly [Error, boolean] | undefined = undefined;
  readonly inspect = {
    counters: undefined,
    credit: {
      state: () => ({ granted: 1, received: 0, allowed: 0, sent: 0, waiting: 0 }),
      grant: (...args: unknown[]) => void this.granted.push(args),
    },
  };
  readonly datagrams = {
    readable: ReadableStream.from([Uint8Array.of(1), Uint8Array.of(2)]),
    writable: new WritableStream<Uint8Array>({ write: (bytes) => void this.sent.push(bytes) }),
    maxDatagramSize: 7,
  };
  readonly incomingBidirectionalStreams = new ReadableStream<never>({
    start: (controller) => controller.close(),
  });
  readonly incomingUnidirectionalStreams = ReadableStream.from([new ReadableStream<Uint8Array>()]);
  createBidirectionalStream(): Promise<never> {
    return Promise.reject(new Error("bidirectional"));
  }
  createUnidirectionalStream(): Promise<WritableStream<Uint8Array>> {
    return Promise.resolve(new WritableStream());
  }
  receive(record: Uint8Array): void {
    this.received.push(record[0]!);
  }
  end(error: Error, isBroken: boolean): void {
    this.ended = [error, isBroken];
  }
}

/** Creates a connection whose code for streams loads when the test decides. */
function late(): {
  connection: WebSocketConnection;
  peer: Peer;
  loaded: Loaded;
  loads: PromiseWithResolvers<StreamsPart>[];
  load: () => void;
} {
  const peer = new Peer();
  const loaded = new Loaded();
  const loads: PromiseWithResolvers<StreamsPart>[] = [];
  const connection = new WebSocketConnection(peer, {
    runtime: platformRuntime(),
    loadStreams: () => {
      const loading = Promise.withResolvers<StreamsPart>();
      loads.push(loading);
      return loading.promise;
    },
  });
  const withStreams = () => connection;
  const load = () => loads[0]!.resolve({ openStreams: () => loaded, withStreams });
  return { connection, peer, loaded, loads, load };
}

Deno.test("WebSocketConnection does not load the code for streams before it is needed", () => {
  const { connection, loads, peer } = late();
  const frames: Frame[] = [];
  connection.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  peer.say("text");
  peer.say(Uint8Array.of(0x40, 0x53, 1));
  assertEquals(frames, ["text", Uint8Array.of(0x40, 0x53, 1)]);
  const { capabilities, counters, credit, datagrams } = connection;
  assertEquals([capabilities.streams, counters], [true, undefined]);
  const nothing = { granted: 0, received: 0, allowed: 0, sent: 0, waiting: 0 };
  assertEquals(credit!.state("data"), nothing);
  assertEquals(datagrams.maxDatagramSize > 0, true);
  assertEquals(connection.datagrams, datagrams);
  const { incomingBidirectionalStreams } = connection;
  assertEquals(connection.incomingBidirectionalStreams, incomingBidirectionalStreams);
  connection.observe(() => {});
  assertEquals(loads.length, 0);
});

Deno.test("WebSocketConnection delivers in order the records that arrived before streams were loaded", async () => {
  const { connection, peer, loaded, loads, load } = late();
  const frames: Frame[] = [];
  connection.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  for (const byte of [1, 2, 3]) {
    peer.say(Uint8Array.of(byte));
    peer.say(`after ${byte}`);
  }
  assertEquals([loads.length, loaded.received], [1, []]);
  load();
  await connection.createUnidirectionalStream();
  peer.say(Uint8Array.of(4));
  assertEquals([loads.length, loaded.received], [1, [1, 2, 3, 4]]);
  assertEquals(frames, ["after 1", "after 2", "after 3"]);
  assertEquals((await connection.getStats()).framesReceived, 3);
});

Deno.test("WebSocketConnection closes when too many records arrive before streams are loaded", () => {
  const { peer } = late();
  peer.say(new Uint8Array(65_536));
  assertEquals(peer.closed, undefined);
  peer.say(new Uint8Array(1));
  assertEquals(peer.closed, [4507, "Too many frames arrived before a receiver was set"]);
  // No further bytes are held after the overflow.
  peer.say(new Uint8Array(1));
  peer.respond();
});

Deno.test("WebSocketConnection opens and reads streams, and carries datagrams, once they are loaded", async () => {
  const { connection, loaded, load } = late();
  const opening = connection.createUnidirectionalStream();
  const failing = assertRejects(
    () => connection.createBidirectionalStream(),
    Error,
    "bidirectional",
  );
  const incoming = Array.fromAsync(connection.incomingUnidirectionalStreams);
  const none = Array.fromAsync(connection.incomingBidirectionalStreams);
  const { readable, writable } = connection.datagrams;
  const writing = writable.getWriter().write(Uint8Array.of(9));
  load();
  assertInstanceOf(await opening, WritableStream);
  await failing;
  await writing;
  assertEquals((await incoming).length, 1);
  assertEquals(await none, []);
  assertEquals(await Array.fromAsync(readable), [Uint8Array.of(1), Uint8Array.of(2)]);
  assertEquals(loaded.sent, [Uint8Array.of(9)]);
});

Deno.test("WebSocketConnection reuses its loaded part for later callers", async () => {
  const { connection, peer, loaded, load } = late();
  const credit = connection.credit!;
  credit.grant("data", 5);
  load();
  await connection.createUnidirectionalStream();
  assertEquals(loaded.granted, [["data", 5]]);
  assertEquals(connection.datagrams, loaded.datagrams);
  assertEquals(connection.credit, loaded.inspect.credit);
  assertEquals(credit.state("data"), loaded.inspect.credit.state());
  assertEquals(connection.incomingBidirectionalStreams, loaded.incomingBidirectionalStreams);
  connection.close();
  assertEquals(loaded.ended?.[1], false);
  peer.respond();
});

Deno.test("WebSocketConnection notices within a tenth of a second that a full socket has room", async () => {
  using time = new FakeTime();
  const { connection, peer } = late();
  for (let round = 0; round < 2; round++) {
    Object.assign(peer, { bufferedAmount: 10_000_000 });
    let isDrained = false;
    const drained = connection.frames!.drained().then(() => isDrained = true);
    await time.tickAsync(3_600_000);
    assertEquals(isDrained, false);
    Object.assign(peer, { bufferedAmount: 0 });
    await time.tickAsync(100);
    assertEquals(isDrained, true);
    await drained;
  }
});

Deno.test("WebSocketConnection rejects waiting calls when streams fail to load, and messages continue", async () => {
  const { connection, peer, loads } = late();
  const frames: Frame[] = [];
  connection.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
  peer.say(Uint8Array.of(1));
  const opening = connection.createUnidirectionalStream();
  const reading = connection.incomingUnidirectionalStreams.getReader().read();
  const writing = connection.datagrams.writable.getWriter().write(Uint8Array.of(1));
  const error = new ConnectionError("Cannot load streams");
  loads[0]!.reject(error);
  for (const waiting of [opening, reading, writing]) {
    assertEquals(await assertRejects((): Promise<unknown> => waiting), error);
  }
  peer.say(Uint8Array.of(2));
  peer.say("still here");
  assertEquals(frames, ["still here"]);
  assertEquals(peer.closed, undefined);
});

Deno.test("WebSocketConnection stops waiting for streams after a timeout and on a signal", async () => {
  const { connection } = late();
  await assertRejects(() => connection.createUnidirectionalStream({ timeoutMs: 1 }), TimeoutError);
  const cause = new Error("changed my mind");
  const signal = AbortSignal.abort(cause);
  const error = await assertRejects(() => connection.createBidirectionalStream({ signal }));
  assertEquals(error, cause);
});

for (const isBroken of [false, true]) {
  Deno.test(`WebSocketConnection ends streams that load after it ${isBroken ? "broke" : "closed"}`, async () => {
    const { connection, peer, loaded, load } = late();
    const reading = connection.incomingBidirectionalStreams.getReader().read();
    const opening = connection.createUnidirectionalStream();
    const code = isBroken ? 1006 : 1000;
    peer.dispatchEvent(new CloseEvent("close", { code, wasClean: !isBroken }));
    load();
    await opening;
    await reading;
    assertInstanceOf(loaded.ended?.[0], ConnectionError);
    assertEquals(loaded.ended?.[1], isBroken);
  });
}
