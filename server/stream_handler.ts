/** Passes the streams of a session to the handler of the application. */
import { CloseCode } from "../errors.ts";
import { internals } from "../session/core.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import { directReadable, directStream } from "../transport/direct.ts";
import { report } from "../session/report.ts";

/** Handles one stream. */
export type StreamHandler = (stream: IncomingStream, session: Session) => void | Promise<void>;

/**
 * Takes the streams of a session until its end, without waiting for handlers. The number of
 * handlers at once is bounded by the streams that the peer may have open.
 *
 * @param session The session.
 * @param handle Handler of each stream. An error ends the stream with code 4500 and is reported to
 * `onError`.
 */
export async function handleStreams(session: Session, handle: StreamHandler): Promise<void> {
  const { settings } = session[internals];
  try {
    for await (const stream of session.incomingStreams()) {
      handleStream(session, stream, handle).catch((error) => {
        report(settings, error, session);
        end(stream);
      });
    }
  } catch (error) {
    report(settings, error, session);
  }
}

async function handleStream(
  session: Session,
  stream: IncomingStream,
  handle: StreamHandler,
): Promise<void> {
  await handle(stream, session);
}

/** Ends the rest of a stream, so that the peer does not wait. */
function end(stream: IncomingStream): void {
  const reason = { streamErrorCode: CloseCode.handlerFailed };
  try {
    if (stream.direction === "unidirectional") {
      directReadable(stream.readable).cancel(reason);
    } else {
      const direct = directStream(stream);
      direct.cancel(reason);
      direct.abort(reason);
    }
  } catch {
    // The handler holds a lock, which ends with the session at the latest.
  }
}
