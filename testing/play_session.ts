/** Replays a recorded session against a test server. */
import type { OptionKinds } from "../base/options/options.ts";
import { checkOptions } from "../base/options/option_checks.ts";
import type { RecordedEvent } from "../session/insight/recording.ts";
import { decodeBinary, encodeBinary, isBinaryMessage } from "../session/wire/encode.ts";
import type { Connection, Frame } from "../transport/connection.ts";
import { TOKEN_MARK } from "../transport/webtransport.ts";
import type { TestRequestOptions, TestServer } from "./test_server.ts";
import { turns } from "./turns.ts";

/** Options for {@linkcode playSession}. */
export interface PlaySessionOptions extends Omit<TestRequestOptions, "path"> {
  /** The id of the session to play; optional if the recording has only one. */
  readonly session?: string | undefined;
  /**
   * The token for sign-ins within the session, because the recording omits tokens; `""` by default.
   */
  readonly token?: string | undefined;
  /**
   * Waits for the recorded time between two frames. By default there is no wait; with fake time,
   * use `(ms) => passTime(time, ms)`.
   */
  readonly wait?: ((ms: number) => Promise<unknown>) | undefined;
}

/** A played session; disposal closes the connection. */
export interface PlayedSession extends AsyncDisposable {
  /** The messages that the server has sent so far, as JSON, or as bytes if binary. */
  readonly received: readonly (string | Uint8Array)[];
  /** The client side of the connection. */
  readonly connection: Connection;
}

const OPTIONS: OptionKinds<PlaySessionOptions> = {
  address: "string",
  headers: 0,
  session: "string",
  token: "string",
  wait: "function",
};

/**
 * Plays the frames of a recorded session against a test server, in order. The option `wait` keeps
 * the recorded times. The server's handlers receive the recorded messages of the client, even if
 * they now respond differently.
 *
 * @param server The server under test.
 * @param recording Lines from `recordSessions`, as one string or as an iterable of lines.
 * @param options See {@linkcode PlaySessionOptions}.
 * @returns The session after the last frame, and after its close if the client closed it.
 * @throws {TypeError} If the recording does not contain the session, or contains several and
 * `session` is absent.
 * @throws {SyntaxError} If a line is not JSON.
 * @throws {ConnectionError} If the server rejected the session of a plain client.
 *
 * @example A bug report becomes a test
 * ```ts
 * import { passTime, playSession, testServer } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * const recording = `{"session":"s1","atMs":0,"opened":{"url":"http://a/","protocol":"skein.1"}}
 * {"session":"s1","atMs":900,"text":"{\\"topic\\":\\"half\\",\\"data\\":3,\\"id\\":1}"}`;
 *
 * using time = new FakeTime();
 * await using server = testServer({ requests: { half: ({ data }) => Number(data) / 2 } });
 * await using played = await playSession(server, recording, {
 *   wait: (ms) => passTime(time, ms),
 * });
 * assertEquals(played.received.at(-1), '{"reply":1,"data":1.5}');
 * ```
 */
export async function playSession(
  server: Pick<TestServer, "network" | "open">,
  recording: string | Iterable<string>,
  options: PlaySessionOptions = {},
): Promise<PlayedSession> {
  checkOptions("play session", options, OPTIONS);
  const { session, token = "", wait, ...request } = options;
  const { opened, events } = eventsOf(recording, session);
  const { pathname, search } = new URL(opened.url, "http://localhost");
  const isPlain = opened.protocol === ""; // A plain WebSocket has no token messages.
  // With credentials in the headers, the first token is a renewal.
  const headers = new Headers(request.headers);
  const isKnown = headers.has("authorization") || headers.has("cookie");
  const announcement = !isKnown && signsInFirst(events) ? [TOKEN_MARK] : [];
  const connection = await server.open({
    ...request,
    path: pathname + search,
    protocols: isPlain ? [] : [opened.protocol, ...announcement],
  });
  const received = collect(connection);
  let nowMs = 0;
  for (const { atMs, text, base64, closed } of events) {
    await turns();
    if (atMs > nowMs) await wait?.(atMs - nowMs);
    nowMs = Math.max(atMs, nowMs);
    const frame = text ?? (base64 === undefined ? undefined : Uint8Array.fromBase64(base64));
    if (frame !== undefined) connection.frames!.send(isPlain ? frame : withToken(frame, token));
    if (closed?.by === "network") server.network.linkOf({ connection }).disconnect();
    if (closed?.by === "remote") {
      connection.close({ closeCode: closed.code, reason: closed.reason });
    }
  }
  await turns();
  return {
    connection,
    received,
    [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose](),
  };
}

/** Checks whether the first frame has a token, which a client without credentials announces. */
function signsInFirst(events: readonly RecordedEvent[]): boolean {
  const { text = "" } = events.find(({ text, base64 }) => (text ?? base64) !== undefined) ?? {};
  const [envelope = ""] = text.split("\n", 1);
  return envelope.includes('"auth":""') && JSON.parse(envelope).auth === "";
}

/** Finds the events of one session. */
function eventsOf(
  recording: string | Iterable<string>,
  session: string | undefined,
): { opened: NonNullable<RecordedEvent["opened"]>; events: readonly RecordedEvent[] } {
  const lines = typeof recording === "string" ? recording.split("\n") : [...recording];
  const all: RecordedEvent[] = lines.filter((line) => line.trim() !== "").map((line) =>
    JSON.parse(line)
  );
  const ids = [...new Set(all.map((event) => event.session))];
  const id = session ?? (ids.length === 1 ? ids[0] : undefined);
  const [first, ...events] = all.filter((event) => event.session === id);
  if (first?.opened !== undefined) return { opened: first.opened, events };
  const wanted = session === undefined ? "one session from its start" : `session "${session}"`;
  throw new TypeError(
    `Cannot play session: the recording must have ${wanted}, received sessions: ${
      ids.join(", ") || "none"
    }`,
  );
}

/** Collects the messages of the server. */
function collect({ frames }: Connection): (string | Uint8Array)[] {
  const received: (string | Uint8Array)[] = [];
  frames!.receive({
    receiveFrame(frame) {
      if (typeof frame !== "string") received.push(frame);
      else received.push(...frame.split("\n").filter((text) => text !== ""));
    },
    framesEnded() {},
  });
  return received;
}

/** Fills in the token that the recording omits. */
function withToken(frame: Frame, token: string): Frame {
  const fill = (envelope: string): string => {
    if (!envelope.includes('"auth":""')) return envelope;
    const { auth, ...rest } = JSON.parse(envelope);
    return auth === "" ? JSON.stringify({ auth: token, ...rest }) : envelope;
  };
  if (typeof frame === "string") return frame.split("\n").map(fill).join("\n");
  const parts = isBinaryMessage(frame) ? decodeBinary(frame) : undefined;
  return parts?.head.includes('"auth":""') ? encodeBinary(fill(parts.head), parts.data) : frame;
}
