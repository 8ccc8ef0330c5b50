/**
 * Clients of the soak test: raw sockets that reply to pings, count messages, and measure latencies.
 *
 * @module
 */
import type { Histogram } from "../../cli/load/histogram.ts";
import { RawSocket } from "../../cli/load/socket.ts";

/** Payload of a measured topic. */
interface Stamped {
  readonly sequence: number;
  readonly sentUs: number;
}

/** A client that uses `skein.1` or plain WebSocket. */
export class SoakClient {
  readonly socket: RawSocket;
  /** Histogram of latencies. It is only set during a measurement. */
  histogram: Histogram | undefined;
  /** Received messages, by topic. */
  readonly received = new Map<string, number>();
  /** Number of lost or reordered messages on numbered topics. */
  gaps = 0;
  /** Number of messages that the server reported as dropped. */
  dropped = 0;
  #next = -1;
  #answers: (() => void)[] = [];
  readonly #decoder = new TextDecoder();

  private constructor(socket: RawSocket) {
    this.socket = socket;
    socket.onFrame = (payload) => this.#read(this.#decoder.decode(payload));
    socket.start();
  }

  static async open(port: number, isSkein = true, bufferBytes = 8_192): Promise<SoakClient> {
    return new SoakClient(
      await RawSocket.open(`ws://127.0.0.1:${port}/ws`, {
        protocols: isSkein ? ["skein.1"] : [],
        bufferBytes,
        mask: false,
      }),
    );
  }

  /** Subscribes through the server's handler. */
  async subscribe(topic: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#answers.push(resolve);
    void this.socket.closed.then(({ code }) =>
      reject(new Error(`Cannot subscribe: closed with ${code}`))
    );
    this.socket.send(JSON.stringify({ topic: "sub", data: topic }));
    await promise;
  }

  publish(topic: string, data: unknown): void {
    this.socket.send(JSON.stringify({ topic, data }));
  }

  #read(frame: string): void {
    for (const text of frame.split("\n")) {
      const envelope = JSON.parse(text);
      if (envelope.ping !== undefined) this.socket.send(`{"pong":${envelope.ping}}`);
      else if (envelope.dropped !== undefined) this.dropped += envelope.dropped;
      else if (envelope.topic === "subok") this.#answers.shift()?.();
      else if (envelope.topic !== undefined) {
        this.received.set(envelope.topic, (this.received.get(envelope.topic) ?? 0) + 1);
        if (envelope.topic === TIMED) this.#time(envelope.data);
      }
    }
  }

  #time({ sequence, sentUs }: Stamped): void {
    if (this.#next >= 0 && sequence !== this.#next) this.gaps++;
    this.#next = sequence + 1;
    this.histogram?.add(performance.now() * 1_000 - sentUs);
  }
}

/** The topic whose messages include a number and a time. */
export const TIMED = "timed";

/** Opens many clients, a few at a time. */
export async function openMany(
  count: number,
  open: (index: number) => Promise<SoakClient>,
): Promise<SoakClient[]> {
  const clients: SoakClient[] = [];
  let next = 0;
  await Promise.all(Array.from({ length: Math.min(count, 64) }, async () => {
    while (next < count) {
      const index = next++;
      clients[index] = await open(index);
    }
  }));
  return clients;
}

/** Publishes messages at a steady rate and calls a function after each of them. */
export class Pacer {
  #sequence = 0;
  readonly #publisher: SoakClient;

  constructor(publisher: SoakClient) {
    this.#publisher = publisher;
  }

  /** Publishes numbered messages to the timed topic for a given time. */
  async run(perSecond: number, forMs: number, also: () => void = () => {}): Promise<number> {
    const start = performance.now();
    let sent = 0;
    while (performance.now() - start < forMs) {
      const owed = (performance.now() - start) / 1_000 * perSecond;
      for (; sent < owed; sent++) {
        const sentUs = performance.now() * 1_000;
        this.#publisher.publish(TIMED, { sequence: this.#sequence++, sentUs });
        also();
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return sent;
  }
}
