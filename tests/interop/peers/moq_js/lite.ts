/**
 * Adapter of `@moq/lite` to the scenarios; the library has no updates of the priority.
 *
 * @module
 */
import type { Library } from "./library.ts";
import type { AnyReader, AnySession, Track, Tracks } from "./scenarios.ts";

/** The used part of the library's exports. */
interface Lite {
  readonly Connection: {
    connect(url: URL, options: object): Promise<Connection>;
    accept(transport: unknown, url: URL, options: object): Promise<Connection>;
  };
  readonly Broadcast: new () => Broadcast;
}

interface Connection {
  readonly version: string;
  readonly closed: Promise<void>;
  announced(prefix: string): {
    next(): Promise<{ readonly path: string; readonly active: boolean } | undefined>;
  };
  publish(path: string, broadcast: Broadcast): void;
  consume(path: string): Broadcast;
  close(): void;
}

interface Broadcast {
  requested(): Promise<{ readonly track: LiteTrack; readonly priority: number } | undefined>;
  subscribe(name: string, priority: number): LiteTrack;
  close(): void;
}

interface LiteTrack {
  readonly name: string;
  appendGroup(): Group;
  recvGroup(): Promise<Group | undefined>;
  close(abort?: Error): void;
}

interface Group {
  readonly sequence: number;
  writeFrame(frame: Uint8Array): void;
  readFrame(): Promise<Uint8Array | undefined>;
  close(): void;
}

/** Loads the library. */
export async function loadLite(name: string): Promise<Library> {
  const lite: Lite = await import(name);
  return {
    connect: async (url, options) => new Session(lite, await lite.Connection.connect(url, options)),
    accept: async (transport, url, options) =>
      new Session(lite, await lite.Connection.accept(transport, url, options)),
  };
}

class Session implements AnySession {
  readonly version: string;
  readonly closed: Promise<object>;
  readonly #lite: Lite;
  readonly #connection: Connection;

  constructor(lite: Lite, connection: Connection) {
    this.#lite = lite;
    this.#connection = connection;
    this.version = connection.version;
    this.closed = connection.closed.then(() => ({}));
    this.closed.catch(() => {});
  }

  async *announced(prefix: string): AsyncGenerator<{ path: string; active: boolean }> {
    const announced = this.#connection.announced(prefix.replace(/\/$/, ""));
    for (;;) {
      const next = await announced.next();
      if (next === undefined) return;
      yield next;
    }
  }

  publish(path: string, tracks: Tracks): () => void {
    const broadcast = new this.#lite.Broadcast();
    this.#connection.publish(path, broadcast);
    const serveAll = async () => {
      for (;;) {
        const request = await broadcast.requested();
        if (request === undefined) return;
        const { track, priority } = request;
        const serve = tracks[track.name];
        if (serve === undefined) {
          track.close(new Error("There is no such track"));
          continue;
        }
        serve({
          priority,
          updated: () => new Promise(() => {}),
          openGroup: () => {
            const group = track.appendGroup();
            return Promise.resolve({
              write: (frame: Uint8Array) => group.writeFrame(frame),
              close: () => group.close(),
            });
          },
          close: () => track.close(),
        }).catch((error) => console.error(error));
      }
    };
    void serveAll();
    return () => broadcast.close();
  }

  subscribe({ path, name, priority }: Track): AnyReader {
    const track = this.#connection.consume(path).subscribe(name, priority);
    return {
      async nextGroup() {
        const group = await track.recvGroup();
        if (group === undefined) return undefined;
        return { sequence: group.sequence, nextFrame: () => group.readFrame() };
      },
      update() {},
      close: () => track.close(),
    };
  }

  close(): void {
    this.#connection.close();
  }
}
