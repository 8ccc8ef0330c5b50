/**
 * The recipe for an outbox in Postgres: writers whose transactions commit out of order, while
 * servers, connections and Postgres are killed.
 */
import { assert, assertEquals } from "@std/assert";
import pg from "npm:pg@8.23.1";
import { connect } from "../../client.ts";
import { lowPort } from "../networks/ports.ts";
import { soon, until } from "../waiting.ts";
import { pageBlocks, PageServer } from "../programs/page_server.ts";
import { isPostgresMissing, PostgresServer } from "./postgres_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

const PAGE = "docs/recipes/postgres-outbox.md";

const [NODES, WRITERS, TRANSACTIONS, ORDERS] = [3, 12, 120, 4] as const;

/** The part of `npm:pg` that this test uses. The package has no types of its own. */
interface Db {
  query<T>(sql: string, values?: unknown[]): Promise<{ rows: T[] }>;
  on(event: "error", listener: () => void): void;
  release(isBroken: boolean): void;
}

/** See {@linkcode Db}. */
interface Pool {
  connect(): Promise<Db>;
  on(event: "connect" | "error", listener: (db: Db) => void): void;
  end(): Promise<void>;
}

/** The data of a message: the version of an order after a transaction. */
interface Change {
  readonly order: number;
  readonly version: number;
}

/** Changes orders and publishes that, in transactions of which every fourth is rolled back. */
class Writer {
  readonly #pool: Pool;
  readonly #number: number;
  rolledBack = 0;
  failed = 0;

  constructor(pool: Pool, number: number) {
    this.#pool = pool;
    this.#number = number;
  }

  async run(): Promise<void> {
    for (let i = 0; i < TRANSACTIONS; i++) {
      const isLost = (i + this.#number) % 4 === 0;
      try {
        await this.#transact((i * 7 + this.#number) % ORDERS, isLost);
        if (isLost) this.rolledBack++;
      } catch {
        this.failed++; // The connection was lost, so the outcome is unknown.
      }
    }
  }

  async #transact(order: number, isLost: boolean): Promise<void> {
    const db = await this.#pool.connect();
    let isDone = false;
    try {
      await db.query("BEGIN");
      // Assigns the transaction's number before it waits for the lock on the order.
      await db.query("INSERT INTO log VALUES ($1)", [this.#number]);
      const { rows: [row] } = await db.query<{ version: number }>(
        "UPDATE orders SET version = version + 1 WHERE id = $1 RETURNING version",
        [order],
      );
      const { version } = row!;
      await db.query("INSERT INTO versions VALUES ($1, $2, pg_current_xact_id())", [
        order,
        version,
      ]);
      await db.query("INSERT INTO outbox (topic, data) VALUES ('orders', $1)", [{
        order,
        version,
      }]);
      await db.query(isLost ? "ROLLBACK" : "COMMIT");
      isDone = true;
    } finally {
      db.release(!isDone);
    }
  }
}

Deno.test({
  name:
    "the outbox in Postgres publishes each commit once, in order, though servers and Postgres are killed",
  ignore: isPostgresMissing || isRedisMissing,
  async fn() {
    await using database = await PostgresServer.start();
    await using redis = await RedisServer.start();
    const blocks = await pageBlocks(PAGE);
    await database.run(blocks.get("outbox.sql")!);
    await database.run(`
      CREATE TABLE orders (id int PRIMARY KEY, version int NOT NULL);
      CREATE TABLE log (writer int NOT NULL);
      CREATE TABLE versions (order_id int, version int, xid xid8);
      INSERT INTO orders SELECT id, 0 FROM generate_series(0, ${ORDERS - 1}) AS id`);

    await using programs = new AsyncDisposableStack();
    const nodes = Array.from({ length: NODES }, () => {
      const port = lowPort();
      const text = blocks.get("server.ts")!.replace("port: 8000", `port: ${port}`);
      const env = { DATABASE_URL: database.url, REDIS_URL: redis.url };
      return programs.use(new PageServer(text, { port, env }));
    });
    await Promise.all(nodes.map((node) => node.start()));

    const received: Change[] = [];
    await using client = connect(nodes.map(({ port }) => `ws://127.0.0.1:${port}`), {
      backoff: { firstDelayMs: 50, maxDelayMs: 500 },
    });
    const subscription = client.subscribe("orders", { last: 10_000 });
    const reading = (async () => {
      for await (const { data } of subscription) received.push(data as Change);
    })();
    await soon(subscription.ready);

    const pool: Pool = new pg.Pool({ connectionString: database.url, max: WRITERS });
    // Connections break, with an event in addition to the error of the query.
    pool.on("error", () => {});
    pool.on("connect", (db) => db.on("error", () => {}));
    const writers = Array.from({ length: WRITERS }, (_, i) => new Writer(pool, i));
    let isWriting = true;
    const writing = Promise.all(writers.map((writer) => writer.run())).then(() =>
      isWriting = false
    );
    const faults = database.faultsWith(nodes);
    let count = 0;
    for (; isWriting || count < faults.length; count++) {
      const before = received.length;
      await until(() => !isWriting || received.length > before + 20);
      await faults[count % faults.length]!();
    }
    await soon(writing);

    await until(async () => await database.run("SELECT count(*) FROM outbox") === "0");
    const versions = (await database.run("SELECT version FROM orders ORDER BY id")).split("\n");
    const total = versions.reduce((sum, version) => sum + Number(version), 0);
    await until(() => received.length >= total);
    await subscription.unsubscribe();
    await reading;
    for (const [order, version] of versions.entries()) {
      assertEquals(
        received.filter((change) => change.order === order).map((change) => change.version),
        Array.from({ length: Number(version) }, (_, i) => i + 1),
      );
    }
    assertEquals(received.length, total);
    // An order by the transactions' numbers would have been wrong here.
    const early = Number(
      await database.run(`SELECT count(*) FROM versions AS a JOIN versions AS b
      ON a.order_id = b.order_id AND a.version + 1 = b.version AND a.xid > b.xid`),
    );
    assert(early > 0, "No transaction waited for a lock of a later one");
    await pool.end();
    const [rolledBack, failed] = [sum(writers, "rolledBack"), sum(writers, "failed")];
    console.log(
      `${total} commits, ${rolledBack} rollbacks, ${failed} lost, ${count} faults, ${early} early`,
    );
  },
});

function sum(writers: readonly Writer[], key: "rolledBack" | "failed"): number {
  return writers.reduce((total, writer) => total + writer[key], 0);
}
