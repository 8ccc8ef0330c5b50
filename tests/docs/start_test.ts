/**
 * Tests the tutorial with a reader who opens the pages in Chromium and types.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { type Browser, BROWSERS, findBrowser, launchBrowser } from "../browser/browsers.ts";
import { until } from "../waiting.ts";
import { tabOf } from "./tab.ts";
import { walk, type Walked } from "./walk.ts";

const PAGES = [
  "docs/start/1-first-server.md",
  "docs/start/2-a-page.md",
  "docs/start/3-topics.md",
  "docs/start/4-types.md",
  "docs/start/5-users.md",
  "docs/start/6-presence.md",
  "docs/start/7-history.md",
  "docs/start/8-shared-list.md",
  "docs/start/9-streaming-responses.md",
  "docs/start/10-tests.md",
  "docs/start/11-two-nodes.md",
];

const CHROMIUM = BROWSERS[0]!;

type Look = (browser: Browser, url: string, walked: Walked) => Promise<void>;

const LOOKS: Record<string, Look> = {
  async "docs/start/2-a-page.md"(browser, url, { stop, restart }) {
    const tab = await tabOf(browser, url);
    await tab.hasStatus("connected over web");
    await stop("server.ts");
    await tab.hasStatus("reconnecting");
    await restart("server.ts");
    await tab.hasStatus("connected over web");
  },

  async "docs/start/3-topics.md"(browser, url) {
    const [one, two] = [await tabOf(browser, url), await tabOf(browser, url)];
    await one.hasStatus("connected");
    await two.hasStatus("connected");
    await one.say("Hello");
    for (const tab of [one, two]) await tab.hasLines(["Hello"]);
  },

  async "docs/start/4-types.md"(browser, url) {
    const tab = await tabOf(browser, url);
    await tab.hasStatus("connected");
    await tab.say("Hello");
    await tab.hasLines(["Hello"]);
  },

  async "docs/start/5-users.md"(browser, url) {
    const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
    await ann.hasStatus("connected");
    await ben.hasStatus("connected");
    await ann.say("Hello");
    await ben.hasLines(["Ann: Hello"]);
    await ben.say("Hello, Ann");
    await ann.hasLines(["Ann: Hello", "Ben: Hello, Ann"]);
  },

  async "docs/start/6-presence.md"(browser, url) {
    const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
    for (const tab of [ann, ben]) await tab.hasText("#people", "Here: Ann, Ben");
    await ben.page.close();
    await ann.hasText("#people", "Here: Ann");
  },

  async "docs/start/7-history.md"(browser, url, { stop, restart }) {
    const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
    for (const tab of [ann, ben]) await tab.hasStatus("connected");
    await ann.say("before");
    for (const tab of [ann, ben]) await tab.hasLines(["Ann: before"]);
    await ann.page.reload();
    await ann.hasLines(["Ann: before"]);
    await ann.hasStatus("connected");
    await stop("server.ts");
    for (const tab of [ann, ben]) await tab.hasStatus("reconnecting");
    await ann.say("from Ann");
    await ben.say("from Ben");
    await restart("server.ts");
    for (const tab of [ann, ben]) {
      await tab.hasCount(3);
      assertEquals((await tab.lines()).toSorted(), [
        "Ann: before",
        "Ann: from Ann",
        "Ben: from Ben",
      ]);
    }
  },

  async "docs/start/8-shared-list.md"(browser, url, { stop, restart }) {
    const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
    for (const tab of [ann, ben]) await tab.hasStatus("connected");
    await ann.say("/todo Buy tea");
    for (const tab of [ann, ben]) await tab.hasText("#todo", "Buy tea");
    await ben.click("#todo input");
    for (const tab of [ann, ben]) await tab.has("#todo :checked");
    await stop("server.ts");
    for (const tab of [ann, ben]) await tab.hasStatus("reconnecting");
    await ann.say("/todo Buy milk");
    await ann.hasText("#todo", "Buy teaBuy milk");
    await ben.click("#todo input");
    await ben.has("#todo label:first-child input:not(:checked)");
    await restart("server.ts");
    for (const tab of [ann, ben]) {
      await tab.hasText("#todo", "Buy teaBuy milk");
      await tab.has("#todo label:first-child input:not(:checked)");
    }
  },

  async "docs/start/9-streaming-responses.md"(browser, url) {
    const [ann, ben] = [await tabOf(browser, url, "Ann"), await tabOf(browser, url, "Ben")];
    for (const tab of [ann, ben]) await tab.hasCount(3); // The lines of the previous step.
    const before = await ben.lines();
    await ann.say("/story a cat");
    const story = "Once upon a time a cat met a fox, and both lived happily ever after.";
    await ann.hasLines([...before, story]);
    assertEquals(await ben.lines(), before);
  },

  async "docs/start/11-two-nodes.md"(browser, url, { port, outputOf }) {
    const ann = await tabOf(browser, url, "Ann");
    await ann.hasStatus("connected");
    const ben = await tabOf(browser, url, "Ben");
    await ben.hasStatus("connected");
    const numbers = [8001, 8002];
    const arrivals = (user: string) =>
      numbers.map((number) => outputOf(`server.ts ${number}`).split(`${user} is on`).length);
    /** The node that a user has connected to since; its line may be printed later. */
    const nodeOf = async (user: string, before = [1, 1]) => {
      const isNew = (count: number, i: number) => count > before[i]!;
      await until(() => arrivals(user).some(isNew));
      return numbers[arrivals(user).findIndex(isNew)]!;
    };
    const killed = await nodeOf("Ann");
    let other = await nodeOf("Ben");
    // The connections for the page's files are balanced too.
    for (let i = 0; i < 20 && other === killed; i++) {
      const before = arrivals("Ben");
      await ben.page.reload();
      await ben.hasStatus("connected");
      other = await nodeOf("Ben", before);
    }
    const pid = /is process (\d+)/.exec(outputOf(`server.ts ${killed}`))![1]!;

    const sent: string[] = [];
    const say = async (tab: typeof ann, name: string) => {
      const text = `line ${sent.length}`;
      sent.push(`${name}: ${text}`);
      await tab.say(text);
    };
    for (let i = 0; i < 5; i++) {
      await say(ann, "Ann");
      await say(ben, "Ben");
    }
    Deno.kill(Number(pid), "SIGKILL");
    for (let i = 0; i < 5; i++) {
      await say(ann, "Ann");
      await say(ben, "Ben");
    }
    for (const tab of [ann, ben]) {
      await tab.hasCount(sent.length);
      assertEquals((await tab.lines()).toSorted(), sent.toSorted());
    }
    assertEquals(await ann.lines(), await ben.lines());
    const left = numbers.find((number) => number !== killed)!;
    assertMatch(outputOf(`server.ts ${left}`), new RegExp(`Ann is on node ${port(left)}`));
    await ann.hasStatus("connected");
    await ann.hasText("#people", "Here: Ann, Ben");
  },
};

const isMissing = findBrowser(CHROMIUM) === undefined && Deno.env.get("CI") !== "true";

/** The browser of all pages; closed by the last page, or by the first that fails. */
let browser: Browser | undefined;

const looks = Object.entries(LOOKS).map(([page, look]) => [
  page,
  async (walked: Walked) => {
    browser ??= await launchBrowser(CHROMIUM);
    let isLast = true;
    try {
      await look(browser, `http://localhost:${walked.port(8000)}/`, walked);
      isLast = page === Object.keys(LOOKS).at(-1);
    } finally {
      if (isLast) await browser.close();
      else for (const tab of (await browser.pages()).slice(1)) await tab.close();
    }
  },
]);

walk(PAGES, { ports: [6379], then: isMissing ? {} : Object.fromEntries(looks) });
