/** The link between a publisher's subscription and the session. */
import type { Runtime } from "../../../base/runtime.ts";
import type { DirectWritable } from "../../../transport/connection.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { SubscribeFields } from "../wire/messages.ts";
import type { WriteBuffers } from "./write_buffers.ts";

/** The members of a subscriber's session that relays read. */
export interface SubscriberSession {
  /** The role of this end. */
  readonly side: "client" | "server";
  /**
   * The part of a relay's places that `authorize` gave to the peer; `undefined` for the relay's
   * default.
   */
  readonly share: number | undefined;
}

/** The session's side of a subscription at the publisher. */
export interface TrackWriterLink {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  /** The session. */
  readonly session: SubscriberSession;
  /** Frames carry timestamps. */
  readonly timestamps: boolean;
  /** The wire tells the peer of a reset. */
  readonly resets: boolean;
  /** Memory for waiting frames. */
  readonly buffers: WriteBuffers;
  /** Opens a stream for a group. */
  open(sendOrder: number): Promise<DirectWritable>;
  /**
   * Answers the subscriber. Called without a group on an early acceptance, and with the first group
   * when that group starts; a second call sends only the number, where the version has a message
   * for that.
   */
  accept(fields: SubscribeFields, firstGroup: number | undefined): void;
  /** Announces that groups will not come, where the version has such a message. */
  drop(missed: MissedGroups, reason: MoqErrorName): void;
  /** Ends the subscription with the number after the last group, or with an error. */
  end(last: number, reason: MoqErrorName | undefined): Promise<void>;
  /** The number of a reason, for the subscriber. */
  codeOf(scope: "group" | "subscribe", reason: MoqErrorName): number;
  /** Makes the error of a stream that the subscriber ended. */
  errorOf(error: unknown): unknown;
  /**
   * Ends the session of the subscriber: the only way to free the subscriber's memory on some wires.
   */
  closeSession(message: string): void;
}
