/**
 * Takes the pictures of the chat in `docs/`. They show a conversation between two users on the page
 * of one of them, on a desktop and on a phone.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/chat.ts            # docs/chat-desktop.png, docs/chat-phone.png
 * deno run -A tests/browser/screenshots/chat.ts --review   # more states of the page, to a temporary folder
 * ```
 *
 * The page uses the system font; the pictures in `docs/` were taken on a system with Inter.
 *
 * @module
 */
import { BROWSERS, ChatProcess, emulate, launchBrowser, pathOf } from "../browsers.ts";
import { ChatPage } from "../pages/chat.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1280, height: 836, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

const TALK = [
  ["Mira", "Morning! Is the demo up?"],
  ["Jonas", "It is. I am on the train, so it comes and goes."],
  ["Jonas", "But look: what I typed in the tunnel waited, and went out by itself."],
  ["Mira", "In order, too?"],
  ["Jonas", "In order, and once each. The server knows what it has seen."],
  ["Mira", "And your second tab did not join twice. I like it."],
  ["Mira", "I will write the release notes then. Tea at four?"],
  ["Jonas", "Tea at four."],
] as const;

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  await using chat = await ChatProcess.start();
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const enter = async (name: string) =>
      await ChatPage.enter(await browser.createBrowserContext(), chat.url, { name });
    const mira = await enter("Mira");
    const jonas = await enter("Jonas");
    const ada = await enter("Ada");
    const olek = await enter("Olek");
    await ada.open("#tea");
    await olek.open("#help");
    await jonas.open("#tea");
    await jonas.open("#lobby");
    for (const [name, text] of TALK) {
      await (name === "Mira" ? mira : jonas).say(text);
      await mira.sees(text);
      await jonas.sees(text);
    }
    await jonas.open("@Mira");
    await jonas.say("This one is for you alone.");
    await mira.page.waitForSelector(`#people [data-key="Jonas"] .count:not([hidden])`);

    await shoot(mira, folder);
    if (!isReview) return;
    await emulate(mira.page, "dark");
    await shoot(mira, folder, "-dark");
    await mira.page.click("#open-places");
    await shoot(mira, folder, "-places");
    await mira.page.keyboard.press("Escape");
    await emulate(mira.page, "light");
    await chat.stop("SIGKILL");
    await mira.hasStatus("reconnecting");
    await mira.say("Are you still there?");
    await mira.sees("Are you still there?", "waiting");
    await shoot(mira, folder, "-offline");
    await chat.start();
    const welcome = await (await browser.createBrowserContext()).newPage();
    await welcome.setViewport(SIZES.phone);
    await welcome.goto(chat.url);
    await welcome.screenshot({ path: pathOf(folder, "welcome") });
    console.log(folder.pathname);
  } finally {
    await browser.close();
  }
}

/**
 * Takes a picture at each width. The narrow width comes last, because it adds elements to the page.
 */
async function shoot({ page }: ChatPage, folder: URL, suffix = ""): Promise<void> {
  for (const [name, size] of Object.entries(SIZES)) {
    await page.setViewport(size);
    await page.screenshot({ path: pathOf(folder, `chat-${name}${suffix}`) });
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
