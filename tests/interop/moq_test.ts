/**
 * Tests Skein against other implementations of Media over QUIC, over every transport and in every
 * version that both support. Skein is tested as publisher and as subscriber, both as client and as
 * server. The tests also assert known deviations.
 */
import { assertEquals, equal } from "@std/assert";
import type { Peer, PeerServer } from "./peers.ts";
import type { Role } from "./peers/moq_js/scenarios.ts";
import { isSetupVersion, moqPeers, OTHER, type Seen, seenBy } from "./peers/moq_seen.ts";
import { CertificateFolder } from "./peers/skein.ts";
import { dialSkein, playSkein, SkeinMoqServer, type Wire } from "./peers/skein_moq.ts";
import type { MoqVersion } from "../../moq/mod.ts";
import { type Part, testTogether } from "./together.ts";

/** A deviating result, for reasons outside the library. */
interface Exception {
  readonly because: string;
  readonly ours?: Seen;
  readonly theirs?: Seen;
}

/** The result of a gomoqt subscriber that did not read a close in time. */
const UNTOLD = "the code is not told";

interface Case {
  readonly peer: Peer;
  readonly wire: Wire;
  readonly version: MoqVersion;
  /** Role of the peer. */
  readonly scenario: Role;
  /** The end that dials. */
  readonly client: "theirs" | "ours";
}

/** Deno's QUIC cannot reset a stream, so a rejection looks different there. */
const NO_RESETS = "the runtime's QUIC cannot reset streams";

function exceptionsOf({ peer, wire, version, scenario, client }: Case): Exception[] {
  const exceptions: Exception[] = [];
  const add = (because: string, seen: Omit<Exception, "because">) =>
    exceptions.push({ because, ...seen });
  const isOverQuic = wire !== "websocket";
  const isJavaScript = peer.name.startsWith("@moq/");
  const isSetup = isSetupVersion(version);
  if (scenario === "subscribe" && isOverQuic) {
    const theirs = rejectionAt(peer, version);
    add(NO_RESETS, { theirs: { missing: theirs } });
  } else if (scenario === "subscribe") {
    add("the codes are specific to its family", {
      theirs: { missing: { track: 51, broadcast: 51 } },
    });
  } else if (isJavaScript) {
    add("it sends no codes", { ours: { missing: rejectionBy(wire, version) } });
  }
  if (isJavaScript && isSetup) {
    const subscriber = { priority: ["7"] };
    const publisher = { updated: [] };
    const isTheirs = scenario === "subscribe";
    add("the version has no updates", {
      ours: isTheirs ? publisher : subscriber,
      theirs: isTheirs ? subscriber : publisher,
    });
  }
  // Our client closes its connection one second after its session. If gomoqt has not read the close
  // by then, it drops it.
  const mayMissClose = peer.name === "gomoqt 0.11" ||
    peer.name === "gomoqt 0.17" && client === "ours";
  if (wire === "webtransport" && scenario === "subscribe" && mayMissClose) {
    add("its subscriber may miss the close", { theirs: { closed: UNTOLD } });
  }
  return exceptions;
}

/** Results of a subscriber after our publisher rejected it, if streams cannot be reset. */
function rejectionAt(peer: Peer, version: MoqVersion): unknown {
  const both = (text: string) => ({ track: text, broadcast: text });
  if (peer.name === "gomoqt 0.11") return both("failed to read SUBSCRIBE_OK response: EOF");
  if (peer.name === "gomoqt 0.17") return both("moqt: unexpected SUBSCRIBE_DROP message received");
  if (version === "moq-lite-04") return both("first subscribe response must be SUBSCRIBE_OK");
  return both("unexpected end of stream");
}

/** The result after a rejection by a JavaScript peer that uses Skein's WebTransport. */
function rejectionBy(wire: Wire, version: MoqVersion): unknown {
  if (wire === "websocket") return { track: 0, broadcast: 0 };
  const text = (track: string) =>
    `The subscription to /skein/${track} ended: it was rejected without a code`;
  // Older versions accept the subscription first.
  const track = version === "moq-lite-05" ? text("live missing") : "the end";
  return { track, broadcast: text("missing video") };
}

/** Expected results of each side of a case, with reasons. */
function expectedOf(
  test: Case,
): { readonly why: string; readonly ours: Seen; readonly theirs: Seen } {
  const { peer, wire, version, scenario, client } = test;
  const isGo = peer.name.startsWith("gomoqt");
  const exceptions = exceptionsOf(test);
  const pick = (whose: "ours" | "theirs") =>
    Object.assign({}, ...exceptions.map((exception) => exception[whose]));
  // Over raw QUIC, this version does not include the new address.
  const path = wire === "quic" && version === "moq-lite-04" ? "" : "/moq";
  const setup = peer.name === "gomoqt 0.11"
    ? { path: "/moq", versions: [0xfeed_babe] }
    : { versions: ["moq-lite-04"] };
  return {
    why: exceptions.length === 0 ? "" : ` (${exceptions.map(({ because }) => because).join("; ")})`,
    ours: {
      ...(client === "theirs" ? { path } : {}),
      version,
      ...seenBy(OTHER[scenario], "/"),
      ...pick("ours"),
    },
    theirs: {
      ...(isGo ? client === "ours" ? { setup } : {} : { version }),
      ...seenBy(scenario, isGo ? "/" : ""),
      ...pick("theirs"),
    },
  };
}

/** Returns the protocol that the JavaScript peers offer for a version. */
function protocolOf(version: MoqVersion): string {
  return isSetupVersion(version) ? "moql" : version;
}

function urlOf(server: PeerServer, wire: Wire): string {
  const schemes = { quic: "moqt:", webtransport: "https:", websocket: "ws:" };
  return server.url("/moq").replace("https:", schemes[wire]);
}

/** Compares the results, except for a close that may be lost. */
function assertSeen(seen: Seen, expected: Seen): void {
  const { closed } = seenBy("subscribe", "/");
  const isTold = expected.closed === UNTOLD && equal(seen.closed, closed);
  assertEquals(seen, isTold ? { ...expected, closed } : expected);
}

function partOf(test: Case): Part {
  const { peer, wire, version, scenario, client } = test;
  const { why, ours, theirs } = expectedOf(test);
  const isJavaScript = peer.name.startsWith("@moq/");
  const protocols: Record<string, string> = isJavaScript ? { protocols: protocolOf(version) } : {};
  const does = scenario === "publish" ? "publishes" : "subscribes";
  if (client === "theirs") {
    const name = `${does} at our server, ${wire}${why}`;
    const fn = async () => {
      await using server = new SkeinMoqServer(wire, version, OTHER[scenario]);
      const { url, hash } = server;
      assertSeen(await peer.play(scenario, { url, hash, ...protocols }) as Seen, theirs);
      const seen = await server.seen as Seen;
      // The gomoqt client closes its connection right after its session. A lost connection discards
      // unread data, so the close then has code 0.
      const { closed } = seen as { readonly closed?: { readonly code: number } };
      const mayLose = wire === "webtransport" && peer.name.startsWith("gomoqt");
      assertEquals(seen, mayLose && closed?.code === 0 ? { ...ours, closed } : ours);
    };
    return { name, fn };
  }
  const fn = async () => {
    await using files = await CertificateFolder.create();
    const setup: Record<string, string> = version === "moq-lite-01"
      ? { setup: `${0xff0d_ad01}` }
      : {};
    const certificate = isJavaScript ? undefined : files;
    await using server = await peer.serve(certificate, { scenario, ...protocols, ...setup });
    const hash = isJavaScript ? {} : { hash: files.hash };
    const url = urlOf(server, wire);
    assertEquals(await playSkein(OTHER[scenario], { url, version, ...hash }), ours);
    assertSeen(await server.next() as Seen, theirs);
  };
  return { name: `${does} to our client, ${wire}${why}`, fn };
}

/**
 * The library dials on its own, as on a page without WebTransport, and doesn't report close codes.
 */
function partOfOwnDial(peer: Peer, version: MoqVersion, scenario: Role): Part {
  const does = scenario === "publish" ? "publishes" : "subscribes";
  const fn = async () => {
    const test = { peer, wire: "websocket", version, scenario, client: "theirs" } as const;
    const { ours, theirs } = expectedOf(test);
    await using server = new SkeinMoqServer("websocket", version, OTHER[scenario]);
    const seen = await peer.play(scenario, { url: server.url }) as Seen;
    const isSubscriber = scenario === "subscribe";
    const told = isSubscriber ? { closed: UNTOLD } : {};
    assertEquals(seen, { ...theirs, ...told });
    const untold = isSubscriber ? {} : { closed: { code: 0, reason: "" } };
    assertEquals(await server.seen, { ...ours, ...untold });
  };
  return { name: `${does} at our server by the library's own WebSocket`, fn };
}

/** More groups than any initial window allows, so the stream limits must be raised. */
function partOfMany(peer: Peer, wire: Wire, version: MoqVersion): Part {
  const fn = async () => {
    await using files = await CertificateFolder.create();
    await using server = await peer.serve(files, { scenario: "publish" });
    const url = urlOf(server, wire);
    await using session = await dialSkein({ url, hash: files.hash, version });
    await using track = await session.subscribe("/skein/live", "many");
    const sequences = new Set<number>();
    for await (const group of track) {
      for await (const frame of group) {
        if (frame.length === 1) sequences.add(group.sequence);
      }
      if (sequences.size === 2_000) break;
    }
    assertEquals(sequences.size, 2_000);
  };
  return { name: `publishes 2,000 groups, ${wire}`, fn };
}

const SCENARIOS = ["publish", "subscribe"] as const;
const CLIENTS = ["theirs", "ours"] as const;

const peers = await moqPeers();

for (
  const [name, version] of [["gomoqt 0.11", "gomoqt-dev"], ["gomoqt 0.17", "moq-lite-04"]] as const
) {
  const peer = peers.get(name);
  if (peer === undefined) continue;
  for (const wire of ["quic", "webtransport"] as const) {
    const parts = SCENARIOS.flatMap((scenario) =>
      CLIENTS.map((client) => partOf({ peer, wire, version, scenario, client }))
    );
    testTogether(`${name}, ${version}, ${wire}`, [...parts, partOfMany(peer, wire, version)]);
  }
}

const net = peers.get("@moq/net");

if (net !== undefined) {
  for (const version of ["moq-lite-05", "moq-lite-04", "moq-lite-02", "moq-lite-01"] as const) {
    const parts = SCENARIOS.flatMap((scenario) => [
      partOf({ peer: net, wire: "websocket", version, scenario, client: "theirs" }),
      partOf({ peer: net, wire: "websocket", version, scenario, client: "ours" }),
      // The peer uses Skein's WebTransport, because the runtime's own does not return stream
      // credit.
      partOf({ peer: net, wire: "webtransport", version, scenario, client: "theirs" }),
      // The library chooses the transport itself.
      ...(version === "moq-lite-05" ? [partOfOwnDial(net, version, scenario)] : []),
    ]);
    testTogether(`${net.name}, ${version}`, parts);
  }
}
