/**
 * Responses that outlive their connection: generators on this node that write to durable streams.
 */
import { abortable } from "@std/async/abortable";
import { BrokerError, LimitError, RequestError, UnsupportedError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import {
  type Quota,
  type Quotas,
  rejectionOf,
  type Slot,
  type TakeOptions,
} from "../../base/quotas/shares.ts";
import { pause, settlesWithin, within } from "../../base/wait.ts";
import { type Broker, type BrokerSubscription, INTERNAL_PREFIX } from "../../pubsub/broker.ts";
import { requestLog } from "../logs/log_names.ts";
import { recordBytes } from "../logs/rules.ts";
import { DROPPED_REASON, NO_SPACE, type StreamLogs, WRITER_LOST } from "../logs/stream_logs.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { AbandonedResponses } from "./abandoned_responses.ts";
import { RetainedResponses } from "./retained_responses.ts";
import { responseId, type ResponseLimits } from "../options.ts";
import { whileUnreachable } from "../repeat.ts";
import type { StreamStore } from "../streams.ts";
import { ABORTED, type DurableStreamWriter, isEndCode, LEASE_MS } from "../writer.ts";

/**
 * Lease of a writer whose response another node can resume, in milliseconds. It is renewed every
 * second, and is shorter than for other streams, because readers are waiting for the rest.
 */
export const RESUME_LEASE_MS = 5_000;

/**
 * Maximum number of times that a response is taken over from a crashed node. Without this limit, a
 * generator that crashes its node would crash one node after the other.
 */
export const MAX_TAKEOVERS = 5;

/** Pause before the second takeover, in milliseconds. It doubles for each later takeover. */
const TAKEOVER_PAUSE = { firstMs: 1_000, mostMs: 30_000 };

/** Most items and bytes that `written` holds in memory for `resume`. */
export const MAX_WRITTEN = { items: 10_000, bytes: 1_048_576 };

/** Number of items after which a generator that never waits yields to other work. */
const ITEMS_PER_TURN = 64;

/** Time limit for handing responses to other nodes when the server closes, in milliseconds. */
const CLOSE_MS = 2_000;

/** Topic on which nodes announce responses that can be taken over. */
const RELEASED = `${INTERNAL_PREFIX}answers`;

/**
 * Time after which a client repeats a request while the responses of others use the share, in
 * milliseconds. Responses take seconds to a minute.
 */
const RETRY_MS = 2_000;

/** The rejected action, in errors. */
const VERB = "start a response";

/** Names that a caller may choose. 22 or more random characters contain over 128 bits. */
const NAME = /^[A-Za-z0-9_-]{16,64}$/;

/** The request of a response, kept for a node that takes it over. */
export interface StoredRequest {
  readonly topic: string;
  /** Data of the request, as received. */
  readonly input: unknown;
  /** Verified user of the caller; absent for a guest. */
  readonly user?: string | undefined;
}

/** Progress of a response that a handler resumes. */
export interface ResponseProgress {
  /** Newest stored items, oldest first: at most 10,000 and 1 MiB. */
  readonly written: readonly unknown[];
  /** Number of all stored items. */
  readonly count: number;
  /** Aborts when the response is cancelled, and when this node loses it. */
  readonly signal: AbortSignal;
}

/** Generates the rest of a response. */
export type ResumeResponse = (
  request: StoredRequest,
  progress: ResponseProgress,
) => AsyncIterable<unknown> | Promise<AsyncIterable<unknown>>;

export interface ResponseStart extends StoredRequest {
  /** Name of the response, chosen by the caller. */
  readonly name: string;
  /**
   * True if the caller already has a part of the response, so that the response is not started
   * again.
   */
  readonly begun?: true | undefined;
  /** Cost of the response, which a repeated request does not pay again. */
  readonly cost: number;
  /** The peer whose share of running responses is used, and whose rates pay the cost. */
  readonly account: Account;
  /** Generates the items. */
  readonly generate: (
    signal: AbortSignal,
  ) => AsyncIterable<unknown> | Promise<AsyncIterable<unknown>>;
  /** Receives the generator's error, unless it is a {@linkcode RequestError}. MUST NOT throw. */
  readonly onError?: ((error: unknown) => void) | undefined;
}

/** Parts of {@linkcode StoredResponses}. */
export interface StoredResponsesParts {
  readonly runtime: Runtime;
  /** All quotas of the server. */
  readonly quotas: Quotas;
  readonly broker: Broker;
  readonly streams: StreamLogs;
  readonly durableStreams: StreamStore;
  /**
   * Counts the cost of a response.
   *
   * @throws {RequestError} With the code `too-many` if the client has started too much.
   */
  readonly charge: (account: Account, cost: number, verb: string) => void;
  /** The nodes of the broker, if the server has one. */
  readonly nodes?: Nodes | undefined;
  /** Returns this node's handler that resumes the responses of a topic, if any. */
  readonly resumeOf: ((topic: string) => ResumeResponse | undefined) | undefined;
  /** Receives errors of handlers and of the broker. MUST NOT throw. */
  readonly report: (what: string, error: unknown) => void;
}

/** A takeover, as recorded after the request of a response. */
interface Takeover {
  /** Takeovers from crashed nodes so far. */
  readonly lost: number;
  /** True once the node has released the response to another one. */
  readonly isReleased?: true;
}

/** A generator that runs on this node. */
interface Running {
  readonly writer: DurableStreamWriter;
  /** The caller; after a takeover only the user is known. */
  readonly account: Account;
  /** Slot of the running response, which the generator keeps until it stops. */
  readonly slot: Slot;
  /** True if another node can continue. */
  readonly canResume: boolean;
  /** Receives the error of the generator. */
  readonly onError: (error: unknown) => void;
  /** Takeovers from crashed nodes so far. */
  lost: number;
  /** Aborts the signal of the generator. */
  readonly stop: AbortController;
  /** Resolves once the stream has ended, or was released to another node. */
  readonly over: PromiseWithResolvers<void>;
}

/** Abort reason of a generator whose response is released to another node. */
class Released extends RequestError {
  constructor() {
    super("unavailable", "This server releases the response to another one");
  }
}

/**
 * The responses of one node that are written to durable streams.
 *
 * - **Once:** a name starts one generator per user or guest and topic, whichever node receives the
 *   request. A random UUID starts one for all guests. For a week after a response has expired, its
 *   name does not start another generator.
 * - **Pace:** a generator produces the next item when the broker has stored most of the previous
 *   items. It pauses after 4 s without a confirmed lease renewal, because another node may take
 *   over.
 * - **End:** the response ends when the generator returns. If the generator throws a {@linkcode
 *   RequestError}, the response ends with its code; any other error results in `failed`. Other
 *   codes are `cancelled`, with the reader's reason, and `writer-lost`. The generator's `return` is
 *   called in each case.
 * - **Abandoned:** the response of a guest who has left ends as `cancelled` if no one reads it; see
 *   {@linkcode AbandonedResponses}.
 * - **Takeover:** if a node crashes or closes, its responses continue on another node that has a
 *   handler for the rest. The lease of the stream's writer ensures that only one node takes over. A
 *   response is taken over from crashed nodes at most 5 times, with growing pauses.
 * - **Bounds:** the responses running on this node are limited in total, per user and per address,
 *   and so is the rate at which clients start them.
 */
export class StoredResponses {
  /** Ends responses of guests that no one waits for. */
  readonly abandoned: AbandonedResponses;
  readonly #parts: StoredResponsesParts;
  readonly #limits: ResponseLimits;
  readonly #running = new Set<Running>();
  /** Calls that may start a generator; bounded by the sessions' requests and by searches. */
  readonly #beginning = new Set<Promise<unknown>>();
  /** The calls among them that are creating a response, by its id. */
  readonly #creating = new Map<string, Promise<string>>();
  /** Limits the responses of all nodes. */
  readonly retained: RetainedResponses;
  /** Slots of generators. */
  readonly #slots: Quota;
  readonly #released: BrokerSubscription | undefined;
  #isLeaving = false;
  #isClosed = false;

  constructor(limits: ResponseLimits, parts: StoredResponsesParts) {
    this.#limits = limits;
    this.#parts = parts;
    this.#slots = parts.quotas.open({
      limit: "responses.maxRunning",
      verb: VERB,
      what: "running responses",
      max: limits.maxRunning,
      ...limits.runningShares,
      isCostly: true,
      remedies: {
        user:
          "request a running one again by its id, which a page should keep across reloads, or " +
          "raise maxRunningPerUser of resumable()",
        address: "raise maxRunningPerAddress of resumable()",
        server: "raise maxRunning of resumable()",
      },
      retryAfterMs: RETRY_MS,
      isOwnToFree: true,
    });
    const { runtime, broker, streams, nodes, resumeOf } = parts;
    this.abandoned = new AbandonedResponses({ runtime, quota: this.#slots, streams, nodes });
    this.retained = new RetainedResponses({ runtime, streams, limits });
    parts.quotas.add("responses.maxRetained", this.retained);
    this.#released = resumeOf && broker.subscribe(RELEASED, () => streams.search());
  }

  /** Number of responses whose generator runs on this node. */
  get running(): number {
    return this.#running.size;
  }

  /** Lists the streams of running responses. */
  ids(): Set<string> {
    return new Set(Array.from(this.#running, ({ writer }) => writer.id));
  }

  /**
   * Starts a response, unless the same caller has already requested it by this name.
   *
   * @returns Id of the durable stream.
   * @throws {RequestError} With the code `malformed` if the name is invalid, `gone` if the response
   * has expired, was dropped, or is no longer kept although the caller has a part of it, `too-many`
   * if a limit has been reached, or `unavailable` if the broker is unreachable.
   */
  begin(request: ResponseStart): Promise<string> {
    return this.#noted(this.#begin(request));
  }

  async #begin(request: ResponseStart): Promise<string> {
    const { topic, user, name, begun, account: { guest } } = request;
    if (!NAME.test(name)) {
      const rule = "16 to 64 letters, digits, hyphens and underscores";
      throw new RequestError("malformed", `Cannot start a response: its name must have ${rule}`);
    }
    if (this.#isClosed) throw new RequestError("unavailable", "The server is closed");
    const { runtime, streams } = this.#parts;
    const id = await responseId(runtime, { topic, user, guest, name });
    try {
      do {
        // The same request from another tab waits, so that the response is paid for once.
        await this.#creating.get(id)?.catch(() => {});
        const found = await streams.findResponse(id);
        if (found === "kept") return id;
        if (found === "dropped") throw new RequestError("gone", DROPPED_REASON);
        if (found === "expired") throw new RequestError("gone", "The response has expired");
        if (begun) throw new RequestError("gone", streams.goneReason(id, { mayBeLost: true }));
      } while (this.#creating.has(id));
      const creating = this.#create(id, request).finally(() => this.#creating.delete(id));
      this.#creating.set(id, creating);
      return await creating;
    } catch (error) {
      if (error instanceof RequestError && error.failure.code === "exists") return id;
      throw requestErrorOf(error);
    }
  }

  /** Creates the stream of a response, and starts its generator. */
  async #create(id: string, request: ResponseStart): Promise<string> {
    const { topic, input, user, cost, account, generate, onError = this.#onError } = request;
    const { streams, durableStreams, resumeOf } = this.#parts;
    const { retainMs: ttlMs } = this.#limits;
    const slot = this.take(account);
    try {
      this.#parts.charge(account, cost, VERB);
    } catch (error) {
      slot[Symbol.dispose]();
      throw error;
    }
    const canResume = resumeOf?.(topic) !== undefined;
    try {
      // The request is kept first, so that another node can always take the stream over.
      if (canResume) await this.#keepRequest(id, { topic, input, user });
      const leaseMs = canResume ? RESUME_LEASE_MS : LEASE_MS;
      const writer = await this.retained.keep({ id, account }, (keys) => {
        return durableStreams.createLeased(id, { ttlMs, leaseMs, owner: keys });
      });
      const begun = { writer, account, slot, canResume, onError };
      void this.#run(begun, ({ stop: { signal } }) => generate(signal));
    } catch (error) {
      slot[Symbol.dispose]();
      // The next attempt keeps the request again.
      if (canResume && error instanceof LimitError) await streams.delete(requestLog(id));
      throw error;
    }
    return id;
  }

  /**
   * Takes over a response whose writer is lost, if this node can continue it.
   *
   * @returns True if the response has a writer on any node, or has ended.
   * @throws {BrokerError} If the broker is unreachable.
   */
  rescue(id: string): Promise<boolean> {
    return this.#noted(this.#rescue(id));
  }

  async #rescue(id: string): Promise<boolean> {
    const request = await this.#readNote<StoredRequest>(id, "first");
    const resume = request && this.#parts.resumeOf?.(request.topic);
    const isFull = this.#slots.taken >= this.#limits.maxRunning;
    if (resume === undefined || this.#isLeaving || isFull) return false;
    // The response had a slot before; its address is not known here.
    const account = this.#parts.quotas.accounts.of({ user: request!.user });
    const slot = this.take(account, { ignoresShares: true });
    try {
      const writer = await this.#parts.durableStreams.openLeased(id, RESUME_LEASE_MS);
      const again = { request: request!, resume };
      const taken = { writer, account, slot, canResume: true, onError: this.#onError };
      void this.#run(taken, (running) => this.#resume(running, again));
      return true;
    } catch (error) {
      slot[Symbol.dispose]();
      if (error instanceof RequestError) return true; // Another node was first, or the stream has ended.
      throw error;
    }
  }

  /**
   * Releases responses to other nodes, and waits for those that no other node can resume.
   *
   * @param options `hasOthers` is true if other nodes share the broker. The other options are the
   * time limit for the remaining responses, and a signal that ends the wait.
   */
  async drain(
    { hasOthers, withinMs: timeoutMs, signal }: {
      readonly hasOthers: boolean;
      readonly withinMs: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<void> {
    this.#isLeaving ||= hasOthers;
    const leaving = [...this.#running].filter(({ canResume }) => canResume && hasOthers);
    await this.#release(leaving);
    const rest = [...this.#running].map(({ over }) => over.promise);
    // `over` never rejects; `close` ends late responses.
    await within(this.#parts.runtime, Promise.all(rest), { timeoutMs, signal }).catch(() => {});
  }

  /**
   * Ends the responses of this node. Responses that another node can resume stay open; the others
   * end with the error `writer-lost`. Idempotent.
   */
  async close(): Promise<void> {
    this.#isLeaving = this.#isClosed = true;
    this.abandoned.close();
    const begun = Promise.allSettled(this.#beginning);
    await this.#release([...this.#running]);
    await settlesWithin(this.#parts.runtime, begun, CLOSE_MS);
    // Responses whose streams the broker created in between.
    await this.#release([...this.#running]);
    await this.#released?.[Symbol.asyncDispose]();
  }

  /**
   * Takes the slot of a running response, which may also have no stream.
   *
   * @throws {LimitError} If a limit is reached.
   */
  take(account: Account, options?: TakeOptions): Slot {
    const slot = this.#slots.take(account, options);
    this.abandoned.taken();
    return slot;
  }

  async #noted<T>(beginning: Promise<T>): Promise<T> {
    this.#beginning.add(beginning);
    try {
      return await beginning;
    } finally {
      this.#beginning.delete(beginning);
    }
  }

  readonly #onError = (error: unknown) => this.#parts.report("The handler of a response", error);

  async #release(responses: readonly Running[]): Promise<void> {
    if (responses.length === 0) return;
    const { runtime, broker } = this.#parts;
    for (const { stop } of responses) stop.abort(new Released());
    const all = Promise.all(responses.map(({ over }) => over.promise));
    await settlesWithin(runtime, all, CLOSE_MS);
    if (!responses.some(({ canResume }) => canResume)) return;
    try {
      // If a node misses this message, its next search finds the responses.
      broker.publish({ topic: RELEASED, payload: "" });
    } catch (error) {
      // The application closed the broker first.
      if (!(error instanceof UnsupportedError)) throw error;
    }
  }

  async #keepRequest(id: string, request: StoredRequest): Promise<void> {
    const { kind } = await this.#parts.streams.create(requestLog(id), {
      contentType: "application/json",
      ttlMs: this.#limits.retainMs,
      records: [encode(request)],
    });
    if (kind === "too-many") {
      throw new LimitError("responses.maxRetained", "Cannot keep a response: too many are running");
    }
    if (kind === "no-space") {
      throw new LimitError("maxTotalBytes", `Cannot keep a response: ${NO_SPACE}`);
    }
    if (kind === "full") {
      throw new RequestError("too-large", "The request is too large for a resumable response");
    }
  }

  /** Reads the first or the newest record of the log that contains a response's request. */
  async #readNote<T>(id: string, which: "first" | "newest"): Promise<T | undefined> {
    const { streams } = this.#parts;
    const log = requestLog(id);
    const found = await streams.info(log);
    if (found.kind !== "page") return undefined;
    const after = which === "first" ? 0 : found.info.tail - 1;
    const page = await streams.read(log, { after, maxRecords: 1, maxBytes: 1 });
    const [record] = page.kind === "page" ? page.records : [];
    return typeof record === "string" ? JSON.parse(record) : undefined;
  }

  async #note(id: string, note: Takeover): Promise<void> {
    await this.#parts.streams.append(requestLog(id), { records: [JSON.stringify(note)] });
  }

  /** Continues a response that this node took over. */
  async #resume(
    running: Running,
    { request, resume }: { readonly request: StoredRequest; readonly resume: ResumeResponse },
  ): Promise<AsyncIterable<unknown>> {
    const { writer: { id }, stop: { signal } } = running;
    const readNote = () => this.#readNote<Partial<Takeover>>(id, "newest");
    const { lost = 0, isReleased } = await this.#persist(signal, readNote) ?? {};
    running.lost = isReleased ? lost : lost + 1;
    if (running.lost > MAX_TAKEOVERS) throw new RequestError(WRITER_LOST, "Too many takeovers");
    await this.#persist(signal, () => this.#note(id, { lost: running.lost }));
    const pauseMs = running.lost < 2 ? 0 : TAKEOVER_PAUSE.firstMs * 2 ** (running.lost - 2);
    await pause(this.#parts.runtime, Math.min(TAKEOVER_PAUSE.mostMs, pauseMs), signal);
    const progress = await this.#persist(signal, () => this.#readProgress(id));
    signal.throwIfAborted();
    return await resume(request, { ...progress, signal });
  }

  /** Retries a call while the broker is unreachable, until this node loses the response. */
  #persist<T>(signal: AbortSignal, call: () => Promise<T>): Promise<T> {
    const { runtime } = this.#parts;
    const attempt = async () => {
      signal.throwIfAborted();
      return await call();
    };
    return whileUnreachable(attempt, { runtime, signal });
  }

  /** Reads the newest items, within the bounds of `written`. */
  async #readProgress(id: string): Promise<Omit<ResponseProgress, "signal">> {
    const { streams } = this.#parts;
    const found = await streams.info(id);
    const count = found.kind === "page" ? found.info.tail : 0;
    const written: string[] = [];
    let bytes = 0;
    for (let after = Math.max(0, count - MAX_WRITTEN.items); after < count;) {
      const bounds = { maxRecords: 1_000, maxBytes: MAX_WRITTEN.bytes };
      const page = await streams.read(id, { after, startsAtOldest: true, ...bounds });
      if (page.kind !== "page" || page.records.length === 0) break;
      written.push(...page.records as readonly string[]);
      bytes += recordBytes(page.records);
      let drops = 0;
      while (bytes > MAX_WRITTEN.bytes) bytes -= recordBytes([written[drops++]!]);
      written.splice(0, drops);
      after = page.next;
    }
    return { written: written.map((record) => JSON.parse(record)), count };
  }

  /** Writes the items of a generator until the generator or the stream ends. Never rejects. */
  async #run(
    response: Pick<Running, "writer" | "account" | "slot" | "canResume" | "onError">,
    make: (running: Running) => ReturnType<ResponseStart["generate"]>,
  ): Promise<void> {
    const { writer, account, slot } = response;
    const stop = new AbortController();
    const { signal } = stop;
    const running: Running = { ...response, lost: 0, stop, over: Promise.withResolvers() };
    this.#running.add(running);
    const onAbort = () => stop.abort(writer.signal.reason);
    writer.signal.addEventListener("abort", onAbort);
    if (writer.signal.aborted) onAbort();
    if (this.#isClosed) stop.abort(new Released());
    const end = (reason: RequestError) => stop.abort(reason);
    const watch = this.abandoned.watch({ id: writer.id, account, end });
    const making = signal.aborted
      ? Promise.reject(signal.reason)
      : Promise.try(make, running).then((items) => items[Symbol.asyncIterator]());
    making.catch(() => {}); // The wait may end by the signal.
    try {
      await this.#writeAll(await abortable(making, signal), running);
      await writer.close();
      await this.#forget(running);
    } catch (error) {
      await this.#end(running, signal.aborted ? signal.reason : error);
    }
    writer.signal.removeEventListener("abort", onAbort);
    watch[Symbol.dispose]();
    this.#running.delete(running);
    if (!(signal.reason instanceof Released)) this.retained.ended(writer.id);
    running.over.resolve();
    if (signal.aborted) {
      // A generator that ignores its signal keeps its slot.
      await making.then((iterator) => iterator.return?.()).catch((error) => {
        if (error !== signal.reason) response.onError(error);
      });
    }
    slot[Symbol.dispose]();
  }

  async #writeAll(iterator: AsyncIterator<unknown>, { writer, stop }: Running): Promise<void> {
    const { runtime } = this.#parts;
    const { signal } = stop;
    const onError = (error: unknown) => stop.abort(error);
    let kept: Promise<unknown> | undefined;
    for (let count = 1;; count++) {
      if (writer.isUncertain) await abortable(writer.confirmed, signal);
      const next = await abortable(Promise.resolve(iterator.next()), signal);
      if (next.done) break;
      kept = writer.append(next.value);
      kept.catch(onError);
      await abortable(writer.ready, signal);
      if (count % ITEMS_PER_TURN === 0) await new Promise<void>((end) => runtime.schedule(end));
    }
    await kept;
  }

  /** Ends the stream of an incomplete response, or releases it to another node. */
  async #end(running: Running, error: unknown): Promise<void> {
    const { writer, canResume, lost } = running;
    const { report } = this.#parts;
    try {
      if (error instanceof Released && canResume) {
        // This order, within one turn, ensures that no other node takes this node for crashed.
        await Promise.all([this.#note(writer.id, { lost, isReleased: true }), writer.offer()]);
        return;
      }
      const isLost = writer.signal.aborted && error === writer.signal.reason && !isReaders(error);
      if (isLost) return writer.drop();
      const { code, message } = writtenEnd(error);
      if (code === FAILED) running.onError(error);
      await writer.abort(message, { code });
      await this.#forget(running);
    } catch (failure) {
      // The stream belongs to another node, or will have no writer.
      if (!(failure instanceof RequestError)) report("The end of a response", failure);
    }
  }

  /** Deletes the request of a finished response; otherwise it expires. */
  async #forget({ writer, canResume }: Running): Promise<void> {
    if (!canResume) return;
    try {
      await this.#parts.streams.delete(requestLog(writer.id));
    } catch (error) {
      if (!(error instanceof BrokerError)) this.#parts.report("The end of a response", error);
    }
  }
}

/** Code for a handler error without a code. */
const FAILED = "failed";

/** Checks whether a writer's error ended the stream for its readers. */
function isReaders(error: unknown): boolean {
  return error instanceof RequestError && ["cancelled", "full"].includes(error.failure.code);
}

/** The end of a response's stream, for its readers. */
function writtenEnd(error: unknown): { readonly code: string; readonly message: string } {
  if (!(error instanceof RequestError)) return { code: FAILED, message: "The handler failed" };
  const { code, message } = error.failure;
  const isLost = error instanceof Released || code === WRITER_LOST;
  if (isLost) return { code: ABORTED, message: WRITER_LOST };
  return { code: isEndCode(code) ? code : ABORTED, message: message || `The response was ${code}` };
}

/** Converts an error of the broker to a `RequestError`. */
function requestErrorOf(error: unknown): unknown {
  if (error instanceof BrokerError) return new RequestError("unavailable", error.message);
  return error instanceof LimitError ? rejectionOf(error) : error;
}

function encode(request: StoredRequest): string {
  if (request.input instanceof Uint8Array) {
    throw new RequestError("malformed", "A resumable response must not have a binary request");
  }
  return JSON.stringify(request);
}
