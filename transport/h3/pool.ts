/** Connections shared by sessions. */
import type { Http3Connection } from "./connection.ts";
import type { Http3Session } from "./session.ts";

/**
 * The maximum number of sessions on one shared connection. It also applies until the server's limit
 * is known.
 */
const MAX_POOLED_SESSIONS = 16;

interface PooledConnection {
  readonly connecting: Promise<Http3Connection>;
  /** The open connection; `undefined` while connecting. */
  connection: Http3Connection | undefined;
  /** The server's session limit, as far as it is known. */
  limit: number;
  /** The number of current and pending sessions. */
  users: number;
}

/**
 * A pool of connections, each shared by sessions to one origin. Connections in the pool stay open.
 * If the server allows no more sessions on a connection, the pool opens another one.
 */
export class Http3Pool {
  readonly #connections = new Map<string, Set<PooledConnection>>();

  /** The number of connections. */
  get size(): number {
    let size = 0;
    for (const { size: count } of this.#connections.values()) size += count;
    return size;
  }

  /**
   * Opens a session on a connection that has room, or on a new connection.
   *
   * @param key The key that is common to the sessions that may share a connection.
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
