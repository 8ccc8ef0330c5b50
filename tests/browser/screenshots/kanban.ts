/**
 * Takes the pictures of the board example in `docs/`. They show users who plan a release, on a
 * desktop and on a phone in dark mode.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/kanban.ts           # docs/board-*.png
 * deno run -A tests/browser/screenshots/kanban.ts --review  # more states, to a temporary folder
 * ```
 *
 * @module
 */
import { type Client, connect } from "../../../mod.ts";
import { Board } from "../../../examples/board/board.ts";
import { contract, type Pointer } from "../../../examples/board/contract.ts";
import { mutations } from "../../../examples/board/mutations.ts";
import { BROWSERS, ChatProcess, emulate, launchBrowser, pathOf } from "../browsers.ts";
import { KanbanPage } from "../pages/kanban.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1280, height: 720, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

/** The cards of each column. */
const PLAN: readonly (readonly [title: string, note: string])[][] = [
  [
    ["Record the demo", "Two phones side by side, one of them in flight mode"],
    ["Write the release notes", ""],
    ["Ask for feedback", "The people who tried the whiteboard"],
  ],
  [
    ["Test the board on a phone", "Drag a card by its dots, then with one hand"],
    ["Translate the page", ""],
  ],
  [["Store boards in a file", ""], [
    "Keep changes while offline",
    "They wait, and go out in order",
  ]],
];

interface Friend {
  readonly client: Client<typeof contract>;
  readonly board: Board;
}

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  const data = await Deno.makeTempFile({ suffix: ".db" });
  await using server = await ChatProcess.start("board", ["--data", data]);
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const context = await browser.createBrowserContext();
    const mira = await KanbanPage.enter(context, server.url, {
      name: "Mira",
      board: "release",
      size: SIZES.desktop,
    });
    const jonas = await enter(server.url, "Jonas", 265);
    const ada = await enter(server.url, "Ada", 150);
    await fill(jonas.board);
    await emulate(mira.page, "light");
    await mira.page.evaluate(() => localStorage.setItem("hue", "25"));
    await mira.page.reload();
    await mira.isOpen();
    await mira.page.waitForFunction(() =>
      (globalThis as unknown as Page).document.querySelectorAll(".item").length === 7
    );
    const [first, second] = jonas.board.columns.map(({ key, cards }) => ({ key, cards }));
    const holding = [
      hold(jonas, {
        at: { column: second!.key, x: 0.62, y: 175 },
        holds: second!.cards[1]!.key,
      }),
      hold(ada, { at: { column: first!.key, x: 0.45, y: 300 } }),
    ];
    await mira.hasPointers(2);
    await mira.page.waitForSelector(".item.taken");
    if (isReview) {
      await shoot(mira, folder);
      await emulate(mira.page, "dark");
      await shoot(mira, folder, "-dark");
      await mira.page.click(".task");
      await shoot(mira, folder, "-card");
      await mira.page.keyboard.press("Escape");
      await mira.page.click("#history");
      await mira.page.waitForSelector("#past-slider:not([hidden])");
      for (const _ of [1, 2, 3]) await mira.page.click("#past-before");
      await shoot(mira, folder, "-past-dark");
      await emulate(mira.page, "light");
      await shoot(mira, folder, "-past");
      await emulate(mira.page, "dark");
      await mira.page.click("#past-close");
      await server.stop("SIGKILL");
      await mira.hasStatus("reconnecting");
      await mira.drag("Record the demo", "Doing");
      await shoot(mira, folder, "-offline");
      await mira.page.click("#history");
      await mira.page.waitForSelector("#past-again:not([hidden])");
      await shoot(mira, folder, "-past-offline");
      console.log(folder.pathname);
    } else {
      await shoot(mira, folder, "", ["desktop"]);
      await emulate(mira.page, "dark");
      await shoot(mira, folder, "", ["phone"]);
    }
    await Promise.all(holding);
    for (const { client, board } of [jonas, ada]) {
      board[Symbol.dispose]();
      await client.close();
    }
  } finally {
    await browser.close();
    await Deno.remove(data);
  }
}

/** Enters the board without a page. */
async function enter(url: string, name: string, hue: number): Promise<Friend> {
  const client = connect(`${url}/session?name=${name}`, { contract, transports: ["websocket"] });
  await client.presence("board:release", { hue });
  client.members("board:release").subscribe(() => {});
  const state = await client.state("board:release", { mutations });
  const board = new Board(state, { onChange() {}, onRejected: console.error });
  await state.ready;
  return { client, board };
}

/** Adds the cards of the plan. */
async function fill(board: Board): Promise<void> {
  for (const [i, cards] of PLAN.entries()) {
    for (const [title, note] of cards) {
      await board.addCard(board.columns[i]!.key, title);
      const { key } = board.columns[i]!.cards.at(-1)!;
      if (note !== "") await board.editCard(key, { note });
    }
  }
}

/** Holds a pointer at a place until the client closes. */
async function hold({ client }: Friend, pointer: Omit<Pointer, "user">): Promise<void> {
  const state = await client.state("board:release");
  await state.collection("pointers").set("page", pointer);
}

/** The members of a page's globals in use. */
interface Page {
  readonly document: { querySelectorAll(selector: string): { readonly length: number } };
}

async function shoot(
  visitor: KanbanPage,
  folder: URL,
  suffix = "",
  sizes: readonly (keyof typeof SIZES)[] = ["desktop", "phone"],
): Promise<void> {
  const { page } = visitor;
  for (const name of sizes) {
    await page.setViewport(SIZES[name]);
    // A notice disappears after some seconds.
    await page.waitForSelector("#notice:not(.shown)");
    await visitor.isDrawn();
    await page.screenshot({ path: pathOf(folder, `board-${name}${suffix}`) });
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
