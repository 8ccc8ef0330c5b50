/**
 * Tests the recipe for a page that starts without a network, with the recipe's own programs.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { TEMPLATES } from "../../cli/templates/templates.ts";
import { type Page, testInBrowsers } from "./browsers.ts";
import { change, fileIn, hasStored, lists, Site, tabOf, textOf, WAIT } from "./reader_site.ts";

const RECIPE = "docs/recipes/offline-app.md";

const FILES = Object.fromEntries(
  ["server.ts", "site.ts", "worker.js", "page.ts", "offline.ts", "index.html"]
    .map((name) => [name === "index.html" ? `dist/${name}` : name, fileIn(RECIPE, name)]),
);

/** Formats a script as Deno does in a project without settings. */
async function formatted(script: string): Promise<string> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/worker.js`, script);
    const args = ["fmt", "--quiet", "--no-config", "worker.js"];
    await new Deno.Command(Deno.execPath(), { args, cwd: folder, stdin: "null" }).output();
    return await Deno.readTextFile(`${folder}/worker.js`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("The board and the templates have the worker of the recipe", async () => {
  const script = FILES["worker.js"]!;
  assertEquals(textOf("examples/shared/worker.js"), script);
  assertEquals(TEMPLATES["board"]!.files["page/worker.js"], await formatted(script));
  assertEquals(TEMPLATES["react"]!.files["web/worker.js"], await formatted(script));
});

/** The members of a page's globals in use: the repository is type-checked without the DOM. */
declare const document: {
  readonly title: string;
  querySelector(selector: string): { readonly textContent: string } | null;
};
declare const caches: {
  keys(): Promise<string[]>;
  open(name: string): Promise<{ keys(): Promise<{ readonly url: string }[]> }>;
};
declare const navigator: {
  readonly serviceWorker: {
    readonly controller: unknown;
    getRegistration(): Promise<{ waiting: unknown; installing: unknown; update(): Promise<void> }>;
  };
};

/** Waits until the worker serves the page. */
async function isKept(page: Page): Promise<void> {
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null, WAIT);
}

async function hasStatus(page: Page, status: string): Promise<void> {
  await page.waitForFunction(
    (status) => document.querySelector("#status")?.textContent === status,
    WAIT,
    status,
  );
}

/** Waits until the page offers a new version. */
async function isOffered(page: Page): Promise<void> {
  await page.waitForFunction(() => document.querySelector("button:not([hidden])") !== null, WAIT);
}

async function hasTitle(page: Page, title: string): Promise<void> {
  await page.waitForFunction((title) => document.title === title, WAIT, title);
}

/** Waits until the page has loaded the late code of live state, and enabled its input. */
async function hasStarted(page: Page): Promise<void> {
  await page.waitForFunction(() => document.querySelector("input:enabled") !== null, WAIT);
}

async function add(page: Page, text: string): Promise<void> {
  await page.bringToFront();
  await hasStarted(page);
  await page.type("input", text);
  await page.keyboard.press("Enter");
}

/** The paths of the stored files, in each cache. */
const storedIn = (page: Page) =>
  page.evaluate(async () => {
    const all = [];
    for (const name of await caches.keys()) {
      const requests = await (await caches.open(name)).keys();
      all.push(requests.map(({ url }) => new URL(url).pathname).toSorted());
    }
    return all;
  });

/** The paths of a site's files. */
const pathsOf = (site: Site) =>
  [...Deno.readDirSync(`${site.folder}/dist`)]
    .map(({ name }) => name === "index.html" ? "/" : `/${name}`).toSorted();

/** Builds a page with other names of all late chunks, and restarts the server. */
async function deploy(site: Site, files: Readonly<Record<string, string>>): Promise<void> {
  await site.kill();
  await Deno.remove(`${site.folder}/dist`, { recursive: true });
  for (const [name, text] of Object.entries({ ...FILES, ...files })) await site.write(name, text);
  await site.bundle(RECIPE, "--minify");
  await site.start();
}

const SECOND = {
  "dist/index.html": change(FILES["dist/index.html"]!, "<title>To do<", "<title>Version 2<"),
  // The most that a session asks of the worker, on the path of the page itself.
  "page.ts": change(FILES["page.ts"]!, 'connect("/", {', 'connect("/", { transports: ["http"],'),
};

testInBrowsers("a page with its late chunks starts without its server", async (browser) => {
  const context = await browser.createBrowserContext();
  await using site = await Site.open(FILES, RECIPE);
  const page = await tabOf(context, site.url);
  await isKept(page);
  const first = await tabOf(context, site.url);
  await add(page, "Tea");
  await lists(first, "li", ["Tea"]); // The server has it.
  await first.close();
  await hasStored(page, "Tea");
  assertEquals(await storedIn(page), [pathsOf(site)]);
  assert(pathsOf(site).some((path) => path.startsWith("/chunk_http")));
  await site.kill();
  for (let i = 0; i < 2; i++) {
    await page.reload();
    await hasStarted(page);
  }
  await lists(page, "li", ["Tea"]);
  await page.waitForFunction(
    () => document.querySelector("#age")?.textContent.startsWith("As of"),
    WAIT,
  );
  await add(page, "Milk");
  await lists(page, "li", ["Tea", "Milk"]);
  // A tab that is opened without the server, at an address with a query.
  const other = await tabOf(context, `${site.url}?from=link`);
  await hasStarted(other);
  await site.start();
  for (const tab of [page, other]) {
    await hasStatus(tab, "connected");
    await lists(tab, "li", ["Tea", "Milk"]);
  }
});

testInBrowsers("a new version replaces the old one in all tabs, unmixed", async (browser) => {
  const context = await browser.createBrowserContext();
  await using site = await Site.open(FILES, RECIPE);
  const page = await tabOf(context, site.url);
  await isKept(page);
  const other = await tabOf(context, site.url);
  await add(page, "Tea");
  await lists(other, "li", ["Tea"]); // The server has it.
  await other.close();
  const old = pathsOf(site);
  const late = old.find((path) => path.startsWith("/chunk_http"))!;
  await deploy(site, SECOND);
  assertEquals(pathsOf(site).includes(late), false);
  await isOffered(page);

  // The old page is whole, also in a tab that opens now, and after a reload.
  const second = await tabOf(context, site.url);
  await page.reload();
  for (const tab of [page, second]) {
    await hasTitle(tab, "To do");
    await lists(tab, "li", ["Tea"]);
    assertEquals(await tab.evaluate(async (late) => typeof await import(late), late), "object");
    await isOffered(tab);
  }

  await page.bringToFront();
  await page.click("button");
  for (const tab of [page, second]) {
    await hasTitle(tab, "Version 2");
    await hasStatus(tab, "connected");
  }
  assertEquals(await storedIn(page), [pathsOf(site)]);

  // Event streams and requests at the path of the page reach the server.
  await add(second, "Milk");
  for (const tab of [page, second]) await lists(tab, "li", ["Tea", "Milk"]);
  await site.kill();
  await page.reload();
  await hasStarted(page);
  await site.start();
  await hasStatus(page, "connected");
  await lists(page, "li", ["Tea", "Milk"]);
});

testInBrowsers("a version with files of another one is never shown", async (browser) => {
  const context = await browser.createBrowserContext();
  await using site = await Site.open(FILES, RECIPE);
  const page = await tabOf(context, site.url);
  await isKept(page);
  const own = await storedIn(page);
  // As if another server, with another version, responded to the request for this file.
  const other = 'files.set(path, name === "page.js" ? new Uint8Array([59]) : body);';
  await deploy(site, {
    ...SECOND,
    "site.ts": change(FILES["site.ts"]!, "files.set(path, body);", other),
  });
  await hasStatus(page, "connected");
  await page.evaluate(async () => {
    const registration = await navigator.serviceWorker.getRegistration();
    await registration.update().catch(() => {});
  });
  await page.waitForFunction(
    async () => {
      const { installing, waiting } = await navigator.serviceWorker.getRegistration();
      return installing === null && waiting === null;
    },
    WAIT,
  );
  const tab = await tabOf(context, site.url);
  for (const each of [page, tab]) await hasTitle(each, "To do");
  assertEquals((await storedIn(page)).filter((paths) => paths.length > 0), own);

  await deploy(site, SECOND);
  await page.bringToFront();
  await isOffered(page);
  await page.click("button");
  for (const each of [page, tab]) await hasTitle(each, "Version 2");
});
