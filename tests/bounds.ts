/**
 * Attacks the limits in the table of `docs/reference/limits.md`. For each limit that has a share, one
 * address uses up its share; every part of the server must still serve a user from another address.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { guest, type ServeOptions, type Server } from "../server.ts";
import { LimitError, RequestError } from "../errors.ts";
import { platformRuntime } from "../base/runtime.ts";
import { type Accounts, socketAccount } from "../base/quotas/accounts.ts";
import { Quota, Quotas } from "../base/quotas/shares.ts";
import type { Broker } from "../pubsub/broker.ts";
import {
  MoqRelay,
  type MoqRelayOptions,
  MoqServer,
  MoqSession,
  type MoqVersion,
  relayNotices,
  TrackMux,
} from "../moq/mod.ts";
import { Nodes } from "../pubsub/nodes/nodes.ts";
import { SharedCarriers } from "../server/http/shared_carriers.ts";
import { Header, HTTP_TRANSPORT } from "../transport/http/connection.ts";
import { HttpConnections } from "../transport/http/server.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import type { MoqServerOptions } from "../moq/server/server_options.ts";
import { MAX_SUBGROUPS, OBJECT_WAIT_MS } from "../moq/session/ietf/object_group.ts";
import { MAX_EARLY_STREAMS } from "../moq/session/ietf/subscriber.ts";
import {
  decodeRequestError,
  DraftType,
  encodeDraftPublish,
  encodeDraftSubscribe,
  encodeNamespaceRequest,
} from "../moq/wire/ietf/messages.ts";
import { MAX_DRAFT_PARAMETERS, MAX_PROPERTIES } from "../moq/wire/ietf/parameters.ts";
import { type DraftTraits, VERSIONS } from "../moq/wire/versions.ts";
import { directStream } from "../transport/direct.ts";
import { type HandExchange, HandPeer } from "./moq/peer.ts";
import { Caller } from "./peers/caller.ts";
import type { Reply } from "./peers/page.ts";
import { openedQuotas } from "../tools/limits_table.ts";
import { hurried, listen, portOf, UPGRADE_HEADERS } from "./servers.ts";
import { turns, until } from "./waiting.ts";
import { headOf, TextSocket } from "./peers/text_socket.ts";
import { type ApiOptions, httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";
import { type DurableStreamsOptions, resumable, type ResumableOptions } from "../streams/mod.ts";

/** The address of a user who uses a little of everything. */
const HONEST = "198.51.100.7";

/** The value of each attacked limit; it is small, so that an attack is short. */
const MAX = 20;

/**
 * A rate whose burst covers what an honest user needs. After the burst, it allows nothing for
 * hours.
 */
const RATE = { perSecond: 0.001, burst: 10 };

/** The headers of a JSON body. */
const JSON_TYPE = { "content-type": "application/json" };

/** A change of a row over HTTP. */
const CHANGE = JSON.stringify({
  type: "cards",
  key: "1",
  value: 1,
  headers: { operation: "upsert" },
});

/** The bounds of MoQ count in the same way in both families, and on every broker. */
const BOTH = { isWithoutBroker: true, versions: ["moq-lite-05", "moqt-22"] } as const;

/** The bounds that only the IETF's drafts have. */
const DRAFTS = { isWithoutBroker: true, versions: ["moqt-18", "moqt-22"] } as const;

/** No rate of costs. */
const FREE = { cost: { perSecond: Infinity } };

/** Attackers, each with its addresses. */
const PARTIES: Readonly<Record<string, readonly string[]>> = {
  "an address": ["203.0.113.66"],
  // Each is a /64; the first two share a /56.
  "a /48": ["1::1", "2::1", "100::1", "200::1", "300::1", "400::1"].map((end) =>
    `2001:db8:66:${end}`
  ),
};

/** A broker to attack. */
export interface WalkedStore {
  /** The name in test titles. */
  readonly name: string;
  /** True if the store behind the broker is not installed. */
  readonly ignore?: boolean;
  /**
   * A number of topics with a history that exceeds what the broker keeps; any number if the broker
   * has no limit.
   */
  readonly rooms: number;
  /**
   * A number of bytes of histories or streams that exceeds what the broker keeps; absent if it has
   * no limit.
   */
  readonly bytes?: number;
  /** True for the broker that also runs the attacks that don't depend on a broker. */
  readonly isFirst?: boolean;
  /** Opens a broker that is closed when the test ends. */
  readonly open: (room: AsyncDisposableStack) => Promise<Broker>;
}

/** A server with all features enabled and a relay with one broadcast. */
interface House {
  readonly server: Server<string | typeof guest>;
  readonly moq: MoqServer;
  readonly relay: MoqRelay;
  /** The version of MoQ of all sessions. */
  readonly version: MoqVersion;
  readonly store: WalkedStore;
  /** The number of attacking addresses. */
  readonly addresses: number;
  readonly broker: Broker;
  /** The lookup of HTTP connections, if one is used. */
  readonly carriers: Carriers[];
  /** Disposed of after the test. */
  readonly room: AsyncDisposableStack;
}

/** Looks up HTTP connections on other nodes, and holds one of them. */
interface Carriers {
  readonly shared: SharedCarriers;
  readonly accounts: Accounts;
  /** The node that has the connection. */
  readonly node: string;
  readonly session: string;
  readonly secret: string;
}

/** A limit, and an attack on it. */
interface Walk {
  /** Server options that make the limit small. */
  readonly options?: ServeOptions<string | typeof guest>;
  /** API options that make the limit small. */
  readonly api?: Partial<ApiOptions>;
  /** Options of durable streams that make the limit small. */
  readonly streams?: DurableStreamsOptions;
  /** Options of resumable responses that make the limit small. */
  readonly responses?: ResumableOptions;
  /** MoQ server options that make the limit small. */
  readonly moq?: Partial<MoqServerOptions>;
  /** Relay options that make the limit small. */
  readonly relay?: MoqRelayOptions;
  /** True if the limit does not depend on the broker. */
  readonly isWithoutBroker?: boolean;
  /** The versions of MoQ with which the attack runs; one by default. */
  readonly versions?: readonly MoqVersion[];
  /**
   * Uses up the share of an address and holds it.
   *
   * @returns The error text of the rejection, which names the level.
   */
  readonly attack: (house: House, from: string) => Promise<string>;
}

/** The attacks, keyed by the limit's id in the table. */
export const WALKS: Readonly<Record<string, Walk>> = {
  maxSessions: {
    options: { limits: { maxSessions: MAX } },
    attack: async ({ server, room }, from) => {
      for (let i = 0;; i++) {
        const user = i % 2 === 0 ? "" : nameOf(from, i);
        const caller = room.use(await Caller.dial(server, { from, user }));
        const rejection = await caller.rejection();
        if (rejection !== undefined) return rejection;
      }
    },
  },
  sockets: {
    options: { limits: { maxSessions: MAX } },
    attack: async (house, from) => {
      const head = { ...UPGRADE_HEADERS, "sec-websocket-protocol": "skein.1" };
      while (true) {
        const { status, text } = await ask(house, `GET /?from=${from}`, { head, body: "" });
        // The client does not reply to close frames, so the sockets of rejected sessions stay open.
        if (status !== 101) return text;
      }
    },
  },
  "rates.perAddress.connections": {
    options: { rates: { perAddress: { connections: RATE } } },
    attack: (house, from) => WALKS["maxSessions"]!.attack(house, from),
  },
  "rates.perSession.subscriptions": {
    options: { rates: { perSession: { subscriptions: RATE } } },
    attack: async (house, from) => {
      const caller = await callerOf(house, from);
      return await untilRejected((i) =>
        caller.ask(i % 2 === 0 ? { subscribe: "a" } : { unsubscribe: "a" })
      );
    },
  },
  "rates.perSession.publications": {
    options: { rates: { perSession: { publications: RATE } } },
    attack: async (house, from) => {
      const caller = await callerOf(house, from);
      return await untilRejected(() => caller.ask({ publish: "chat:mine", data: 1 }));
    },
  },
  "rates.perSession.publications over HTTP": {
    options: { rates: { perSession: { publications: RATE } } },
    attack: async ({ server }, from) => {
      const rows = `http://localhost/streams/rows?from=${from}`;
      const keyed = { "stream-keyed": "true", ...JSON_TYPE };
      const created = await server.fetch(new Request(rows, { method: "PUT", headers: keyed }));
      assert(created.ok, `${created.status}`);
      while (true) {
        const change = { method: "POST", headers: JSON_TYPE, body: CHANGE };
        const { status, body } = await server.fetch(new Request(rows, change));
        if (status === 429) return await new Response(body).text();
        assertEquals(status, 204);
      }
    },
  },
  "responses.maxRunning": {
    responses: { maxRunning: MAX },
    attack: async (house, from) => {
      let caller: Caller | undefined;
      return await untilRejected(async (i) => {
        // Alternates between guests and new users.
        if (i % 5 === 0) caller = await callerOf(house, from, i % 10 === 0 ? "" : nameOf(from, i));
        return await caller!.response(nameOf(from, i));
      });
    },
  },
  "rates.perAddress.cost": {
    options: { rates: { perAddress: { cost: RATE } } },
    attack: async (house, from) => {
      let caller: Caller | undefined;
      return await untilRejected(async (i) => {
        if (i % 5 === 0) caller = await callerOf(house, from, i % 10 === 0 ? "" : nameOf(from, i));
        return await caller!.response(nameOf(from, i), "short");
      });
    },
  },
  "responses.maxRetained": {
    options: { rates: { perUser: FREE, perAddress: FREE } },
    responses: { maxRetained: MAX },
    attack: async (house, from) => {
      // New responses can replace finished responses, but never running ones.
      for (const [count, topic] of [[MAX, "short"], [Infinity, "chat"]] as const) {
        let caller: Caller | undefined;
        for (let i = 0; i < count; i++) {
          if (i % 5 === 0) caller = await callerOf(house, from);
          const { error } = await caller!.response(`${topic}-${nameOf(from, i)}`, topic);
          if (error !== undefined) return rejectionOf(error);
        }
      }
      return "";
    },
  },
  "durableStreams.maxStreams": {
    streams: { maxStreams: MAX },
    attack: async ({ server }, from) => {
      for (let i = 0;; i++) {
        const { status, text } = await createStream(server, { from, i });
        if (status !== 201) return text;
      }
    },
  },
  "streams.bytes": {
    attack: async ({ server, store: { bytes = 0 } }, from) => {
      if (bytes === 0) return "your address has no share where the broker has no bound";
      const body = "x".repeat(50_000);
      for (let i = 0; i < bytes / body.length; i++) {
        const { status, text } = await createStream(server, { from, i, body });
        if (status !== 201) return `${status} ${text}`;
      }
      return "";
    },
  },
  maxReaders: {
    streams: { maxReaders: MAX },
    attack: async (house, from) => {
      const ids: string[] = [];
      for (const half of [0, 1]) {
        const writer = await callerOf(house, from);
        for (let i = 0; i < 5; i++) {
          const { data } = await writer.response(nameOf(from, half * 5 + i));
          ids.push(`stream:${data!["stream"]}`);
        }
      }
      let caller: Caller | undefined;
      return await untilRejected(async (i) => {
        if (i % ids.length === 0) caller = await callerOf(house, from);
        return await caller!.ask({ subscribe: ids[i % ids.length] });
      });
    },
  },
  "durableStreams.maxRequests": {
    streams: { maxRequests: MAX },
    attack: (house, from) => slowPosts(house, `/streams/open?from=${from}`),
  },
  "api.maxRequests": {
    api: { maxRequests: MAX },
    attack: (house, from) => slowPosts(house, `/api/topics/x/publications?from=${from}`),
  },
  "api.maxReaders": {
    api: { maxReaders: MAX },
    attack: async (house, from) => {
      while (true) {
        const response = await follow(house, { "x-from": from });
        if (!response.ok) return await response.text();
      }
    },
  },
  unknownConnections: {
    attack: async (house, from) => {
      const near = await carriersOf(house);
      const account = near.accounts.of({ address: from });
      // The ids name a node that never replies.
      const lost = near.session.replace(near.node, near.node.replaceAll(/\d/g, "f"));
      const calls = Array.from(
        { length: 1_024 },
        (_, i) => near.shared.find(`${lost}${i}`, "secret", () => account).prove(),
      );
      const rejection = await Promise.any(calls.map(async (call) => {
        const error = await call.catch((error) => error);
        return error instanceof LimitError ? error.message : Promise.reject(error);
      }));
      const honest = near.accounts.of({ address: HONEST });
      await near.shared.find(near.session, near.secret, () => honest).prove();
      return rejection;
    },
  },
  histories: {
    attack: async (house, from) => {
      for (let made = 0; made < house.store.rooms / house.addresses;) {
        // Each session stays within its share of rooms and within the publication rate.
        const user = made % 500 === 0 ? "" : `${from} ${made}`;
        using caller = await callerOf(house, from, user);
        for (let turn = 0; turn < 5; turn++) {
          const asked = Array.from(
            { length: 50 },
            () => caller.ask({ publish: `chat:${from}-${made++}`, data: 1 }),
          );
          for (const { error } of await Promise.all(asked)) assertEquals(error, undefined);
        }
      }
      return "your address may make rooms: the oldest are forgotten";
    },
  },
  "histories.bytes": {
    attack: async (house, from) => {
      const caller = await callerOf(house, from);
      const data = "x".repeat(100_000);
      const { bytes = 0 } = house.store;
      for (let sent = 0; sent < bytes / house.addresses; sent += data.length) {
        const topic = `chat:${from}-${sent / data.length % 10}`;
        assertEquals((await caller.ask({ publish: topic, data })).error, undefined);
      }
      return "your address may publish: its own histories are forgotten";
    },
  },
  "http.unreadBytes": {
    isWithoutBroker: true,
    attack: async ({ server, room }, from) => {
      while (true) {
        const url = `http://localhost/streams/open?offset=-1&live=sse&from=${from}`;
        const { status, body } = await server.fetch(new Request(url));
        if (status !== 200) return await new Response(body).text();
        room.defer(() => body!.cancel());
      }
    },
  },
  "http.posts": {
    options: {
      rates: { perAddress: { connections: { perSecond: Infinity } } },
      session: { closeTimeoutMs: 1 }, // No client reads its close.
    },
    isWithoutBroker: true,
    attack: async ({ server }, from) => {
      let rejection: string | undefined;
      while (rejection === undefined) {
        const keys = await openHttp(server, from);
        // Each connection reads two bodies concurrently.
        for (let i = 0; i < 2; i++) {
          void postHttp(server, { from, keys, body: new ReadableStream() }).then(
            async (response) => rejection ??= await response.text(),
          );
        }
      }
      return rejection;
    },
  },
  "moq.maxBroadcasts": {
    ...BOTH,
    relay: { maxBroadcasts: MAX, maxShare: 1 },
    attack: (house, from) => announceMany(house, from, MAX),
  },
  "moq.waitingBroadcasts": {
    ...BOTH,
    relay: { maxBroadcasts: MAX, maxShare: 1 },
    attack: (house, from) => announceMany(house, from, 2 * MAX),
  },
  "moq.maxTracks": {
    ...BOTH,
    relay: { maxTracks: MAX },
    attack: async (house, from) => {
      for (let i = 0;; i++) {
        const viewer = await viewerOf(house, from);
        const error = await failureOf(viewer.subscribe("/live", nameOf(from, i)));
        if (error !== undefined) return `your address: ${error}`;
      }
    },
  },
  "moq.maxFetches": {
    isWithoutBroker: true,
    relay: { maxFetches: MAX },
    attack: async (house, from) => {
      const path = `/${nameOf(from, 0)}` as const;
      const mux = new TrackMux();
      let asked = 0;
      mux.publish(path, {
        serveTrack() {},
        serveFetch() {
          asked++;
          return new Promise(() => {});
        },
      });
      await viewerOf(house, from, mux);
      await until(() => house.relay.mux.announcements(path).length === 1);
      for (let rejection: string | undefined, i = 0;; i++) {
        const viewer = await viewerOf(house, from);
        const group = await viewer.fetch(path, "attack", { group: 1 });
        group.readFrame().catch(({ message }) => rejection = message);
        await until(() => asked > i || rejection !== undefined);
        if (rejection !== undefined) return `your address: ${rejection}`;
      }
    },
  },
  "moq.maxStreams": {
    ...BOTH,
    moq: { limits: { maxStreams: 2 * MAX } },
    attack: async (house, from) => {
      while (true) {
        const viewer = await viewerOf(house, from);
        const interest = await viewer.acceptAnnounce("/live");
        const error = await failureOf({ ready: interest.next() }) ??
          await failureOf(viewer.subscribe("/live", "attack"));
        if (error !== undefined) return `your address: ${error}`;
      }
    },
  },
  "moq.maxSessions": {
    ...BOTH,
    moq: { limits: { maxSessions: MAX } },
    attack: async (house, from) => {
      while (true) {
        const rejection = await viewerOf(house, from).then(
          () => undefined,
          ({ message }) => message,
        );
        if (rejection !== undefined) return rejection;
      }
    },
  },
  "moqt.requests": {
    ...DRAFTS,
    moq: { sessionLimits: { maxRequests: MAX } },
    attack: async (house, from) => {
      const peer = await handOf(house, from);
      for (let i = 0;; i++) {
        const response = await (await announces(house, peer, nameOf(from, i), i)).read();
        const [type, , , ...body] = Uint8Array.fromHex(response!);
        if (type !== DraftType.requestError) continue;
        assertEquals(i, MAX);
        return `your session: ${decodeRequestError(Uint8Array.from(body)).reason}`;
      }
    },
  },
  "moqt.parameters": {
    ...DRAFTS,
    attack: async (house, from) => {
      const peer = await handOf(house, from);
      const tokens = Array.from({ length: MAX_DRAFT_PARAMETERS + 1 }, () => new Uint8Array());
      const request = { requestId: 0, path: "/live", track: "b", parameters: { tokens } } as const;
      await peer.ask(encodeDraftSubscribe(request, draftOf(house)).toHex());
      return await violation(peer);
    },
  },
  "moqt.properties": {
    ...DRAFTS,
    attack: async (house, from) => {
      const one = await handOf(house, from);
      const properties = "0200".repeat(MAX_PROPERTIES + 1);
      const offer = offerOf(house, from).toHex().slice(6) + properties;
      await one.ask(`1d ${(offer.length / 2).toString(16).padStart(4, "0")} ${offer}`);
      await violation(one);
      const other = await handOf(house, from);
      await other.ask(offerOf(house, from).toHex());
      await watched(house, from, other);
      // One byte too many for an object.
      await other.post("71 09 00 00 c10001", { staysOpen: true });
      return await violation(other);
    },
  },
  "moqt.subgroups": {
    ...DRAFTS,
    // The group does not stop waiting for object 0, which never comes.
    moq: { runtime: hurried(60_000, (ms) => ms === OBJECT_WAIT_MS) },
    attack: async (house, from) => {
      const peer = await handOf(house, from);
      await peer.ask(offerOf(house, from).toHex());
      await watched(house, from, peer);
      return await untilCancelled(peer, "70 09 00 01 01 aa", MAX_SUBGROUPS);
    },
  },
  "moqt.early": {
    ...DRAFTS,
    attack: async (house, from) => {
      const peer = await handOf(house, from);
      await announces(house, peer, nameOf(from, 0), 0);
      await watched(house, from, peer);
      // SUBSCRIBE gets no response.
      return await untilCancelled(peer, "70 09 00 00 01 aa", MAX_EARLY_STREAMS);
    },
  },
};

/**
 * Limits that are tested only through their quotas, with the default values, because a test on one
 * machine has neither other socket addresses nor stalled requests.
 */
export const QUOTAS: readonly string[] = [
  "publications.waitingBytes",
  "publications.rememberedBytes",
  "states.copies",
  "states.waiting",
  "states.mutations",
  "states.ephemeral",
  "durableStreams.requests",
  "durableStreams.mutations",
  "api.requests",
  "calls.http",
  "unreadStreams",
  "quic.connections",
  "connections",
  "maxPending",
  "moq.maxPendingSetups",
  "moq.maxFetchBytes",
];

/** Registers the tests of all limits in {@linkcode QUOTAS}. */
export function testQuotas(): void {
  for (const [party, addresses] of Object.entries(PARTIES)) {
    Deno.test(`Quotas: ${party} uses its whole share, and a user gets a slot`, async () => {
      const opened = await openedQuotas();
      for (const name of QUOTAS) {
        const quota = new Quota(opened.get(name)!);
        // Bytes are taken in larger parts than slots.
        const units = name.endsWith("Bytes") ? 65_536 : 1;
        for (const from of addresses) {
          let rejection: unknown;
          for (let i = 0; typeof rejection !== "string"; i++) {
            rejection = quota.tryTake(socketAccount(from, `${from} ${i >> 3}`), { units });
          }
          assertMatch(rejection, /address|session/, name);
          quota.take(socketAccount(HONEST, "honest"), { units })[Symbol.dispose]();
        }
      }
    });
  }
}

/**
 * Registers all attacks for a broker.
 *
 * @param store The broker.
 */
export function testWalks(store: WalkedStore): void {
  for (const [bound, walk] of Object.entries(WALKS)) {
    if (walk.isWithoutBroker && !store.isFirst) continue;
    for (const [party, addresses] of Object.entries(PARTIES)) {
      for (const version of walk.versions ?? ["moq-lite-05"]) {
        const where = walk.versions === undefined ? store.name : `${store.name}, ${version}`;
        Deno.test({
          name: `${bound} on ${where}: ${party} uses its whole share, and a user is served`,
          ignore: store.ignore ?? false,
          fn: async () => {
            await using room = new AsyncDisposableStack();
            const opened = await open(walk, { store, room, version });
            const house = { ...opened, addresses: addresses.length };
            for (const from of addresses) {
              const text = await walk.attack(house, from);
              assertMatch(
                text,
                /your (address|session)|per (session|network address)|of an address/,
              );
              // Problems over HTTP have the level too.
              if (text.startsWith("{")) assertMatch(JSON.parse(text).level, /^(session|address)$/);
            }
            await serves(house);
          },
        });
      }
    }
  }
}

/**
 * Starts two nodes that forward requests over HTTP; returns one node's lookup and a connection of
 * the other.
 */
async function carriersOf({ carriers, room, broker }: House): Promise<Carriers> {
  if (carriers[0] !== undefined) return carriers[0];
  const runtime = platformRuntime();
  const quotas = new Quotas(runtime);
  const nodes = [0, 1].map(() => room.use(new Nodes({ broker })));
  const own = nodes.map(({ id }) =>
    room.use(new HttpConnections({ runtime, node: id, maxFrameBytes: 100 }))
  );
  const shared = nodes.map((node, i) =>
    room.use(
      new SharedCarriers({ nodes: node, own: own[i]!, quotas, maxBytes: 1_000, onError() {} }),
    )
  );
  await Promise.all(shared.map(({ ready }) => ready));
  const [near, far] = nodes;
  await until(() => near!.has(far!.id));
  const { session, secret } = own[1]!.accept().opened;
  const made = { shared: shared[0]!, accounts: quotas.accounts, node: far!.id, session, secret };
  carriers.push(made);
  return made;
}

/** Opens a server with all features enabled. */
async function open(
  walk: Walk,
  { store, room, version }: Pick<House, "store" | "room" | "version">,
) {
  const relay = new MoqRelay({ allowAnonymousPublish: true, ...walk.relay });
  room.defer(() => relay.close());
  const moq = room.use(
    new MoqServer({
      mux: relay.mux,
      onSession: (session) => void relay.accept(session),
      ...walk.moq,
    }),
  );
  const { options = {} } = walk;
  const broker = await store.open(room);
  const server = room.use(listen<string | typeof guest>({
    broker,
    webTransport: false,
    clientAddress: (request) => fact(request, "from") || HONEST,
    authenticate: ({ request }) => fact(request, "user") || guest,
    authorize: () => true,
    onSessionRejected() {},
    history: { "chat:{room}": { ttlMs: 3_600_000 } },
    requests: {
      chat: {
        resumable,
        async *handle({ signal }) {
          yield "hello";
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
      },
      short: {
        resumable,
        async *handle() {
          yield "hello";
        },
      },
    },
    ...options,
    features: [
      ...streamFeatures(
        { path: "/streams", ...walk.streams, authorize: () => true },
        walk.responses,
      ),
      httpApi({ path: "/api", ...walk.api, authorize: () => true }),
    ],
  }));
  const house = {
    server,
    moq,
    relay,
    version,
    store,
    room,
    broker,
    carriers: [],
    addresses: 1,
  };
  for (const topic of ["lobby", "hall"]) await server.topics.append(`chat:${topic}`, topic);
  await fetched(house, "PUT", "/streams/open?user=owner");
  const mux = new TrackMux();
  mux.publish("/live", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(new TextEncoder().encode("frame"));
    await group.close();
    await new Promise((resolve) => track.signal.addEventListener("abort", resolve));
  });
  await viewerOf(house, "192.0.2.200", mux);
  await until(() => relay.mux.size === 1);
  return house;
}

/**
 * Returns the address or user that a request names in its query or, where queries are strict, in a
 * header.
 */
function fact({ headers, url }: Request, name: string): string | null {
  return headers.get(`x-${name}`) ?? new URL(url).searchParams.get(name);
}

/** Makes a user from another address use a little of everything. */
async function serves(house: House): Promise<void> {
  const { server, room } = house;
  const ann = room.use(await Caller.dial(server, { from: HONEST, user: "ann" }));
  assertEquals(await ann.rejection(), undefined);
  // A running response, and its reader.
  const { data, error } = await ann.response("ann");
  assertEquals(error, undefined);
  const topic = `stream:${data!["stream"]}`;
  assertEquals((await ann.ask({ subscribe: topic, last: 10 })).error, undefined);
  await ann.next((envelope) => envelope["topic"] === topic);
  // Room histories, publications, and the API.
  for (const name of ["lobby", "hall"]) {
    const { error } = await ann.ask({ subscribe: `chat:${name}`, last: 10 });
    assertEquals(error, undefined);
    await ann.next(({ topic, data }) => topic === `chat:${name}` && data === name);
  }
  assertEquals((await ann.ask({ publish: "chat:hall", data: "mine" })).error, undefined);
  await ann.next((envelope) => envelope["data"] === "mine");
  const path = "/api/topics/chat:lobby/publications?user=ann";
  await fetched(house, "POST", path, { headers: JSON_TYPE, body: '{"data":"backend"}' });
  await ann.next((envelope) => envelope["data"] === "backend");
  const events = await follow(house, { "x-user": "ann" });
  assert(events.ok, "events of a topic");
  // Durable streams, and a fork.
  await fetched(house, "PUT", "/streams/ann?user=ann");
  await fetched(house, "POST", "/streams/ann?user=ann", { body: "kept" });
  const fork = { headers: { "stream-forked-from": "/streams/ann" } };
  await fetched(house, "PUT", "/streams/fork?user=ann", fork);
  assertEquals(await fetched(house, "GET", "/streams/fork?offset=-1&user=ann"), "kept");
  const keyed = { "stream-keyed": "true", ...JSON_TYPE };
  await fetched(house, "PUT", "/streams/rows-of-ann?user=ann", { headers: keyed });
  const row = { headers: JSON_TYPE, body: CHANGE };
  await fetched(house, "POST", "/streams/rows-of-ann?user=ann", row);
  // A session over HTTP.
  const keys = await openHttp(server, HONEST);
  const posted = await postHttp(server, { from: HONEST, keys, body: "" });
  assertEquals([posted.status, await posted.text()], [204, ""]);
  const end = new Request("http://localhost/", { method: "DELETE", headers: keys });
  assertEquals((await server.fetch(end)).status, 204);
  // A track of the relay.
  const viewer = await viewerOf(house, HONEST);
  const track = await viewer.subscribe("/live", "ann");
  const group = await track.nextGroup();
  for await (const frame of group!) {
    assertEquals(new TextDecoder().decode(frame), "frame");
    break;
  }
  if (VERSIONS[house.version].requests) {
    const fetched = await viewer.fetch("/live", "ann", { group: 77 });
    assertEquals(new TextDecoder().decode((await fetched.readFrame())!), "frame");
  }
  const mux = new TrackMux();
  mux.publish("/ann", () => {});
  await viewerOf(house, HONEST, mux);
  await until(() => house.relay.mux.announcements("/ann").length === 1);
}

/** Follows a topic as server-sent events, until the test ends. */
async function follow({ server, room }: House, facts: Record<string, string>): Promise<Response> {
  const url = `http://127.0.0.1:${portOf(server)}/api/topics/chat:lobby/publications`;
  const headers = { accept: "text/event-stream", ...facts };
  const response = await fetch(url, { headers });
  if (response.ok) room.defer(() => response.body!.cancel());
  return response;
}

/** Sends a request of the user, which must succeed. */
async function fetched(
  { server }: House,
  method: string,
  path: string,
  init: { headers?: Record<string, string>; body?: string } = {},
): Promise<string> {
  const { body = null, headers } = init;
  const response = await fetch(`http://127.0.0.1:${portOf(server)}${path}`, {
    method,
    body,
    headers: { "content-type": "text/plain", ...headers },
  });
  const text = await response.text();
  assert(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text;
}

/** Connects a guest or a new user, and waits for the session. */
async function callerOf({ server, room }: House, from: string, user = ""): Promise<Caller> {
  const caller = room.use(await Caller.dial(server, { from, user }));
  assertEquals(await caller.rejection(), undefined);
  return caller;
}

/** Takes slots until a request for one is rejected; returns the error text. */
async function untilRejected(take: (i: number) => Promise<Reply>): Promise<string> {
  for (let i = 0;; i++) {
    const { error } = await take(i);
    if (error === undefined) continue;
    return rejectionOf(error);
  }
}

/** The text of a rejection, which also has the level. */
function rejectionOf({ code, message, level }: NonNullable<Reply["error"]>): string {
  assertEquals(code, "too-many");
  assertMatch(`${level}`, /^(session|user|address)$/, message);
  return message;
}

/** Creates a stream for an address, alternating between guests and new users. */
async function createStream(
  { fetch }: House["server"],
  { from, i, body = "" }: { readonly from: string; readonly i: number; readonly body?: string },
): Promise<{ readonly status: number; readonly text: string }> {
  const query = new URLSearchParams({ from, user: i % 2 === 0 ? "" : nameOf(from, i) });
  const url = `http://localhost/streams/${nameOf(from, i)}?${query}`;
  const headers = { "content-type": "text/plain" };
  const response = await fetch(new Request(url, { method: "PUT", headers, body }));
  return { status: response.status, text: await response.text() };
}

function nameOf(from: string, i: number): string {
  return `${from.replace(/[:.]/g, "-")}-${i}`;
}

/** Opens a connection over HTTP, and returns the headers of its requests. */
async function openHttp({ fetch }: House["server"], from: string): Promise<Record<string, string>> {
  const headers = { [Header.transport]: HTTP_TRANSPORT, [Header.poll]: "1", "x-from": from };
  const response = await fetch(new Request("http://localhost/?protocol=skein.1", { headers }));
  const events = await response.text();
  const { session, secret } = JSON.parse(/data:(.*)/.exec(events)![1]!);
  return { ...headers, [Header.session]: session, [Header.secret]: secret };
}

/** Sends frames on a connection over HTTP. */
async function postHttp(
  { fetch }: House["server"],
  { from, keys, body }: {
    readonly from: string;
    readonly keys: Record<string, string>;
    readonly body: BodyInit;
  },
): Promise<Response> {
  const headers = { ...keys, [Header.number]: "1", [Header.lastEvent]: "0", "x-from": from };
  return await fetch(new Request("http://localhost/", { method: "POST", headers, body }));
}

/** Sends a raw request, and keeps the connection open. */
async function ask(
  { server, room }: House,
  line: string,
  { head, body }: { readonly head: Readonly<Record<string, string>>; readonly body: string },
): Promise<{ readonly status: number; readonly text: string }> {
  const socket = room.use(await TextSocket.send(portOf(server), headOf(line, head) + body));
  const text = await socket.until((text) =>
    /\r\n\r\n./s.test(text) || text.startsWith("HTTP/1.1 101")
  );
  return { status: Number(text.split(" ")[1]), text };
}

/** Sends as many endless bodies as the limit has slots; returns the first rejection. */
async function slowPosts(house: House, path: string): Promise<string> {
  const head = { host: "localhost", "content-type": "text/plain", "content-length": "10" };
  const posts = Array.from(
    { length: MAX },
    () => ask(house, `POST ${path}`, { head, body: "x" }),
  );
  const { status, text } = await Promise.any(posts);
  assertEquals(status, 429);
  return text;
}

/** Opens a session with the relay. */
async function viewerOf(
  { moq, room, version }: House,
  address: string,
  mux: TrackMux = new TrackMux(),
): Promise<MoqSession> {
  const pair = room.use(memoryPair({ protocol: version }));
  const accepted = moq.accept(pair.server, { address });
  const session = await MoqSession.open(pair.client, { side: "client", mux });
  assert(await accepted !== undefined, "the relay needs a session for each");
  return session;
}

/** Opens a session with the relay, whose messages the attack writes. */
async function handOf({ moq, room, version }: House, address: string): Promise<HandPeer> {
  const pair = room.use(memoryPair({ protocol: version, frames: false }));
  const opening = moq.accept(pair.server, { address });
  return room.use(await HandPeer.join(version, opening, pair.client));
}

function draftOf({ version }: House): DraftTraits {
  return VERSIONS[version].draft!;
}

/** Requests to announce a broadcast. */
async function announces(
  house: House,
  peer: HandPeer,
  name: string,
  i: number,
): Promise<HandExchange> {
  const request = { requestId: 2 * i, path: `/${name}`, parameters: {} } as const;
  const message = encodeNamespaceRequest(DraftType.publishNamespace, request, draftOf(house));
  return await peer.ask(message.toHex());
}

/** The offer of a track with the alias 9. */
function offerOf(house: House, from: string): Uint8Array {
  const path = `/${nameOf(from, 0)}` as const;
  const offer = { requestId: 0, path, track: "b", alias: 9, parameters: {} };
  return encodeDraftPublish(offer, draftOf(house));
}

/** Waits until a viewer's subscription has reached the publisher of a track. */
async function watched(house: House, from: string, publisher: HandPeer): Promise<void> {
  const path = `/${nameOf(from, 0)}`;
  await until(() => house.relay.mux.announcements(path).length === 1);
  const viewer = await viewerOf(house, HONEST);
  await viewer.subscribe(path, "b");
  await until(() => publisher.session.subscriptions.length === 1);
}

/** Waits until a session closes because of its peer. */
async function violation(peer: HandPeer): Promise<string> {
  const closed = await peer.closed();
  assertEquals(closed, { code: 3, by: "local" });
  return `your session: ${closed.code}`;
}

/** Opens data streams until one is cancelled, which must be the first beyond a limit. */
async function untilCancelled(peer: HandPeer, head: string, max: number): Promise<string> {
  for (let i = 0;; i++) {
    const stream = directStream(await peer.connection.createUnidirectionalStream());
    await stream.write(Uint8Array.fromHex(head.replaceAll(" ", "")));
    await turns();
    const error = await failureOf({ ready: stream.write(Uint8Array.of(0, 1, 0xaa)) });
    if (error === undefined) continue;
    assertEquals(i, max);
    return `your session: ${error}`;
  }
}

/** Announces more broadcasts than the relay has slots; returns the reason for the rejection. */
async function announceMany(house: House, from: string, count: number): Promise<string> {
  const mux = new TrackMux();
  for (let i = 0; i < count; i++) mux.publish(`/${nameOf(from, i)}`, () => {});
  const session = await viewerOf(house, from, mux);
  for await (const { relayed, waitingCount, ignored, reason } of relayNotices(session)) {
    if (relayed + waitingCount + ignored < count) continue;
    assert(count === MAX || ignored > 0, "some must not get a slot to wait");
    return `your address: ${reason}`;
  }
  return "";
}

interface Waiting {
  readonly ready: Promise<unknown>;
}

/** Returns the error text of a subscription; `undefined` if it is active. */
async function failureOf(
  subscribing: Waiting | Promise<Waiting>,
): Promise<string | undefined> {
  try {
    await (await subscribing).ready;
    return undefined;
  } catch (error) {
    if (error instanceof RequestError) throw error;
    return (error as Error).message;
  }
}
