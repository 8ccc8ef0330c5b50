/**
 * Tests Skein with relays: moq-relay between Skein and JavaScript, Skein's own relay between
 * implementations that cannot talk to each other, and a client that survives the restart of a
 * relay.
 */
import { assertEquals } from "@std/assert";
import {
  connectMoq,
  listenMoq,
  LiveBroadcast,
  MoqRelay,
  type MoqVersion,
  TrackMux,
} from "../../moq/mod.ts";
import { lowPort } from "../networks/ports.ts";
import type { Peer } from "./peers.ts";
import type { Role } from "./peers/moq_js/scenarios.ts";
import { Relay } from "./peers/moq_relay/relay.ts";
import { isSetupVersion, moqPeers, OTHER, seenBy, VIDEO } from "./peers/moq_seen.ts";
import { CertificateFolder } from "./peers/skein.ts";
import { playSkein, type Wire } from "./peers/skein_moq.ts";
import { type Part, testTogether } from "./together.ts";

/** The result of a subscriber after the relay has forwarded a rejection by our publisher. */
function rejectionThrough(wire: Wire, version: MoqVersion): unknown {
  if (wire === "websocket") return 51;
  // If streams cannot be reset, only this version has a message for a rejection.
  return version === "moq-lite-04" ? 3 : 18;
}

/** The video that a subscriber received. */
interface SeenVideo {
  readonly groups: number;
  readonly gaps: number;
  readonly frames: number;
  readonly bytes: number;
  /** Codes or messages of the groups that were reset. */
  readonly resets?: readonly unknown[];
}

/** Code with which the relay drops a late group. */
const TOO_OLD = 52;

/**
 * The video that is expected after the relay. The relay may drop late groups, or the rest of them,
 * for example on a busy machine, but the received parts must be correct.
 */
function expectedVideo({ groups, gaps, frames, bytes, resets = [] }: SeenVideo): unknown {
  const isLate = (reset: unknown) => new RegExp(`\\b${TOO_OLD}$`).test(`${reset}`);
  if (groups === 0 || frames > VIDEO.frames || !resets.every(isLate)) return VIDEO;
  return { ...VIDEO, groups, gaps, frames, bytes, ...(resets.length > 0 && { resets }) };
}

/** Expected results of sessions and subscriptions at a relay. */
function partOf(relay: Peer, other: Peer, { wire, version, scenario }: {
  readonly wire: Wire;
  readonly version: MoqVersion;
  /** Role of our end. */
  readonly scenario: Role;
}): Part {
  const theirVersion = "moq-lite-05";
  const hasUpdates = !isSetupVersion(version);
  const fn = async () => {
    await using files = await CertificateFolder.create();
    await using server = await Relay.start(relay, files);
    const port = wire === "websocket" ? server.webPort : server.quicPort;
    const schemes = { quic: "moqt", webtransport: "https", websocket: "ws" };
    const [ours, theirs] = await Promise.all([
      playSkein(scenario, {
        url: `${schemes[wire]}://127.0.0.1:${port}/`,
        hash: files.hash,
        version,
      }),
      other.play(OTHER[scenario], {
        url: `ws://127.0.0.1:${server.webPort}/`,
        protocols: theirVersion,
      }),
    ]);
    // The two sessions close independently. There are no updates if an end does not support them.
    const relayed = { closed: "withdrawn", ...(hasUpdates ? {} : { priority: ["7"] }) };
    const updated = hasUpdates ? {} : { updated: [] };
    if (scenario === "publish") {
      assertEquals(ours, { version, ...seenBy("publish", "/"), ...updated });
      const missing = { track: rejectionThrough(wire, version), broadcast: 54 };
      const { video } = theirs as { readonly video: SeenVideo };
      const seen = { ...seenBy("subscribe", ""), ...relayed, missing, video: expectedVideo(video) };
      assertEquals(theirs, { version: theirVersion, ...seen });
    } else {
      const missing = { track: 0, broadcast: 54 };
      const { video } = ours as { readonly video: SeenVideo };
      const seen = {
        ...seenBy("subscribe", "/"),
        ...relayed,
        missing,
        video: expectedVideo(video),
      };
      assertEquals(ours, { version, ...seen });
      assertEquals(theirs, { version: theirVersion, ...seenBy("publish", ""), ...updated });
    }
  };
  const does = scenario === "publish" ? "subscribes to us" : "publishes to us";
  return { name: `${other.name} ${does}, ${wire}`, fn };
}

/** Tests our relay between versions that cannot talk to each other. */
function partOfOurs(publisher: Peer, subscriber: Peer): Part {
  const fn = async () => {
    await using relay = new MoqRelay({ allowAnonymousPublish: true });
    await using server = listenMoq({
      hostname: "127.0.0.1",
      port: 0,
      cacheFolder: null,
      transports: ["quic"],
      versions: ["moq-lite-04", "gomoqt-dev"],
      mux: relay.mux,
      onSession: (session) => relay.accept(session),
    });
    const url = new URL("/moq", server.quicUrl.replace("localhost", "127.0.0.1")).href;
    const hash = new Uint8Array(server.certificateHashes[0]!.value as Uint8Array<ArrayBuffer>)
      .toHex();
    const [published, subscribed] = await Promise.all([
      publisher.play("publish", { url, hash }),
      subscriber.play("subscribe", { url, hash }),
    ]);
    assertEquals(published, seenBy("publish", "/"));
    const missing = REJECTED[subscriber.name];
    // The two sessions close independently.
    assertEquals(subscribed, { ...seenBy("subscribe", "/"), missing, closed: "not closed" });
  };
  return { name: `${publisher.name} publishes, ${subscriber.name} subscribes`, fn };
}

/** Results of foreign subscribers after our relay rejected them, if streams cannot be reset. */
const REJECTED: Readonly<Record<string, unknown>> = {
  "gomoqt 0.11": {
    track: "failed to read SUBSCRIBE_OK response: EOF",
    broadcast: "failed to read SUBSCRIBE_OK response: EOF",
  },
  "gomoqt 0.17": {
    track: "moqt: unexpected SUBSCRIBE_DROP message received",
    broadcast: "moqt: unexpected SUBSCRIBE_DROP message received",
  },
};

/** Kills the relay, and starts another one on the same ports. */
function partOfRestart(relay: Peer, wire: Wire): Part {
  const fn = async () => {
    await using files = await CertificateFolder.create();
    await using relays = new AsyncDisposableStack();
    const ports = { quicPort: lowPort(), webPort: lowPort() };
    const first = relays.use(await Relay.start(relay, files, ports));
    const port = wire === "websocket" ? first.webPort : first.quicPort;
    const schemes = { quic: "moqt", webtransport: "https", websocket: "ws" };
    const options = {
      retry: { firstDelayMs: 50, maxDelayMs: 200 },
      serverCertificateHashes: [
        { algorithm: "sha-256" as const, value: Uint8Array.fromHex(files.hash) },
      ],
    };
    const url = `${schemes[wire]}://127.0.0.1:${port}/`;
    const mux = new TrackMux();
    await using broadcast = new LiveBroadcast();
    const live = broadcast.track("video");
    const writing = new AbortController();
    const written = (async () => {
      while (!writing.signal.aborted) {
        using group = live.openGroup();
        group.writeFrame(Uint8Array.of(1));
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      live.close();
    })();
    mux.publish("/skein/live", broadcast);
    await using _publisher = connectMoq(url, { ...options, mux });
    await using subscriber = connectMoq(url, options);
    await using track = subscriber.subscribe("/skein/live", "video", { waitForBroadcast: true });
    const before = await track.nextGroup();
    await first[Symbol.asyncDispose]();
    relays.use(await Relay.start(relay, files, ports));
    let after = before;
    while (track.resumption === undefined) after = await track.nextGroup();
    assertEquals(after !== null && before !== null && after.sequence > before.sequence, true);
    writing.abort();
    await written;
  };
  return { name: `our clients reconnect to another relay on the same ports, ${wire}`, fn };
}

const SCENARIOS = ["publish", "subscribe"] as const;

const peers = await moqPeers();
const [relay, net] = ["moq-relay", "@moq/net"].map((name) => peers.get(name));

const [older, newer] = ["gomoqt 0.11", "gomoqt 0.17"].map((name) => peers.get(name));
if (older !== undefined && newer !== undefined) {
  const parts = [partOfOurs(older, newer), partOfOurs(newer, older)];
  testTogether("our relay, between versions of gomoqt", parts);
}

if (relay !== undefined) {
  const wires = ["quic", "webtransport", "websocket"] as const;
  testTogether("moq-relay is killed", wires.map((wire) => partOfRestart(relay, wire)));
  const test = (version: MoqVersion, scenario: Role) => {
    if (net === undefined) return;
    const parts = wires.map((wire) => partOf(relay, net, { wire, version, scenario }));
    testTogether(`moq-relay, ${version}, we ${scenario}`, parts);
  };
  for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
    for (const scenario of SCENARIOS) test(version, scenario);
  }
  // In this version the relay does not report withdrawn paths to subscribers.
  test("moq-lite-02", "publish");
}
