/**
 * Takes the pictures of the inspector in `docs/`, at the width of a desk and of a phone.
 *
 * ```sh
 * deno run -A tests/browser/inspect_screenshots.ts            # docs/inspect-desktop.png, docs/inspect-phone.png
 * deno run -A tests/browser/inspect_screenshots.ts --review   # more states of the page, to a temporary folder
 * ```
 *
 * @module
 */
import { BROWSERS, emulate, launchBrowser, pathOf } from "./_browsers.ts";
import { Inspected } from "./_inspect_page.ts";

const DOCS = new URL("../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1440, height: 900, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

/** Patience until there is a picture to draw, in milliseconds. */
const HISTORY_MS = 25_000;

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  await using inspected = await Inspected.start();
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const inspector = await inspected.open(await browser.createBrowserContext());
    await inspector.row("olek");
    await new Promise((resolve) => setTimeout(resolve, HISTORY_MS));
    const shoot = async (name: keyof typeof SIZES, suffix = "") => {
      await inspector.page.setViewport(SIZES[name]);
      await inspector.page.screenshot({ path: pathOf(folder, `inspect-${name}${suffix}`) });
    };
    await shoot("phone");
    if (isReview) {
      await shoot("desktop", "-list");
      await emulate(inspector.page, "dark");
      await shoot("desktop", "-dark");
      await shoot("phone", "-dark");
    }
    await inspector.page.setViewport(SIZES.desktop);
    await inspector.look("noor");
    await shoot("desktop", isReview ? "-detail-dark" : "");
    if (isReview) {
      await emulate(inspector.page, "light");
      await shoot("desktop", "");
      await shoot("phone", "-detail");
      console.log(folder.pathname);
    }
  } finally {
    await browser.close();
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
