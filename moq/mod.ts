/**
 * Media over QUIC: publish, announce, discover and subscribe over WebTransport, raw QUIC and
 * WebSocket. Works with gomoqt, moq-rs and the JavaScript client of moq-rs.
 *
 * - **Broadcasts** have a path and are announced. A {@linkcode TrackMux} maps each path to the
 *   handler of its tracks.
 * - **Tracks** are subscribed to. The publisher has a {@linkcode TrackWriter}, and the subscriber a
 *   {@linkcode TrackReader}.
 * - **Groups** make up a track. Each group has its own stream, so later groups do not wait for
 *   earlier ones, and a late group can be dropped.
 * - **Frames** make up a group, in order.
 *
 * {@linkcode listenMoq} and {@linkcode dialMoq} open sessions; {@linkcode connectMoq} creates a
 * client that reconnects. {@linkcode MoqRelay} and {@linkcode LiveTrack} send one source to many
 * subscribers, and {@linkcode MoqCluster} joins many relays into one.
 *
 * @example Publish, discover, subscribe
 * ```ts
 * import { MoqSession, TrackMux } from "@skein/skein/moq";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const mux = new TrackMux();
 * mux.publish("/live/clock", async (track) => {
 *   const group = await track.openGroup();
 *   for (const second of [1, 2, 3]) await group.writeFrame(Uint8Array.of(second));
 *   await group.close();
 * });
 *
 * // Two ends in one process; over a network these are listenMoq() and dialMoq().
 * const pair = memoryPair({ protocol: "moq-lite-05" });
 * const [server, client] = await Promise.all([
 *   MoqSession.open(pair.server, { side: "server", mux }),
 *   MoqSession.open(pair.client, { side: "client" }),
 * ]);
 *
 * const seconds: number[] = [];
 * for await (const { path } of await client.acceptAnnounce("/live")) {
 *   await using track = await client.subscribe(path, "seconds");
 *   for await (const group of track) {
 *     for await (const frame of group) seconds.push(frame[0]!);
 *   }
 *   break;
 * }
 * assertEquals(seconds, [1, 2, 3]);
 * client.close();
 * await server.closed;
 * ```
 *
 * @module
 */
export type { MoqGrant } from "./session/access.ts";
export {
  BitrateMonitor,
  type BitrateMonitorOptions,
  type PeerUpdate,
} from "./session/bitrate_monitor.ts";
export { type MoqAuthorize, MoqSession } from "./session/session.ts";
export type { MoqCloseInfo, MoqSessionOptions } from "./session/session.ts";
export type { SetupRequest } from "./session/setup.ts";

export { type Announcement, AnnouncementReader } from "./track/announcement.ts";
export { GroupReader } from "./track/group_reader.ts";
export { GroupWriter, type WriteFrameOptions } from "./track/group_writer.ts";
export { TrackMux } from "./track/mux.ts";
export type {
  FetchRequest,
  MoqPublication,
  MoqPublishOptions,
  TrackHandler,
  TrackMuxOptions,
  TrackServer,
} from "./track/mux.ts";
export { type MoqSubscribeOptions, TrackReader } from "./track/track_reader.ts";
export { TrackWriter } from "./track/track_writer.ts";

export { LiveGroup } from "./live/live_group.ts";
export {
  LiveBroadcast,
  type LiveBroadcastOptions,
  LiveTrack,
  type LiveTrackOptions,
} from "./live/live_track.ts";
export { MoqRelay, type MoqRelayOptions } from "./live/relay.ts";
export { type MoqRelayNotice, relayNotices } from "./live/relay_notices.ts";

export { connectMoq, type ConnectMoqOptions, MoqClient } from "./client/client.ts";
export type { MoqClientEnd, MoqClientOptions, MoqClientStatus } from "./client/client.ts";
export { dialMoq, type DialMoqOptions } from "./client/dial.ts";
export { ResumableAnnouncements } from "./client/resumable_announcements.ts";
export {
  ResumableTrack,
  type ResumeOptions,
  type TrackResumption,
} from "./client/resumable_track.ts";
export type { MoqRetryOptions } from "./client/retry.ts";

export { listenMoq, MoqServer } from "./server/server.ts";
export type { ListenMoqOptions, MoqClientInfo, MoqServerOptions } from "./server/server_options.ts";

export { MoqCluster, type MoqClusterOptions } from "./cluster/cluster.ts";

export {
  type MissedGroups,
  MoqError,
  moqErrorCode,
  type MoqErrorName,
  moqErrorName,
  MoqLaggedError,
} from "./wire/errors.ts";
export type { MoqToken } from "./wire/ietf/parameters.ts";
export type { SubscribeFields, TrackInfoMessage } from "./wire/messages.ts";
export { type BroadcastPath, broadcastPath } from "./wire/path.ts";
export { DEFAULT_VERSIONS, type MoqVersion } from "./wire/versions.ts";
