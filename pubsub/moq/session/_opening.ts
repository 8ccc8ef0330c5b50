/**
 * Connections whose setup is under way or failed.
 *
 * @module
 */
import { ConnectionError, ProtocolError, StreamError } from "../../../errors.ts";
import { platformSchedule } from "../../../session/queue/schedule.ts";
import type { BidirectionalStream, Connection } from "../../../transport/connection.ts";
import { within } from "../../../transport/within.ts";
import { moqErrorCode, type MoqErrorFamily, moqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import { TruncatedError } from "../wire/message_reader.ts";
import { GOMOQT_ALPN, type MoqVersion } from "../wire/versions.ts";

/**
 * Time after the end of the streams in which a connection may still give the reason, in
 * milliseconds.
 */
const END_GRACE_MS = 250;

/**
 * Waits for a setup, but no longer than for the end of the connection plus the rest of that turn of
 * the event loop: a setup that is done by then counts, and an error of the setup says more than the
 * end of the connection.
 *
 * @throws {ConnectionError} If the connection ends first.
 */
export function whileConnected<T>({ closed }: Connection, setup: Promise<T>): Promise<T> {
  let isDone = false;
  const done = () => void (isDone = true);
  setup.then(done, done);
  const ended = async (cause?: unknown): Promise<never> => {
    if (!isDone) await new Promise<void>(platformSchedule());
    if (cause instanceof ConnectionError) throw cause;
    throw new ConnectionError("The connection ended before the setup", { cause });
  };
  return Promise.race([setup, closed.then(() => ended(), ended)]);
}

/**
 * Finds why the setup of a client failed. If the server closed the connection with a code, the
 * cause is an error with that code. Streams may report the end, without a code, before the
 * connection does.
 */
export async function causeOf(
  connection: Connection,
  error: unknown,
  family: MoqErrorFamily,
): Promise<unknown> {
  const isOfEnd = [ConnectionError, StreamError, TruncatedError].some((type) =>
    error instanceof type
  );
  if (!isOfEnd) return error;
  const info = await within(connection.closed, { timeoutMs: END_GRACE_MS }).catch(() => undefined);
  const { closeCode: moqCode = 0, reason: text = "" } = info ?? {};
  if (moqCode === 0) return error;
  const families = [family, family === "gomoqt" ? "moq-lite" : "gomoqt"] as const;
  const reason = families.map((one) => moqErrorName("session", moqCode, one))
    .find((name) => name !== "unknown") ?? "unknown";
  return new MoqError(
    "session",
    reason,
    `The server ended the setup with code ${moqCode} (${reason})${text && `: ${text}`}`,
    { moqCode, by: "remote", cause: error },
  );
}

/** Takes the first stream of a peer. */
export async function nextOf(
  streams: AsyncIterator<BidirectionalStream>,
): Promise<BidirectionalStream> {
  const { done, value } = await streams.next();
  if (done) throw new ConnectionError("The connection ended before the setup");
  return value;
}

/** Guesses the error code family of a peer before the first message of the peer. */
export function familyOf(
  { protocol }: Connection,
  { family, versions }: {
    readonly family?: MoqErrorFamily;
    readonly versions?: readonly MoqVersion[];
  },
): MoqErrorFamily {
  if (family !== undefined) return family;
  const isGomoqt = protocol === GOMOQT_ALPN || protocol === "moq-lite-04" ||
    protocol === "" && versions?.includes("gomoqt-dev") === true;
  return isGomoqt ? "gomoqt" : "moq-lite";
}

/** Closes a connection whose setup failed. */
export function refuse(connection: Connection, error: unknown, family: MoqErrorFamily): void {
  let closeCode = moqErrorCode("session", "setupFailed", family);
  let reason = "The setup failed";
  if (error instanceof MoqError) {
    closeCode = error.moqCode ?? moqErrorCode("session", error.reason, family);
    reason = error.message;
  } else if (error instanceof ProtocolError) {
    closeCode = moqErrorCode("session", "protocolViolation", family);
    reason = error.message;
  }
  try {
    connection.close({ closeCode, reason });
  } catch {
    // The application chose a number that the wire cannot carry.
    connection.close({ reason });
  }
}
