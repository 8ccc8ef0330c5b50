/** Asks a peer for the published broadcasts, and follows changes. */
import { codeOf, isViolation, moqErrorOf, openExchange, type SessionContext } from "./_context.ts";
import type { Exchange } from "./_exchange.ts";
import { decide, Grants, isGranted } from "./_grants.ts";
import { AnnouncementReader } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import {
  type AnnounceMessage,
  BidiType,
  decodeAnnounce,
  decodeAnnounceInit,
  decodeAnnounceOk,
  encodeAnnounceInterest,
  MAX_ANNOUNCE_INIT_BYTES,
} from "../wire/messages.ts";
import { type BroadcastPath, joinPath, wirePrefix } from "../wire/path.ts";

/** The announce interests of this end. */
export class Discovering {
  readonly #context: SessionContext;
  readonly #readers = new Set<AnnouncementReader>();

  constructor(context: SessionContext) {
    this.#context = context;
  }

  /** Ends all readers with the session. */
  end(error: unknown): void {
    for (const reader of this.#readers) reader.end(error);
    this.#readers.clear();
  }

  /** Asks for the broadcasts below a prefix. */
  async announce(
    prefix: BroadcastPath,
    { signal }: { readonly signal?: AbortSignal },
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
    const grants = new Grants(context.runtime);
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
      /** Announcements of the initial set that are still to come. */
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
    { grants, fail }: { readonly grants: Grants; readonly fail: (error: unknown) => void },
  ): Promise<void> {
    const context = this.#context;
    const path = joinPath(reader.prefix, suffix);
    // The announcement came from this end: a loop.
    if (active && hops.includes(context.mux.hopId)) return;
    if (!active) {
      grants.drop(path);
      return reader.take({ path, active, hops }, false);
    }
    const banned = (when: string) =>
      new MoqError("announce", "bannedPrefix", `The peer may not announce ${path}${when}`);
    const grant = await decide(context, path, "publish");
    if (!isGranted(context.runtime, grant)) throw banned("");
    reader.take({ path, active, hops }, context.traits.announceHead === "ok");
    grants.watch(path, grant, () => {
      reader.take({ path, active: false, hops }, false);
      fail(banned(" any more"));
    });
  }
}
