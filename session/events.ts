/**
 * What happens to a session, as events.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type { Connection, ConnectionEvent } from "../transport/connection.ts";
import { attempt } from "./base/call_safely.ts";
import type { GoAway } from "./wire/envelope.ts";
import type { Gap, Unsubscribed } from "./wire/recovery.ts";
import type { SessionFace } from "./types.ts";
import type { SessionSettings } from "./settings.ts";
import { report } from "./report.ts";

/** The events of a session, by their names. */
export interface SessionEventMap {
  /** The session is established. */
  ready: CustomEvent<null>;
  /** It winds up: this end drains or closes, or the peer asked for it. Told once. */
  draining: CustomEvent<null>;
  /** The peer says that it will go away. */
  goaway: CustomEvent<GoAway>;
  /** Messages of a topic are missing here, or may be. */
  gap: CustomEvent<Gap>;
  /**
   * The server took this session off a topic, without being asked. One that crosses a question of
   * this end for the topic is told of too: the answer is newer.
   */
  unsubscribed: CustomEvent<Unsubscribed>;
  /**
   * The server asks for a new token: `session.authenticate()` within so many milliseconds keeps the
   * session. A client whose `token` is a function does so by itself.
   */
  renew: CustomEvent<{ readonly withinMs: number }>;
  /** It is over; the last event. */
  closed: CustomEvent<CloseInfo>;
  /** The peer sent what makes no sense; `detail` says what. */
  protocolerror: CustomEvent<string>;
  /** Something was waited for in vain, a handler failed, or this end ends the session for another fault. */
  error: CustomEvent<unknown>;
  /** A stream was opened, by either end. */
  streamopened: CustomEvent<Extract<ConnectionEvent, { readonly type: "streamopened" }>>;
  /** A stream is over; `error` is there if it was cut short. */
  streamclosed: CustomEvent<Extract<ConnectionEvent, { readonly type: "streamclosed" }>>;
  /** A datagram was handed to the wire. */
  datagramsent: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramsent" }>>;
  /** A datagram came; its bytes MUST NOT be changed. */
  datagramreceived: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramreceived" }>>;
  /** A datagram was lost at this end. */
  datagramdropped: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramdropped" }>>;
  /** One end waits for credit. */
  blocked: CustomEvent<Extract<ConnectionEvent, { readonly type: "blocked" }>>;
  /** The peer granted credit. */
  credit: CustomEvent<Extract<ConnectionEvent, { readonly type: "credit" }>>;
}

/** Listens to one kind of event; a promise that it returns is looked at for its failure only. */
export type SessionListener<K extends keyof SessionEventMap> =
  | ((event: SessionEventMap[K]) => unknown)
  | {
    /** Gets the event. */
    handleEvent(event: SessionEventMap[K]): unknown;
  };

/** The events of a session. A listener that throws is reported like a handler, and changes nothing. */
export interface SessionEvents extends Pick<EventTarget, "dispatchEvent"> {
  /**
   * Listens to an event.
   *
   * @param type Its name.
   * @param listener Gets it.
   * @param options As on every `EventTarget`.
   */
  addEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: SessionListener<K>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  /**
   * Listens no more.
   *
   * @param type Its name.
   * @param listener The one that was added.
   * @param options As on every `EventTarget`.
   */
  removeEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: SessionListener<K>,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** What the events need of their session. */
export interface EventsHost {
  /** The session, for the application's handlers. */
  readonly session: SessionFace;
  /** Whose streams and datagrams they tell of. */
  readonly connection: Connection;
  /** The application's handlers. */
  readonly settings: SessionSettings;
}

/** The events of one session. Whoever makes them observes its connection. */
export class EventsOfSession extends EventTarget implements SessionEvents {
  readonly #host: EventsHost;
  /** What is called in place of a listener: one for each, so that the platform tells them apart. */
  readonly #guards = new WeakMap<object, (event: Event) => void>();
  #isDraining = false;
  #isOver: boolean;

  /** Creates them, without listeners. */
  constructor(host: EventsHost) {
    super();
    this.#host = host;
    const { connection, session } = host;
    this.#isOver = session.isClosed;
    if (this.#isOver) return;
    this.#isDraining = session.state === "draining";
    connection.draining.then(() => this.emit("draining", null), () => {});
    connection.observe?.((event) => this.#dispatch(event.type, event));
  }

  override addEventListener(
    type: string,
    listener: object | null,
    options?: boolean | AddEventListenerOptions,
  ): void {
    // Some wires read datagrams only for who asks for them.
    if (type === "datagramreceived") void this.#host.connection.datagrams;
    super.addEventListener(type, listener && this.#guard(listener), options);
  }

  override removeEventListener(
    type: string,
    listener: object | null,
    options?: boolean | EventListenerOptions,
  ): void {
    super.removeEventListener(type, listener && this.#guard(listener), options);
  }

  /** Tells of something that happened. Never throws. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void {
    if (type === "draining") {
      // Either end, or both: once is enough.
      if (this.#isDraining) return;
      this.#isDraining = true;
    }
    this.#dispatch(type, detail);
  }

  /** Tells of the end, and of nothing after it. */
  end(info: CloseInfo): void {
    this.#host.connection.observe?.(undefined);
    this.emit("closed", info);
    this.#isOver = true;
  }

  #dispatch(type: string, detail: unknown): void {
    if (!this.#isOver) this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** The platform takes what a listener throws for uncaught, which ends the process. */
  #guard(listener: object): (event: Event) => void {
    let guard = this.#guards.get(listener);
    if (guard === undefined) {
      const { session, settings } = this.#host;
      guard = (event) => {
        const call = () =>
          typeof listener === "function"
            ? listener.call(this, event)
            : (listener as EventListenerObject).handleEvent(event);
        attempt(call, (error) => report(settings, error, session));
      };
      // A platform removes what it called by itself, once a signal says so.
      this.#guards.set(listener, guard).set(guard, guard);
    }
    return guard;
  }
}
