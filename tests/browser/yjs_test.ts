/**
 * Tests Yjs documents on two pages in real browsers, each over one session, while their node is
 * killed.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { YjsNode } from "../adapters/yjs_process.ts";
import { type Browser, bundleOf, newPage, type Page, testInBrowsers } from "./browsers.ts";
import type { YjsPage } from "./pages/yjs.ts";

/** Globals for functions that run in a page. */
declare global {
  var yjsPage: YjsPage;
}

const NAMES = ["notes/1", "notes/2", "notes/3"];

async function open(browser: Browser, port: number, user: string): Promise<Page> {
  const page = await newPage(browser);
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.waitForFunction(() => "yjsPage" in globalThis, { polling: 10 });
  await page.evaluate((names, user) => yjsPage.open(names, user), NAMES, user);
  return page;
}

/** Waits until a page has the given text and all its changes are saved. */
async function has(page: Page, name: string, text: string): Promise<void> {
  await page.waitForFunction(
    (name, text) => yjsPage.isSaved && yjsPage.text(name) === text,
    { polling: 10 },
    name,
    text,
  );
}

testInBrowsers("documents of two pages are equal after their node was killed", async (browser) => {
  const folder = await Deno.makeTempDir();
  const script = await bundleOf(new URL("./pages/yjs.ts", import.meta.url));
  await Deno.writeTextFile(`${folder}/page.js`, script);
  await using node = await YjsNode.start({ folder, broker: "sqlite" });
  const ann = await open(browser, node.port, "ann");
  const bob = await open(browser, node.port, "bob");
  await ann.evaluate(() => yjsPage.write("notes/1", "one "));
  await has(bob, "notes/1", "one ");
  await bob.evaluate(() => yjsPage.write("notes/2", "two "));
  await has(ann, "notes/2", "two ");
  for (const page of [ann, bob]) {
    await page.waitForFunction(() => yjsPage.users("notes/3") === "ann,bob", { polling: 10 });
  }

  await node.kill();
  for (const [page, text] of [[ann, "a"], [bob, "b"]] as const) {
    await page.waitForFunction(() => yjsPage.status === "reconnecting", { polling: 10 });
    await page.evaluate((text) => {
      for (const name of ["notes/1", "notes/2", "notes/3"]) yjsPage.write(name, text);
    }, text);
    assertEquals(await page.evaluate(() => yjsPage.isSaved), false);
  }
  await node.restart();
  await ann.waitForFunction(
    (names) => yjsPage.isSaved && names.every((name) => /ab|ba/.test(yjsPage.text(name))),
    { polling: 10 },
    NAMES,
  );
  for (const name of NAMES) await has(bob, name, await ann.evaluate((n) => yjsPage.text(n), name));

  // The acknowledged edits survive even if no open page has them.
  const texts = await ann.evaluate((names) => names.map((name) => yjsPage.text(name)), NAMES);
  await Promise.all([ann.close(), bob.close()]);
  await node.kill();
  await node.restart();
  const eve = await open(browser, node.port, "eve");
  for (const [i, name] of NAMES.entries()) await has(eve, name, texts[i]!);
  assertEquals(await eve.evaluate(() => yjsPage.errors), []);
  await node.kill();
  await Deno.remove(folder, { recursive: true });
});
