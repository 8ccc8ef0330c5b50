/**
 * MoQ sessions whose peer sends malformed streams and replies.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { SkeinError } from "../../errors.ts";
import { MoqError } from "../../moq/wire/errors.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import type { MoqSession } from "../../moq/session/session.ts";
import { type MoqVersion, VERSIONS, type VersionTraits } from "../../moq/wire/versions.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import { DRAFT_CODECS } from "../moq/draft_messages.ts";
import { MOQ_CODECS, type MoqCodec } from "../moq/messages.ts";
import { type HandExchange, HandPeer } from "../moq/peer.ts";
import type { Random } from "../random.ts";
import { soon, turns } from "../waiting.ts";
import { rejectsOnlyBy } from "./expect.ts";
import { joined, mutateBytes } from "./mutate.ts";

const VERSION_NAMES: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04", "gomoqt-dev"];

const DRAFT_NAMES: readonly MoqVersion[] = ["moqt-18", "moqt-20", "moqt-22"];

/** Close codes of a session that received data it could not parse. */
const OWN_CODES = [3, 6];

/** The further codes of the drafts: for ids, aliases, tokens, paths and authorities. */
const DRAFT_CODES = [...OWN_CODES, 4, 5, 8, 9, 0x13, 0x17, 0x19, 0x1a];

/** A peer's requests, each with the type of the stream and the name of the message. */
const REQUESTS: readonly (readonly [type: number, name: string])[] = [
  [1, "announce interest"],
  [2, "SUBSCRIBE"],
  [3, "FETCH"],
  [4, "PROBE"],
  [5, "GOAWAY"],
  [6, "TRACK"],
];

/**
 * Feeds malformed streams to sessions, as servers and as clients.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export async function fuzzMoqSessions(random: Random, rounds: number): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    const version = random.pick(VERSION_NAMES);
    if (random.below(2) === 0) await fuzzRequests(random, version);
    else await fuzzResponses(random, version);
  }
}

/** The same for sessions in the IETF's drafts. */
export async function fuzzMoqDrafts(random: Random, rounds: number): Promise<void> {
  for (let i = 0; i < rounds; i++) await fuzzDraft(random, random.pick(DRAFT_NAMES));
}

async function fuzzRequests(random: Random, version: MoqVersion): Promise<void> {
  const traits = VERSIONS[version];
  const mux = new TrackMux();
  mux.publish("/live", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(new Uint8Array(8));
    await group.close();
  });
  await using peer = await HandPeer.open(version, { mux, limits: { maxSubscriptions: 4 } });
  for (let i = random.below(6); i >= 0; i--) {
    if (random.below(3) === 0) {
      const bytes = mutateBytes(random, [drawn(random, traits, "GROUP"), Uint8Array.of(1, 1, 0)]);
      await peer.post(bytes.toHex(), { staysOpen: random.below(3) === 0 }).catch(onlySkeins);
      continue;
    }
    const [type, name] = random.pick(REQUESTS);
    const live = Uint8Array.fromHex("0e 00 05 2f6c697665 01 62 07 00000000".replaceAll(" ", ""));
    const message = joined(
      Uint8Array.of(type),
      name === "SUBSCRIBE" && random.below(2) === 0 ? live : drawn(random, traits, name),
      random.below(2) === 0 ? drawn(random, traits, "SUBSCRIBE_UPDATE") : new Uint8Array(0),
    );
    const bytes = random.below(4) === 0 ? message : mutateBytes(random, [message]);
    await feed(random, () => peer.ask(bytes.toHex()));
  }
  await settled(peer.session);
}

async function fuzzResponses(random: Random, version: MoqVersion): Promise<void> {
  const traits = VERSIONS[version];
  if (traits.setup === "session") return await fuzzRequests(random, version);
  await using peer = await HandPeer.open(version, { side: "client" });
  const { session } = peer;
  const using = new AbortController();
  const reading: Promise<unknown>[] = [];
  const read = (run: () => Promise<void>) =>
    reading.push(rejectsOnlyBy(run, SkeinError, DOMException));
  const { signal } = using;
  read(async () => {
    for await (const group of await session.subscribe("/a", "b", { signal })) {
      await rejectsOnlyBy(async () => {
        for await (const frame of group) assert(frame.byteLength >= 0);
      }, SkeinError);
    }
  });
  read(async () => {
    for await (const { path } of await session.acceptAnnounce("/a", { signal })) {
      assert(path === "/a" || path.startsWith("/a/"), path);
    }
  });
  read(async () => void await (await session.fetch("/a", "b", { group: 1, signal })).readFrame());
  const names = ["a response to SUBSCRIBE", "ANNOUNCE", "ANNOUNCE_OK", "TRACK_INFO"];
  for (let i = 0; i < 3; i++) {
    const stream = await peer.nextBidi();
    const has = (name: string) =>
      MOQ_CODECS.some((codec) => codec.name === name && codec.has(traits));
    const answers = Array.from(
      { length: 3 },
      () => drawn(random, traits, random.pick(names.filter(has))),
    );
    await feed(random, async () => {
      await stream.write(mutateBytes(random, [joined(...answers), ...answers]).toHex());
      return stream;
    });
  }
  for (let i = random.below(4); i > 0; i--) {
    const frames = joined(...Array.from({ length: 3 }, () => {
      const frame = random.bytes(random.bits(5));
      const time = traits.timestamps ? encodeVarint(random.bits(20)) : new Uint8Array(0);
      return joined(time, encodeVarint(frame.byteLength), frame);
    }));
    const head = Uint8Array.of(0, 2, random.below(2), random.below(64));
    const group = joined(head, random.below(2) === 0 ? frames : mutateBytes(random, [frames]));
    await peer.post(group.toHex(), { staysOpen: random.below(4) === 0 }).catch(onlySkeins);
  }
  await settled(session);
  using.abort();
  session.close();
  await soon(Promise.all(reading));
  assertEquals(session.subscriptions, []);
}

/** A data stream of the drafts: two objects, and the end of the group. */
const SUBGROUP = Uint8Array.fromHex("7000030001780002797a000003");

/** Feeds malformed requests, responses and data streams to a session in one of the drafts. */
async function fuzzDraft(random: Random, version: MoqVersion): Promise<void> {
  const draft = VERSIONS[version].draft!;
  const isServer = random.below(2) === 0;
  const mux = new TrackMux();
  const side = isServer ? "server" : "client";
  await using peer = await HandPeer.open(version, { side, mux, limits: { maxSubscriptions: 4 } });
  const { session } = peer;
  mux.publish("/live/one", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(new Uint8Array(8));
    await group.close();
  });
  const message = () => random.pick(DRAFT_CODECS).draw(random, draft).bytes;
  const maybe = (bytes: Uint8Array) =>
    random.below(3) === 0 ? bytes : mutateBytes(random, [bytes, message()]);
  const using = new AbortController();
  const { signal } = using;
  const reading = [
    rejectsOnlyBy(
      async () => {
        for await (const group of await session.subscribe("/a", "b", { signal })) {
          await rejectsOnlyBy(async () => {
            for await (const frame of group) assert(frame.byteLength >= 0);
          }, SkeinError);
        }
      },
      SkeinError,
      DOMException,
    ),
    rejectsOnlyBy(
      async () => {
        for await (const { path } of await session.acceptAnnounce("/", { signal })) {
          assert(path.startsWith("/"), path);
        }
      },
      SkeinError,
      DOMException,
    ),
  ];
  const stream = await peer.nextBidi();
  await feed(random, async () => {
    await stream.write(joined(maybe(message()), maybe(message())).toHex());
    return stream;
  });
  for (let i = random.below(8); i >= 0; i--) {
    if (random.below(3) > 0) {
      await feed(random, () => peer.ask(joined(maybe(message()), maybe(message())).toHex()));
    } else {
      const data = maybe(random.below(4) === 0 ? message() : SUBGROUP);
      await peer.post(data.toHex(), { staysOpen: random.below(3) === 0 }).catch(onlySkeins);
    }
  }
  await settled(session, DRAFT_CODES);
  using.abort();
  await soon(Promise.all(reading));
  assertEquals(session.subscriptions, []);
}

/** Sends data, and ends the stream in a random way. */
async function feed(random: Random, send: () => Promise<HandExchange>): Promise<void> {
  const outcome = await rejectsOnlyBy(send, Error);
  if (!outcome.ok) return;
  const how = random.below(4);
  if (how === 0) outcome.value.reset(random.below(70));
  else if (how < 3) await outcome.value.end();
}

/** Checks that a session with malformed input is open, or that it closed on its own with a code. */
async function settled(
  session: MoqSession,
  codes: readonly number[] = OWN_CODES,
): Promise<void> {
  await turns();
  if (session.isClosed) {
    const { code, by } = await session.closed;
    assertEquals(by, "local");
    assert(codes.includes(code), `the session closed with ${code}`);
  }
  session.close();
  assert(session.signal.reason instanceof MoqError);
  assertEquals(session.servedSubscriptions, 0);
}

function onlySkeins(error: unknown): void {
  assert(error instanceof Error, Deno.inspect(error));
}

function drawn(random: Random, traits: VersionTraits, name: string): Uint8Array {
  const codec: MoqCodec | undefined = MOQ_CODECS.find((one) =>
    one.name === name && one.has(traits)
  );
  return codec?.draw(random, traits).bytes ?? random.bytes(random.bits(4));
}
