import { assertEquals } from "@std/assert";
import { BoardPage } from "./pages/board.ts";
import { BoardSite, type Visitor } from "./pages/boards.ts";
import { testInBrowsers } from "./browsers.ts";

const SIZE = { width: 1000, height: 700 };

// Pointers are sent in datagrams over the first transport, and in messages over the second.
for (const transport of ["webtransport", "http"] as const) {
  testInBrowsers(
    `whiteboard over ${transport} shows strokes, pointers and users, even after a reload`,
    async (browser) => {
      await using board = await BoardSite.start(browser, "whiteboard");
      const ann = await enter(board, "ann", transport);
      const bob = await enter(board, "bob", transport);
      for (const page of [ann, bob]) await page.hasPeople(["ann", "bob"]);
      await ann.says("#notice", "bob is here");

      await ann.draw([300, 200], [500, 200]);
      for (const page of [ann, bob]) await page.hasInk(400, 200);
      await bob.seesPointer("ann", [500, 200]);
      await bob.page.mouse.move(220, 330);
      await ann.seesPointer("bob", [220, 330]);
      // Ann's line appears on Bob's page while her pen is down.
      await ann.page.mouse.move(300, 300);
      await ann.page.mouse.down();
      await ann.page.mouse.move(500, 300, { steps: 10 });
      await bob.hasInk(400, 300, true, "#live");
      await ann.page.mouse.up();
      await bob.hasInk(400, 300);

      // The pointer disappears when it leaves the board, and when its page closes.
      await bob.page.mouse.move(40, 40);
      await ann.hasPointers(0);
      await ann.page.mouse.move(600, 400);
      await bob.hasPointers(1);
      await ann.page.reload();
      await bob.hasPointers(0);
      await ann.isOpen();
      // A new page fits the whole drawing.
      await ann.hasStrokes(2);
      await ann.page.close();
      // A closed page may fail to send its goodbye. Over HTTP, the server notices that only after
      // 30 s.
      await bob.hasPeople(["bob"]);
    },
  );
}

testInBrowsers("whiteboard shows a user as away if the page is hidden", async (browser) => {
  await using board = await BoardSite.start(browser, "whiteboard");
  const ann = await enter(board, "ann");
  const bob = await enter(board, "bob");
  await ann.hasPeople(["ann", "bob"]);
  const hide = (isHidden: boolean) =>
    bob.page.evaluate((value) => {
      const { document } = globalThis as unknown as { document: EventTarget };
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
  await hide(true);
  await ann.hasPeople(["ann", "bob (away)"]);
  await ann.page.waitForSelector('#people .avatar.away[title="bob (away)"]');
  await hide(false);
  await ann.hasPeople(["ann", "bob"]);
});

testInBrowsers("whiteboard undoes, erases and clears", async (browser) => {
  await using board = await BoardSite.start(browser, "whiteboard");
  const ann = await enter(board, "ann");
  const bob = await enter(board, "bob");
  await ann.draw([300, 200], [500, 200]);
  await bob.draw([300, 300], [500, 300]);
  for (const page of [ann, bob]) {
    for (const y of [200, 300]) await page.hasInk(400, y);
  }
  // Undo removes Ann's own stroke but not Bob's.
  await ann.press("z");
  for (const page of [ann, bob]) await page.hasInk(400, 200, false);
  await bob.hasInk(400, 300);
  await ann.press("y");
  for (const page of [ann, bob]) await page.hasInk(400, 200);
  // One pass of the eraser is one undo step.
  await ann.page.keyboard.press("e");
  await ann.draw([400, 150], [400, 350]);
  for (const page of [ann, bob]) {
    for (const y of [200, 300]) await page.hasInk(400, y, false);
  }
  await ann.press("z");
  for (const page of [ann, bob]) {
    for (const y of [200, 300]) await page.hasInk(400, y);
  }
  await bob.page.click("#clear");
  await bob.page.click('#clear-dialog [value="clear"]');
  await ann.says("#notice", "bob cleared the board");
  await ann.hasInk(400, 200, false);
  await ann.page.waitForSelector("#empty:not([hidden])");
});

testInBrowsers("whiteboard can be used with the keyboard alone", async (browser) => {
  await using board = await BoardSite.start(browser, "whiteboard");
  const ann = await enter(board, "ann");
  const { keyboard } = ann.page;
  await ann.page.focus("#live");
  await keyboard.press("4");
  await keyboard.press("ArrowLeft");
  await keyboard.press(" ");
  for (let i = 0; i < 10; i++) await keyboard.press("ArrowRight");
  await keyboard.press(" ");
  await ann.hasInk(SIZE.width / 2 + 40, SIZE.height / 2);
  await ann.hasStrokes(1);
  // Every tool has a name, and is large enough to touch.
  const tools = await ann.page.$$eval(
    "#tools label, #tools button, header button, .zoom button",
    (elements) =>
      (elements as unknown as Tool[]).map((element) => {
        const { width, height } = element.getBoundingClientRect();
        const name = element.ariaLabel ?? element.textContent.trim();
        return name !== "" && width >= 44 && height >= 44;
      }),
  );
  assertEquals(tools.includes(false), false);
  await ann.open("other");
  await ann.page.waitForSelector("#empty:not([hidden])");
  await ann.page.goBack();
  await ann.says("#board-name", "sketches");
  await ann.hasStrokes(1);
});

for (const transport of ["webtransport", "websocket"] as const) {
  testInBrowsers(
    `whiteboard over ${transport} keeps strokes that are drawn while its server is down`,
    async (browser) => {
      await using board = await BoardSite.start(browser, "whiteboard");
      const ann = await enter(board, "ann", transport);
      const bob = await enter(board, "bob", transport);
      await ann.draw([300, 200], [500, 200]);
      for (const page of [ann, bob]) await page.hasInk(400, 200);

      board.server.freeze();
      await ann.draw([300, 260], [500, 260]);
      await board.server.stop("SIGKILL");
      for (const page of [ann, bob]) await page.hasStatus("reconnecting");
      await ann.draw([300, 320], [500, 320]);
      await ann.draw([300, 380], [500, 380]);
      await ann.says("#offline", "3 changes wait here");
      await bob.draw([300, 440], [500, 440]);
      // Changes to a board are also sent after the user has left the board.
      await bob.open("other");
      await bob.open("sketches");
      await board.server.start();
      // If a page is reloaded before it connects, its strokes stay in storage.
      await bob.page.reload();
      for (const page of [ann, bob]) {
        await page.isOpen();
        await page.hasStrokes(5);
      }
      for (const y of [200, 260, 320, 380, 440]) await ann.hasInk(400, y);
      // A page that opens later shows the same number of strokes, so nothing was duplicated.
      const eve = await enter(board, "eve", transport);
      await eve.hasStrokes(5);
    },
  );
}

/** A tool of the page. */
interface Tool {
  readonly ariaLabel: string | null;
  readonly textContent: string;
  getBoundingClientRect(): { readonly width: number; readonly height: number };
}

/** Opens the page of a visitor. */
async function enter(
  board: BoardSite,
  name: string,
  transport?: Visitor["transport"],
): Promise<BoardPage> {
  const visitor = { name, board: "sketches", transport, size: SIZE };
  return await BoardPage.enter(await board.newContext(), board.server.url, visitor);
}
