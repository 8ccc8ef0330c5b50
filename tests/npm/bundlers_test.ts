/**
 * Tests the package with common bundlers in Chromium: sizes, lazily loaded chunks, and a session.
 */
import { assert, assertEquals } from "@std/assert";
import { gzipSync } from "node:zlib";
import {
  type Browser,
  BROWSERS,
  newPage,
  PATIENCE_MS,
  testInBrowsers,
} from "../browser/browsers.ts";
import { PROGRAMS } from "./_programs.ts";
import { Project, type Tool } from "./_project.ts";
import { OUTCOME, serveConsumers } from "./_server.ts";

const CHROMIUM = BROWSERS.filter(({ name }) => name === "Chromium");

/**
 * Most bytes that the page loads initially, minified and gzipped. A bundle of the sources has the
 * bound of a page in `tests/bundle_test.ts`; the code of the page and of a bundler adds to that. The
 * newest bundlers are used, whose results differ by some hundred bytes.
 */
const MAX_FIRST_BYTES = 39 * 1024;

/** Most bytes of a page in one file with WebSocket alone, minified and gzipped. */
const MAX_SLIM_BYTES = 46_200;

const TYPES: Readonly<Record<string, string>> = { html: "text/html", js: "text/javascript" };

/** Responds with the files of a folder. */
async function serveFolder(folder: string, request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  const path = pathname.endsWith("/") ? `${pathname}index.html` : pathname;
  try {
    const type = TYPES[path.split(".").at(-1)!] ?? "application/octet-stream";
    return new Response(await Deno.readFile(folder + path), { headers: { "content-type": type } });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return new Response("Not found", { status: 404 });
    throw error;
  }
}

/** Opens a page; returns its outcome, and the scripts that it loaded. */
async function openPage(
  browser: Browser,
  url: string,
): Promise<{ readonly outcome: Record<string, unknown>; readonly scripts: ReadonlySet<string> }> {
  const page = await newPage(browser);
  const scripts = new Set<string>();
  page.on("response", (response) => {
    if (response.request().resourceType() !== "script") return;
    scripts.add(new URL(response.url()).pathname.split("/").at(-1)!);
  });
  await page.goto(url);
  const handle = await page.waitForFunction("globalThis.outcome", { timeout: 2 * PATIENCE_MS });
  const outcome = await handle.jsonValue() as Record<string, unknown>;
  await page.close();
  return { outcome, scripts };
}

/** Checks a page's outcome. Chromium supports WebTransport, but may fall back on a busy machine. */
function checkOutcome({ transport, ...outcome }: Record<string, unknown>): void {
  assertEquals(outcome, OUTCOME);
  assert(transport === "webtransport" || transport === "websocket", `${transport}`);
}

/** The scripts of a bundle, by name. */
async function scriptsIn(folder: string): Promise<Map<string, string>> {
  const scripts = new Map<string, string>();
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".js")) scripts.set(name, await Deno.readTextFile(`${folder}/${name}`));
  }
  return scripts;
}

/** Bytes of a script and its static imports, minified and gzipped. */
function firstBytes(entry: string, scripts: ReadonlyMap<string, string>): number {
  const names = new Set([entry]);
  let bytes = 0;
  for (const name of names) {
    const code = scripts.get(name)!;
    bytes += gzipSync(code, { level: 8 }).byteLength;
    for (const [, other] of code.matchAll(/(?:\bfrom|\bimport)\s*"\.\/([^"]+)"/g)) {
      names.add(other!);
    }
  }
  return bytes;
}

interface Bundler {
  readonly name: string;
  readonly tool: Tool;
  readonly files: Readonly<Record<string, string>>;
  /** The command, starting with the program's path below `node_modules`. */
  readonly command: readonly string[];
  readonly scripts: string;
}

const WEBPACK = `
import { resolve } from "node:path";
import webpack from "webpack";

const output = { path: resolve("dist"), filename: "page.js", publicPath: "/" };
webpack({ mode: "production", entry: "./page.js", output }, (error, stats) => {
  if (!error && !stats.hasErrors() && !stats.hasWarnings()) return;
  console.error(error ?? stats.toString());
  process.exitCode = 1;
});
`;

const BUNDLERS: readonly Bundler[] = [
  {
    name: "esbuild",
    tool: "esbuild",
    files: {},
    command: [
      ...["esbuild/bin/esbuild", "page.js", "--bundle", "--splitting", "--format=esm", "--minify"],
      "--outdir=dist",
    ],
    scripts: "dist",
  },
  {
    name: "webpack",
    tool: "webpack",
    files: { "bundle.js": WEBPACK },
    command: ["../bundle.js"],
    scripts: "dist",
  },
  {
    name: "Vite",
    tool: "vite",
    files: {},
    command: ["vite/bin/vite.js", "build"],
    scripts: "dist/assets",
  },
];

for (const { name, tool, files, command, scripts: folder } of BUNDLERS) {
  testInBrowsers(
    `a page by ${name} loads little initially, and talks to a server`,
    async (browser) => {
      await using project = await Project.make({ ...PROGRAMS, ...files }, [tool]);
      const [program, ...args] = command;
      const { code, output } = await project.tool(program!, ...args);
      assertEquals(code, 0, output);
      const root = `${project.folder}/dist`;
      if (name !== "Vite") {
        await Deno.copyFile(`${project.folder}/index.html`, `${root}/index.html`);
      }

      const scripts = await scriptsIn(`${project.folder}/${folder}`);
      const entry = [...scripts.keys()].find((name) => /^(?:page|index)\b/.test(name))!;
      const bytes = firstBytes(entry, scripts);
      console.log(`${name}: ${bytes} bytes gzipped at first, at most ${MAX_FIRST_BYTES}`);
      assert(bytes <= MAX_FIRST_BYTES, `${name} has ${bytes} bytes at first`);

      await using server = await serveConsumers({ fetch: (request) => serveFolder(root, request) });
      const page = await openPage(browser, server.url.replace("ws:", "http:"));
      checkOutcome(page.outcome);
      assert(page.scripts.has(entry));
      const unused = [...scripts.keys()].filter((name) => !page.scripts.has(name));
      assert(unused.length > 0, "The page loads all parts, HTTP included");
    },
    CHROMIUM,
  );
}

testInBrowsers(
  "a page of Vite's development server talks to a server elsewhere",
  async (browser) => {
    await using project = await Project.make(PROGRAMS, ["vite"]);
    await using vite = await ViteServer.start(project.folder);
    await using server = await serveConsumers({ origins: [vite.origin] });
    const { outcome } = await openPage(browser, `${vite.origin}/?server=${server.url}`);
    checkOutcome(outcome);
  },
  CHROMIUM,
);

testInBrowsers(
  "a page without a bundler loads the package through an import map",
  async (browser) => {
    const map = { imports: { "@skein/client": "/node_modules/@skein/client/index.js" } };
    await using project = await Project.make({
      ...PROGRAMS,
      "index.html": `<!doctype html>
<script type="importmap">${JSON.stringify(map)}</script>
<script type="module" src="/page.js"></script>`,
    });
    await using server = await serveConsumers({
      fetch: (request) => serveFolder(project.folder, request),
    });
    const { outcome, scripts } = await openPage(browser, server.url.replace("ws:", "http:"));
    checkOutcome(outcome);
    assert(scripts.size < 23, `The page sends ${scripts.size} requests for scripts`);
  },
  CHROMIUM,
);

testInBrowsers(
  "a page without a bundler loads the package in one file from a CDN",
  async (browser) => {
    await using project = await Project.make({
      ...PROGRAMS,
      "use_skein.js": "",
    });
    const requested: string[] = [];
    // A CDN is another origin, whose scripts are modules that need CORS.
    await using cdn = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      async (request) => {
        requested.push(new URL(request.url).pathname);
        const response = await serveFolder(`${project.folder}/node_modules`, request);
        response.headers.set("access-control-allow-origin", "*");
        return response;
      },
    );
    const file = `http://127.0.0.1:${cdn.addr.port}/@skein/client/cdn.js`;
    await Deno.writeTextFile(
      `${project.folder}/index.html`,
      `<!doctype html>
<script type="module">
${PROGRAMS["use_skein.js"].replace('"@skein/client"', JSON.stringify(file))}
useSkein("/").then((outcome) => globalThis.outcome = outcome);
</script>`,
    );
    await using server = await serveConsumers({
      fetch: (request) => serveFolder(project.folder, request),
    });
    const { outcome, scripts } = await openPage(browser, server.url.replace("ws:", "http:"));
    checkOutcome(outcome);
    assertEquals([...scripts], ["cdn.js"]);
    assertEquals(requested, ["/@skein/client/cdn.js"]);
  },
  CHROMIUM,
);

testInBrowsers(
  "a page in one file with @skein/client/slim takes only what it uses",
  async (browser) => {
    await using project = await Project.make({ ...PROGRAMS, "slim.js": SLIM }, ["esbuild"]);
    const { code, output } = await project.tool(
      "esbuild/bin/esbuild",
      ...["slim.js", "--bundle", "--format=esm", "--minify", "--outfile=page.js"],
      "--allow-overwrite",
    );
    assertEquals(code, 0, output);
    const { byteLength } = gzipSync(await Deno.readFile(`${project.folder}/page.js`), { level: 8 });
    console.log(`slim.js: ${byteLength} bytes gzipped, at most ${MAX_SLIM_BYTES}`);
    assert(byteLength <= MAX_SLIM_BYTES, `slim.js has ${byteLength} bytes`);
    await using server = await serveConsumers({
      fetch: (request) => serveFolder(project.folder, request),
    });
    const { outcome } = await openPage(browser, server.url.replace("ws:", "http:"));
    assertEquals(outcome, { transport: "websocket", sum: 6 });
  },
  CHROMIUM,
);

/** A page in one file with WebSocket alone. */
const SLIM = `
import { connect, webSocket } from "@skein/client/slim";

const client = connect("/", { transports: [webSocket()] });
const sum = await client.request("sum", [1, 2, 3]);
globalThis.outcome = { transport: client.session.transport, sum };
`;

class ViteServer implements AsyncDisposable {
  /** The origin of the pages. */
  readonly origin: string;
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;

  private constructor(origin: string, child: Deno.ChildProcess, reading: Promise<void>) {
    this.origin = origin;
    this.#child = child;
    this.#reading = reading;
  }

  /** Starts the server in a project; resolves when it listens. */
  static async start(cwd: string): Promise<ViteServer> {
    const child = new Deno.Command("node", {
      args: ["node_modules/vite/bin/vite.js", "--host", "127.0.0.1", "--port", "0"],
      cwd,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    let output = "";
    const found = Promise.withResolvers<string>();
    const read = async () => {
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
        output += text;
        const [origin] = /http:\/\/127\.0\.0\.1:\d+/.exec(output) ?? [];
        if (origin !== undefined) found.resolve(origin);
      }
      found.reject(new Error(`Vite ended:\n${output}`));
    };
    const reading = read();
    return new ViteServer(await found.promise, child, reading);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#child.status;
    await this.#reading;
  }
}
