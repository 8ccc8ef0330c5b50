/**
 * Scenarios of a publisher and a subscriber of Media over QUIC. They use only the features that all
 * implementations share, so they run on the library for JavaScript and on Skein. The peers in other
 * languages play the same scenarios.
 *
 * @module
 */

/** The role of an end; it dials or serves. */
export type Role = "publish" | "subscribe";

/** The scenario: `ask` is a subscriber that fetches and probes. */
export type Scenario = Role | "ask";

/** The part of a session that is used, in any implementation. */
export interface AnySession {
  /** Resolves with the peer's code and reason. */
  readonly closed: Promise<Close>;
  /** Full paths below a prefix that the peer announces and withdraws. */
  announced(prefix: string): AsyncIterable<Announcement>;
  /** Announces a broadcast; returns a function that withdraws it. */
  publish(path: string, tracks: Tracks): () => void;
  /** Subscribes to a track. If the subscription is rejected, reading the track throws. */
  subscribe(track: Track): AnyReader;
  fetch(group: FetchedGroup): Promise<GroupReader>;
  /** Returns the first rate that the peer reports, in bits per second, in versions with probes. */
  probed(): Promise<number | undefined>;
  /** Closes the session. */
  close(info: Close): void;
}

/** A request for one group. */
export interface FetchedGroup {
  /** The broadcast. */
  readonly path: string;
  /** Name of the track. */
  readonly name: string;
  /** The group. */
  readonly sequence: number;
}

/** The track handlers of a broadcast, keyed by name; the broadcast has no other tracks. */
export type Tracks = Readonly<Record<string, (track: AnyWriter) => Promise<void>>>;

/** The close of a session. */
export interface Close {
  readonly closeCode?: number;
  readonly reason?: string;
}

/** An announced or withdrawn broadcast. */
export interface Announcement {
  /** Path of the broadcast. */
  readonly path: string;
  /** True while the broadcast is announced. */
  readonly active: boolean;
}

/** A subscription. */
export interface Track {
  /** The broadcast. */
  readonly path: string;
  /** Name of the track. */
  readonly name: string;
  readonly priority: number;
}

/** A track with a subscriber. */
export interface AnyWriter {
  /** The subscriber's latest priority. */
  readonly priority: number;
  /** Resolves with true when the subscriber changes the priority, or with false if it leaves. */
  updated(): Promise<boolean>;
  openGroup(): Promise<GroupWriter>;
  /** Closes the track. */
  close(): void;
}

/** A group that is being written. */
export interface GroupWriter {
  write(frame: Uint8Array): Promise<void> | void;
  /** Closes the group. */
  close(): Promise<void> | void;
}

/** A track that is being read. */
export interface AnyReader {
  /** Returns the next group to arrive; rejects with the cause when the subscription ends. */
  nextGroup(): Promise<GroupReader | undefined>;
  /** Changes the priority, if the implementation can. */
  update(priority: number): void;
  /** Unsubscribes. */
  close(): void;
}

/** A group that is being read. */
export interface GroupReader {
  /** Sequence number of the group. */
  readonly sequence: number;
  /** Returns the next frame; `undefined` at the end. */
  nextFrame(): Promise<Uint8Array | undefined>;
}

const PREFIX = "skein/";
/** The broadcast with all tracks except one. */
const LIVE = "skein/live";
/**
 * A subscription to the track `withdraw` withdraws this broadcast, and the other broadcast replaces
 * it.
 */
const BRIEF = "skein/brief";
const LATE = "skein/late";
/** A path outside the requested prefix. */
const HIDDEN = "other/hidden";

const GROUPS = 120;

/** Sizes at which the encoding of a length changes, and one that exceeds a packet. */
const FRAME_SIZES = [0, 1, 63, 64, 1200, 16384];

/** The group that is fetched. */
const FETCHED = 5;

const FIRST_PRIORITY = 7;
const SECOND_PRIORITY = 200;

const CLOSE: Close = { closeCode: 42, reason: "grüße" };

/**
 * The pause between two groups. Without it, a reader would have to be as fast as the writer.
 */
const GROUP_GAP_MS = 10;

/** Time for written data to arrive, which no event reports. */
const ARRIVAL_MS = 500;

/** The same for a withdrawal, which must not arrive together with the next announcement. */
const WITHDRAWAL_MS = 2_000;

/** Time for all groups of the video to arrive. */
const VIDEO_ARRIVAL_MS = 10_000;

/** The longest time that a step may take on a busy machine. */
const STALL_MS = 20_000;

/** The longest wait for the reply to an update; not all publishers can send one. */
const UPDATE_MS = 8_000;

/**
 * Plays one end of a session until the scenario is over.
 *
 * @param scenario The scenario and the role to play.
 * @param root Prefix of all paths: a slash, or an empty string.
 * @returns The results.
 */
export async function play(session: AnySession, scenario: Scenario, root = ""): Promise<unknown> {
  if (scenario === "publish") return await publish(session, root);
  return scenario === "ask" ? await ask(session, root) : await subscribe(session, root);
}

/**
 * Creates the frames of a fetched group.
 *
 * @param sequence The group.
 */
export function framesOf(sequence: number): Uint8Array<ArrayBuffer>[] {
  return FRAME_SIZES.map((_, index) => frameOf(sequence, index));
}

async function publish(session: AnySession, root: string): Promise<unknown> {
  const subscribed: string[] = [];
  const updated: number[] = [];
  const closing = Promise.withResolvers<void>();
  const isClosing = Promise.race([
    closing.promise.then(() => true),
    session.closed.then(() => false, () => false),
  ]);
  const announce = (name: string, tracks: Tracks) => {
    const path = root + name;
    const noted = Object.entries(tracks).map(([name, serve]) => {
      const note: typeof serve = async (track) => {
        subscribed.push(`${path} ${name} ${track.priority}`);
        await serve(track);
      };
      return [name, note];
    });
    return session.publish(path, Object.fromEntries(noted));
  };
  const tracks: Tracks = {
    video: (track) => serveVideo(track, isClosing),
    priority: async (track) => {
      await writeGroup(track, `${track.priority}`);
      if (!await track.updated()) return;
      updated.push(track.priority);
      // The subscriber leaves on its own, because closing the track might overtake the group.
      await writeGroup(track, `${track.priority}`);
    },
    close: async (track) => {
      // The group is left open, so that the close of the session resets it.
      await (await track.openGroup()).write(encode("closed"));
      closing.resolve();
    },
  };
  announce(LIVE, tracks);
  announce(HIDDEN, tracks);
  const withdraw = announce(BRIEF, {
    withdraw: async (track) => {
      await writeGroup(track, "withdrawn");
      await sleep(ARRIVAL_MS);
      withdraw();
      // If there are two changes at the same time, `@moq/net` reports only the first.
      await sleep(WITHDRAWAL_MS);
      announce(LATE, {});
    },
  });
  if (await isClosing) {
    await sleep(ARRIVAL_MS);
    session.close(CLOSE);
    await sleep(ARRIVAL_MS);
  }
  return { subscribed, updated };
}

async function serveVideo(track: AnyWriter, over: Promise<unknown>): Promise<void> {
  for (let number = 0; number < GROUPS; number++) {
    const group = await track.openGroup();
    for (const index of FRAME_SIZES.keys()) await group.write(frameOf(number, index));
    await group.close();
    await sleep(GROUP_GAP_MS);
  }
  // The close of the track must not overtake the groups.
  await within(over, VIDEO_ARRIVAL_MS);
  track.close();
}

async function writeGroup(track: AnyWriter, text: string): Promise<void> {
  const group = await track.openGroup();
  await group.write(encode(text));
  await group.close();
}

async function subscribe(session: AnySession, root: string): Promise<unknown> {
  const active = new Map<string, boolean>();
  let changed = Promise.withResolvers<void>();
  const tell = () => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  const collect = async () => {
    for await (const { path, active: isActive } of session.announced(root + PREFIX)) {
      active.set(path, isActive);
      tell();
    }
  };
  collect().catch(() => {});
  const until = async (isSo: () => boolean) => {
    const end = performance.now() + STALL_MS;
    for (let left = STALL_MS; !isSo() && left > 0; left = end - performance.now()) {
      await within(changed.promise, left);
    }
  };
  const isActive = (name: string) => active.get(root + name) === true;
  const open = (path: string, name: string) =>
    session.subscribe({ path: root + path, name, priority: FIRST_PRIORITY });

  await until(() => isActive(LIVE) && isActive(BRIEF));
  const video = await readVideo(open(LIVE, "video"));
  const missing = {
    track: await rejection(open(LIVE, "missing")),
    broadcast: await rejection(open("skein/missing", "video")),
  };
  const priority = await readPriorities(open(LIVE, "priority"));
  open(BRIEF, "withdraw").nextGroup().catch(() => {});
  await until(() => isActive(LATE) && !isActive(BRIEF));
  const announced = [...active.keys()].sort();
  const withdrawn = announced.filter((path) => !active.get(path));
  open(LIVE, "close").nextGroup().catch(() => {});
  let closed: unknown;
  session.closed.then(closeOf, codeOf).then((how) => closed = how).finally(tell);
  // After a relay, the publisher's session is a different one.
  await until(() => closed !== undefined || !isActive(LIVE));
  closed ??= isActive(LIVE) ? "not closed" : "withdrawn";
  session.close({});
  return { announced, withdrawn, video, missing, priority, closed };
}

/** Fetches an existing group and a missing group, and requests a rate. */
async function ask(session: AnySession, root: string): Promise<unknown> {
  const fetched = async (path: string) => {
    try {
      const group = await session.fetch({ path: root + path, name: "video", sequence: FETCHED });
      const frames: boolean[] = [];
      for (let frame; (frame = await within(group.nextFrame(), STALL_MS)) !== undefined;) {
        frames.push(isSame(frame, frameOf(FETCHED, frames.length)));
      }
      return { frames: frames.length, wrong: frames.filter((isRight) => !isRight).length };
    } catch (error) {
      return codeOf(error);
    }
  };
  const seen = { fetched: await fetched(LIVE), missing: await fetched("skein/missing") };
  const probed = session.probed().then((bitrate) => ({ bitrate }), codeOf);
  const rate = await within(probed, STALL_MS) ?? "no answer";
  session.close({});
  await sleep(ARRIVAL_MS);
  if (typeof rate !== "object") return { ...seen, rate };
  // The rate depends on the machine.
  return { ...seen, rate: (rate as { bitrate?: number }).bitrate === undefined ? "none" : "some" };
}

/** A group that was read completely or in part. */
interface Read {
  readonly sequence: number;
  readonly frames: readonly Uint8Array[];
  /** The code or message of the reset, if any. */
  readonly reset?: unknown;
}

/** Reads all groups, and checks every byte; lists any resets. */
async function readVideo(track: AnyReader): Promise<unknown> {
  const groups: Promise<Read>[] = [];
  const end = performance.now() + 2 * STALL_MS;
  while (groups.length < GROUPS) {
    const group = await within(track.nextGroup(), end - performance.now());
    if (group === undefined) break;
    groups.push(readGroup(group));
  }
  // Groups may arrive out of order.
  const all = (await Promise.all(groups)).sort((a, b) => a.sequence - b.sequence);
  const first = all[0]?.sequence ?? 0;
  let [frames, bytes, wrong, gaps] = [0, 0, 0, 0];
  for (const [place, group] of all.entries()) {
    if (group.sequence !== first + place) gaps++;
    if (group.reset === undefined && group.frames.length !== FRAME_SIZES.length) wrong++;
    for (const [index, frame] of group.frames.entries()) {
      frames++;
      bytes += frame.length;
      if (!isSame(frame, frameOf(group.sequence - first, index))) wrong++;
    }
  }
  track.close();
  const resets = all.map(({ reset }) => reset).filter((reset) => reset !== undefined);
  return {
    groups: all.length,
    ...{ frames, bytes, wrong, gaps },
    ...(resets.length === 0 ? {} : { resets }),
  };
}

/** Reads a group until its end or reset. */
async function readGroup(group: GroupReader): Promise<Read> {
  const { sequence } = group;
  const frames: Uint8Array[] = [];
  try {
    for (;;) {
      const frame = await within(group.nextFrame(), STALL_MS);
      if (frame === undefined) return { sequence, frames };
      frames.push(frame);
    }
  } catch (error) {
    return { sequence, frames, reset: codeOf(error) };
  }
}

/** Returns the code with which a subscription is rejected. */
async function rejection(track: AnyReader): Promise<unknown> {
  try {
    const group = await within(track.nextGroup().then((group) => group ?? "the end"), STALL_MS);
    return group ?? "no answer";
  } catch (error) {
    return codeOf(error);
  }
}

/** Reads the priority that the publisher reports, before and after an update. */
async function readPriorities(track: AnyReader): Promise<unknown[]> {
  const texts: unknown[] = [];
  try {
    for (let waitMs = STALL_MS; texts.length < 2; waitMs = UPDATE_MS) {
      const group = await within(track.nextGroup(), waitMs);
      if (group === undefined) break;
      for (const frame of (await readGroup(group)).frames) {
        texts.push(new TextDecoder().decode(frame));
      }
      track.update(SECOND_PRIORITY);
    }
  } catch (error) {
    texts.push(codeOf(error));
  }
  track.close();
  return texts;
}

/** The content of a frame; no two frames are alike. */
function frameOf(group: number, index: number): Uint8Array<ArrayBuffer> {
  const length = FRAME_SIZES[index] ?? 0;
  return Uint8Array.from({ length }, (_, at) => group * 7 + index * 13 + at);
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

function codeOf(error: unknown): unknown {
  const fields = error as Readonly<Record<string, unknown>>;
  const codes = [fields.moqCode, fields.code, fields.streamErrorCode, fields.closeCode];
  return codes.find((code) => typeof code === "number") ?? fields.message ?? String(error);
}

function closeOf({ closeCode, reason }: Close): unknown {
  return closeCode === undefined ? "the code is not told" : { code: closeCode, reason };
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Returns the value of a promise if it settles in time, `undefined` otherwise. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => resolve(undefined), ms);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
