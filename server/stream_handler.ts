/**
 * Hands the streams of a session's peer to the application, each as it comes.
 *
 * @module
 */
import { CloseCode } from "../errors.ts";
import { internals } from "../session/core.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import { directReadable, directStream } from "../transport/direct.ts";
import { report } from "../session/report.ts";

/** What the application does with a stream. */
export type StreamHandler = (stream: IncomingStream, session: Session) => void | Promise<void>;

/**
 * Takes the streams of a session until it ends. A handler is not waited for: how many run at once
 * is bounded by the streams that the peer may have open.
 *
 * @param session The session.
 * @param handle Gets each stream; where it fails the stream ends with code 4500, and `onError` is told.
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

/** Ends what is left of a stream, for its peer to know that nobody goes on. */
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
    // The handler has it locked, and its own lock ends with the session at the latest.
  }
}
