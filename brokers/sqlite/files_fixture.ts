/** Brokers on separate files, for tests. */
import { MovableClock } from "../../tests/movable_clock.ts";
import { SqliteBroker } from "./mod.ts";

/**
 * Creates brokers whose files are removed after a test.
 *
 * @param synchronous The durability of the files.
 * @returns A function that opens a broker on an empty file, one that closes all brokers and removes
 * their files, and one that moves the clock of the open brokers ahead.
 */
export function sqliteFiles(
  synchronous: "full" | "normal",
): {
  readonly open: () => Promise<SqliteBroker>;
  readonly teardown: () => Promise<void>;
  readonly pass: (ms: number) => void;
} {
  const clock = new MovableClock();
  const { runtime } = clock;
  const folders: string[] = [];
  const brokers: SqliteBroker[] = [];
  return {
    async open() {
      const folder = await Deno.makeTempDir();
      folders.push(folder);
      const broker = await SqliteBroker.open(`${folder}/test.db`, { synchronous, runtime });
      brokers.push(broker);
      return broker;
    },
    async teardown() {
      for (const broker of brokers.splice(0)) await broker.close();
      for (const folder of folders.splice(0)) await Deno.remove(folder, { recursive: true });
      clock.reset();
    },
    pass: (ms) => clock.pass(ms),
  };
}
