/**
 * Starts the browsers, and the servers of examples, for browser tests.
 *
 * @module
 */
import { deadline } from "@std/async";
import puppeteer, { type Browser, type BrowserContext, type Page } from "npm:puppeteer-core@^25";
import { bundleClient } from "../../examples/shared/site.ts";
import { lowPort } from "../ports.ts";

export type { Browser, BrowserContext, Page };

/**
 * Longest wait for one event in a browser, in milliseconds. It names the event on a failure, and
 * does not bound the speed of a machine.
 */
export const PATIENCE_MS = 60_000;

/**
 * Longest duration of a test, in milliseconds: a stuck browser is closed shortly before the
 * deadline.
 */
const TEST_PATIENCE_MS = Number(Deno.env.get("TEST_DEADLINE_MS") ?? 180_000) - 5_000;

/** A browser for tests. */
export interface BrowserKind {
  /** Name of the browser. */
  readonly name: "Chromium" | "Firefox";
  /** Environment variable with the path of the browser. */
  readonly variable: string;
  /** Default paths. */
  readonly paths: readonly string[];
}

/** Chromium by the DevTools protocol, Firefox by WebDriver BiDi. */
export const BROWSERS: readonly BrowserKind[] = [
  {
    name: "Chromium",
    variable: "CHROME_BIN",
    paths: [
      "/usr/bin/chromium",
      "/usr/bin/chromium-browser",
      "/usr/bin/google-chrome",
      "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
      "C:/Program Files/Google/Chrome/Application/chrome.exe",
    ],
  },
  {
    name: "Firefox",
    variable: "FIREFOX_BIN",
    paths: [
      "/usr/bin/firefox-esr",
      "/usr/bin/firefox",
      "/Applications/Firefox.app/Contents/MacOS/firefox",
      "C:/Program Files/Mozilla Firefox/firefox.exe",
    ],
  },
];

const ARGS: Readonly<Record<BrowserKind["name"], readonly string[]>> = {
  Chromium: [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    // A camera and a microphone with a test picture, without a permission prompt.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
  ],
  Firefox: [],
};

/** The same camera and microphone in Firefox. */
const FIREFOX_PREFERENCES = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
};

/** Returns the path of a browser; `undefined` if not installed. */
export function findBrowser({ variable, paths }: BrowserKind): string | undefined {
  const named = Deno.env.get(variable);
  return named || paths.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

/** Returns true if a browser is Firefox. */
export function isFirefox(browser: Browser): boolean {
  return browser.process()!.spawnfile.includes("firefox");
}

/** Starts a headless browser, with further arguments. */
export async function launchBrowser(
  kind: BrowserKind,
  args: readonly string[] = [],
): Promise<Browser> {
  const executablePath = findBrowser(kind);
  if (executablePath === undefined) {
    throw new Error(`${kind.name} was not found; set ${kind.variable} to its path`);
  }
  return await puppeteer.launch({
    browser: kind.name === "Chromium" ? "chrome" : "firefox",
    executablePath,
    args: [...ARGS[kind.name], ...args],
    extraPrefsFirefox: FIREFOX_PREFERENCES,
    // Keeps the back/forward cache enabled, as in a user's browser.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
    headless: true,
    timeout: PATIENCE_MS,
    // Deno handles the signals.
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  });
}

/** Bundles by the URL of the module. */
const bundles = new Map<string, Promise<string>>();

/** Bundles a module for browsers, once for all tests of an isolate. */
export function bundleOf(module: URL): Promise<string> {
  const bundle = bundles.get(module.href) ?? bundleClient(module);
  bundles.set(module.href, bundle);
  return bundle;
}

/** The running browsers of this isolate's tests; starting one takes longer than most tests. */
const running = new Map<BrowserKind, Browser>();

let isEndPlanned = false;

/** Closes all browsers after the last test of an isolate. */
const endBrowsers = async () => {
  await Promise.all([...running.values()].map((browser) => browser.close()));
  running.clear();
};

/**
 * Passes the running browser of a kind to a test, or starts one. Pages and cookies of other tests
 * are removed.
 */
async function withBrowser(
  kind: BrowserKind,
  test: (browser: Browser) => Promise<void>,
): Promise<void> {
  let browser = running.get(kind);
  if (browser?.connected !== true) running.set(kind, browser = await launchBrowser(kind));
  try {
    await deadline(test(browser), TEST_PATIENCE_MS);
    await clear(browser);
  } catch (error) {
    running.delete(kind);
    await browser.close();
    throw error;
  }
}

/** Closes all pages but one empty page, and removes all cookies. */
async function clear(browser: Browser): Promise<void> {
  if (!browser.connected) return; // A test may close its browser.
  const context = browser.defaultBrowserContext();
  const pages = await context.pages();
  await context.newPage();
  await Promise.all(pages.map((page) => page.close()));
  const others = browser.browserContexts().filter((other) => other !== context);
  await Promise.all(others.map((other) => other.close()));
  await context.deleteCookie(...await context.cookies());
}

/**
 * Registers a test for each browser, or for some. The tests of an isolate share a browser, but no
 * page. If a browser is not installed, its test is skipped and renamed; with `CI=true` the missing
 * browser is a failure.
 */
export function testInBrowsers(
  name: string,
  test: (browser: Browser) => Promise<void>,
  kinds: readonly BrowserKind[] = BROWSERS,
): void {
  if (!isEndPlanned) Deno.test.afterAll(endBrowsers);
  isEndPlanned = true;
  for (const kind of kinds) {
    const isMissing = findBrowser(kind) === undefined && Deno.env.get("CI") !== "true";
    const reason = isMissing ? ` (skipped: not installed; set ${kind.variable} to its path)` : "";
    Deno.test({
      name: `${kind.name}: ${name}${reason}`,
      ignore: isMissing,
      // Puppeteer keeps the browser's process, pipes and timers until after the test.
      sanitizeOps: false,
      sanitizeResources: false,
      fn: () => withBrowser(kind, test),
    });
  }
}

/** The server of an example, in a separate process that a test can stop and restart. */
export class ChatProcess implements AsyncDisposable {
  /** The port, unchanged after a restart. */
  readonly port: number;
  readonly #example: string;
  readonly #args: readonly string[];
  #child: Deno.ChildProcess | undefined;

  private constructor(port: number, example: string, args: readonly string[]) {
    this.port = port;
    this.#example = example;
    this.#args = args;
  }

  /**
   * Starts the server of an example, by default the chat, on a free port; or another program of the
   * examples, such as `cluster/main.ts`.
   */
  static async start(example = "chat", args: readonly string[] = []): Promise<ChatProcess> {
    const chat = new ChatProcess(lowPort(), example, args);
    await chat.start();
    return chat;
  }

  /** URL of the server. */
  get url(): string {
    return `http://localhost:${this.port}`;
  }

  /** Starts the server; resolves once the server listens. */
  async start(): Promise<void> {
    const file = this.#example.endsWith(".ts") ? this.#example : `${this.#example}/server.ts`;
    const server = new URL(`../../examples/${file}`, import.meta.url);
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", server.href, "--port", String(this.port), ...this.#args],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const output = this.#child.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of output) {
      if (text.includes(`:${this.port} `) || text.includes(`:${this.port}/`)) return;
    }
    throw new Error("The server exited before it listened");
  }

  /** Freezes the server: incoming data stays unread. */
  freeze(): void {
    this.#child?.kill("SIGSTOP");
  }

  /** Stops the server, either gracefully as Ctrl-C does, or immediately. */
  async stop(signal: "SIGINT" | "SIGKILL"): Promise<void> {
    this.#child?.kill(signal);
    await this.#child?.status;
    this.#child = undefined;
  }

  /** Kills the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** Opens a page with long timeouts. */
export async function newPage(
  context: Pick<BrowserContext, "newPage">,
  options?: Parameters<BrowserContext["newPage"]>[0],
): Promise<Page> {
  const page = await context.newPage(options);
  page.setDefaultTimeout(PATIENCE_MS);
  return page;
}

/**
 * Sets the color scheme of a page. Reduced motion keeps half-finished animations out of pictures.
 */
export async function emulate(page: Page, colours: "light" | "dark"): Promise<void> {
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: colours },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
}

/** Returns the path of a picture. */
export function pathOf(folder: URL, name: string): `${string}.png` {
  return `${folder.pathname}${name}.png`;
}
