/** The publisher of a session: serves subscriptions, announce interests, fetches and track info. */
import { untilAborted } from "../../base/wait.ts";
import { StreamError } from "../../errors.ts";
import { openUnidirectional } from "../../transport/direct.ts";
import { GroupWriter } from "../track/group_writer.ts";
import type { FetchRequest, MuxRoute } from "../track/mux.ts";
import { fetchOrderOf, TrackWriter, type TrackWriterLink } from "../track/track_writer.ts";
import { MoqError, type MoqErrorName } from "../wire/errors.ts";
import {
  decodeAnnounceInterest,
  decodeFetch,
  decodeSubscribe,
  decodeSubscribeUpdate,
  decodeTrackRequest,
  encodeSubscribeResponse,
  encodeTrackInfo,
  fromWireLatency,
  type SubscribeFields,
  type SubscribeResponse,
  toWireLatency,
} from "../wire/messages.ts";
import { framesOf } from "../wire/frames.ts";
import { receivedPath } from "../wire/path.ts";
import { watchGrant } from "./access.ts";
import { announceTo, rejectAnnounce } from "./announce.ts";
import {
  codeOf,
  detectFamily,
  isViolation,
  moqErrorOf,
  requestGrant,
  type SessionContext,
} from "./context.ts";
import { type Exchange, OpenRequests } from "./exchange.ts";
import { callHandler, groupWeight, serveTrack, trackLinkParts } from "./track_service.ts";

const NO_HEAD = new Uint8Array(0);

const TRACK_INFO = { priority: 0, ordered: false, maxLatencyMs: 0, timescale: 1_000 } as const;

/** The publisher of a session: serves the requests of the peer. */
export class Publisher {
  readonly #context: SessionContext;
  /** Ids in use, including subscriptions that `authorize` has not decided on yet. */
  readonly #ids = new Set<number>();
  readonly #tracks = new Set<TrackWriter>();
  readonly #requests: OpenRequests;

  constructor(context: SessionContext) {
    this.#context = context;
    this.#requests = new OpenRequests(context.limits.maxRequests);
  }

  get size(): number {
    return this.#ids.size;
  }

  /** Ends all subscriptions with the session. */
  end(error: unknown): void {
    for (const track of this.#tracks) track.fail(error);
    this.#ids.clear();
  }

  /** Serves one SUBSCRIBE; resolves when the subscription has ended. */
  async subscribe(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const { traits, limits, signal } = context;
    const asked = decodeSubscribe(await exchange.reader.required("SUBSCRIBE"), traits);
    const { id, path: wirePath, track: name, ...rest } = asked;
    detectFamily(context, wirePath);
    const fields = this.#fieldsOf(rest);
    if (exchange.rejection !== undefined) return this.#reject(exchange, exchange.rejection);
    if (this.#ids.has(id)) return this.#reject(exchange, "duplicateId");
    if (this.#ids.size >= limits.maxSubscriptions) {
      const message = `The session has ${limits.maxSubscriptions} subscriptions already`;
      throw new MoqError("session", "tooManySubscribes", message);
    }
    if ((fields.endGroup ?? Infinity) < (fields.startGroup ?? 0)) {
      return this.#reject(exchange, "invalidRange");
    }
    const path = receivedPath(wirePath);
    this.#ids.add(id);
    try {
      const { grant, rejection } = await requestGrant(context, path, "subscribe");
      if (signal.aborted) return;
      if (rejection !== undefined) return this.#reject(exchange, rejection);
      const route = context.mux.route(path);
      if (route === undefined) return this.#reject(exchange, "notFound");
      const { params } = route;
      const track: TrackWriter = new TrackWriter(
        this.#linkOf(exchange, (error) => track.fail(error)),
        { path, name, id, params },
        fields,
      );
      this.#tracks.add(track);
      void this.#readUpdates(exchange, track);
      await serveTrack(context, track, { route, grant });
      this.#tracks.delete(track);
    } finally {
      this.#ids.delete(id);
    }
  }

  /** Serves an announce interest. */
  announce(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "announce", () => this.#announce(exchange));
  }

  /** Serves FETCH. */
  fetch(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "fetch", () => this.#fetch(exchange));
  }

  /** Serves TRACK. */
  track(exchange: Exchange): Promise<void> {
    return this.#bounded(exchange, "subscribe", () => this.#track(exchange));
  }

  async #readUpdates(exchange: Exchange, track: TrackWriter): Promise<void> {
    const context = this.#context;
    try {
      const { reader } = exchange;
      while (await reader.begun()) {
        const body = await reader.required("SUBSCRIBE_UPDATE");
        track.update(this.#fieldsOf(decodeSubscribeUpdate(body, context.traits)));
      }
      // Ignored if the track has already ended.
      track.fail(new MoqError("subscribe", "cancelled", "The subscriber left", { by: "remote" }));
      await exchange.end();
    } catch (error) {
      track.fail(moqErrorOf(context, "subscribe", error));
      exchange.abort(codeOf(context, "subscribe", "cancelled"));
      if (isViolation(error)) context.violated(error);
    }
  }

  /** Converts the fields of a subscriber. Versions without a latency field have no limit. */
  #fieldsOf(fields: SubscribeFields): SubscribeFields {
    const { family, traits } = this.#context;
    return traits.subscribeRange ? fromWireLatency(fields, family) : fields;
  }

  #linkOf(exchange: Exchange, fail: (error: unknown) => void): TrackWriterLink {
    const context = this.#context;
    const { traits, connection } = context;
    const respond = (response: SubscribeResponse) => {
      const message = encodeSubscribeResponse(response, traits);
      if (message === undefined || exchange.post(message)) return;
      const text = "The subscriber does not read the responses";
      fail(new MoqError("subscribe", "tooFarBehind", text));
      exchange.abort(codeOf(context, "subscribe", "tooFarBehind"));
    };
    let isOk = false;
    return {
      ...trackLinkParts(context),
      weigh: groupWeight(context),
      open: (sendOrder) => openUnidirectional(connection, { sendOrder }),
      accept(fields, first) {
        if (!isOk) {
          isOk = true;
          const startGroup = first ?? fields.startGroup;
          respond({ type: "ok", fields: toWireLatency({ ...fields, startGroup }) });
        }
        if (first !== undefined) respond({ type: "start", group: first });
      },
      drop({ first, last }, reason) {
        if (isDeafToDrops(context)) return;
        // gomoqt counts from one here, as in SUBSCRIBE; moq-rs does not.
        const from = context.family === "gomoqt" ? 1 : 0;
        const code = codeOf(context, "group", reason);
        respond({ type: "drop", start: first + from, end: last + from, code });
      },
      end: async (next, reason) => {
        if (reason !== undefined) return this.#reject(exchange, reason, isOk ? next : undefined);
        respond({ type: "end", group: next });
        await exchange.end();
      },
    };
  }

  /**
   * Ends a subscription with a code: by a reset or, on a transport without reset codes, by a drop
   * of all later groups.
   *
   * @param next The number after the last group, if the subscription was accepted.
   */
  #reject(exchange: Exchange, reason: MoqErrorName, next?: number): void {
    const context = this.#context;
    const { connection, traits } = context;
    const code = codeOf(context, "subscribe", reason);
    if (connection.capabilities.resetCodes) return exchange.abort(code);
    if (next !== undefined && isDeafToDrops(context)) return exchange.leave(code);
    // A range that ends before its start tells the peer that no group is dropped. In moq-lite-05, a
    // stream that ends without END means a fault of the publisher.
    const start = Math.max(next ?? 0, 1);
    const last: SubscribeResponse[] = [
      { type: "drop", start, end: start - 1, code },
      { type: "end", group: next ?? 0 },
    ];
    for (const response of last) {
      const message = encodeSubscribeResponse(response, traits);
      if (message !== undefined) exchange.post(message);
    }
    exchange.leave(code);
  }

  #bounded(
    exchange: Exchange,
    scope: "announce" | "fetch" | "subscribe",
    serve: () => Promise<void>,
  ): Promise<void> {
    const reject = (reason: MoqErrorName) => exchange.abort(codeOf(this.#context, scope, reason));
    return this.#requests.run(exchange, { serve, reject });
  }

  async #announce(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const body = await exchange.reader.required("announce interest");
    const asked = decodeAnnounceInterest(body, context.traits);
    detectFamily(context, asked.prefix);
    const below = receivedPath(asked.prefix);
    const { grant, rejection } = await requestGrant(context, below, "announce");
    if (context.signal.aborted) return;
    if (rejection !== undefined) return await rejectAnnounce(context, exchange, rejection);
    // Without `await`, this call ends now, and takes no memory while the peer follows.
    return announceTo(context, exchange, { ...asked, below, grant });
  }

  async #fetch(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const { traits, connection } = context;
    const asked = decodeFetch(await exchange.reader.required("FETCH"));
    detectFamily(context, asked.path);
    const path = receivedPath(asked.path);
    const { grant, rejection } = await requestGrant(context, path, "subscribe");
    if (context.signal.aborted) return;
    const route = context.mux.route(path);
    if (rejection !== undefined || route === undefined || !canFetch(route)) {
      const code = codeOf(context, "fetch", rejection ?? "notFound");
      if (connection.capabilities.resetCodes) return exchange.abort(code);
      // A plain end would be a group without frames.
      exchange.post(framesOf(traits).torn);
      return exchange.leave(code);
    }
    const left = new AbortController();
    const ended = Promise.withResolvers<void>();
    const group = new GroupWriter(asked.group, NO_HEAD, {
      runtime: context.runtime,
      frames: framesOf(traits),
      resets: connection.capabilities.resetCodes,
      buffers: context.mux.buffers,
      errorOf: (error) => moqErrorOf(context, "fetch", error),
      codeOf: (reason) => codeOf(context, "fetch", reason),
      onEnd: (_, error) => {
        if (error !== undefined) left.abort(error);
        ended.resolve();
      },
    });
    const { track: name, group: sequence, priority } = asked;
    group.sendOrder = fetchOrderOf(priority);
    group.attach(exchange.writable);
    using _expiring = watchGrant(context.runtime, grant, () => group.abort("unauthorized"));
    using _leaving = onLeft(context, exchange, (error) => group.fail(error));
    const request = { path, name, sequence, priority, signal: left.signal };
    void this.#serveFetch(route, { ...request, session: context.session }, group);
    await ended.promise;
  }

  async #serveFetch(route: MuxRoute, request: FetchRequest, group: GroupWriter): Promise<void> {
    try {
      if (route.server.serveFetch === undefined) await this.#serveOneGroup(route, request, group);
      else await route.server.serveFetch(request, group);
      await group.close();
    } catch (error) {
      if (!(error instanceof MoqError) && !request.signal.aborted) this.#context.report(error);
      group.abort(error instanceof MoqError ? error.reason : "internal");
    }
  }

  /** Lets a subscription handler respond to a fetch, with a track whose range is the group. */
  async #serveOneGroup(route: MuxRoute, request: FetchRequest, group: GroupWriter): Promise<void> {
    const { path, name, sequence, priority, signal } = request;
    let isOpened = false;
    const track = new TrackWriter(
      {
        ...trackLinkParts(this.#context),
        fetched: group,
        weigh: () => undefined,
        open: () => Promise.reject(new TypeError("Cannot open group: a fetch serves one group")),
        accept: (_fields, first) => void (isOpened ||= first !== undefined),
        drop({ first, last }, reason) {
          if (first <= sequence && sequence <= last) group.abort(reason);
        },
        async end(_last, reason) {
          if (isOpened && reason === undefined) return await group.close();
          group.abort(reason ?? "notFound");
        },
      },
      { path, name, id: -1, params: route.params },
      { priority, ordered: true, maxLatencyMs: 0, startGroup: sequence, endGroup: sequence },
    );
    const onLeft = () => track.fail(signal.reason);
    signal.addEventListener("abort", onLeft, { once: true });
    // A handler may continue after the group, for later ones.
    await Promise.race([callHandler(track, route), group.closed]).finally(() =>
      track.fail(new MoqError("fetch", "cancelled", "The fetch has ended"))
    );
    if (!isOpened) throw new MoqError("fetch", "notFound", `There is no group ${sequence}`);
  }

  async #track(exchange: Exchange): Promise<void> {
    const context = this.#context;
    const asked = decodeTrackRequest(await exchange.reader.required("TRACK"));
    const path = receivedPath(asked.path);
    const { rejection } = await requestGrant(context, path, "subscribe");
    if (context.signal.aborted) return;
    const route = context.mux.route(path);
    const reject = (reason: MoqErrorName) => exchange.abort(codeOf(context, "subscribe", reason));
    if (rejection !== undefined) return reject(rejection);
    if (route === undefined) return reject("notFound");
    const left = new AbortController();
    using _leaving = onLeft(context, exchange, (error) => left.abort(error));
    try {
      const { signal } = left;
      const { session } = context;
      const asking = Promise.try(() => route.server.trackInfo?.(asked.track, { signal, session }));
      // A handler may ignore the signal.
      const info = await untilAborted(asking, signal) ?? {};
      await exchange.write(encodeTrackInfo(toWireLatency({ ...TRACK_INFO, ...info })));
      // A stream whose end is not read counts against the peer's streams until the session ends.
      exchange.leave(codeOf(context, "subscribe", "cancelled"));
    } catch (error) {
      if (context.signal.aborted || error instanceof StreamError) return;
      if (left.signal.aborted) return reject("cancelled");
      if (!(error instanceof MoqError)) context.report(error);
      reject(error instanceof MoqError ? error.reason : "internal");
    }
  }
}

/**
 * Calls back when the peer resets a request, or the session closes. A peer that only ends its
 * direction may still wait for the response, and data after the request has no meaning.
 */
function onLeft(
  context: SessionContext,
  { reader }: Exchange,
  call: (error: unknown) => void,
): Disposable {
  const { signal, connection } = context;
  const onOver = () => call(signal.reason);
  signal.addEventListener("abort", onOver, { once: true });
  reader.varint().then((data) => {
    // Without reset codes, a reset looks like the end.
    if (data !== undefined || connection.capabilities.resetCodes) return;
    call(new MoqError("fetch", "cancelled", "The peer left", { by: "remote" }));
  }, (error) => call(moqErrorOf(context, "fetch", error)));
  return { [Symbol.dispose]: () => signal.removeEventListener("abort", onOver) };
}

function canFetch({ server }: MuxRoute): boolean {
  return server.serveFetch !== undefined || server.servesFetches === true;
}

/**
 * Returns true if an accepted subscriber reads nothing but the end of the stream. The JavaScript of
 * moq-rs does so in moq-lite-04, and would never see the end after another message.
 */
function isDeafToDrops({ traits, family }: SessionContext): boolean {
  return traits.responses === "ok-drop" && family === "moq-lite";
}
