/**
 * Tests what a client keeps in IndexedDB, while its pages are reloaded and killed in mid-send, users
 * sign out and in, and the server is killed. `offline/storm.ts` runs it by hand for longer.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { type Browser, isFirefox, testInBrowsers } from "./browsers.ts";
import { storm, type StormOptions } from "./offline/storm.ts";

const KINDS = ["message", "history", "once", "request"];

async function assertStorm(browser: Browser, options: Partial<StormOptions>): Promise<void> {
  const [reloads, kills] = isFirefox(browser) ? [8, 3] : [30, 10];
  const judgement = await storm(browser, { reloads, kills, kinds: KINDS, ...options });
  assertEquals(judgement.faults, []);
  assert(judgement.writes > 10 * (reloads + kills));
}

testInBrowsers("what pages write arrives after reloads and kills, in order", async (browser) => {
  await assertStorm(browser, {});
});

testInBrowsers("what users and guests write arrives as theirs only", async (browser) => {
  await assertStorm(browser, { users: ["ann", "bob", null], seed: 2 });
});
