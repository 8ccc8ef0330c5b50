/**
 * Takes the pictures of the video example in `docs/`, on a desktop and on a phone.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/video.ts            # docs/moq-video.png, docs/moq-video-phone.png
 * deno run -A tests/browser/screenshots/video.ts --review   # more states of the page, to a temporary folder
 * ```
 *
 * @module
 */
import { BROWSERS, emulate, launchBrowser, pathOf } from "../browsers.ts";
import { VideoPage, VideoProcess } from "../pages/video.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  "": { width: 1280, height: 800, deviceScaleFactor: 1 },
  "-phone": { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

/** The wait until there is enough history for a picture, in milliseconds. */
const HISTORY_MS = 22_000;

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  await using server = await VideoProcess.start();
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const open = (query = {}) => VideoPage.open(browser, server, query);
    const shoot = async ({ page }: VideoPage, suffix = "") => {
      await page.bringToFront();
      for (const [name, size] of Object.entries(SIZES)) {
        await page.setViewport(size);
        // The next picture is drawn at the new size.
        await new Promise((resolve) => setTimeout(resolve, 600));
        await page.screenshot({ path: pathOf(folder, `moq-video${name}${suffix}`) });
      }
    };
    const watcher = await open({ watch: "noor" });
    await watcher.is("waiting");
    if (isReview) {
      await shoot(watcher, "-waiting");
      const idle = await open();
      await idle.is("idle");
      await shoot(idle, "-idle");
      await idle.page.close();
    }
    const noor = await open({ air: "noor" });
    const jonas = await open({ air: "jonas", watch: "noor" });
    await jonas.is("live");
    await new Promise((resolve) => setTimeout(resolve, HISTORY_MS));
    await shoot(jonas);
    if (!isReview) return;
    await emulate(watcher.page, "dark");
    await shoot(watcher, "-dark");
    await noor.page.close();
    await watcher.is("ended");
    await shoot(watcher, "-ended");
    await server.stop();
    await watcher.is("reconnecting");
    await shoot(watcher, "-reconnecting");
    console.log(folder.pathname);
  } finally {
    await browser.close();
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
