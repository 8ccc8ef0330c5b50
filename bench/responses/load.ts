/**
 * Reads streaming responses from one server over one raw WebSocket. A library's client would use
 * more CPU time than the server.
 *
 * ```sh
 * deno run -A bench/responses/load.ts --port 9100 --pid 42 --dialect skein --responses 64
 * ```
 *
 * `--mode items` counts items, `--mode stalled` stops reading and measures the server's memory, and
 * `--mode cancel` measures the time from a cancel until the producer ends. The result is printed as
 * one line of JSON.
 *
 * @module
 */
import { RawSocket } from "../../cli/load/socket.ts";
import { argument, numberArgument } from "../args.ts";
import { Meter, sleep } from "../meter.ts";
import { usageOf } from "../processes.ts";

/** Result of a run: the measurements of one mode. */
export interface ResponsesLoad {
  readonly perSecond?: number;
  /** CPU time of the server per item, in microseconds. */
  readonly cpuUs?: number;
  /** CPU load of the generator, as a percentage of a core. */
  readonly generatorPercent?: number;
  /** Growth of the server's memory while the consumer is stalled, in MiB. */
  readonly grownMib?: number;
  /** CPU time of the library's client per item, in microseconds. */
  readonly clientCpuUs?: number;
  /** Median time from a cancel to the end of the producer, in milliseconds. */
  readonly cancelMs?: number;
}

/** The protocol of a server, as text frames. */
interface Dialect {
  readonly protocol?: string;
  /** Frames before the first request. */
  readonly hello?: string;
  readonly request: (id: number, window: number) => string;
  readonly cancel: (id: number) => string;
  /** Credit for more items, for protocols with credit. */
  readonly more?: (id: number, items: number) => string;
}

const DIALECTS: Readonly<Record<string, Dialect>> = {
  skein: {
    protocol: "skein.1",
    request: (id, window) => `{"topic":"words","id":${id},"items":${window}}`,
    cancel: (id) => `{"cancel":${id}}`,
    more: (id, items) => `{"more":${id},"items":${items}}`,
  },
  trpc: {
    request: (id) => `{"id":${id},"method":"subscription","params":{"path":"words"}}`,
    cancel: (id) => `{"id":${id},"method":"subscription.stop"}`,
  },
  graphql: {
    protocol: "graphql-transport-ws",
    hello: `{"type":"connection_init"}`,
    request: (id) => `{"id":"${id}","type":"subscribe","payload":{"query":"subscription{words}"}}`,
    cancel: (id) => `{"id":"${id}","type":"complete"}`,
  },
};

/** Time before the measurement, in milliseconds. */
const WARM_UP_MS = 1_000;
/** Time for which a consumer stalls, in milliseconds. */
const STALL_MS = 5_000;
const PAUSE_MS = 50;

const [MARK, LINE, DIGIT_0, DIGIT_9] = Array.from("@\n09", (mark) => mark.charCodeAt(0)) as [
  number,
  number,
  number,
  number,
];

/** A consumer of responses on one connection. */
class Consumer {
  items = 0;
  readonly #dialect: Dialect;
  readonly #socket: RawSocket;
  readonly #unpaid = new Map<number, number>();

  private constructor(socket: RawSocket, dialect: Dialect) {
    this.#socket = socket;
    this.#dialect = dialect;
    socket.onFrame = (payload) => {
      if (dialect.more) this.#pay(payload);
      for (let at = payload.indexOf(MARK); at >= 0; at = payload.indexOf(MARK, at + 1)) {
        this.items++;
      }
    };
  }

  static async open(port: number, dialect: Dialect): Promise<Consumer> {
    const path = dialect.protocol === "skein.1" ? "/ws" : "/";
    const socket = await RawSocket.open(`ws://127.0.0.1:${port}${path}`, {
      protocols: dialect.protocol === undefined ? [] : [dialect.protocol],
      bufferBytes: 65_536,
      mask: false,
    });
    const ready = new Promise<void>((resolve) => socket.onFrame = () => resolve());
    socket.start();
    if (dialect.hello) socket.send(dialect.hello);
    // tRPC sends nothing first.
    if (dialect.protocol !== undefined) await ready;
    return new Consumer(socket, dialect);
  }

  request(id: number): void {
    this.#socket.send(this.#dialect.request(id, window));
  }

  cancel(id: number): void {
    this.#unpaid.delete(id);
    this.#socket.send(this.#dialect.cancel(id));
  }

  pause(): void {
    this.#socket.pause();
  }

  abort(): void {
    this.#socket.abort();
  }

  /** Reads the lines of a frame, each `{"part":7,…`, and grants credit per response. */
  #pay(payload: Uint8Array): void {
    for (let at = 0; at < payload.length;) {
      let id = 0;
      // `{"part":` has eight bytes.
      for (let i = at + 8; payload[i]! >= DIGIT_0 && payload[i]! <= DIGIT_9; i++) {
        id = id * 10 + payload[i]! - DIGIT_0;
      }
      const unpaid = (this.#unpaid.get(id) ?? 0) + 1;
      if (unpaid === window / 2) this.#socket.send(this.#dialect.more!(id, unpaid));
      this.#unpaid.set(id, unpaid % (window / 2));
      const end = payload.indexOf(LINE, at);
      at = end < 0 ? payload.length : end + 1;
    }
  }
}

const { args } = Deno;
const port = numberArgument(args, "port", 9_100);
const pid = numberArgument(args, "pid", 0);
/** Items of credit; the caller grants credit half a window at a time. */
const window = numberArgument(args, "window", 64);
const dialect = DIALECTS[argument(args, "dialect") ?? "skein"]!;

async function countItems(): Promise<ResponsesLoad> {
  const consumer = await Consumer.open(port, dialect);
  const responses = numberArgument(args, "responses", 1);
  for (let id = 1; id <= responses; id++) consumer.request(id);
  await sleep(WARM_UP_MS);
  const before = consumer.items;
  const meter = await Meter.begin(pid);
  await sleep(numberArgument(args, "measure", 4_000));
  return await meter.end(consumer.items - before);
}

/** Reads for a while, stops, and returns the growth of the server's memory after that. */
async function stall(): Promise<ResponsesLoad> {
  const consumer = await Consumer.open(port, dialect);
  consumer.request(1);
  await sleep(WARM_UP_MS);
  consumer.pause();
  await sleep(100);
  const before = await usageOf(pid);
  await sleep(STALL_MS);
  const after = await usageOf(pid);
  return { grownMib: ((after.rssBytes ?? NaN) - (before.rssBytes ?? NaN)) / 1_048_576 };
}

/** Cancels responses at full speed, one after another; returns the median time until they stop. */
async function cancel(): Promise<ResponsesLoad> {
  const consumer = await Consumer.open(port, dialect);
  const count = numberArgument(args, "responses", 20);
  const sent: number[] = [];
  for (let id = 1; id <= count; id++) {
    const { items } = consumer;
    consumer.request(id);
    while (consumer.items < items + 1_000) await sleep(1);
    sent.push(performance.timeOrigin + performance.now());
    consumer.cancel(id);
    await sleep(PAUSE_MS);
  }
  const stops: number[] = await (await fetch(`http://127.0.0.1:${port}/stops`)).json();
  const times = sent.map((at, i) => stops[i]! - at).toSorted((a, b) => a - b);
  return { cancelMs: times[times.length >> 1]! };
}

if (import.meta.main) {
  const modes = { items: countItems, stalled: stall, cancel };
  const mode = argument(args, "mode") as keyof typeof modes ?? "items";
  const result = await Promise.race([
    modes[mode](),
    sleep(30_000).then(() => ({ stuck: true })),
  ]);
  // deno-lint-ignore no-console
  console.log(JSON.stringify(result));
  Deno.exit(0);
}
