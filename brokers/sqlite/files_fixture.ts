/** Brokers on separate files, for tests. */
import { SqliteBroker } from "./mod.ts";

/**
 * Creates brokers whose files are removed after a test.
 *
 * @param synchronous The durability of the files.
 * @returns A function that opens a broker on an empty file, and one that closes all brokers and
 * removes their files.
 */
export function sqliteFiles(
  synchronous: "full" | "normal",
): { readonly open: () => Promise<SqliteBroker>; readonly teardown: () => Promise<void> } {
  const folders: string[] = [];
  const engines: SqliteBroker[] = [];
  return {
    async open() {
      const folder = await Deno.makeTempDir();
      folders.push(folder);
      const engine = await SqliteBroker.open(`${folder}/test.db`, { synchronous });
      engines.push(engine);
      return engine;
    },
    async teardown() {
      for (const engine of engines.splice(0)) await engine.close();
      for (const folder of folders.splice(0)) await Deno.remove(folder, { recursive: true });
    },
  };
}
