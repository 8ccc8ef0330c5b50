/** The parts of a session in the IETF's drafts 18, 20 and 22. */
import { ProtocolError } from "../../../errors.ts";
import type { BidirectionalStream } from "../../../transport/connection.ts";
import type { AnnouncementReader } from "../../track/announcement.ts";
import type { GroupReader } from "../../track/group_reader.ts";
import type { MoqSubscribeOptions, TrackReader } from "../../track/track_reader.ts";
import type { MoqErrorName } from "../../wire/errors.ts";
import {
  decodeRequestId,
  DraftStream,
  DraftType,
  readDraftBody,
} from "../../wire/ietf/messages.ts";
import { isSubgroup } from "../../wire/ietf/subgroup.ts";
import { LEADING_INTEGERS } from "../../wire/integers.ts";
import type { MessageReader } from "../../wire/message_reader.ts";
import type { TrackInfoMessage } from "../../wire/messages.ts";
import type { BroadcastPath } from "../../wire/path.ts";
import type { DraftTraits } from "../../wire/versions.ts";
import { type SessionContext, unsupported } from "../context.ts";
import type { DialectEvents, OwnSetup, SessionDialect } from "../dialect.ts";
import { type Exchange, OpenRequests } from "../exchange.ts";
import { MoqIncomingStreams, type StreamHandlers } from "../incoming_streams.ts";
import { DraftAnnouncer } from "./announcer.ts";
import { DraftControl } from "./control.ts";
import { DraftDiscovery } from "./discovery.ts";
import { DraftOffers } from "./offers.ts";
import { DraftPeer } from "./peer.ts";
import { DraftPublisher } from "./publisher.ts";
import { DraftSubscriber } from "./subscriber.ts";

/** Serves requests of one type. */
interface RequestServer {
  serve(exchange: Exchange, body: Uint8Array): Promise<void>;
}

/** The requests that this side rejects. */
const UNSUPPORTED: ReadonlySet<number> = new Set([
  DraftType.fetch,
  DraftType.trackStatus,
  DraftType.subscribeTracks,
]);

/** The IETF's drafts on an open connection. */
export class DraftDialect implements SessionDialect, StreamHandlers {
  readonly integers = LEADING_INTEGERS;
  readonly hasSetupStream = true;

  readonly #peer: DraftPeer;
  readonly #control: DraftControl;
  readonly #subscriber: DraftSubscriber;
  readonly #discovery: DraftDiscovery;
  readonly #offers: DraftOffers;
  readonly #announcer: DraftAnnouncer;
  readonly #publisher: DraftPublisher;
  readonly #incoming: MoqIncomingStreams;
  /** The servers of the peer's requests besides subscriptions, by type. */
  readonly #servers: ReadonlyMap<number, RequestServer>;
  readonly #requests: OpenRequests;
  #hasControl = false;

  /** Starts without requests. */
  constructor(context: SessionContext, draft: DraftTraits, events: DialectEvents) {
    const peer = this.#peer = new DraftPeer(context, draft);
    this.#control = new DraftControl(peer, events);
    this.#subscriber = new DraftSubscriber(peer);
    this.#discovery = new DraftDiscovery(peer);
    this.#offers = new DraftOffers(peer, this.#subscriber, this.#discovery);
    this.#announcer = new DraftAnnouncer(peer);
    this.#publisher = new DraftPublisher(peer);
    this.#servers = new Map<number, RequestServer>([
      [DraftType.publishNamespace, this.#discovery],
      [DraftType.subscribeNamespace, this.#announcer],
      [DraftType.publish, this.#offers],
    ]);
    this.#requests = new OpenRequests(context.limits.maxRequests);
    this.#incoming = new MoqIncomingStreams(context, this);
  }

  get tracks(): readonly TrackReader[] {
    return this.#subscriber.tracks;
  }

  get served(): number {
    return this.#publisher.size;
  }

  takeUnidirectional(): void {
    this.#incoming.takeUnidirectional();
  }

  sendSetup(setup: OwnSetup): Promise<void> {
    return this.#control.open(setup);
  }

  takeBidirectional(streams: AsyncIterator<BidirectionalStream>): Promise<void> {
    this.#announcer.start();
    return this.#incoming.takeBidirectional(streams);
  }

  announce(
    prefix: BroadcastPath,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader> {
    return this.#discovery.announce(prefix, options);
  }

  async subscribe(
    path: BroadcastPath,
    name: string,
    options: MoqSubscribeOptions,
  ): Promise<TrackReader> {
    return this.#offers.subscribe(path, name, options) ??
      await this.#subscriber.subscribe(path, name, options);
  }

  fetch(): Promise<GroupReader> {
    return Promise.reject(unsupported(this.#peer.context, "fetch"));
  }

  trackInfo(): Promise<TrackInfoMessage> {
    return Promise.reject(unsupported(this.#peer.context, "ask for the properties of a track"));
  }

  async goaway(
    uri: string,
    { timeoutMs = 0 }: { readonly timeoutMs?: number | undefined },
  ): Promise<boolean> {
    await this.#control.goaway(uri, Number.isFinite(timeoutMs) ? Math.ceil(timeoutMs) : 0);
    return true;
  }

  end(error: unknown): void {
    this.#peer.end(error);
    this.#subscriber.end(error);
    this.#discovery.end(error);
    this.#announcer.end();
    this.#publisher.end(error);
  }

  async request(type: number | undefined, exchange: Exchange): Promise<void> {
    // The peer withdrew the request before its type.
    if (type === undefined) return exchange.leave(this.#peer.streamCode("cancelled"));
    const body = await readDraftBody(exchange.reader);
    await this.#peer.ready;
    try {
      await this.#serve(type, exchange, body);
    } catch (error) {
      exchange.abort(this.#peer.streamCode("cancelled"));
      throw error;
    }
  }

  data(
    type: number,
    reader: MessageReader,
    cancel: (reason: MoqErrorName) => void,
  ): void | Promise<void> {
    if (isSubgroup(type)) return this.#subscriber.take(type, reader, cancel);
    if (type === DraftType.setup) {
      if (this.#hasControl) throw new ProtocolError("Expected one SETUP, received a second one");
      this.#hasControl = true;
      return this.#control.read(reader);
    }
    // Objects of a fetch that this side has not requested, or padding.
    if (type === DraftStream.fetch || type === DraftStream.padding) return cancel("cancelled");
    throw new ProtocolError(`Expected a known stream, received one of type ${type}`);
  }

  #serve(type: number, exchange: Exchange, body: Uint8Array): Promise<void> | void {
    const peer = this.#peer;
    if (type === DraftType.subscribe) return this.#publisher.subscribe(exchange, body);
    if (UNSUPPORTED.has(type)) {
      peer.takeId(decodeRequestId(body));
      return peer.reject(exchange, "notSupported", "The request is not supported");
    }
    const server = this.#servers.get(type);
    if (server === undefined) {
      throw new ProtocolError(`Expected a request, received a message of type ${type}`);
    }
    return this.#requests.run(exchange, {
      serve: () => server.serve(exchange, body),
      reject: (reason) => peer.reject(exchange, reason, "There is no room for another request"),
    });
  }
}
