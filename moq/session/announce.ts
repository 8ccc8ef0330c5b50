/** Announcements in both directions. */
import { concat } from "../../base/bytes.ts";
import { type Announcement, AnnouncementReader } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import {
  type AnnounceInterest,
  type AnnounceMessage,
  BidiType,
  decodeAnnounce,
  decodeAnnounceInit,
  decodeAnnounceOk,
  encodeAnnounce,
  encodeAnnounceInit,
  encodeAnnounceInterest,
  encodeAnnounceOk,
  MAX_ANNOUNCE_INIT_BYTES,
  MAX_HOPS,
} from "../wire/messages.ts";
import { type BroadcastPath, joinPath, suffixOf, wirePrefix } from "../wire/path.ts";
import { GrantTimers, type MoqGrant, watchGrant } from "./access.ts";
import { codeOf, isViolation, moqErrorOf, requestGrant, type SessionContext } from "./context.ts";
import { type Exchange, openExchange } from "./exchange.ts";
import { StreamWeight } from "./stream_share.ts";

/** The maximum number of announcements in one write. */
const BATCH = 256;

/**
 * The number of broadcasts waiting to be announced to one peer that count as one stream. Each takes
 * about 100 bytes.
 */
const BROADCASTS_PER_STREAM = 256;

/** The maximum number of announcements in an initial list; further ones follow one by one. */
const MAX_LISTED = 1_024;

/** The last state of a broadcast, which the peer does not know yet. */
interface Change extends Announcement {
  /** True if the peer knows the broadcast. */
  readonly isAnnounced: boolean;
}

/** How a version announces broadcasts to a peer. */
export interface AnnounceWire {
  /** Encodes the list of broadcasts at the start, as far as the version has one. */
  head(broadcasts: readonly Announcement[]): Uint8Array | undefined;
  /** The number of broadcasts that the head lists. */
  readonly listed: number;
  encode(announcement: Announcement): Uint8Array;
  /** Resolves when the peer wants no more announcements. */
  gone(exchange: Exchange): Promise<void>;
}

/** How the versions of moq-lite announce broadcasts. */
function liteWire({ mux, traits }: SessionContext, below: BroadcastPath): AnnounceWire {
  // moq-lite-05 sends its own hop once, in ANNOUNCE_OK.
  const ownHop = traits.announceHead === "ok" ? [] : [mux.hopId];
  const listed = traits.announceHead === "init" ? MAX_LISTED : 0;
  return {
    listed,
    head(broadcasts) {
      if (traits.announceHead === "ok") return encodeAnnounceOk(mux.hopId, broadcasts.length);
      if (traits.announceHead !== "init") return undefined;
      return encodeAnnounceInit(
        broadcasts.slice(0, listed).map(({ path }) => suffixOf(below, path)!),
      );
    },
    encode: ({ path, active, hops }) =>
      encodeAnnounce({
        active,
        suffix: suffixOf(below, path)!,
        hops: active && traits.hops ? [...hops, ...ownHop] : [],
      }, traits),
    gone: readToEnd,
  };
}

/**
 * Announces the broadcasts below a prefix as they start and end, until the peer leaves. A slow peer
 * receives the last state of each broadcast, and costs at most one queued entry per broadcast. The
 * interest ends if there is no room for these entries.
 */
export async function announceTo(
  context: SessionContext,
  exchange: Exchange,
  asked: Pick<AnnounceInterest, "excludeHop"> & {
    readonly below: BroadcastPath;
    readonly grant: MoqGrant;
  },
  wire: AnnounceWire = liteWire(context, asked.below),
): Promise<void> {
  const { mux } = context;
  const { below, excludeHop, grant } = asked;
  // A broadcast that passed the maximum number of relays is not announced further.
  const isWanted = ({ hops }: Pick<Announcement, "hops">) =>
    hops.length < MAX_HOPS && (excludeHop === 0n || !hops.includes(excludeHop));
  // The peer knows the state of all other broadcasts in the mux, which takes no memory here.
  const pending = new Map<BroadcastPath, Change>();
  const weight = new StreamWeight(context.streams, BROADCASTS_PER_STREAM);
  /** The broadcasts that existed at the start and were not sent yet. */
  let listed = 0;
  let isExpired = false;
  let wake: (() => void) | undefined;
  const put = (
    announcement: Announcement,
    previousHops: readonly bigint[] | undefined,
    wasGranted = !isExpired,
  ) => {
    // For the peer, a broadcast ends when the grant expires, or when it now arrives through the
    // peer itself (see `isWanted`).
    const active = announcement.active && !isExpired && isWanted(announcement);
    const isAnnounced = pending.get(announcement.path)?.isAnnounced ??
      (wasGranted && previousHops !== undefined && isWanted({ hops: previousHops }));
    if (active || isAnnounced) {
      pending.set(announcement.path, { ...announcement, active, isAnnounced });
    } else pending.delete(announcement.path);
    weigh();
    wake?.();
  };
  const weigh = () => {
    const rejection = weight.set(listed + pending.size);
    if (rejection === undefined || isGone) return;
    isGone = true;
    exchange.abort(codeOf(context, "announce", rejection));
  };
  let isGone = false;
  let isWriting = false;
  // A peer that leaves during a blocked write will not read the rest: abort the write.
  const gone = wire.gone(exchange).finally(() => {
    isGone = true;
    wake?.();
    if (isWriting) exchange.abort(codeOf(context, "announce", "uninterested"));
  });
  const write = async (bytes: Uint8Array) => {
    if (isGone) return;
    isWriting = true;
    await exchange.write(bytes);
    isWriting = false;
  };

  const watch = mux.watch(below, put);
  const expiring = watchGrant(context.runtime, grant, () => {
    isExpired = true;
    if (context.family !== "moq-lite") {
      return exchange.abort(codeOf(context, "announce", "bannedPrefix"));
    }
    // moq-rs does not survive a code (see `rejectAnnounce`): announce the end of every broadcast.
    const before = mux.announcements(below);
    for (const [path, { hops }] of pending) put({ path, active: false, hops }, undefined);
    for (const { path, hops } of before) put({ path, active: false, hops }, hops, true);
  });
  try {
    await announceInitial();
    while (!isGone) {
      if (pending.size === 0) {
        await new Promise<void>((resolve) => wake = resolve);
        continue;
      }
      const batch: Uint8Array[] = [];
      for (const [path, change] of pending) {
        pending.delete(path);
        // A broadcast that ended and started again while the peer did not read has both.
        if (change.isAnnounced) batch.push(wire.encode({ ...change, active: false }));
        if (change.active) batch.push(wire.encode(change));
        if (batch.length >= BATCH) break;
      }
      weigh();
      if (batch.length > 0) await write(concat(batch));
    }
  } catch (error) {
    if (!isGone) throw error;
  } finally {
    watch[Symbol.dispose]();
    expiring[Symbol.dispose]();
    weight.set(0);
  }
  await gone;
  await exchange.end();

  async function announceInitial(): Promise<void> {
    const initial = mux.announcements(below).filter(isWanted);
    listed = initial.length;
    weigh();
    const head = wire.head(initial);
    if (head !== undefined) await write(head);
    for (let at = wire.listed; at < initial.length; at += BATCH) {
      await write(concat(initial.slice(at, at + BATCH).map((one) => wire.encode(one))));
    }
    listed = 0;
    weigh();
  }
}

/**
 * Rejects an announce interest. gomoqt receives a code. A code would end a moq-rs session, so
 * moq-rs receives an empty list and no later announcements. If the application failed to decide,
 * both receive a code, so that they retry.
 */
export async function rejectAnnounce(
  context: SessionContext,
  exchange: Exchange,
  rejection: "unauthorized" | "internal",
): Promise<void> {
  const { family, mux, traits } = context;
  if (rejection === "internal") return exchange.abort(codeOf(context, "announce", "internal"));
  if (family === "gomoqt") return exchange.abort(codeOf(context, "announce", "bannedPrefix"));
  if (traits.announceHead === "init") await exchange.write(encodeAnnounceInit([]));
  if (traits.announceHead === "ok") await exchange.write(encodeAnnounceOk(mux.hopId, 0));
  await readToEnd(exchange);
  await exchange.end();
}

/**
 * Resolves when the peer ends or resets the stream: in both cases it wants no more announcements.
 */
async function readToEnd(exchange: Exchange): Promise<void> {
  try {
    while (await exchange.reader.begun()) await exchange.reader.message();
  } catch {
    // The peer reset the stream, or the session closed, which is reported elsewhere.
  }
}

/** The announce interests of this side. */
export class Discovery {
  readonly #context: SessionContext;
  readonly #readers = new Set<AnnouncementReader>();

  constructor(context: SessionContext) {
    this.#context = context;
  }

  /** Closes all readers with the session. */
  end(error: unknown): void {
    for (const reader of this.#readers) reader.end(error);
    this.#readers.clear();
  }

  /** Requests the broadcasts below a prefix. */
  async announce(
    prefix: BroadcastPath,
    { signal }: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader> {
    const context = this.#context;
    const { traits, mux } = context;
    const interest = encodeAnnounceInterest({
      prefix: wirePrefix(prefix, traits.slashedPaths),
      excludeHop: mux.hopId,
    }, traits);
    const exchange = await openExchange(context, BidiType.announce, { message: interest, signal });
    const onAbort = () => reader.close();
    const reader = new AnnouncementReader(prefix, (reason) => {
      exchange.leave(codeOf(context, "announce", reason));
    });
    this.#readers.add(reader);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) reader.close();
    void this.#read(exchange, reader).finally(() => {
      this.#readers.delete(reader);
      signal?.removeEventListener("abort", onAbort);
    });
    return reader;
  }

  async #read(exchange: Exchange, reader: AnnouncementReader): Promise<void> {
    const context = this.#context;
    const { traits } = context;
    const grants = new GrantTimers(context.runtime);
    const fail = (error: unknown) => {
      const cause = moqErrorOf(context, "announce", error);
      reader.end(cause);
      const reason = cause instanceof MoqError ? cause.reason : "internal";
      exchange.abort(codeOf(context, "announce", reason));
      if (isViolation(error)) context.violated(error);
    };
    const take = (message: AnnounceMessage) => this.#take(reader, message, { grants, fail });
    try {
      let hop = 0n;
      /** The number of missing announcements of the initial set. */
      let awaited = Infinity;
      if (traits.announceHead === "init") {
        const body = await exchange.reader.required("ANNOUNCE_INIT", MAX_ANNOUNCE_INIT_BYTES);
        for (const suffix of decodeAnnounceInit(body)) {
          await take({ active: true, suffix, hops: [] });
        }
        awaited = 0;
      } else if (traits.announceHead === "ok") {
        const ok = decodeAnnounceOk(await exchange.reader.required("ANNOUNCE_OK"));
        [hop, awaited] = [ok.hop, ok.active];
      }
      if (awaited === 0) reader.settle();
      for (let body; (body = await exchange.reader.message()) !== undefined;) {
        const message = decodeAnnounce(body, traits);
        const isPassedOn = hop !== 0n && message.active;
        await take(isPassedOn ? { ...message, hops: [...message.hops, hop] } : message);
        if (--awaited === 0) reader.settle();
      }
      reader.end();
      await exchange.end();
    } catch (error) {
      fail(error);
    } finally {
      grants.end();
    }
  }

  async #take(
    reader: AnnouncementReader,
    { active, suffix, hops }: AnnounceMessage,
    { grants, fail }: { readonly grants: GrantTimers; readonly fail: (error: unknown) => void },
  ): Promise<void> {
    const context = this.#context;
    const path = joinPath(reader.prefix, suffix);
    // The announcement came from this side: a loop.
    if (active && hops.includes(context.mux.hopId)) return;
    if (!active) {
      grants.drop(path);
      return reader.take({ path, active, hops }, false);
    }
    const banned = (when: string) =>
      new MoqError("announce", "bannedPrefix", `The peer may not announce ${path}${when}`);
    const { grant, rejection } = await requestGrant(context, path, "publish");
    if (rejection === "internal") {
      throw new MoqError(
        "announce",
        rejection,
        `The permission to announce ${path} could not be checked`,
      );
    }
    if (rejection !== undefined) throw banned("");
    reader.take({ path, active, hops }, context.traits.announceHead === "ok");
    grants.watch(path, grant, () => {
      reader.take({ path, active: false, hops }, false);
      fail(banned(" any more"));
    });
  }
}
