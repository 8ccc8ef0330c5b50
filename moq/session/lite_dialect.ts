/** The parts of a session in moq-lite and gomoqt. */
import { ProtocolError } from "../../errors.ts";
import type { BidirectionalStream } from "../../transport/connection.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { MoqSubscribeOptions, TrackReader } from "../track/track_reader.ts";
import type { MoqErrorName } from "../wire/errors.ts";
import { QUIC_INTEGERS } from "../wire/integers.ts";
import type { MessageReader } from "../wire/message_reader.ts";
import {
  BidiType,
  decodeGoaway,
  decodeGroupHeader,
  decodeSetupStream,
  encodeGoaway,
  MAX_MESSAGE_BYTES,
  type TrackInfoMessage,
  UniType,
} from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { codeOf, type SessionContext } from "./context.ts";
import type { DialectEvents, OwnSetup, SessionDialect } from "./dialect.ts";
import { type Exchange, openExchange } from "./exchange.ts";
import { MoqIncomingStreams, type StreamHandlers } from "./incoming_streams.ts";
import type { PeerReports } from "./peer_reports.ts";
import { Publisher } from "./publisher.ts";
import { receivedSetup, sendSetupStream } from "./setup.ts";
import { MoqSubscriber } from "./subscriber.ts";

/** moq-lite and gomoqt on an open connection. */
export class LiteDialect implements SessionDialect, StreamHandlers {
  readonly integers = QUIC_INTEGERS;
  readonly hasSetupStream: boolean;

  readonly #context: SessionContext;
  readonly #reports: PeerReports;
  readonly #events: DialectEvents;
  readonly #subscriber: MoqSubscriber;
  readonly #publisher: Publisher;
  readonly #incoming: MoqIncomingStreams;

  /** Starts without requests. */
  constructor(context: SessionContext, reports: PeerReports, events: DialectEvents) {
    this.#context = context;
    this.#reports = reports;
    this.#events = events;
    this.hasSetupStream = context.traits.setup === "stream";
    this.#subscriber = new MoqSubscriber(context);
    this.#publisher = new Publisher(context);
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

  async sendSetup({ extensions, path, isMeasuring }: OwnSetup): Promise<void> {
    if (!this.hasSetupStream) return;
    const { connection, mux } = this.#context;
    await sendSetupStream(connection, { extensions, path, hopId: mux.hopId, isMeasuring });
  }

  takeBidirectional(streams: AsyncIterator<BidirectionalStream>): Promise<void> {
    return this.#incoming.takeBidirectional(streams);
  }

  announce(
    prefix: BroadcastPath,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader> {
    return this.#subscriber.announce(prefix, options);
  }

  subscribe(path: BroadcastPath, name: string, options: MoqSubscribeOptions): Promise<TrackReader> {
    return this.#subscriber.subscribe(path, name, options);
  }

  fetch(
    path: BroadcastPath,
    name: string,
    options: Parameters<SessionDialect["fetch"]>[2],
  ): Promise<GroupReader> {
    return this.#subscriber.fetch(path, name, options);
  }

  trackInfo(
    path: BroadcastPath,
    name: string,
    options: { readonly signal?: AbortSignal | undefined },
  ): Promise<TrackInfoMessage> {
    return this.#subscriber.trackInfo(path, name, options);
  }

  async goaway(
    uri: string,
    { signal }: { readonly signal?: AbortSignal | undefined },
  ): Promise<boolean> {
    if (!this.#context.traits.requests) return false;
    const message = encodeGoaway(uri);
    const exchange = await openExchange(this.#context, BidiType.goaway, { message, signal });
    void exchange.end();
    return true;
  }

  end(error: unknown): void {
    this.#subscriber.end(error);
    this.#publisher.end(error);
  }

  request(type: number | undefined, exchange: Exchange, reject: () => void): Promise<void> {
    const { requests, setup, timestamps } = this.#context.traits;
    const publisher = this.#publisher;
    // Each suspended call in between would take memory for as long as the stream is open.
    if (type === BidiType.announce) return publisher.announce(exchange);
    if (type === BidiType.subscribe) return publisher.subscribe(exchange);
    if (requests) {
      if (type === BidiType.fetch) return publisher.fetch(exchange);
      if (type === BidiType.probe) return this.#reports.serve(exchange);
      if (type === BidiType.goaway) return this.#takeGoaway(exchange);
      if (type === BidiType.track && timestamps) return publisher.track(exchange);
    }
    if (type !== undefined && setup === "session") throw unknownStream(type);
    // A later draft may define this type: reject the stream, keep the session.
    reject();
    return Promise.resolve();
  }

  data(
    type: number,
    reader: MessageReader,
    cancel: (reason: MoqErrorName) => void,
  ): void | Promise<void> {
    if (type === UniType.group) {
      const body = reader.takeSized(MAX_MESSAGE_BYTES);
      return body === undefined
        ? this.#takeGroup(reader, cancel)
        : this.#group(body, reader, cancel);
    }
    if (type === UniType.setup && this.hasSetupStream) return this.#takeSetup(reader);
    if (this.#context.traits.setup === "session") throw unknownStream(type);
    cancel("internal");
  }

  async #takeGroup(reader: MessageReader, cancel: (reason: MoqErrorName) => void): Promise<void> {
    this.#group(await reader.required("GROUP"), reader, cancel);
  }

  #group(body: Uint8Array, reader: MessageReader, cancel: (reason: MoqErrorName) => void): void {
    if (!this.#subscriber.take(decodeGroupHeader(body), reader)) cancel("invalidSubscribeId");
  }

  async #takeSetup(reader: MessageReader): Promise<void> {
    this.#events.onSetup(receivedSetup(decodeSetupStream(await reader.required("SETUP"))));
  }

  async #takeGoaway(exchange: Exchange): Promise<void> {
    this.#events.onGoaway(decodeGoaway(await exchange.reader.required("GOAWAY")));
    exchange.leave(codeOf(this.#context, "subscribe", "cancelled"));
  }
}

function unknownStream(type: number): ProtocolError {
  return new ProtocolError(`Expected a known stream, received one of type ${type}`);
}
