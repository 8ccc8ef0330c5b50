/** Tracks that the peer offers with PUBLISH in the IETF's drafts. */
import {
  closeOnAbort,
  type MoqSubscribeOptions,
  type TrackReader,
} from "../../track/track_reader.ts";
import {
  decodeDraftPublish,
  encodeRequestOk,
  type PublishMessage,
  tokensOf,
} from "../../wire/ietf/messages.ts";
import type { DraftParameters } from "../../wire/ietf/parameters.ts";
import type { BroadcastPath } from "../../wire/path.ts";
import { moqErrorOf } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import type { DraftDiscovery } from "./discovery.ts";
import type { DraftPeer } from "./peer.ts";
import type { ReceivedTrack } from "./received_track.ts";
import {
  createReader,
  type DraftSubscriber,
  followTrack,
  parametersOf,
  RequestUpdates,
} from "./subscriber.ts";

/** An offered track. */
interface Offer {
  readonly received: ReceivedTrack;
  readonly updates: RequestUpdates;
  readonly id: number;
}

/**
 * The tracks that the peer offers. Each announces its broadcast, and the peer sends nothing until
 * this side subscribes.
 */
export class DraftOffers {
  readonly #peer: DraftPeer;
  readonly #subscriber: DraftSubscriber;
  readonly #discovery: DraftDiscovery;
  readonly #offers = new Map<string, Offer>();

  constructor(peer: DraftPeer, subscriber: DraftSubscriber, discovery: DraftDiscovery) {
    this.#peer = peer;
    this.#subscriber = subscriber;
    this.#discovery = discovery;
  }

  /** Subscribes to an offered track; `undefined` if it is not offered, or subscribed already. */
  subscribe(
    path: BroadcastPath,
    name: string,
    options: MoqSubscribeOptions,
  ): TrackReader | undefined {
    const offer = this.#offers.get(keyOf(path, name));
    if (offer === undefined || offer.received.reader !== undefined) return undefined;
    const { id, received, updates } = offer;
    const track = createReader(this.#peer, { path, name, id }, {
      options,
      update: (parameters) => updates.send(parameters),
      leave: () => {
        received.reader = undefined;
        updates.send({ forward: false }).catch(() => {});
      },
    });
    received.reader = track;
    const { order: _order, ...parameters } = parametersOf(track.subscription);
    updates.send({ ...parameters, forward: true }).catch(() => {});
    track.accept(undefined);
    this.#subscriber.add(track);
    closeOnAbort(track, options.signal);
    return track;
  }

  /** Serves PUBLISH until the publisher ends the track. */
  async serve(exchange: Exchange, body: Uint8Array): Promise<void> {
    const peer = this.#peer;
    const offered = decodeDraftPublish(body, peer.draft);
    peer.takeId(offered.requestId);
    const tokens = tokensOf(offered.parameters);
    const { path, track: name } = offered;
    if (path === undefined || name === undefined) {
      return peer.reject(exchange, "uninterested", "Path and name must be UTF-8 without slashes");
    }
    if (offered.isUnsupported) {
      return peer.reject(exchange, "unsupportedExtension", "The track requires an extension");
    }
    const announced = await this.#discovery.admit(exchange, path, tokens);
    if (announced === undefined) return;
    using _announced = announced;
    const key = keyOf(path, name);
    if (this.#offers.has(key)) {
      return peer.reject(exchange, "duplicateId", "The track is published already");
    }
    const { received, remove } = this.#subscriber.register(offered.alias);
    const updates = new RequestUpdates(peer, exchange);
    this.#offers.set(key, { received, updates, id: offered.requestId });
    try {
      this.#accept(exchange, offered, updates);
      await followTrack(peer, exchange, { name: `${path} ${name}`, received, updates });
      await exchange.end();
      await received.reader?.closed;
    } catch (error) {
      received.reader?.fail(moqErrorOf(peer.context, "subscribe", error));
      throw error;
    } finally {
      remove();
      this.#offers.delete(key);
    }
  }

  /** Accepts an offer, but no objects yet. */
  #accept(exchange: Exchange, { parameters }: PublishMessage, updates: RequestUpdates): void {
    const { draft } = this.#peer;
    const silent: DraftParameters = { forward: false };
    exchange.post(encodeRequestOk(draft.publishOkForwards ? silent : {}, draft));
    const isForwarding = parameters.forward !== false;
    if (isForwarding && !draft.publishOkForwards) updates.send(silent).catch(() => {});
  }
}

function keyOf(path: BroadcastPath, name: string): string {
  // The number tells a name with a slash apart from a longer path.
  return `${path.length} ${path} ${name}`;
}
