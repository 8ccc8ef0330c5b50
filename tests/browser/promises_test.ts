/**
 * Tests each promise of the README's list in the setup that a reader tries first: with the shortest
 * program on the page about it, guests, and no further options. The programs are taken from the
 * pages, and run as processes that are killed.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { Cable } from "../networks/cable.ts";
import { blocksOf } from "../docs/blocks.ts";
import { until } from "../waiting.ts";
import { BROWSERS, newPage, type Page, testInBrowsers } from "./browsers.ts";
import {
  add,
  argsIn,
  change,
  checkFirst,
  CONFIG,
  fileIn,
  hasBegun,
  isKept,
  lists,
  partOf,
  Site,
  STORY,
  tabOf,
  tells,
  textOf,
  WAIT,
} from "./reader_site.ts";

const CHROMIUM = BROWSERS.filter(({ name }) => name === "Chromium");

/** Returns the server in the first example of a page, as a program that listens on port 8000. */
function serverIn(page: string): string {
  const server = partOf(page, /await using server = serve\(\{[\s\S]*?^\}\);/m);
  const names = ["serve", ...server.includes("guest") ? ["guest"] : []];
  return `import { ${names} } from "@skein/skein";\n` +
    change(
      change(server, "port: 0, // hidden\n  onListen() {}, // hidden", "port: 8000,"),
      "await using",
      "const",
    );
}

/** Puts an option in front of a server's options. */
const withOption = (server: string, option: string) =>
  change(server, "serve({\n", `serve({\n  ${option},\n`);

const SQLITE = 'import { SqliteBroker } from "@skein/skein/sqlite";\n';

/** The members of a page's globals in use: the repository is type-checked without the DOM. */
declare const document: {
  readonly body: { readonly textContent: string };
  querySelectorAll(selector: string): Iterable<{ readonly textContent: string }>;
};

/** A page that lists the publications of a topic, and can publish. */
const CHAT = `import { connect } from "@skein/skein/client";
const client = connect("/");
const chat = ${partOf("docs/concepts/history.md", /client\.subscribe\("chat:lobby".*?\)/)};
Object.assign(globalThis, { say: (text: string) => client.publish("chat:lobby", text) });
for await (const { data } of chat) {
  const line = (globalThis as any).document.createElement("li");
  line.textContent = data;
  (globalThis as any).document.body.append(line);
}
`;

declare const say: (text: string) => Promise<void>;

/** Publishes a line, and waits until the page knows whether the server accepted it. */
const sayIn = (page: Page, text: string) => page.evaluate((text) => say(text), text);

const STORY_GUIDE = "docs/guide/ai-responses.md";

/** Serves a page's files, as the server of the guide does. */
const FETCH = partOf(STORY_GUIDE, /^ {2}fetch\(\{ url \}\) \{[\s\S]*?^ {2}\}/m)
  .replace(": html,", ": '<!DOCTYPE html><script type=module src=/page.js></script>',");

testInBrowsers(
  "README: missed messages are replayed exactly once, in order, after kill -9",
  async (browser) => {
    const server = withOption(serverIn("docs/concepts/history.md"), FETCH);
    await using site = await Site.open({
      "page.ts": CHAT,
      // The broker of the README, which outlives the server.
      "server.ts": SQLITE + withOption(server, 'broker: await SqliteBroker.open("chat.db")'),
    });
    const [ann, bob] = [await tabOf(browser, site.url), await tabOf(browser, site.url)];
    const lines: string[] = [];
    const say = async (text: string) => {
      lines.push(text);
      await sayIn(ann, text);
    };
    for (const page of [ann, bob]) await page.waitForFunction(() => "say" in globalThis, WAIT);
    await say("one");
    for (const page of [ann, bob]) await lists(page, "li", lines);
    for (let round = 0; round < 3; round++) {
      await bob.setOfflineMode(true);
      await site.kill();
      await site.start();
      for (let i = 0; i < 3; i++) await say(`${round}.${i}`);
      await lists(ann, "li", lines);
      await bob.setOfflineMode(false);
      await lists(bob, "li", lines);
    }
    await bob.reload();
    await lists(bob, "li", lines); // The newest ten.
  },
  CHROMIUM,
);

testInBrowsers(
  "README: what a page publishes arrives exactly once, although the server is killed",
  async (browser) => {
    await using site = await Site.open({
      "page.ts": CHAT,
      "server.ts": withOption(serverIn("docs/concepts/history.md"), FETCH),
    });
    const [ann, bob] = [await tabOf(browser, site.url), await tabOf(browser, site.url)];
    for (const page of [ann, bob]) await page.waitForFunction(() => "say" in globalThis, WAIT);
    await sayIn(ann, "one");
    for (const page of [ann, bob]) await lists(page, "li", ["one"]);
    await site.kill();
    // The page may not have noticed the loss yet.
    const saying = ann.evaluate(() =>
      Promise.allSettled(["two", "three", "four"].map((text) => say(text)))
    );
    await site.start();
    assertEquals((await saying).map(({ status }) => status), [
      "fulfilled",
      "fulfilled",
      "fulfilled",
    ]);
    for (const page of [ann, bob]) await lists(page, "li", ["one", "two", "three", "four"]);
  },
  CHROMIUM,
);

const TODO_GUIDE = "docs/guide/offline.md";

const TODO = {
  "server.ts": fileIn(TODO_GUIDE, "server.ts"),
  "index.html": fileIn(TODO_GUIDE, "index.html"),
  "page.ts": fileIn(TODO_GUIDE, "page.ts"),
};

testInBrowsers(
  "README: tabs that are closed or reloaded in the middle lose nothing of the shared list",
  async (browser) => {
    await using site = await Site.open(TODO, TODO_GUIDE);
    const context = await browser.createBrowserContext();
    const [one, two] = [await tabOf(context, site.url), await tabOf(context, site.url)];
    await add(one, "Tea");
    for (const page of [one, two]) await lists(page, "li", ["☐ Tea"]);
    await site.kill();
    await add(one, "Milk");
    await add(two, "Bread");
    await checkFirst(two);
    await lists(one, "li", ["☐ Tea", "☐ Milk"]);
    await lists(two, "li", ["☑ Tea", "☐ Bread"]);
    await isKept(one, "Milk");
    await one.close();
    await site.start();
    await two.reload();
    const three = await tabOf(context, site.url);
    for (const page of [two, three]) await lists(page, "li", ["☑ Tea", "☐ Milk", "☐ Bread"]);
  },
);

testInBrowsers(
  "README: two tabs change the shared list while the server is killed, and agree afterwards",
  async (browser) => {
    await using site = await Site.open(TODO, TODO_GUIDE);
    const [one, two] = [await tabOf(browser, site.url), await tabOf(browser, site.url)];
    await add(one, "Tea");
    for (const page of [one, two]) await lists(page, "li", ["☐ Tea"]);
    await checkFirst(two);
    for (const page of [one, two]) await lists(page, "li", ["☑ Tea"]);
    await site.kill();
    await add(one, "Milk");
    await lists(one, "li", ["☑ Tea", "☐ Milk"]);
    await checkFirst(two);
    await add(two, "Bread");
    await lists(two, "li", ["☐ Tea", "☐ Bread"]);
    await site.start();
    for (const page of [one, two]) await lists(page, "li", ["☐ Tea", "☐ Milk", "☐ Bread"]);
    await site.kill();
    await site.start();
    await one.reload();
    for (const page of [one, two, await tabOf(browser, site.url)]) {
      await lists(page, "li", ["☐ Tea", "☐ Milk", "☐ Bread"]);
    }
  },
  CHROMIUM,
);

const STORY_SITE = {
  "server.ts": fileIn(STORY_GUIDE, "server.ts"),
  "page.ts": fileIn(STORY_GUIDE, "page.ts"),
};

testInBrowsers(
  "README: a response survives a reload and, with a broker that outlives the server, kill -9",
  async (browser) => {
    await using site = await Site.open(STORY_SITE);
    const page = await tabOf(browser, site.url);
    await hasBegun(page);
    await page.reload();
    await hasBegun(page);
    const second = await tabOf(browser, page.url());
    await hasBegun(second); // Until then, it still loads code from the server.
    await site.kill();
    await site.start();
    for (const tab of [page, second]) await tells(tab, STORY);
    await page.reload();
    await tells(page, STORY);
  },
  CHROMIUM,
);

testInBrowsers(
  "README: a response survives a reload without a broker, and its loss with the server is reported",
  async (browser) => {
    const server = STORY_SITE["server.ts"];
    const broker = partOf(STORY_GUIDE, /^ {2}broker: .*\n/m);
    await using site = await Site.open({
      ...STORY_SITE,
      "server.ts": change(change(server, broker, ""), SQLITE, ""),
    });
    const page = await tabOf(browser, site.url);
    await hasBegun(page);
    await page.reload();
    await tells(page, STORY);

    // The next response never ends.
    const endless = change(STORY_SITE["server.ts"], "300", 'word === "upon" ? 600_000 : 300');
    await site.kill();
    await site.write("server.ts", change(change(endless, broker, ""), SQLITE, ""));
    await site.start();
    const other = await newPage(browser);
    const errors: string[] = [];
    other.on("pageerror", (error) => void errors.push(String(error)));
    await other.goto(site.url);
    await hasBegun(other);
    await site.kill();
    await site.start();
    await until(() => errors.length > 0);
    assertMatch(
      errors.join(),
      /This server no longer has the response; its broker keeps responses in memory/,
    );
  },
  CHROMIUM,
);

const MEMBERS = `import { connect } from "@skein/skein/client";
const counts: number[] = [];
Object.assign(globalThis, { counts });
const client = connect("/" + (globalThis as any).location.search);
client.members("room:tea").subscribe((members) => {
  if (members.size > 0 && members.size !== counts.at(-1)) counts.push(members.size);
});
`;

declare const counts: readonly number[];

/** Waits until the newest number of members is this one. */
async function counted(page: Page, count: number): Promise<readonly number[]> {
  await page.waitForFunction((count) => counts.at(-1) === count, WAIT, count);
  return await page.evaluate(() => counts);
}

testInBrowsers(
  "README: a guest is one member per tab, a user is one member, and a reload is no leave and no join",
  async (browser) => {
    await using site = await Site.open({
      "page.ts": MEMBERS,
      // On a busy machine, a reload may take longer than the default of five seconds.
      "server.ts": withOption(
        withOption(serverIn("docs/concepts/presence.md"), FETCH),
        "presence: { graceMs: 60_000 }",
      ),
    });
    const watcher = await tabOf(browser, site.url);
    await counted(watcher, 1);
    const other = await tabOf(browser, site.url);
    for (const page of [watcher, other]) await counted(page, 2);
    for (let i = 0; i < 2; i++) {
      await other.reload();
      await counted(other, 2);
    }
    const ann = [
      await tabOf(browser, `${site.url}?token=ann`),
      await tabOf(browser, `${site.url}?token=ann`),
    ];
    for (const page of ann) await counted(page, 3);
    await ann[0]!.reload();
    await counted(ann[0]!, 3);
    assertEquals(await counted(watcher, 3), [1, 2, 3]);
  },
  CHROMIUM,
);

/** Publishes 100 MB in 100 turns for each line of standard input, and then a last line. */
const FLOOD = `
const text = "x".repeat(1_000);
for await (const _ of Deno.stdin.readable) {
  for (let turn = 0; turn < 100; turn++) {
    for (let i = 0; i < 1_000; i++) server.publish("chat:lobby", text);
    await new Promise((resolve) => setTimeout(resolve));
  }
  server.publish("chat:lobby", "last");
  console.log("published");
}
`;

/** The memory of a process, in MB. */
async function memoryMb(pid: number): Promise<number> {
  const { stdout } = await new Deno.Command("ps", { args: ["-o", "rss=", "-p", `${pid}`] })
    .output();
  return Number(new TextDecoder().decode(stdout)) / 1_000;
}

testInBrowsers(
  "README: a slow page doesn't fill the server's memory, and both sides report its losses",
  async (browser) => {
    await using site = await Site.open({
      "page.ts": CHAT,
      "server.ts": withOption(serverIn("docs/concepts/history.md"), FETCH) + FLOOD,
    });
    const page = await newPage(browser);
    const printed: string[] = [];
    page.on("console", (message) => void printed.push(message.text()));
    await page.goto(site.url);
    await page.waitForFunction(() => "say" in globalThis, WAIT);
    await sayIn(page, "first");
    await lists(page, "li", ["first"]);
    const debug = await page.createCDPSession();
    await debug.send("Debugger.enable");
    await debug.send("Debugger.pause"); // The page no longer reads.
    const beforeMb = await memoryMb(site.pid);
    await site.say("flood");
    await until(() => site.output.includes("published"));
    const grownMb = await memoryMb(site.pid) - beforeMb;
    assert(grownMb < 70, `the server grew by ${grownMb} MB`);
    await debug.send("Debugger.resume");
    await debug.detach();
    await page.waitForFunction(
      () => [...document.querySelectorAll("li")].at(-1)?.textContent === "last",
      WAIT,
    );
    const missed = 100_002 - (await page.$$("li")).length;
    assert(missed > 0, "the page read as fast as the server published");
    // Neither end has a handler, so both consoles name the loss.
    assertMatch(printed.join("\n"), /^Skein: .*"chat:lobby"/m);
    assertMatch(site.output, /^Skein: .*4507/m);
  },
  CHROMIUM,
);

/** A page without a contract, which can send anything. */
const ATTACK = `import { connect } from "@skein/skein/client";
const client = connect("/");
Object.assign(globalThis, {
  say: (data: unknown) => client.publish("chat:lobby", data).then(() => "ok", ({ message }) => message),
});
`;

testInBrowsers(
  "README: a message that does not fit the contract is rejected by its receiver, server or page",
  async (browser) => {
    const page = "docs/start/4-types.md";
    const files: Record<string, string> = {};
    for (const path of ["docs/start/2-a-page.md", page]) {
      for (const block of blocksOf(path, textOf(path))) {
        if (block.kind === "file") files[block.path] = block.text;
      }
    }
    await using site = await Site.open(files, page);
    // Without a contract, the server passes everything on, and the page checks it.
    const unchecked = change(files["server.ts"]!, "  contract,\n", "");
    await using open = await Site.open({ ...files, "server.ts": unchecked }, page);
    for (const one of [site, open]) {
      const good = await tabOf(browser, one.url);
      await good.waitForFunction(() => document.body.textContent.includes("connected over"), WAIT);
      await Deno.writeTextFile(`${one.folder}/page.ts`, ATTACK);
      assertEquals(await one.deno(argsIn(page, "deno bundle")), "");
      const bad = await tabOf(browser, one.url);
      await bad.waitForFunction(() => "say" in globalThis, WAIT);
      const outcomes: unknown[] = [];
      for (const data of [{ text: 5 }, { txt: "Hello" }, "Hello", { text: "Hello" }]) {
        outcomes.push(await bad.evaluate((data) => say(data as never), data));
      }
      if (one === open) assertEquals(outcomes, ["ok", "ok", "ok", "ok"]);
      else {
        assertEquals(outcomes.pop(), "ok");
        const misfit =
          /^The data of "chat:lobby" does not fit the contract(?: at text)?: Invalid input/;
        for (const outcome of outcomes) assertMatch(String(outcome), misfit);
      }
      await lists(good, "li", ["Hello"]);
    }
    const wrong = change(files["page.ts"]!, "data.text", "data.txt");
    await Deno.writeTextFile(`${site.folder}/page.ts`, wrong);
    const errors = await site.deno(["check", "--config", CONFIG, "page.ts"]);
    assertStringIncludes(errors, "Property 'txt' does not exist on type '{ text: string; }'");
  },
  CHROMIUM,
);

if (!isRedisMissing) {
  testInBrowsers(
    "README: the same program on two servers continues when one of them is killed",
    async (browser) => {
      await using redis = await RedisServer.start();
      const server = change(
        TODO["server.ts"].replace(SQLITE, 'import { RedisBroker } from "@skein/skein/redis";\n'),
        'await SqliteBroker.open("todo.db")',
        `new RedisBroker({ url: "${redis.url}" })`,
      );
      await using a = await Site.open({ ...TODO, "server.ts": server }, TODO_GUIDE);
      await using b = await Site.open({ ...TODO, "server.ts": server }, TODO_GUIDE);
      await using balancer = new Cable(a.port);
      const one = await tabOf(browser, balancer.url.replace("ws:", "http:"));
      const two = await tabOf(browser, b.url);
      await add(one, "Tea");
      for (const page of [one, two]) await lists(page, "li", ["☐ Tea"]);
      balancer.port = b.port;
      await a.kill();
      await add(one, "Milk");
      for (const page of [one, two]) await lists(page, "li", ["☐ Tea", "☐ Milk"]);
      await checkFirst(two);
      for (const page of [one, two]) await lists(page, "li", ["☑ Tea", "☐ Milk"]);
    },
    CHROMIUM,
  );
}
