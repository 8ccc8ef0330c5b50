/**
 * The sessions of a server: from a connection that may come in to the end of what became of it.
 *
 * @module
 */
import { ConnectionError, ProtocolError, StreamError, TimeoutError } from "../../../errors.ts";
import { settlesWithin } from "../../../session/base/wait.ts";
import type { Connection } from "../../../transport/connection.ts";
import { within } from "../../../transport/within.ts";
import type { Door } from "./_door.ts";
import type { Place } from "./_places.ts";
import type {
  MoqClientInfo,
  MoqDrainOptions,
  MoqDrainReport,
  MoqServerOptions,
} from "./_server_options.ts";
import { MoqError } from "../wire/errors.ts";
import type { MoqVersion } from "../wire/versions.ts";
import { versionsLeft } from "../wire/wires.ts";
import { MoqSession } from "../session/session.ts";

/** How long a connection may take to open that was answered, in milliseconds. */
const OPEN_TIMEOUT_MS = 10_000;

/** How a connection came in. */
export interface Admission {
  /** Its place. */
  readonly place: Place;
  /** Whether the application was asked already; otherwise its setup tells what to ask. */
  readonly isAdmitted: boolean;
}

/** Opens sessions, and ends them with the server. */
export class Sessions {
  /** Those that there are. */
  readonly open: Set<MoqSession> = new Set();

  readonly #options: MoqServerOptions;
  readonly #versions: readonly MoqVersion[];
  readonly #door: Door;
  readonly #openings = new Map<Connection, Promise<MoqSession | undefined>>();
  #isClosed = false;

  /**
   * Begins without sessions.
   *
   * @param options See {@linkcode MoqServerOptions}.
   * @param about The versions of the server, and its door.
   */
  constructor(
    options: MoqServerOptions,
    about: { readonly versions: readonly MoqVersion[]; readonly door: Door },
  ) {
    this.#options = options;
    this.#versions = about.versions;
    this.#door = about.door;
  }

  /**
   * Begins a session. Never rejects.
   *
   * @param connection The connection, whose end gives its place back.
   * @param client What is known of the client.
   * @param admission How it came in.
   * @returns The session; `undefined` if its setup failed.
   */
  begin(
    connection: Connection,
    client: MoqClientInfo,
    admission: Admission,
  ): Promise<MoqSession | undefined> {
    // The application had an answer for it in the very turn in which the server was closed.
    if (this.#isClosed) connection.close();
    const opening = this.#opened(connection, client, admission);
    this.#openings.set(connection, opening);
    return opening;
  }

  /**
   * Asks everybody to leave, and cuts those off that do not.
   *
   * @param options See {@linkcode MoqDrainOptions}.
   * @returns How many left, and how many were cut off.
   */
  async drain({ uri, timeoutMs }: Required<MoqDrainOptions>): Promise<MoqDrainReport> {
    const asked: MoqSession[] = [];
    const ask = async (session: MoqSession | undefined) => {
      if (session === undefined) return;
      asked.push(session);
      session.goaway({ uri }).catch(() => {});
      await session.closed;
    };
    // Who is in its setup is asked as soon as that is over.
    const openings = [...this.#openings.values()].map((opening) => opening.then(ask));
    await settlesWithin(Promise.all([...openings, ...[...this.open].map(ask)]), timeoutMs);
    const rest = asked.filter(({ isClosed }) => !isClosed);
    for (const session of rest) {
      session.closeWithError("goawayTimeout", "The session did not leave");
    }
    return { left: asked.length - rest.length, cut: rest.length };
  }

  /** Ends all, those in their setup too. Idempotent. */
  close(): void {
    this.#isClosed = true;
    for (const session of this.open) session.close();
    for (const connection of this.#openings.keys()) connection.close();
  }

  async #opened(
    connection: Connection,
    client: MoqClientInfo,
    { place, isAdmitted }: Admission,
  ): Promise<MoqSession | undefined> {
    const { extensions, authorize, bitrate, family, setupTimeoutMs } = this.#options;
    const { sessionLimits: limits, mux, muxOf } = this.#options;
    const parsed = URL.parse(client.url);
    let isOpen = false;
    try {
      // The socket of a client that left before it was answered never opens, and never says so.
      await within(connection.ready, {
        late: "The connection did not open within",
        timeoutMs: Math.min(setupTimeoutMs ?? OPEN_TIMEOUT_MS, OPEN_TIMEOUT_MS),
      });
      isOpen = true;
      const session = await MoqSession.open(connection, {
        side: "server",
        versions: this.#versionsFor(connection),
        path: isAdmitted && parsed !== null ? parsed.pathname + parsed.search : "",
        onError: (error) => this.#door.report(error),
        onSetup: async (request) => {
          if (!isAdmitted) await this.#door.admitSetup(request, client);
        },
        ...(mux && { mux }),
        ...(muxOf && { muxOf: (request) => muxOf(request, client) }),
        ...(extensions && { extensions }),
        ...(authorize && { authorize }),
        ...(bitrate !== undefined && { bitrate }),
        ...(family && { family }),
        ...(limits && { limits }),
        ...(setupTimeoutMs !== undefined && { setupTimeoutMs }),
      });
      this.open.add(session);
      session.closed.then(() => this.open.delete(session));
      void this.#tell(session, client);
      return session;
    } catch (error) {
      if (!isOfPeer(error)) this.#door.report(error);
      if (!isOpen) {
        connection.close();
        place[Symbol.dispose]();
      }
      return undefined;
    } finally {
      this.#openings.delete(connection);
      place.begun();
    }
  }

  /** Tells the application of a session. */
  async #tell(session: MoqSession, client: MoqClientInfo): Promise<void> {
    try {
      await this.#options.onSession?.(session, client);
    } catch (error) {
      // What it awaited may have ended with the session.
      if (!session.isClosed || !isOfPeer(error)) this.#door.report(error);
      session.closeWithError("internal", "A handler failed");
    }
  }

  #versionsFor({ protocol }: Connection): readonly MoqVersion[] {
    const left = versionsLeft(protocol, this.#versions);
    return left.length === 0 ? this.#versions : left;
  }
}

/** Whether something failed by what came from the peer, or for it was refused. */
function isOfPeer(error: unknown): boolean {
  return [ConnectionError, MoqError, ProtocolError, StreamError, TimeoutError].some((type) =>
    error instanceof type
  );
}
