/** One connection of a load: a Skein client, or a plain WebSocket. */
import type { Client } from "../../client/client.ts";
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
import { ClientSocket } from "./socket.ts";
import type { LoadPlan } from "./plan.ts";

/** Time limit of one attempt to connect, in milliseconds. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Maximum number of unsent bytes of a plain WebSocket. Beyond that, messages count as unsent. */
const MAX_BUFFERED_BYTES = 4_194_304;

/** A mark that distinguishes the messages of this load from all others. */
export interface Stamp {
  /** Id of the load. */
  readonly load: string;
  /** Number of the message. */
  readonly n: number;
  /** Start of the message, in microseconds on the sender's clock. */
  readonly at: number;
  /** Pads the message to its size. */
  readonly pad?: string | undefined;
}

/** Events of a link. */
export interface LinkEvents {
  /** Called with each opened session. MUST NOT throw. */
  onOpen(link: Link, tookMs: number): void;
  /** Called when a session ends or an attempt to open one fails. MUST NOT throw. */
  onDown(link: Link, cause: CloseInfo, wasOpen: boolean): void;
  /** Called with the data of each message. MUST NOT throw. */
  onMessage(link: Link, data: unknown): void;
}

/** One connection of a load. */
export interface Link {
  /** Number of the link in its thread. */
  readonly index: number;
  /** True while messages can be sent. */
  readonly isOpen: boolean;
  /** The Skein client; `undefined` for a plain WebSocket. */
  readonly client: Client | undefined;
  /**
   * Sends a message that the server should send back.
   *
   * @returns False if the message could not be sent.
   */
  echo(topic: string, stamp: Stamp): boolean;
  /** Closes the link. */
  close(): Promise<void>;
}

/** Options for {@linkcode openLink}. */
export interface LinkOptions {
  /** The plan of the load. */
  readonly plan: LoadPlan;
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

/**
 * Starts to open a link.
 *
 * @param options See {@linkcode LinkOptions}.
 * @returns The link, which calls `onOpen` once it is open.
 */
export function openLink(options: LinkOptions): Link {
  return options.plan.isPlain ? new PlainLink(options) : new SkeinLink(options);
}

/** A Skein client, which reconnects after a loss. */
class SkeinLink implements Link {
  readonly index: number;
  readonly client: Client;

  constructor({ plan, index, runtime, token, events }: LinkOptions) {
    this.index = index;
    const { headers, transport, certificateHashes } = plan;
    let startedAt = runtime.monotonic();
    let wasOpen = false;
    this.client = connectBy(makePlatform, plan.url, {
      runtime,
      transports: [transport],
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      token,
      headers: headers.length > 0 ? headers as [string, string][] : undefined,
      serverCertificateHashes: certificateHashes.length > 0 ? certificateHashes : undefined,
      onMessage: (message) => events.onMessage(this, message.data),
      // Failures are counted by kind.
      onError() {},
    });
    this.client.status.subscribe((status) => {
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
    return this.client.isConnected;
  }

  echo(topic: string, stamp: Stamp): boolean {
    // The client's outbox would keep the message for a later session.
    const { session } = this.client;
    if (!session?.isReady) return false;
    session.send(topic, stamp);
    return true;
  }

  async close(): Promise<void> {
    await this.client.close();
  }
}

/** A WebSocket with text frames, without a subprotocol. */
class PlainLink implements Link {
  readonly index: number;
  readonly client = undefined;
  #socket: ClientSocket | undefined;
  readonly #opening: Promise<void>;
  readonly #stop = new AbortController();

  constructor({ plan, index, runtime, events, signal }: LinkOptions) {
    this.index = index;
    const startedAt = runtime.monotonic();
    this.#opening = this.#open(plan, runtime, events, signal).then(
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

  echo(_topic: string, stamp: Stamp): boolean {
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

  async #open(
    plan: LoadPlan,
    runtime: Runtime,
    events: LinkEvents,
    signal: AbortSignal,
  ): Promise<void> {
    const late = new AbortController();
    const opening = ClientSocket.open(plan.url, {
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
      events.onMessage(this, typeof data === "string" ? parsed(data) : data);
    });
    socket.addEventListener("close", (event) => {
      const { code, reason } = event as CloseEvent;
      events.onDown(this, { code, reason, by: "remote" }, true);
    });
    this.#socket = socket;
    socket.start();
  }
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
      const opening = ClientSocket.open(url, {
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
