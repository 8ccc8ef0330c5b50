/**
 * The program of `deno task fuzz`. It feeds a million malformed inputs to all code that reads a
 * peer's data, and to whole sessions and servers.
 *
 * ```sh
 * deno task fuzz                  # a million inputs from a random seed
 * deno task fuzz --rounds 20000   # fewer
 * deno task fuzz --only "h3 frames" --seed 7 --rounds 500   # a finding again
 * ```
 *
 * @module
 */
import { delay } from "@std/async/delay";
import { fuzz } from "./fuzzers.ts";

/** Allowed growth of the heap over all inputs. */
const MAX_GROWTH_BYTES = 32 * 1024 * 1024;

/** The time in which the timers of sessions that have ended run out, in milliseconds. */
const LINGER_MS = 40_000;

function option(name: string): string | undefined {
  const at = Deno.args.indexOf(`--${name}`);
  return at < 0 ? undefined : Deno.args[at + 1];
}

function numberOption(name: string, otherwise: number): number {
  const given = option(name);
  if (given === undefined) return otherwise;
  const number = Number(given);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  throw new TypeError(`Cannot fuzz: ${name} must be an integer of 0 or more, received ${given}`);
}

async function heapBytes(): Promise<number> {
  const { gc } = globalThis as { gc?: () => void };
  if (gc === undefined) return 0;
  for (let i = 0; i < 3; i++) {
    gc();
    await new Promise<void>((resolve) => setTimeout(resolve, 10));
  }
  return Deno.memoryUsage().heapUsed;
}

if (import.meta.main) {
  const seed = numberOption("seed", crypto.getRandomValues(new Uint32Array(1))[0]!);
  const rounds = numberOption("rounds", 1_000_000);
  const only = option("only");
  console.log(`seed ${seed}, ${rounds} inputs`);
  // Compiled code and caches remain after this run.
  await fuzz({ seed, rounds: Math.min(rounds, 10_000), only });
  const before = await heapBytes();
  const start = performance.now();
  let count = 0;
  await fuzz({
    seed,
    rounds,
    only,
    onDone: ({ name, rounds, seconds }) => {
      count += rounds;
      console.log(
        `${name.padEnd(18)} ${String(rounds).padStart(8)} inputs ${
          seconds.toFixed(1).padStart(7)
        } s`,
      );
    },
  });
  const seconds = ((performance.now() - start) / 1_000).toFixed(1);
  console.log(`${count} inputs in ${seconds} s, no finding`);
  let growth = await heapBytes() - before;
  if (growth > MAX_GROWTH_BYTES) {
    await delay(LINGER_MS);
    growth = await heapBytes() - before;
  }
  console.log(`heap ${growth < 0 ? "-" : "+"}${(Math.abs(growth) / 2 ** 20).toFixed(1)} MiB`);
  if (growth > MAX_GROWTH_BYTES) {
    console.error(`The heap grew by more than ${MAX_GROWTH_BYTES / 2 ** 20} MiB`);
    Deno.exit(1);
  }
}
