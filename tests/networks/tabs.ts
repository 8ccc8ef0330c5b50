/**
 * A browser with several tabs in fake time: six connections to a host for all of them, Web Locks or
 * a `BroadcastChannel`, and timers that run once a minute in hidden tabs.
 *
 * @module
 */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { connectBy, type ConnectOptions, type MakePlatform } from "../../client/connect.ts";
import type { Client } from "../../client/client.ts";
import { denoPlatform } from "../../client/deno.ts";
import type { Channel, Locks } from "../../transport/http/places.ts";
import { type BrowserGlobals, StreamBudget } from "../../transport/http/stream_budget.ts";
import { fallBackToHttp } from "../../transport/race/http_fallback.ts";
import { withLastResort } from "../../transport/race/last_resort.ts";
import { checkTransports } from "../../transport/race/options.ts";

/** The connections that browsers allow to a host over HTTP/1.1. */
export const CONNECTIONS = 6;

/** Options for {@linkcode TabBrowser}. */
export interface TabBrowserOptions {
  readonly serve: (request: Request) => Response | Promise<Response>;
  /** How tabs share places. "denied" is a browser in which the user has disabled storage. */
  readonly shares: "locks" | "channel" | "nothing" | "denied";
  /** The protocol that finished responses name; unknown by default. */
  readonly protocol?: string;
}

export class TabBrowser {
  readonly options: TabBrowserOptions;
  /** Requests that use a connection, with their kind. */
  readonly open = new Set<OpenRequest>();
  /** The most event streams that were open at the same time. */
  mostStreams = 0;
  readonly locks = new LockManager();
  readonly channels = new Set<TabChannel>();
  readonly #waiting: (() => void)[] = [];

  constructor(options: TabBrowserOptions) {
    this.options = options;
  }

  /** The number of open event streams. */
  get streams(): number {
    return [...this.open].filter(({ kind }) => kind === "stream").length;
  }

  tab(): Tab {
    return new Tab(this);
  }

  /** Sends a request, once there is a free connection. */
  async fetch(request: Request, signal: AbortSignal): Promise<Response> {
    const { host } = new URL(request.url);
    const limit = this.options.protocol === "h2" ? Infinity : CONNECTIONS;
    const isFull = () => [...this.open].filter((other) => other.host === host).length >= limit;
    while (isFull()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.push(resolve);
      signal.addEventListener("abort", () => resolve());
      await promise;
      signal.throwIfAborted();
    }
    const poll = request.headers.get("skein-poll");
    const kind = request.method !== "GET" ? "post" : poll === null ? "stream" : "poll";
    const used: OpenRequest = { kind, host };
    this.open.add(used);
    this.mostStreams = Math.max(this.mostStreams, this.streams);
    const end = () => {
      if (!this.open.delete(used)) return;
      for (const go of this.#waiting.splice(0)) go();
    };
    try {
      const response = await this.options.serve(request);
      if (signal.aborted) await response.body?.cancel();
      signal.throwIfAborted();
      if (response.body === null) {
        end();
        return response;
      }
      return new Response(readUntil(response.body, signal, end), response);
    } catch (error) {
      end();
      throw error;
    }
  }
}

interface OpenRequest {
  readonly kind: "stream" | "poll" | "post" | "foreign";
  readonly host: string;
}

/** Forwards a body until its end or an abort. */
function readUntil(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
  onEnd: () => void,
): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>({
    start(controller) {
      signal.addEventListener("abort", () => {
        controller.error(signal.reason);
        onEnd();
        reader.cancel().catch(() => {});
      });
    },
    async pull(controller) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (value) controller.enqueue(value);
      if (!done) return;
      controller.close();
      onEnd();
    },
    async cancel() {
      onEnd();
      await reader.cancel();
    },
  }, { highWaterMark: 0 });
}

/** A tab with any number of clients. */
export class Tab {
  /** The requests of this tab for events. */
  readonly asked: { readonly poll: string | null; readonly at: number }[] = [];
  /** True if timers run once a minute while the tab is hidden. */
  isThrottled = false;
  /** True if nothing runs in this tab any more. */
  isDead = false;
  readonly runtime: Runtime;
  readonly document: EventTarget & { visibilityState: "visible" | "hidden" } = Object.assign(
    new EventTarget(),
    { visibilityState: "visible" as const },
  );
  readonly #browser: TabBrowser;
  readonly #crash = new AbortController();
  readonly #channels: TabChannel[] = [];
  readonly #observers = new Set<(name: string) => void>();

  constructor(browser: TabBrowser) {
    this.#browser = browser;
    const real = platformRuntime();
    this.runtime = Object.assign(platformRuntime(), {
      monotonic: () => Date.now(),
      setTimeout: (callback: () => void, ms: number) => {
        const slowMs = this.#slow(ms);
        return real.setTimeout(() => void (this.isDead || callback()), slowMs);
      },
    });
  }

  connect(url: string, options: ConnectOptions = {}): Client {
    const platform: MakePlatform = () => {
      const checked = checkTransports({ transports: ["http"] });
      const budget = (url: URL, runtime: Runtime) =>
        new StreamBudget(url, { runtime, browser: this.globals });
      const load = () =>
        Promise.resolve({
          fallBackToHttp: ((dial, options) =>
            fallBackToHttp(dial, options, { fetch: this.#fetch, budget })) as typeof fallBackToHttp,
        });
      const never = () => Promise.reject(new Error("Only HTTP"));
      return denoPlatform(withLastResort(never, checked, load));
    };
    return connectBy(platform, url, { runtime: this.runtime, ...options });
  }

  /** Shows or hides the tab. */
  set hidden(isHidden: boolean) {
    this.document.visibilityState = isHidden ? "hidden" : "visible";
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  /** Ends the tab without any notice to its code. */
  crash(): void {
    this.isDead = true;
    this.#crash.abort();
    this.#browser.locks.crash(this);
    for (const channel of this.#channels) channel.close();
  }

  /** Uses connections that Skein knows nothing about, until the returned function is called. */
  useConnections(host: string, count: number): () => void {
    const used = Array.from({ length: count }, (): OpenRequest => ({ kind: "foreign", host }));
    for (const request of used) this.#browser.open.add(request);
    return () => {
      for (const request of used) this.#browser.open.delete(request);
    };
  }

  get globals(): BrowserGlobals {
    const { shares, protocol } = this.#browser.options;
    const observers = this.#observers;
    // deno-lint-ignore no-this-alias
    const tab = this;
    return {
      document: this.document,
      ...shares === "locks" && { navigator: { locks: this.#browser.locks.of(this) } },
      ...shares === "denied" && { navigator: { locks: DENIED } },
      ...shares !== "nothing" && {
        BroadcastChannel: class extends TabChannel {
          constructor(name: string) {
            if (shares === "denied") throw denied();
            super(name, tab.#browser.channels, tab);
            tab.#channels.push(this);
          }
        },
      },
      ...protocol !== undefined && {
        PerformanceObserver: class {
          #notify: (name: string) => void;
          constructor(call: (list: { getEntries(): { name: string }[] }) => void) {
            const entry = (name: string) => ({ name, nextHopProtocol: protocol });
            this.#notify = (name) => call({ getEntries: () => [entry(name)] });
          }
          observe() {
            observers.add(this.#notify);
          }
          disconnect() {
            observers.delete(this.#notify);
          }
        },
      },
    };
  }

  #slow(ms: number): number {
    if (!this.isThrottled || this.document.visibilityState !== "hidden") return ms;
    const dueAt = Date.now() + ms;
    return Math.ceil(dueAt / 60_000) * 60_000 - Date.now();
  }

  #fetch: typeof fetch = async (input, init) => {
    const request = new Request(input, { ...init, signal: null });
    const poll = request.headers.get("skein-poll");
    if (request.method === "GET") this.asked.push({ poll, at: Date.now() });
    const signal = AbortSignal.any([init!.signal!, this.#crash.signal]);
    const response = await this.#browser.fetch(request, signal);
    if (request.method !== "GET" || poll !== null) {
      for (const notify of this.#observers) notify(request.url);
    }
    return response;
  };
}

/** A channel between the clients of all tabs. */
class TabChannel implements Channel {
  onmessage: Channel["onmessage"] = null;
  readonly #name: string;
  readonly #all: Set<TabChannel>;
  readonly #tab: Tab;

  constructor(name: string, all: Set<TabChannel>, tab: Tab) {
    this.#name = name;
    this.#all = all;
    this.#tab = tab;
    all.add(this);
  }

  postMessage(data: unknown): void {
    const copy = structuredClone(data);
    for (const other of this.#all) {
      if (other === this || other.#name !== this.#name) continue;
      queueMicrotask(() => {
        if (this.#all.has(other) && !other.#tab.isDead) other.onmessage?.({ data: copy });
      });
    }
  }

  close(): void {
    this.#all.delete(this);
  }
}

function denied(): DOMException {
  return new DOMException("The user has disabled storage", "SecurityError");
}

/** The lock manager of a page that may not use locks. */
const DENIED: Locks = {
  request: () => Promise.reject(denied()),
  query: () => Promise.reject(denied()),
};

interface LockRequest {
  readonly tab: Tab;
  readonly name: string;
  readonly callback: (lock: unknown) => Promise<void> | undefined;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** The Web Locks of an origin. */
class LockManager {
  readonly #held = new Map<string, LockRequest>();
  #pending: LockRequest[] = [];

  of(tab: Tab): Locks {
    return {
      request: (name, options, callback) =>
        new Promise((resolve, reject) => {
          const request = { tab, name, callback, resolve: () => resolve(undefined), reject };
          queueMicrotask(() => this.#request(request, options));
        }),
      query: async () => {
        await Promise.resolve();
        return {
          held: [...this.#held.values()].map(({ name }) => ({ name })),
          pending: this.#pending.map(({ name }) => ({ name })),
        };
      },
    };
  }

  crash(tab: Tab): void {
    this.#pending = this.#pending.filter((request) => request.tab !== tab);
    for (const [name, request] of this.#held) {
      if (request.tab === tab) this.#release(name, request);
    }
  }

  #request(
    request: LockRequest,
    { ifAvailable = false, signal, steal = false }: Parameters<Locks["request"]>[1],
  ): void {
    const aborted = () => request.reject(new DOMException("Aborted", "AbortError"));
    if (signal?.aborted) return aborted();
    const { name } = request;
    const holder = this.#held.get(name);
    if (steal && holder) {
      this.#held.delete(name);
      holder.reject(new DOMException("Stolen", "AbortError"));
    } else if (holder || this.#pending.some((other) => other.name === name)) {
      if (ifAvailable) return void Promise.resolve(request.callback(null)).then(request.resolve);
      this.#pending.push(request);
      signal?.addEventListener("abort", () => {
        if (!this.#pending.includes(request)) return;
        this.#pending = this.#pending.filter((other) => other !== request);
        aborted();
      });
      return;
    }
    this.#grant(request);
  }

  #grant(request: LockRequest): void {
    const { name } = request;
    this.#held.set(name, request);
    Promise.resolve(request.callback({ name })).finally(() => this.#release(name, request))
      .then(request.resolve, request.reject);
  }

  #release(name: string, request: LockRequest): void {
    if (this.#held.get(name) !== request) return;
    this.#held.delete(name);
    const next = this.#pending.find((other) => other.name === name);
    if (next === undefined) return;
    this.#pending = this.#pending.filter((other) => other !== next);
    this.#grant(next);
  }
}
