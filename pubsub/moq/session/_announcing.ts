/**
 * Telling a peer what is published here.
 *
 * @module
 */
import type { Announcement } from "../track/announcement.ts";
import type { Exchange } from "./_exchange.ts";
import { codeOf, type SessionContext } from "./_context.ts";
import {
  type AnnounceInterest,
  encodeAnnounce,
  encodeAnnounceInit,
  encodeAnnounceOk,
  MAX_HOPS,
} from "../wire/messages.ts";
import { type BroadcastPath, suffixOf } from "../wire/path.ts";

/** Announcements that go out in one write. */
const BATCH = 256;

/** Announcements that a list has at most; the rest follows one by one. */
const MAX_LISTED = 1_024;

/**
 * Announces what comes and goes below a prefix, until the peer leaves. A peer that reads slowly gets the
 * last state of each broadcast, and holds no more here than one entry for each.
 */
export async function announceTo(
  context: SessionContext,
  exchange: Exchange,
  asked: AnnounceInterest & { readonly below: BroadcastPath; readonly expired: AbortSignal },
): Promise<void> {
  const { mux, traits } = context;
  const { below, excludeHop, expired } = asked;
  // One that passed as many relays as there may be goes no further.
  const isWanted = ({ hops }: Announcement) =>
    hops.length < MAX_HOPS && (excludeHop === 0n || !hops.includes(excludeHop));
  const pending = new Map<BroadcastPath, Announcement>();
  const told = new Set<BroadcastPath>();
  let wake: (() => void) | undefined;
  const put = (announcement: Announcement) => {
    // What comes by the peer itself from now on is gone, as far as the peer is concerned.
    const active = announcement.active && !expired.aborted && isWanted(announcement);
    pending.set(announcement.path, { ...announcement, active });
    wake?.();
  };
  // moq-lite-05 says its own hop once, in ANNOUNCE_OK.
  const ownHop = traits.announceHead === "ok" ? [] : [mux.hopId];
  const encode = ({ path, active, hops }: Announcement) =>
    encodeAnnounce({
      active,
      suffix: suffixOf(below, path)!,
      hops: active && traits.hops ? [...hops, ...ownHop] : [],
    }, traits);

  let isGone = false;
  let isWriting = false;
  // Whoever left while it takes nothing does not take the rest either.
  const gone = readToEnd(exchange).finally(() => {
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
  const onExpired = () => {
    if (context.family === "gomoqt") {
      return exchange.abort(codeOf(context, "announce", "bannedPrefix"));
    }
    // As `refuseAnnounce` does: from now on there is nothing.
    for (const path of new Set([...told, ...pending.keys()])) {
      put({ path, active: false, hops: [] });
    }
  };
  expired.addEventListener("abort", onExpired, { once: true });
  if (expired.aborted) onExpired();
  try {
    await tellInitial();
    while (!isGone) {
      if (pending.size === 0) {
        await new Promise<void>((resolve) => wake = resolve);
        continue;
      }
      const batch: Uint8Array[] = [];
      for (const [path, announcement] of pending) {
        pending.delete(path);
        const isTold = told.has(path);
        if (announcement.active) {
          // It went and came while the peer did not read.
          if (isTold) batch.push(encode({ ...announcement, active: false }));
          told.add(path);
          batch.push(encode(announcement));
        } else if (isTold) {
          told.delete(path);
          batch.push(encode(announcement));
        }
        if (batch.length >= BATCH) break;
      }
      if (batch.length > 0) await write(concat(batch));
    }
  } catch (error) {
    if (!isGone) throw error;
  } finally {
    watch[Symbol.dispose]();
  }
  await gone;
  await exchange.end();

  async function tellInitial(): Promise<void> {
    const initial = mux.announcements(below).filter(isWanted);
    for (const { path } of initial) told.add(path);
    if (traits.announceHead === "init") {
      const listed = initial.slice(0, MAX_LISTED).map(({ path }) => suffixOf(below, path)!);
      await write(encodeAnnounceInit(listed));
    } else if (traits.announceHead === "ok") {
      await write(encodeAnnounceOk(mux.hopId, initial.length));
    }
    const begun = traits.announceHead === "init" ? MAX_LISTED : 0;
    for (let at = begun; at < initial.length; at += BATCH) {
      await write(concat(initial.slice(at, at + BATCH).map(encode)));
    }
  }
}

/**
 * Tells a peer nothing of what is below a prefix, for it may not know. gomoqt is told so by a code;
 * a session of moq-rs would not survive that, and takes an empty list, of which nothing comes, for it.
 */
export async function refuseAnnounce(context: SessionContext, exchange: Exchange): Promise<void> {
  const { family, mux, traits } = context;
  if (family === "gomoqt") return exchange.abort(codeOf(context, "announce", "bannedPrefix"));
  if (traits.announceHead === "init") await exchange.write(encodeAnnounceInit([]));
  if (traits.announceHead === "ok") await exchange.write(encodeAnnounceOk(mux.hopId, 0));
  await readToEnd(exchange);
  await exchange.end();
}

/** A peer that ends its direction wants no more; so does one that resets it. */
async function readToEnd(exchange: Exchange): Promise<void> {
  try {
    while (await exchange.reader.message() !== undefined);
  } catch {
    // It reset the stream, or the session ended, which is told elsewhere.
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}
