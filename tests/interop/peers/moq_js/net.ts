/**
 * Adapts `@moq/net` to the scenarios.
 *
 * @module
 */
import type {
  AnyReader,
  AnySession,
  AnyWriter,
  FetchedGroup,
  GroupReader,
  Track,
  Tracks,
} from "./scenarios.ts";
import type { Transport } from "./transport.ts";

export interface Library {
  /** Dials with the library's own transport, or with the transport in the options. */
  connect(url: URL, options: object): Promise<VersionedSession>;
  /** Serves a session. */
  accept(transport: Transport, url: URL, options: object): Promise<VersionedSession>;
}

/** A session that knows its protocol version. */
export interface VersionedSession extends AnySession {
  /** The version of the protocol. */
  readonly version: string;
}

/** The part of the library's exports that is used. */
interface Net {
  readonly Connection: {
    connect(url: URL, options: object): Promise<Connection>;
    accept(transport: unknown, url: URL, options: object): Promise<Connection>;
  };
  readonly Broadcast: { readonly Producer: new () => Broadcast };
  readonly Time: { readonly Timestamp: { now(): unknown } };
}

interface Connection {
  readonly version: string;
  readonly closed: Promise<void>;
  announced(prefix: string): {
    next(): Promise<{ readonly path: string; readonly active: boolean } | undefined>;
  };
  publish(path: string, broadcast: Broadcast): void;
  readonly probe?: Getter<{ readonly estimatedRecvRate?: number }>;
  consume(path: string): {
    track(name: string): {
      subscribe(options: object): Subscriber;
      fetchGroup(sequence: number): Promise<PayloadReader>;
    };
  };
  close(): void;
}

interface PayloadReader {
  readonly sequence: number;
  readFrame(): Promise<{ readonly payload: Uint8Array } | undefined>;
}

interface Broadcast {
  requested(): Promise<Request | undefined>;
  close(): void;
}

interface Request {
  readonly name: string;
  accept(info: object): Producer;
  reject(error: Error): void;
}

interface Getter<T> {
  peek(): T;
  changed(notify: (value: T) => void): () => void;
}

interface Producer {
  readonly subscription: Getter<{ readonly priority?: number } | undefined>;
  readonly used: Getter<boolean>;
  appendGroup(): {
    writeFrame(frame: { readonly payload: Uint8Array; readonly timestamp: unknown }): void;
    close(): void;
  };
  close(): void;
}

interface Subscriber {
  recvGroup(): Promise<PayloadReader | undefined>;
  update(options: object): void;
  close(): void;
}

/** The maximum age of a group. By default, the library may omit all groups except the newest. */
const MAX_LATENCY_MS = 10_000;

/** Loads the library. */
export async function loadNet(name: string): Promise<Library> {
  const net: Net = await import(name);
  return {
    connect: async (url, options) => new Session(net, await net.Connection.connect(url, options)),
    accept: async (transport, url, options) =>
      new Session(net, await net.Connection.accept(transport, url, options)),
  };
}

class Session implements AnySession {
  readonly version: string;
  readonly closed: Promise<object>;
  readonly #net: Net;
  readonly #connection: Connection;

  constructor(net: Net, connection: Connection) {
    this.#net = net;
    this.#connection = connection;
    this.version = connection.version;
    this.closed = connection.closed.then(() => ({}));
    this.closed.catch(() => {});
  }

  async *announced(prefix: string): AsyncGenerator<{ path: string; active: boolean }> {
    const base = prefix.replace(/\/$/, "");
    const announced = this.#connection.announced(base);
    for (;;) {
      const next = await announced.next();
      if (next === undefined) return;
      yield { path: `${base}/${next.path}`, active: next.active };
    }
  }

  publish(path: string, tracks: Tracks): () => void {
    const broadcast = new this.#net.Broadcast.Producer();
    this.#connection.publish(path, broadcast);
    const serveAll = async () => {
      for (;;) {
        const request = await broadcast.requested();
        if (request === undefined) return;
        const serve = tracks[request.name];
        if (serve === undefined) request.reject(new Error("There is no such track"));
        else this.#serve(request, serve).catch((error) => console.error(error));
      }
    };
    void serveAll();
    return () => broadcast.close();
  }

  subscribe({ path, name, priority }: Track): AnyReader {
    const options = { priority, latencyMax: MAX_LATENCY_MS };
    const track = this.#connection.consume(path).track(name).subscribe(options);
    return {
      async nextGroup() {
        const group = await track.recvGroup();
        return group && readerOf(group);
      },
      update: (priority) => track.update({ ...options, priority }),
      close: () => track.close(),
    };
  }

  async fetch({ path, name, sequence }: FetchedGroup): Promise<GroupReader> {
    return readerOf(await this.#connection.consume(path).track(name).fetchGroup(sequence));
  }

  async probed(): Promise<number | undefined> {
    const { probe } = this.#connection;
    if (probe === undefined) return undefined;
    await when(probe, ({ estimatedRecvRate }) => estimatedRecvRate !== undefined);
    return probe.peek().estimatedRecvRate;
  }

  close(): void {
    this.#connection.close();
  }

  async #serve(request: Request, serve: Tracks[string]): Promise<void> {
    const producer = request.accept({ latencyMax: MAX_LATENCY_MS });
    // A request for the track's properties also counts as use.
    await when(producer.used, (isUsed) => isUsed);
    await serve(new Writer(this.#net, producer));
  }
}

function readerOf(group: PayloadReader): GroupReader {
  const { sequence } = group;
  return { sequence, nextFrame: async () => (await group.readFrame())?.payload };
}

class Writer implements AnyWriter {
  readonly #net: Net;
  readonly #producer: Producer;

  constructor(net: Net, producer: Producer) {
    this.#net = net;
    this.#producer = producer;
  }

  get priority(): number {
    return this.#producer.subscription.peek()?.priority ?? 0;
  }

  async updated(): Promise<boolean> {
    const { subscription } = this.#producer;
    const before = this.priority;
    await when(subscription, (now) => now?.priority !== before);
    return subscription.peek() !== undefined;
  }

  openGroup(): ReturnType<AnyWriter["openGroup"]> {
    const group = this.#producer.appendGroup();
    return Promise.resolve({
      write: (payload: Uint8Array) =>
        group.writeFrame({ payload, timestamp: this.#net.Time.Timestamp.now() }),
      close: () => group.close(),
    });
  }

  close(): void {
    this.#producer.close();
  }
}

/** Resolves once a value meets a condition. */
async function when<T>(getter: Getter<T>, isRight: (value: T) => boolean): Promise<void> {
  while (!isRight(getter.peek())) {
    const { promise, resolve } = Promise.withResolvers<T>();
    const dispose = getter.changed(resolve);
    await promise;
    dispose();
  }
}
