/**
 * The recipe for a Postgres table as the source of a state: writers change rows, while servers,
 * connections and Postgres are killed.
 */
import { assert, assertEquals } from "@std/assert";
import { connect } from "../../client.ts";
import { lowPort } from "../networks/ports.ts";
import { soon, until } from "../waiting.ts";
import { pageBlocks, PageServer } from "../programs/page_server.ts";
import { isPostgresMissing, PostgresServer } from "./postgres_server.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

const PAGE = "docs/recipes/postgres-source.md";
const OUTBOX_PAGE = "docs/recipes/postgres-outbox.md";

const [NODES, WRITERS, STATEMENTS, ROWS] = [2, 4, 300, 40] as const;

function statementOf(writer: number, round: number): string {
  const id = `'${(writer * 7 + round * 3) % ROWS}'`;
  if (writer === 0 && round === STATEMENTS / 2) return "TRUNCATE cards;";
  switch ((writer + round) % 8) {
    case 0:
      return `DELETE FROM cards WHERE id = ${id};`;
    case 1:
      return `BEGIN; UPDATE cards SET votes = -1; ROLLBACK;`;
    case 2:
      return `UPDATE cards SET id = 'moved-' || id WHERE id = ${id}
        AND NOT EXISTS (SELECT FROM cards WHERE id = 'moved-' || ${id});`;
    default:
      return `INSERT INTO cards VALUES (${id}, 'Card ${round}', ${round})
        ON CONFLICT (id) DO UPDATE SET votes = cards.votes + 1;`;
  }
}

/** Runs the statements of a writer in some connections, of which each may be lost. */
async function write(database: PostgresServer, writer: number): Promise<number> {
  let failed = 0;
  for (let round = 0; round < STATEMENTS; round += 10) {
    const statements = Array.from({ length: 10 }, (_, i) => statementOf(writer, round + i));
    await database.run(statements.join("\n")).catch(() => failed++);
  }
  return failed;
}

Deno.test({
  name: "a state follows a table in Postgres, though servers and Postgres are killed",
  ignore: isPostgresMissing || isRedisMissing,
  async fn() {
    await using database = await PostgresServer.start();
    await using redis = await RedisServer.start();
    const blocks = await pageBlocks(PAGE);
    await database.run(blocks.get("source.sql")!);

    await using programs = new AsyncDisposableStack();
    const nodes = Array.from({ length: NODES }, () => {
      const port = lowPort();
      const text = blocks.get("server.ts")!.replace("port: 8000", `port: ${port}`);
      const env = { DATABASE_URL: database.url, REDIS_URL: redis.url };
      return programs.use(new PageServer(text, { port, env }));
    });
    await Promise.all(nodes.map((node) => node.start()));
    await using client = connect(nodes.map(({ port }) => `ws://127.0.0.1:${port}`), {
      backoff: { firstDelayMs: 50, maxDelayMs: 500 },
    });
    using board = await client.state("board");
    const cards = board.collection("cards");
    await soon(board.ready);
    await database.run("INSERT INTO cards VALUES ('first', 'First')");
    await until(() => cards.has("first"));

    let changes = 0;
    using _counted = cards.subscribe(() => changes++);
    let isWriting = true;
    const writing = Promise.all(Array.from({ length: WRITERS }, (_, i) => write(database, i)))
      .finally(() => isWriting = false);
    const faults = database.faultsWith(nodes);
    let count = 0;
    for (; isWriting || count < faults.length; count++) {
      const before = changes;
      await until(() => !isWriting || changes > before + 5);
      await faults[count % faults.length]!();
    }
    const failed = (await soon(writing)).reduce((sum, n) => sum + n, 0);
    await database.run("INSERT INTO cards VALUES ('last', 'Last')");

    const rows = JSON.parse(
      await database.run("SELECT jsonb_object_agg(id, to_jsonb(cards) - 'id') FROM cards"),
    ) as Record<string, unknown>;
    const inOrder = (entries: Iterable<[string, unknown]>) =>
      Object.fromEntries([...entries].sort());
    await until(() =>
      JSON.stringify(inOrder(cards)) === JSON.stringify(inOrder(Object.entries(rows)))
    );
    assert(changes > faults.length);
    console.log(`${cards.size} rows, ${changes} changes, ${count} faults, ${failed} lost scripts`);
  },
});

Deno.test({
  name: "a trigger on a table in Postgres fills the outbox",
  ignore: isPostgresMissing,
  async fn() {
    await using database = await PostgresServer.start();
    const [source, outbox] = [await pageBlocks(PAGE), await pageBlocks(OUTBOX_PAGE)];
    await database.run(source.get("source.sql")!);
    await database.run(outbox.get("outbox.sql")!);
    await database.run(source.get("events.sql")!);
    await database.run("INSERT INTO cards VALUES ('1', 'Tea'); UPDATE cards SET votes = 2");
    assertEquals(
      await database.run("SELECT topic, data FROM outbox"),
      'votes|{"card": "1", "votes": 2}',
    );
  },
});
