/** The states of a subscription, and the transitions between them. */

/**
 * The state of a subscription to a topic.
 *
 * | state         | since                                               | a message                            |
 * | ------------- | --------------------------------------------------- | ------------------------------------ |
 * | `subscribing` | the start, with the first request for the topic     | is read, unless the reply repeats it |
 * | `joining`     | the start, in a session where others have the topic | is read only by the others           |
 * | `live`        | a reply                                             | is read                              |
 * | `repairing`   | a hole, which the client asks the server to fill    | is repeated if it is after the hole  |
 * | `moving`      | a move to another session                           | is read, unless the reply repeats it |
 * | `lost`        | the end of the session, or a temporary removal      | is read, unless the reply repeats it |
 * | `ended`       | the end, or a final rejection                         | is dropped                           |
 */
export type SubscriptionState =
  | "subscribing"
  | "joining"
  | "live"
  | "repairing"
  | "moving"
  | "lost"
  | "ended";

/** The status that an application sees. */
export type SubscriptionStatus = "pending" | "subscribed" | "lost" | "ended";

/** A transition; see {@linkcode STATES}. */
export type SubscriptionChange = "join" | "reply" | "hole" | "move" | "loss" | "end";

/**
 * The status of each state, and the state after each transition. A transition that is not listed
 * does nothing. For example, a move after a loss does not change `lost`, because the messages are
 * still missing.
 */
export const STATES: Readonly<
  Record<
    SubscriptionState,
    & { readonly status: SubscriptionStatus }
    & { readonly [Change in SubscriptionChange]?: SubscriptionState }
  >
> = {
  subscribing: { status: "pending", join: "joining", reply: "live", end: "ended" },
  joining: {
    status: "pending",
    reply: "live",
    move: "subscribing",
    loss: "subscribing",
    end: "ended",
  },
  live: { status: "subscribed", hole: "repairing", move: "moving", loss: "lost", end: "ended" },
  repairing: { status: "subscribed", reply: "live", move: "moving", loss: "lost", end: "ended" },
  moving: { status: "subscribed", reply: "live", loss: "lost", end: "ended" },
  lost: { status: "lost", reply: "live", end: "ended" },
  ended: { status: "ended" },
};
