/**
 * Takes pictures of all pages for review: on a desktop and on a phone, in light and dark mode, with
 * and without the server.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/family.ts          # to a temporary folder
 * deno run -A tests/browser/screenshots/family.ts chat     # one page alone
 * ```
 *
 * @module
 */
import { BROWSERS, emulate, launchBrowser, type Page, pathOf } from "../browsers.ts";
import { FAMILY, FamilyPage } from "../pages/family.ts";

const SIZES = {
  desk: { width: 1280, height: 800, deviceScaleFactor: 1 },
  phone: { width: 390, height: 844, deviceScaleFactor: 1 },
} as const;

async function main(names: readonly string[]): Promise<void> {
  const folder = new URL(`file://${await Deno.makeTempDir()}/`);
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    for (const member of FAMILY) {
      if (names.length > 0 && !names.includes(member.name)) continue;
      await using family = await FamilyPage.open(browser, member);
      await shoot(family.page, folder, `${member.name}-alive`);
      const sinceMs = Date.now();
      await family.kill();
      console.log(`${member.name} says so after ${Date.now() - sinceMs} ms`);
      await shoot(family.page, folder, `${member.name}-dead`);
    }
    console.log(folder.pathname);
  } finally {
    await browser.close();
  }
}

async function shoot(page: Page, folder: URL, name: string): Promise<void> {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colors of ["light", "dark"] as const) {
      await page.setViewport(viewport);
      await emulate(page, colors);
      await page.screenshot({ path: pathOf(folder, `${name}-${size}-${colors}`) });
    }
  }
}

if (import.meta.main) await main(Deno.args);
