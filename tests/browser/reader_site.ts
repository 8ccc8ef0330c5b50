/**
 * Does what a reader of the documentation does: saves the programs of a page of the docs, starts the
 * server among them, and opens the web page among them in a browser.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { blocksOf } from "../docs/blocks.ts";
import { lowPort } from "../networks/ports.ts";
import { until } from "../waiting.ts";
import { newPage, type Page, PATIENCE_MS, press } from "./browsers.ts";

const ROOT = new URL("../../", import.meta.url);
export const CONFIG = fileURLToPath(new URL("deno.json", ROOT));

export const textOf = (page: string) => Deno.readTextFileSync(new URL(page, ROOT));

export function fileIn(page: string, path: string): string {
  const found = blocksOf(page, textOf(page)).find((it) => it.kind === "file" && it.path === path);
  assert(found?.kind === "file", `${page} must contain ${path}`);
  return found.text;
}

/** Returns the part of a page that a pattern matches. */
export function partOf(page: string, pattern: RegExp): string {
  const [part] = pattern.exec(textOf(page)) ?? [];
  assert(part !== undefined, `${page} must contain ${pattern}`);
  return part;
}

/** Replaces a part of a program that must occur in it. */
export function change(program: string, part: string, other: string): string {
  assertStringIncludes(program, part);
  return program.replace(part, other);
}

/**
 * Returns the arguments of a page's command, with the configuration that maps `@skein/skein` to this
 * checkout.
 */
export function argsIn(page: string, start: string): string[] {
  const line = textOf(page).split("\n").find((line) => line.startsWith(start));
  assert(line !== undefined, `${page} must contain ${start}`);
  const [, command, ...args] = line.split(" ");
  return [command!, "--config", CONFIG, ...args];
}

/** A reader's folder with a server and a page. */
export class Site implements AsyncDisposable {
  readonly port = lowPort();
  readonly folder: string;
  #output = "";
  #server: Deno.ChildProcess | undefined;
  #reading: Promise<unknown> | undefined;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /**
   * Writes the files, bundles the page with a page's command, and starts the server.
   *
   * @param files The files, by name.
   * @param from The page with the command; by default one for a `page.ts` without an HTML file.
   */
  static async open(
    files: Readonly<Record<string, string>>,
    from = "docs/guide/ai-responses.md",
  ): Promise<Site> {
    const site = new Site(await Deno.makeTempDir({ prefix: "promise-" }));
    try {
      for (const [name, text] of Object.entries(files)) {
        await site.write(name, text);
      }
      await site.bundle(from);
      await site.start();
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  get url(): string {
    return `http://localhost:${this.port}/`;
  }

  /** All that the server has printed. */
  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#server!.pid;
  }

  /** Writes a file, with the site's port in place of 8000. */
  async write(name: string, text: string): Promise<void> {
    const path = `${this.folder}/${name}`;
    await Deno.mkdir(dirname(path), { recursive: true });
    await Deno.writeTextFile(path, text.replaceAll(/\b8000\b/g, `${this.port}`));
  }

  /** Bundles the page with a page's command, without one of its options. */
  async bundle(from: string, without?: string): Promise<void> {
    const args = argsIn(from, "deno bundle").filter((arg) => arg !== without);
    assertEquals(await this.deno(args), "");
  }

  /** Starts the server with the README's command. */
  async start(): Promise<void> {
    const args = argsIn("README.md", "deno run -A --unstable-net");
    const server = this.#server = this.#deno(args, "piped").spawn();
    const known = this.#output.length;
    const read = async (stream: ReadableStream<Uint8Array>) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) this.#output += text;
    };
    this.#reading = Promise.all([read(server.stdout), read(server.stderr)]);
    await until(() => this.#output.slice(known).includes("Listening"));
  }

  /** Runs a command in the folder, and returns its errors, or an empty string. */
  async deno(args: string[]): Promise<string> {
    const { success, stderr } = await this.#deno(args, "null").output();
    return success ? "" : new TextDecoder().decode(stderr);
  }

  /** Sends a line to the server's standard input. */
  async say(line: string): Promise<void> {
    const writer = this.#server!.stdin.getWriter();
    await writer.write(new TextEncoder().encode(`${line}\n`));
    writer.releaseLock();
  }

  /** Kills the server, as `kill -9` does. */
  async kill(): Promise<void> {
    this.#server?.kill("SIGKILL");
    await this.#server?.stdin.close();
    await this.#server?.status;
    await this.#reading;
    this.#server = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.folder, { recursive: true });
  }

  #deno(args: string[], stdin: "null" | "piped"): Deno.Command {
    return new Deno.Command(Deno.execPath(), {
      args,
      cwd: this.folder,
      env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
      stdin,
      stdout: "piped",
      stderr: "piped",
    });
  }
}

/** The members of a page's globals in use: the repository is type-checked without the DOM. */
declare const document: {
  readonly body: { readonly textContent: string };
  querySelector(selector: string): DomElement | null;
  querySelectorAll(selector: string): Iterable<DomElement>;
};

interface DomElement {
  readonly textContent: string;
  readonly checked?: boolean;
  readonly onsubmit?: unknown;
  querySelector(selector: string): DomElement | null;
}

/** A background tab draws no frames, for which Puppeteer waits by default. */
export const WAIT = { timeout: PATIENCE_MS, polling: 50 };

/** Waits until the page's elements have these texts; a box is shown as ☐ or ☑. */
export async function lists(page: Page, selector: string, texts: readonly string[]): Promise<void> {
  const read = (selector: string) =>
    [...document.querySelectorAll(selector)].map((it) => {
      const box = it.querySelector("input[type=checkbox]");
      return (box === null ? "" : box.checked ? "☑ " : "☐ ") + it.textContent;
    });
  const found = `JSON.stringify((${read})(${JSON.stringify(selector)}))`;
  try {
    await page.waitForFunction(`${found} === ${JSON.stringify(JSON.stringify(texts))}`, WAIT);
  } catch (cause) {
    throw new Error(`The page has ${JSON.stringify(await page.evaluate(read, selector))}`, {
      cause,
    });
  }
}

/** Sends a text with the page's form. */
export async function add(page: Page, text: string): Promise<void> {
  await page.bringToFront();
  await page.waitForFunction(
    () => typeof document.querySelector("form")?.onsubmit === "function",
    WAIT,
  );
  await page.type("input:not([type])", text);
  await page.keyboard.press("Enter");
}

/** Checks or unchecks the first box of a list. */
export async function checkFirst(page: Page): Promise<void> {
  await press(page, "li input"); // The page draws its rows again at each change.
}

/** The response of the page on AI responses. */
export const STORY = "Once upon a time a cat met a fox, and both lived happily ever after.";

/** Waits until the page shows the start of the response. */
export async function hasBegun(page: Page): Promise<void> {
  await page.waitForFunction(() => document.body.textContent.includes("upon"), WAIT);
}

/** Waits until the page shows a text, and nothing else. */
export async function tells(page: Page, text: string): Promise<void> {
  try {
    await page.waitForFunction((text) => document.body.textContent.trim() === text, WAIT, text);
  } catch (cause) {
    const found = await page.evaluate(() => document.body.textContent);
    throw new Error(`The page has ${JSON.stringify(found)}`, { cause });
  }
}

export async function tabOf(context: Parameters<typeof newPage>[0], url: string): Promise<Page> {
  const page = await newPage(context);
  await page.goto(url);
  return page;
}

/** Waits until the browser's store has a row with a text; the client stores rows twice a second. */
export async function hasStored(page: Page, text: string): Promise<void> {
  await storeHas(page, `value.startsWith("[") && value.includes(${JSON.stringify(text)})`);
}

/** Waits until the page's store has a text: a page shows a change before that. */
export async function isKept(page: Page, text: string): Promise<void> {
  await storeHas(page, `value.includes(${JSON.stringify(text)})`);
}

/** Waits until a value in the page's store passes a test, which is an expression. */
async function storeHas(page: Page, test: string): Promise<void> {
  await page.waitForFunction(
    `(async () => {
      const settled = (request) => new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      for (const { name } of await indexedDB.databases()) {
        const database = await settled(indexedDB.open(name));
        try {
          for (const store of database.objectStoreNames) {
            const all = await settled(database.transaction(store).objectStore(store).getAll());
            const values = all.map((bytes) => new TextDecoder().decode(bytes));
            if (values.some((value) => ${test})) return true;
          }
        } finally {
          database.close();
        }
      }
      return false;
    })()`,
    WAIT,
  );
}
