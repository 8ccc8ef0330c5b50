/**
 * Takes the pictures of the simulation page in `docs/`. They show a killed server, on a desktop and
 * on a phone.
 *
 * ```sh
 * deno run -A tests/browser/simulation_screenshots.ts
 * ```
 *
 * @module
 */
import { BROWSERS, ChatProcess, emulate, launchBrowser, pathOf } from "./_browsers.ts";
import { chooseHost, seek, untilText } from "./_simulation_page.ts";

const DOCS = new URL("../../docs/", import.meta.url);

const SIZES = {
  desktop: { width: 1280, height: 860, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 2 },
} as const;

if (import.meta.main) await main();

async function main(): Promise<void> {
  await using server = await ChatProcess.start("simulation");
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const page = await browser.newPage();
    await page.setViewport(SIZES.desktop);
    await emulate(page, "light");
    await page.goto(server.url);
    await untilText(page, "#digest", /^[0-9a-f]{8}/);
    await seek(page, 20_000);
    await chooseHost(page, "oslo");
    await page.click('[data-kind="kill"]');
    await untilText(page, "#faults", /oslo/);
    await chooseHost(page, "oslo");
    await seek(page, 20_055);
    await page.screenshot({ path: pathOf(DOCS, "simulation-desktop") });
    await page.setViewport(SIZES.phone);
    await emulate(page, "dark");
    await seek(page, 20_055);
    await page.screenshot({ path: pathOf(DOCS, "simulation-phone") });
  } finally {
    await browser.close();
  }
}
