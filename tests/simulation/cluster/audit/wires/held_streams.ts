/** Streams of both ends: the bytes arrive, and wait for a reader beyond the end of the session. */
import { concat } from "../../../../../base/bytes.ts";
import { openUnidirectional } from "../../../../../transport/direct.ts";
import type { DirectWritable } from "../../../../../transport/connection.ts";
import { oneOf } from "../../chance.ts";
import type { AnySession, Audit } from "../audit.ts";

/** Kinds of streams: whole, without an end, with more bytes than the credit, and with an end behind these. */
const KINDS = ["whole", "whole", "open", "blocked", "closing"] as const;

/** Streams of each end, and of both directions alone. */
const STREAMS = 3;

/** Most bytes of a stream within the credit. */
const BYTES = 9_000;

/** Credit of both ends. */
const CREDIT = {
  maxData: 60_000,
  maxStreamData: 12_000,
  maxStreamsBidi: 1,
  maxStreamsUni: STREAMS,
} as const;

/** Time for bytes under way, in milliseconds. */
const TRIP_MS = 80;

/** An end of a session. */
type Side = "client" | "server";

/** A stream of one end. */
interface Planned {
  readonly kind: typeof KINDS[number];
  readonly writer: Side;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Bytes read before the end. */
  readonly before: Uint8Array[];
  reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  /** A read without bytes to come. */
  reading: Promise<unknown> | undefined;
}

/** Streams of one session. */
export class HeldStreams {
  /** Credit of both ends. */
  static readonly credit: typeof CREDIT = CREDIT;
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #planned: Planned[] = [];
  /** Waits of each end by name, with the outcomes: all are over with the session. */
  readonly #waits = new Map<string, string>();

  /** Opens no stream yet. */
  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
  }

  /**
   * Takes a stream of the peer. The first byte is the number of the plan.
   *
   * @param side The end of the reader.
   * @param stream The stream.
   */
  async accept(
    side: Side,
    { readable }: { readonly readable: ReadableStream<Uint8Array> },
  ): Promise<void> {
    const reader = readable.getReader();
    const { value } = await reader.read().catch(() => ({ value: undefined }));
    const planned = this.#planned[value?.[0] ?? -1];
    if (planned === undefined || planned.writer === side) return;
    planned.reader = reader;
    planned.before.push(value!.subarray(1));
  }

  /**
   * Opens streams at both ends, and waits for all bytes within the credit.
   *
   * @param sessions Both ends.
   */
  async begin(sessions: Readonly<Record<Side, AnySession>>): Promise<void> {
    for (const side of ["client", "server"] as const) {
      const session = sessions[side];
      for (let i = 0; i < STREAMS; i++) await this.#open(session, side);
      if (this.#random() < 0.5) {
        await session.createBidirectionalStream();
        this.#wait(`${side}: stream beyond the credit`, session.createBidirectionalStream());
      }
      const datagrams = session.datagrams.readable.getReader();
      this.#wait(`${side}: datagram`, datagrams.read());
    }
    const { client } = sessions;
    this.#wait("client: loop over streams", this.#acceptAll(client));
    await this.#audit.until(() => this.#planned.every(({ reader }) => reader !== undefined));
    await this.#audit.pause(TRIP_MS);
    for (const planned of this.#planned) {
      if (planned.kind === "open" && this.#random() < 0.5) await this.#drain(planned);
    }
  }

  /**
   * Reads all streams after the end of the session.
   *
   * @param sides The living ends.
   * @param about The session, in words.
   */
  async examine(sides: readonly Side[], about: string): Promise<void> {
    for (const planned of this.#planned) {
      const side = planned.writer === "client" ? "server" : "client";
      if (!sides.includes(side)) continue;
      const expected = planned.kind === "whole" ? "all bytes" : "an error";
      const what = `${planned.kind} stream read at the ${side} after the end ${about}`;
      this.#audit.examine("flows", what, expected, await this.#rest(planned));
    }
    for (const [name, outcome] of this.#waits) {
      if (!sides.some((side) => name.startsWith(side))) continue;
      this.#audit.examine("waits", `${name} at the end ${about}`, "over", outcome);
    }
  }

  async #open(session: AnySession, writer: Side): Promise<void> {
    const kind = oneOf(this.#random, KINDS);
    const number = this.#planned.length;
    const length = kind === "blocked" || kind === "closing"
      ? 2 * CREDIT.maxStreamData
      : 1 + Math.floor(BYTES * this.#random());
    const bytes = Uint8Array.from({ length: 1 + length }, (_, i) => i * 7 + (i >> 8) + number);
    bytes[0] = number;
    const planned: Planned = {
      kind,
      writer,
      bytes,
      before: [],
      reader: undefined,
      reading: undefined,
    };
    this.#planned.push(planned);
    const { connection } = session;
    if (kind === "closing") return await this.#close(await openUnidirectional(connection), planned);
    const stream = await session.createUnidirectionalStream();
    const writing = stream.getWriter();
    writing.closed.catch(() => {});
    // The number has a record of its own.
    await writing.write(bytes.slice(0, 1));
    const written = writing.write(bytes.slice(1));
    if (kind === "blocked") {
      return this.#wait(`${writer}: write ${number} beyond the credit`, written);
    }
    await written;
    if (kind === "whole") await writing.close();
  }

  /** Writes more than the credit by plain calls, and closes the stream. */
  async #close(stream: DirectWritable, planned: Planned): Promise<void> {
    const { writer, bytes } = planned;
    const number = bytes[0]!;
    await stream.write(bytes.slice(0, 1));
    const written = stream.write(bytes.slice(1));
    this.#wait(`${writer}: write ${number} before the close`, written);
    this.#wait(`${writer}: close ${number} beyond the credit`, stream.close());
  }

  async #acceptAll(session: AnySession): Promise<void> {
    for await (const stream of session.incomingStreams()) void this.accept("client", stream);
  }

  /** Reads all bytes, and waits for more. */
  async #drain(planned: Planned): Promise<void> {
    const reader = planned.reader!;
    let count = planned.before.reduce((sum, { length }) => sum + length, 1);
    while (count < planned.bytes.length) {
      const { value } = await reader.read();
      if (value === undefined) return;
      planned.before.push(value);
      count += value.length;
    }
    planned.reading = reader.read();
    planned.reading.catch(() => {});
  }

  /** Reads to the end, and names the outcome. */
  async #rest({ reader, before, bytes, reading }: Planned): Promise<string> {
    if (reader === undefined) return "no stream";
    const read = async () => {
      try {
        const first = await reading;
        if (first !== undefined) return "an end";
        while (true) {
          const { done, value } = await reader.read();
          if (done) break;
          before.push(value);
        }
      } catch {
        return "an error";
      }
      const all = concat(before);
      const isWhole = all.length + 1 === bytes.length &&
        all.every((byte, i) => byte === bytes[i + 1]);
      return isWhole ? "all bytes" : `${all.length} bytes`;
    };
    return await this.#audit.inTime(read(), TRIP_MS, "nothing");
  }

  #wait(name: string, promise: Promise<unknown>): void {
    this.#waits.set(name, "pending");
    const over = () => void this.#waits.set(name, "over");
    promise.then(over, over);
  }
}
