/**
 * A short run of `deno task fuzz`.
 *
 * @module
 */
import { assertRejects } from "@std/assert";
import { slowTest } from "../../tools/run_tests/slow.ts";
import { fuzz, FUZZERS } from "./fuzzers.ts";

const FIXED_SEED = 1;
const ROUNDS = 10_000;

for (const { name } of FUZZERS) {
  const weight = FUZZERS.find((fuzzer) => fuzzer.name === name)!.weight;
  const total = FUZZERS.reduce((sum, fuzzer) => sum + fuzzer.weight, 0);
  const rounds = Math.ceil(ROUNDS * weight / total);
  slowTest(`fuzzing finds no fault: ${name}`, async () => {
    await fuzz({ seed: FIXED_SEED, rounds, only: name });
    // Each run uses new inputs. If it fails, the error includes the seed.
    await fuzz({ seed: crypto.getRandomValues(new Uint32Array(1))[0]!, rounds, only: name });
  });
}

Deno.test("fuzz() lists the fuzzers if only is unknown", async () => {
  await assertRejects(() => fuzz({ seed: 1, rounds: 1, only: "nothing" }), TypeError, "envelopes");
});
