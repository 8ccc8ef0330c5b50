/**
 * Events of a session.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type { ConnectionEvent } from "../transport/connection.ts";
import { attempt } from "../base/call_safely.ts";
import type { GoAway } from "./wire/envelope.ts";
import type { Gap, Unsubscribed } from "./wire/recovery.ts";
import type { SessionLike } from "./types.ts";
import { report, type SessionSettings } from "./settings/settings.ts";

/** Events of a session, by name. */
export interface SessionEventMap {
  /** The session is established. */
  ready: CustomEvent<null>;
  /** The session drains: this side drains or closes, or the peer requested it. Dispatched once. */
  draining: CustomEvent<null>;
  /** The peer announces that it will shut down. */
  goaway: CustomEvent<GoAway>;
  /** Messages of a topic are, or may be, missing on this side. */
  gap: CustomEvent<Gap>;
  /**
   * The server ended a subscription of this session on its own. This event is also dispatched while
   * this side has a pending request for the same topic; the reply to that request is then the newer
   * state.
   */
  unsubscribed: CustomEvent<Unsubscribed>;
  /**
   * The server requests a new token. The session stays open if you call `session.authenticate()`
   * within `withinMs` milliseconds. A client whose `token` is a function renews it automatically.
   */
  renew: CustomEvent<{ readonly withinMs: number }>;
  /** The session has closed. This is the last event. */
  closed: CustomEvent<CloseInfo>;
  /** The peer sent invalid data; `detail` describes it. */
  protocolerror: CustomEvent<string>;
  /**
   * A wait timed out, a handler failed, or this side closes the session because of another error.
   */
  error: CustomEvent<unknown>;
  /** A stream was opened, by either side. */
  streamopened: CustomEvent<Extract<ConnectionEvent, { readonly type: "streamopened" }>>;
  /** A stream has closed; `error` is set if it was cut short. */
  streamclosed: CustomEvent<Extract<ConnectionEvent, { readonly type: "streamclosed" }>>;
  /** A datagram was handed to the connection. */
  datagramsent: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramsent" }>>;
  /** A datagram arrived; its bytes MUST NOT be changed. */
  datagramreceived: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramreceived" }>>;
  /** A datagram was lost on this side. */
  datagramdropped: CustomEvent<Extract<ConnectionEvent, { readonly type: "datagramdropped" }>>;
  /** One end waits for credit. */
  blocked: CustomEvent<Extract<ConnectionEvent, { readonly type: "blocked" }>>;
  /** The peer granted credit. */
  credit: CustomEvent<Extract<ConnectionEvent, { readonly type: "credit" }>>;
}

/**
 * The events of a session. If a listener throws an error, it is reported like the error of a
 * handler, and has no other effect.
 */
export interface SessionEvents extends Pick<EventTarget, "dispatchEvent"> {
  /**
   * Adds a listener.
   *
   * @param type Name of the event.
   * @param listener Called with each event. A returned promise is only observed for rejection.
   * @param options Options as on every `EventTarget`.
   */
  addEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: ((event: SessionEventMap[K]) => unknown) | {
      handleEvent(event: SessionEventMap[K]): unknown;
    },
    options?: boolean | AddEventListenerOptions,
  ): void;
  /**
   * Removes a listener.
   *
   * @param type Name of the event.
   * @param listener The listener that was added.
   * @param options Options as on every `EventTarget`.
   */
  removeEventListener<K extends keyof SessionEventMap>(
    type: K,
    listener: ((event: SessionEventMap[K]) => unknown) | {
      handleEvent(event: SessionEventMap[K]): unknown;
    },
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The event target of one session. Observes the connection as soon as it is created. */
export class EventsOfSession extends EventTarget implements SessionEvents {
  readonly #session: SessionLike;
  readonly #settings: SessionSettings;
  /** Wrappers around listeners: one per listener, so that the platform can detect duplicates. */
  readonly #guards = new WeakMap<object, (event: Event) => void>();
  #isDraining = false;
  #isOver: boolean;

  constructor(session: SessionLike, settings: SessionSettings) {
    super();
    this.#session = session;
    this.#settings = settings;
    const { connection } = session;
    this.#isOver = session.isClosed;
    if (this.#isOver) return;
    this.#isDraining = session.state === "draining";
    connection.draining.then(() => this.emit("draining", null), () => {});
    connection.inspect?.observe?.((event) => this.#dispatch(event.type, event));
  }

  override addEventListener(
    type: string,
    listener: object | null,
    options?: boolean | AddEventListenerOptions,
  ): void {
    // Some connections read datagrams only after the first access.
    if (type === "datagramreceived") void this.#session.connection.datagrams;
    super.addEventListener(type, listener && this.#guard(listener), options);
  }

  override removeEventListener(
    type: string,
    listener: object | null,
    options?: boolean | EventListenerOptions,
  ): void {
    super.removeEventListener(type, listener && this.#guard(listener), options);
  }

  /** Dispatches an event. Never throws. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void {
    if (type === "draining") {
      // Both sides may cause this event; dispatch only the first.
      if (this.#isDraining) return;
      this.#isDraining = true;
    }
    this.#dispatch(type, detail);
  }

  /** Dispatches `closed`, and no event after it. */
  end(info: CloseInfo): void {
    this.#session.connection.inspect?.observe?.(undefined);
    this.emit("closed", info);
    this.#isOver = true;
  }

  #dispatch(type: string, detail: unknown): void {
    if (!this.#isOver) this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /**
   * Catches errors of a listener: the platform would treat them as uncaught and end the process.
   */
  #guard(listener: object): (event: Event) => void {
    let guard = this.#guards.get(listener);
    if (guard === undefined) {
      guard = (event) => {
        const call = () =>
          typeof listener === "function"
            ? listener.call(this, event)
            : (listener as EventListenerObject).handleEvent(event);
        attempt(call, (error) => report(this.#settings, error, this.#session));
      };
      // The platform removes the wrapper itself when the listener's signal aborts.
      this.#guards.set(listener, guard).set(guard, guard);
    }
    return guard;
  }
}
