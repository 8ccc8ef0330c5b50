/**
 * Tests Skein's dialect of the IETF's drafts: through relays of other implementations, and at
 * Skein's own relay with the cases of aiomoqt's test client, and with a video from Cloudflare's
 * publisher to Cloudflare's subscriber.
 */
import { assertEquals, equal } from "@std/assert";
import { deadline } from "@std/async/deadline";
import {
  dialMoq,
  listenMoq,
  MoqRelay,
  type MoqServer,
  type MoqVersion,
  TrackMux,
} from "../../moq/mod.ts";
import { fragment, GROUP_FRAMES, initSegment } from "../moq/fragmented_mp4.ts";
import { until } from "../waiting.ts";
import { buildMoqPeers, builtPeers, PATIENCE_MS, type Peer } from "./peers.ts";
import { DraftRelay } from "./peers/moq_ietf/relays.ts";
import { MoqMedia } from "./peers/moq_media.ts";
import { Relay } from "./peers/moq_relay/relay.ts";
import { CertificateFolder } from "./peers/skein.ts";
import { type Part, testTogether } from "./together.ts";

const names = [
  ...["moq-relay", "moq-relay-ietf", "aiomoqt", "aiomoqt's cases"],
  ...["moq-pub", "moq-sub"],
];
const peers = new Map(
  builtPeers(await buildMoqPeers(names)).map((peer): [string, Peer] => [peer.name, peer]),
);

const DRAFTS: readonly MoqVersion[] = ["moqt-18", "moqt-20", "moqt-22"];

/** The drafts and transports of each relay. */
const RELAYS: Readonly<
  Record<string, { readonly drafts: readonly MoqVersion[]; readonly schemes: readonly string[] }>
> = {
  "moq-relay": { drafts: DRAFTS, schemes: ["moqt", "https"] },
  "moq-relay-ietf": { drafts: ["moqt-18"], schemes: ["moqt", "https"] },
  "aiomoqt": { drafts: DRAFTS, schemes: ["moqt"] },
};

const GROUPS = ["0: a b c", "1: a b c", "2: a b c"];

/** Publishes three groups, the next one after the subscriber has received the last one. */
function publisher(path: string): { readonly mux: TrackMux; readonly next: () => void } {
  const mux = new TrackMux();
  let turn = Promise.withResolvers<void>();
  mux.publish(path, async (track) => {
    for (let at = 0; at < GROUPS.length; at++) {
      const group = await track.openGroup(at);
      for (const text of "abc") await group.writeFrame(new TextEncoder().encode(text));
      await group.close();
      if (at < GROUPS.length - 1) await turn.promise;
      turn = Promise.withResolvers();
    }
  });
  return { mux, next: () => turn.resolve() };
}

/** Publishes to a relay, and reads back what it forwards. */
async function throughRelay(url: string, hash: string, version: MoqVersion): Promise<void> {
  const options = {
    versions: [version],
    serverCertificateHashes: [
      { algorithm: "sha-256" as const, value: Uint8Array.fromHex(hash) },
    ],
  };
  const path = "/skein/live";
  const { mux, next } = publisher(path);
  await using publishing = await dialMoq(url, { ...options, mux });
  await using reading = await dialMoq(url, options);
  await using announcements = await reading.acceptAnnounce("/skein");
  const announcement = await deadline(announcements.next(), PATIENCE_MS);
  assertEquals(announcement?.path, path);
  const track = await reading.subscribe(path, "video");
  const groups: string[] = [];
  for await (const group of track) {
    const frames: string[] = [];
    for await (const frame of group) frames.push(new TextDecoder().decode(frame));
    groups.push(`${group.sequence}: ${frames.join(" ")}`);
    next();
  }
  assertEquals(groups, GROUPS);
  assertEquals([publishing.version, reading.version], [version, version]);
}

/** Serves our relay. */
function serveRelay(relay: MoqRelay): MoqServer {
  return listenMoq({
    hostname: "127.0.0.1",
    port: 0,
    cacheFolder: null,
    mux: relay.mux,
    onSession: (session) => relay.accept(session),
  });
}

/** The URL of our relay over raw QUIC, without a name to look up. */
function urlOf({ quicUrl }: MoqServer): string {
  return quicUrl.replace("localhost", "127.0.0.1");
}

async function startRelay(peer: Peer, files: CertificateFolder) {
  if (peer.name !== "moq-relay") return await DraftRelay.start(peer, files);
  const relay = await Relay.start(peer, files);
  return Object.assign(relay, { port: relay.quicPort });
}

for (const [name, { drafts, schemes }] of Object.entries(RELAYS)) {
  const peer = peers.get(name);
  if (peer === undefined) continue;
  const parts = drafts.flatMap((version) =>
    schemes.map((scheme): Part => ({
      name: `${version}, ${scheme}:`,
      fn: async () => {
        await using files = await CertificateFolder.create();
        await using relay = await startRelay(peer, files);
        const url = `${scheme}://127.0.0.1:${relay.port}/`;
        await deadline(throughRelay(url, files.hash, version), PATIENCE_MS);
      },
    }))
  );
  testTogether(`${name} forwards between our publisher and our subscriber`, parts);
}

/** The cases that fail, with the reason and its section of draft 18. */
const FAILING: Readonly<Record<string, string>> = {
  "namespace-discovery": "SUBSCRIBE_TRACKS (10.19) is not supported",
  "data-subgroup-basic": "a broadcast is found by its whole path, not by a prefix of it (9.5)",
};

/** Attempts of the cases: each gives some steps two seconds, which a busy machine may exceed. */
const MAX_ATTEMPTS = 3;

/** Plays the cases of aiomoqt's client at our relay; returns the names of those that fail. */
async function failingCases(client: Peer, draft: string): Promise<string[]> {
  await using relay = new MoqRelay({ allowAnonymousPublish: true });
  await using server = serveRelay(relay);
  const url = urlOf(server);
  const child = client.start(["--relay", url, "--tls-disable-verify", "--draft", draft]);
  const { stdout } = await deadline(child.output(), PATIENCE_MS);
  const lines = new TextDecoder().decode(stdout).split("\n");
  const cases = lines.flatMap((line) => {
    const [, failed, name] = line.match(/^(not )?ok \d+ - (\S+)/) ?? [];
    return name === undefined ? [] : [{ name, isFailed: failed !== undefined }];
  });
  assertEquals(cases.length, 12, lines.join("\n"));
  return cases.filter(({ isFailed }) => isFailed).map(({ name }) => name).sort();
}

const client = peers.get("aiomoqt's cases");
if (client !== undefined) {
  const parts = ["18", "22"].map((draft): Part => ({
    name: `draft ${draft}`,
    fn: async () => {
      const expected = Object.keys(FAILING).sort();
      let failing = await failingCases(client, draft);
      for (let attempt = 1; attempt < MAX_ATTEMPTS && !equal(failing, expected); attempt++) {
        failing = await failingCases(client, draft);
      }
      assertEquals(failing, expected);
    },
  }));
  testTogether("aiomoqt's cases at our relay", parts);
}

/** Publishes a video group by group, the next one after the subscriber has begun the last one. */
async function watches({ from, to, scheme, options }: {
  readonly from: Peer;
  readonly to: Peer;
  readonly scheme: string;
  /** Options of the publisher. */
  readonly options: readonly string[];
}): Promise<void> {
  await using relay = new MoqRelay({ allowAnonymousPublish: true });
  await using server = serveRelay(relay);
  const about = { url: urlOf(server).replace("moqt", scheme), name: "skein/live" };
  await using sending = MoqMedia.start(from, { ...about, options });
  const sent: Uint8Array<ArrayBuffer>[] = [initSegment()];
  await sending.write(sent[0]!);
  await until(() => relay.mux.size === 1);
  await using receiving = MoqMedia.start(to, { ...about, options: ["--catalog"] });
  for (let group = 0; group < 4; group++) {
    const before = sent.reduce((sum, { byteLength }) => sum + byteLength, 0);
    for (let at = 0; at < GROUP_FRAMES; at++) {
      sent.push(fragment(group * GROUP_FRAMES + at));
      await sending.write(sent.at(-1)!);
    }
    // The program holds the end of its output back until a large frame follows.
    await receiving.read(before + 1);
  }
  const { received } = receiving;
  const expected = await new Blob(sent).bytes();
  assertEquals(received, expected.slice(0, received.byteLength));
}

const [from, to] = [peers.get("moq-pub"), peers.get("moq-sub")];
if (from !== undefined && to !== undefined) {
  const parts = ["moqt", "https"].flatMap((scheme) =>
    [[], ["--publish"]].map((options): Part => ({
      name: [scheme, ...options].join(" "),
      fn: () => watches({ from, to, scheme, options }),
    }))
  );
  testTogether("moq-pub sends a video to moq-sub through our relay", parts);
}
