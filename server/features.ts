/** The features of one server: mounting, and everything that the server asks of all of them. */
import type { Feature, FeatureHost, Mounted, RequestHead, TopicMount } from "./feature.ts";
import {
  checkClaims,
  checkHttpStats,
  checkMeasures,
  checkMounted,
  checkQuotaStats,
  type MountedFeature,
} from "./feature_checks.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import { describe, textOf } from "../base/error_text.ts";
import { checkResponse } from "./http/guard.ts";
import { internalError, type RequestGate } from "./http/gate.ts";
import type { HttpStats, Measure } from "./metrics/measures.ts";
import type { Runtime } from "../base/runtime.ts";
import type { QuotaStats } from "../base/quotas/shares.ts";
import { settlesWithin, within } from "../base/wait.ts";
import type { UnsubscribeOptions } from "../pubsub/topic_options.ts";
import type { OwnedHooks } from "../session/insight/watch.ts";
import type { Session } from "../session/session.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";
import { pathBelow } from "../transport/url.ts";

/** Longest wait for the close of a feature, in milliseconds; a broker may be slow to respond. */
const CLOSE_MS = 10_000;

/** Names of features and of their statistics; names of metrics are made from them. */
const NAME = /^[a-zA-Z][\w-]{0,63}$/;

/** Parts of a server that its features use. */
export interface FeaturesParts {
  readonly runtime: Runtime;
  /** Tracks pending requests, for which the server waits when it stops. */
  readonly gate: RequestGate;
  readonly console: ConsoleReport;
  readonly report: (what: string, error: unknown) => void;
  readonly hostOf: (name: string) => FeatureHost;
}

/** Handles requests of one feature. */
export interface FeatureRequests {
  fetch(request: Request, info: RequestInfo): Response | Promise<Response>;
  webTransport?(request: WebTransportRequest): void | Promise<void>;
}

/**
 * The features of a server, in the order of the option `features`. An error of a feature is
 * reported, and concerns neither other features nor the server.
 */
export class Features {
  readonly #parts: FeaturesParts;
  readonly #mounted: MountedFeature[] = [];
  #isClosed = false;

  /**
   * Checks the names of all features, without mounting any.
   *
   * @throws {TypeError} If a name is invalid, two features have the same name, or one cannot be
   * mounted.
   */
  static check(features: readonly Feature[]): void {
    const names = new Set<string>();
    for (const [i, { name, mount }] of features.entries()) {
      if (typeof mount !== "function") {
        throw new TypeError(
          `Cannot create server: features[${i}] must have a method mount, received ` +
            describe(mount),
        );
      }
      if (typeof name !== "string" || !NAME.test(name)) {
        throw new TypeError(
          "Cannot create server: the name of a feature must consist of 1 to 64 letters, digits, " +
            `"-" and "_", received ${JSON.stringify(name)}`,
        );
      }
      if (names.has(name)) {
        throw new TypeError(
          `Cannot create server: features must have different names, received "${name}" twice`,
        );
      }
      names.add(name);
    }
  }

  /** Creates an empty list. */
  constructor(parts: FeaturesParts) {
    this.#parts = parts;
  }

  /**
   * Mounts all features. If one of them fails, the caller closes the others.
   *
   * @throws {TypeError} If a feature returns no object, if its path is not spelled as in a URL, or
   * if two features claim the same path, topics or raw QUIC.
   */
  mount(features: readonly Feature[]): void {
    for (const feature of features) {
      const { name } = feature;
      const part = { name, added: feature.mount(this.#parts.hostOf(name)) };
      checkMounted(part);
      this.#mounted.push(part);
      checkClaims(part, this.#mounted.slice(0, -1));
    }
    for (const part of this.#mounted) this.#unlessAsync(part, "started", part.added.started?.());
  }

  /** Finds the feature that handles a request. */
  requestsFor(head: RequestHead): FeatureRequests | undefined {
    if (this.#mounted.length === 0) return undefined;
    const part = this.#mounted.find((one) => this.#wants(one, head));
    return part && {
      fetch: (request, info) => this.#fetch(part, request, info),
      ...(part.added.http!.webTransport && {
        webTransport: (request: WebTransportRequest) => this.#webTransport(part, request),
      }),
    };
  }

  /** Durable streams, for the inspector. */
  get streams(): Mounted["streams"] {
    return this.#mounted.find(({ added }) => added.streams !== undefined)?.added.streams;
  }

  /** The feature that handles raw QUIC. */
  get quic(): Mounted["quic"] {
    return this.#mounted.find(({ added: { quic } }) => (quic?.protocols.length ?? 0) > 0)?.added
      .quic;
  }

  /** Hooks of all features. */
  get hooks(): readonly OwnedHooks[] {
    return this.#mounted.flatMap(({ name, added: { instrumentation: hooks } }) =>
      hooks ? [{ hooks, owner: `the feature ${name}` }] : []
    );
  }

  /** Topics that features serve. */
  get topicMounts(): readonly TopicMount[] {
    return this.#mounted.flatMap(({ added }) => added.topics ?? []);
  }

  /** The storage of responses that outlive the sessions of their callers. */
  get responses(): Mounted["responses"] {
    return this.#mounted.find(({ added }) => added.responses !== undefined)?.added.responses;
  }

  /** Notifies all features of a revoked subscription; `true` if one of them ended something. */
  unsubscribed(session: Session, topic: string, options: UnsubscribeOptions): boolean {
    return this.#mounted.map((part) =>
      this.#call(part, "unsubscribed", () => part.added.unsubscribed?.(session, topic, options))
    ).includes(true);
  }

  /** Notifies all features that the sessions of a user are closed. */
  disconnected(user: string): void {
    for (const part of this.#mounted) {
      this.#call(part, "disconnected", () => part.added.disconnected?.(user));
    }
  }

  /** Counters of HTTP requests, by feature. */
  get httpStats(): Readonly<Record<string, HttpStats>> {
    const all: Record<string, HttpStats> = {};
    for (const part of this.#mounted) {
      const stats = this.#call(part, "stats", () => part.added.http?.stats);
      const checked = this.#checked(part, "stats", stats, checkHttpStats);
      if (checked !== undefined) all[part.name] = checked;
    }
    return all;
  }

  /** Counters of limits outside of the server's quotas, by name. */
  get quotaStats(): Readonly<Record<string, QuotaStats>> {
    return Object.assign(
      {},
      ...this.#mounted.map((part) => {
        const stats = this.#call(part, "quotaStats", () => part.added.quotaStats?.());
        return this.#checked(part, "quotaStats", stats, checkQuotaStats);
      }),
    );
  }

  /** Metrics of all features. A feature with an invalid metric adds none. */
  measures(): readonly Measure[] {
    const names = new Set<string>();
    return this.#mounted.flatMap((part) => {
      const measures = this.#call(part, "measures", () => part.added.measures?.());
      return this.#checked(part, "measures", measures, (all) => checkMeasures(all, names)) ?? [];
    });
  }

  /**
   * Drains all features. Resolves after `withinMs`, or when the signal aborts, even if a feature
   * does not.
   */
  async drain(options: Parameters<NonNullable<Mounted["drain"]>>[0]): Promise<void> {
    const { withinMs, signal } = options;
    const drained = this.#settled("drain", (part) => part.added.drain?.(options));
    const aborted = Promise.withResolvers<void>();
    const onAbort = () => aborted.resolve();
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    await settlesWithin(this.#parts.runtime, Promise.race([drained, aborted.promise]), withinMs);
    signal?.removeEventListener("abort", onAbort);
  }

  /** Closes all features. Resolves after 10 seconds even if a feature does not. Idempotent. */
  async close(options: SessionCloseOptions): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#settled("close", (part) => part.added.close?.(options), CLOSE_MS);
  }

  /** Waits for all features, and reports those that fail or take longer than `timeoutMs`. */
  async #settled(
    what: string,
    call: (part: MountedFeature) => Promise<unknown> | undefined,
    timeoutMs?: number,
  ): Promise<void> {
    await Promise.all(this.#mounted.map(async (part) => {
      try {
        await within(this.#parts.runtime, Promise.try(call, part), { timeoutMs });
      } catch (error) {
        this.#report(part, what, error);
      }
    }));
  }

  #wants(part: MountedFeature, head: RequestHead): boolean {
    const { http } = part.added;
    if (http === undefined) return false;
    if (http.wants !== undefined) {
      return this.#call(part, "wants", () => http.wants!(head)) === true;
    }
    // Most requests are for no feature, and need no parsed URL.
    return http.paths?.some((path) =>
      head.url.includes(path) && pathBelow(head.url, path) !== undefined
    ) ?? false;
  }

  #fetch(part: MountedFeature, request: Request, info: RequestInfo): Response | Promise<Response> {
    const failed = (error: unknown) => {
      this.#parts.report(`A request to ${part.name}`, error);
      return internalError();
    };
    const checked = (response: Response) => checkResponse("fetch", response);
    try {
      const response = part.added.http!.fetch(request, info);
      return this.#parts.gate.follow(
        request,
        info,
        response instanceof Promise ? response.then(checked).catch(failed) : checked(response),
      );
    } catch (error) {
      return failed(error);
    }
  }

  async #webTransport(part: MountedFeature, request: WebTransportRequest): Promise<void> {
    try {
      await part.added.http!.webTransport!(request);
    } catch (error) {
      this.#parts.report(`A WebTransport request to ${part.name}`, error);
    }
  }

  #call<T>(part: MountedFeature, what: string, call: () => T): T | undefined {
    try {
      return this.#unlessAsync(part, what, call());
    } catch (error) {
      this.#report(part, what, error);
      return undefined;
    }
  }

  /** Returns a result; instead of a promise, which it doesn't wait for, `undefined`. */
  #unlessAsync<T>(part: MountedFeature, what: string, result: T): T | undefined {
    if (!(result instanceof Promise)) return result;
    // The type of a member without a result also allows an asynchronous function.
    result.catch((error) => this.#report(part, what, error));
    return undefined;
  }

  /** Returns what a feature reports about itself, or says once an hour why it is invalid. */
  #checked<T>(
    { name }: MountedFeature,
    what: string,
    value: T | undefined,
    check: (value: T) => void,
  ): T | undefined {
    if (value === undefined) return undefined;
    try {
      check(value);
      return value;
    } catch (error) {
      const line = `${what}() of the feature ${name} failed: ${textOf(error)}`;
      this.#parts.console.tell("measures", line, { about: line });
      return undefined;
    }
  }

  #report({ name }: MountedFeature, what: string, error: unknown): void {
    this.#parts.report(`${what}() of the feature ${name}`, error);
  }
}
