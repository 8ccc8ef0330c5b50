/** Tests that the program on the simulation page runs without a finding. */
import { assertEquals } from "@std/assert";
import { simulate, timeline } from "../testing/simulation/mod.ts";

Deno.test("The program on the simulation page gives equal runs, without a finding", async () => {
  const page = await Deno.readTextFile(new URL("../docs/guide/simulation.md", import.meta.url));
  const [, code] = /```ts ignore file=cluster\.ts\n([^]*?)```/.exec(page)!;
  const module = `data:text/typescript,${encodeURIComponent(code!)}`;
  const digests = await Promise.all([1, 1].map(async (seed) => {
    const { findings, trace, digest } = await simulate(module, {
      seed,
      network: { lossRate: 0.02 },
    });
    assertEquals(findings, [], timeline(trace));
    return digest;
  }));
  assertEquals(digests[0], digests[1]);
});
