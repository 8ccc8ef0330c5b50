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
  const brokers: SqliteBroker[] = [];
  return {
    async open() {
      const folder = await Deno.makeTempDir();
      folders.push(folder);
      const broker = await SqliteBroker.open(`${folder}/test.db`, { synchronous });
      brokers.push(broker);
      return broker;
    },
    async teardown() {
      for (const broker of brokers.splice(0)) await broker.close();
      for (const folder of folders.splice(0)) await Deno.remove(folder, { recursive: true });
    },
  };
}
