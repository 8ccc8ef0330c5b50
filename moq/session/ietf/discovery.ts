/** Broadcasts that the peer announces in the IETF's drafts, and the readers of this side. */
import { ProtocolError } from "../../../errors.ts";
import { AnnouncementReader, MAX_ANNOUNCED } from "../../track/announcement.ts";
import { MoqError, moqErrorName } from "../../wire/errors.ts";
import {
  decodeNamespace,
  decodeNamespaceRequest,
  decodeRequestError,
  decodeRequestOk,
  decodeRequestUpdate,
  DraftType,
  encodeNamespaceRequest,
  encodeRequestOk,
  readDraftMessage,
  tokensOf,
  unexpected,
} from "../../wire/ietf/messages.ts";
import { isReserved } from "../../wire/ietf/names.ts";
import type { MoqToken } from "../../wire/ietf/parameters.ts";
import { type BroadcastPath, joinPath, suffixOf } from "../../wire/path.ts";
import { type MoqGrant, watchGrant } from "../access.ts";
import { moqErrorOf, requestGrant } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import type { DraftPeer } from "./peer.ts";

/** A broadcast of the peer, as long as one of its announcements lasts. */
export interface Announced extends Disposable {
  /** Called if the grant expires, or the application bans the peer; ends the announcement. */
  onRevoked: () => void;
}

/** A request for the broadcasts below a prefix, as long as a reader needs it. */
interface Request {
  readonly prefix: BroadcastPath;
  readonly exchange: Exchange;
  /** The reader that sent the request, and readers of longer prefixes, which share it. */
  readonly readers: Set<AnnouncementReader>;
}

/**
 * Collects the announcements of the peer: those that it sends by itself, and those that this side
 * requests. A broadcast lasts until all its announcements have ended.
 */
export class DraftDiscovery {
  readonly #peer: DraftPeer;
  readonly #broadcasts = new Map<BroadcastPath, Set<Announced>>();
  /** The open readers, each with what to call at its end. */
  readonly #readers = new Map<AnnouncementReader, () => void>();
  readonly #requests = new Set<Request>();

  constructor(peer: DraftPeer) {
    this.#peer = peer;
  }

  /** Closes all readers with the session. */
  end(error: unknown): void {
    for (const reader of this.#readers.keys()) this.#ended(reader, error);
    this.#broadcasts.clear();
  }

  /**
   * Follows the broadcasts below a prefix. A client also requests them from the server, unless the
   * prefix is below that of another request: requests of one session must not overlap.
   */
  async announce(
    prefix: BroadcastPath,
    { signal }: { readonly signal?: AbortSignal | undefined },
  ): Promise<AnnouncementReader> {
    const peer = this.#peer;
    const covering = [...this.#requests].find((request) =>
      suffixOf(request.prefix, prefix) !== undefined
    );
    const isAsking = covering === undefined && peer.context.session.side === "client";
    const request = isAsking ? await this.#ask(prefix, signal) : covering;
    const onAbort = () => reader.close();
    const reader = new AnnouncementReader(prefix, (reason) => {
      this.#ended(reader);
      if (request?.readers.size === 0) {
        this.#requests.delete(request);
        request.exchange.leave(peer.streamCode("cancelled"));
      }
      if (reason === "bannedPrefix") this.#revokeAll();
    });
    this.#readers.set(reader, () => {
      request?.readers.delete(reader);
      signal?.removeEventListener("abort", onAbort);
    });
    request?.readers.add(reader);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) reader.close();
    for (const path of this.#broadcasts.keys()) this.#tell(reader, path, true);
    if (isAsking && request !== undefined) void this.#follow(request);
    return reader;
  }

  /** Serves PUBLISH_NAMESPACE until the publisher withdraws it. */
  async serve(exchange: Exchange, body: Uint8Array): Promise<void> {
    const peer = this.#peer;
    const { requestId, path, parameters } = decodeNamespaceRequest(body, peer.draft);
    peer.takeId(requestId);
    const tokens = tokensOf(parameters);
    if (path === undefined) {
      const text = "The parts of a prefix must be UTF-8 without slashes";
      return peer.reject(exchange, "uninterested", text);
    }
    const announced = await this.admit(exchange, path, tokens);
    if (announced === undefined) return;
    using _announced = announced;
    exchange.post(encodeRequestOk({}, peer.draft));
    await readUpdates(peer, exchange);
    await exchange.end();
  }

  /**
   * Asks the application, and announces a broadcast to the readers. Otherwise rejects the request.
   *
   * @returns The announcement; `undefined` if the request was rejected.
   */
  async admit(
    exchange: Exchange,
    path: BroadcastPath,
    tokens: readonly MoqToken[],
  ): Promise<Announced | undefined> {
    const peer = this.#peer;
    if (peer.isLeaving) {
      peer.reject(exchange, "goingAway", "The session is ending");
    } else if (isReserved(path)) {
      peer.reject(exchange, "notFound", "The namespace is reserved");
    } else {
      const { grant, rejection } = await requestGrant(peer.context, path, "publish", tokens);
      if (peer.context.signal.aborted) return undefined;
      if (rejection === undefined) {
        const announced = this.#add(path, grant);
        announced.onRevoked = () => {
          announced[Symbol.dispose]();
          exchange.leave(peer.streamCode("expiredToken"));
        };
        return announced;
      }
      peer.reject(exchange, rejection, "The broadcast is not allowed");
    }
    return undefined;
  }

  async #ask(prefix: BroadcastPath, signal: AbortSignal | undefined): Promise<Request> {
    const peer = this.#peer;
    const message = encodeNamespaceRequest(DraftType.subscribeNamespace, {
      requestId: peer.nextId(),
      path: prefix,
      parameters: {},
    }, peer.draft);
    const exchange = await peer.open(message, { signal });
    const request = { prefix, exchange, readers: new Set<AnnouncementReader>() };
    this.#requests.add(request);
    return request;
  }

  /** Reads the response to SUBSCRIBE_NAMESPACE, and the announcements after it. */
  async #follow(request: Request): Promise<void> {
    const peer = this.#peer;
    const { prefix, exchange, readers } = request;
    const announced = new Map<BroadcastPath, Announced>();
    // The end of the response ends all its announcements.
    const withdraw = () => {
      for (const one of announced.values()) one[Symbol.dispose]();
    };
    try {
      const response = await readDraftMessage(exchange.reader);
      if (response?.type === DraftType.requestError) {
        const { code, reason: text } = decodeRequestError(response.body);
        const reason = moqErrorName("announce", code, "moqt");
        // Announcements that come without a request remain.
        if (reason === "notSupported") return void exchange.end();
        const message = `The request for broadcasts was rejected: ${reason} (${code}) ${text}`;
        throw new MoqError("announce", reason, message, { moqCode: code, by: "remote" });
      }
      if (response?.type !== DraftType.requestOk) throw unexpected(response, "REQUEST_OK");
      decodeRequestOk(response.body, peer.draft);
      for (let message; (message = await readDraftMessage(exchange.reader)) !== undefined;) {
        const isActive = message.type === DraftType.namespace;
        if (isActive || message.type === DraftType.namespaceDone) {
          const suffix = decodeNamespace(message.body);
          // A path cannot tell such a broadcast apart from others.
          if (suffix === undefined) continue;
          await this.#take(joinPath(prefix, suffix), isActive, announced);
        } else if (message.type !== DraftType.goaway) throw unexpected(message, "NAMESPACE");
      }
      withdraw();
      for (const reader of readers) this.#ended(reader);
      await exchange.end();
    } catch (error) {
      withdraw();
      const cause = moqErrorOf(peer.context, "announce", error);
      for (const reader of readers) this.#ended(reader, cause);
      peer.failed(exchange, error);
    } finally {
      this.#requests.delete(request);
    }
  }

  /** Ends a reader, with an error or without. */
  #ended(reader: AnnouncementReader, error?: unknown): void {
    this.#readers.get(reader)?.();
    this.#readers.delete(reader);
    reader.end(error);
  }

  async #take(
    path: BroadcastPath,
    isActive: boolean,
    announced: Map<BroadcastPath, Announced>,
  ): Promise<void> {
    const known = announced.get(path);
    if (!isActive) {
      if (known === undefined) throw new ProtocolError(`Expected no end of ${path}, which is new`);
      announced.delete(path);
      return known[Symbol.dispose]();
    }
    if (known !== undefined) return;
    const { grant, rejection } = await requestGrant(this.#peer.context, path, "publish");
    if (rejection !== undefined) {
      // The drafts cannot reject a single broadcast here.
      announced.set(path, { onRevoked() {}, [Symbol.dispose]() {} });
      return;
    }
    announced.set(path, this.#add(path, grant));
  }

  #add(path: BroadcastPath, grant: MoqGrant): Announced {
    const all = this.#broadcasts.get(path) ?? new Set();
    const expiring = new DisposableStack();
    const announced: Announced = {
      onRevoked: () => announced[Symbol.dispose](),
      [Symbol.dispose]: () => {
        expiring.dispose();
        if (!all.delete(announced) || all.size > 0) return;
        if (this.#broadcasts.get(path) === all) this.#broadcasts.delete(path);
        for (const reader of this.#readers.keys()) this.#tell(reader, path, false);
      },
    };
    if (all.size === 0 && this.#broadcasts.size >= MAX_ANNOUNCED) {
      const message = `The peer announced more than ${MAX_ANNOUNCED} broadcasts`;
      throw new MoqError("announce", "internal", message);
    }
    all.add(announced);
    expiring.use(watchGrant(this.#peer.context.runtime, grant, () => announced.onRevoked()));
    if (all.size > 1) return announced;
    this.#broadcasts.set(path, all);
    for (const reader of this.#readers.keys()) this.#tell(reader, path, true);
    return announced;
  }

  #tell(reader: AnnouncementReader, path: BroadcastPath, active: boolean): void {
    if (suffixOf(reader.prefix, path) === undefined) return;
    reader.take({ path, active, hops: [this.#peer.hop] }, false);
  }

  #revokeAll(): void {
    for (const all of this.#broadcasts.values()) {
      for (const announced of [...all]) announced.onRevoked();
    }
  }
}

/**
 * Reads the changes of a request, which can only renew its tokens, until the requester withdraws
 * it.
 *
 * @throws {ProtocolError} If another message comes.
 */
export async function readUpdates(peer: DraftPeer, exchange: Exchange): Promise<void> {
  const { draft } = peer;
  for (let message; (message = await readDraftMessage(exchange.reader)) !== undefined;) {
    if (message.type === DraftType.goaway) continue;
    if (message.type !== DraftType.requestUpdate) throw unexpected(message, "REQUEST_UPDATE");
    const { requestId, parameters } = decodeRequestUpdate(message.body, draft);
    peer.takeId(requestId);
    tokensOf(parameters);
    if (parameters.prefix !== undefined) {
      return peer.reject(exchange, "notSupported", "A prefix cannot change");
    }
    exchange.post(encodeRequestOk({}, draft));
  }
  // The end of this direction is not a withdrawal: the stream stays until the session ends.
  if (!peer.endWithdraws) await peer.context.closed;
}
