/**
 * Checks the whole documentation: the links of the built site, the spelling, and the pages'
 * commands.
 *
 * @module
 */
import { OPENED, openMirror } from "../mirror/mirror.ts";
import { openRegistry } from "../npm/registry.ts";
import { readPages } from "../pages.ts";
import { OUT, type Packages } from "./build.ts";
import { checkLinks } from "./links.ts";
import { checkSpelling } from "./spelling.ts";

const ROOT = new URL("../../", import.meta.url);

/** Test files at a time: they start servers, browsers and compilers. */
const JOBS = "3";

/** Deadline of one page, in seconds; its test installs packages and starts servers. */
const WALK_SECONDS = 240;

/**
 * Checks the built site and the pages, and prints each fault and the totals.
 *
 * @param packages See {@linkcode Packages}.
 * @param base The path of the site.
 * @returns True if no check failed.
 */
export async function checkDocs(packages: Packages, base: string): Promise<boolean> {
  const checks: [name: string, run: () => Promise<string[]>][] = [
    ["links", async () => (await checkLinks(OUT, base)).faults],
    ["spelling", async () => {
      const { pages } = await readPages(ROOT);
      return await checkSpelling(packages, ROOT, pages);
    }],
  ];
  let failed = 0;
  for (const [name, run] of checks) {
    const startMs = performance.now();
    const faults = await run();
    if (faults.length > 0) failed++;
    for (const fault of faults) console.error(fault);
    const seconds = ((performance.now() - startMs) / 1_000).toFixed(1);
    console.log(`${name} ... ${faults.length === 0 ? "ok" : "FAILED"} (${seconds} s)`);
  }
  // The build itself counts as one check: it fails on a link to a missing page.
  const passed = checks.length - failed + 1;
  console.log(`\n${failed === 0 ? "ok" : "FAILED"} | ${passed} passed | ${failed} failed\n`);
  return await walkPages() && failed === 0;
}

/** Runs the tests of the pages, which print their own totals. */
async function walkPages(): Promise<boolean> {
  await using mirror = await openMirror({ checkout: ROOT });
  await using registry = await openRegistry({ checkout: ROOT });
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "tools/run_tests.ts",
      "--no-check",
      "--parallel",
      `--deadline=${WALK_SECONDS}`,
      "tests/docs/",
    ],
    cwd: ROOT,
    env: {
      DENO_JOBS: Deno.env.get("DENO_JOBS") ?? JOBS,
      [OPENED]: `${mirror.url} ${registry.url}`,
    },
    stdin: "null",
  }).spawn().status;
  return success;
}
