/**
 * Takes the pictures of the AI chat in `docs/`: an answer in progress, on a desktop and on a phone.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/ai_chat.ts            # docs/ai-chat-desktop.png, docs/ai-chat-phone.png
 * deno run -A tests/browser/screenshots/ai_chat.ts --review   # more states of the page, to a temporary folder
 * ```
 *
 * @module
 */
import { BROWSERS, ChatProcess, emulate, launchBrowser, type Page, pathOf } from "../browsers.ts";
import { AiChatPage } from "../pages/ai_chat.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
  desktop: { width: 1280, height: 800, deviceScaleFactor: 1 },
} as const;

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  const data = await Deno.makeTempDir();
  await using server = await ChatProcess.start("ai_chat", ["--data", data, "--pace", "25"]);
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const chat = await AiChatPage.open(browser.defaultBrowserContext(), server.url);
    const { page } = chat;
    await page.setViewport(SIZES.desktop);
    await emulate(page, "light");
    if (isReview) await shoot(page, folder, "-empty");
    for (const question of ["Tell me the story of the weaver", "Write a debounce function"]) {
      await chat.ask(question);
      await chat.sees("complete");
      await page.click("#new");
      await page.waitForSelector("#welcome:not([hidden])");
    }
    await chat.ask("What happens if I reload this page?");
    await chat.sees("complete");
    await chat.ask("And if the server is killed?");
    await page.mouse.move(640, 10);
    await chat.reads("calls resume");
    await shoot(page, folder);
    if (!isReview) return;
    await emulate(page, "dark");
    await shoot(page, folder, "-dark");
    await server.stop("SIGKILL");
    await chat.hasStatus("reconnecting");
    await shoot(page, folder, "-offline-dark");
    await emulate(page, "light");
    await shoot(page, folder, "-offline");
    await server.start();
    await chat.hasStatus("connected");
    await page.click("#new");
    await page.waitForSelector("#welcome:not([hidden])");
    await chat.ask("Please fail");
    await chat.sees("failed");
    await shoot(page, folder, "-failed");
    await chat.ask("Write a debounce function");
    await chat.sees("complete");
    await chat.ask("count to 900");
    await chat.reads("12 13");
    await page.click("#stop");
    await chat.sees("stopped");
    await shoot(page, folder, "-ends");
    await emulate(page, "dark");
    await shoot(page, folder, "-ends-dark");
    await page.setViewport(SIZES.phone);
    await page.click("#open-places");
    await page.screenshot({ path: pathOf(folder, "ai-chat-list-dark") });
    await page.keyboard.press("Escape");
    await page.click("#remove");
    await page.screenshot({ path: pathOf(folder, "ai-chat-delete-dark") });
    console.log(folder.pathname);
  } finally {
    await browser.close();
    await Deno.remove(data, { recursive: true });
  }
}

/** Takes a picture at each width, with the widest last. */
async function shoot(page: Page, folder: URL, suffix = ""): Promise<void> {
  for (const [name, size] of Object.entries(SIZES)) {
    await page.setViewport(size);
    await page.screenshot({ path: pathOf(folder, `ai-chat-${name}${suffix}`) });
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
