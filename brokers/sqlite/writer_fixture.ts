/**
 * A program that appends until it is killed, for tests of killed processes. Prints the number of
 * each acknowledged publication and record.
 */
import { SqliteBroker } from "./mod.ts";

/** Number of appends in one turn. */
const BATCH = 20;

if (import.meta.main) await write(Deno.args[0]!, Deno.args[1] as "normal" | "full");

async function write(path: string, synchronous: "normal" | "full"): Promise<void> {
  const broker = await SqliteBroker.open(path, { synchronous });
  const bounds = { size: 1_000_000, ttlMs: 3_600_000, bytes: 1_000_000_000 };
  const config = { contentType: "text/plain" };
  const identity = "identity";
  await broker.logs.create("log", { config, identity, records: [], maxLogs: 10 });
  const page = await broker.history.read("topic", { bounds, maxMessages: 1, maxBytes: 1, last: 1 });
  const { info } = await broker.logs.read("log", {
    after: 0,
    maxRecords: 0,
    maxBytes: 1,
    renews: false,
  }) as { info: { tail: number } };
  let [published, recorded] = [page.head, info.tail];
  print([`epoch ${page.epoch}`]);
  while (true) {
    const acknowledged: string[] = [];
    const appends = Array.from({ length: BATCH }, async () => {
      const [payload, record] = [`${++published}`, `${++recorded}`];
      await broker.history.append({ topic: "topic", payload }, { bounds });
      acknowledged.push(`p ${payload}`);
      const result = await broker.logs.append("log", {
        records: [record],
        maxBytes: 1_000_000_000,
      });
      if (result.kind === "appended") acknowledged.push(`r ${record}`);
    });
    await Promise.all(appends);
    print(acknowledged);
  }
}

/**
 * Prints before continuing, so that the reader knows of all acknowledged writes except the last
 * ones.
 */
function print(lines: readonly string[]): void {
  Deno.stdout.writeSync(new TextEncoder().encode(lines.map((line) => `${line}\n`).join("")));
}
