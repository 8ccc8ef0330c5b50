/**
 * Takes the pictures of the inspector in `docs/`, on a desktop and on a phone.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/inspect.ts            # docs/inspect-*.png
 * deno run -A tests/browser/screenshots/inspect.ts --review   # all views, to a temporary folder
 * ```
 *
 * @module
 */
import { Demo } from "../../../examples/inspect/demo.ts";
import { BROWSERS, emulate, launchBrowser, pathOf } from "../browsers.ts";
import { openDemo } from "../pages/inspect.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1440, height: 900, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

/** The wait until the charts have enough history for a picture, in milliseconds. */
const HISTORY_MS = 40_000;

/** The longest wait for the next measurement, in milliseconds. */
const NEXT_MS = 2_500;

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  await using demo = await Demo.start();
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const inspector = await openDemo(await browser.createBrowserContext(), demo);
    const { page } = inspector;
    const shoot = async (name: string) => {
      await new Promise((resolve) => setTimeout(resolve, NEXT_MS));
      await page.screenshot({ path: pathOf(folder, `inspect-${name}`) });
    };
    await inspector.row("olek");
    await new Promise((resolve) => setTimeout(resolve, HISTORY_MS));
    await page.setViewport(SIZES.desktop);
    await inspector.view("overview");
    await shoot("overview");
    await inspector.view("sessions");
    await inspector.look("kim");
    await page.click("#follow");
    await shoot("desktop");
    await page.keyboard.press("Escape");
    await page.setViewport(SIZES.phone);
    await shoot("phone");
    if (!isReview) return;
    for (const scheme of ["light", "dark"] as const) {
      await emulate(page, scheme);
      for (const [size, viewport] of Object.entries(SIZES)) {
        await page.setViewport(viewport);
        for (const view of ["overview", "sessions", "topics", "rooms", "streams", "brokers"]) {
          await inspector.view(view);
          await shoot(`${size}-${view}-${scheme}`);
        }
      }
    }
    console.log(folder.pathname);
  } finally {
    await browser.close();
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
