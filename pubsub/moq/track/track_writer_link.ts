/**
 * What stands between a subscription at its publisher and the session.
 *
 * @module
 */
import type { DirectWritable } from "../../../transport/connection.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import type { MissedGroups } from "../wire/errors.ts";
import type { SubscribeFields } from "../wire/messages.ts";
import type { WriteBuffers } from "./write_buffers.ts";

/** The session of a subscriber, as far as a relay asks. */
export interface SubscriberSession {
  /** Which end of it this is. */
  readonly side: "client" | "server";
  /** The part of a relay's places that `authorize` gave to the peer; `undefined` for the relay's default. */
  readonly share: number | undefined;
}

/** What a subscription needs of its session. */
export interface TrackWriterLink {
  /** The session. */
  readonly session: SubscriberSession;
  /** Frames carry timestamps. */
  readonly timestamps: boolean;
  /** The wire tells the peer of a reset. */
  readonly resets: boolean;
  /** Memory for what waits. */
  readonly buffers: WriteBuffers;
  /** Calls back at the end of this turn of the event loop. */
  readonly schedule: (callback: () => void) => void;
  /** Opens a stream for a group. */
  open(sendOrder: number): Promise<DirectWritable>;
  /** Answers the subscriber: at once without a group, and, where that was not or the version tells the first one, with it. */
  accept(fields: SubscribeFields, firstGroup: number | undefined): void;
  /** Says that groups will not come, where the version can. */
  drop(missed: MissedGroups, reason: MoqErrorName): void;
  /** Ends the subscription: at its end with the number behind the last group, or with an error. */
  end(last: number, reason: MoqErrorName | undefined): Promise<void>;
  /** The number of a reason, for the subscriber. */
  codeOf(scope: "group" | "subscribe", reason: MoqErrorName): number;
  /** Makes the error of a stream that the subscriber ended. */
  errorOf(error: unknown): unknown;
  /** Ends the session of the subscriber, for nothing less frees what it holds. */
  closeSession(message: string): void;
}
