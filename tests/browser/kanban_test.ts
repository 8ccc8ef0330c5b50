import { assertEquals } from "@std/assert";
import { BoardSite, type Visitor } from "./pages/boards.ts";
import { BROWSERS, newPage, testInBrowsers } from "./browsers.ts";
import { KanbanPage } from "./pages/kanban.ts";
import { hasStored } from "./reader_site.ts";

const SIZE = { width: 1280, height: 800 };

/** Board with two cards in its first column. */
const TWO = "To do: Write, Test; Doing: ; Done: ";

for (const transport of ["webtransport", "http"] as const) {
  testInBrowsers(
    `board over ${transport} shows cards that others drag, and their pointers`,
    async (browser) => {
      await using kanban = await BoardSite.start(browser, "board");
      const ann = await enter(kanban, { name: "ann", transport });
      const bob = await enter(kanban, { name: "bob", transport });
      for (const page of [ann, bob]) await page.hasPeople(["ann", "bob"]);
      await ann.says("#notice", "bob is here");
      for (const title of ["Write", "Test"]) await ann.add("To do", title);
      await bob.shows(TWO);

      // Bob sees who holds the card, and it moves when Ann drops it.
      const place = await ann.endOf("Doing");
      await ann.carry("Write", place);
      await bob.says(".item.taken .holder", "ann moves it");
      await bob.seesPointer("ann", place);
      await bob.shows(TWO);
      await ann.page.mouse.up();
      for (const page of [ann, bob]) await page.shows("To do: Test; Doing: Write; Done: ");
      await bob.page.waitForSelector(".item:not(.taken)");

      // Both drag a card, and drop it at the same place.
      await ann.carry("Test", await ann.endOf("Doing"));
      await bob.carry("Write", await bob.endOf("Done"));
      await Promise.all([ann.page.mouse.up(), bob.page.mouse.up()]);
      for (const page of [ann, bob]) await page.shows("To do: ; Doing: Test; Done: Write");

      // Escape puts a card back.
      await ann.carry("Test", await ann.endOf("Done"));
      await ann.shows("To do: ; Doing: ; Done: Write, Test");
      await ann.page.keyboard.press("Escape");
      await ann.page.mouse.up();
      await ann.shows("To do: ; Doing: Test; Done: Write");

      await ann.page.mouse.move(640, 20);
      await ann.page.reload();
      await ann.isOpen();
      await ann.shows("To do: ; Doing: Test; Done: Write");
      await ann.page.close();
      await bob.hasPeople(["bob"]);
      await bob.hasPointers(0);
    },
  );
}

testInBrowsers("board keeps changes that are made while its server is down", async (browser) => {
  await using kanban = await BoardSite.start(browser, "board");
  const ann = await enter(kanban, { name: "ann" });
  const bob = await enter(kanban, { name: "bob" });
  for (const title of ["Write", "Test"]) await ann.add("To do", title);
  await bob.shows(TWO);
  await kanban.server.stop("SIGKILL");
  for (const page of [ann, bob]) await page.hasStatus("reconnecting");
  await ann.says("#offline", "You can keep working.");
  await ann.drag("Write", "Done");
  await ann.add("Doing", "Plan");
  await ann.says("#offline", "2 changes wait here for the server");
  await ann.shows("To do: Test; Doing: Plan; Done: Write");
  await bob.drag("Test", "Done");
  await kanban.server.start();
  for (const page of [ann, bob]) {
    await page.hasStatus("connected");
    await page.page.waitForSelector("#offline[hidden]");
  }
  const done = await bob.page.waitForFunction(() => {
    const { document } = globalThis as unknown as {
      document: { querySelectorAll(selector: string): Iterable<{ textContent: string }> };
    };
    const names = [...document.querySelectorAll(".item .name")].map((name) => name.textContent);
    return names.length === 3 && names;
  });
  // Both moved a card to the end of the same column, so either may be first.
  const names = await done.jsonValue() as string[];
  assertEquals([names[0], names.slice(1).toSorted()], ["Plan", ["Test", "Write"]]);
  await ann.shows(`To do: ; Doing: Plan; Done: ${names.slice(1).join(", ")}`);
});

testInBrowsers(
  "board starts without its server, and a page that was closed loses no change",
  async (browser) => {
    await using kanban = await BoardSite.start(browser, "board");
    const context = await kanban.newContext();
    let ann = await KanbanPage.enter(context, kanban.server.url, { size: SIZE, name: "ann" });
    const bob = await enter(kanban, { name: "bob" });
    for (const title of ["Write", "Test"]) await ann.add("To do", title);
    await bob.shows(TWO);
    await ann.page.waitForFunction("navigator.serviceWorker.controller !== null");
    await hasStored(ann.page, "Test");
    await kanban.server.stop("SIGKILL");
    await ann.page.reload();
    await ann.shows(TWO);
    await ann.says("#offline", "The board as it was a moment ago. You can keep working.");
    await ann.add("Doing", "Plan");
    await ann.drag("Write", "Done");
    await ann.says("#offline", "2 changes wait here for the server, also if you close this page.");
    await ann.page.close();

    ann = new KanbanPage(await newPage(context, { type: "window" }));
    await ann.page.goto(`${kanban.server.url}/#plans`);
    const planned = "To do: Test; Doing: Plan; Done: Write";
    await ann.shows(planned);
    await ann.says("#offline", "2 changes wait here");
    await kanban.server.start();
    await ann.hasStatus("connected");
    await ann.page.waitForSelector("#offline[hidden]");
    for (const page of [ann, bob]) await page.shows(planned);
  },
);

testInBrowsers("board can be used with the keyboard alone", async (browser) => {
  await using kanban = await BoardSite.start(browser, "board");
  const ann = await enter(kanban, { name: "ann" });
  const { keyboard } = ann.page;
  for (const title of ["Write", "Test"]) await ann.add("To do", title);
  await ann.shows(TWO);
  await ann.focus("Write");
  await keyboard.press(" ");
  await ann.says("#said", "Lifted. 1 of 2 in To do.");
  await keyboard.press("ArrowDown");
  await ann.shows("To do: Test, Write; Doing: ; Done: ");
  await keyboard.press("ArrowRight");
  await ann.says("#said", "1 of 1 in Doing.");
  await ann.shows("To do: Test; Doing: Write; Done: ");
  await keyboard.press("Escape");
  await ann.shows(TWO);
  await keyboard.press(" ");
  await keyboard.press("ArrowRight");
  await ann.shows("To do: Test; Doing: Write; Done: ");
  await keyboard.press(" ");
  await ann.says("#said", "Dropped. 1 of 1 in Doing.");
  // The card still has the focus: Enter opens it.
  await keyboard.press("Enter");
  await ann.page.waitForSelector("#card-dialog[open]");
  await keyboard.type(" it");
  await keyboard.press("Enter");
  await ann.shows("To do: Test; Doing: Write it; Done: ");
  await ann.page.click('[aria-label="Edit the column Doing"]');
  await ann.page.waitForSelector("#column-dialog[open]");
  await ann.says("#column-note", "Deleting it also deletes its card.");
  await ann.page.click('#column-dialog [value="delete"]');
  await ann.shows("To do: Test; Done: ");
});

testInBrowsers(
  "board shows its past on a slider, and nothing can be changed there",
  async (browser) => {
    await using kanban = await BoardSite.start(browser, "board");
    const ann = await enter(kanban, { name: "ann" });
    const bob = await enter(kanban, { name: "bob" });
    const { keyboard } = ann.page;
    await ann.page.click("#history");
    await ann.says("#past-said", "Nothing has changed on this board yet.");
    await ann.page.click("#past-close");
    for (const title of ["Write", "Test"]) await ann.add("To do", title);
    await ann.shows(TWO);
    await ann.drag("Write", "Done");
    await bob.shows("To do: Test; Doing: ; Done: Write");
    // The slider has the focus: each arrow key is one change.
    await ann.page.click("#history");
    await ann.says("#past-place", "Change 4 of 4");
    await keyboard.press("ArrowLeft");
    await ann.says("#past-place", "Change 3 of 4");
    await ann.shows(TWO);
    await ann.drag("Write", "Doing");
    await ann.page.click(".item");
    await ann.shows(TWO);
    await ann.page.waitForSelector("#columns:not(.dragging) .task:disabled");
    await ann.page.click("#past-before");
    await ann.shows("To do: Write; Doing: ; Done: ");
    await ann.page.click("#past-before");
    await ann.shows("To do: ; Doing: ; Done: ");
    await ann.page.waitForSelector("#past-before:disabled");
    // The present goes on.
    await bob.add("Doing", "Plan");
    await bob.shows("To do: Test; Doing: Plan; Done: Write");
    await ann.shows("To do: ; Doing: ; Done: ");
    await keyboard.press("Escape");
    await ann.shows("To do: Test; Doing: Plan; Done: Write");
    await ann.page.waitForSelector("#past[hidden]");
    // By the keyboard, and without a server.
    await kanban.server.stop("SIGKILL");
    await ann.hasStatus("reconnecting");
    await keyboard.press("h");
    await ann.says("#past-said", "The history cannot be read now.");
    await ann.shows("To do: Test; Doing: Plan; Done: Write");
    await kanban.server.start();
    await ann.hasStatus("connected");
    await ann.page.click("#past-again");
    await ann.says("#past-place", "Change 5 of 5");
    await ann.page.click("#past-close");
    await ann.page.waitForSelector(".column .add:not([hidden])");
    await ann.add("Done", "Rest");
    await bob.shows("To do: Test; Doing: Plan; Done: Write, Rest");
  },
);

testInBrowsers("board says why a change was rejected", async (browser) => {
  await using kanban = await BoardSite.start(browser, "board");
  const ann = await enter(kanban, { name: "ann" });
  const bob = await enter(kanban, { name: "bob" });
  await ann.add("To do", "Write");
  await bob.shows("To do: Write; Doing: ; Done: ");
  await bob.page.click(".task");
  await bob.page.waitForSelector("#card-dialog[open]");
  await ann.page.click(".task");
  await ann.page.waitForSelector("#card-dialog[open]");
  await ann.page.click('#card-dialog [value="delete"]');
  await bob.shows("To do: ; Doing: ; Done: ");
  await bob.page.keyboard.type(" more");
  await bob.page.keyboard.press("Enter");
  await bob.says("#notice", "“Write more” was not saved: someone else has deleted it.");
});

testInBrowsers("board moves a card by its dots with a finger", async (browser) => {
  await using kanban = await BoardSite.start(browser, "board");
  const size = { width: 390, height: 844, hasTouch: true, isMobile: true };
  const ann = await enter(kanban, { name: "ann", size });
  for (const title of ["Write", "Test", "Publish"]) await ann.add("To do", title);
  await ann.shows("To do: Write, Test, Publish; Doing: ; Done: ");
  // A phone zooms out of a page that is wider than its screen.
  const width = await ann.page.evaluate(() => (globalThis as unknown as Window).innerWidth);
  assertEquals(width, size.width);
  const { touchscreen } = ann.page;
  // A finger on the title opens the card.
  await touchscreen.tap(...await ann.spotOf("Test") as [number, number]);
  await ann.page.waitForSelector("#card-dialog[open]");
  await ann.page.keyboard.press("Escape");
  await ann.page.waitForSelector("#card-dialog:not([open])");
  const [x, y] = await ann.spotOf("Write", ".grip");
  const [, below] = await ann.spotOf("Publish");
  const finger = await touchscreen.touchStart(x, y);
  for (let i = 1; i <= 5; i++) await finger.move(x, y + (below + 12 - y) * i / 5);
  await finger.end();
  await ann.shows("To do: Test, Publish, Write; Doing: ; Done: ");
  // At the edge of the window, the board scrolls to the next column.
  const [fromX, fromY] = await ann.spotOf("Write", ".grip");
  const other = await touchscreen.touchStart(fromX, fromY);
  await other.move(fromX + 10, fromY);
  await other.move(385, fromY);
  await ann.page.waitForFunction(() => {
    const { document } = globalThis as unknown as {
      document: { querySelector(selector: string): { textContent: string } | null };
    };
    return document.querySelector(".column:nth-child(2) .item") !== null;
  });
  await other.end();
  // The dropped card scrolls into view.
  await ann.page.waitForSelector("#columns:not(.dragging)");
  await ann.isInView("Write");
}, [BROWSERS[0]!]);

/** The member of a page's globals in use. */
interface Window {
  readonly innerWidth: number;
}

/** Opens the page of a visitor. */
async function enter(kanban: BoardSite, visitor: Visitor): Promise<KanbanPage> {
  return await KanbanPage.enter(await kanban.newContext(), kanban.server.url, {
    size: SIZE,
    ...visitor,
  });
}
