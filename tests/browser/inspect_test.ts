import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { SECRET } from "../../examples/inspect/demo.ts";
import { testInBrowsers } from "./_browsers.ts";
import { Inspected } from "./_inspect_page.ts";

/** A function of the page; functions that name this one run there. */
declare const document: {
  readonly documentElement: { readonly clientWidth: number; readonly scrollWidth: number };
  readonly activeElement: { readonly id: string; readonly textContent: string };
};

testInBrowsers("inspector shows all sessions, and why one is stuck", async (browser) => {
  await using inspected = await Inspected.start();
  const inspector = await inspected.open(await browser.createBrowserContext());
  for (const user of ["mira", "jonas", "ada", "kim", "noor", "viewer-7"]) {
    assertStringIncludes(await inspector.row(user), "connected");
  }
  await inspector.row("olek");
  await inspector.says("#rows .issue", "of 64 messages");
  await inspector.says("#tiles .tile", "Messages in");

  // The inspected state changes meanwhile.
  await inspector.look("olek");
  await inspector.says("#detail-body .issue", "the handler is slower than the peer");
  await inspector.says("#detail-body .gauge", "of 64 messages");
  const [olek] = inspected.demo.app.manager.sessionsOf("olek");
  await olek!.close();
  await inspector.says("#detail-body .over", "This session is over");
});

testInBrowsers("inspector tells no secret of anybody", async (browser) => {
  await using inspected = await Inspected.start();
  const inspector = await inspected.open(await browser.createBrowserContext());
  // The secret is present: in the headers that the server keeps.
  const [mira] = inspected.demo.app.manager.sessionsOf("mira");
  assertEquals(mira!.headers.get("cookie"), `session=${SECRET}`);
  for (const user of ["mira", "jonas"]) {
    await inspector.look(user);
    await inspector.says("#detail-body dt", "cookie");
    await inspector.says("#detail-body dd", "[redacted]");
    const markup = await inspector.markup();
    assertStringIncludes(markup, `name=${user}`);
    assert(!markup.includes(SECRET), `The secret of ${user} is in the page`);
  }
});

testInBrowsers(
  "inspector can be used by the keyboard, and finds what is looked for",
  async (browser) => {
    await using inspected = await Inspected.start();
    const inspector = await inspected.open(await browser.createBrowserContext());
    const { page } = inspector;
    await inspector.row("kim");
    await page.type("#filter", "kim websocket");
    await page.waitForFunction(
      () => [...(document as never as Document).querySelectorAll("#rows .open")].length === 1,
    );
    await page.keyboard.press("Tab");
    assertEquals(await page.evaluate(() => document.activeElement.textContent), "kim");
    await page.keyboard.press("Enter");
    await inspector.says("#detail-title", "kim");
    assertEquals(await page.evaluate(() => document.activeElement.id), "detail-title");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#detail[hidden]");
    assertEquals(await page.evaluate(() => document.activeElement.textContent), "kim");
  },
);

testInBrowsers("inspector fits a phone, and can be touched there", async (browser) => {
  await using inspected = await Inspected.start();
  const { page } = await inspected.open(await browser.createBrowserContext());
  await page.setViewport({ width: 320, height: 640 });
  await page.waitForSelector("#rows .open");
  // Beside a scroll bar, where the browser's takes room.
  const sideways = await page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth - clientWidth;
  });
  assertEquals(sideways, 0);
  const heights = await page.$$eval(
    "#close, #filter, .toggle",
    (all) => all.map((one) => (one as unknown as Box).offsetHeight),
  );
  // The button that closes the detail is not there yet.
  for (const height of heights) assert(height === 0 || height >= 44, `${height}`);
});

/** The little of the DOM that is named above. */
interface Document {
  querySelectorAll(selector: string): Iterable<unknown>;
}

interface Box {
  readonly offsetHeight: number;
}
