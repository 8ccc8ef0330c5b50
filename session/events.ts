/**
 * What happens to a session, as events.
 *
 * @module
 */
import type { CloseInfo } from "../errors.ts";
import type { ConnectionEvent } from "../transport/connection.ts";
import type { GoAway } from "./envelope.ts";

type Happening<T extends ConnectionEvent["type"]> = CustomEvent<
  Extract<ConnectionEvent, { readonly type: T }>
>;

/** The events of a session, by their names. */
export interface SessionEventMap {
  /** The session is established. */
  ready: CustomEvent<null>;
  /** It winds up: this end drains, or the peer asked for it. */
  draining: CustomEvent<null>;
  /** The peer says that it will go away. */
  goaway: CustomEvent<GoAway>;
  /** It is over; the last event. */
  closed: CustomEvent<CloseInfo>;
  /** The peer sent what makes no sense; `detail` says what. */
  protocolerror: CustomEvent<string>;
  /** Something was waited for in vain, or a handler failed. */
  error: CustomEvent<unknown>;
  /** A stream was opened, by either end. */
  streamopened: Happening<"streamopened">;
  /** A stream is over; `error` is there if it was cut short. */
  streamclosed: Happening<"streamclosed">;
  /** A datagram was handed to the wire. */
  datagramsent: Happening<"datagramsent">;
  /** A datagram came; its bytes MUST NOT be changed. */
  datagramreceived: Happening<"datagramreceived">;
  /** A datagram was lost at this end. */
  datagramdropped: Happening<"datagramdropped">;
  /** One end waits for credit. */
  blocked: Happening<"blocked">;
  /** The peer granted credit. */
  credit: Happening<"credit">;
}

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
    listener: (event: SessionEventMap[K]) => void,
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
    listener: (event: SessionEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
}
