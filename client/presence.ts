/** Presence data of a client in rooms, carried from one session to the next. */
import { QueueFullError, RequestError, SessionClosedError } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";
import { checkTopic, encodeEnvelope } from "../session/wire/encode.ts";
import { CODES_FOR_NOW } from "../session/wire/recovery.ts";
import { boundRetryAfter } from "../base/backoff.ts";
import { settlesWithin, waitFor } from "../base/wait.ts";
import type { Runtime } from "../base/runtime.ts";
import type { WaitOptions } from "../session/types.ts";

/** Most rooms in which one client may have data: the number that a server keeps for one session. */
export const MAX_ROOMS = 32;

/** Pause before the client repeats temporarily refused data, in milliseconds. */
const PAUSE_MS = 1_000;

const VERB = "set presence";

/** Data that a session has sent, and the server's answer. */
interface Given {
  readonly session: Session;
  readonly data: unknown;
  readonly answer: Promise<void>;
}

/** The presence data of one client, by room. */
export class ClientPresence {
  readonly #runtime: Runtime;
  readonly #data = new Map<string, unknown>();
  readonly #given = new Map<string, Given>();
  /** The data that a server last accepted for each room; restored if newer data is refused. */
  readonly #taken = new Map<string, Given>();

  /** Creates an empty set. */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Sets the data for a room, and sends the data in the current session, or in the next one.
   *
   * @throws {QueueFullError} If there is data for 32 other rooms.
   */
  async set(
    room: string,
    data: unknown,
    { next, ...options }: WaitOptions & { readonly next: () => Session | Promise<Session> },
  ): Promise<void> {
    checkTopic(room, VERB);
    if (data === undefined) this.#data.delete(room);
    else if (this.#data.has(room) || this.#data.size < MAX_ROOMS) {
      // A copy, so that a later change by the caller does not affect the next session.
      this.#data.set(room, JSON.parse(encodeEnvelope({ topic: room, data }, VERB)).data);
    } else {
      throw new QueueFullError(
        `Cannot set presence: a client may have data in at most ${MAX_ROOMS} rooms, received one more`,
      );
    }
    const done = async () => {
      while (true) {
        // No wait if there is a session: the data must go before a later subscription, which joins
        // the room with the data.
        const found = next();
        const session = found instanceof Promise ? await found : found;
        try {
          return await this.#give(session, room);
        } catch (error) {
          // If the session was lost, the next one sends the data.
          if (!(error instanceof SessionClosedError)) throw error;
        }
      }
    };
    await waitFor(this.#runtime, done(), {
      ...options,
      what: `the answer to the presence in "${room}"`,
    });
  }

  /** Sends all data in a new session, before any request. */
  resume(session: Session): void {
    for (const room of this.#data.keys()) void this.#giveAgain(session, room);
  }

  /** Sends data without a caller; retries a temporary refusal, and reports any other. */
  async #giveAgain(session: Session, room: string): Promise<void> {
    while (session.isReady && this.#data.has(room)) {
      try {
        return await this.#give(session, room);
      } catch (error) {
        if (!(error instanceof RequestError)) return;
        const { failure } = error;
        if (!CODES_FOR_NOW.has(failure.code)) {
          return session[internals].sending.refusedByPeer(failure);
        }
        await settlesWithin(
          this.#runtime,
          session.closed,
          Math.max(boundRetryAfter(failure.retryAfterMs), PAUSE_MS),
        );
      }
    }
  }

  /** Sends the current data for a room, unless already sent in this session. */
  #give(session: Session, room: string): Promise<void> {
    const data = this.#data.get(room);
    const known = this.#given.get(room);
    if (known?.session === session && known.data === data) return known.answer;
    const answer = session.presence(room as never, data as never);
    const given = { session, data, answer };
    this.#given.set(room, given);
    const isNewest = () => this.#given.get(room) === given;
    answer.then(() => {
      if (data !== undefined) return void this.#taken.set(room, given);
      this.#taken.delete(room);
      if (isNewest()) this.#given.delete(room);
    }, (error) => {
      if (!isNewest()) return;
      this.#given.delete(room);
      const isFinal = error instanceof RequestError && !CODES_FOR_NOW.has(error.failure.code);
      if (!isFinal || this.#data.get(room) !== data) return;
      // Data with a permanent refusal is not sent again.
      const taken = this.#taken.get(room);
      if (taken === undefined || taken.data === data) {
        this.#data.delete(room);
        this.#taken.delete(room);
        return;
      }
      this.#data.set(room, taken.data);
      // A later session began with the refused data, and has none yet.
      if (taken.session !== session) void this.#giveAgain(session, room);
    });
    return answer;
  }
}
