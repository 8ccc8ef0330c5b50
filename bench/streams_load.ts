/**
 * The load generator for streams on a WebSocket. The result is printed as one line of JSON.
 *
 * ```sh
 * deno run -A bench/streams_load.ts --port 9100 --pid 123 --client skein --mode rpc
 * ```
 *
 * The clients are `raw` (a bare WebSocket), `text` (messages and requests of `skein.1`), `skein`
 * (streams of `skein.1`), and `moq` (`@moq/qmux`).
 *
 * The modes are `messages` (64 B each, `--window 64` in flight), `rpc` (64 B each, `--at-once 50`),
 * `up` and `echo` (`--mib 32`, 64 KiB per write), and `idle` (`--sessions 500`; clients that use
 * streams open one stream per session).
 *
 * @module
 */
import { dial, type Session } from "../client.ts";
import type { Connection } from "../transport/connection.ts";
import { directStream } from "../transport/direct.ts";
import { FastSocket } from "../cli/load/socket.ts";
import { argument, numberArgument, portOf } from "./args.ts";
import { type LoadResult, Meter, sleep } from "./meter.ts";
import { loadMoq } from "./moq.ts";
import { idle, repeat, transfer } from "./rounds.ts";

const MESSAGE = new Uint8Array(64).fill(7);
const TEXT = "7".repeat(MESSAGE.length);
const CHUNK = new Uint8Array(65_536).fill(5);
const MIB = 1_048_576;

/** Maximum bytes in flight on a bare socket: as many as a stream's window. */
const RAW_WINDOW_BYTES = 262_144;

/** The socket of all clients, in place of the platform's `WebSocket`. */
class BenchSocket extends FastSocket {
  constructor(url: string | URL, protocols: string | string[] = []) {
    super(url, { protocols: [protocols].flat(), bufferBytes: 65_536, mask: false });
  }
}

/** The settings of a run. */
interface Options {
  /** URL of the server, without a path. */
  readonly url: string;
  /** Id of the server's process. */
  readonly pid: number;
  /** Concurrent requests. */
  readonly atOnce: number;
  /** Messages in flight. */
  readonly window: number;
  /** Bytes of one transfer. */
  readonly mib: number;
  /** Number of idle sessions. */
  readonly sessions: number;
  /** Warm-up at the beginning, not measured. */
  readonly warmUpMs: number;
  /** Measured time. */
  readonly measureMs: number;
}

/** One client; unsupported operations are absent. */
interface Client {
  /** Sends one request. */
  ask(): Promise<void>;
  /** Keeps messages in flight; calls back for each message that arrives. */
  flow?(window: number, onMessage: () => void): Promise<void>;
  /** Sends some chunks, and returns once the server has read all. */
  up?(chunks: number): Promise<void>;
  /** Sends some chunks, and returns once all have come back. */
  echo?(chunks: number): Promise<void>;
  /** Opens an idle session, with an open stream if the client supports streams. */
  stay(): Promise<void>;
}

/** Client with messages on a bare socket. */
class RawClient implements Client {
  readonly #url: string;
  readonly #answers: (() => void)[] = [];
  #socket: WebSocket | undefined;
  #drain: WebSocket | undefined;

  constructor({ url }: Options) {
    this.#url = url;
  }

  async ask(): Promise<void> {
    const socket = await this.#echoing();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#answers.push(resolve);
    socket.send(MESSAGE);
    await promise;
  }

  async #echoing(): Promise<WebSocket> {
    if (this.#socket !== undefined) return this.#socket;
    const socket = await this.#open("/");
    socket.onmessage = () => this.#answers.shift()?.();
    return this.#socket ??= socket;
  }

  async flow(window: number, onMessage: () => void): Promise<void> {
    const socket = await this.#open("/");
    socket.onmessage = () => {
      onMessage();
      socket.send(MESSAGE);
    };
    for (let n = 0; n < window; n++) socket.send(MESSAGE);
  }

  async up(chunks: number): Promise<void> {
    await this.#move(this.#drain ??= await this.#open("/drain"), chunks);
  }

  async echo(chunks: number): Promise<void> {
    await this.#move(this.#drain ??= await this.#open("/"), chunks);
  }

  /** The server answers each chunk; a limited number of chunks may wait for the answer. */
  async #move(socket: WebSocket, chunks: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    let sent = 0;
    let received = 0;
    const send = () => {
      for (; sent < chunks && (sent - received) * CHUNK.length < RAW_WINDOW_BYTES; sent++) {
        socket.send(CHUNK);
      }
    };
    socket.onmessage = () => {
      if (++received === chunks) resolve();
      else send();
    };
    send();
    await promise;
  }

  async stay(): Promise<void> {
    await this.#open("/");
  }

  #open(path: string): Promise<WebSocket> {
    const { promise, resolve, reject } = Promise.withResolvers<WebSocket>();
    const socket = new WebSocket(`${this.#url}${path}`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error("Cannot open"));
    return promise;
  }
}

/** Client with text messages and requests of `skein.1`. */
class TextClient implements Client {
  readonly #url: string;
  #session: Promise<Session> | undefined;
  readonly #open: Session[] = [];

  constructor({ url }: Options) {
    this.#url = url;
  }

  async ask(): Promise<void> {
    await (await (this.#session ??= this.#dial())).request("ask", TEXT);
  }

  async flow(window: number, onMessage: () => void): Promise<void> {
    const session = await this.#dial();
    void (async () => {
      for await (const _message of session) {
        onMessage();
        session.send("flow", TEXT);
      }
    })();
    for (let n = 0; n < window; n++) session.send("flow", TEXT);
  }

  async stay(): Promise<void> {
    this.#open.push(await this.#dial());
  }

  #dial(): Promise<Session> {
    return dial(this.#url, { transports: ["websocket"] });
  }
}

/** A source of streams: Skein's connection, or the session of the other implementation. */
type Streams = Pick<Connection, "createBidirectionalStream" | "createUnidirectionalStream">;

/** Client with streams of QMux. */
class StreamClient implements Client {
  readonly #dial: () => Promise<Streams>;
  #streams: Promise<Streams> | undefined;
  readonly #open: unknown[] = [];

  constructor(dial: () => Promise<Streams>) {
    this.#dial = dial;
  }

  async ask(): Promise<void> {
    const streams = await (this.#streams ??= this.#dial());
    const stream = directStream(await streams.createBidirectionalStream());
    await stream.write(MESSAGE);
    const closing = stream.close();
    let count = 0;
    for (let bytes; (bytes = await stream.read()) !== null;) count += bytes.length;
    await closing;
    if (count !== MESSAGE.length) throw new Error(`Of ${MESSAGE.length} bytes ${count} came back`);
  }

  async flow(window: number, onMessage: () => void): Promise<void> {
    const stream = directStream(await (await this.#dial()).createBidirectionalStream());
    // Each message is a separate write, like messages of a socket.
    const send = (count: number) => {
      for (let n = 0; n < count; n++) void stream.write(MESSAGE);
    };
    void (async () => {
      let rest = 0;
      for (let bytes; (bytes = await stream.read()) !== null;) {
        rest += bytes.length;
        const count = Math.floor(rest / MESSAGE.length);
        rest -= count * MESSAGE.length;
        for (let n = 0; n < count; n++) onMessage();
        send(count);
      }
    })();
    send(window);
    await Promise.resolve();
  }

  async up(chunks: number): Promise<void> {
    const streams = await (this.#streams ??= this.#dial());
    const stream = directStream(await streams.createUnidirectionalStream());
    for (let n = 0; n < chunks; n++) await stream.write(CHUNK);
    await stream.close();
    // The server answers later data after this chunk; up to a window of data may still be unread.
    await this.ask();
  }

  async echo(chunks: number): Promise<void> {
    const streams = await (this.#streams ??= this.#dial());
    const stream = directStream(await streams.createBidirectionalStream());
    const write = async () => {
      for (let n = 0; n < chunks; n++) await stream.write(CHUNK);
      await stream.close();
    };
    const read = async () => {
      let count = 0;
      for (let bytes = await stream.read(); bytes !== null; bytes = await stream.read(bytes)) {
        count += bytes.length;
      }
      if (count !== chunks * CHUNK.length) throw new Error(`Only ${count} bytes came back`);
    };
    await Promise.all([write(), read()]);
  }

  async stay(): Promise<void> {
    const streams = await this.#dial();
    const stream = directStream(await streams.createBidirectionalStream());
    await stream.write(MESSAGE);
    await stream.read();
    this.#open.push(streams, stream);
  }
}

const CLIENTS = {
  raw: (options: Options) => new RawClient(options),
  text: (options: Options) => new TextClient(options),
  skein: ({ url }: Options) =>
    new StreamClient(async () => (await dial(url, { transports: ["websocket"] })).connection),
  moq: ({ url }: Options) =>
    new StreamClient(async () => {
      const { default: Session } = await loadMoq();
      const session = new Session(`${url}/`);
      await session.ready;
      return session;
    }),
};

async function rpc(client: Client, options: Options): Promise<LoadResult> {
  return { ...await repeat(() => client.ask(), options), closed: 0 };
}

async function messages(client: Client, options: Options): Promise<LoadResult> {
  const { window, pid, warmUpMs, measureMs } = options;
  let count = 0;
  await client.flow!(window, () => count++);
  await sleep(warmUpMs);
  const meter = await Meter.begin(pid);
  const before = count;
  await sleep(measureMs);
  const figures = await meter.end(count - before);
  return { ...figures, closed: 0 };
}

function transferBy(name: "up" | "echo") {
  return async (client: Client, { mib, pid, measureMs }: Options): Promise<LoadResult> => {
    const bytes = mib * MIB;
    const once = () => client[name]!(bytes / CHUNK.length);
    return { ...await transfer(once, { bytes, pid, measureMs }), closed: 0 };
  };
}

async function stay(client: Client, options: Options): Promise<LoadResult> {
  // The first client loads the code of all clients.
  await client.stay();
  return { ...await idle(() => client.stay(), options), closed: 0 };
}

const MODES = { messages, rpc, up: transferBy("up"), echo: transferBy("echo"), idle: stay };

if (import.meta.main) {
  const { args } = Deno;
  const mode = (argument(args, "mode") ?? "rpc") as keyof typeof MODES;
  const name = (argument(args, "client") ?? "skein") as keyof typeof CLIENTS;
  if (MODES[mode] === undefined || CLIENTS[name] === undefined) {
    throw new TypeError(
      `Cannot run: --mode is one of ${Object.keys(MODES)}, and --client of ${Object.keys(CLIENTS)}`,
    );
  }
  Object.assign(globalThis, { WebSocket: BenchSocket });
  const options: Options = {
    url: `ws://127.0.0.1:${portOf(args)}`,
    pid: numberArgument(args, "pid", Deno.pid),
    atOnce: numberArgument(args, "at-once", 1),
    window: numberArgument(args, "window", 64),
    mib: numberArgument(args, "mib", 32),
    sessions: numberArgument(args, "sessions", 500),
    warmUpMs: numberArgument(args, "warm-up", 600),
    measureMs: numberArgument(args, "measure", 1_800),
  };
  const result = await MODES[mode](CLIENTS[name](options), options);
  // deno-lint-ignore no-console
  console.log(JSON.stringify(result));
  Deno.exit(0);
}
