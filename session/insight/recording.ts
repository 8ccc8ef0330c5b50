/** Records the messages that peers send, so that a test can play a session again. */
import type { OptionKinds } from "../../base/options.ts";
import { checkOptions, POSITIVE } from "../../base/option_checks.ts";
import type { CloseInfo } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import { internals, type Session } from "../session.ts";
import { decodeBinary, encodeBinary, isBinaryMessage } from "../wire/encode.ts";
import type { Instrumentation } from "./instrumentation.ts";

/** Default of {@linkcode RecordSessionsOptions.maxBytes}. */
const MAX_BYTES = 1_048_576;

/** One event of a recorded session. */
export interface RecordedEvent {
  /** The id of the session. */
  readonly session: string;
  /** Time since the first event of the session, in milliseconds. */
  readonly atMs: number;
  /** First event: the client's URL without a token, and the subprotocol. */
  readonly opened?: { readonly url: string; readonly protocol: string } | undefined;
  /**
   * A frame that the peer sent: one message or several, a line each. Tokens are empty, and so is a
   * malformed frame that may hold one.
   */
  readonly text?: string | undefined;
  /** A binary frame that the peer sent, as Base64; tokens are empty, as in `text`. */
  readonly base64?: string | undefined;
  /** Last event: the end of the session. */
  readonly closed?: Pick<CloseInfo, "code" | "reason" | "by"> | undefined;
  /** Last event: the recording reached `maxBytes`, and later frames are not recorded. */
  readonly cut?: true | undefined;
}

/** Options for {@linkcode recordSessions}. */
export interface RecordSessionsOptions {
  /**
   * Receives each event, as one line of JSON without a newline. Called synchronously; an error is
   * reported like that of a handler.
   */
  readonly write: (line: string) => void;
  /** Selects the sessions to record, when their first frame arrives; by default, all. */
  readonly filter?: ((session: Session) => boolean) | undefined;
  /**
   * Most bytes of lines that are recorded of one session, as UTF-16 units. Lines count, because a
   * peer may send many frames of a single byte.
   *
   * @default {1048576}
   */
  readonly maxBytes?: number | undefined;
}

const OPTIONS: OptionKinds<RecordSessionsOptions> = {
  filter: "function",
  maxBytes: POSITIVE,
  write: "function",
};

/** A session that is being recorded. */
interface Recording {
  readonly startMs: number;
  bytes: number;
  isOver: boolean;
}

/**
 * Records what peers send, as lines of JSON. `playSession` of `@skein/skein/testing` plays such a
 * recording against a test server: a bug report becomes a test.
 *
 * - **Recorded:** frames of messages, with their times, and the end. Streams and datagrams are not.
 * - **Private:** a recording holds all that the user sent. Tokens are left out, headers too; the
 *   secret by which a guest is recognized is not.
 *
 * @param options See {@linkcode RecordSessionsOptions}.
 * @returns Hooks for the option `instrumentation`.
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
 *   instrumentation: recordSessions({ write: (line) => lines.push(line) }),
 *   requests: { greet: ({ data }) => `Hello, ${data}` },
 * });
 * await using session = await server.dial();
 * await session.request("greet", "Ann");
 * const sent = lines.map((line) => JSON.parse(line).text).findLast((text) => text !== undefined);
 * assertEquals(JSON.parse(sent), { topic: "greet", data: "Ann", id: 1 });
 * ```
 */
export function recordSessions(options: RecordSessionsOptions): Instrumentation {
  checkOptions("record sessions", options, OPTIONS);
  const { write, filter = () => true, maxBytes = MAX_BYTES } = options;
  const recordings = new WeakMap<Session, Recording | null>();

  function recordingOf(session: Session): Recording | undefined {
    const known = recordings.get(session);
    if (known !== undefined) return known === null || known.isOver ? undefined : known;
    const { runtime } = session[internals].settings;
    const recording = filter(session) ? { startMs: runtime.now(), bytes: 0, isOver: false } : null;
    recordings.set(session, recording);
    if (recording === null) return undefined;
    write(lineOf(session, recording, { opened: { url: session.url, protocol: session.protocol } }));
    return recording;
  }

  return {
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
      write(recording.isOver ? lineOf(session, recording, { cut: true }) : line);
    },
    sessionClosed(session, { code, reason, by }) {
      const recording = recordingOf(session);
      if (recording === undefined) return;
      recording.isOver = true;
      write(lineOf(session, recording, { closed: { code, reason, by } }));
    },
  };
}

/** Writes an event of a recording as a line. */
function lineOf(
  session: Session,
  { startMs }: Recording,
  event: Omit<RecordedEvent, "session" | "atMs">,
): string {
  const atMs = Math.round(session[internals].settings.runtime.now() - startMs);
  return JSON.stringify({ session: session.id, atMs, ...event });
}

/** A key that signs the client in: JSON allows its letters as escapes too. */
const SIGNS_IN = /"auth"|\\u/;

/**
 * Empties the tokens of a text frame, of one envelope or, on `skein.1`, several lines. A malformed
 * envelope may go on in the next line, so the whole frame is left out.
 */
function cleanText(frame: string, joins: boolean): string {
  const envelopes = (joins ? frame.split("\n") : [frame]).map(withoutToken);
  return envelopes.includes(undefined) ? "" : envelopes.join("\n");
}

/** Empties the token in the head of a binary frame, and returns the frame as Base64. */
function cleanBytes(frame: Extract<Frame, Uint8Array>): string {
  const parts = isBinaryMessage(frame) ? decodeBinary(frame) : undefined;
  if (parts === undefined) {
    return SIGNS_IN.test(new TextDecoder().decode(frame)) ? "" : frame.toBase64();
  }
  const head = withoutToken(parts.head);
  if (head === parts.head) return frame.toBase64();
  return head === undefined ? "" : encodeBinary(head, parts.data).toBase64();
}

/** Empties the token of an envelope; `undefined` if the envelope is malformed and may hold one. */
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
