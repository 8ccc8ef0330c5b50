/** Records the messages that peers send, so that a test can replay a session. */
import { attempt } from "../../base/call_safely.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, POSITIVE } from "../../base/options/option_checks.ts";
import type { CloseInfo } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import { internals, type Session } from "../session.ts";
import { report } from "../settings/settings.ts";
import { decodeBinary, encodeBinary, isBinaryMessage } from "../wire/encode.ts";
import type { Instrumentation } from "./instrumentation.ts";

const MAX_BYTES = 1_048_576;

/** One event of a recorded session. */
export interface RecordedEvent {
  /** The id of the session. */
  readonly session: string;
  /** Time since the first event of the session, in milliseconds. */
  readonly atMs: number;
  /** In the first event: the client's URL without a token, and the subprotocol. */
  readonly opened?: { readonly url: string; readonly protocol: string } | undefined;
  /**
   * A frame that the peer sent. It contains one or several messages, one per line. Tokens are
   * replaced by empty strings. A malformed frame that may contain a token is also replaced by an
   * empty string.
   */
  readonly text?: string | undefined;
  /** A binary frame that the peer sent, in Base64. Tokens are replaced as in `text`. */
  readonly base64?: string | undefined;
  /** In the last event: how the session closed. */
  readonly closed?: Pick<CloseInfo, "code" | "reason" | "by"> | undefined;
  /** In the last event: the recording has reached `maxBytes`, and later frames are not recorded. */
  readonly cut?: true | undefined;
}

/** Options for {@linkcode recordSessions}. */
export interface RecordSessionsOptions {
  /**
   * Receives each event, as one line of JSON without a newline. It is called synchronously. If it
   * throws or rejects, the error is reported like that of a handler.
   */
  readonly write: (line: string) => void;
  /** Selects the sessions to record, when their first frame arrives; by default, all. */
  readonly filter?: ((session: Session) => boolean) | undefined;
  /**
   * The limit for the recorded lines of one session, in UTF-16 units. Whole lines are counted,
   * because a peer may send many frames of a single byte.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number | undefined;
}

/** The hooks of {@linkcode recordSessions}, which are also a feature of a server. */
export interface SessionRecorder extends Instrumentation {
  /** Name of the feature. */
  readonly name: string;
  /** Adds the hooks to a server. */
  mount(): {
    /** The hooks. */
    readonly instrumentation: Instrumentation;
  };
}

const OPTIONS: OptionKinds<RecordSessionsOptions> = {
  filter: "function",
  maxBytes: POSITIVE,
  write: "function",
};

interface Recording {
  readonly startMs: number;
  bytes: number;
  isOver: boolean;
}

/**
 * Records what peers send, as lines of JSON. `playSession` of `@skein/skein/testing` replays such a
 * recording against a test server, which turns a bug report into a test.
 *
 * - **Content:** a recording contains message frames with their times, and how the session closed.
 *   Streams and datagrams are not recorded.
 * - **Privacy:** a recording contains everything that the user sent. It does not contain tokens or
 *   headers, but it does contain the secret that identifies a guest.
 *
 * @param options See {@linkcode RecordSessionsOptions}.
 * @returns A feature of `serve`, whose hooks are also the option `instrumentation` of a client.
 * @throws {TypeError} If an option has another type.
 * @throws {RangeError} If `maxBytes` is not a positive integer.
 *
 * @example Usage
 * ```ts
 * import { recordSessions } from "@skein/skein/session";
 * import { testServer } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const lines: string[] = [];
 * await using server = testServer({
 *   features: [recordSessions({ write: (line) => lines.push(line) })],
 *   requests: { greet: ({ data }) => `Hello, ${data}` },
 * });
 * await using session = await server.dial();
 * await session.request("greet", "Ann");
 * const sent = lines.map((line) => JSON.parse(line).text).findLast((text) => text !== undefined);
 * assertEquals(JSON.parse(sent), { topic: "greet", data: "Ann", id: 1 });
 * ```
 */
export function recordSessions(options: RecordSessionsOptions): SessionRecorder {
  checkOptions("record sessions", options, OPTIONS);
  const { write, filter = () => true, maxBytes = MAX_BYTES } = options;
  const recordings = new WeakMap<Session, Recording | null>();

  function put(session: Session, line: string): void {
    const failed = (error: unknown) => report(session[internals].settings, error, session);
    attempt(() => write(line), failed);
  }

  function recordingOf(session: Session): Recording | undefined {
    const known = recordings.get(session);
    if (known !== undefined) return known === null || known.isOver ? undefined : known;
    const { runtime } = session[internals].settings;
    const selected: unknown = filter(session);
    const isSelected = selected && !(selected instanceof Promise);
    const recording = isSelected ? { startMs: runtime.now(), bytes: 0, isOver: false } : null;
    recordings.set(session, recording);
    if (selected instanceof Promise) {
      selected.catch(() => {}); // Nothing awaits this promise.
      throw new TypeError(
        "Cannot record session: filter must return true or false, received a promise",
      );
    }
    if (recording === null) return undefined;
    put(
      session,
      lineOf(session, recording, { opened: { url: session.url, protocol: session.protocol } }),
    );
    return recording;
  }

  const hooks: Instrumentation = {
    sessionOpened: (session) => void recordingOf(session),
    received(session, frame) {
      const recording = recordingOf(session);
      if (recording === undefined) return;
      const isText = typeof frame === "string";
      const line = lineOf(
        session,
        recording,
        isText
          ? { text: cleanText(frame, session[internals].joins) }
          : { base64: cleanBytes(frame) },
      );
      recording.bytes += line.length;
      recording.isOver = recording.bytes > maxBytes;
      put(session, recording.isOver ? lineOf(session, recording, { cut: true }) : line);
    },
    sessionClosed(session, { code, reason, by }) {
      const recording = recordingOf(session);
      if (recording === undefined) return;
      recording.isOver = true;
      put(session, lineOf(session, recording, { closed: { code, reason, by } }));
    },
  };
  return { ...hooks, name: "recording", mount: () => ({ instrumentation: hooks }) };
}

function lineOf(
  session: Session,
  { startMs }: Recording,
  event: Omit<RecordedEvent, "session" | "atMs">,
): string {
  const atMs = Math.round(session[internals].settings.runtime.now() - startMs);
  return JSON.stringify({ session: session.id, atMs, ...event });
}

/** The key that signs a client in. In JSON, its letters may also be written as escapes. */
const SIGNS_IN = /"auth"|\\u/;

/**
 * Empties the tokens in a text frame, which is one envelope, or on `skein.1` several lines. A
 * malformed envelope may continue on the next line, so the whole frame is omitted in this case.
 */
function cleanText(frame: string, joins: boolean): string {
  const envelopes = (joins ? frame.split("\n") : [frame]).map(withoutToken);
  return envelopes.includes(undefined) ? "" : envelopes.join("\n");
}

/** Empties the token in the head of a binary frame, and returns the frame in Base64. */
function cleanBytes(frame: Extract<Frame, Uint8Array>): string {
  const parts = isBinaryMessage(frame) ? decodeBinary(frame) : undefined;
  if (parts === undefined) {
    return SIGNS_IN.test(new TextDecoder().decode(frame)) ? "" : frame.toBase64();
  }
  const head = withoutToken(parts.head);
  if (head === parts.head) return frame.toBase64();
  return head === undefined ? "" : encodeBinary(head, parts.data).toBase64();
}

/**
 * Empties the token of an envelope; `undefined` if the envelope is malformed and may contain one.
 */
function withoutToken(text: string): string | undefined {
  if (!SIGNS_IN.test(text)) return text;
  try {
    const envelope = JSON.parse(text);
    if (!Object.hasOwn(envelope, "auth")) return text;
    return JSON.stringify({ ...envelope, auth: "" });
  } catch {
    return undefined;
  }
}
