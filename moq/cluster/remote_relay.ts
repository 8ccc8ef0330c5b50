/** Another relay of a cluster, dialed on demand. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import type { TrackOrigin } from "../live/relay_source.ts";
import type { MoqSession } from "../session/session.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import { MoqError } from "../wire/errors.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { BroadcastPath } from "../wire/path.ts";

/** The version between relays of a cluster: has hops, fetches and timestamps. */
export const CLUSTER_VERSION = "moq-lite-05";

const DIAL_TIMEOUT_MS = 10_000;

/** The delay before dialing again after a failure, in milliseconds. */
const RETRY_MS = 1_000;

/** Dials another relay of the cluster; see `dial` of `MoqClusterOptions`. */
export type MoqClusterDial = (
  url: string,
  options: { readonly mux: TrackMux; readonly signal: AbortSignal },
) => Promise<MoqSession>;

/** Services of the cluster for a remote relay. */
export interface RemoteRelayOptions {
  readonly runtime: Runtime;
  readonly dial: MoqClusterDial;
  /** A mux without publications. */
  readonly mux: TrackMux;
  /** The time for which an unused session is kept, in milliseconds. */
  readonly lingerMs: number;
  /** Receives errors of dialing. */
  report(error: unknown): void;
  /** Called when a session closes. */
  onLeft(): void;
}

/** Another relay, reached over one session at a time. */
export class RemoteRelay implements TrackOrigin {
  readonly version = CLUSTER_VERSION;
  /** Resolves at {@linkcode close}. */
  readonly closed: Promise<void>;
  /** Broadcasts that the relay holds. */
  readonly paths: Set<BroadcastPath> = new Set();
  /** The URL for the next attempt to dial. */
  url: string;

  readonly #link: RemoteRelayOptions;
  readonly #closed = Promise.withResolvers<void>();
  readonly #ending = new AbortController();
  /** More than one only while an old session drains. */
  readonly #sessions = new Set<MoqSession>();
  readonly #fetches = new Set<GroupReader>();
  #current: Promise<MoqSession> | undefined;
  #failedAt: number | undefined;
  #requests = 0;
  /** `true` if the last check found the session unused, and no request followed. */
  #isUnused = false;

  constructor(url: string, link: RemoteRelayOptions) {
    this.url = url;
    this.#link = link;
    this.closed = this.#closed.promise;
  }

  get isClosed(): boolean {
    return this.#ending.signal.aborted;
  }

  get sessions(): number {
    return this.#sessions.size;
  }

  /** Subscribes to a track of the relay. */
  subscribe(...args: Parameters<TrackOrigin["subscribe"]>): Promise<TrackReader> {
    return this.#ask((session) => session.subscribe(...args), args[2]?.signal);
  }

  /** Fetches a group from the relay. */
  async fetch(...args: Parameters<TrackOrigin["fetch"]>): Promise<GroupReader> {
    const reader = await this.#ask((session) => session.fetch(...args), args[2].signal);
    this.#fetches.add(reader);
    return reader;
  }

  /** Requests the fixed properties of a track from the relay. */
  trackInfo(...args: Parameters<TrackOrigin["trackInfo"]>): Promise<TrackInfoMessage> {
    return this.#ask((session) => session.trackInfo(...args), args[2]?.signal);
  }

  /** Closes all sessions and rejects further requests. Idempotent. */
  async close(): Promise<void> {
    this.#ending.abort(new MoqError("subscribe", "unroutable", "The relay left the cluster"));
    this.#closed.resolve();
    await Promise.all([...this.#sessions].map((session) => session[Symbol.asyncDispose]()));
  }

  async #ask<T>(
    question: (session: MoqSession) => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    this.#ending.signal.throwIfAborted();
    this.#requests++;
    this.#isUnused = false;
    try {
      return await question(await within(this.#link.runtime, this.#session(), { signal }));
    } finally {
      this.#requests--;
    }
  }

  #session(): Promise<MoqSession> {
    if (
      this.#failedAt !== undefined &&
      Math.abs(this.#link.runtime.now() - this.#failedAt) >= RETRY_MS
    ) {
      this.#failedAt = undefined;
      this.#current = undefined;
    }
    return this.#current ??= this.#dial();
  }

  async #dial(): Promise<MoqSession> {
    const { dial, mux, report } = this.#link;
    const { signal } = this.#ending;
    const attempt = new AbortController();
    try {
      const dialing = dial(this.url, { mux, signal: AbortSignal.any([signal, attempt.signal]) });
      const session = await within(this.#link.runtime, dialing, {
        late: "The relay did not respond within",
        signal,
        timeoutMs: DIAL_TIMEOUT_MS,
        discard: (session) => session.close(),
      });
      if (session.mux !== mux || session.version !== CLUSTER_VERSION) {
        session.close();
        throw new TypeError(
          `Cannot dial: the session must have the given mux and speak ${CLUSTER_VERSION}, ` +
            `received ${session.version}`,
        );
      }
      this.#begin(session);
      return session;
    } catch (cause) {
      attempt.abort(cause);
      this.#failedAt = this.#link.runtime.now();
      // Without the query, which may contain a token.
      const message = `Cannot reach the relay at ${this.url.split("?")[0]}`;
      const error = new MoqError("subscribe", "unroutable", message, { cause });
      if (!signal.aborted) report(error);
      throw error;
    }
  }

  #begin(session: MoqSession): void {
    const current = this.#current;
    const forget = () => {
      if (this.#current === current) this.#current = undefined;
    };
    this.#sessions.add(session);
    const { runtime, lingerMs } = this.#link;
    let timer: Timer | undefined;
    const check = () => {
      timer = runtime.setTimeout(check, lingerMs);
      this.#closeIfUnused(session);
    };
    timer = runtime.setTimeout(check, lingerMs);
    void session.closed.then(() => {
      runtime.clearTimeout(timer);
      this.#sessions.delete(session);
      forget();
      this.#link.onLeft();
    });
    void session.draining.then(async () => {
      // Later requests need another session; open subscriptions may end on this one.
      forget();
      await Promise.all(session.subscriptions.map(({ closed }) => closed));
      session.close();
    });
  }

  /** Closes a session that is unused in two consecutive checks. */
  #closeIfUnused(session: MoqSession): void {
    for (const reader of this.#fetches) if (reader.isEnded) this.#fetches.delete(reader);
    const isIdle = this.#requests + this.#fetches.size + session.subscriptions.length === 0;
    if (isIdle && this.#isUnused) session.close();
    this.#isUnused = isIdle;
  }
}
