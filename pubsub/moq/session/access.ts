/**
 * Who may publish, subscribe and discover what.
 *
 * @module
 */

/**
 * What a peer wants: to announce a broadcast here (`publish`), to have one from here (`subscribe`), or to
 * be told of what is below a prefix (`announce`).
 */
export type MoqAction = "publish" | "subscribe" | "announce";

/**
 * Yes, no, or yes with conditions.
 *
 * - **`until`:** the end of the grant. What was allowed ends with it, and nothing else: a subscription is
 *   refused as `unauthorized`, a fetch breaks off, announcements are told as ended. A broadcast that the
 *   peer announced is told as ended here, and the stream that it came by is closed as `bannedPrefix`: no
 *   version has a word for one path.
 * - **`share`:** the part of a relay's `maxBroadcasts` and `maxTracks` that the session may take from now
 *   on, above 0 and up to 1, in place of the relay's `maxShare`; 1 for another relay. It holds until
 *   another grant of the session says otherwise.
 */
export type MoqGrant =
  | boolean
  | { readonly until: Date; readonly share?: number }
  | { readonly share: number };
