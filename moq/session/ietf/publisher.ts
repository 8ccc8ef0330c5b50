/** The publisher's part of a session in the IETF's drafts: subscriptions of the peer. */
import { Signal } from "../../../base/signal.ts";
import { within } from "../../../base/wait.ts";
import { ProtocolError } from "../../../errors.ts";
import { openUnidirectional } from "../../../transport/direct.ts";
import type { MuxRoute } from "../../track/mux.ts";
import { TrackWriter } from "../../track/track_writer.ts";
import { doneCode, MoqError, type MoqErrorName } from "../../wire/errors.ts";
import {
  decodeDraftSubscribe,
  decodeRequestUpdate,
  DraftType,
  encodePublishDone,
  encodeRequestOk,
  encodeSubscribeOk,
  readDraftMessage,
  tokensOf,
  unexpected,
} from "../../wire/ietf/messages.ts";
import { isReserved } from "../../wire/ietf/names.ts";
import type { DraftParameters } from "../../wire/ietf/parameters.ts";
import type { SubscribeFields } from "../../wire/messages.ts";
import type { BroadcastPath } from "../../wire/path.ts";
import type { MoqGrant } from "../access.ts";
import { moqErrorOf, requestGrant } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { groupWeight, serveTrack, trackLinkParts } from "../track_service.ts";
import type { DraftPeer } from "./peer.ts";

/** The longest time for which a subscription waits for its broadcast, in milliseconds. */
export const MAX_RENDEZVOUS_MS = 30_000;

/** The priority of a subscription without one, in the drafts' numbers. */
const DEFAULT_PRIORITY = 128;

/** Serves the subscriptions of the peer. */
export class DraftPublisher {
  readonly #peer: DraftPeer;
  readonly #subscriptions = new Set<ServedTrack>();
  #nextAlias = 0;

  constructor(peer: DraftPeer) {
    this.#peer = peer;
  }

  get size(): number {
    return this.#subscriptions.size;
  }

  /** Ends all subscriptions with the session. */
  end(error: unknown): void {
    for (const subscription of this.#subscriptions) subscription.fail(error);
    this.#subscriptions.clear();
  }

  /** Serves one SUBSCRIBE; resolves when the subscription has ended. */
  async subscribe(exchange: Exchange, body: Uint8Array): Promise<void> {
    const peer = this.#peer;
    const { context, draft } = peer;
    const { requestId, path, track: name, parameters } = decodeDraftSubscribe(body, draft);
    peer.takeId(requestId);
    const tokens = tokensOf(parameters);
    const reject = (reason: MoqErrorName, text: string) => peer.reject(exchange, reason, text);
    if (exchange.rejection !== undefined) return reject(exchange.rejection, "There is no room");
    if (peer.isLeaving) return reject("goingAway", "The session is ending");
    if (path === undefined || name === undefined || isReserved(path)) {
      return reject("notFound", "There is no such broadcast");
    }
    if (this.#subscriptions.size >= context.limits.maxSubscriptions) {
      return reject(
        "sessionLimit",
        `The session has ${context.limits.maxSubscriptions} subscriptions already`,
      );
    }
    if (draft.oneSubscription && this.#isSubscribed(path, name)) {
      return reject("duplicateId", "The track is subscribed already");
    }
    if (parameters.ranges !== undefined) return reject("notSupported", "There are no filters");
    const served = new ServedTrack(peer, exchange, {
      path,
      name,
      alias: this.#nextAlias++,
      parameters,
    });
    this.#subscriptions.add(served);
    try {
      const { grant, rejection } = await requestGrant(context, path, "subscribe", tokens);
      if (context.signal.aborted) return;
      if (rejection !== undefined) return reject(rejection, "The subscription is not allowed");
      await served.run(grant);
    } finally {
      this.#subscriptions.delete(served);
    }
  }

  #isSubscribed(path: BroadcastPath, name: string): boolean {
    return [...this.#subscriptions].some((served) => served.path === path && served.name === name);
  }
}

/** A subscription of the peer. */
class ServedTrack {
  readonly path: BroadcastPath;
  readonly name: string;
  readonly #peer: DraftPeer;
  readonly #exchange: Exchange;
  readonly #alias: number;
  #parameters: DraftParameters;
  /** The track while it is served: not while the subscriber wants no objects. */
  #track: TrackWriter | undefined = undefined;
  #isOk = false;
  #isOver = false;
  /** The opened data streams. */
  #streams = 0;
  /** Notifies of a change by the subscriber, and of the end. */
  readonly #changes = new Signal();

  constructor(
    peer: DraftPeer,
    exchange: Exchange,
    about: {
      readonly path: BroadcastPath;
      readonly name: string;
      readonly alias: number;
      readonly parameters: DraftParameters;
    },
  ) {
    this.#peer = peer;
    this.#exchange = exchange;
    this.path = about.path;
    this.name = about.name;
    this.#alias = about.alias;
    this.#parameters = about.parameters;
  }

  /** Ends the subscription with the session, or because the subscriber left. */
  fail(error: unknown): void {
    this.#isOver = true;
    this.#track?.fail(error);
    this.#changes.notify();
  }

  /** Serves the track until it ends. */
  async run(grant: MoqGrant): Promise<void> {
    void this.#readUpdates();
    const route = await this.#route();
    if (this.#isOver) return;
    if (route === undefined) {
      const hasWaited = (this.#parameters.rendezvousMs ?? 0) > 0;
      const reason = hasWaited ? "timeout" : "notFound";
      return this.#peer.reject(this.#exchange, reason, "There is no such broadcast");
    }
    while (!this.#isOver) {
      if (this.#parameters.forward === false) {
        this.#accept(undefined);
        await this.#change(route);
      } else await this.#serve(route, grant);
    }
  }

  /** Finds the broadcast, and waits for it as long as the subscriber allows. */
  async #route(): Promise<MuxRoute | undefined> {
    const { mux, runtime } = this.#peer.context;
    const { rendezvousMs = 0 } = this.#parameters;
    const route = mux.route(this.path);
    if (route !== undefined || rendezvousMs === 0) return route;
    using _watch = mux.watch(this.path, ({ path, active }) => {
      if (active && path === this.path) this.#changes.notify();
    });
    const timeoutMs = Math.min(rendezvousMs, MAX_RENDEZVOUS_MS);
    await within(runtime, this.#found(), { timeoutMs }).catch(() => {});
    return mux.route(this.path);
  }

  /** Waits until there is a broadcast, or the subscriber has left. */
  async #found(): Promise<void> {
    const { mux } = this.#peer.context;
    while (!this.#isOver && mux.route(this.path) === undefined) await this.#changes.changed();
  }

  /** Waits until the subscriber wants objects, or the broadcast ends. */
  async #change({ signal }: MuxRoute): Promise<void> {
    const changed = this.#changes.changed();
    const onWithdrawn = () => {
      this.#done("notFound", "The broadcast has ended");
      this.#changes.notify();
    };
    if (signal.aborted) return onWithdrawn();
    signal.addEventListener("abort", onWithdrawn, { once: true });
    await changed;
    signal.removeEventListener("abort", onWithdrawn);
  }

  async #serve(route: MuxRoute, grant: MoqGrant): Promise<void> {
    const { context } = this.#peer;
    const { connection } = context;
    const track: TrackWriter = new TrackWriter(
      {
        ...trackLinkParts(context),
        weigh: groupWeight(context),
        open: async (sendOrder) => {
          const stream = await openUnidirectional(connection, { sendOrder });
          this.#streams++;
          return stream;
        },
        accept: () => this.#accept(track),
        // The drafts have no message for groups that will not be sent.
        drop: () => {},
        end: async (_next, reason) => {
          if (reason !== undefined && !this.#isOk) {
            this.#isOver = true;
            this.#peer.reject(this.#exchange, reason, "The track cannot be served");
          } else await this.#done(reason, reason ?? "");
        },
      },
      { path: this.path, name: this.name, id: this.#alias, params: route.params },
      this.#fields(),
    );
    track.groupsBack = groupsBackOf(this.#parameters);
    this.#track = track;
    await serveTrack(context, track, { route, grant });
    this.#track = undefined;
  }

  #accept(track: TrackWriter | undefined): void {
    if (this.#isOk) return;
    this.#isOk = true;
    const { draft } = this.#peer;
    // A subscriber that requests older objects in addition would wait for them.
    const largest = this.#parameters.fill === undefined ? track?.largest : undefined;
    this.#post(encodeSubscribeOk({ alias: this.#alias, parameters: { largest } }, draft));
  }

  async #done(reason: MoqErrorName | undefined, text: string): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    const done = { code: doneCode(reason), streams: this.#streams, reason: text };
    this.#post(encodePublishDone(done));
    await this.#exchange.end();
  }

  #post(message: Uint8Array): void {
    if (this.#exchange.post(message)) return;
    const text = "The subscriber does not read the responses";
    this.fail(new MoqError("subscribe", "tooFarBehind", text));
    this.#exchange.abort(this.#peer.streamCode("tooFarBehind"));
  }

  /** Reads the messages of the subscriber until it leaves. */
  async #readUpdates(): Promise<void> {
    const { context, endWithdraws } = this.#peer;
    const { reader } = this.#exchange;
    try {
      for (let message; (message = await readDraftMessage(reader)) !== undefined;) {
        if (message.type === DraftType.goaway) continue;
        if (message.type !== DraftType.requestUpdate) throw unexpected(message, "REQUEST_UPDATE");
        this.#update(message.body);
      }
      if (!endWithdraws && !this.#isOver) return;
      this.fail(new MoqError("subscribe", "cancelled", "The subscriber left", { by: "remote" }));
      await this.#exchange.end();
    } catch (error) {
      this.fail(moqErrorOf(context, "subscribe", error));
      this.#peer.failed(this.#exchange, error);
    }
  }

  #update(body: Uint8Array): void {
    const { draft } = this.#peer;
    const { requestId, parameters } = decodeRequestUpdate(body, draft);
    this.#peer.takeId(requestId);
    tokensOf(parameters);
    if (parameters.prefix !== undefined) {
      throw new ProtocolError("Expected an update of a subscription, received one of a prefix");
    }
    this.#parameters = { ...this.#parameters, ...parameters };
    this.#post(encodeRequestOk({}, draft));
    const track = this.#track;
    if (this.#parameters.forward === false) {
      track?.fail(new MoqError("subscribe", "cancelled", "The subscriber has paused the track"));
    } else track?.update(this.#fields());
    this.#changes.notify();
  }

  #fields(): SubscribeFields {
    const { priority = DEFAULT_PRIORITY, order, filter } = this.#parameters;
    const { subgroupTimeoutMs, objectTimeoutMs } = this.#parameters;
    const range = filter?.from === "start" ? filter : undefined;
    return {
      priority: 255 - priority,
      ordered: order === "ascending",
      maxLatencyMs: subgroupTimeoutMs ?? objectTimeoutMs ?? 0,
      startGroup: range?.start.group,
      endGroup: range?.endGroup,
    };
  }
}

/** The first group relative to the next one: 1 is the newest one, which has begun already. */
function groupsBackOf({ filter }: DraftParameters): number {
  // A subscription to the next object begins with its group, without which it cannot be decoded.
  return filter?.from === "newest" ? filter.groups : 1;
}
