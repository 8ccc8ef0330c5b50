/** A bidirectional stream with a request and its responses. */
import { within } from "../../base/wait.ts";
import type {
  BidirectionalStream,
  DirectStream,
  DirectWritable,
} from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import type { IntegerCodec } from "../wire/integers.ts";
import { MessageReader } from "../wire/message_reader.ts";
import { codeOf, moqErrorOf, sessionClosed, type SessionContext } from "./context.ts";
import type { StreamRejection } from "./stream_share.ts";

const MAX_POSTED_BYTES = 65_536;

/** A request and its responses, on one bidirectional stream. */
export class Exchange {
  readonly reader: MessageReader;
  /** The reason to reject the request; `undefined` if there is room for it. */
  rejection: StreamRejection | undefined = undefined;
  readonly #stream: DirectStream;
  #isEnded = false;
  #posted = 0;

  /** Takes ownership of a stream; integers are QUIC's by default. */
  constructor(stream: BidirectionalStream, integers?: IntegerCodec) {
    this.#stream = directStream(stream);
    this.reader = new MessageReader(this.#stream, integers);
  }

  /** The direction that this side writes, for data other than messages. */
  get writable(): DirectWritable {
    return this.#stream;
  }

  /** Writes a message; ignored after the end. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#isEnded ? Promise.resolve() : this.#stream.write(bytes);
  }

  /** True while the peer has not accepted all posted messages. */
  get isPosting(): boolean {
    return this.#posted > 0;
  }

  /**
   * Writes a message without waiting. If the write fails, a later read reports it.
   *
   * @returns False if the message was rejected because too many posted bytes are waiting.
   */
  post(bytes: Uint8Array): boolean {
    if (this.#posted > MAX_POSTED_BYTES) return false;
    this.#posted += bytes.byteLength;
    const done = () => void (this.#posted -= bytes.byteLength);
    this.write(bytes).then(done, done);
    return true;
  }

  /** Closes this direction. Never rejects: if the close fails, the stream has ended anyway. */
  async end(): Promise<void> {
    if (this.#isEnded) return;
    this.#isEnded = true;
    await this.#stream.close().catch(() => {});
  }

  /** Closes this direction, and stops reading. */
  leave(code: number): void {
    void this.end();
    this.reader.cancel({ streamErrorCode: code });
  }

  /** Aborts both directions. */
  abort(code: number): void {
    this.reader.cancel({ streamErrorCode: code });
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#stream.abort({ streamErrorCode: code });
  }
}

/** The open requests of a peer besides its subscriptions. */
export class OpenRequests {
  readonly #max: number;
  #open = 0;

  /** Starts without requests. */
  constructor(max: number) {
    this.#max = max;
  }

  /** Serves a request, or rejects it if the peer has too many. */
  run(
    { rejection }: Exchange,
    { serve, reject }: {
      serve(): Promise<void>;
      reject(reason: StreamRejection | "sessionLimit"): void;
    },
  ): Promise<void> {
    const reason = this.#open >= this.#max ? "sessionLimit" : rejection;
    if (reason !== undefined) {
      reject(reason);
      return Promise.resolve();
    }
    this.#open++;
    return serve().finally(() => this.#open--);
  }
}

/**
 * Opens a stream with the type and the first message of moq-lite.
 *
 * @throws As {@linkcode openRequest}.
 */
export function openExchange(
  context: SessionContext,
  type: number,
  { message, signal }: {
    readonly message: Uint8Array;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<Exchange> {
  return openRequest(context, withType(type, message), { signal });
}

/**
 * Opens a stream with the first message.
 *
 * @throws {MoqError} If the session has closed.
 * @throws The reason of the signal, if it aborts before the peer allows the stream and accepts the
 * message.
 */
export async function openRequest(
  context: SessionContext,
  message: Uint8Array,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly integers?: IntegerCodec | undefined;
  },
): Promise<Exchange> {
  const { connection, runtime, signal: over } = context;
  const { signal, integers } = options;
  if (over.aborted) throw sessionClosed(over.reason);
  signal?.throwIfAborted();
  let exchange: Exchange | undefined;
  try {
    exchange = new Exchange(await connection.createBidirectionalStream({ signal }), integers);
    await within(runtime, exchange.write(message), { signal });
    return exchange;
  } catch (error) {
    exchange?.abort(codeOf(context, "subscribe", "cancelled"));
    throw signal?.aborted ? signal.reason : moqErrorOf(context, "session", error);
  }
}

/** Prepends the type of a stream to the first message. */
export function withType(type: number, message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(message.byteLength + 1);
  bytes[0] = type;
  bytes.set(message, 1);
  return bytes;
}
