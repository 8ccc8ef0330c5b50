/**
 * A short run of `deno task fuzz`.
 *
 * @module
 */
import { assertRejects } from "@std/assert";
import { fuzz, FUZZERS } from "./fuzzers.ts";

const FIXED_SEED = 1;
const ROUNDS = 10_000;

for (const { name } of FUZZERS) {
  const weight = FUZZERS.find((fuzzer) => fuzzer.name === name)!.weight;
  const total = FUZZERS.reduce((sum, fuzzer) => sum + fuzzer.weight, 0);
  const rounds = Math.ceil(ROUNDS * weight / total);
  Deno.test(`fuzzing finds nothing: ${name}`, async () => {
    await fuzz({ seed: FIXED_SEED, rounds, only: name });
    // What no run before had; where it fails, the error says how to find it again.
    await fuzz({ seed: crypto.getRandomValues(new Uint32Array(1))[0]!, rounds, only: name });
  });
}

Deno.test("fuzz() says what there is when it is asked for what there is not", async () => {
  await assertRejects(() => fuzz({ seed: 1, rounds: 1, only: "nothing" }), TypeError, "envelopes");
});
