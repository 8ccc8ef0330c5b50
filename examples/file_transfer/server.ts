/**
 * The receiver of files.
 *
 * @module
 */
import { RequestError, serve, type Server, type Session } from "../../mod.ts";
import { type Offer, transfer } from "./contract.ts";
import { Inbox } from "./inbox.ts";

/** Maximum concurrent sessions, and so maximum concurrent files. */
const MAX_SESSIONS = 64;

/** Number of progress reports for each file. */
const STEPS = 100;

/** A file that a session sends. */
interface Upload {
  readonly file: Offer;
  /** Number of bytes that were stored when the file was offered; the stream starts there. */
  readonly offset: number;
  /** Resolves once the file is complete; rejects if the stream is cut or the sender aborts. */
  readonly whole: PromiseWithResolvers<void>;
}

/** Serves a folder. A real application restricts senders with `authenticate`. */
export function receiveInto(folder: string, port: number): Server<unknown, typeof transfer> {
  const inbox = new Inbox(folder);
  const uploads = new WeakMap<object, Upload>();
  return serve({
    port,
    contract: transfer,
    limits: { maxSessions: MAX_SESSIONS },
    onListen() {},
    onOpen: (session) => void takeStreams(session), // Not awaited: messages wait until `onOpen` is done.
    async onMessage(message, session) {
      if (message.pattern === "offer") {
        const file = message.data;
        const offset = await inbox.offsetOf(file);
        const upload = { file, offset, whole: Promise.withResolvers<void>() };
        upload.whole.promise.catch(() => {}); // `finish` reports the error, if requested.
        if (offset === file.size) upload.whole.resolve();
        uploads.set(session, upload);
        message.reply({ offset });
      } else if (message.pattern === "finish") {
        const upload = uploads.get(session);
        if (upload === undefined) throw new RequestError("unknown", "No file was offered");
        // `finish` may overtake the last bytes of the stream. The signal also aborts when the
        // session ends.
        message.signal.addEventListener("abort", () => upload.whole.reject(message.signal.reason));
        await upload.whole.promise.catch(() => {
          throw new RequestError("incomplete", "The file is incomplete");
        });
        const path = await inbox.keep(upload.file);
        if (path === undefined) throw new RequestError("mismatch", "The hash differs");
        message.reply({ path });
      }
    },
  });

  /** Reads one stream after another until the session ends. */
  async function takeStreams(session: Pick<Session, "incomingStreams" | "send">): Promise<void> {
    for await (const stream of session.incomingStreams()) {
      const upload = uploads.get(session);
      let told = 0;
      try {
        if (upload === undefined) throw new TypeError("No file was offered");
        const { file, offset } = upload;
        await inbox.write({ file, offset, bytes: stream.readable }, (bytes) => {
          if (bytes === file.size) upload.whole.resolve();
          if (bytes < file.size && bytes - told < file.size / STEPS) return;
          session.send("stored", { bytes: told = bytes });
        });
      } catch { // A cut stream ends only this upload.
        stream.readable.cancel().catch(() => {});
      }
      upload?.whole.reject(new Error("The stream ended early")); // No effect on a complete file.
    }
  }
}
