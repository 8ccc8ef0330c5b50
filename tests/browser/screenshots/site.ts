/**
 * Takes the pictures of the documentation site in `docs/`. Build the site with `deno task docs`
 * first.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/site.ts            # docs/site-desktop.png, -search, -phone
 * deno run -A tests/browser/screenshots/site.ts --review   # more pages, to a temporary folder
 * ```
 *
 * @module
 */
import { OUT } from "../../../tools/site/build.ts";
import { siteHandler } from "../../../tools/site/serve.ts";
import { BROWSERS, emulate, launchBrowser, type Page, pathOf } from "../browsers.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const DESKTOP = { width: 1280, height: 800, deviceScaleFactor: 1 };
const PHONE = { width: 360, height: 780, deviceScaleFactor: 2 };

/** A picture's name, and the page and state that it shows. */
interface Shot {
  readonly name: string;
  readonly path: string;
  readonly colors: "light" | "dark";
  readonly size: typeof DESKTOP;
  /** Words to search for. */
  readonly search?: string;
}

const SHOTS: readonly Shot[] = [
  { name: "site-desktop", path: "/", colors: "light", size: DESKTOP },
  { name: "site-search", path: "/", colors: "dark", size: DESKTOP, search: "presence" },
  { name: "site-phone", path: "/start/2-a-page", colors: "dark", size: PHONE },
];

const REVIEW: readonly Shot[] = [
  "/",
  "/start/2-a-page",
  "/guide/topics",
  "/reference/limits",
  "/reference/serve-options",
  "/api/",
  "/api/~/Client",
  "/nowhere",
].flatMap((path) =>
  (["light", "dark"] as const).flatMap((colors) =>
    [DESKTOP, PHONE].map((size) => ({
      name: `${path.replaceAll(/\W+/g, "-")}-${colors}-${size.width}`,
      path,
      colors,
      size,
    }))
  )
);

async function shoot(page: Page, url: string, folder: URL, shot: Shot): Promise<void> {
  await page.setViewport(shot.size);
  await emulate(page, shot.colors);
  await page.goto(`${url}${shot.path}`, { waitUntil: "networkidle0" });
  if (shot.search !== undefined) {
    await page.keyboard.press("/");
    const input = await page.waitForSelector(".VPLocalSearchBox input");
    await input!.type(shot.search);
    await page.waitForSelector(".VPLocalSearchBox .excerpt mark");
  }
  await page.screenshot({ path: pathOf(folder, shot.name) });
}

async function main(isReview: boolean): Promise<void> {
  const folder = isReview ? new URL(`file://${await Deno.makeTempDir()}/`) : DOCS;
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen() {} },
    siteHandler(OUT),
  );
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    for (const shot of isReview ? REVIEW : SHOTS) {
      const context = await browser.createBrowserContext();
      const url = `http://127.0.0.1:${server.addr.port}`;
      await shoot(await context.newPage(), url, folder, shot);
      await context.close();
    }
    if (isReview) console.log(folder.pathname);
  } finally {
    await browser.close();
  }
}

if (import.meta.main) await main(Deno.args.includes("--review"));
