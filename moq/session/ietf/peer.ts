/** The state that all parts of a session in the IETF's drafts share. */
import { GroupSequences } from "../../track/group_queue.ts";
import { MoqError, moqErrorCode, type MoqErrorName } from "../../wire/errors.ts";
import { encodeRequestError } from "../../wire/ietf/messages.ts";
import { LEADING_INTEGERS } from "../../wire/integers.ts";
import type { DraftTraits } from "../../wire/versions.ts";
import { codeOf, isViolation, type SessionContext } from "../context.ts";
import type { ReceivedSetup } from "../dialect.ts";
import { type Exchange, openRequest } from "../exchange.ts";
import { isSkein } from "../setup.ts";

/** The time before a rejected peer should try again if the reason may pass, in milliseconds. */
const RETRY_MS = 1_000;

/** Reasons that may pass. */
const PASSING: ReadonlySet<MoqErrorName> = new Set([
  "internal",
  "timeout",
  "sessionLimit",
  "addressLimit",
  "relayLimit",
]);

/** A peer, and the numbers of the requests in both directions. */
export class DraftPeer {
  readonly context: SessionContext;
  readonly draft: DraftTraits;
  /** Stands for the peer in the hops of announcements, which the drafts don't have. */
  readonly hop: bigint;
  /** Resolves once the setup of the peer has arrived. */
  readonly ready: Promise<void>;
  /** True once this side has asked the peer to leave: new requests are rejected. */
  isLeaving = false;
  readonly #ready: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #parity: 0 | 1;
  /** The numbers of the peer's requests, halved. */
  readonly #taken = new GroupSequences();
  #nextId: number;
  #isSkein = false;

  constructor(context: SessionContext, draft: DraftTraits) {
    this.context = context;
    this.draft = draft;
    this.#parity = context.session.side === "client" ? 0 : 1;
    this.#nextId = this.#parity;
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    const [high, low] = context.runtime.getRandomValues(new Uint32Array(2));
    this.hop = (BigInt(high! & 0x1f_ffff) << 32n | BigInt(low!)) || 1n;
  }

  /** Accepts the setup of the peer. */
  take({ parameters }: ReceivedSetup): void {
    this.#isSkein = isSkein(parameters);
    this.#ready.resolve();
  }

  /** Stops waiting for the setup. */
  end(error: unknown): void {
    this.#ready.reject(error);
  }

  /** True if the peer is Skein, which marks the end of each complete group. */
  get isSkein(): boolean {
    return this.#isSkein;
  }

  /** True if the end of the requester's direction withdraws a request: Deno cannot reset it. */
  get endWithdraws(): boolean {
    return this.draft.endWithdraws || this.#isSkein;
  }

  /** The number of the next request of this side. */
  nextId(): number {
    const id = this.#nextId;
    this.#nextId += 2;
    return id;
  }

  /** The lowest number above all requests of the peer. */
  get nextPeerId(): number {
    return ((this.#taken.highest ?? -1) + 1) * 2 + (1 - this.#parity);
  }

  /**
   * Checks the number of a request of the peer.
   *
   * @throws {MoqError} If the number was used before, or is one of this side.
   */
  takeId(id: number): void {
    const half = Math.floor(id / 2);
    if (id % 2 === this.#parity || this.#taken.has(half)) {
      const message = `Expected a new request id of the peer, received ${id}`;
      throw new MoqError("session", "invalidRequestId", message);
    }
    this.#taken.add(half);
  }

  /** Opens a stream with a request. */
  open(
    message: Uint8Array,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Exchange> {
    return openRequest(this.context, message, { ...options, integers: LEADING_INTEGERS });
  }

  /** Rejects a request of the peer. */
  reject(exchange: Exchange, reason: MoqErrorName, text: string): void {
    const code = moqErrorCode("subscribe", reason, "moqt");
    const retryMs = PASSING.has(reason) ? RETRY_MS : undefined;
    exchange.post(encodeRequestError({ code, retryMs, reason: text }));
    exchange.leave(this.streamCode("cancelled"));
  }

  /** The code of a reason with which a stream ends. */
  streamCode(reason: MoqErrorName): number {
    return codeOf(this.context, "group", reason);
  }

  /** Ends a request and, after a violation, the session. */
  failed(exchange: Exchange, error: unknown): void {
    exchange.abort(this.streamCode("cancelled"));
    const { context } = this;
    if (context.signal.aborted) return;
    const isOfSession = error instanceof MoqError && error.scope === "session";
    if (isViolation(error) || isOfSession) context.violated(error);
  }
}
