/**
 * Tests the skill for coding agents: its application runs in Chromium, and its nginx lines are the
 * same as on the page about proxies, which has its own test.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { BROWSERS, findBrowser, launchBrowser } from "../browser/browsers.ts";
import { tabOf } from "./tab.ts";
import { walk, type Walked } from "./walk.ts";

const SKILL = "skills/skein/SKILL.md";
const NGINX = "docs/deploy/proxies.md";

const CHROMIUM = BROWSERS[0]!;

const ANSWER = "You asked: Why is the sky blue. A long answer follows, word by word.";

async function look({ port, stop, restart }: Walked): Promise<void> {
  await using browser = await launchBrowser(CHROMIUM);
  const url = `http://localhost:${port(8000)}/`;
  const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
  for (const tab of [ann, ben]) await tab.hasText("#people", "Here: Ann, Ben");
  await ann.page.type("input", "Hello");
  await ben.hasText("#people", "Here: Ann …, Ben");
  await ann.page.keyboard.press("Enter");
  for (const tab of [ann, ben]) {
    await tab.hasLines(["Ann: Hello"]);
    await tab.hasText("#people", "Here: Ann, Ben");
  }
  await ann.page.reload();
  await ann.hasLines(["Ann: Hello"]);
  await ann.hasText("#answer", ANSWER);
  await stop("server.ts");
  await ben.hasStatus("reconnecting");
  await ben.say("While it was down");
  await restart("server.ts");
  for (const tab of [ann, ben]) await tab.hasLines(["Ann: Hello", "Ben: While it was down"]);
  await ann.page.reload();
  await ann.hasText("#answer", ANSWER);

  await ann.page.bringToFront();
  await ann.page.type("#todo + input", "Tea");
  await ann.page.keyboard.press("Enter");
  for (const tab of [ann, ben]) await tab.hasText("#todo", "☐ Tea");
  await ben.click("#todo li");
  for (const tab of [ann, ben]) await tab.hasText("#todo", "☑ Tea");
}

const isMissing = findBrowser(CHROMIUM) === undefined && Deno.env.get("CI") !== "true";

walk([SKILL], { ports: [6379], then: isMissing ? {} : { [SKILL]: look } });

Deno.test("the skill uses the nginx lines of the tested page", async () => {
  const [skill, page] = await Promise.all(
    [SKILL, NGINX].map(async (path) =>
      (await Deno.readTextFile(new URL(`../../${path}`, import.meta.url)))
        .split("\n").map((line) => line.replace(/ #.*/, "").trim())
    ),
  );
  const start = skill!.indexOf("```nginx");
  const lines = skill!.slice(start + 1, skill!.indexOf("```", start));
  assertEquals(lines.filter((line) => !page!.includes(line)), []);
});
