/**
 * The end that files are sent to.
 *
 * @module
 */
import { RequestError, serve, type Server, type Session } from "../../mod.ts";
import { type Offer, transfer } from "./contract.ts";
import { Inbox } from "./inbox.ts";

/** Sessions at once, and so files. */
const MAX_SESSIONS = 64;

/** How often the sender is told how much is on the disk: in so many steps. */
const STEPS = 100;

/** A file that a session sends. */
interface Upload {
  readonly file: Offer;
  /** How much of it was there when it was offered: its stream begins there. */
  readonly offset: number;
  /** Resolves once all of it is on the disk; rejects if its stream is cut, or the sender gives up. */
  readonly whole: PromiseWithResolvers<void>;
}

/** Serves a folder. In earnest, `authenticate` says who may send. */
export function receiveInto(folder: string, port: number): Server<unknown, typeof transfer> {
  const inbox = new Inbox(folder);
  const uploads = new WeakMap<object, Upload>();
  return serve({
    port,
    contract: transfer,
    limits: { maxSessions: MAX_SESSIONS },
    onListen() {},
    onOpen: (session) => void takeStreams(session), // Not awaited: messages would wait for it.
    async onMessage(message, session) {
      if (message.pattern === "offer") {
        const file = message.data;
        const offset = await inbox.offsetOf(file);
        const upload = { file, offset, whole: Promise.withResolvers<void>() };
        upload.whole.promise.catch(() => {}); // `finish` tells of it, if it is asked.
        if (offset === file.size) upload.whole.resolve();
        uploads.set(session, upload);
        message.reply({ offset });
      } else if (message.pattern === "finish") {
        const upload = uploads.get(session);
        if (upload === undefined) throw new RequestError("unknown", "No file was offered");
        // It overtakes the last bytes of the stream. The signal ends with the session, too.
        message.signal.addEventListener("abort", () => upload.whole.reject(message.signal.reason));
        await upload.whole.promise.catch(() => {
          throw new RequestError("incomplete", "Some of it is missing");
        });
        const path = await inbox.keep(upload.file);
        if (path === undefined) throw new RequestError("mismatch", "The hash is another");
        message.reply({ path });
      }
    },
  });

  /** Takes one stream after the other, until the session is over. */
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
      } catch { // A stream that is cut is the end of nothing else.
        stream.readable.cancel().catch(() => {});
      }
      upload?.whole.reject(new Error("The stream ended early")); // Unless it is whole.
    }
  }
}
