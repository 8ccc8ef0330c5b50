/**
 * Calls the hooks of an instrumentation in such a way that no hook can affect a session. A client
 * loads this module only if it has an instrumentation.
 */
import { describe } from "../../base/error_text.ts";
import type { CloseInfo } from "../../errors.ts";
import { isObject, type TraceContext } from "../wire/envelope.ts";
import type { HandshakeOutcome, Instrumentation } from "./instrumentation.ts";
import type { Message } from "../message.ts";
import type { Session } from "../session.ts";
import {
  type FollowedHandshake,
  type HandshakeInfo,
  report,
  type SessionSettings,
  type SessionWatch,
} from "../settings/settings.ts";
import type { Fresh } from "../url.ts";
import { withoutToken } from "../../transport/url.ts";

/**
 * Instruments all sessions that are created with these settings after this call, as `serve`,
 * `connect` and `dial` do for their sessions.
 *
 * @example Sessions of your own
 * ```ts
 * import { Session } from "@skein/skein";
 * import { instrument, sessionSettings } from "@skein/skein/session";
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const opened: string[] = [];
 * const settings = instrument(sessionSettings({ side: "server" }), {
 *   sessionOpened: ({ id }) => void opened.push(id),
 * });
 * await using session = new Session(memoryPair().server, settings);
 * assertEquals(opened, [session.id]);
 * ```
 *
 * @param settings The settings, in which the hooks are set.
 * @param instrumentations The hooks, which replace earlier ones. Those of the first instrumentation
 * run outside of the others.
 * @returns The settings that were passed.
 */
export function instrument(
  settings: SessionSettings,
  ...instrumentations: readonly Instrumentation[]
): SessionSettings {
  settings.watch = watchOf(settings, instrumentations.map((hooks) => ({ hooks })));
  return settings;
}

/** The hooks of an instrumentation, and the name of their owner for errors. */
export interface OwnedHooks {
  readonly hooks: Instrumentation;
  /** The owner, such as `the feature otel`; by default, `the instrumentation`. */
  readonly owner?: string | undefined;
}

/** Combines hooks. The first ones run outside of the others. */
export function watchOf(
  settings: SessionSettings,
  all: readonly OwnedHooks[],
): SessionWatch | undefined {
  return all
    .map((owned): SessionWatch => {
      const runner = new HookRunner(owned, settings);
      const { hooks } = owned;
      // Only servers have this hook, so clients do not load its code.
      return hooks.published === undefined ? runner : Object.assign(runner, {
        published(session: Session, topic: string) {
          runner.tell("published", session, () => hooks.published?.(session, topic));
        },
      });
    })
    .reduceRight<SessionWatch | undefined>(
      (inner, outer) => inner === undefined ? outer : new NestedWatch(outer, inner),
      undefined,
    );
}

/** Calls the hooks of two instrumentations, one inside of the other. */
class NestedWatch implements SessionWatch {
  readonly published: SessionWatch["published"];
  readonly #outer: SessionWatch;
  readonly #inner: SessionWatch;

  constructor(outer: SessionWatch, inner: SessionWatch) {
    this.#outer = outer;
    this.#inner = inner;
    const [first, second] = [outer.published, inner.published];
    this.published = first && second
      ? (session, topic) => {
        first(session, topic);
        second(session, topic);
      }
      : first ?? second;
  }

  handshake(info: HandshakeInfo): FollowedHandshake | undefined {
    const outer = this.#outer.handshake(info);
    const inner = this.#inner.handshake(info);
    if (outer === undefined || inner === undefined) return outer ?? inner;
    return {
      during: (what) => outer.during(() => inner.during(what)),
      ended(outcome) {
        inner.ended(outcome);
        outer.ended(outcome);
      },
    };
  }

  opened(session: Session): void {
    this.#outer.opened(session);
    this.#inner.opened(session);
  }

  received(session: Session, frame: string | Uint8Array): void {
    this.#outer.received(session, frame);
    this.#inner.received(session, frame);
  }

  closed(session: Session, info: CloseInfo): void {
    this.#outer.closed(session, info);
    this.#inner.closed(session, info);
  }

  asking<T>(
    session: Session,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T> {
    return this.#outer.asking(
      session,
      topic,
      (outer) => this.#inner.asking(session, topic, (inner) => ask(outer ?? inner)),
    );
  }

  sending(topic: string, session: Session | undefined): TraceContext | undefined {
    const outer = this.#outer.sending(topic, session);
    return this.#inner.sending(topic, session) ?? outer;
  }

  handle(
    message: Message,
    session: Session,
    trace: unknown,
    handler: () => void | Promise<void>,
  ): void | Promise<void> {
    const inner = () => this.#inner.handle(message, session, trace, handler);
    return this.#outer.handle(message, session, trace, inner);
  }
}

class HookRunner implements SessionWatch {
  readonly #hooks: Instrumentation;
  readonly #owner: string;
  readonly #settings: SessionSettings;

  constructor({ hooks, owner = "the instrumentation" }: OwnedHooks, settings: SessionSettings) {
    this.#hooks = hooks;
    this.#owner = owner;
    this.#settings = settings;
  }

  /** Starts to follow a handshake; `undefined` if no hook does. */
  handshake(info: HandshakeInfo): FollowedHandshake | undefined {
    const tell = <T>(call: () => T, run?: () => unknown) =>
      this.tell("handshake", undefined, call, run);
    const watch = this.#following("handshake", undefined, () => this.#hooks.handshake?.(info));
    let isOver = false;
    return watch && {
      during(what) {
        const run = once(what);
        tell(() => watch.during?.(run), run);
        return run();
      },
      ended(outcome: HandshakeOutcome) {
        if (isOver) return;
        isOver = true;
        tell(() => watch.ended(outcome));
      },
    };
  }

  /** Reports an established session. */
  opened(session: Session): void {
    this.tell("sessionOpened", session, () => this.#hooks.sessionOpened?.(session));
  }

  /** Reports a frame that has arrived. */
  received(session: Session, frame: string | Uint8Array): void {
    if (this.#hooks.received === undefined) return;
    this.tell("received", session, () => this.#hooks.received?.(session, frame));
  }

  /** Reports the end of an established session. */
  closed(session: Session, info: CloseInfo): void {
    this.tell("sessionClosed", session, () => this.#hooks.sessionClosed?.(session, info));
  }

  /** Runs a request to the peer; `ask` receives the trace to send with the request. */
  async asking<T>(
    session: Session,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T> {
    const watch = this.#following(
      "request",
      session,
      () => this.#hooks.request?.(session, topic),
    );
    try {
      const data = await ask(readTrace(this.tell("request", session, () => watch?.trace)));
      this.tell("request", session, () => watch?.ended({}));
      return data;
    } catch (error) {
      this.tell("request", session, () => watch?.ended({ error }));
      throw error;
    }
  }

  /** Returns the trace to send with a message. */
  sending(topic: string, session: Session | undefined): TraceContext | undefined {
    if (this.#hooks.send === undefined) return undefined;
    return readTrace(this.tell("send", session, () => this.#hooks.send?.(topic)));
  }

  /**
   * Runs the handler of a message, in the hook or after it. The hook's promise settles at the end
   * of a streaming response; the caller's promise settles when the handler returns.
   */
  handle(
    message: Message,
    session: Session,
    trace: unknown,
    handler: () => void | Promise<void>,
  ): void | Promise<void> {
    if (this.#hooks.handle === undefined) return handler();
    let running: void | Promise<void> = undefined;
    const run = once(() => {
      try {
        running = handler();
      } catch (error) {
        running = Promise.reject(error);
      }
      const { streaming } = message;
      const isRunning = typeof (running as Partial<Promise<void>> | null)?.then === "function";
      // `onMessage` may start a response after its first await.
      return isRunning ? (running as Promise<void>).then(() => message.streaming) : streaming;
    });
    const call = () => this.#hooks.handle?.(session, message, run, readTrace(trace));
    this.tell("handle", session, call, run);
    run()?.catch(() => {}); // The caller receives the error too, or the producer reports it.
    return running;
  }

  /** Calls a hook that may return a watch. */
  #following<W extends { ended(outcome: never): void }>(
    hook: string,
    session: Session | undefined,
    call: () => W | undefined | void,
  ): W | undefined {
    const watch = this.tell(hook, session, call);
    return this.tell(hook, session, () => {
      if (!watch || typeof watch.ended === "function") return watch || undefined;
      throw new TypeError(`${hook} must return { ended }, received ${describe(watch)}`);
    });
  }

  /** Calls a hook, and reports its error. */
  tell<T>(
    hook: string,
    session: Session | undefined,
    call: () => T,
    run?: () => unknown,
  ): T | undefined {
    try {
      const result = call();
      // The type of a hook without a result also allows an asynchronous function.
      if (result instanceof Promise) {
        result.catch(async (error) => {
          // An error of `run` is reported by the caller of `run`.
          if (error !== await rejectionOf(run)) this.#failed(hook, session, error);
        });
      }
      return result;
    } catch (error) {
      this.#failed(hook, session, error);
      return undefined;
    }
  }

  #failed(hook: string, session: Session | undefined, error: unknown): void {
    const settings = this.#settings;
    if (session !== undefined && settings.handlers.onError !== undefined) {
      return report(settings, error, session);
    }
    settings.console.failed(`${hook}() of ${this.#owner}`, error);
  }
}

/** Client options that the instrumentation needs. */
export interface WatchedOpening {
  /** URL of the server. */
  readonly url: Fresh<string | URL>;
  readonly settings: SessionSettings;
  /** Hooks for the attempt, and then for the session. */
  readonly instrumentation?: Instrumentation | undefined;
}

/** The outcome of an attempt to open a session. */
type OpenOutcome =
  | { readonly session: Session }
  | { readonly session?: undefined; readonly error: unknown };

/**
 * Opens a client's session with an instrumentation.
 *
 * @typeParam O The outcome of the attempt.
 * @param options The client's options.
 * @param open Makes the attempt, and never rejects. It receives a function that returns the URL.
 * @returns The outcome.
 */
export async function openWatched<O extends OpenOutcome>(
  options: WatchedOpening,
  open: (url: (options: { readonly signal: AbortSignal }) => Promise<string | URL>) => Promise<O>,
): Promise<O> {
  const { settings, instrumentation } = options;
  settings.watch ??= instrumentation && new HookRunner({ hooks: instrumentation }, settings);
  let handshake: FollowedHandshake | undefined;
  let isOver = false;
  const outcome = await open(async (call) => {
    const url = typeof options.url === "function" ? await options.url(call) : options.url;
    const info = { side: "client", url: withoutToken(String(url)) } as const;
    // If the attempt ended in the meantime, the handshake would stay open.
    if (!isOver) handshake = settings.watch?.handshake(info);
    return url;
  });
  isOver = true;
  if (outcome.session) handshake?.ended({ session: outcome.session });
  else {
    const { error } = outcome;
    handshake?.ended({ error, status: rejectionStatus(error) ?? rejectionStatus(outcome) });
  }
  return outcome;
}

/**
 * Returns the HTTP status of a rejection. If the session was rejected by a close, this is the
 * status that its close code stands for.
 */
export function rejectionStatus(error: unknown): number | undefined {
  const { status, info } = Object(error) as { status?: unknown; info?: CloseInfo };
  if (typeof status === "number") return status;
  const code = info?.code ?? 0;
  return code >= 4400 && code < 4600 ? code - 4000 : undefined;
}

function once<T>(run: () => T): () => T {
  let ran: { readonly result: T } | undefined;
  return () => (ran ??= { result: run() }).result;
}

async function rejectionOf(run: (() => unknown) | undefined): Promise<unknown> {
  try {
    await run?.();
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Matches any version except ff, and ids that are not all zeros. */
const TRACEPARENT = /^(?!ff)[\da-f]{2}-(?!0{32})[\da-f]{32}-(?!0{16})[\da-f]{16}-[\da-f]{2}$/;

/**
 * Matches printable ASCII, up to the length that W3C Trace Context requires every implementation to
 * propagate.
 */
const TRACESTATE = /^[ -~]{1,512}$/;

/**
 * Reads a trace context. An invalid one is ignored, because a message is never rejected for its
 * trace.
 *
 * @param trace Any value.
 * @returns The trace context without unknown keys; `undefined` if invalid.
 */
export function readTrace(trace: unknown): TraceContext | undefined {
  if (!isObject(trace)) return undefined;
  const { traceparent, tracestate } = trace;
  if (typeof traceparent !== "string" || !TRACEPARENT.test(traceparent)) return undefined;
  return typeof tracestate === "string" && TRACESTATE.test(tracestate)
    ? { traceparent, tracestate }
    : { traceparent };
}
