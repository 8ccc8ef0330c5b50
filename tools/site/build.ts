/**
 * Builds the site: VitePress builds the pages, and `deno doc` the API reference.
 *
 * VitePress 1.6 is the newest stable version. The lock file next to the VitePress settings pins
 * every package that the build uses. `npm ci` installs these packages in a cache folder, once per
 * lock file, and Deno runs their programs.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath, pathToFileURL } from "node:url";
import { cacheFolder } from "../launch.ts";
import { readPages } from "../pages.ts";
import { buildApi } from "./api.ts";
import { agentFiles } from "./llms.ts";
import { redirectPages } from "./redirects.ts";
import { type NavItem, SiteError, stage, type StagedGroup, type StageOptions } from "./stage.ts";

/** Options of {@linkcode buildSite}. */
export interface BuildOptions extends StageOptions {
  /**
   * The path at which a host serves the site, with a slash on both sides.
   *
   * @default {"/"}
   */
  readonly base?: string;
  /**
   * Scheme and host of the site, such as `https://skein.example`, for links in the files for coding
   * agents. By default these links start with the base.
   *
   * @default {""}
   */
  readonly origin?: string;
}

/** The packages that build and check the site. */
export interface Packages {
  /** The folder with `node_modules`. */
  readonly folder: URL;
  /**
   * Runs a program from a package.
   *
   * @param script The script, such as `cspell/bin.mjs`.
   * @param args Arguments of the script.
   * @returns True if the script succeeded, and its output.
   */
  run(script: string, args: readonly string[]): Promise<{ passed: boolean; output: string }>;
}

const ROOT = new URL("../../", import.meta.url);
const GENERATOR = new URL("vitepress/", import.meta.url);

/** The built site. */
export const OUT: URL = new URL("dist/site/", ROOT);

/** The site's theme: VitePress with Skein's colors. */
const THEME = `import theme from "vitepress/theme";
import "./style.css";

export default theme;
`;

/** The font that VitePress ships for the site. */
const FONT = "node_modules/vitepress/dist/client/theme-default/fonts/inter-roman-latin.woff2";

/** Groups that are initially open in the sidebar. */
const OPEN: ReadonlySet<string> = new Set(["Start", "How do I send and receive?"]);

/** Groups in the bar at the top, with their names there. */
const NAV: ReadonlyMap<string, string> = new Map([
  ["Start", "Start"],
  ["How do I send and receive?", "Guides"],
  ["How do I connect a page or an app?", "Recipes"],
  ["How do I deploy?", "Deploy"],
  ["Reference", "Reference"],
]);

/**
 * Installs the packages of the build, unless an earlier run did.
 *
 * @returns See {@linkcode Packages}.
 */
export async function installPackages(): Promise<Packages> {
  const lock = await Deno.readTextFile(new URL("package-lock.json", GENERATOR));
  const hash = createHash("sha256").update(lock).digest("hex").slice(0, 12);
  const parent = pathToFileURL(`${cacheFolder() ?? fileURLToPath(new URL("dist", ROOT))}/`);
  const folder = new URL(`site-${hash}/`, parent);
  if (!await exists(new URL("node_modules/", folder))) {
    await Deno.mkdir(parent, { recursive: true });
    // Another build may be installing too: the first to finish renames its folder.
    const fresh = await tempFolder(parent);
    for (const name of ["package.json", "package-lock.json"]) {
      await Deno.copyFile(new URL(name, GENERATOR), new URL(name, fresh));
    }
    const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"];
    const { passed, output } = await outputOf("npm", args, fresh);
    if (!passed) throw new SiteError(`Cannot install packages of the site: npm failed\n${output}`);
    try {
      await Deno.rename(fresh, folder);
    } catch (error) {
      if (!await exists(folder)) throw error;
      await Deno.remove(fresh, { recursive: true });
    }
  }
  return {
    folder,
    run: (script, args) => {
      const flags = ["run", "-A", "--no-lock", "--node-modules-dir=manual"];
      return outputOf(Deno.execPath(), [...flags, `node_modules/${script}`, ...args], folder);
    },
  };
}

/**
 * Builds the site into {@linkcode OUT}. If a page links to a page that does not exist, the build
 * fails.
 *
 * @param packages See {@linkcode Packages}.
 * @param options See {@linkcode BuildOptions}.
 * @throws {SiteError} If a program of the build fails, with its output.
 */
export async function buildSite(packages: Packages, options: BuildOptions = {}): Promise<void> {
  const { base = "/", origin = "", repository } = options;
  const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT))) as {
    version: string;
    exports: Record<string, string>;
  };
  const staged = stage(await readPages(ROOT), options);
  const { pages, files, groups } = staged;
  const nav = navOf(groups, config.version);
  // The generator finds its packages in a parent folder.
  const work = await tempFolder(packages.folder);
  try {
    for (const [route, text] of pages) await write(new URL(route, work), text);
    for (const [route, path] of files) await copy(new URL(path, ROOT), new URL(route, work));
    const settings = new URL(".vitepress/", work);
    await copy(new URL("config.js", GENERATOR), new URL("config.js", settings));
    for (const name of ["contents.ts", "search.ts"]) {
      await copy(new URL(name, import.meta.url), new URL(name, work));
    }
    await copy(new URL("style.css", GENERATOR), new URL("theme/style.css", settings));
    await write(new URL("theme/index.js", settings), THEME);
    await copy(new URL("mark.svg", GENERATOR), new URL("public/mark.svg", work));
    const site = {
      base,
      repository,
      out: fileURLToPath(OUT),
      description: "Real-time sessions for Deno, over WebTransport, WebSocket and HTTP",
      nav,
      sidebar: groups.map((group) => ({ ...group, collapsed: !OPEN.has(group.text) })),
    };
    await write(new URL("site.json", settings), JSON.stringify(site));
    const { passed, output } = await packages.run("vitepress/bin/vitepress.js", [
      "build",
      fileURLToPath(work),
    ]);
    if (!passed) throw new SiteError(`Cannot build site: VitePress failed\n${output}`);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
  for (const [path, text] of Object.entries(agentFiles(staged, `${origin}${base}`))) {
    await write(new URL(path, OUT), text);
  }
  for (const [path, text] of redirectPages(base)) await write(new URL(path, OUT), text);
  await buildApi({
    out: new URL("api/", OUT),
    root: ROOT,
    repository,
    font: new URL(FONT, packages.folder),
    base,
    nav,
    exports: config.exports,
  });
}

/** Groups with pages, the API reference, and the version. */
function navOf(groups: readonly StagedGroup[], version: string): NavItem[] {
  const items = groups.flatMap(({ text: group, items }) => {
    const text = NAV.get(group);
    if (text === undefined) return [];
    const link = items[0]!.link;
    const folder = /^\/[^/]+\//.exec(link)?.[0];
    return [{ text, link, ...(folder === undefined ? {} : { activeMatch: `^${folder}` }) }];
  });
  return [
    ...items,
    { text: "API", link: "/api/", target: "_self" },
    { text: version, link: "/changelog" },
  ];
}

async function outputOf(
  command: string,
  args: readonly string[],
  cwd: URL,
): Promise<{ passed: boolean; output: string }> {
  const { success, stdout, stderr } = await new Deno.Command(command, {
    args: [...args],
    cwd,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { passed: success, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

async function tempFolder(dir: URL): Promise<URL> {
  return pathToFileURL(`${await Deno.makeTempDir({ dir: fileURLToPath(dir), prefix: "work-" })}/`);
}

async function exists(url: URL): Promise<boolean> {
  try {
    await Deno.lstat(url);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function write(to: URL, text: string): Promise<void> {
  await Deno.mkdir(new URL(".", to), { recursive: true });
  await Deno.writeTextFile(to, text);
}

async function copy(from: URL, to: URL): Promise<void> {
  await Deno.mkdir(new URL(".", to), { recursive: true });
  await Deno.copyFile(from, to);
}
