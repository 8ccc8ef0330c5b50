/**
 * Another relay of a cluster, which is dialed once it is needed.
 *
 * @module
 */
import { within } from "../../../transport/within.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { RelayedFrom } from "../live/relay_source.ts";
import type { MoqSession } from "../session/session.ts";
import type { TrackInfoMessage } from "../wire/messages.ts";
import type { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { BroadcastPath } from "../wire/path.ts";
import { MoqError } from "../wire/errors.ts";

/** What relays of a cluster speak to each other: with hops, fetches and timestamps. */
export const CLUSTER_VERSION = "moq-lite-05";

/** How long dialing may take, in milliseconds. */
const DIAL_TIMEOUT_MS = 10_000;

/** How long a relay that could not be reached is not dialed again, in milliseconds. */
const RETRY_MS = 1_000;

/**
 * Dials another relay of the cluster. The session MUST have the mux that is given, and speak
 * `moq-lite-05`.
 *
 * @param url What that relay said of itself.
 * @param options The mux, which publishes nothing, and what gives up dialing.
 * @returns The session.
 */
export type MoqClusterDial = (
  url: string,
  options: { readonly mux: TrackMux; readonly signal: AbortSignal },
) => Promise<MoqSession>;

/** What a far relay needs of its cluster. */
export interface FarRelayLink {
  /** Opens a session. */
  readonly dial: MoqClusterDial;
  /** Publishes nothing. */
  readonly mux: TrackMux;
  /** How long a session is kept that nobody needs. */
  readonly lingerMs: number;
  /** Gets what dialing failed of. */
  report(error: unknown): void;
  /** Called when a session with it is over. */
  onLeft(): void;
}

/** Another relay: one session at a time, for all that is asked of it. */
export class FarRelay implements RelayedFrom {
  /** What its sessions speak. */
  readonly version = CLUSTER_VERSION;
  /** Resolves when it is given up. */
  readonly closed: Promise<void>;
  /** What it holds. */
  readonly paths: Set<BroadcastPath> = new Set();
  /** Where to dial it the next time. */
  url: string;

  readonly #link: FarRelayLink;
  readonly #closed = Promise.withResolvers<void>();
  readonly #ending = new AbortController();
  /** More than one only while one of them winds up. */
  readonly #sessions = new Set<MoqSession>();
  readonly #fetches = new Set<GroupReader>();
  #current: Promise<MoqSession> | undefined;
  #failedAt: number | undefined;
  /** Questions that are on their way. */
  #asking = 0;
  /** Nothing was asked since the last look at the session. */
  #isQuiet = false;

  /** Dials nobody yet. */
  constructor(url: string, link: FarRelayLink) {
    this.url = url;
    this.#link = link;
    this.closed = this.#closed.promise;
  }

  /** Whether it was given up. */
  get isClosed(): boolean {
    return this.#ending.signal.aborted;
  }

  /** How many sessions there are with it. */
  get sessions(): number {
    return this.#sessions.size;
  }

  /** Subscribes there. */
  subscribe(...args: Parameters<RelayedFrom["subscribe"]>): Promise<TrackReader> {
    return this.#ask((session) => session.subscribe(...args), args[2]?.signal);
  }

  /** Fetches a group there. */
  async fetch(...args: Parameters<RelayedFrom["fetch"]>): Promise<GroupReader> {
    const reader = await this.#ask((session) => session.fetch(...args), args[2].signal);
    this.#fetches.add(reader);
    return reader;
  }

  /** Asks there what stays true of a track. */
  trackInfo(...args: Parameters<RelayedFrom["trackInfo"]>): Promise<TrackInfoMessage> {
    return this.#ask((session) => session.trackInfo(...args), args[2]?.signal);
  }

  /** Gives it up. Idempotent. */
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
    this.#asking++;
    this.#isQuiet = false;
    try {
      return await question(await within(this.#session(), { signal }));
    } finally {
      this.#asking--;
    }
  }

  #session(): Promise<MoqSession> {
    if (this.#failedAt !== undefined && Math.abs(Date.now() - this.#failedAt) >= RETRY_MS) {
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
      const session = await within(dialing, {
        late: "Cannot dial longer than",
        signal,
        timeoutMs: DIAL_TIMEOUT_MS,
        discard: (session) => session.close(),
      });
      if (session.mux !== mux || session.version !== CLUSTER_VERSION) {
        session.close();
        throw new TypeError(
          `Cannot dial: the session must have the mux that is given and speak ${CLUSTER_VERSION}, ` +
            `received ${session.version}`,
        );
      }
      this.#begin(session);
      return session;
    } catch (cause) {
      attempt.abort(cause);
      this.#failedAt = Date.now();
      // Without the query, where tokens are.
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
    const timer = setInterval(() => this.#look(session), this.#link.lingerMs);
    void session.closed.then(() => {
      clearInterval(timer);
      this.#sessions.delete(session);
      forget();
      this.#link.onLeft();
    });
    void session.draining.then(async () => {
      // What is asked from now on needs another session; what is under way may end.
      forget();
      await Promise.all(session.subscriptions.map(({ closed }) => closed));
      session.close();
    });
  }

  /** Closes a session that is found without use two times in a row. */
  #look(session: MoqSession): void {
    for (const reader of this.#fetches) if (reader.isEnded) this.#fetches.delete(reader);
    const isIdle = this.#asking + this.#fetches.size + session.subscriptions.length === 0;
    if (isIdle && this.#isQuiet) session.close();
    this.#isQuiet = isIdle;
  }
}
