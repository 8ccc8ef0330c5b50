/** Rights to publish, subscribe and discover. */

/**
 * The action that a peer asks for: to announce a broadcast here (`publish`), to receive a broadcast
 * from here (`subscribe`), or to follow the announcements below a prefix (`announce`).
 */
export type MoqAction = "publish" | "subscribe" | "announce";

/**
 * Yes, no, or yes with conditions.
 *
 * - **`until`:** the end of the grant. Only the granted action ends: a subscription is refused as
 *   `unauthorized`, a fetch breaks off, and all broadcasts that the peer learned of are announced
 *   as ended. A broadcast that the peer announced ends here, and the stream of that announcement is
 *   closed as `bannedPrefix`, since no version can refuse a single path.
 * - **`share`:** the part of a relay's `maxBroadcasts` and `maxTracks` that the session may take
 *   from now on, above 0 and up to 1, in place of the relay's `maxShare`; 1 for another relay. The
 *   share holds until another grant of the session sets a new one.
 */
export type MoqGrant =
  | boolean
  | { readonly until: Date; readonly share?: number }
  | { readonly share: number };
