/** Reruns the plans that once broke an invariant. */
import { assertEquals } from "@std/assert";
import { runPlan } from "../simulation/run.ts";
import { readSavedPlan } from "../simulation/search/report.ts";

const FOLDER = new URL("../simulation/regressions/", import.meta.url);

for (const { name } of [...Deno.readDirSync(FOLDER)].toSorted((a, b) => a.name < b.name ? -1 : 1)) {
  if (!name.endsWith(".json")) continue;
  const { about, plan } = await readSavedPlan(new URL(name, FOLDER));
  Deno.test(`runPlan() of ${name}: ${about}`, async () => {
    assertEquals((await runPlan(plan)).findings, []);
  });
}
