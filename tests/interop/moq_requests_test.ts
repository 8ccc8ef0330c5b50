/**
 * Tests requests other than SUBSCRIBE with other implementations of Media over QUIC: fetches from a
 * cache, rate probes, and GOAWAY.
 */
import { assertEquals } from "@std/assert";
import type { MoqVersion } from "../../moq/mod.ts";
import type { Peer, PeerServer } from "./peers.ts";
import { Relay } from "./peers/moq_relay/relay.ts";
import { moqPeers, type Seen } from "./peers/moq_seen.ts";
import { CertificateFolder } from "./peers/skein.ts";
import {
  dialSkein,
  NEXT_URI,
  playSkein,
  seenBy,
  SkeinMoqServer,
  type Wire,
} from "./peers/skein_moq.ts";
import { type Part, testTogether } from "./together.ts";

/** All six frames, unchanged. */
const FETCHED = { frames: 6, wrong: 0 };

function urlOf(server: PeerServer, wire: Wire): string {
  const schemes = { quic: "moqt:", webtransport: "https:", websocket: "ws:" };
  return server.url("/moq").replace("https:", schemes[wire]);
}

/** The peer requests, and we reply. */
function partOfTheirs(peer: Peer, wire: Wire, version: MoqVersion, expected: Seen): Part {
  const fn = async () => {
    await using server = new SkeinMoqServer(wire, version, "publish");
    const { url, hash } = server;
    const protocols = peer.name.startsWith("@moq/") ? { protocols: version } : {};
    const seen = await peer.play("ask", { url, hash, ...protocols });
    assertEquals(seen, expected);
    assertEquals(await server.seen, {
      path: wire === "quic" && version === "moq-lite-04" ? "" : "/moq",
      version,
      subscribed: [],
      updated: [],
    });
  };
  return { name: `${peer.name} asks us, ${version}, ${wire}`, fn };
}

/** We request, and the peer replies. */
function partOfOurs(peer: Peer, wire: Wire, version: MoqVersion, expected: Seen): Part {
  const fn = async () => {
    await using files = await CertificateFolder.create();
    const isJavaScript = peer.name.startsWith("@moq/");
    const protocols: Record<string, string> = isJavaScript ? { protocols: version } : {};
    await using server = await peer.serve(isJavaScript ? undefined : files, {
      scenario: "publish",
      ...protocols,
    });
    const hash = isJavaScript ? {} : { hash: files.hash };
    const seen = await playSkein("ask", { url: urlOf(server, wire), version, ...hash });
    assertEquals(seen, { version, ...expected });
  };
  return { name: `we ask ${peer.name}, ${version}, ${wire}`, fn };
}

function partOfGoaway(peer: Peer, wire: Wire, version: MoqVersion): Part {
  const fn = async () => {
    await using files = await CertificateFolder.create();
    await using server = await peer.serve(files, { scenario: "publish" });
    await using session = await dialSkein({ url: urlOf(server, wire), version, hash: files.hash });
    server.terminate();
    assertEquals(await Promise.race([session.draining, session.closed]), { uri: NEXT_URI });
  };
  return { name: `${peer.name} sends us away, ${version}, ${wire}`, fn };
}

/** We publish and request through a relay, which then asks us to leave. */
function partOfRelay(relay: Peer, wire: Wire, version: MoqVersion, expected: Seen): Part {
  const fn = async () => {
    await using files = await CertificateFolder.create();
    await using server = await Relay.start(relay, files);
    const port = wire === "websocket" ? server.webPort : server.quicPort;
    const schemes = { quic: "moqt", webtransport: "https", websocket: "ws" };
    const url = `${schemes[wire]}://127.0.0.1:${port}/`;
    const { hash } = files;
    await using publisher = await dialSkein({ url, hash, version });
    const published = seenBy(publisher, "publish");
    await using subscriber = await dialSkein({ url, hash, version });
    await using announced = await subscriber.acceptAnnounce("/skein/live");
    await announced.next();
    assertEquals(await seenBy(subscriber, "ask"), { version, ...expected });
    server.terminate();
    assertEquals(await Promise.race([publisher.draining, publisher.closed]), { uri: "" });
    publisher.close();
    await published;
  };
  return { name: `we ask through ${relay.name}, ${version}, ${wire}`, fn };
}

const peers = await moqPeers();
const [go, net, relay] = ["gomoqt 0.17", "@moq/net", "moq-relay"].map((name) => peers.get(name));

if (go !== undefined) {
  const version = "moq-lite-04";
  const fetched = { fetched: FETCHED, rate: "some" };
  const parts = (["quic", "webtransport"] as const).flatMap((wire) => [
    partOfTheirs(go, wire, version, { ...fetched, missing: "unexpected EOF", goaway: NEXT_URI }),
    partOfOurs(go, wire, version, { ...fetched, missing: 2 }),
    partOfGoaway(go, wire, version),
  ]);
  testTogether("gomoqt 0.17: fetch, probe, goaway", parts);
}

if (net !== undefined) {
  const version = "moq-lite-05";
  const asked = { version, fetched: FETCHED, rate: "some" };
  testTogether("@moq/net: fetch, probe", [
    partOfTheirs(net, "websocket", version, { ...asked, missing: 51 }),
    partOfTheirs(net, "webtransport", version, { ...asked, missing: "unexpected end of stream" }),
    // The peer does not measure the rate on WebSocket, and does not serve fetches in the older
    // version.
    partOfOurs(net, "websocket", version, { fetched: FETCHED, missing: 0, rate: "none" }),
    partOfOurs(net, "websocket", "moq-lite-04", { fetched: 0, missing: 0, rate: "none" }),
  ]);
}

if (relay !== undefined) {
  // The peer serves fetches only in the newer version.
  const seen = {
    "moq-lite-05": { fetched: FETCHED, missing: 54, rate: "some" },
    "moq-lite-04": { fetched: 1, missing: 1, rate: "some" },
  } as const;
  const parts = (["moq-lite-05", "moq-lite-04"] as const).flatMap((version) =>
    (["quic", "webtransport", "websocket"] as const).map((wire) =>
      partOfRelay(relay, wire, version, seen[version])
    )
  );
  testTogether("moq-relay: fetch, probe, goaway", parts);
}
