/**
 * Connections that sessions share.
 *
 * @module
 */
import type { Http3Connection } from "./connection.ts";
import type { Http3Session } from "./session.ts";

/** Sessions on one shared connection; what a server takes where it says nothing is not known. */
const MAX_POOLED_SESSIONS = 16;

/** One connection of a pool. */
interface PooledConnection {
  readonly connecting: Promise<Http3Connection>;
  /** Once it is there. */
  connection: Http3Connection | undefined;
  /** What the server takes, as far as it is known. */
  limit: number;
  /** Sessions on it, and those that are about to be. */
  users: number;
}

/**
 * Connections that are shared by the sessions of one origin. It holds those that
 * live, and another is made where the server takes no more sessions on one.
 */
export class Http3Pool {
  readonly #connections = new Map<string, Set<PooledConnection>>();

  /** How many connections there are. */
  get size(): number {
    let size = 0;
    for (const { size: count } of this.#connections.values()) size += count;
    return size;
  }

  /**
   * Makes a session on a connection with room, or on a new one.
   *
   * @param key What the sessions of a connection have in common.
   * @param connect Makes a connection.
   * @param ask Asks for the session.
   * @returns The session.
   */
  async session(
    key: string,
    connect: () => Promise<Http3Connection>,
    ask: (connection: Http3Connection) => Promise<Http3Session>,
  ): Promise<Http3Session> {
    while (true) {
      const pooled = this.#find(key) ?? this.#add(key, connect);
      const place = ++pooled.users;
      const leave = () => void pooled.users--;
      try {
        const connection = await pooled.connecting;
        pooled.limit = Math.min(MAX_POOLED_SESSIONS, await connection.sessionLimit());
        if (place <= pooled.limit) {
          const session = await ask(connection);
          session.closed.then(leave, leave);
          return session;
        }
      } catch (error) {
        leave();
        throw error;
      }
      leave();
    }
  }

  #find(key: string): PooledConnection | undefined {
    for (const pooled of this.#connections.get(key) ?? []) {
      if (!pooled.connection?.isOver && pooled.users < pooled.limit) return pooled;
    }
    return undefined;
  }

  #add(key: string, connect: () => Promise<Http3Connection>): PooledConnection {
    const connecting = connect();
    const pooled: PooledConnection = {
      connecting,
      connection: undefined,
      limit: MAX_POOLED_SESSIONS,
      users: 0,
    };
    let all = this.#connections.get(key);
    if (all === undefined) this.#connections.set(key, all = new Set());
    all.add(pooled);
    const forget = () => {
      all.delete(pooled);
      if (all.size === 0 && this.#connections.get(key) === all) this.#connections.delete(key);
    };
    connecting.then((connection) => {
      pooled.connection = connection;
      return connection.ending;
    }).then(forget, forget);
    return pooled;
  }
}
