/** Announces the broadcasts of this side in the IETF's drafts. */
import { MoqError, moqErrorName } from "../../wire/errors.ts";
import {
  decodeNamespaceRequest,
  decodeRequestError,
  decodeRequestOk,
  DraftType,
  encodeNamespace,
  encodeNamespaceRequest,
  encodeRequestOk,
  readDraftMessage,
  tokensOf,
  unexpected,
} from "../../wire/ietf/messages.ts";
import { isReserved } from "../../wire/ietf/names.ts";
import { MAX_HOPS } from "../../wire/messages.ts";
import { type BroadcastPath, suffixOf } from "../../wire/path.ts";
import { announceTo, type AnnounceWire } from "../announce.ts";
import { isViolation, requestGrant } from "../context.ts";
import type { Exchange } from "../exchange.ts";
import { readUpdates } from "./discovery.ts";
import type { DraftPeer } from "./peer.ts";

/**
 * The maximum number of broadcasts that a client announces by itself: each takes a stream. Further
 * ones are announced when one of them ends.
 */
export const MAX_PUBLISHED = 1_024;

/** Announces broadcasts: to a server by itself, to a client on request. */
export class DraftAnnouncer {
  readonly #peer: DraftPeer;
  /** The announcements of a client by broadcast; aborted to withdraw them. */
  readonly #published = new Map<BroadcastPath, AbortController>();
  /** The prefixes that the peer follows. */
  readonly #prefixes = new Set<BroadcastPath>();
  #watch: Disposable | undefined = undefined;
  #isFull = false;

  constructor(peer: DraftPeer) {
    this.#peer = peer;
  }

  /** Starts to announce all broadcasts to a server. */
  start(): void {
    const { mux, session, signal } = this.#peer.context;
    // The session may have closed during its own setup.
    if (session.side !== "client" || signal.aborted) return;
    this.#watch = mux.watch("/", ({ path, active, hops }) => {
      if (active && this.#isWanted(path, hops)) this.#publish(path);
      else this.#withdraw(path);
    });
    this.#fill();
  }

  /** Ends with the session. */
  end(): void {
    this.#watch?.[Symbol.dispose]();
    this.#published.clear();
  }

  /** Serves SUBSCRIBE_NAMESPACE until the peer leaves. */
  async serve(exchange: Exchange, body: Uint8Array): Promise<void> {
    const peer = this.#peer;
    const { context, draft } = peer;
    const { requestId, path: below, parameters } = decodeNamespaceRequest(body, draft);
    peer.takeId(requestId);
    const tokens = tokensOf(parameters);
    if (peer.isLeaving) return peer.reject(exchange, "goingAway", "The session is ending");
    if (below === undefined) return peer.reject(exchange, "notFound", "There is no such prefix");
    const isOverlapping = [...this.#prefixes].some((other) =>
      suffixOf(other, below) !== undefined || suffixOf(below, other) !== undefined
    );
    if (isOverlapping) {
      return peer.reject(exchange, "prefixOverlap", "Another request has such a prefix");
    }
    this.#prefixes.add(below);
    try {
      const { grant, rejection } = await requestGrant(context, below, "announce", tokens);
      if (context.signal.aborted) return;
      if (rejection !== undefined) {
        return peer.reject(exchange, rejection, "The announcements are not allowed");
      }
      const wire: AnnounceWire = {
        listed: 0,
        head: () => encodeRequestOk({}, draft),
        encode: ({ path, active }) => encodeNamespace(active, suffixOf(below, path)!),
        gone: (exchange) => this.#gone(exchange),
      };
      await announceTo(context, exchange, { below, excludeHop: peer.hop, grant }, wire);
    } finally {
      this.#prefixes.delete(below);
    }
  }

  async #gone(exchange: Exchange): Promise<void> {
    try {
      await readUpdates(this.#peer, exchange);
    } catch (error) {
      // The peer reset the stream, or the session closed, which is reported elsewhere.
      if (isViolation(error)) this.#peer.failed(exchange, error);
    }
  }

  #isWanted(path: BroadcastPath, hops: readonly bigint[]): boolean {
    return hops.length < MAX_HOPS && !hops.includes(this.#peer.hop) && !isReserved(path);
  }

  #fill(): void {
    for (const { path, hops } of this.#peer.context.mux.announcements("/")) {
      if (this.#published.size >= MAX_PUBLISHED) return;
      if (this.#isWanted(path, hops)) this.#publish(path);
    }
  }

  #publish(path: BroadcastPath): void {
    if (this.#published.has(path)) return;
    if (this.#published.size >= MAX_PUBLISHED) {
      if (!this.#isFull) {
        const message = `Cannot announce ${path} yet: ${MAX_PUBLISHED} broadcasts are announced`;
        this.#peer.context.report(new MoqError("announce", "sessionLimit", message));
      }
      this.#isFull = true;
      return;
    }
    const controller = new AbortController();
    this.#published.set(path, controller);
    void this.#run(path, controller.signal);
  }

  #withdraw(path: BroadcastPath): void {
    const controller = this.#published.get(path);
    if (controller === undefined) return;
    this.#published.delete(path);
    controller.abort();
    if (!this.#isFull) return;
    this.#isFull = false;
    this.#fill();
  }

  /** Announces one broadcast until it ends, or the server revokes it. */
  async #run(path: BroadcastPath, signal: AbortSignal): Promise<void> {
    const peer = this.#peer;
    const message = encodeNamespaceRequest(DraftType.publishNamespace, {
      requestId: peer.nextId(),
      path,
      parameters: {},
    }, peer.draft);
    let exchange: Exchange | undefined;
    try {
      const opened = exchange = await peer.open(message, { signal });
      const withdraw = () => opened.leave(peer.streamCode("cancelled"));
      signal.addEventListener("abort", withdraw, { once: true });
      if (signal.aborted) return withdraw();
      const response = await readDraftMessage(opened.reader);
      if (response?.type === DraftType.requestError) {
        const { code, reason: text } = decodeRequestError(response.body);
        const reason = moqErrorName("announce", code, "moqt");
        const words = `The peer rejected the announcement of ${path}: ${reason} (${code}) ${text}`;
        throw new MoqError("announce", reason, words, { moqCode: code, by: "remote" });
      }
      if (response?.type !== DraftType.requestOk) throw unexpected(response, "REQUEST_OK");
      decodeRequestOk(response.body, peer.draft);
      while (await readDraftMessage(opened.reader) !== undefined);
      await opened.end();
    } catch (error) {
      if (signal.aborted || peer.context.signal.aborted) return;
      if (error instanceof MoqError) peer.context.report(error);
      if (exchange !== undefined) peer.failed(exchange, error);
    }
  }
}
