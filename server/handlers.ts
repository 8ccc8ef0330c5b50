/** Converts handlers of the application to handlers of sessions. */
import { CloseCode, ConnectionError, SessionClosedError } from "../errors.ts";
import type { Contract } from "../session/contract.ts";
import { internals } from "../session/core.ts";
import type { Session } from "../session/session.ts";
import type { SessionHandlers } from "../session/settings/session_settings.ts";
import { report } from "../session/settings/settings.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import { directStream } from "../transport/direct.ts";
import type { ValueOf } from "./admission/guest.ts";
import type { ServerOptions } from "./server_options.ts";

/**
 * Picks the session handlers from the options of a server.
 *
 * @returns The handlers. With `onStream`, opening a session also starts to read its streams.
 */
export function pickHandlers<V, C extends Contract>(
  options: ServerOptions<V, C>,
): SessionHandlers<ValueOf<V>, C, "server"> {
  const { onMessage, onClose, onError, onHandlerError, onMessageRejected } = options;
  const onOpen = openHandler(options);
  // Without `onOpen`, no loop starts. A table without handlers rejects requests immediately.
  const requests = options.requests ?? (onMessage ?? options.onOpen ? undefined : {});
  return { onOpen, onMessage, requests, onClose, onError, onHandlerError, onMessageRejected };
}

/** Reads streams from the start of a session, before `onOpen` has finished. */
function openHandler<V, C extends Contract>(
  { onOpen, onStream }: ServerOptions<V, C>,
): ServerOptions<V, C>["onOpen"] {
  if (onStream === undefined) return onOpen;
  return (session) => {
    void handleStreams(session as Session, onStream as StreamHandler);
    return onOpen?.(session);
  };
}

type StreamHandler = (stream: IncomingStream, session: Session) => unknown;

/**
 * Accepts the streams of a session until it closes, without waiting for handlers. The number of
 * concurrent handlers is limited by the number of streams that the peer may open.
 *
 * @param handle Handler of each stream. An error resets the stream with code 4500 and is reported
 * to `onError`, unless it only says that the session has closed.
 */
async function handleStreams(session: Session, handle: StreamHandler): Promise<void> {
  const { settings } = session[internals];
  try {
    for await (const stream of session.incomingStreams()) {
      (async () => await handle(stream, session))().catch((error) => {
        // Each session may close while its streams are open, and `onClose` receives the reason.
        if (session.isReady || !isOfClosing(error)) report(settings, error, session);
        end(stream);
      });
    }
  } catch (error) {
    report(settings, error, session);
  }
}

/** True for the error of reading, writing or sending in a session that has closed. */
function isOfClosing(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof SessionClosedError;
}

/** Ends the unread rest of a stream, so that the peer does not wait. */
function end(stream: IncomingStream): void {
  const reason = { streamErrorCode: CloseCode.handlerFailed };
  try {
    if (stream.direction === "unidirectional") {
      directStream(stream.readable).cancel(reason);
    } else {
      const direct = directStream(stream);
      direct.cancel(reason);
      direct.abort(reason);
    }
  } catch {
    // The handler holds a lock, which is released when the session closes, if not earlier.
  }
}
