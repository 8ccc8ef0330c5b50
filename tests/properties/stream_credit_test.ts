/**
 * Streams with little credit. The property compares how each stream ends and how much credit is
 * returned.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { StreamError } from "../../errors.ts";
import { type Drawn, maybe } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { Ends, World } from "./world.ts";

/** The credit of both sides, and the maximum number of bytes in a stream in these tests. */
const CREDIT = { maxData: 6_144, maxStreamData: 4_096, maxStreamsBidi: 4, maxStreamsUni: 3 };

/** Kinds of credit, with the window of each. */
const WINDOWS = {
  data: CREDIT.maxData,
  bidirectional: CREDIT.maxStreamsBidi,
  unidirectional: CREDIT.maxStreamsUni,
} as const;

/** The code of a writer that aborts, and the code of a reader that leaves. */
const [ABORTED, LEFT] = [77, 88];

/** One direction of a stream as its writer and reader use it. */
const flow = fc.record({
  bytes: fc.nat(8_000),
  chunk: fc.constantFrom(3_000, 700),
  pauseMs: fc.constantFrom(0, 3),
  /** Time at which the writer aborts, in milliseconds. */
  abortMs: maybe(fc.nat(60)),
  /** Number of bytes after which the reader leaves. */
  leaveAt: maybe(fc.nat(3_000)),
  readerPauseMs: fc.constantFrom(0, 25, 150),
});

type Flow = Drawn<typeof flow>;

const streams = fc.array(
  fc.record({
    opener: fc.constantFrom("client", "server"),
    out: flow,
    /** The opposite direction of a bidirectional stream. */
    back: maybe(flow),
  }),
  { maxLength: 12, size: "max" },
);

property("a stream ends as its writer or reader ends it, and all credit is returned", {
  cases: fc.record({ transport: fc.constantFrom("websocket", "webtransport"), streams }),
  async check(world, { transport, streams }) {
    const flows: Promise<void>[] = [];
    /** Uses both halves of a stream that the peer opened. The stream's first byte is its number. */
    const accept = async ({ readable, writable }: Halves) => {
      const reader = readable!.getReader();
      const first = await reader.read().catch(() => undefined);
      const number = first?.value?.[0];
      if (number === undefined) return void await writable?.abort(errorOf(ABORTED)).catch(() => {});
      const { out, back } = streams[number]!;
      if (back) flows.push(write(world, writable!, { flow: back, number }));
      flows.push(read(world, reader, { flow: out, number, first: first!.value }));
    };
    const { server, host } = world.serve("node", () => ({
      flowControl: CREDIT,
      onStream: (stream) => accept(stream),
    }));
    const client = world.connect("ada", host, { transports: [transport], flowControl: CREDIT });
    const { near, far } = await world.meet(client, server);
    const accepting = (async () => {
      for await (const stream of near.incomingStreams()) void accept(stream);
    })();
    await Promise.all(streams.map(async ({ opener, out, back }, number) => {
      const session = opener === "client" ? near : far;
      const stream: Halves = back
        ? await session.createBidirectionalStream()
        : { writable: await session.createUnidirectionalStream() };
      flows.push(write(world, stream.writable!, { flow: out, number }));
      // If a stream ends before its first byte, the other side never receives its number.
      const isKnown = out.abortMs === undefined;
      if (back && isKnown) {
        flows.push(read(world, stream.readable!.getReader(), { flow: back, number }));
      } else if (back) void drain(stream.readable!);
    }));
    for (let ended = 0; ended < flows.length; ended++) {
      await world.inTime("the end of all streams", flows[ended]!, 30_000);
    }
    await world.until("all credit", () => [near, far].every(hasAllCredit), 2_000);
    await client.close();
    await outcomeOf(accepting);
  },
});

/** A stream of either direction. */
interface Halves {
  readonly readable?: ReadableStream<Uint8Array>;
  readonly writable?: WritableStream<Uint8Array>;
}

/** One flow of a numbered stream. */
interface Numbered {
  readonly flow: Flow;
  readonly number: number;
}

/** Writes a flow. Fails if the writer sees a different end than planned. */
async function write(
  world: World,
  writable: WritableStream<Uint8Array>,
  { flow, number }: Numbered,
): Promise<void> {
  const writer = writable.getWriter();
  writer.closed.catch(() => {});
  let isAborted = false;
  const { abortMs } = flow;
  if (abortMs !== undefined) {
    void world.pause(abortMs).then(() => {
      isAborted = true;
      return writer.abort(errorOf(ABORTED));
    }).catch(() => {});
  }
  const bytes = contentOf(flow, number);
  try {
    for (let at = 0; at < bytes.length && !isAborted; at += flow.chunk) {
      await writer.write(bytes.slice(at, at + flow.chunk));
      if (flow.pauseMs > 0) await world.pause(flow.pauseMs);
    }
    if (abortMs === undefined) await writer.close();
  } catch (error) {
    // According to the Streams standard, closing a stream that the peer has left throws a
    // TypeError.
    const isLeft = flow.leaveAt !== undefined &&
      (error instanceof TypeError || codeOf(error) === LEFT);
    if (!isAborted && !isLeft) throw error;
  }
}

/** Reads a flow. Fails if the bytes or the end differ from what the writer sent. */
async function read(
  world: World,
  reader: ReadableStreamDefaultReader<Uint8Array>,
  { flow, number, first = new Uint8Array() }: Numbered & {
    readonly first?: Uint8Array | undefined;
  },
): Promise<void> {
  const { leaveAt, readerPauseMs, abortMs } = flow;
  const expected = contentOf(flow, number);
  let count = 0;
  const take = (bytes: Uint8Array) => {
    assertEquals(bytes, expected.subarray(count, count + bytes.length));
    count += bytes.length;
  };
  take(first);
  try {
    while (leaveAt === undefined || count < leaveAt) {
      if (readerPauseMs > 0) await world.pause(readerPauseMs);
      const { done, value } = await reader.read();
      if (done) break;
      take(value);
    }
    if (leaveAt !== undefined) {
      // More bytes arrive, but nothing reads them.
      await world.pause(readerPauseMs);
      await reader.cancel(errorOf(LEFT));
    } else assert(abortMs !== undefined || count === expected.length, `only ${count} bytes`);
  } catch (error) {
    if (abortMs === undefined || codeOf(error) !== ABORTED) throw error;
  }
}

/** Reads an unplanned stream to its end. */
async function drain(readable: ReadableStream<Uint8Array>): Promise<void> {
  await outcomeOf(readable.pipeTo(new WritableStream()));
}

/** Returns true if a session grants its full windows again. WebTransport has its own credit. */
function hasAllCredit({ connection }: Ends["near"] | Ends["far"]): boolean {
  const credit = connection.inspect?.credit;
  if (credit === undefined) return true;
  return (["data", "bidirectional", "unidirectional"] as const).every((kind) => {
    const { granted, received, waiting } = credit.state(kind);
    // More is granted once half of the window is used.
    const left = granted - received;
    return left >= WINDOWS[kind] / 2 && left <= WINDOWS[kind] && waiting === 0;
  });
}

/** Returns the content of a flow, which is the number of the stream followed by a pattern. */
function contentOf({ bytes }: Flow, number: number): Uint8Array<ArrayBuffer> {
  const content = Uint8Array.from({ length: 1 + bytes }, (_, i) => i * 7 + (i >> 8));
  content[0] = number;
  return content;
}

function errorOf(code: number): StreamError {
  return new StreamError("enough", { streamErrorCode: code, by: "local" });
}

function codeOf(error: unknown): number | null | undefined {
  return error instanceof StreamError ? error.streamErrorCode : undefined;
}

property("a write that waits for credit ends with its connection, however that ends", {
  cases: fc.record({
    transport: fc.constantFrom("websocket", "webtransport"),
    writer: fc.constantFrom("client", "server"),
    end: fc.constantFrom("a cut", "a close of the client", "a close of the server"),
    kinds: fc.array(fc.constantFrom("unidirectional", "bidirectional"), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
  async check(world, { transport, writer, end, kinds }) {
    const { server, host } = world.serve("node", () => ({
      flowControl: CREDIT,
      // Nothing reads the stream.
      onStream: () => new Promise<void>(() => {}),
    }));
    const client = world.connect("ada", host, { transports: [transport], flowControl: CREDIT });
    const { near, far } = await world.meet(client, server);
    const session = writer === "client" ? near : far;
    const outcomes = await Promise.all(kinds.map(async (kind) => {
      const writable = kind === "unidirectional"
        ? await session.createUnidirectionalStream()
        : (await session.createBidirectionalStream()).writable;
      const stream = writable.getWriter();
      void outcomeOf(stream.closed);
      return Array.from({ length: 30 }, () => outcomeOf(stream.write(new Uint8Array(10_000))));
    }));
    await world.pause(500);
    if (end === "a cut") world.cut(world.host("ada"));
    else void (end === "a close of the client" ? near : far).close();
    const all = await world.inTime("the end of all writes", Promise.all(outcomes.flat()), 60_000);
    assert(all.some((outcome) => outcome !== "fulfilled"), "no write had to wait");
  },
});
