/** One connection of a load: a Skein client, or a plain WebSocket. */
import type { Client } from "../../client/client.ts";
import type { Session } from "../../session/session.ts";
import { connectBy } from "../../client/connect.ts";
import type { ClientPlatform } from "../../client/platform.ts";
import { denoPlatform, denoWebTransport } from "../../client/deno.ts";
import { race } from "../../transport/race/race.ts";
import { withLastResort } from "../../transport/race/last_resort.ts";
import { checkTransports, type TransportOptions } from "../../transport/race/options.ts";
import { WebSocketConnection } from "../../transport/websocket/connection.ts";
import { ConnectionError } from "../../errors.ts";
import type { CloseInfo } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { FastSocket } from "./socket.ts";
import type { LoadPlan } from "./plan.ts";

/** Time limit of one attempt to connect, in milliseconds. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Maximum number of unsent bytes of a plain WebSocket. Beyond that, messages count as unsent. */
const MAX_BUFFERED_BYTES = 4_194_304;

/** The content of a message. */
export interface Stamp {
  /** Id of the load, which distinguishes its messages from all others. */
  readonly load: string;
  /** Number of the message. */
  readonly n: number;
  /** Start of the message, in microseconds on the sender's clock. */
  readonly at: number;
  /** Pads the message to its size. */
  readonly pad?: string | undefined;
}

export interface LinkEvents {
  /** Called with each opened session. MUST NOT throw. */
  onOpen(link: Link, tookMs: number): void;
  /** Called when a session ends or an attempt to open one fails. MUST NOT throw. */
  onDown(link: Link, cause: CloseInfo, wasOpen: boolean): void;
  /**
   * Called with the number of each echoed message of this load, and the time of its arrival in
   * microseconds. MUST NOT throw.
   */
  onEcho(link: Link, n: number, nowUs: number): void;
}

/**
 * Receives a publication of this load: its number in the topic, the time when it was sent, and the
 * time of its arrival, in microseconds. MUST NOT throw.
 */
export type OnDelivery = (n: number, atUs: number, nowUs: number) => void;

/** The subscription of a link to a topic. */
export interface LinkSubscription {
  /** Resolves once the server has subscribed the link; rejects if the server rejects that. */
  readonly ready: Promise<unknown>;
  /** Settles once no more publications arrive; rejects with the reason. */
  readonly ended: Promise<void>;
  /** True once no more publications arrive. */
  readonly isEnded: boolean;
}

/** One connection of a load. */
export interface Link {
  /** Number of the link in its thread. */
  readonly index: number;
  /** True while messages can be sent. */
  readonly isOpen: boolean;
  /**
   * Sends a message that the server should send back.
   *
   * @returns False if the message could not be sent.
   */
  echo(stamp: Stamp): boolean;
  /**
   * Sends a request. Absent on a link without requests.
   *
   * @returns Settles with the reply; `undefined` if the request could not be sent.
   */
  request?(stamp: Stamp): Promise<unknown> | undefined;
  /**
   * Publishes a message. Absent on a link without topics.
   *
   * @returns Resolves once the publication has arrived at the server, or, if the server doesn't
   * acknowledge publications, at all subscribers; `undefined` if it could not be sent.
   */
  publish?(topic: string, stamp: Stamp): Promise<unknown> | undefined;
  /** Subscribes to a topic. Absent on a link without topics. */
  subscribe?(topic: string, onDelivery: OnDelivery): LinkSubscription;
  /** Closes the link. */
  close(): Promise<void>;
}

/** Options for an {@linkcode OpenLink}. */
export interface LinkOptions {
  readonly plan: LoadPlan;
  /** Id of the load, as in {@linkcode Stamp.load}. */
  readonly load: string;
  /** Number of the link in its thread. */
  readonly index: number;
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Token of the session. */
  readonly token: string | undefined;
  /** Receives the events. */
  readonly events: LinkEvents;
  /** Cancels an attempt to open. */
  readonly signal: AbortSignal;
}

/** Starts to open a link, which calls `onOpen` once it is open. */
export type OpenLink = (options: LinkOptions) => Link;

/**
 * Starts to open a link of `skein load`.
 *
 * @param options See {@linkcode LinkOptions}.
 * @returns The link, which calls `onOpen` once it is open.
 */
export const openLink: OpenLink = (options) =>
  options.plan.isPlain ? new PlainLink(options) : new SkeinLink(options);

/** A Skein client, which reconnects after a loss. */
class SkeinLink implements Link {
  readonly index: number;
  readonly #client: Client;
  readonly #options: LinkOptions;

  constructor(options: LinkOptions) {
    const { plan, index, runtime, token, events } = options;
    this.#options = options;
    this.index = index;
    const { headers, transport, certificateHashes } = plan;
    let startedAt = runtime.monotonic();
    let wasOpen = false;
    this.#client = connectBy(makePlatform, plan.url, {
      runtime,
      transports: [transport],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      token,
      headers: headers.length > 0 ? headers as [string, string][] : undefined,
      serverCertificateHashes: certificateHashes.length > 0 ? certificateHashes : undefined,
      onMessage: ({ data }) => {
        const stamp = this.#stampOf(data);
        if (stamp !== undefined) events.onEcho(this, stamp.n, nowUs(runtime));
      },
      // Failures are counted by kind.
      onError() {},
    });
    this.#client.status.subscribe((status) => {
      if (status.name === "connecting") startedAt = runtime.monotonic();
      else if (status.name === "connected") {
        wasOpen = true;
        events.onOpen(this, runtime.monotonic() - startedAt);
      } else {
        events.onDown(this, status.cause, wasOpen);
        wasOpen = false;
      }
    });
  }

  get isOpen(): boolean {
    return this.#client.isConnected;
  }

  echo(stamp: Stamp): boolean {
    const session = this.#session;
    session?.send(this.#options.plan.topic, stamp);
    return session !== undefined;
  }

  request(stamp: Stamp): Promise<unknown> | undefined {
    const { topic, data, timeoutMs } = this.#options.plan;
    return this.#session?.request(topic, data === undefined ? stamp : data, { timeoutMs });
  }

  publish(topic: string, stamp: Stamp): Promise<void> | undefined {
    const { timeoutMs } = this.#options.plan;
    return this.#session?.publish(topic, stamp, { timeoutMs });
  }

  subscribe(topic: string, onDelivery: OnDelivery): LinkSubscription {
    const subscription = this.#client.subscribe(topic);
    const { runtime } = this.#options;
    const follow = async () => {
      for await (const { data } of subscription) {
        const stamp = this.#stampOf(data);
        if (stamp !== undefined) onDelivery(stamp.n, stamp.at, nowUs(runtime));
      }
    };
    return {
      ready: subscription.ready,
      ended: follow(),
      get isEnded() {
        return subscription.isEnded;
      },
    };
  }

  async close(): Promise<void> {
    await this.#client.close();
  }

  /** The session, if it is ready: the client's outbox would keep messages for a later session. */
  get #session(): Session | undefined {
    const { session } = this.#client;
    return session?.isReady ? session : undefined;
  }

  #stampOf(data: unknown): Stamp | undefined {
    return stampOf(data, this.#options.load);
  }
}

/** A WebSocket with text frames, without a subprotocol. */
class PlainLink implements Link {
  readonly index: number;
  #socket: FastSocket | undefined;
  readonly #opening: Promise<void>;
  readonly #stop = new AbortController();

  constructor(options: LinkOptions) {
    const { index, runtime, events } = options;
    this.index = index;
    const startedAt = runtime.monotonic();
    this.#opening = this.#open(options).then(
      () => events.onOpen(this, runtime.monotonic() - startedAt),
      (error) => {
        const reason = textOf(error);
        const { status } = error as { status?: number };
        const code = status === undefined ? 1006 : 4000 + status;
        events.onDown(this, { code, reason, by: "network", error }, false);
      },
    );
  }

  get isOpen(): boolean {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  echo(stamp: Stamp): boolean {
    const socket = this.#socket;
    if (socket === undefined || !this.isOpen || socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      return false;
    }
    socket.send(JSON.stringify(stamp));
    return true;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#opening;
    const socket = this.#socket;
    if (socket === undefined || socket.readyState === WebSocket.CLOSED) return;
    const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
    socket.close(1000);
    await closed;
  }

  async #open({ plan, load, runtime, events, signal }: LinkOptions): Promise<void> {
    const late = new AbortController();
    const opening = FastSocket.open(plan.url, {
      headers: plan.headers as [string, string][],
      signal: AbortSignal.any([signal, late.signal, this.#stop.signal]),
    });
    const socket = await within(runtime, opening, {
      late: "Cannot open WebSocket within",
      timeoutMs: CONNECT_TIMEOUT_MS,
      discard: (tooLate) => tooLate.terminate(),
    }).finally(() => late.abort());
    socket.addEventListener("message", (event) => {
      const { data } = event as MessageEvent;
      const stamp = typeof data === "string" ? stampOf(parsed(data), load) : undefined;
      if (stamp !== undefined) events.onEcho(this, stamp.n, nowUs(runtime));
    });
    socket.addEventListener("close", (event) => {
      const { code, reason } = event as CloseEvent;
      events.onDown(this, { code, reason, by: "remote" }, true);
    });
    this.#socket = socket;
    socket.start();
  }
}

function nowUs(runtime: Runtime): number {
  return runtime.monotonic() * 1_000;
}

function stampOf(data: unknown, load: string): Stamp | undefined {
  const stamp = data as Stamp | null;
  return typeof stamp === "object" && stamp?.load === load ? stamp : undefined;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Creates a client platform whose WebSockets send small frames without delay. */
export function makePlatform(options: TransportOptions): ClientPlatform {
  const checked = checkTransports(options);
  const dial = race({
    webSocket: async (url, { runtime, protocols, headers, signal, timeoutMs }) => {
      const late = new AbortController();
      const signals = signal ? [signal, late.signal] : [late.signal];
      const opening = FastSocket.open(url, {
        headers,
        signal: AbortSignal.any(signals),
        protocols,
      });
      const socket = await within(runtime, opening, {
        late: "Cannot open WebSocket within",
        timeoutMs,
        signal,
        discard: (tooLate) => tooLate.terminate(),
      }).finally(() => late.abort());
      const connection = new WebSocketConnection(socket, {
        runtime,
        loadStreams: () => import("../../transport/websocket/streams.ts"),
      });
      connection.handleEvent(new Event("open"));
      socket.start();
      return connection;
    },
    webTransport: denoWebTransport(),
  }, checked);
  return denoPlatform(
    withLastResort(dial, checked, () => import("../../transport/race/http_fallback.ts")),
  );
}

/** Converts the cause of a failed attempt to an error. */
export function errorOf({ code, reason, error }: CloseInfo): Error {
  if (error instanceof Error) return error;
  return new ConnectionError(reason || `closed with code ${code}`);
}
