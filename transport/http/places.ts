/**
 * Places for requests that wait for events, which the tabs of an origin share. Web Locks assign them
 * exactly, but exist only in secure contexts. Elsewhere, the tabs agree over a `BroadcastChannel`.
 */
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * The number of places for one server. Browsers allow six connections to a host over HTTP/1.1, so
 * three remain for all other requests of the tabs.
 */
export const PLACES = 3;

/** How long a tab waits for the other tabs before it takes a place, in milliseconds. */
export const ANSWER_MS = 150;

/** The time after which a tab that the others have not heard from has no place, in milliseconds. */
export const LEASE_MS = 3_000;

interface LockName {
  readonly name?: string | undefined;
}

/** The part of the Web Locks API that a place uses. */
export interface Locks {
  request(
    name: string,
    options: {
      readonly ifAvailable?: boolean;
      readonly signal?: AbortSignal;
      readonly steal?: boolean;
    },
    callback: (lock: unknown) => Promise<void> | undefined,
  ): Promise<unknown>;
  query(): Promise<{
    readonly held?: readonly LockName[] | undefined;
    readonly pending?: readonly LockName[] | undefined;
  }>;
}

/** The part of a `BroadcastChannel` that a place uses. */
export interface Channel {
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  postMessage(data: unknown): void;
  close(): void;
}

/** The part of one client in the places for a server. */
export interface Place {
  /** Aborts when another tab gets the place. It is `undefined` while the client has no place. */
  readonly held: AbortSignal | undefined;
  /**
   * Requests a place, and stays in line for it while the tab is visible. Resolves once a place that
   * was free is held. Never rejects.
   */
  want(): Promise<void>;
  /** Says whether the tab has been hidden for a while, so that its place is free for visible tabs. */
  hide(isHidden: boolean): void;
  /** Gives the place back, and leaves the line. */
  release(): void;
}

/**
 * A place that Web Locks assign.
 *
 * - **Line:** visible tabs wait for each of the places, and receive one in the order of their
 *   requests. A hidden tab takes only a place that is free.
 * - **Hidden:** a hidden tab with a place holds one more lock, its offer. A visible tab in line steals
 *   that lock, and the hidden tab then gives back its place.
 * - **Crashes:** the browser releases the locks of a tab that has ended.
 */
export class LockPlace implements Place {
  readonly #locks: Locks;
  readonly #onChange: () => void;
  readonly #onDenied: () => void;
  readonly #names: readonly string[];
  readonly #offers: string;
  readonly #offer: string;
  #held: AbortController | undefined;
  /** The requests of a tab in line. */
  #line: AbortController | undefined;
  #isTrying = false;
  #isWanted = false;
  #isHidden = false;
  #withdraw: (() => void) | undefined;

  /**
   * @param name The name that all clients of the server share.
   * @param id The id of this client.
   * @param onChange Called when the client has received or lost a place.
   * @param onDenied Called when the page may not use locks, for example in a sandboxed frame,
   * or because storage is disabled.
   */
  constructor(
    locks: Locks,
    { name, id, onChange, onDenied }: {
      readonly name: string;
      readonly id: string;
      readonly onChange: () => void;
      readonly onDenied: () => void;
    },
  ) {
    this.#locks = locks;
    this.#onChange = onChange;
    this.#onDenied = onDenied;
    this.#names = Array.from({ length: PLACES }, (_, i) => `${name}#${i}`);
    this.#offers = `${name}#offer `;
    this.#offer = this.#offers + id;
  }

  get held(): AbortSignal | undefined {
    return this.#held?.signal;
  }

  async want(): Promise<void> {
    this.#isWanted = true;
    if (this.#held || this.#isTrying) return;
    this.#isTrying = true;
    for (const name of this.#names) {
      if (this.#line || await this.#request(name, { ifAvailable: true })) break;
    }
    this.#isTrying = false;
    if (this.#held || !this.#isWanted || this.#isHidden) return;
    if (!this.#line) {
      const line = this.#line = new AbortController();
      for (const name of this.#names) void this.#request(name, { signal: line.signal });
    }
    // The requests come first, so that either this tab sees the offer, or the other one the line.
    const offer = (await this.#query("held")).find((name) => name.startsWith(this.#offers));
    if (offer && this.#line) {
      this.#locks.request(offer, { steal: true }, () => undefined).catch(() => {});
    }
  }

  hide(isHidden: boolean): void {
    this.#isHidden = isHidden;
    if (!isHidden) this.#endOffer();
    else if (this.#held) void this.#startOffer();
    else this.#leaveLine();
  }

  release(): void {
    this.#isWanted = false;
    this.#leaveLine();
    this.#giveBack();
  }

  /** Requests a lock. Resolves with true once it is held, and false if it is not needed or not free. */
  #request(name: string, options: Parameters<Locks["request"]>[1]): Promise<boolean> {
    return new Promise<boolean>((resolve, reject) => {
      this.#locks.request(name, options, (lock) => {
        const isTaken = lock !== null && this.#isWanted && !this.#held;
        resolve(isTaken);
        return isTaken ? this.#hold() : undefined;
      }).catch(reject);
    }).catch((error) => {
      if (error?.name !== "AbortError") this.#onDenied();
      return false;
    });
  }

  #hold(): Promise<void> {
    const held = this.#held = new AbortController();
    this.#leaveLine();
    if (this.#isHidden) void this.#startOffer();
    this.#onChange();
    return new Promise((resolve) => held.signal.addEventListener("abort", () => resolve()));
  }

  #giveBack(): void {
    const held = this.#held;
    this.#endOffer();
    this.#held = undefined;
    held?.abort();
    if (held) this.#onChange();
  }

  #leaveLine(): void {
    this.#line?.abort();
    this.#line = undefined;
  }

  async #startOffer(): Promise<void> {
    if (this.#withdraw) return;
    let isOver = false;
    const giveBack = () => {
      if (!isOver) this.#giveBack();
    };
    const ended = new Promise<void>((resolve) => {
      this.#withdraw = () => {
        isOver = true;
        resolve();
      };
    });
    this.#locks.request(this.#offer, {}, () => ended).catch(giveBack);
    const pending = await this.#query("pending");
    if (pending.some((name) => this.#names.includes(name))) giveBack();
  }

  #endOffer(): void {
    this.#withdraw?.();
    this.#withdraw = undefined;
  }

  async #query(kind: "held" | "pending"): Promise<string[]> {
    const locks = await this.#locks.query().catch(() => undefined);
    return locks?.[kind]?.map(({ name = "" }) => name) ?? [];
  }
}

/** The state of one client, as the others receive it. */
interface Notice {
  readonly id: string;
  readonly holds: boolean;
  readonly wants: boolean;
  readonly isHidden: boolean;
  /** The time at which the client received its place, or else requested one. */
  readonly since: number;
  /** True if the others must respond with their own state. */
  readonly asks: boolean;
}

/**
 * A place that the tabs assign among themselves.
 *
 * - **Order:** visible tabs with a place come first, then visible tabs in line, then hidden tabs with
 *   a place, then others; earlier ones before later ones. The first tabs have the places, so a hidden
 *   tab gives its place to a visible one.
 * - **Asking:** a tab in line asks the others, which respond immediately, and decides after
 *   {@linkcode ANSWER_MS}. An idle tab sends nothing. If a busy tab responds later than that, too many
 *   tabs may have a place, and the last of them gives it back once it receives the responses.
 * - **Crashes:** a tab counts for {@linkcode LEASE_MS} after its last message.
 */
export class ChannelPlace implements Place {
  readonly #runtime: Runtime;
  readonly #channel: Channel;
  readonly #id: string;
  readonly #onChange: () => void;
  // Bounded by the tabs of the origin; each is removed after its lease.
  readonly #others = new Map<string, Notice & { readonly receivedAt: number }>();
  #held: AbortController | undefined;
  #wants = false;
  #isHidden = false;
  #since = 0;
  #askedAt = -Infinity;
  #timer: Timer | undefined;

  /**
   * @param id The id of this client.
   * @param onChange Called when the client has received or lost a place.
   */
  constructor(
    channel: Channel,
    { runtime, id, onChange }: {
      readonly runtime: Runtime;
      readonly id: string;
      readonly onChange: () => void;
    },
  ) {
    this.#channel = channel;
    this.#runtime = runtime;
    this.#id = id;
    this.#onChange = onChange;
    channel.onmessage = ({ data }) => this.#receive(data);
  }

  get held(): AbortSignal | undefined {
    return this.#held?.signal;
  }

  want(): Promise<void> {
    if (!this.#wants) this.#since = this.#runtime.now();
    this.#wants = true;
    if (!this.#held && this.#timer === undefined) this.#ask();
    return Promise.resolve();
  }

  hide(isHidden: boolean): void {
    if (this.#isHidden === isHidden) return;
    this.#isHidden = isHidden;
    // The responses of the others show whether one of them needs the place.
    if (this.#wants) this.#say(isHidden);
  }

  release(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#wants) return;
    this.#wants = false;
    if (!this.#giveBack()) this.#say();
  }

  #ask(): void {
    this.#askedAt = this.#runtime.monotonic();
    this.#timer = this.#runtime.setTimeout(() => {
      this.#timer = undefined;
      this.#decide();
    }, ANSWER_MS);
    this.#say(true);
  }

  get #notice(): Notice {
    const [holds, wants] = [this.#held !== undefined, this.#wants];
    const [isHidden, since] = [this.#isHidden, this.#since];
    return { id: this.#id, holds, wants, isHidden, since, asks: false };
  }

  #say(asks = false): void {
    this.#channel.postMessage({ ...this.#notice, asks });
  }

  #receive(data: unknown): void {
    const notice = data as Notice;
    this.#others.delete(notice.id);
    if (notice.wants) {
      this.#others.set(notice.id, { ...notice, receivedAt: this.#runtime.monotonic() });
    }
    if (!this.#wants) return;
    if (notice.asks) this.#say();
    if (this.#held || this.#timer === undefined) this.#decide();
  }

  /** Takes or gives back the place, as the order requires. */
  #decide(): void {
    const now = this.#runtime.monotonic();
    for (const [id, { receivedAt }] of this.#others) {
      if (now - receivedAt >= LEASE_MS) this.#others.delete(id);
    }
    const own = this.#notice;
    const others = [...this.#others.values()];
    const isFirst = others.filter((other) => isBefore(other, own)).length < PLACES;
    if (this.#held) {
      if (!isFirst) this.#giveBack();
      return;
    }
    if (!isFirst || others.filter(({ holds }) => holds).length >= PLACES) return;
    // The others may have changed without a message, as after a crash.
    if (now - this.#askedAt >= LEASE_MS) return this.#ask();
    this.#held = new AbortController();
    this.#since = this.#runtime.now();
    this.#say();
    this.#onChange();
  }

  #giveBack(): boolean {
    const held = this.#held;
    if (!held) return false;
    this.#held = undefined;
    this.#since = this.#runtime.now();
    held.abort();
    this.#say();
    this.#onChange();
    return true;
  }
}

function isBefore(a: Notice, b: Notice): boolean {
  if (a.isHidden !== b.isHidden) return b.isHidden;
  if (a.holds !== b.holds) return a.holds;
  return a.since !== b.since ? a.since < b.since : a.id < b.id;
}
