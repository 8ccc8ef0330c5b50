/**
 * Topics with subscribers and history, the brokers that carry publications between nodes, the
 * nodes, the presence of users, and rooms, which combine all of these.
 *
 * @example A chat room
 * ```ts
 * import { Session } from "@skein/skein";
 * import { Presence, Rooms, Topics } from "@skein/skein/pubsub";
 * import { sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const settings = sessionSettings({ side: "server" });
 * const [one, two] = [memoryPair(), memoryPair()];
 * await using ada = new Session(one.server, settings, { user: "ada" });
 * await using bob = new Session(two.server, settings, { user: "bob" });
 * await using page = new Session(one.client, sessionSettings({ side: "client" }));
 * await using topics = new Topics({ settings });
 * using presence = new Presence();
 * using rooms = new Rooms({ topics, presence });
 *
 * rooms.join(ada, "chat");
 * rooms.join(bob, "chat");
 * rooms.publish("chat", { text: "hello" }, { except: bob });
 *
 * const received: unknown[] = [];
 * for await (const { data } of page) {
 *   if (received.push(data) === 3) break;
 * }
 * assertEquals(received.map((data) => (data as { type?: string }).type), ["members", "join", undefined]);
 * assertEquals(received[2], { text: "hello" });
 * ```
 *
 * @module
 */
export type {
  Broker,
  BrokerHistory,
  BrokerStats,
  BrokerStatus,
  BrokerStore,
  BrokerSubscribeOptions,
  BrokerSubscription,
  HistoryBounds,
  HistoryPage,
  Publication,
  PublicationKey,
  ReadHistoryOptions,
  TopicHistory,
} from "./broker.ts";
export { MemoryBroker, type MemoryBrokerOptions } from "./memory/broker.ts";
export { Nodes } from "./nodes/nodes.ts";
export type { NodeEvent, NodeInfo, NodesOptions } from "./nodes/liveness.ts";
export { Presence } from "./presence/presence.ts";
export type { RoomOptions } from "./presence/room_notices.ts";
export { type RoomJoinOptions, Rooms, type RoomsOptions } from "./presence/rooms.ts";
export type {
  ListedMember,
  PresenceChange,
  PresenceEvent,
  PresenceFeedEvent,
  PresenceGap,
  PresenceListing,
  PresenceOptions,
} from "./presence/types.ts";
export type {
  AppendPublicationOptions,
  PublishOptions,
  SubscribeOptions,
  TopicsOptions,
  UnsubscribeOptions,
} from "./topic_options.ts";
export { Topics, type TopicsStats } from "./topics.ts";
