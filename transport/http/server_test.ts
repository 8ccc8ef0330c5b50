import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Signal } from "../../base/signal.ts";
import { ConnectionError } from "../../errors.ts";
import type { Frame } from "../connection.ts";
import { CarrierError, type HttpCarrier, nodeOf, type TakenEvents } from "./carrier.ts";
import { CLOSE_TIMEOUT_MS, LOST_MS, OFTEN_S, SELDOM_LOST_MS } from "./connection.ts";
import { EventReader } from "./events.ts";
import { encodeFrame, joinFrames } from "./frames.ts";
import { HttpConnections, MAX_UNACKNOWLEDGED_BYTES, type ServerHttpConnection } from "./server.ts";

const MAX_FRAME_BYTES = 100_000;

const open = (node?: string) =>
  new HttpConnections({ runtime: platformRuntime(), node, maxFrameBytes: MAX_FRAME_BYTES });

const body = (...frames: Frame[]) => joinFrames(frames.map(encodeFrame));

/** Takes events, as the first call of a GET request does. */
function take(
  carrier: HttpCarrier,
  after: number,
  options: Partial<Parameters<HttpCarrier["take"]>[1]> = {},
): Promise<TakenEvents> {
  const { signal } = new AbortController();
  const first = { reader: `${Math.random()}`, isFirst: true };
  return carrier.take(after, { ...first, waitMs: 0, maxBytes: 1e9, signal, ...options });
}

/** Reads the numbers and frames of events. */
function framesOf({ events }: TakenEvents): [number, Frame][] {
  return new EventReader().read(events).flatMap((event) =>
    event.kind === "frame" ? [[event.number, event.frame]] : []
  );
}

function received(connection: ServerHttpConnection): Frame[] {
  const frames: Frame[] = [];
  connection.receive({ receiveFrame: (frame) => void frames.push(frame), framesEnded() {} });
  return frames;
}

/**
 * Receives the frames of a connection into a queue with a capacity of four. Two frames in the queue
 * pause the connection.
 */
function fillingReceiver(connection: ServerHttpConnection) {
  const frames: Frame[] = [];
  const changes = new Signal();
  let fill = 0;
  connection.receive({
    receiveFrame(frame) {
      frames.push(frame);
      fill += 0.25;
    },
    framesEnded() {},
    backpressure: {
      get fill() {
        return fill;
      },
      changed: () => changes.changed(),
    },
  });
  return {
    frames,
    fillTo(next: number): void {
      fill = next;
      changes.notify();
    },
  };
}

Deno.test("HttpConnections.accept() includes the node in the ID, and creates a secret of 128 bits", () => {
  using alone = open();
  const { session, secret } = alone.accept().opened;
  assertEquals(nodeOf(session), undefined);
  assert(/^[\w-]{22}$/.test(secret));
  using connections = open("node.7");
  assertEquals(nodeOf(connections.accept().opened.session), "node.7");
});

Deno.test("HttpConnections.find() throws for an unknown id and a wrong secret", () => {
  using connections = open();
  const { opened: { session, secret } } = connections.accept();
  const other = connections.accept().opened.secret;
  connections.find(session, secret);
  for (const wrong of ["", other, secret + "A", secret.slice(1)]) {
    const error = assertThrows(() => connections.find(session, wrong), CarrierError);
    assertEquals(error.reason, "forbidden");
  }
  const error = assertThrows(() => connections.find("other", secret), CarrierError);
  assertEquals(error.reason, "unknown");
});

Deno.test("HttpCarrier.take() repeats events until the client has received them", async () => {
  using connections = open();
  const connection = connections.accept();
  for (const frame of ["one", "two", "three"]) connection.send(frame);
  assertEquals(framesOf(await take(connection, 0)), [[1, "one"], [2, "two"], [3, "three"]]);
  assertEquals(framesOf(await take(connection, 0)), [[1, "one"], [2, "two"], [3, "three"]]);
  assertEquals(framesOf(await take(connection, 2)), [[3, "three"]]);
  const error = await assertRejects(() => take(connection, 1), CarrierError);
  assertEquals(error.reason, "malformed");
  await assertRejects(() => take(connection, 9), CarrierError, "from 2 to 3, received 9");
  await connection.give(1, body(), 3);
  assertEquals(framesOf(await take(connection, 3)), []);
});

Deno.test("HttpCarrier.take() serves only the newest GET request", async () => {
  using connections = open();
  const connection = connections.accept();
  const old = take(connection, 0, { reader: "old", waitMs: 60_000 });
  const newer = take(connection, 0, { reader: "new", waitMs: 60_000 });
  assertEquals((await old).state, "replaced");
  connection.send("one");
  assertEquals(framesOf(await newer), [[1, "one"]]);
  const again = await take(connection, 1, { reader: "old", isFirst: false });
  assertEquals(again, { events: "", last: 0, state: "replaced" });
});

Deno.test("HttpCarrier.take() limits the events that the client has not acknowledged", async () => {
  using connections = open();
  const connection = connections.accept();
  const size = MAX_UNACKNOWLEDGED_BYTES / 4;
  for (let i = 0; i < 10; i++) connection.send("x".repeat(size));
  let last = 0;
  const rest = async () => {
    const numbers = [];
    while (true) {
      const taken = await take(connection, last, { reader: "a", isFirst: last === 0, maxBytes: 1 });
      if (taken.events === "") return numbers;
      numbers.push(last = taken.last);
    }
  };
  assertEquals(await rest(), [1, 2, 3, 4]);
  assertEquals(connection.bufferedAmount, 6 * size);
  await connection.give(1, body(), 2);
  assertEquals(await rest(), [5, 6]);
  assertEquals(connection.bufferedAmount, 4 * size);
  // A new request starts after the acknowledged events.
  const taken = await take(connection, 2);
  assertEquals(framesOf(taken).map(([number]) => number), [3, 4, 5, 6]);
});

Deno.test("HttpCarrier.take() waits for events, until a timeout or until its signal aborts", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  const late = take(connection, 0, { waitMs: 25_000 });
  await time.tickAsync(25_000);
  assertEquals(await late, { events: "", last: 0, state: "open" });
  const gone = new AbortController();
  const aborted = take(connection, 0, { waitMs: 25_000, signal: gone.signal });
  gone.abort();
  assertEquals((await aborted).events, "");
});

Deno.test("HttpCarrier.give() accepts each frame once, however often it arrives", async () => {
  using connections = open();
  const connection = connections.accept();
  const frames = received(connection);
  assertEquals(await connection.give(1, body("a", "b"), 0), {
    result: "taken",
    next: 3,
    written: 0,
  });
  assertEquals(await connection.give(1, body("a", "b"), 0), {
    result: "taken",
    next: 3,
    written: 0,
  });
  assertEquals(await connection.give(2, body("b", "c"), 0), {
    result: "taken",
    next: 4,
    written: 0,
  });
  assertEquals(await connection.give(6, body("f"), 0), { result: "hole", next: 4, written: 0 });
  assertEquals(frames, ["a", "b", "c"]);
});

Deno.test("HttpCarrier.give() closes the connection on malformed and on large frames", async () => {
  for (
    const [bytes, result, closeCode] of [
      [Uint8Array.of(9), "malformed", 4400],
      [body(new Uint8Array(MAX_FRAME_BYTES + 1)), "large", 4413],
    ] as const
  ) {
    using connections = open();
    const connection = connections.accept();
    assertEquals((await connection.give(1, bytes, 0)).result, result);
    const { events, state } = await take(connection, 0);
    assert(events.includes(`"code":${closeCode}`), events);
    assertEquals(state, "over");
    assertEquals((await connection.closed).closeCode, closeCode);
  }
});

Deno.test("HttpCarrier.give() waits for a slow receiver, and then requests a retry", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  const receiver = fillingReceiver(connection);
  const given = connection.give(1, body("a", "b", "c", "d"), 0);
  await time.tickAsync(0);
  assertEquals([receiver.frames, connection.isPaused], [["a", "b"], true]);
  // A retry waits too. Another retry is rejected.
  const repeated = connection.give(1, body("a", "b", "c", "d"), 0);
  assertEquals((await connection.give(1, body("a"), 0)).result, "busy");
  await time.tickAsync(10_000);
  assertEquals(await given, { result: "busy", next: 3, written: 0 });
  assertEquals(await repeated, { result: "busy", next: 3, written: 0 });
  const rest = connection.give(3, body("c", "d"), 0);
  receiver.fillTo(0);
  await time.tickAsync(0);
  assertEquals(await rest, { result: "taken", next: 5, written: 0 });
  assertEquals([receiver.frames, connection.isPaused], [["a", "b", "c", "d"], false]);
});

Deno.test("HttpCarrier.give() continues for a retry after the first request ended", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  const receiver = fillingReceiver(connection);
  connection.send("event");
  const first = connection.give(1, body("a", "b", "c", "d"), 0);
  await time.tickAsync(0);
  // The acknowledgment wakes the retry first. The first request then ends.
  const repeated = connection.give(1, body("a", "b", "c", "d", "e"), 1);
  await time.tickAsync(0);
  receiver.fillTo(0.25);
  await time.tickAsync(0);
  assertEquals(await first, { result: "taken", next: 5, written: 1 });
  assertEquals(connection.isPaused, true);
  for (const fill of [0.5, 0.25]) {
    receiver.fillTo(fill);
    await time.tickAsync(0);
  }
  assertEquals(receiver.frames, ["a", "b", "c", "d", "e"]);
  assertEquals([await repeated, connection.isPaused], [
    { result: "taken", next: 6, written: 1 },
    false,
  ]);
});

Deno.test("HttpCarrier.give() keeps reading paused until the client may have retried", async () => {
  using time = new FakeTime();
  const runtime = Object.assign(platformRuntime(), { monotonic: () => time.now });
  using connections = new HttpConnections({ runtime, maxFrameBytes: MAX_FRAME_BYTES });
  const connection = connections.accept();
  const changes = new Signal();
  let fill = 1;
  const backpressure = {
    get fill() {
      return fill;
    },
    changed: () => changes.changed(),
  };
  connection.receive({ receiveFrame() {}, framesEnded() {}, backpressure });
  const given = connection.give(1, body("a"), 0);
  await time.tickAsync(10_000);
  assertEquals((await given).result, "busy");
  fill = 0;
  changes.notify();
  await time.tickAsync(1_000);
  assert(connection.isPaused);
  assertEquals((await connection.give(1, body("a"), 0)).result, "taken");
  assert(!connection.isPaused);
  // A client that does not retry counts as silent.
  fill = 1;
  const late = connection.give(2, body("b"), 0);
  await time.tickAsync(10_000);
  assertEquals((await late).result, "busy");
  fill = 0;
  await time.tickAsync(5_000);
  assert(!connection.isPaused);
});

Deno.test("HttpConnections end a connection without a GET request after 30 s", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  await time.tickAsync(LOST_MS - 1);
  const waiting = take(connection, 0, { waitMs: 60_000 });
  await time.tickAsync(60_000);
  assertEquals((await waiting).state, "open");
  // A POST alone does not show that events arrive.
  await time.tickAsync(LOST_MS - 1);
  await connection.give(1, body(), 0);
  await time.tickAsync(1);
  await assertRejects(() => connection.closed, ConnectionError, "no request within 30000 ms");
  await assertRejects(() => take(connection, 0), CarrierError);
  await assertRejects(() => connection.give(1, body("a"), 0), CarrierError);
  await time.tickAsync(CLOSE_TIMEOUT_MS);
  assertEquals(connections.size, 0);
});

Deno.test("HttpConnections keep the connection of a client that polls once a minute", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  for (const [everyS, lostMs] of [[OFTEN_S, LOST_MS], [60, SELDOM_LOST_MS], [0, LOST_MS]]) {
    await take(connection, 0, { everyS });
    await time.tickAsync(lostMs! - 1);
    assert(!connection.isClosed, `${everyS}`);
  }
  await take(connection, 0, { everyS: 60 });
  await time.tickAsync(SELDOM_LOST_MS);
  await assertRejects(() => connection.closed, ConnectionError, "no request within 150000 ms");
  await time.tickAsync(CLOSE_TIMEOUT_MS);
  assertEquals(connections.size, 0);
});

Deno.test("HttpConnections keep the close of a connection until its client polls again", async () => {
  using time = new FakeTime();
  using connections = open();
  for (const isPicked of [true, false]) {
    const connection = connections.accept();
    connection.send("last");
    await take(connection, 0, { everyS: 60, maxBytes: 0 });
    connection.close({ closeCode: 3000, reason: "moved" });
    await time.tickAsync(CLOSE_TIMEOUT_MS);
    // The server itself waits no longer than for any other client.
    assertEquals(await connection.closed, { closeCode: 3000, reason: "moved" });
    assertEquals(connections.size, 1);
    await time.tickAsync(60_000);
    if (isPicked) {
      const taken = await take(connection, 0, { everyS: 60 });
      assertEquals([framesOf(taken), taken.state], [[[1, "last"]], "over"]);
    }
    await time.tickAsync(SELDOM_LOST_MS);
    assertEquals(connections.size, 0);
  }
});

Deno.test("ServerHttpConnection keeps as much between two polls as a stream would be sent", async () => {
  using connections = open();
  const connection = connections.accept();
  const sent: string[] = [];
  const send = (count: number) => {
    for (let i = 0; i < count; i++) {
      sent.push(`${sent.length} ${"x".repeat(1_000)}`);
      connection.send(sent.at(-1)!);
    }
  };
  const got: Frame[] = [];
  // The second time counts from zero again.
  for (let round = 0; round < 2; round++) {
    await take(connection, got.length, { everyS: 60, maxBytes: 0 });
    assert(connection.isPaused); // The client's silence proves nothing.
    send(200);
    assertEquals(connection.bufferedAmount, 0);
    send(200);
    const bytes = sent.slice(-400).reduce((sum, { length }) => sum + length, 0);
    assertEquals(connection.bufferedAmount, bytes - MAX_UNACKNOWLEDGED_BYTES);
    while (got.length < sent.length) {
      const taken = await take(connection, got.length, { everyS: 60, maxBytes: 65_536 });
      got.push(...framesOf(taken).map(([, frame]) => frame));
    }
    assertEquals(connection.bufferedAmount, 0);
  }
  assertEquals(got, sent);
  // On an event stream, everything that was not sent counts.
  await take(connection, got.length, { maxBytes: 0 });
  send(1);
  assertEquals([connection.bufferedAmount, connection.isPaused], [sent.at(-1)!.length, false]);
});

Deno.test("HttpConnections keep a connection whose GET request replaced an earlier one", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  const old = take(connection, 0, { reader: "old", waitMs: 2 * LOST_MS });
  const newer = take(connection, 0, { reader: "new", waitMs: 2 * LOST_MS });
  assertEquals((await old).state, "replaced");
  await time.tickAsync(LOST_MS);
  connection.send("one");
  assertEquals(framesOf(await newer), [[1, "one"]]);
});

Deno.test("HttpConnections keep a closed connection until its client may have been notified", async () => {
  using time = new FakeTime();
  using connections = open();
  const connection = connections.accept();
  connection.send("last");
  connection.close({ closeCode: 3000, reason: "moved" });
  for (let i = 0; i < 2; i++) {
    const taken = await take(connection, 0);
    assertEquals([framesOf(taken), taken.state], [[[1, "last"]], "over"]);
    assert(taken.events.endsWith('id: 2\nevent: close\ndata: {"code":3000,"reason":"moved"}\n\n'));
  }
  assertEquals(await connection.closed, { closeCode: 3000, reason: "moved" });
  assertEquals((await take(connection, 2)).state, "over");
  await time.tickAsync(CLOSE_TIMEOUT_MS);
  assertEquals(connections.size, 0);
});

Deno.test("HttpConnections hold the lease of a connection until they remove the connection", async () => {
  using time = new FakeTime();
  using connections = open();
  let isHeld = true;
  const lease = { [Symbol.dispose]: () => void (isHeld = false) };
  const connection = connections.accept({ lease });
  await connection.end({ closeCode: 0, reason: "" });
  assertEquals(await connection.closed, { closeCode: 0, reason: "" });
  assert(isHeld);
  await time.tickAsync(CLOSE_TIMEOUT_MS);
  assert(!isHeld);
});
