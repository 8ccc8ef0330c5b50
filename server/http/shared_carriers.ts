/**
 * Makes connections of the HTTP transport reachable from all nodes of a broker. A client's requests
 * may reach any node, but its connection is on the node that accepted it.
 */
import { joinHead, splitHead } from "../../pubsub/nodes/call_messages.ts";
import { isNumber } from "../../pubsub/nodes/messages.ts";
import { type NodeCall, NodeCallError, NodeCalls } from "../../pubsub/nodes/node_calls.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { type Account, NOBODY } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas } from "../../base/quotas/shares.ts";
import { TimeoutError } from "../../errors.ts";
import { MAX_WEBSOCKET_REASON_BYTES } from "../../transport/close_info.ts";
import type { ConnectionCloseInfo } from "../../transport/connection.ts";
import {
  CarrierError,
  type CarrierTakeOptions,
  type GivenFrames,
  type HttpCarrier,
  type HttpCarriers,
  MAX_ID_LENGTH,
  nodeOf,
  type TakenEvents,
} from "../../transport/http/carrier.ts";

const NAME = "http";

/**
 * Longest wait for the response of another node, in addition to the wait for an event, in
 * milliseconds. It is longer than the time after which a killed node is considered silent.
 */
const REPLY_MS = 6_000;

/** Longest wait for an event that another node may request, in milliseconds. */
const MAX_WAIT_MS = 60_000;

/** Most bytes of a request or reply besides frames and events. */
const MAX_HEAD_BYTES = 8_192;

/** Most characters of a secret and of the id of a reader. */
const MAX_NAME_LENGTH = 128;

/**
 * Maximum number of connections of other nodes whose secrets this node remembers, which take about
 * 2 MB.
 */
const MAX_PROVEN = 10_000;

/**
 * Maximum number of concurrent calls about connections that are unknown to this node, so that calls
 * with invented ids cannot use up the call limit between two nodes.
 */
const MAX_UNKNOWN = 1_024;

/**
 * Maximum number of such calls for one network address, once more than half of `MAX_UNKNOWN` are
 * pending.
 */
const MAX_UNKNOWN_PER_ADDRESS = 16;

/** Options for {@linkcode SharedCarriers}. */
export interface SharedCarriersOptions {
  readonly nodes: Nodes;
  /** Connections of this node. */
  readonly own: HttpCarriers;
  /** The quotas of the server. */
  readonly quotas: Quotas;
  /** Maximum size of the frames of a request, and of the events of a response, in bytes. */
  readonly maxBytes: number;
  /** Receives errors that are not caused by a client. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/**
 * Finds connections on this and other nodes.
 *
 * - **Gone:** if a node leaves, its connections become unknown immediately, even to pending calls.
 *   If it crashes, they become unknown after two missed heartbeats.
 * - **Repeatable:** each call of an {@linkcode HttpCarrier} can be repeated, even through another
 *   node, because events and frames are numbered.
 * - **Checked:** the node of the connection checks the secret before a client waits for events or
 *   sends a body. Malformed calls fail.
 * - **Shares:** calls for connections that this node has to look up are limited, in total and per
 *   network address.
 */
export class SharedCarriers implements HttpCarriers, AsyncDisposable {
  readonly #nodes: Nodes;
  readonly #own: HttpCarriers;
  readonly #maxBytes: number;
  readonly #calls: NodeCalls;
  /**
   * Secrets of other nodes' connections by id, least recently used first; bounded by `MAX_PROVEN`.
   */
  readonly #proven = new Map<string, string>();
  /** Pending calls about connections of other nodes whose secrets are unknown to this node. */
  readonly #unknown: Quota;

  /** Starts to respond to calls of other nodes. */
  constructor({ nodes, own, quotas, maxBytes, onError }: SharedCarriersOptions) {
    this.#nodes = nodes;
    this.#unknown = quotas.open({
      limit: "unknownConnections",
      verb: "continue",
      what: "concurrent requests for connections that a node has to look up",
      max: MAX_UNKNOWN,
      shares: { address: MAX_UNKNOWN_PER_ADDRESS },
      retryAfterMs: 1_000,
    });
    this.#own = own;
    this.#maxBytes = maxBytes;
    this.#calls = new NodeCalls({
      nodes,
      name: NAME,
      quotas,
      maxBytes: maxBytes + MAX_HEAD_BYTES,
      respond: (data, call) => this.#respond(data, call),
      onError,
    });
  }

  /** Resolves once other nodes can reach the connections of this node. Never rejects. */
  get ready(): Promise<void> {
    return this.#calls.ready;
  }

  /** Number of pending calls about connections that are unknown to this node. */
  get unknown(): number {
    return this.#unknown.taken;
  }

  find(id: string, secret: string, accountOf = () => NOBODY): HttpCarrier {
    const node = nodeOf(id);
    if (node === undefined || node === this.#nodes.id) return this.#own.find(id, secret);
    const isShort = id.length <= MAX_ID_LENGTH && secret.length <= MAX_NAME_LENGTH;
    if (!isShort || this.#nodes.isGone(node)) throw unknown();
    return new RemoteCarrier({
      calls: this.#calls,
      node,
      keys: { id, secret },
      proven: this.#proven,
      accountOf,
      takeSlot: () => this.#unknown.take(accountOf()),
    });
  }

  /** Ends all calls in both directions. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#calls[Symbol.asyncDispose]();
  }

  async #respond(data: Uint8Array, { signal }: NodeCall): Promise<Uint8Array> {
    const message = splitHead(data);
    const asked = message && readAsked(message.head);
    if (asked === undefined) {
      throw new TypeError("Cannot respond to a node: its call is malformed");
    }
    try {
      const carrier = this.#own.find(asked.id, asked.secret);
      switch (asked.kind) {
        case "take": {
          const { after, reader, isFirst, everyS } = asked;
          const waitMs = Math.min(asked.waitMs, MAX_WAIT_MS);
          const maxBytes = Math.min(asked.maxBytes, this.#maxBytes);
          const options = { reader, isFirst, everyS, waitMs, maxBytes, signal };
          const taken = await carrier.take(after, options);
          const { events, ...rest } = taken;
          return joinHead(rest, encoder.encode(events));
        }
        case "give":
          return joinHead(await carrier.give(asked.number, message!.data, asked.received));
        case "end":
          await carrier.end({ closeCode: asked.closeCode, reason: asked.reason });
          return joinHead({});
      }
    } catch (error) {
      if (!(error instanceof CarrierError)) throw error;
      return joinHead({ rejection: error.reason, message: error.message });
    }
  }
}

interface RemoteCarrierParts {
  readonly calls: NodeCalls;
  readonly node: string;
  readonly keys: CarrierKeys;
  readonly proven: Map<string, string>;
  /** Returns the account of the requests. */
  readonly accountOf: () => Account;
  /** Takes a slot for a call about an unknown connection. */
  readonly takeSlot: () => Disposable;
}

/** A connection on another node. */
class RemoteCarrier implements HttpCarrier {
  readonly #calls: NodeCalls;
  readonly #node: string;
  readonly #keys: CarrierKeys;
  readonly #proven: Map<string, string>;
  readonly #accountOf: () => Account;
  readonly #takeSlot: () => Disposable;

  constructor({ calls, node, keys, proven, accountOf, takeSlot }: RemoteCarrierParts) {
    this.#calls = calls;
    this.#node = node;
    this.#keys = keys;
    this.#proven = proven;
    this.#accountOf = accountOf;
    this.#takeSlot = takeSlot;
  }

  /** Asks the other node once, in a call without frames. Later calls detect changes. */
  async prove(): Promise<void> {
    const { id, secret } = this.#keys;
    if (this.#proven.get(id) === secret) return;
    using _slot = this.#takeSlot();
    await this.give(0, new Uint8Array(), 0);
  }

  async take(after: number, options: CarrierTakeOptions): Promise<TakenEvents> {
    const { signal, ...rest } = options;
    const none: TakenEvents = { events: "", last: after, state: "open" };
    if (signal.aborted) return none;
    try {
      await this.prove();
      const asked: CarrierCall = { kind: "take", ...this.#keys, after, ...rest };
      const timeoutMs = rest.waitMs + REPLY_MS;
      const { head, data } = await this.#call(asked, undefined, { timeoutMs, signal });
      const { last, state } = head;
      if (!isNumber(last) || !isOneOf(state, STATES)) throw unavailable();
      return { events: decoder.decode(data), last, state };
    } catch (error) {
      if (signal.aborted) return none;
      throw error;
    }
  }

  async give(number: number, frames: Uint8Array, received: number): Promise<GivenFrames> {
    const asked: CarrierCall = { kind: "give", ...this.#keys, number, received };
    const { head: { result, next, written } } = await this.#call(asked, frames);
    if (!isOneOf(result, RESULTS) || !isNumber(next) || !isNumber(written)) throw unavailable();
    return { result, next, written };
  }

  async end({ closeCode, reason }: Required<ConnectionCloseInfo>): Promise<void> {
    await this.prove();
    await this.#call({ kind: "end", ...this.#keys, closeCode, reason });
  }

  async #call(
    asked: CarrierCall,
    frames?: Uint8Array,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal } = {
      timeoutMs: REPLY_MS,
    },
  ): Promise<NonNullable<ReturnType<typeof splitHead>>> {
    const reply = splitHead(await this.#reply(joinHead(asked, frames), options));
    if (reply === undefined) throw unavailable();
    const { rejection, message } = reply.head;
    const { id, secret } = this.#keys;
    // A wrong secret must not remove the right one.
    if (rejection === undefined || this.#proven.get(id) === secret) this.#proven.delete(id);
    if (rejection === undefined) {
      this.#proven.set(id, secret);
      if (this.#proven.size > MAX_PROVEN) this.#proven.delete(this.#proven.keys().next().value!);
      return reply;
    }
    if (!isOneOf(rejection, REJECTIONS) || typeof message !== "string") throw unavailable();
    throw new CarrierError(rejection, message);
  }

  async #reply(
    data: Uint8Array,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<Uint8Array> {
    try {
      return await this.#calls.call(this.#node, data, { ...options, account: this.#accountOf() });
    } catch (error) {
      if (error instanceof NodeCallError) {
        const isOver = error.code === "gone" || error.code === "silent";
        throw isOver ? unknown() : unavailable();
      }
      throw error instanceof TimeoutError ? unavailable() : error;
    }
  }
}

/** Id and secret of a connection. */
interface CarrierKeys {
  readonly id: string;
  readonly secret: string;
}

/** A call of a method of a connection. */
type CarrierCall =
  & CarrierKeys
  & (
    | {
      readonly kind: "take";
      readonly after: number;
    } & Omit<CarrierTakeOptions, "signal">
    | { readonly kind: "give"; readonly number: number; readonly received: number }
    | { readonly kind: "end" } & Required<ConnectionCloseInfo>
  );

const STATES: readonly TakenEvents["state"][] = ["open", "replaced", "over"];

const RESULTS: readonly GivenFrames["result"][] = ["taken", "hole", "busy", "malformed", "large"];

const REJECTIONS: readonly CarrierError["reason"][] = [
  "unknown",
  "forbidden",
  "malformed",
  "unavailable",
];

/** Reads a call; `undefined` if malformed. */
function readAsked(head: Readonly<Record<string, unknown>>): CarrierCall | undefined {
  const { kind, id, secret } = head;
  if (!isShort(id, MAX_ID_LENGTH) || !isShort(secret, MAX_NAME_LENGTH)) return undefined;
  switch (kind) {
    case "take": {
      const { after, reader, isFirst, waitMs, everyS = 0, maxBytes } = head;
      if (!isNumber(after) || !isShort(reader, MAX_NAME_LENGTH)) return undefined;
      if (typeof isFirst !== "boolean" || !isNumber(waitMs)) return undefined;
      if (!isNumber(everyS) || !isNumber(maxBytes)) return undefined;
      return { kind, id, secret, after, reader, isFirst, waitMs, everyS, maxBytes };
    }
    case "give": {
      const { number, received } = head;
      if (!isNumber(number) || !isNumber(received)) return undefined;
      return { kind, id, secret, number, received };
    }
    case "end": {
      const { closeCode, reason } = head;
      if (!isNumber(closeCode) || !isShort(reason, MAX_WEBSOCKET_REASON_BYTES)) return undefined;
      return { kind, id, secret, closeCode, reason };
    }
    default:
      return undefined;
  }
}

function isShort(value: unknown, maxLength: number): value is string {
  return typeof value === "string" && value.length <= maxLength;
}

function isOneOf<T extends string>(value: unknown, all: readonly T[]): value is T {
  return all.includes(value as T);
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function unknown(): CarrierError {
  return new CarrierError("unknown", "Cannot continue: the node of the connection is gone");
}

function unavailable(): CarrierError {
  const message = "Cannot continue: the node of the connection does not respond";
  return new CarrierError("unavailable", message);
}
