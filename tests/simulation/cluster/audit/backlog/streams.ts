/** Streams that end in all ways under little credit: afterwards all credit is back. */
import { StreamError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { AnySession, Audit } from "../audit.ts";

/** Credit of both ends. */
const CREDIT = {
  maxData: 6_144,
  maxStreamData: 4_096,
  maxStreamsBidi: 4,
  maxStreamsUni: 3,
} as const;

/** Kinds of credit, with the window of each. */
const WINDOWS = {
  data: CREDIT.maxData,
  bidirectional: CREDIT.maxStreamsBidi,
  unidirectional: CREDIT.maxStreamsUni,
} as const;

/** Streams of one run. */
const STREAMS = 10;

/** Longest time of all streams, in milliseconds. */
const ALL_MS = 8_000;

/** Longest time until all credit is back, in milliseconds. */
const BACK_MS = 1_000;

/** Codes of a writer that aborts, and of a reader that leaves. */
const [ABORTED, LEFT] = [77, 88];

/** One direction of a stream, as both ends plan the flow. */
interface Flow {
  readonly bytes: number;
  readonly chunk: number;
  /** Pause of the writer after each chunk, in milliseconds; none for 0. */
  readonly everyMs: number;
  /** Time at which the writer aborts, in milliseconds; `undefined` for an end. */
  readonly abortMs: number | undefined;
  /** Number of bytes after which the reader leaves; `undefined` for all. */
  readonly leaveAt: number | undefined;
  /** Pause of the reader before each chunk, in milliseconds; none for 0. */
  readonly slowMs: number;
}

/** A stream, as both ends know it. */
interface Planned {
  readonly isByServer: boolean;
  readonly out: Flow;
  /** The way back of a bidirectional stream. */
  readonly back: Flow | undefined;
}

/** A stream of either direction. */
interface Halves {
  readonly readable?: ReadableStream<Uint8Array>;
  readonly writable?: WritableStream<Uint8Array>;
}

/**
 * Uses streams between a client and a server until each has ended.
 *
 * @param audit The audit.
 */
export async function auditCredit(audit: Audit): Promise<void> {
  const { random } = audit;
  const plans = Array.from({ length: STREAMS }, () => planned(random));
  const transport = random() < 0.8 ? "websocket" : "webtransport";
  const program = new Program(audit, plans);
  const host = audit.host("credit");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    flowControl: CREDIT,
    onStream: (stream) => program.accept(stream),
  }));
  const client = audit.connect("streams", host, {
    token: undefined,
    transports: [transport],
    flowControl: CREDIT,
  });
  const { near, far } = await audit.meet(client, server);
  const accepting = program.acceptAll(near);
  const opened = plans.map(async (plan, number) => {
    await audit.pause(30 * number);
    await program.begin(plan.isByServer ? far : near, number);
  });
  const about = `over ${transport}`;
  const ended = Promise.all(opened).then(() => audit.until(() => program.openFlows === 0, ALL_MS));
  const isInTime = await audit.inTime(ended, ALL_MS, false);
  audit.examine("flows", `ends of all streams ${about}`, true, isInTime);
  audit.examine("flows", `outcomes of streams ${about}`, [], program.faults);
  const all = () => [...creditOf("server", far), ...creditOf("client", near)];
  await audit.until(() => all().every(({ isBack }) => isBack), BACK_MS);
  for (const { what, isBack, waiting } of all()) {
    audit.examine("flows", what, [true, 0], [isBack, waiting]);
  }
  await client.close();
  await accepting;
  await server.close();
}

/** Tells what an end grants to the other one; nothing over WebTransport. */
function* creditOf(end: string, { connection }: AnySession) {
  const credit = connection.inspect?.credit;
  if (credit === undefined) return;
  for (const kind of ["data", "bidirectional", "unidirectional"] as const) {
    const { granted, received, waiting } = credit.state(kind);
    const left = granted - received;
    // More is granted once half of the window is used.
    const isBack = left >= WINDOWS[kind] / 2 && left <= WINDOWS[kind];
    yield { what: `${left} of ${kind} that the ${end} grants afterwards`, isBack, waiting };
  }
}

/** Plans a stream. */
function planned(random: () => number): Planned {
  return {
    isByServer: random() < 0.5,
    out: flow(random),
    back: random() < 0.5 ? flow(random) : undefined,
  };
}

function flow(random: () => number): Flow {
  const bytes = Math.floor(8_000 * random());
  return {
    bytes,
    chunk: random() < 0.5 ? 3_000 : 700,
    everyMs: random() < 0.7 ? 3 : 0,
    abortMs: random() < 0.3 ? 60 * random() : undefined,
    leaveAt: random() < 0.5 ? Math.floor(random() * Math.min(bytes, 3_000)) : undefined,
    slowMs: random() < 0.4 ? (random() < 0.5 ? 25 : 150) : 0,
  };
}

/** Writes and reads streams at both ends. */
class Program {
  /** Flows under way, of both ends. */
  openFlows = 0;
  /** Outcomes that differ from the plan. */
  readonly faults: string[] = [];
  readonly #audit: Audit;
  readonly #plans: readonly Planned[];

  /** Begins no stream. */
  constructor(audit: Audit, plans: readonly Planned[]) {
    this.#audit = audit;
    this.#plans = plans;
  }

  /** Opens a stream, and uses both of its halves. */
  async begin(session: AnySession, number: number): Promise<void> {
    const { out, back } = this.#plans[number]!;
    const stream: Halves = back
      ? await session.createBidirectionalStream()
      : { writable: await session.createUnidirectionalStream() };
    this.#run(this.#write(stream, { flow: out, number }));
    // An acceptor that never learned the number has no plan of the way back.
    const isJudged = out.abortMs === undefined;
    if (back) this.#run(this.#read(stream.readable!.getReader(), { flow: back, number, isJudged }));
  }

  /** Takes all streams of the peer until a session is over. */
  async acceptAll(session: AnySession): Promise<void> {
    for await (const stream of session.incomingStreams()) this.#run(this.accept(stream));
  }

  /** Uses a stream of the peer, whose first byte is the number of the plan. */
  async accept({ readable, writable }: Halves): Promise<void> {
    const reader = readable!.getReader();
    const first = await reader.read().catch(() => undefined);
    const number = first?.value?.[0];
    if (number === undefined) {
      await writable?.abort(leave(ABORTED)).catch(() => {});
      return;
    }
    const { out, back } = this.#plans[number]!;
    if (back) this.#run(this.#write({ writable: writable! }, { flow: back, number }));
    await this.#read(reader, { flow: out, number, isJudged: true, first: first!.value });
  }

  #run(running: Promise<void>): void {
    this.openFlows++;
    running.catch((error) => void this.faults.push(`${error}`)).then(() => this.openFlows--);
  }

  async #write(
    { writable }: Halves,
    { flow, number }: { readonly flow: Flow; readonly number: number },
  ): Promise<void> {
    const writer = writable!.getWriter();
    writer.closed.catch(() => {});
    const { abortMs, everyMs, chunk } = flow;
    let isAborted = false;
    if (abortMs !== undefined) {
      void this.#audit.pause(abortMs).then(() => {
        isAborted = true;
        return writer.abort(leave(ABORTED));
      }).catch(() => {});
    }
    const bytes = contentOf(flow, number);
    try {
      for (let at = 0; at < bytes.length && !isAborted; at += chunk) {
        await writer.write(bytes.slice(at, at + chunk));
        if (everyMs > 0) await this.#audit.pause(everyMs);
      }
      if (abortMs === undefined) await writer.close();
    } catch (error) {
      // The peer may leave at any time.
      // A close of a stream that the peer left is a TypeError, by the Streams standard.
      const isLeft = error instanceof TypeError ||
        error instanceof StreamError && error.streamErrorCode === LEFT;
      const isOwn = isAborted || flow.leaveAt !== undefined && isLeft;
      if (!isOwn) this.faults.push(`write of ${number}: ${error}`);
    }
  }

  async #read(
    reader: ReadableStreamDefaultReader<Uint8Array>,
    { flow, number, isJudged, first }: {
      readonly flow: Flow;
      readonly number: number;
      readonly isJudged: boolean;
      readonly first?: Uint8Array | undefined;
    },
  ): Promise<void> {
    const { leaveAt, slowMs, abortMs } = flow;
    const expected = contentOf(flow, number);
    let count = 0;
    let isSame = true;
    const take = (bytes: Uint8Array) => {
      isSame &&= bytes.every((byte, i) => byte === expected[count + i]);
      count += bytes.length;
    };
    if (first) take(first);
    try {
      while (leaveAt === undefined || count < leaveAt) {
        if (slowMs > 0) await this.#audit.pause(slowMs);
        const { done, value } = await reader.read();
        if (done) break;
        take(value);
      }
      if (leaveAt !== undefined) {
        // More bytes arrive that nothing reads.
        await this.#audit.pause(slowMs);
        await reader.cancel(leave(LEFT));
      }
    } catch (error) {
      const isReset = error instanceof StreamError && error.streamErrorCode === ABORTED;
      if (isJudged && !(isReset && abortMs !== undefined)) {
        this.faults.push(`read of ${number}: ${error}`);
      }
      return;
    }
    const isWhole = leaveAt !== undefined || abortMs !== undefined || count === expected.length;
    if (isJudged && !(isWhole && isSame)) {
      this.faults.push(`read of ${number}: ${count} of ${expected.length} bytes, ${isSame}`);
    }
  }
}

/** Content of a flow: the number of the plan, then a pattern. */
function contentOf({ bytes }: Flow, number: number): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(1 + bytes);
  for (let i = 1; i <= bytes; i++) content[i] = i * 7 + (i >> 8);
  content[0] = number;
  return content;
}

function leave(code: number): StreamError {
  return new StreamError("enough", { streamErrorCode: code, by: "local" });
}
