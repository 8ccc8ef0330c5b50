/** The envelopes of followed sessions, recorded while a page requests them. */
import { clip, payloadText } from "./shown.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { internals, type Session } from "../../session/session.ts";
import type { FrameTap } from "../../session/queue/frames.ts";
import { decodeBinary, isBinaryMessage } from "../../session/wire/encode.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import type { Frame } from "../../transport/connection.ts";

/** Most sessions of this node that are recorded at the same time. */
const MAX_FOLLOWED = 8;

/** Maximum number of envelopes kept per session; they take up to 1 MB with their texts. */
const MAX_KEPT = 500;

/** Most envelopes per response. */
const MAX_TOLD = 200;

/**
 * Maximum number of envelopes per session that are read in a second; further envelopes are only
 * counted.
 */
const MAX_PER_SECOND = 1_000;

/**
 * Maximum number of characters of envelopes that are read in a second, because a large envelope
 * takes long to read.
 */
const MAX_LENGTH_PER_SECOND = 1_048_576;

/** Time without a query after which a recording ends, in milliseconds. */
const IDLE_MS = 10_000;

/** Most characters of a topic. */
const MAX_TOPIC_LENGTH = 255;

/** One recorded envelope. */
export interface TrafficEntry {
  /** Number of the envelope, starting at 1; gaps are envelopes that were only counted. */
  readonly n: number;
  /** Time, in milliseconds since the Unix epoch. */
  readonly at: number;
  readonly direction: "in" | "out";
  /** First key of the envelope, such as `topic`, `publish` or `reply`. */
  readonly kind: string;
  readonly topic: string;
  /** Size of the envelope, in bytes. */
  readonly bytes: number;
  /** The envelope without secrets, shortened; empty if payloads are off. */
  readonly text: string;
}

/** Traffic since a number. */
export interface TrafficReply {
  /**
   * `following` while the session is followed; `closed` once it has closed; `unknown` if there is
   * no such session; `busy` if too many sessions are being followed; `none` if the connection has
   * no messages.
   */
  readonly state: "following" | "closed" | "unknown" | "busy" | "none";
  readonly entries: readonly TrafficEntry[];
  /** Pass this number with the next query. */
  readonly next: number;
  /** Number of envelopes since the last query that are not included in the entries. */
  readonly missed: number;
}

/**
 * Records sessions.
 *
 * - **Off** by default: a session is recorded only while there are queries, and for 10 s after the
 *   last query.
 * - **Bounds:** at most 8 sessions are recorded. For each session, 500 envelopes are kept, and
 *   1,000 envelopes or 1 MiB are read per second. An envelope is cut to 1,024 characters.
 * - **Secrets** are never shown: tokens, tickets, client ids, and payload members with secret
 *   names.
 */
export class Traffic implements Disposable {
  readonly #runtime: Runtime;
  readonly #showsPayloads: boolean;
  /** By session; at most `MAX_FOLLOWED`. */
  readonly #recordings = new Map<Session, TrafficRecording>();
  #timer: Timer | undefined;

  constructor(runtime: Runtime, showsPayloads: boolean) {
    this.#runtime = runtime;
    this.#showsPayloads = showsPayloads;
  }

  /**
   * Reads the envelopes after a number; the first query starts the recording.
   *
   * @param session The session; `undefined` if there is no such session.
   * @param after The `next` of the last response, or 0 for the first query.
   */
  read(session: Session | undefined, id: string, after: number): TrafficReply {
    const known = this.#find(id);
    if (known !== undefined) return known.read(after);
    const none = { entries: [], next: after, missed: 0 };
    if (session === undefined) return { state: after > 0 ? "closed" : "unknown", ...none };
    if (session[internals].queue === undefined) return { state: "none", ...none };
    if (this.#recordings.size >= MAX_FOLLOWED) return { state: "busy", ...none };
    const recording = new TrafficRecording(session, this.#runtime, this.#showsPayloads);
    this.#recordings.set(session, recording);
    this.#timer ??= this.#startTimer();
    return recording.read(after);
  }

  /** Ends all recordings. */
  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const recording of this.#recordings.values()) recording[Symbol.dispose]();
    this.#recordings.clear();
  }

  #find(id: string): TrafficRecording | undefined {
    for (const [session, recording] of this.#recordings) if (session.id === id) return recording;
    return undefined;
  }

  #startTimer(): Timer {
    return this.#runtime.setTimeout(() => {
      this.#timer = undefined;
      const now = this.#runtime.monotonic();
      for (const [session, recording] of this.#recordings) {
        if (now - recording.askedAt < IDLE_MS) continue;
        recording[Symbol.dispose]();
        this.#recordings.delete(session);
      }
      if (this.#recordings.size > 0) this.#timer = this.#startTimer();
    }, IDLE_MS / 2);
  }
}

/** The newest envelopes of one session. */
class TrafficRecording implements FrameTap, Disposable {
  /** Time of the last query, on the monotonic clock. */
  askedAt: number;
  readonly #session: Session;
  readonly #runtime: Runtime;
  readonly #showsPayloads: boolean;
  #entries: TrafficEntry[] = []; // At most `MAX_KEPT`.
  #last = 0;
  /** Start of the current second, and the envelopes and characters read in it. */
  #second = 0;
  #read = 0;
  #readLength = 0;

  constructor(session: Session, runtime: Runtime, showsPayloads: boolean) {
    this.#session = session;
    this.#runtime = runtime;
    this.#showsPayloads = showsPayloads;
    this.askedAt = runtime.monotonic();
    session[internals].tap = this;
  }

  received(frame: Frame): void {
    this.#note("in", frame);
  }

  sent(frame: Frame): void {
    this.#note("out", frame);
  }

  read(after: number): TrafficReply {
    this.askedAt = this.#runtime.monotonic();
    // A page starts with the kept envelopes, even if its number from an earlier recording is
    // larger.
    const from = after > this.#last ? 0 : after;
    const newer = this.#entries.filter(({ n }) => n > from);
    const entries = newer.slice(0, MAX_TOLD);
    const next = newer.length > MAX_TOLD ? entries.at(-1)!.n : this.#last;
    return {
      state: this.#session.isClosed ? "closed" : "following",
      entries,
      next,
      missed: from === 0 ? 0 : next - from - entries.length,
    };
  }

  [Symbol.dispose](): void {
    const core = this.#session[internals];
    if (core.tap === this) core.tap = undefined;
  }

  #note(direction: TrafficEntry["direction"], frame: Frame): void {
    // Most frames contain one envelope; several are joined by line feeds.
    const parts = typeof frame === "string" ? frame.split("\n") : [frame];
    for (const part of parts) {
      if (part === "") continue;
      const n = ++this.#last;
      const now = this.#runtime.now();
      if (now - this.#second >= 1_000 || now < this.#second) {
        this.#second = now;
        this.#read = 0;
        this.#readLength = 0;
      }
      this.#readLength += part.length;
      if (++this.#read > MAX_PER_SECOND || this.#readLength > MAX_LENGTH_PER_SECOND) continue;
      const bytes = typeof part === "string" ? utf8Length(part) : part.length;
      const shown = typeof part === "string" ? this.#ofText(part) : this.#ofBytes(part);
      this.#entries.push({ n, at: now, direction, bytes, ...shown });
      if (this.#entries.length > MAX_KEPT) this.#entries.shift();
    }
  }

  #ofBytes(frame: Uint8Array): Pick<TrafficEntry, "kind" | "topic" | "text"> {
    const parts = isBinaryMessage(frame) ? decodeBinary(frame) : undefined;
    if (parts === undefined) return { kind: "malformed", topic: "", text: "" };
    const shown = this.#ofText(parts.head);
    const binary = `${parts.data.length} bytes`;
    return { ...shown, text: shown.text === "" ? "" : `${shown.text} and ${binary}` };
  }

  #ofText(text: string): Pick<TrafficEntry, "kind" | "topic" | "text"> {
    let envelope: unknown;
    try {
      envelope = JSON.parse(text);
    } catch {
      // The text could contain anything, including a token.
      return { kind: "malformed", topic: "", text: "" };
    }
    if (typeof envelope !== "object" || envelope === null || Array.isArray(envelope)) {
      return { kind: "malformed", topic: "", text: "" };
    }
    return shownEnvelope(envelope as Record<string, unknown>, this.#showsPayloads);
  }
}

/** Keys of envelopes whose values are topics. */
const TOPIC_KEYS = ["topic", "publish", "subscribe", "unsubscribe", "presence", "unsubscribed"];

/** Members of an envelope that hold secrets of the session. */
const SECRET_KEYS = ["auth", "client", "ticket"];

function shownEnvelope(
  envelope: Record<string, unknown>,
  showsPayloads: boolean,
): Pick<TrafficEntry, "kind" | "topic" | "text"> {
  const kind = clip(Object.keys(envelope)[0] ?? "empty", 32);
  const topicKey = TOPIC_KEYS.find((key) => typeof envelope[key] === "string");
  const topic = topicKey === undefined ? "" : String(envelope[topicKey]);
  const shown = { kind, topic: clip(topic, MAX_TOPIC_LENGTH) };
  if (!showsPayloads) return { ...shown, text: "" };
  const safe = { ...envelope };
  for (const key of SECRET_KEYS) if (Object.hasOwn(safe, key)) safe[key] = "[redacted]";
  return { ...shown, text: payloadText(safe) };
}
