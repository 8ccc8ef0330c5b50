/**
 * Tests the recipes for Svelte and Vue: both compilers compile the files, and Chromium runs them
 * with the server of the recipe for React, on which the two build.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { compileScript, parse } from "npm:@vue/compiler-sfc@3.5.45";
import { compile } from "npm:svelte@5.57.3/compiler";
import type { Server } from "../../server.ts";
import type { LiveStates } from "../../streams/mod.ts";
import { type Browser, BROWSERS, newPage, type Page, testInBrowsers } from "../browser/browsers.ts";
import { change, fileIn, partOf, textOf } from "../browser/reader_site.ts";
import { until } from "../waiting.ts";
import { blocksOf } from "./blocks.ts";
import { Tab } from "./tab.ts";

const ROOT = new URL("../../", import.meta.url);

/** Commands from the test to a page. */
declare global {
  var views: {
    leave(): void;
    /** Shows another topic or another board. */
    show(name: string): void;
  };
}

/** A recipe with two components, `Chat` and `Cards`. */
interface Recipe {
  readonly name: string;
  readonly page: string;
  /** The extension of a component's file. */
  readonly extension: string;
  /** Compiles a component to a module. */
  readonly compile: (source: string, filename: string) => string;
  /** Mounts the component, which is imported as `View`. */
  readonly main: string;
  /** True if the components follow the properties `room` and `board`. */
  readonly hasRooms: boolean;
}

const RECIPES: readonly Recipe[] = [
  {
    name: "Svelte",
    page: "docs/recipes/svelte.md",
    extension: ".svelte",
    compile: (source, filename) => compile(source, { generate: "client", filename }).js.code,
    main: `
      import { mount, unmount } from "svelte";
      const app = mount(View, { target: document.body });
      globalThis.views = { leave: () => unmount(app) };`,
    hasRooms: false,
  },
  {
    name: "Vue",
    page: "docs/recipes/vue.md",
    extension: ".vue",
    compile: (source, filename) => {
      const { descriptor } = parse(source, { filename });
      return compileScript(descriptor, { id: filename, inlineTemplate: true }).content;
    },
    main: `
      import { createApp, h, ref } from "vue";
      const shown = ref(View.props.room ? "lobby" : "1");
      const properties = () => View.props.room ? { room: shown.value } : { board: shown.value };
      const app = createApp({ render: () => h(View, properties()) });
      app.mount(document.body);
      globalThis.views = { leave: () => app.unmount(), show: (name) => shown.value = name };`,
    hasRooms: true,
  },
];

/** Writes a recipe's files into a folder, and bundles a page that shows one of its components. */
async function bundle(folder: string, recipe: Recipe, view: "Chat" | "Cards"): Promise<string> {
  const { page, extension, compile, main } = recipe;
  for (const block of blocksOf(page, textOf(page))) {
    assert(block.kind === "file", `${page} must contain only files`);
    const isComponent = block.path.endsWith(extension);
    const code = isComponent ? compile(block.text, block.path) : block.text;
    const path = block.path.replace(extension, ".ts");
    // Deno requires the file extension.
    const text = code.replaceAll(/ from "(\.\/\w+)"/g, ' from "$1.ts"');
    await Deno.writeTextFile(`${folder}/${path}`, `// deno-lint-ignore-file\n${text}`);
  }
  await Deno.writeTextFile(`${folder}/main.ts`, `import View from "./${view}.ts";\n${main}`);
  const imports = {
    "@skein/client": new URL("client.ts", ROOT).href,
    "svelte": "npm:svelte@5.57.3",
    "svelte/": "npm:/svelte@5.57.3/",
    "vue": "npm:vue@3.5.45",
  };
  await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify({ imports, lock: false }));
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", "main.ts"],
    cwd: folder,
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

const SERVER_PAGE = "docs/recipes/react.md";

/** The exports of the server's file, with the changes of the test. */
interface Exports {
  readonly server: Server;
  readonly states: LiveStates;
}

/** Edits of `server.ts`: those that the section "Live state" asks for, and the test's own. */
const CHANGES: readonly (readonly [before: string, after: string])[] = [
  [
    'from "@skein/skein";',
    'from "@skein/skein";\nimport { liveState } from "@skein/skein/streams";',
  ],
  [
    "serve({\n  port: 8000,",
    `export const states = liveState(contract);
    export const server = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      features: [states],`,
  ],
  [
    'topic.startsWith("chat:")',
    'topic.startsWith("chat:") || topic.startsWith("stream:board:") && !topic.endsWith("none")',
  ],
  ["`web/dist", "`${import.meta.dirname}/web/dist"],
];

/** Starts the server of the recipe for React, with a page of another recipe. */
class RecipeServer implements AsyncDisposable {
  readonly #folder: string;
  readonly server: Server;
  readonly states: LiveStates;

  private constructor(folder: string, { server, states }: Exports) {
    this.#folder = folder;
    this.server = server;
    this.states = states;
  }

  static async start(recipe: Recipe, view: "Chat" | "Cards"): Promise<RecipeServer> {
    const folder = await Deno.makeTempDir();
    const state = partOf("docs/recipes/svelte.md", /^state: .*,$/m);
    const contract = fileIn(SERVER_PAGE, "web/src/contract.ts");
    const program = fileIn(SERVER_PAGE, "server.ts");
    await Deno.mkdir(`${folder}/web/src`, { recursive: true });
    await Deno.mkdir(`${folder}/web/dist`);
    for (
      const [path, text] of [
        ["web/src/contract.ts", change(contract, "({", `({ ${state}`)],
        ["server.ts", CHANGES.reduce((text, [part, other]) => change(text, part, other), program)],
        ["web/dist/index.html", '<!DOCTYPE html><script type="module" src="/page.js"></script>'],
        ["web/dist/page.js", await bundle(`${folder}/web/src`, recipe, view)],
      ] as const
    ) {
      await Deno.writeTextFile(`${folder}/${path}`, path.endsWith(".ts") ? withUrls(text) : text);
    }
    return new RecipeServer(folder, await import(`file://${folder}/server.ts`));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Replaces the names of packages, which have no import map in a temporary folder. */
function withUrls(text: string): string {
  const urls: Record<string, string> = {
    "@skein/client": new URL("client.ts", ROOT).href,
    "@skein/skein": new URL("mod.ts", ROOT).href,
    "@skein/skein/jwt": new URL("server/admission/jwt.ts", ROOT).href,
    "@skein/skein/streams": new URL("streams/mod.ts", ROOT).href,
    "jose": import.meta.resolve("jose"),
    "zod": import.meta.resolve("zod"),
  };
  return text.replaceAll(/ from "([^."]+)"/g, (_, name) => ` from "${urls[name]}"`);
}

/** Opens a page as Ann, and collects its errors. */
async function open(
  browser: Browser,
  { url }: { readonly url: string },
): Promise<{ readonly tab: Tab; readonly page: Page; readonly errors: readonly string[] }> {
  const page = await newPage(browser);
  const errors: string[] = [];
  page.on("dialog", (dialog) => void dialog.accept("ann"));
  page.on("pageerror", (error) => void errors.push(String(error)));
  await page.goto(url.replace("ws:", "http:"));
  return { tab: new Tab(page), page, errors };
}

for (const recipe of RECIPES) {
  testInBrowsers(
    `the recipe for ${recipe.name} shows a topic, and unsubscribes when its component unmounts`,
    async (browser) => {
      await using served = await RecipeServer.start(recipe, "Chat");
      const { server } = served;
      await server.topics.append("chat:lobby", "before", { from: "bob" });
      const { tab, page, errors } = await open(browser, server);
      await tab.hasStatus("connected");
      await tab.hasLines(["bob: before"]);
      await tab.hasText("#people", "ann");
      await tab.say("hello");
      await tab.hasLines(["bob: before", "ann: hello"]);

      const subscribers = (topic: string) => server.topics.subscribers(topic).length;
      if (recipe.hasRooms) {
        await page.evaluate(() => views.show("tea"));
        await tab.hasLines([]);
        server.publish("chat:tea", "x", { from: "eve" });
        await tab.hasLines(["eve: x"]);
        assertEquals(subscribers("chat:lobby"), 0);
        await page.evaluate(() => views.show("lobby"));
        await tab.hasLines(["bob: before", "ann: hello"]);
      }
      assertEquals(subscribers("chat:lobby"), 1);
      await page.evaluate(() => views.leave());
      await until(() => subscribers("chat:lobby") === 0);
      assertEquals([server.manager.count, errors], [1, []]);
    },
    BROWSERS.slice(0, 1),
  );

  testInBrowsers(
    `the recipe for ${recipe.name} shows a live state, writes to it, and closes it`,
    async (browser) => {
      await using served = await RecipeServer.start(recipe, "Cards");
      const { server, states } = served;
      await using board = await states.open("board:1");
      const cards = board.collection<{ readonly title: string; readonly done: boolean }>("cards");
      await cards.set("a", { title: "Tea", done: false });
      const { tab, page, errors } = await open(browser, server);
      await tab.hasStatus("live");
      await tab.hasLines(["Tea"]);
      await page.click("#lines button");
      await tab.hasLines(["✓ Tea"]);
      await until(() => cards.get("a")?.done);
      await tab.say("Milk");
      await tab.hasLines(["✓ Tea", "Milk"]);
      await until(() => cards.size === 2);
      await cards.delete("a");
      await tab.hasLines(["Milk"]);

      const readers = (id: string) => server.topics.subscribers(`stream:board:${id}`).length;
      if (recipe.hasRooms) {
        await page.evaluate(() => views.show("none"));
        await tab.hasStatus("ended Cannot read");
        await tab.hasLines([]);
        await until(() => readers("1") === 0);
        await page.evaluate(() => views.show("1"));
        await tab.hasLines(["Milk"]);
      }
      assertEquals(readers("1"), 1);
      const [session] = server.topics.subscribers("stream:board:1");
      server.unsubscribe(session!, "stream:board:1", { code: "kicked", reason: "Be kind" });
      await tab.hasStatus("ended Be kind");
      await page.evaluate(() => views.leave());
      await until(() => readers("1") === 0);
      assertEquals(errors, []);
    },
    BROWSERS.slice(0, 1),
  );
}
