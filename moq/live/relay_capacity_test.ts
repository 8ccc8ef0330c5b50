/** The slots of a relay for broadcasts and tracks, and how sessions and addresses share them. */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { bytesOf, type LivePair, livePair, textOf } from "../../tests/moq/pair.ts";
import { announced, muxOf, Publisher, RelayNet, served } from "../../tests/moq/relays.ts";
import { turns, until } from "../../tests/waiting.ts";
import type { MoqSessionOptions } from "../session/session.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import { type MoqPublication, TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import { LIMIT_CODES, MoqError } from "../wire/errors.ts";
import type { MoqRelay, MoqRelayOptions } from "./relay.ts";

/** A session of one client, with the share that `authorize` grants it. */
interface Joining {
  /** The client, which joins with its first step. */
  readonly by: string;
  readonly from?: string;
  readonly share?: number;
}

/** Paths such as `/guest/0`. */
function many(name: string, count: number): string {
  return Array.from({ length: count }, (_, at) => `/${name}/${at}`).join(" ");
}

const words = (text = "") => text.split(" ").filter((word) => word !== "");

class Clients {
  readonly #net: RelayNet;
  readonly #relay: MoqRelay;
  readonly #pairs = new Map<string, LivePair>();
  readonly #shares = new Map<string, number>();

  constructor(net: RelayNet, relay: MoqRelay) {
    this.#net = net;
    this.#relay = relay;
  }

  async of({ by, from, share }: Joining, mux = new TrackMux()): Promise<LivePair> {
    if (share !== undefined) this.#shares.set(by, share);
    const known = this.#pairs.get(by);
    if (known !== undefined) return known;
    const until = new Date(Date.now() + 60_000);
    const options: Partial<MoqSessionOptions> = share === undefined
      ? { address: from }
      : { address: from, authorize: () => ({ share: this.#shares.get(by)!, until }) };
    const pair = await this.#net.join(this.#relay, mux, options);
    this.#pairs.set(by, pair);
    return pair;
  }
}

/** A step of a client, and the broadcasts that the relay has afterwards, in any order. */
interface BroadcastStep extends Joining {
  readonly publishes?: string;
  readonly ends?: string;
  readonly leaves?: true;
  readonly relayed: string;
  readonly waiting?: number;
}

interface BroadcastStory {
  readonly options: MoqRelayOptions;
  readonly steps: readonly BroadcastStep[];
  /** The messages of `onError`; omitted if other cases cover them. */
  readonly errors?: readonly string[];
  /** The number of rejected broadcasts, by the level that was full. */
  readonly rejected?: Readonly<Record<string, number>>;
}

const BROADCASTS: Readonly<Record<string, BroadcastStory>> = {
  "relays no more broadcasts than its limit, and then a waiting one when a slot is free": {
    options: { maxBroadcasts: 2, maxShare: 1 },
    steps: [
      // Two slots, and two waiting broadcasts. The relay ignores the fifth.
      { by: "ada", publishes: "/1 /2 /3 /4 /5", relayed: "/1 /2", waiting: 2 },
      { by: "ada", ends: "/1", relayed: "/2 /3", waiting: 1 },
    ],
    // Each reason is reported once.
    errors: ["Cannot relay /3: its session already has 2 broadcasts, see maxShare"],
  },
  "relays waiting broadcasts round-robin by session, and forgets ended ones": {
    options: { maxBroadcasts: 3, maxShare: 1 },
    steps: [
      { by: "ada", publishes: "/1 /2 /3", relayed: "/1 /2 /3" },
      { by: "bob", publishes: "/a /gone /b", relayed: "/1 /2 /3", waiting: 3 },
      // As many wait as there are slots.
      { by: "cleo", publishes: "/c", relayed: "/1 /2 /3", waiting: 3 },
      { by: "dan", publishes: "/d", relayed: "/1 /2 /3", waiting: 3 },
      { by: "bob", ends: "/gone", relayed: "/1 /2 /3", waiting: 2 },
      { by: "dan", publishes: "/e", relayed: "/1 /2 /3", waiting: 3 },
      { by: "ada", ends: "/1 /2", relayed: "/3 /a /e", waiting: 1 },
      { by: "ada", ends: "/3", relayed: "/a /b /e" },
    ],
    errors: [
      "Cannot relay /a: there are already 3 broadcasts, see maxBroadcasts",
      "Cannot relay /c: there are already 3 broadcasts, see maxBroadcasts",
      "Cannot relay /d: there are already 3 broadcasts, see maxBroadcasts",
    ],
  },
  "gives one address no more than its share once half of the slots are in use": {
    options: { maxBroadcasts: 10, maxShare: 1 },
    steps: [
      { by: "ada", from: "192.0.2.1", publishes: "/1 /2 /3", relayed: "/1 /2 /3" },
      {
        by: "bob",
        from: "192.0.2.1",
        publishes: "/a /b /c /d",
        relayed: "/1 /2 /3 /a /b",
        waiting: 2,
      },
      // Broadcasts that wait for their address block neither another address nor a relay.
      {
        by: "cleo",
        from: "192.0.2.2",
        publishes: "/other",
        relayed: "/1 /2 /3 /a /b /other",
        waiting: 2,
      },
      {
        by: "relay",
        from: "192.0.2.1",
        share: 1,
        publishes: "/relayed",
        relayed: "/1 /2 /3 /a /b /other /relayed",
        waiting: 2,
      },
      { by: "ada", ends: "/1", relayed: "/2 /3 /a /b /c /other /relayed", waiting: 1 },
      { by: "cleo", leaves: true, relayed: "/2 /3 /a /b /c /relayed", waiting: 1 },
      { by: "ada", ends: "/2 /3", relayed: "/a /b /c /d /relayed" },
    ],
    errors: [
      "Cannot relay /c: its address already uses its share of the broadcasts, " +
      "see maxBroadcastsPerAddress",
    ],
    rejected: { address: 2 },
  },
  "relays broadcasts of other addresses while one address waits": {
    options: { maxBroadcasts: 4, maxShare: 1, maxBroadcastsPerAddress: 2 },
    steps: [
      { by: "ada", from: "192.0.2.1", publishes: "/1 /2 /3", relayed: "/1 /2", waiting: 1 },
      { by: "bob", from: "192.0.2.2", publishes: "/a /b", relayed: "/1 /2 /a /b", waiting: 1 },
      { by: "cleo", from: "192.0.2.3", publishes: "/x", relayed: "/1 /2 /a /b", waiting: 2 },
      { by: "bob", leaves: true, relayed: "/1 /2 /x", waiting: 1 },
    ],
  },
  "counts a broadcast for its second source after the first one has left": {
    options: { maxBroadcasts: 10, maxShare: 1, maxBroadcastsPerAddress: 1 },
    steps: [
      { by: "ada", from: "192.0.2.1", publishes: "/live", relayed: "/live" },
      // The second source uses no slot of its address.
      { by: "bob", from: "192.0.2.2", publishes: "/live /own", relayed: "/live /own" },
      { by: "ada", leaves: true, relayed: "/live /own" },
      { by: "cleo", from: "192.0.2.1", publishes: "/new", relayed: "/live /new /own" },
    ],
  },
  "relays a waiting broadcast when another one no longer counts for its address": {
    options: { maxBroadcasts: 10, maxShare: 1, maxBroadcastsPerAddress: 1 },
    steps: [
      { by: "ada", from: "192.0.2.1", publishes: "/live", relayed: "/live" },
      { by: "bob", from: "192.0.2.2", publishes: "/live", relayed: "/live" },
      { by: "cleo", from: "192.0.2.1", publishes: "/new", relayed: "/live", waiting: 1 },
      { by: "ada", leaves: true, relayed: "/live /new" },
    ],
  },
  "keeps nothing of a session that leaves while its broadcasts wait": {
    options: { maxBroadcasts: 1 },
    steps: [
      { by: "ada", publishes: "/1", relayed: "/1" },
      { by: "bob", publishes: "/2", relayed: "/1", waiting: 1 },
      { by: "bob", leaves: true, relayed: "/1" },
      { by: "ada", leaves: true, relayed: "" },
    ],
  },
  "gives each session 2 % of the slots, or the share that authorize returns": {
    options: { maxBroadcasts: 100 },
    steps: [
      { by: "ada", publishes: many("ada", 40), relayed: many("ada", 2), waiting: 2 },
      {
        by: "guest",
        share: 0.1,
        publishes: many("guest", 40),
        relayed: `${many("ada", 2)} ${many("guest", 10)}`,
        waiting: 12,
      },
      {
        by: "relay",
        share: 1,
        publishes: many("relay", 40),
        relayed: `${many("ada", 2)} ${many("guest", 10)} ${many("relay", 40)}`,
        waiting: 12,
      },
    ],
  },
  "relays waiting broadcasts when authorize grants their session a larger share": {
    options: { maxBroadcasts: 100 },
    steps: [
      { by: "ada", share: 0.01, publishes: "/1 /2", relayed: "/1", waiting: 1 },
      { by: "ada", share: 1, publishes: "/3", relayed: "/1 /2 /3" },
    ],
  },
};

for (const [title, { options, steps, errors, rejected }] of Object.entries(BROADCASTS)) {
  Deno.test(`MoqRelay ${title}`, async () => {
    await using net = new RelayNet();
    const messages: string[] = [];
    const relay = net.relay({
      ...options,
      onError: (error) => void messages.push((error as Error).message),
    });
    const clients = new Clients(net, relay);
    const publications = new Map<string, MoqPublication>();
    for (const [at, step] of steps.entries()) {
      const { by, publishes, ends, leaves, relayed, waiting = 0 } = step;
      const mux = new TrackMux();
      const { client } = await clients.of(step, mux);
      for (const path of words(publishes)) {
        publications.set(`${by} ${path}`, client.mux.publish(path, () => {}));
      }
      for (const path of words(ends)) publications.get(`${by} ${path}`)!.end();
      if (leaves) client.close();
      await turns(50);
      const { broadcasts, waiting: nowWaiting } = relay.stats;
      const expected = words(relayed).sort();
      assertEquals([announced(relay).sort(), nowWaiting], [expected, waiting], `step ${at}`);
      assertEquals(broadcasts, expected.length);
    }
    if (errors !== undefined) assertEquals(messages, errors);
    const none = { server: 0, address: 0, user: 0, session: 0 };
    const { taken, max, rejected: counted } = relay.mux.quotas!.stats["moq.maxBroadcasts"]!;
    assertEquals([taken, max], [relay.stats.broadcasts, options.maxBroadcasts]);
    if (rejected !== undefined) assertEquals(counted, { ...none, ...rejected });
  });
}

Deno.test("MoqRelay gives all slots to a session that it dialed", async () => {
  await using net = new RelayNet();
  const relay = net.relay({ maxBroadcasts: 100 });
  const upstream = muxOf(...words(many("upstream", 40)));
  await using dialed = await livePair("moq-lite-05", { server: upstream, client: relay.mux });
  void relay.accept(dialed.client);
  await until(() => relay.mux.size === 40);
});

Deno.test("MoqRelay relays an honest publisher next to sessions that announce up to their limit", async () => {
  await using net = new RelayNet();
  let errors = 0;
  const relay = net.relay({ maxBroadcasts: 500, onError: () => void errors++ });
  const floods = await Promise.all(
    [1, 2, 3].map((at) => net.join(relay, muxOf(...words(many(`flood${at}`, 1_000))))),
  );
  const viewer = await net.join(relay);
  const reader = await viewer.client.acceptAnnounce("/live");
  const publisher = new Publisher();
  await net.join(relay, publisher.mux);
  assertEquals((await reader.next())?.path, "/live");
  const track = await viewer.client.subscribe("/live", "x");
  await until(() => publisher.live.subscribers === 1);
  publisher.write("hello");
  assertEquals((await track.nextGroup())?.sequence, 1);
  await until(() => relay.stats.broadcasts === 31);
  // 2 % of 500 for each session, and as many waiting; one error per session.
  assertEquals({ broadcasts: relay.stats.broadcasts, waiting: relay.stats.waiting, errors }, {
    broadcasts: 31,
    waiting: 30,
    errors: 3,
  });
  for (const { client } of floods) client.close();
  await until(() => relay.stats.broadcasts === 1);
  assertEquals([announced(relay), relay.stats.waiting], [["/live"], 0]);
});

/** A step of a client on one track. */
interface TrackStep extends Joining {
  readonly subscribes?: string;
  /** Tracks that the relay rejects, and the limit that it names. */
  readonly isRejected?: string;
  readonly limit?: "sessionLimit" | "addressLimit" | "relayLimit";
  /** Closes one subscription of the track. */
  readonly closes?: string;
}

interface TrackStory {
  readonly options: MoqRelayOptions;
  readonly steps: readonly TrackStep[];
  /** The tracks that the relay has at the end, the oldest first. */
  readonly tracks: string;
}

const HOUR_MS = 3_600_000;

const TRACKS: Readonly<Record<string, TrackStory>> = {
  "rejects tracks beyond its limit": {
    options: { maxTracks: 1 },
    steps: [
      { by: "ada", subscribes: "one" },
      { by: "bob", isRejected: "two", limit: "relayLimit" },
      { by: "ada", isRejected: "two", limit: "sessionLimit" },
    ],
    tracks: "one",
  },
  "rejects tracks of a session beyond its share, but not of others": {
    options: { maxTracks: 100, lingerMs: HOUR_MS },
    steps: [
      { by: "ada", subscribes: "one one two" },
      { by: "ada", isRejected: "three", limit: "sessionLimit" },
      // The other subscription of the track still holds the slot.
      { by: "ada", closes: "one" },
      { by: "ada", isRejected: "four", limit: "sessionLimit" },
      { by: "ada", closes: "one" },
      { by: "ada", subscribes: "four" },
      { by: "ada", isRejected: "five", limit: "sessionLimit" },
      { by: "bob", subscribes: "three" },
      { by: "relay", share: 1, subscribes: "1 2 3 4 5 6 7 8 9 10" },
    ],
    tracks: "one two four three 1 2 3 4 5 6 7 8 9 10",
  },
  "rejects tracks of an address beyond its share, but not of others": {
    options: { maxTracks: 100, maxShare: 1, maxTracksPerAddress: 3 },
    steps: [
      { by: "ada", from: "192.0.2.1", subscribes: "one" },
      { by: "bob", from: "::ffff:192.0.2.1", subscribes: "two" },
      { by: "ada", subscribes: "three" },
      { by: "ada", isRejected: "four", limit: "addressLimit" },
      { by: "bob", isRejected: "five", limit: "addressLimit" },
      // A track that the relay already has uses no slot.
      { by: "cleo", from: "192.0.2.1", subscribes: "one" },
      { by: "dan", from: "192.0.2.2", subscribes: "four" },
      { by: "relay", from: "192.0.2.1", share: 1, subscribes: "1 2 3 4 5 6 7 8 9 10" },
    ],
    tracks: "one two three four 1 2 3 4 5 6 7 8 9 10",
  },
  "gives the slot of a track without subscribers to another one": {
    options: { maxTracks: 2, maxShare: 1, lingerMs: HOUR_MS },
    steps: [
      { by: "ada", subscribes: "old used" },
      { by: "ada", closes: "old" },
      { by: "ada", subscribes: "new" },
      { by: "bob", isRejected: "more", limit: "relayLimit" },
    ],
    tracks: "used new",
  },
  "ends the oldest track without subscribers for a new one": {
    options: { maxTracks: 2, maxShare: 1, lingerMs: HOUR_MS },
    steps: [
      { by: "ada", subscribes: "old" },
      { by: "ada", closes: "old" },
      { by: "ada", subscribes: "quiet" },
      { by: "ada", closes: "quiet" },
      { by: "ada", subscribes: "new" },
    ],
    tracks: "quiet new",
  },
};

for (const [title, { options, steps, tracks }] of Object.entries(TRACKS)) {
  Deno.test(`MoqRelay ${title}`, async () => {
    await using net = new RelayNet("moq-lite-04");
    const { relay, publisher } = await net.live(options);
    const clients = new Clients(net, relay);
    const open: TrackReader[] = [];
    for (const step of steps) {
      const { client } = await clients.of(step);
      for (const name of words(step.subscribes)) {
        const track = await client.subscribe("/live", name);
        await track.ready;
        open.push(track);
      }
      for (const name of words(step.isRejected)) {
        const { ready } = await client.subscribe("/live", name);
        const error = await assertRejects(() => ready, MoqError, undefined, name);
        const code = LIMIT_CODES[step.limit!];
        assertEquals([error.reason, error.moqCode], [step.limit, code], error.message);
      }
      for (const name of words(step.closes)) {
        const at = open.findIndex((track) => track.name === name);
        open.splice(at, 1)[0]!.close();
      }
      await turns(20);
    }
    const names = publisher.tracks.filter(({ isClosed }) => !isClosed).map(({ name }) => name);
    assertEquals([names, relay.stats.tracks], [words(tracks), names.length]);
  });
}

Deno.test("MoqRelay keeps a track whose subscriber returns in the same turn as another request", async () => {
  await using net = new RelayNet("moq-lite-04");
  const options = { maxTracks: 1, maxShare: 1, lingerMs: HOUR_MS };
  const { relay, publisher, viewer } = await net.live(options);
  const other = await net.join(relay, new TrackMux(), { authorize: () => ({ share: 1 }) });
  const first = await viewer.client.subscribe("/live", "old");
  await first.ready;
  first.close();
  await until(() => served(viewer) === 0);
  await turns(20);
  const [old, more] = await Promise.all([
    viewer.client.subscribe("/live", "old"),
    other.client.subscribe("/live", "new"),
  ]);
  await assertRejects(() => more.ready, MoqError);
  await old.ready;
  publisher.write("still there");
  assertEquals((await old.nextGroup())?.sequence, 1);
  assertEquals(relay.stats.tracks, 1);
});

Deno.test("MoqRelay ends a track whose subscriber left before the first group", async () => {
  await using net = new RelayNet();
  using time = new FakeTime();
  const { relay, publisher, viewer } = await net.live({ lingerMs: 1_000 });
  for (let count = 0; count < 20; count++) {
    const track = await viewer.client.subscribe("/live", `track${count}`);
    await turns(count % 7);
    track.close();
  }
  await turns(50);
  await time.tickAsync(1_000);
  await until(() => relay.stats.tracks === 0 && publisher.live.subscribers === 0);
});

Deno.test("MoqRelay forwards as many concurrent fetches as its limit allows, and later ones afterwards", async () => {
  await using net = new RelayNet();
  const { publisher, viewer } = await net.live({ maxFetches: 2, maxShare: 1 });
  const gate = Promise.withResolvers<void>();
  let asked = 0;
  publisher.live.serveFetch = async (_request, group) => {
    asked++;
    await gate.promise;
    await group.writeFrame(bytesOf("one"));
  };
  const fetch = () => viewer.client.fetch("/live", "x", { group: 1 });
  const frames = async (group: GroupReader) => (await Array.fromAsync(group)).map(textOf);
  const held = [await fetch(), await fetch()];
  await until(() => asked === 2);
  const rejected = await fetch();
  const response = rejected.readFrame().catch((error) => error);
  await until(() => asked > 2 || rejected.isEnded);
  gate.resolve();
  assertEquals((await response as MoqError).reason, "sessionLimit");
  for (const group of held) assertEquals(await frames(group), ["one"]);
  for (let round = 0; round < 4; round++) {
    await turns(20);
    assertEquals(await frames(await fetch()), ["one"]);
  }
  assertEquals(asked, 6);
});

/** A step of a client that fetches a group, which the publisher never sends. */
interface FetchStep extends Joining {
  /** The limit that rejects the fetch; by default, none does. */
  readonly limit?: "sessionLimit" | "addressLimit" | "relayLimit";
}

const FETCHES: Readonly<
  Record<string, { readonly options: MoqRelayOptions; readonly steps: readonly FetchStep[] }>
> = {
  "gives a session no more upstream fetches than its share once half of them are running": {
    options: { maxFetches: 6, maxShare: 0.34 },
    steps: [
      { by: "ada" },
      { by: "ada" },
      { by: "ada" },
      { by: "ada", limit: "sessionLimit" },
      { by: "bob" },
      { by: "relay", share: 1 },
      { by: "relay" },
      { by: "cleo", limit: "relayLimit" },
    ],
  },
  "gives an address no more upstream fetches than its share": {
    options: { maxFetches: 6, maxFetchesPerAddress: 2 },
    steps: [
      { by: "ada", from: "192.0.2.1" },
      { by: "bob", from: "192.0.2.1" },
      { by: "ada", limit: "addressLimit" },
      { by: "cleo", from: "192.0.2.2" },
    ],
  },
};

for (const [title, { options, steps }] of Object.entries(FETCHES)) {
  Deno.test(`MoqRelay ${title}`, async () => {
    await using net = new RelayNet();
    const { relay, publisher } = await net.live(options);
    let asked = 0;
    publisher.live.serveFetch = () => {
      asked++;
      return new Promise(() => {});
    };
    const clients = new Clients(net, relay);
    const taken = () => relay.mux.quotas!.stats["moq.maxFetches"]!.taken;
    for (const [at, step] of steps.entries()) {
      const pair = await clients.of(step);
      // A session with a share has asked `authorize` before.
      if (step.share !== undefined) await pair.client.acceptAnnounce("/");
      const before = taken();
      const group = await pair.client.fetch("/live", "x", { group: at });
      const frame = group.readFrame().catch((error) => error);
      if (step.limit === undefined) await until(() => taken() === before + 1);
      else assertEquals((await frame as MoqError).reason, step.limit, `step ${at}`);
    }
    const open = steps.filter(({ limit }) => limit === undefined).length;
    await until(() => asked === open);
    assertEquals(taken(), open);
    for (const step of steps) (await clients.of(step)).client.close();
    await until(() => taken() === 0);
  });
}

const STALLS: Readonly<Record<string, (group: GroupWriter) => Promise<void>>> = {
  "whose source sends nothing": () => new Promise(() => {}),
  "whose client does not read": async (group) => {
    while (true) await group.writeFrame(new Uint8Array(60_000));
  },
};

for (const [which, serveFetch] of Object.entries(STALLS)) {
  Deno.test(`MoqRelay ends a fetch ${which} after stallTimeoutMs`, async () => {
    await using net = new RelayNet();
    using time = new FakeTime();
    const { relay, publisher, viewer } = await net.live({
      maxFetchBytes: 1_000_000,
      track: { stallTimeoutMs: 4_000 },
    });
    let left = 0;
    publisher.live.serveFetch = ({ signal }, group) => {
      signal.addEventListener("abort", () => void left++);
      return serveFetch(group);
    };
    const taken = () => relay.mux.quotas!.stats["moq.maxFetches"]!.taken;
    const group = await viewer.client.fetch("/live", "x", { group: 9 });
    await until(() => taken() === 1);
    await turns(50);
    await time.tickAsync(3_900);
    assertEquals([taken(), left], [1, 0]);
    await time.tickAsync(100);
    await until(() => taken() === 0 && left === 1);
    const error = await assertRejects(async () => {
      while (await group.readFrame() !== null);
    }, MoqError);
    assertEquals(error.reason, "timeout");
  });
}

/** A relay whose publisher never describes its tracks, and counts the requests. */
async function undescribed(net: RelayNet, options: MoqRelayOptions = {}) {
  const relay = net.relay(options);
  const counts = { asked: 0, left: 0 };
  const mux = new TrackMux();
  const publication = mux.publish("/live", {
    serveTrack() {},
    trackInfo(_, { signal }) {
      counts.asked++;
      signal.addEventListener("abort", () => void counts.left++);
      return new Promise(() => {});
    },
  });
  await net.join(relay, mux);
  await until(() => relay.mux.size === 1);
  const taken = () => relay.mux.quotas!.stats["moq.maxFetches"]!.taken;
  const ask = ({ client }: LivePair, name: string, signal?: AbortSignal) =>
    client.trackInfo("/live", name, { signal }).catch((error) => error.reason);
  return { relay, publication, counts, taken, ask };
}

Deno.test("MoqRelay requests the properties of a track once for all, and cancels after the last has left", async () => {
  await using net = new RelayNet();
  const { relay, counts, taken, ask } = await undescribed(net);
  const [one, other] = [await net.join(relay), await net.join(relay)];
  const leaving = new AbortController();
  const first = ask(one, "video", leaving.signal);
  await until(() => counts.asked === 1);
  const second = ask(other, "video");
  await turns(50);
  leaving.abort(new MoqError("subscribe", "cancelled", "Enough"));
  assertEquals(await first, "cancelled");
  await turns(50);
  assertEquals([counts, taken()], [{ asked: 1, left: 0 }, 1]);
  other.client.close();
  await second;
  await until(() => counts.left === 1 && taken() === 0);
  const third = ask(one, "video");
  await until(() => counts.asked === 2);
  one.client.close();
  await third;
  await until(() => counts.left === 2);
});

Deno.test("MoqRelay ends a request for the properties of a track after stallTimeoutMs, and with the broadcast", async () => {
  await using net = new RelayNet();
  using time = new FakeTime();
  const options = { track: { stallTimeoutMs: 4_000 } };
  const { relay, publication, counts, taken, ask } = await undescribed(net, options);
  const viewer = await net.join(relay);
  const late = ask(viewer, "video");
  await until(() => counts.asked === 1);
  await time.tickAsync(4_000);
  assertEquals(await late, "timeout");
  const gone = ask(viewer, "video");
  await until(() => counts.asked === 2);
  publication.end();
  assertEquals(await gone, "notFound");
  await until(() => counts.left === 2 && taken() === 0);
});

Deno.test("MoqRelay stays usable after more clients have asked for undescribed tracks than a session may", async () => {
  await using net = new RelayNet();
  const { relay, counts, taken, ask } = await undescribed(net);
  for (let round = 0; round < 11; round++) {
    const pair = await net.join(relay);
    const asking = Array.from({ length: 100 }, (_, at) => ask(pair, `${at}`));
    await until(() => taken() === 100);
    pair.client.close();
    await Promise.all(asking);
    await until(() => taken() === 0);
  }
  await until(() => counts.left === 1_100);
  const viewer = await net.join(relay);
  const asking = ask(viewer, "more");
  await until(() => counts.asked === 1_101);
  viewer.client.close();
  await asking;
});
