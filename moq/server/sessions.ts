/** The sessions of a server, from an admitted connection until the session closes. */
import { ConnectionError, ProtocolError, StreamError, TimeoutError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { settlesWithin, within } from "../../base/wait.ts";
import type { Connection } from "../../transport/connection.ts";
import { MoqSession } from "../session/session.ts";
import { MoqError } from "../wire/errors.ts";
import { type MoqVersion, versionsFor } from "../wire/versions.ts";
import type { MoqAdmission, SessionLease } from "./admission.ts";
import type { MoqClientInfo, MoqServerOptions } from "./server_options.ts";

const OPEN_TIMEOUT_MS = 10_000;

interface SessionStart {
  readonly lease: SessionLease;
  /** `true` if `onSetup` has admitted the client; otherwise the SETUP is checked first. */
  readonly isAdmitted: boolean;
}

/** Opens sessions, and closes them with the server. */
export class Sessions {
  /** Sessions past their setup. */
  readonly open: Set<MoqSession> = new Set();

  readonly #runtime: Runtime;
  readonly #options: MoqServerOptions;
  readonly #versions: readonly MoqVersion[];
  readonly #admission: MoqAdmission;
  readonly #setups = new Map<Connection, Promise<MoqSession | undefined>>();
  #isClosed = false;

  constructor(
    runtime: Runtime,
    options: MoqServerOptions,
    about: { readonly versions: readonly MoqVersion[]; readonly admission: MoqAdmission },
  ) {
    this.#runtime = runtime;
    this.#options = options;
    this.#versions = about.versions;
    this.#admission = about.admission;
  }

  /**
   * Starts a session. Never rejects.
   *
   * @param connection The connection, which frees the lease when it closes.
   * @param start Lease of the client, and whether `onSetup` has admitted the client.
   * @returns The session; `undefined` if the setup failed.
   */
  begin(
    connection: Connection,
    client: MoqClientInfo,
    start: SessionStart,
  ): Promise<MoqSession | undefined> {
    // The server was closed in the same turn in which `onSetup` admitted the client.
    if (this.#isClosed) connection.close();
    const setup = this.#open(connection, client, start);
    this.#setups.set(connection, setup);
    return setup;
  }

  /** Asks all sessions to leave, and closes the remaining ones. */
  async drain(
    { uri, timeoutMs }: { readonly uri: string; readonly timeoutMs: number },
  ): Promise<{ readonly left: number; readonly cut: number }> {
    const asked: MoqSession[] = [];
    const ask = async (session: MoqSession | undefined) => {
      if (session === undefined) return;
      asked.push(session);
      session.goaway({ uri }).catch(() => {});
      await session.closed;
    };
    // Sessions in their setup are asked as soon as the setup has finished.
    const setups = [...this.#setups.values()].map((setup) => setup.then(ask));
    await settlesWithin(
      this.#runtime,
      Promise.all([...setups, ...[...this.open].map(ask)]),
      timeoutMs,
    );
    const rest = asked.filter(({ isClosed }) => !isClosed);
    for (const session of rest) {
      session.closeWithError("goawayTimeout", "The session did not leave");
    }
    return { left: asked.length - rest.length, cut: rest.length };
  }

  /** Closes all sessions, including those in their setup. Idempotent. */
  close(): void {
    this.#isClosed = true;
    for (const session of this.open) session.close();
    for (const connection of this.#setups.keys()) connection.close();
  }

  async #open(
    connection: Connection,
    client: MoqClientInfo,
    { lease, isAdmitted }: SessionStart,
  ): Promise<MoqSession | undefined> {
    const { extensions, authorize, bitrate, family, setupTimeoutMs } = this.#options;
    const { sessionLimits: limits, mux, muxOf } = this.#options;
    const parsed = URL.parse(client.url);
    let isOpen = false;
    try {
      // If a client leaves before the response, the socket never opens, and emits no event.
      await within(this.#runtime, connection.ready, {
        late: "The connection did not open within",
        timeoutMs: Math.min(setupTimeoutMs ?? OPEN_TIMEOUT_MS, OPEN_TIMEOUT_MS),
      });
      isOpen = true;
      const session = await MoqSession.open(connection, {
        runtime: this.#runtime,
        side: "server",
        address: client.address,
        versions: this.#versionsFor(connection),
        path: isAdmitted && parsed !== null ? parsed.pathname + parsed.search : "",
        onError: (error) => this.#admission.report(error),
        onSetup: async (request) => {
          if (!isAdmitted) await this.#admission.admitSetup(request, client);
        },
        mux,
        muxOf: muxOf && ((request) => muxOf(request, client)),
        extensions,
        authorize,
        bitrate,
        family,
        limits,
        streams: lease.streams,
        setupTimeoutMs,
      });
      this.open.add(session);
      session.closed.then(() => this.open.delete(session));
      void this.#callOnSession(session, client);
      return session;
    } catch (error) {
      if (!isOfPeer(error)) this.#admission.report(error);
      if (!isOpen) {
        connection.close();
        lease[Symbol.dispose]();
      }
      return undefined;
    } finally {
      this.#setups.delete(connection);
      lease.setupEnded();
    }
  }

  async #callOnSession(session: MoqSession, client: MoqClientInfo): Promise<void> {
    try {
      await this.#options.onSession?.(session, client);
    } catch (error) {
      // A closed session also rejects the calls that the handler awaits; don't report these errors.
      if (!session.isClosed || !isOfPeer(error)) this.#admission.report(error);
      session.closeWithError("internal", "A handler failed");
    }
  }

  #versionsFor({ protocol }: Connection): readonly MoqVersion[] {
    const left = versionsFor(protocol, this.#versions);
    return left.length === 0 ? this.#versions : left;
  }
}

/** Returns `true` if an error was caused by the peer, or is a rejection. */
function isOfPeer(error: unknown): boolean {
  return [ConnectionError, MoqError, ProtocolError, StreamError, TimeoutError].some((type) =>
    error instanceof type
  );
}
