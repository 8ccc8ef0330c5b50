/**
 * Tests the recipes for Svelte and Vue: both compilers compile the files, and Chromium runs them
 * with a server.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { compileScript, parse } from "npm:@vue/compiler-sfc@^3";
import { compile } from "npm:svelte@^5/compiler";
import { serve } from "../../mod.ts";
import { BROWSERS, newPage, testInBrowsers } from "../browser/_browsers.ts";
import { until } from "../waiting.ts";
import { blocksOf } from "./blocks.ts";
import { Tab } from "./tab.ts";

const ROOT = new URL("../../", import.meta.url);

/** Commands from the test to a page. */
declare global {
  var views: {
    leave(): void;
    /** Shows another topic. */
    show(room: string): void;
  };
}

/** A recipe with one component. */
interface Recipe {
  readonly name: string;
  readonly page: string;
  readonly component: string;
  /** Compiles the component to a module. */
  readonly compile: (source: string) => string;
  /** Mounts the component, which is imported as `Chat`. */
  readonly main: string;
  /** True if the component follows the property `room`. */
  readonly hasRooms: boolean;
}

const RECIPES: readonly Recipe[] = [
  {
    name: "Svelte",
    page: "docs/recipes/svelte.md",
    component: "Chat.svelte",
    compile: (source) => compile(source, { generate: "client", filename: "Chat.svelte" }).js.code,
    main: `
      import { mount, unmount } from "svelte";
      const app = mount(Chat, { target: document.body });
      globalThis.views = { leave: () => unmount(app) };`,
    hasRooms: false,
  },
  {
    name: "Vue",
    page: "docs/recipes/vue.md",
    component: "Chat.vue",
    compile: (source) => {
      const { descriptor } = parse(source, { filename: "Chat.vue" });
      return compileScript(descriptor, { id: "chat", inlineTemplate: true }).content;
    },
    main: `
      import { createApp, h, ref } from "vue";
      const room = ref("lobby");
      const app = createApp({ render: () => h(Chat, { room: room.value }) });
      app.mount(document.body);
      globalThis.views = { leave: () => app.unmount(), show: (name) => room.value = name };`,
    hasRooms: true,
  },
];

/** Writes a recipe's files into a folder, and bundles them. */
async function bundle(recipe: Recipe, folder: string): Promise<string> {
  const { page, component, compile, main } = recipe;
  for (const block of blocksOf(page, await Deno.readTextFile(new URL(page, ROOT)))) {
    assert(block.kind === "file", `${page} must contain only files`);
    const isComponent = block.path === component;
    const code = isComponent ? compile(block.text) : block.text;
    const path = isComponent ? "chat.ts" : block.path;
    // Deno requires the file extension.
    const text = code.replaceAll(/ from "(\.\/\w+)"/g, ' from "$1.ts"');
    await Deno.writeTextFile(`${folder}/${path}`, `// deno-lint-ignore-file\n${text}`);
  }
  await Deno.writeTextFile(`${folder}/main.ts`, `import Chat from "./chat.ts";\n${main}`);
  const imports = {
    "@skein/client": new URL("client.ts", ROOT).href,
    "svelte": "npm:svelte@^5",
    "svelte/": "npm:/svelte@^5/",
    "vue": "npm:vue@^3",
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

for (const recipe of RECIPES) {
  testInBrowsers(
    `the recipe for ${recipe.name} shows a topic, and unsubscribes when its component unmounts`,
    async (browser) => {
      const folder = await Deno.makeTempDir();
      const script = await bundle(recipe, folder);
      await Deno.remove(folder, { recursive: true });
      await using server = serve({
        port: 0,
        hostname: "127.0.0.1",
        onListen() {},
        authenticate: () => "ann",
        authorize: (_session, topic) => topic.startsWith("chat:"),
        includePublisher: true,
        rooms: ["chat:{room}"],
        history: { "chat:{room}": {} },
        fetch: ({ url }) => {
          const [body, type] = new URL(url).pathname === "/page.js"
            ? [script, "text/javascript"]
            : ['<!DOCTYPE html><script type="module" src="/page.js"></script>', "text/html"];
          return new Response(body, { headers: { "content-type": type } });
        },
      });
      await server.topics.append("chat:lobby", "before", { from: "bob" });
      const page = await newPage(browser);
      const errors: string[] = [];
      page.on("pageerror", (error) => void errors.push(String(error)));
      await page.goto(server.url.replace("ws:", "http:"));
      const tab = new Tab(page);
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
}
