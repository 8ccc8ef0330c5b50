/** Answers the requests of a peer: subscriptions, announce interests, fetches, track properties. */
import { StreamError } from "../../../errors.ts";
import { announceTo, refuseAnnounce } from "./_announcing.ts";
import { codeOf, moqErrorOf, noticeStyle, type SessionContext } from "./_context.ts";
import type { Exchange } from "./_exchange.ts";
import { toWireLatency } from "./_latency.ts";
import { decide, isGranted, watchGrant } from "./_grants.ts";
import { ServedTracks } from "./_served_tracks.ts";
import type { MoqErrorName } from "../wire/error_codes.ts";
import { MoqError } from "../wire/errors.ts";
import { GroupWriter, tornFrame } from "../track/group_writer.ts";
import {
  decodeAnnounceInterest,
  decodeFetch,
  decodeTrackRequest,
  encodeTrackInfo,
} from "../wire/messages.ts";
import type { FetchRequest, MuxRoute } from "../track/mux.ts";
import { receivedPath } from "../wire/path.ts";

const NO_HEAD = new Uint8Array(0);

/** Track properties, by default. */
const TRACK_INFO = { priority: 0, ordered: false, maxLatencyMs: 0, timescale: 1_000 } as const;

/** Answers the requests of one peer. */
export class Serving {
  readonly #context: SessionContext;
  readonly #tracks: ServedTracks;
  #requests = 0;

  constructor(context: SessionContext) {
    this.#context = context;
    this.#tracks = new ServedTracks(context);
  }

  /** Subscriptions of the peer. */
  get size(): number {
    return this.#tracks.size;
  }

  /** Ends all requests with the session. */
  end(error: unknown): void {
    this.#tracks.end(error);
  }

  /** Answers SUBSCRIBE. */
  subscribe(exchange: Exchange): Promise<void> {
    return this.#tracks.serve(exchange);
  }

  /** Answers an announce interest. */
  announce(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "announce", () => this.#announce(exchange));
  }

  /** Answers FETCH. */
  fetch(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "fetch", () => this.#fetch(exchange));
  }

  /** Answers TRACK. */
  track(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "subscribe", () => this.#track(exchange));
  }

  /** Answers, unless the peer has too many open requests. */
  async #bounded(
    exchange: Exchange,
    scope: "announce" | "fetch" | "subscribe",
    answer: () => Promise<void>,
  ): Promise<void> {
    if (this.#requests >= this.#context.limits.maxRequests) {
      return exchange.abort(codeOf(this.#context, scope, "internal"));
    }
    this.#requests++;
    try {
      await answer();
    } finally {
      this.#requests--;
    }
  }

  async #announce(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const body = await exchange.reader.required("announce interest");
    const asked = decodeAnnounceInterest(body, context.traits);
    noticeStyle(context, asked.prefix);
    const below = receivedPath(asked.prefix);
    const grant = await decide(context, below, "announce");
    if (context.signal.aborted) return;
    if (!isGranted(context.runtime, grant)) return await refuseAnnounce(context, exchange);
    const expiry = new AbortController();
    const expiring = watchGrant(context.runtime, grant, () => expiry.abort());
    try {
      await announceTo(context, exchange, { ...asked, below, expired: expiry.signal });
    } finally {
      expiring[Symbol.dispose]();
    }
  }

  async #fetch(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const { traits, connection, signal: over } = context;
    const asked = decodeFetch(await exchange.reader.required("FETCH"));
    noticeStyle(context, asked.path);
    const path = receivedPath(asked.path);
    const grant = await decide(context, path, "subscribe");
    if (over.aborted) return;
    const route = context.mux.route(path);
    if (!isGranted(context.runtime, grant) || route?.server.serveFetch === undefined) {
      const code = codeOf(
        context,
        "fetch",
        isGranted(context.runtime, grant) ? "notFound" : "unauthorized",
      );
      if (connection.capabilities.resetCodes) return exchange.abort(code);
      // A bare end would be a group without frames.
      exchange.post(tornFrame(traits.timestamps));
      return exchange.leave(code);
    }
    const left = new AbortController();
    const ended = Promise.withResolvers<void>();
    const group = new GroupWriter(asked.group, NO_HEAD, {
      runtime: context.runtime,
      timestamps: traits.timestamps,
      resets: connection.capabilities.resetCodes,
      buffers: context.mux.buffers,
      errorOf: (error) => moqErrorOf(context, "fetch", error),
      codeOf: (reason) => codeOf(context, "fetch", reason),
      onEnd: (_, error) => {
        if (error !== undefined) left.abort(error);
        ended.resolve();
      },
    });
    group.attach(exchange.writable);
    const expiring = watchGrant(context.runtime, grant, () => group.abort("unauthorized"));
    const onOver = () => group.fail(over.reason);
    over.addEventListener("abort", onOver, { once: true });
    // Data after FETCH has no meaning; a reset means that the subscriber gave up.
    exchange.reader.varint().catch((error) => group.fail(moqErrorOf(context, "fetch", error)));
    const { track: name, group: sequence, priority } = asked;
    void this.#serveFetch(route, { path, name, sequence, priority, signal: left.signal }, group);
    await ended.promise;
    expiring[Symbol.dispose]();
    over.removeEventListener("abort", onOver);
  }

  async #serveFetch(route: MuxRoute, request: FetchRequest, group: GroupWriter): Promise<void> {
    try {
      await route.server.serveFetch!(request, group);
      await group.close();
    } catch (error) {
      if (!(error instanceof MoqError) && !request.signal.aborted) this.#context.report(error);
      group.abort(error instanceof MoqError ? error.reason : "internal");
    }
  }

  async #track(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const asked = decodeTrackRequest(await exchange.reader.required("TRACK"));
    const path = receivedPath(asked.path);
    const grant = await decide(context, path, "subscribe");
    if (context.signal.aborted) return;
    const route = context.mux.route(path);
    const refuse = (reason: MoqErrorName) => exchange.abort(codeOf(context, "subscribe", reason));
    if (!isGranted(context.runtime, grant)) return refuse("unauthorized");
    if (route === undefined) return refuse("notFound");
    try {
      const info = await route.server.trackInfo?.(asked.track) ?? {};
      await exchange.write(encodeTrackInfo(toWireLatency({ ...TRACK_INFO, ...info })));
      await exchange.end();
    } catch (error) {
      if (context.signal.aborted || error instanceof StreamError) return;
      if (!(error instanceof MoqError)) context.report(error);
      refuse(error instanceof MoqError ? error.reason : "internal");
    }
  }
}
