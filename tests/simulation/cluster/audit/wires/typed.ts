/** Typed messages on streams and in datagrams: bursts, slow readers, and messages that are refused. */
import { z } from "zod";
import { StreamError, StructuredError } from "../../../../../errors.ts";
import type { IncomingStream } from "../../../../../session/streams/incoming_streams.ts";
import type { StructuredStream } from "../../../../../session/streams/structured.ts";
import type { StructuredStreamOptions } from "../../../../../session/streams/structured_options.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import { type AnySession, type Audit, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { auditLentChunks } from "./lent_chunks.ts";

/** Credit of both ends: less than a burst. */
const CREDIT = { maxData: 65_536, maxStreamData: 8_192 } as const;

/** Messages that the reader knows. */
const REGISTRY = { 1: z.object({ n: z.int(), pad: z.string() }) };

/** Messages of the writer, of which the reader refuses the second one. */
const WIDER = { ...REGISTRY, 2: z.object({ n: z.int() }) };

/** Most bytes of a message, and bytes that may wait, by docs/guide/structured.md. */
const [LARGEST, MOST_WAITING] = [1_000_000, 4 << 20];

/**
 * Characters of the messages that fill a stream again and again: those that are joined, those that go
 * alone, and a tenth of the bound.
 */
const POURED_BYTES = [9_000, 40_000, 70_000, 400_000] as const;

/** Bytes of a stream that is filled again and again: several times the bound. */
const POURED_IN_ALL = 4 * MOST_WAITING;

/** Distance to the bound, in bytes: the heads of messages, and one write that does not wait. */
const NEAR_BOUND = 520_000;

/** Datagrams in all, more than may wait to be sent, and datagrams at once. */
const [SHOWERED, SHOWERED_AT_ONCE] = [320, 64] as const;

/** Datagrams that wait for a loop. */
const QUEUED = 4;

/** Longest time of a step, in milliseconds. */
const STEP_MS = 4_000;

/** Time for bytes under way, in milliseconds. */
const TRIP_MS = 80;

/** Code of an abort. */
const CODE = 77;

/** A stream of the writer. */
type Wide = StructuredStream<typeof WIDER>;

/** The reader's end. */
type Narrow = StructuredStream<typeof REGISTRY>;

/** Both ends of one stream. */
interface Pair {
  readonly writer: Wide;
  readonly reader: Narrow;
}

/** One use of a stream. */
type Use = (typed: Typed) => Promise<void>;

/** The session that all uses share. */
interface Typed {
  readonly audit: Audit;
  readonly random: () => number;
  readonly transport: "websocket" | "webtransport";
  readonly near: AnySession;
  readonly far: AnySession;
  /** Opens a stream from one end to the other. */
  readonly open: (options?: Partial<StructuredStreamOptions<typeof REGISTRY>>) => Promise<Pair>;
}

/** All uses. */
const USES: readonly Use[] = [burst, skip, refuse, leave, dispose, flood, closeBehind];

/** Ends of a close that waits for credit. */
const WAITING_ENDS = ["read", "abort", "leave", "abort of the reader"] as const;

/** Messages beyond the credit of a stream, and characters of each. */
const [WAITING, WAITING_BYTES] = [8, { websocket: 3_000, webtransport: 30_000 }] as const;

/** Uses of one run. */
const USES_AT_ONCE = 3;

/**
 * Sends typed messages between a client and a server.
 *
 * @param audit The audit.
 */
export async function auditTyped(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("typed");
  const transport = oneOf(random, ["websocket", "websocket", "webtransport"] as const);
  const taken: ((stream: IncomingStream) => void)[] = [];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    flowControl: CREDIT,
    onStream: (stream) => taken.shift()?.(stream),
    onError() {},
  }));
  const client = audit.connect("typer", host, {
    token: undefined,
    transports: [transport],
    flowControl: CREDIT,
    onError() {},
  });
  const { near, far } = await audit.meet(client, server);
  // Datagrams that are taken before the first stream go by the plain stream of the session.
  if (random() < 0.8) void near.datagrams;
  const open: Typed["open"] = async (options = {}) => {
    const accepted = Promise.withResolvers<IncomingStream>();
    taken.push(accepted.resolve);
    const writer = await near.structuredStream({ registry: WIDER });
    // The first bytes show the stream to the peer.
    await writer.send(1, { n: 0, pad: "" });
    const stream = await accepted.promise;
    if (stream.direction !== "bidirectional") throw new TypeError("Expected both directions");
    const reader = await far.structuredStream({ registry: REGISTRY, stream, ...options });
    return { writer, reader };
  };
  const typed: Typed = { audit, random, transport, near, far, open };
  for (let i = 0; i < USES_AT_ONCE; i++) await oneOf(random, USES)(typed);
  await pour(typed);
  await auditLentChunks(audit, near);
  if (transport === "websocket") {
    await datagrams(typed);
    await shower(typed);
  }
  await audit.until(() => server.manager.stats().streams.active === 0, 1_000);
  const { active } = server.manager.stats().streams;
  audit.examine("flows", `typed streams that are left over ${transport}`, 0, active);
  const { settled } = await fill(typed);
  audit.cut(audit.host("typer"));
  const broken = await inTime(audit, settled);
  audit.examine("flows", `calls of a stream that broke over ${transport}`, true, isOver(broken));
  await client.close();
  await server.close();
}

/** A burst without waits comes whole, in order, and then the end. */
async function burst({ audit, random, transport, open }: Typed): Promise<void> {
  const { writer, reader } = await open();
  const count = 3 + Math.floor(30 * random());
  const size = oneOf(random, [10, 600, 5_000]);
  const isSlow = random() < 0.4;
  const sends = range(1, count).map((n) => outcome(writer.send(1, { n, pad: "x".repeat(size) })));
  const closing = outcome(writer.close());
  const got: number[] = [];
  const read = async () => {
    for await (const { data: { n, pad } } of reader) {
      got.push(n > 0 && pad.length !== size ? -1 : n);
      if (isSlow && n % 5 === 0) await audit.pause(20);
    }
    await reader.close();
  };
  const what = `of a burst of ${count} times ${size} bytes over ${transport}`;
  const ended = await inTime(audit, outcome(read()));
  audit.examine("flows", `end ${what}`, "fulfilled", ended);
  audit.examine("flows", `messages ${what}`, range(0, count), got);
  const outcomes = await inTime(audit, Promise.all([...sends, closing]));
  audit.examine("flows", `sends ${what}`, [...sends, closing].map(() => "fulfilled"), outcomes);
  const back: unknown = await inTime(audit, outcome(drained(writer)));
  audit.examine("flows", `way back ${what}`, "fulfilled", back);
  const closed = await inTime(audit, Promise.all([outcome(writer.closed), outcome(reader.closed)]));
  audit.examine("flows", `closed ${what}`, ["fulfilled", "fulfilled"], closed);
}

/** Invalid messages are skipped and counted, and the others come. */
async function skip({ audit, random, transport, open }: Typed): Promise<void> {
  const told: string[] = [];
  const isTold = random() < 0.5;
  const onInvalid = isTold
    ? ({ reason }: StructuredError) => void told.push(reason)
    : "skip" as const;
  const { writer, reader } = await open({ onInvalid });
  const expected = [0];
  const reasons: string[] = [];
  for (let n = 1; n <= 8; n++) {
    const kind = random();
    if (kind < 0.3) {
      void writer.send(2, { n });
      reasons.push("unknown-type");
    } else if (kind < 0.5) {
      void writer.send(1, { n, pad: 7 } as never);
      reasons.push("invalid");
    } else {
      void writer.send(1, { n, pad: "x" });
      expected.push(n);
    }
  }
  void writer.close();
  const got: number[] = [];
  const read = async () => {
    for await (const { data } of reader) got.push(data.n);
    await reader.close();
  };
  const what = `beside invalid messages over ${transport}`;
  audit.examine("flows", `end ${what}`, "fulfilled", await inTime(audit, outcome(read())));
  audit.examine("flows", `messages ${what}`, expected, got);
  audit.examine("flows", `skipped ${what}`, reasons.length, reader.skippedMessages);
  if (isTold) audit.examine("flows", `errors ${what}`, reasons, told);
  await inTime(audit, outcome(drained(writer)));
}

/** An invalid message ends both directions with a code. */
async function refuse({ audit, random, transport, open }: Typed): Promise<void> {
  const { writer, reader } = await open();
  const isUnknown = random() < 0.5;
  void writer.send(1, { n: 1, pad: "x" });
  if (isUnknown) void writer.send(2, { n: 2 });
  else void writer.send(1, { n: 2, pad: 7 } as never);
  void writer.send(1, { n: 3, pad: "x" });
  const got: number[] = [];
  const read = async () => {
    for await (const { data } of reader) got.push(data.n);
  };
  const what = `of a refused message over ${transport}`;
  const reason = isUnknown ? "unknown-type" : "invalid";
  audit.examine("flows", `loop ${what}`, reason, await inTime(audit, outcome(read())));
  audit.examine("flows", `messages ${what}`, [0, 1], got);
  // Both directions of the other end are over as well.
  const peer = await inTime(audit, outcome(drained(writer)));
  audit.examine("flows", `peer ${what}`, "StreamError 4400 by remote", peer);
  const later = await inTime(audit, outcome(writer.send(1, { n: 4, pad: "" })));
  audit.examine("flows", `send ${what}`, true, later.startsWith("StreamError"));
}

/** A reader that leaves ends the writer's direction. */
async function leave({ audit, random, transport, open }: Typed): Promise<void> {
  const { writer, reader } = await open();
  const stopAt = Math.floor(4 * random());
  const got: number[] = [];
  const sending = (async () => {
    for (let n = 1; n < 1_000; n++) await writer.send(1, { n, pad: "x".repeat(3_000) });
  })();
  for await (const { data } of reader) {
    got.push(data.n);
    if (data.n === stopAt) break;
  }
  // Another loop goes on with the next message.
  for await (const { data } of reader) {
    got.push(data.n);
    break;
  }
  const what = `of a reader that leaves over ${transport}`;
  audit.examine("flows", `messages ${what}`, range(0, stopAt + 1), got);
  await reader[Symbol.asyncDispose]();
  const sent = await inTime(audit, outcome(sending));
  audit.examine("flows", `sends ${what}`, true, sent.startsWith("StreamError"));
  audit.examine(
    "flows",
    `way back ${what}`,
    "fulfilled",
    await inTime(audit, outcome(drained(writer))),
  );
}

/** A close that waits for credit settles with the reader, or with the failure that ends the wait. */
async function closeBehind(typed: Typed): Promise<void> {
  const { audit, random, transport } = typed;
  const end = oneOf(random, WAITING_ENDS);
  const { writer, reader, settled, isDisposed, pending } = await fill(typed);
  const what = `of a stream without credit over ${transport}, ended by ${end}`;
  audit.examine("flows", `close ${what}`, "pending", pending());
  const got: number[] = [];
  const reading = end === "read" ? hearAll(reader, ({ data }) => got.push(data.n)) : undefined;
  if (end === "abort") writer.abort(CODE);
  if (end === "leave") await reader[Symbol.asyncDispose]();
  if (end === "abort of the reader") reader.abort(CODE);
  const outcomes = await inTime(audit, settled);
  audit.examine("flows", `calls ${what}`, true, isOver(outcomes));
  if (!isOver(outcomes)) return;
  const isWhole = end === "read";
  const expected = isWhole || isDisposed ? "fulfilled" : "StreamError";
  audit.examine("flows", `close ${what}`, true, outcomes.at(-1)!.startsWith(expected));
  if (isWhole) {
    await inTime(audit, reading!);
    audit.examine("flows", `messages ${what}`, range(0, WAITING), got);
  } else {
    const closed = await inTime(audit, outcome(writer.closed));
    audit.examine("flows", `closed ${what}`, true, closed.startsWith("StreamError"));
  }
  const later = await inTime(audit, outcome(writer.send(1, { n: 0, pad: "" })));
  audit.examine("flows", `send ${what}`, true, later.startsWith("StreamError"));
  await reader[Symbol.asyncDispose]();
  await inTime(audit, outcome(drained(writer)));
}

/** Fills a stream whose reader does not read, and closes or disposes of the writer. */
async function fill({ audit, random, transport, open }: Typed) {
  const { writer, reader } = await open();
  const pad = "x".repeat(WAITING_BYTES[transport]);
  const sends = range(1, WAITING).map((n) => outcome(writer.send(1, { n, pad })));
  const isDisposed = random() < 0.5;
  let pending = "pending";
  const closing = outcome(isDisposed ? writer[Symbol.asyncDispose]() : writer.close());
  void closing.then((ended) => pending = ended);
  await audit.pause(TRIP_MS);
  const settled = Promise.all([...sends, closing]);
  return { writer, reader, settled, isDisposed, pending: () => pending };
}

/** True if all calls have an outcome. */
function isOver(outcomes: readonly string[] | string): outcomes is readonly string[] {
  return typeof outcomes !== "string";
}

/** A reader that is disposed of ends the loop that waits, and the writer's direction. */
async function dispose({ audit, transport, open }: Typed): Promise<void> {
  const { writer, reader } = await open();
  const got: number[] = [];
  const reading = (async () => {
    for await (const { data } of reader) got.push(data.n);
  })();
  await audit.until(() => got.length > 0, TRIP_MS);
  await reader[Symbol.asyncDispose]();
  const what = `of a reader that is disposed of over ${transport}`;
  const ended = await inTime(audit, outcome(reading));
  audit.examine("flows", `loop ${what}`, true, ended !== "nothing in time");
  await audit.pause(TRIP_MS);
  const sent = await inTime(audit, outcome(writer.send(1, { n: 1, pad: "" })));
  audit.examine("flows", `send ${what}`, true, sent.startsWith("StreamError"));
  await inTime(audit, outcome(drained(writer)));
}

/** A writer without waits is stopped at the bound. */
async function flood({ audit, random, transport, open }: Typed): Promise<void> {
  if (random() < 0.6) return;
  const { writer, reader } = await open();
  const pad = "x".repeat(LARGEST);
  const outcomes: Promise<string>[] = [];
  const fits = Math.floor(MOST_WAITING / LARGEST);
  // One message is under way, and does not wait.
  for (let n = 1; n <= fits + 2; n++) outcomes.push(outcome(writer.send(1, { n, pad })));
  const what = `of a flood over ${transport}`;
  const all = await inTime(audit, Promise.all(outcomes));
  // The abort has the code of a full queue.
  const expected = outcomes.map((_, i) => i === 0 ? "StreamError 4507 by local" : "QueueFullError");
  audit.examine("flows", `sends ${what}`, expected, all);
  const read = async () => {
    for await (const _message of reader) { /* The first one came before. */ }
  };
  const ended = await inTime(audit, outcome(read()));
  audit.examine("flows", `loop ${what}`, true, ended.startsWith("StreamError"));
}

/** A stream takes several times the bound, as long as less than the bound waits at once. */
async function pour({ audit, random, near }: Typed): Promise<void> {
  let taken = 0;
  let room = 0;
  let wake = () => {};
  const sink = new WritableStream<Uint8Array>({
    async write({ length }) {
      while (room <= 0) await new Promise<void>((resolve) => wake = resolve);
      room -= length;
      taken += length;
    },
  }, { highWaterMark: 0 });
  const stream = { readable: new ReadableStream<Uint8Array>(), writable: sink };
  const writer = await near.structuredStream({ registry: WIDER, stream: stream as never });
  const pads = POURED_BYTES.map((bytes) => "x".repeat(bytes));
  const failures: string[] = [];
  let [sent, count] = [0, 0];
  const send = (pad: string) => {
    sent += pad.length;
    void outcome(writer.send(1, { n: ++count, pad })).then((ended) => {
      if (ended !== "fulfilled") failures.push(ended);
    });
  };
  const waiting = () => sent - taken;
  const drain = async (bytes: number) => {
    room = bytes;
    wake();
    await audit.until(() => room <= 0 || waiting() <= 0, STEP_MS);
    await audit.pause(1);
  };
  while (sent < POURED_IN_ALL && failures.length === 0) {
    const pad = oneOf(random, pads);
    if (waiting() + pad.length < MOST_WAITING - NEAR_BOUND) send(pad);
    // Now and then the stream runs empty.
    else await drain(random() < 0.4 ? Infinity : MOST_WAITING * random());
  }
  await audit.pause(1);
  audit.examine("flows", `sends of ${count} messages within the bound`, [], failures);
  await drain(Infinity);
  audit.examine("flows", `bytes of ${count} messages within the bound`, true, taken >= sent);
  room = 0;
  // The account of the bytes that wait has not lost any: more than the bound is refused.
  sent = taken;
  while (waiting() < MOST_WAITING + NEAR_BOUND && failures.length === 0) {
    send(pads.at(-1)!);
    await Promise.resolve();
  }
  await audit.pause(1);
  audit.examine("flows", "send beyond the bound of a stream", true, failures.length > 0);
  room = Infinity;
  wake();
}

/** Datagrams beyond the bound push out the oldest ones. */
async function datagrams({ audit, random, near, far }: Typed): Promise<void> {
  await using sender = await near.structuredDatagrams({ registry: WIDER });
  const invalid: string[] = [];
  await using receiver = await far.structuredDatagrams({
    registry: REGISTRY,
    maxQueued: QUEUED,
    onInvalid: ({ reason }) => void invalid.push(reason),
  });
  const count = 1 + Math.floor(3 * QUEUED * random());
  const isWrong = (n: number) => n % 5 === 4;
  for (let n = 1; n <= count; n++) {
    if (isWrong(n)) await sender.send(2, { n });
    else await sender.send(1, { n, pad: "" });
  }
  await audit.pause(TRIP_MS);
  const kept = range(Math.max(1, count - QUEUED + 1), count);
  const expected = kept.filter((n) => !isWrong(n));
  const got: number[] = [];
  void hearAll(receiver, ({ data }) => got.push(data.n));
  await audit.pause(TRIP_MS);
  const what = `of ${count} datagrams`;
  audit.examine("flows", `newest ${what}`, expected, got);
  const skipped = kept.length - expected.length;
  const stats = { sent: 0, received: got.length, skipped, dropped: count - kept.length };
  audit.examine("flows", `figures ${what}`, stats, receiver.stats);
  audit.examine("flows", `errors ${what}`, skipped, invalid.length);
  const isTooLarge = await outcome(sender.send(1, { n: 1, pad: "x".repeat(1 << 20) }));
  audit.examine("flows", "datagram beyond the bound", "RangeError", isTooLarge);
}

/** Any number of datagrams leaves, as long as few wait at once. */
async function shower({ audit, near }: Typed): Promise<void> {
  await using sender = await near.structuredDatagrams({ registry: WIDER });
  for (let n = 1; n <= SHOWERED; n++) {
    void sender.send(1, { n, pad: "" });
    if (n % SHOWERED_AT_ONCE === 0) await audit.pause(1);
  }
  const { sent, dropped } = sender.stats;
  audit.examine("flows", "datagrams sent and dropped", [SHOWERED, 0], [sent, dropped]);
}

/** Reads a stream to its end. */
async function drained(stream: Wide): Promise<void> {
  for await (const _message of stream) { /* No message comes. */ }
}

function inTime<T>(audit: Audit, promise: Promise<T>): Promise<T | "nothing in time"> {
  return audit.inTime(promise, STEP_MS, "nothing in time");
}

/** Names the outcome of a promise. */
function outcome(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "fulfilled", (error) => {
    if (error instanceof StructuredError) return error.reason;
    if (error instanceof StreamError) return `StreamError ${error.streamErrorCode} by ${error.by}`;
    return outcomeOf(promise);
  });
}
