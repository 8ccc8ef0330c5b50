/**
 * Who may publish, subscribe and discover what.
 *
 * @module
 */
import type { BroadcastPath } from "../wire/path.ts";
import type { MoqSession } from "./session.ts";

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

/**
 * Decides what a peer may do: asked for each subscription, fetch and question about a track
 * (`subscribe`), each request for announcements (`announce`, with the prefix as the path) and each broadcast
 * that the peer announces (`publish`). Without it a peer may do everything.
 *
 * - **At once:** a no is told by the version's code: `unauthorized` (4) and `bannedPrefix` (4) to gomoqt.
 *   moq-lite has neither: a subscription ends as `notFound` (0x33), and announcements are an empty list,
 *   since a code would end a session of moq-rs.
 * - **Slow** decisions hold up nothing but what they are about, and the announcements behind it on the same
 *   stream. After the end of the session they count for nothing.
 * - **What it throws** is a no, and goes to `onError`; so is a grant that makes no sense.
 *
 * @example Everybody watches, for an hour; nobody publishes
 * ```ts
 * import { type MoqAuthorize, MoqError, MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals, assertRejects } from "@std/assert";
 *
 * const authorize: MoqAuthorize = (_session, path, action) =>
 *   action !== "publish" && path.startsWith("/public/") &&
 *   { until: new Date(Date.now() + 3_600_000) };
 *
 * const mux = new TrackMux();
 * mux.publish("/public/clock", (track) => track.close());
 * mux.publish("/secret/clock", (track) => track.close());
 * const pair = memoryPair({ protocol: "moq-lite-04" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux, authorize }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 * await using _server = server;
 * await using _client = client;
 *
 * await (await client.subscribe("/public/clock", "seconds")).ready;
 * const secret = await client.subscribe("/secret/clock", "seconds");
 * const error = await assertRejects(() => secret.ready, MoqError);
 * assertEquals(error.reason, "unauthorized");
 * ```
 *
 * @param session The session that asks.
 * @param path What it is about, without the style of the peer.
 * @param action What the peer wants.
 * @returns The grant.
 */
export type MoqAuthorize = (
  session: MoqSession,
  path: BroadcastPath,
  action: MoqAction,
) => MoqGrant | Promise<MoqGrant>;
