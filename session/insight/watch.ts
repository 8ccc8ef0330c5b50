/**
 * Calls the hooks of an instrumentation, so that nothing that they do changes a session.
 * A client loads this when it is watched.
 *
 * @module
 */
import type { CloseInfo } from "../../errors.ts";
import { readTrace, type TraceContext } from "../wire/envelope.ts";
import type { HandshakeOutcome, HandshakeWatch, Instrumentation } from "./instrumentation.ts";
import type { Message } from "../message.ts";
import type { Session } from "../session.ts";
import type { SessionSettings } from "../settings.ts";
import { withoutToken } from "../url.ts";
import { report } from "../report.ts";
import type { FollowedHandshake, HandshakeInfo, SessionWatch } from "./session_watch.ts";

/** The instrumentation of all sessions of the same settings. */
export class Watching implements SessionWatch {
  readonly #hooks: Instrumentation;
  readonly #settings: SessionSettings;

  /** Hands on what happens to an instrumentation. */
  constructor(hooks: Instrumentation, settings: SessionSettings) {
    this.#hooks = hooks;
    this.#settings = settings;
  }

  /** A handshake begins; `undefined` if nobody follows it. */
  handshake(info: HandshakeInfo): Handshake | undefined {
    const watch = this.#tell(undefined, () => this.#hooks.handshake?.(info));
    return watch
      ? new Handshake(watch, (hook, run) => this.#tell(undefined, hook, run))
      : undefined;
  }

  /** A session is established. */
  opened(session: Session): void {
    this.#tell(session, () => this.#hooks.sessionOpened?.(session));
  }

  /** A session that was established is over. */
  closed(session: Session, info: CloseInfo): void {
    this.#tell(session, () => this.#hooks.sessionClosed?.(session, info));
  }

  /** The peer is asked, by a function that gets the trace to send with the request. */
  async asking<T>(
    session: Session,
    topic: string,
    ask: (trace: TraceContext | undefined) => Promise<T>,
  ): Promise<T> {
    const watch = this.#tell(session, () => this.#hooks.request?.(session, topic));
    try {
      const data = await ask(readTrace(this.#tell(session, () => watch?.trace)));
      this.#tell(session, () => watch?.ended({}));
      return data;
    } catch (error) {
      this.#tell(session, () => watch?.ended({ error }));
      throw error;
    }
  }

  /** The trace to send with a message. */
  sending(topic: string, session: Session | undefined): TraceContext | undefined {
    if (this.#hooks.send === undefined) return undefined;
    return readTrace(this.#tell(session, () => this.#hooks.send?.(topic)));
  }

  /** Runs the handler of a message, in the hook or after it. */
  handle(
    message: Message,
    session: Session,
    trace: TraceContext | undefined,
  ): void | Promise<void> {
    const handler = () => this.#settings.handlers.onMessage!(message as never, session);
    if (this.#hooks.handle === undefined) return handler();
    const run = once(() => {
      try {
        return handler();
      } catch (error) {
        return Promise.reject(error);
      }
    });
    this.#tell(session, () => this.#hooks.handle?.(session, message, run, trace), run);
    return run();
  }

  /** Calls a hook, which may run what is handed to it. */
  #tell<T>(session: Session | undefined, hook: () => T, run?: () => unknown): T | undefined {
    try {
      const result = hook();
      // Types let an asynchronous function through where nothing is returned.
      if (result instanceof Promise) {
        result.catch(async (error) => {
          // What it only handed on is told by whoever runs that.
          if (error !== await reasonOf(run)) this.#failed(session, error);
        });
      }
      return result;
    } catch (error) {
      this.#failed(session, error);
      return undefined;
    }
  }

  #failed(session: Session | undefined, error: unknown): void {
    if (session !== undefined) return report(this.#settings, error, session);
    // There is no session yet whose handlers could be told.
    this.#settings.console.failed("A hook of the instrumentation", error);
  }
}

/** A handshake that somebody follows. */
export class Handshake implements FollowedHandshake {
  readonly #watch: HandshakeWatch;
  readonly #tell: (hook: () => void, run?: () => unknown) => void;
  #isOver = false;

  /** Follows a handshake; `tell` calls a hook. */
  constructor(watch: HandshakeWatch, tell: (hook: () => void, run?: () => unknown) => void) {
    this.#watch = watch;
    this.#tell = tell;
  }

  /** Runs what the application does in it, in the hook or after it. */
  during<T>(what: () => T): T {
    const run = once(what);
    this.#tell(() => this.#watch.during?.(run), run);
    return run();
  }

  /** It is over; only the first call counts. */
  ended(outcome: HandshakeOutcome): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#tell(() => this.#watch.ended(outcome));
  }
}

/** The part of a client's options that its instrumentation needs. */
export interface WatchedOpening {
  /** Where to. */
  readonly url: string | URL | (() => string | URL | Promise<string | URL>);
  /** Settings of the session. */
  readonly settings: SessionSettings;
  /** Watches the attempt, and then the session. */
  readonly instrumentation?: Instrumentation | undefined;
}

/** Opens a client's session by `open`, which gets the function that gives the URL, and has it watched. */
export async function openWatched(
  options: WatchedOpening,
  open: (url: () => Promise<string | URL>) => Promise<Session>,
): Promise<Session> {
  const { settings, instrumentation } = options;
  settings.watch ??= instrumentation && new Watching(instrumentation, settings);
  let handshake: FollowedHandshake | undefined;
  let isOver = false;
  try {
    const session = await open(async () => {
      const url = typeof options.url === "function" ? await options.url() : options.url;
      const info = { side: "client", url: withoutToken(String(url)) } as const;
      // An attempt that ended meanwhile would leave its handshake open.
      if (!isOver) handshake = settings.watch?.handshake(info);
      return url;
    });
    handshake?.ended({ session });
    return session;
  } catch (error) {
    isOver = true;
    handshake?.ended({ error, status: refusalStatus(error) });
    throw error;
  }
}

/** The HTTP status of a refusal; one by close has the code that stands for it. */
export function refusalStatus(error: unknown): number | undefined {
  const { status, info } = Object(error) as { status?: unknown; info?: CloseInfo };
  if (typeof status === "number") return status;
  const code = info?.code ?? 0;
  return code >= 4400 && code < 4600 ? code - 4000 : undefined;
}

function once<T>(run: () => T): () => T {
  let ran: { readonly result: T } | undefined;
  return () => (ran ??= { result: run() }).result;
}

/** Why what was run failed; `undefined` if it did not. */
async function reasonOf(run: (() => unknown) | undefined): Promise<unknown> {
  try {
    await run?.();
    return undefined;
  } catch (error) {
    return error;
  }
}
