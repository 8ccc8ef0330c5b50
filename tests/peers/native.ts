/**
 * The W3C `WebTransport` of browsers, over a memory pair.
 *
 * @module
 */
import { ConnectionError, StreamError } from "../../errors.ts";
import type { BidirectionalStream, Connection } from "../../transport/connection.ts";
import { type MemoryPair, memoryPair } from "../../transport/memory/memory.ts";

/** The parts of the standard that the simulated browser supports. */
export interface NativeTraits {
  /** True if a client can offer protocols and can read the selected one. */
  readonly protocol?: boolean;
  readonly draining?: boolean;
  readonly stats?: boolean;
  /** True if datagrams have `createWritable()` instead of `writable`. */
  readonly createWritable?: boolean;
  /** False for a platform without `datagrams`, such as WebKit on iOS. */
  readonly datagrams?: boolean;
  /** The value of `reliability`; absent by default. */
  readonly reliability?: string;
  /** True if stream errors follow the newer draft of the standard. */
  readonly newErrors?: boolean;
  /** True if `isSecureContext` is a global. */
  readonly page?: boolean;
}

/** A call of the constructor. */
export interface NativeCall {
  readonly url: string;
  /** The options, such as protocols and hashes. */
  readonly options: { protocols?: string[]; serverCertificateHashes?: unknown[] };
  readonly pair: MemoryPair;
}

/** The globals of a browser, until disposed of. */
export class NativePlatform implements Disposable {
  /** The calls of the constructor so far. */
  readonly calls: NativeCall[] = [];
  /** Resolves when the handshake is done; immediately by default. */
  ready: Promise<void> = Promise.resolve();
  /** Current listeners of `pagehide`. */
  readonly pageHide: Set<EventListenerOrEventListenerObject> = new Set();
  readonly #before: [string, PropertyDescriptor | undefined][];

  /**
   * Installs the globals.
   *
   * @param traits The supported parts.
   */
  constructor(traits: NativeTraits = {}) {
    const { protocol = true, draining = true, stats = true, createWritable = false } = traits;
    const { datagrams = true } = traits;
    const NativeError = traits.newErrors ? NewError : OldError;
    const { calls, pageHide } = this;
    const ready = () => this.ready;

    class WebTransport {
      readonly #end: Connection;
      readonly ready: Promise<void>;
      readonly closed: Promise<unknown>;
      readonly datagrams: unknown;
      readonly reliability: string | undefined;
      readonly incomingBidirectionalStreams: ReadableStream<BidirectionalStream>;
      readonly incomingUnidirectionalStreams: ReadableStream<ReadableStream<Uint8Array>>;

      constructor(url: string, options: NativeCall["options"]) {
        if (new URL(url).protocol !== "https:") throw new DOMException("No https", "SyntaxError");
        const chosen = options.protocols?.[0] ?? new URL(url).searchParams.get("protocol") ?? "";
        const pair = memoryPair({ frames: false, protocol: chosen });
        calls.push({ url, options, pair });
        const end = this.#end = pair.client;
        const convert = (error: unknown): unknown => toNative(error, NativeError);
        this.ready = ready();
        this.closed = end.closed.catch((error) => {
          throw convert(error);
        });
        this.closed.catch(() => {});
        this.ready.catch(() => {});
        const { readable, writable, maxDatagramSize } = end.datagrams;
        this.datagrams = datagrams
          ? {
            readable,
            maxDatagramSize,
            ...(createWritable ? { createWritable: () => writable } : { writable }),
          }
          : undefined;
        this.reliability = traits.reliability;
        const wrap = (stream: BidirectionalStream) => ({
          readable: reading(stream.readable, NativeError),
          writable: writing(stream.writable, NativeError),
        });
        this.incomingBidirectionalStreams = end.incomingBidirectionalStreams.pipeThrough(
          new TransformStream({ transform: (stream, to) => to.enqueue(wrap(stream)) }),
        );
        this.incomingUnidirectionalStreams = end.incomingUnidirectionalStreams.pipeThrough(
          new TransformStream({
            transform: (stream, to) => to.enqueue(reading(stream, NativeError)),
          }),
        );
        this.createBidirectionalStream = async (options: object) =>
          wrap(await opened(end.createBidirectionalStream(options)));
        this.createUnidirectionalStream = async (options: object) =>
          writing(await opened(end.createUnidirectionalStream(options)), NativeError);
      }

      readonly createBidirectionalStream: (options: object) => Promise<BidirectionalStream>;
      readonly createUnidirectionalStream: (options: object) => Promise<WritableStream<Uint8Array>>;

      close(info: object): void {
        this.#end.close(info);
      }

      get protocol(): string {
        return this.#end.protocol;
      }

      get draining(): Promise<void> {
        return this.#end.draining;
      }

      async getStats(): Promise<object> {
        return { ...await this.#end.getStats(), smoothedRtt: 1 };
      }
    }

    const members: Record<string, unknown> = WebTransport.prototype as never;
    if (!protocol) delete members.protocol;
    if (!draining) delete members.draining;
    if (!stats) delete members.getStats;
    Object.defineProperty(WebTransport.prototype, "ready", { value: undefined, writable: true });
    const globals: Record<string, unknown> = {
      WebTransport,
      WebTransportError: NativeError,
      isSecureContext: traits.page,
      addEventListener: (type: string, listener: EventListenerOrEventListenerObject) => {
        if (type === "pagehide") pageHide.add(listener);
      },
      removeEventListener: (type: string, listener: EventListenerOrEventListenerObject) => {
        if (type === "pagehide") pageHide.delete(listener);
      },
    };
    this.#before = Object.keys(globals).map((name) => [
      name,
      Object.getOwnPropertyDescriptor(globalThis, name),
    ]);
    for (const [name, value] of Object.entries(globals)) {
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    }
  }

  /** Simulates leaving the page. */
  leavePage(): void {
    const event = new Event("pagehide");
    for (const listener of [...this.pageHide]) {
      if (typeof listener === "function") listener(event);
      else listener.handleEvent(event);
    }
  }

  [Symbol.dispose](): void {
    for (const [name, before] of this.#before) {
      if (before) Object.defineProperty(globalThis, name, before);
      else delete (globalThis as Record<string, unknown>)[name];
    }
  }
}

/** A browser's error, with the fields that the standard adds. */
class NativeErrorBase extends DOMException {
  /** The code, or `null` for errors that do not concern a stream. */
  readonly streamErrorCode: number | null;
  readonly source: "stream" | "session";

  constructor(message: string, source: "stream" | "session", code: number | null) {
    super(message, "WebTransportError");
    this.source = source;
    this.streamErrorCode = code;
  }
}

type NativeErrorClass = typeof OldError | typeof NewError;

/** The error that current browsers throw. */
class OldError extends NativeErrorBase {
  constructor(init: { streamErrorCode?: number; source?: "session" } = {}) {
    if (typeof init !== "object") throw new TypeError("Not a WebTransportErrorInit");
    super("", init.source ?? "stream", init.streamErrorCode ?? null);
  }

  static from(source: "session" | "stream", code: number | undefined): OldError {
    return new OldError({
      ...(source === "session" && { source }),
      ...(code !== undefined && { streamErrorCode: code }),
    });
  }
}

/** The error that the newer draft of the standard defines. */
class NewError extends NativeErrorBase {
  constructor(
    message: unknown = "",
    init: { streamErrorCode?: number; source?: "session" | "stream" } = {},
  ) {
    super(String(message), init.source ?? "stream", init.streamErrorCode ?? null);
  }

  static from(source: "session" | "stream", code: number | undefined): NewError {
    return new NewError("", { source, ...(code !== undefined && { streamErrorCode: code }) });
  }
}

function toNative(error: unknown, NativeError: NativeErrorClass): unknown {
  if (error instanceof StreamError) return NativeError.from("stream", error.streamErrorCode);
  return error instanceof ConnectionError ? NativeError.from("session", undefined) : error;
}

/** Browsers read a code only from their own error class. */
function codeIn(reason: unknown): object {
  return reason instanceof NativeErrorBase ? { streamErrorCode: reason.streamErrorCode ?? 0 } : {};
}

async function opened<T>(opening: Promise<T>): Promise<T> {
  try {
    return await opening;
  } catch {
    throw new DOMException("The transport is closed", "InvalidStateError");
  }
}

function reading(
  source: ReadableStream<Uint8Array>,
  NativeError: NativeErrorClass,
): ReadableStream<Uint8Array> {
  const reader = source.getReader();
  return new ReadableStream({
    type: "bytes",
    start(controller) {
      // An error of the source ends the stream even without a pending read.
      reader.closed.catch((error) => controller.error(toNative(error, NativeError)));
    },
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (!done) return controller.enqueue(new Uint8Array(value));
        controller.close();
        controller.byobRequest?.respond(0);
      } catch (error) {
        throw toNative(error, NativeError);
      }
    },
    cancel: (reason) => reader.cancel(codeIn(reason)),
  });
}

function writing(
  sink: WritableStream<Uint8Array>,
  NativeError: NativeErrorClass,
): WritableStream<Uint8Array> {
  const writer = sink.getWriter();
  return new WritableStream({
    start(controller) {
      writer.closed.catch((error) => controller.error(toNative(error, NativeError)));
      controller.signal.addEventListener("abort", () => {
        writer.abort(codeIn(controller.signal.reason)).catch(() => {});
      });
    },
    write: (chunk) =>
      writer.write(chunk).catch((error) => {
        throw toNative(error, NativeError);
      }),
    close: () => writer.close(),
  });
}
