/**
 * Starts the browsers, and the servers of examples, for browser tests.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { deadline } from "@std/async";
import puppeteer, {
  type Browser,
  type BrowserContext,
  type Page,
} from "npm:puppeteer-core@25.16.0";
import { bundleClient } from "../../examples/shared/site.ts";
import { lowPort } from "../networks/ports.ts";

export type { Browser, BrowserContext, Page };

/**
 * The longest wait for one event in a browser, in milliseconds. A test that fails after this wait
 * names the event. The wait is not a requirement on the machine's speed.
 */
export const PATIENCE_MS = 120_000;

/**
 * The longest duration of a test, in milliseconds. A stuck browser is closed shortly before the
 * test's deadline.
 */
const TEST_PATIENCE_MS = Number(Deno.env.get("TEST_DEADLINE_MS") ?? 180_000) - 5_000;

/** A browser for tests. */
export interface BrowserKind {
  /** The browser's name. */
  readonly name: "Chromium" | "Firefox";
  /** The environment variable with the browser's path. */
  readonly variable: string;
  /** The paths to try by default. */
  readonly paths: readonly string[];
}

/** Chromium over the DevTools protocol, and Firefox over WebDriver BiDi. */
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
    // A fake camera with a test picture and a fake microphone, without a permission prompt.
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

/** Returns the path of a browser; `undefined` if it is not installed. */
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

export function isFirefox(browser: Browser): boolean {
  return browser.process()!.spawnfile.includes("firefox");
}

/**
 * Starts a headless browser with additional arguments. In Firefox, settings take the place of most
 * arguments.
 */
export async function launchBrowser(
  kind: BrowserKind,
  args: readonly string[] = [],
  { preferences = {}, acceptInsecureCerts = false }: {
    readonly preferences?: Readonly<Record<string, unknown>>;
    readonly acceptInsecureCerts?: boolean;
  } = {},
): Promise<Browser> {
  const executablePath = findBrowser(kind);
  if (executablePath === undefined) {
    throw new Error(`${kind.name} was not found; set ${kind.variable} to its path`);
  }
  return await puppeteer.launch({
    browser: kind.name === "Chromium" ? "chrome" : "firefox",
    executablePath,
    args: [...ARGS[kind.name], ...args],
    extraPrefsFirefox: { ...FIREFOX_PREFERENCES, ...preferences },
    acceptInsecureCerts,
    // Keeps the back/forward cache enabled, as in a user's browser.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
    headless: true,
    timeout: PATIENCE_MS,
    protocolTimeout: TEST_PATIENCE_MS,
    // Deno handles the signals itself.
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  });
}

/** Bundles, keyed by the URL of the module. */
const bundles = new Map<string, Promise<string>>();

/** Bundles a module for browsers. Each isolate bundles a module once for all of its tests. */
export function bundleOf(module: URL): Promise<string> {
  const bundle = bundles.get(module.href) ?? bundleClient(module);
  bundles.set(module.href, bundle);
  return bundle;
}

/** The parts of the client by path, bundled once for all tests of an isolate. */
let clientParts: Promise<ReadonlyMap<string, string>> | undefined;

/**
 * Bundles the client with code splitting.
 *
 * @returns The code of each chunk by path: `/client.js`, and those that load late.
 */
export function clientInParts(): Promise<ReadonlyMap<string, string>> {
  return clientParts ??= bundleParts(new URL("../../client.ts", import.meta.url));
}

async function bundleParts(module: URL): Promise<ReadonlyMap<string, string>> {
  const folder = await Deno.makeTempDir();
  try {
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["bundle", "--quiet", "--platform", "browser", "--code-splitting"],
        ...["--outdir", folder, module.href],
      ],
      stdin: "null",
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    const parts = new Map<string, string>();
    for await (const { name } of Deno.readDir(folder)) {
      parts.set(`/${name}`, await Deno.readTextFile(`${folder}/${name}`));
    }
    return parts;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * The running browsers, which this isolate's tests share because starting a browser takes longer
 * than most tests.
 */
const running = new Map<BrowserKind, Browser>();

let isEndPlanned = false;

/** Closes all browsers after the last test of an isolate. */
const endBrowsers = async () => {
  await Promise.all([...running.values()].map((browser) => browser.close()));
  running.clear();
};

/**
 * Passes a running browser of a kind to a test; starts the browser if there is none. Pages and
 * cookies left by other tests are removed.
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
    assertNoViolations();
  } catch (error) {
    running.delete(kind);
    await browser.close();
    throw error;
  }
}

/** Closes all pages except one empty page, and removes all cookies. */
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
 * Registers a test for each browser, or for the given ones. The tests of an isolate share a
 * browser, but not its pages. If a browser is not installed, its test is skipped, and its title
 * says so. With `CI=true`, the test fails instead.
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
  /** The port, which stays the same after a restart. */
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
   * Starts the server of an example (the chat by default) or another program in the examples, such
   * as `cluster/main.ts`, on a free port.
   */
  static async start(example = "chat", args: readonly string[] = []): Promise<ChatProcess> {
    const chat = new ChatProcess(lowPort(), example, args);
    await chat.start();
    return chat;
  }

  /** The server's URL. */
  get url(): string {
    return `http://localhost:${this.port}`;
  }

  /** Starts the server; resolves once it is listening. */
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

  /** Freezes the server, which leaves incoming data unread. */
  freeze(): void {
    this.#child?.kill("SIGSTOP");
  }

  /** Stops the server, either gracefully like Ctrl-C or immediately. */
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

/** Violations of a page's Content-Security-Policy since the last check. */
let violations: string[] = [];

/** The members of the page's event in use here. */
interface Violation {
  readonly effectiveDirective: string;
  readonly blockedURI: string;
}

/** The page's global, in a function that runs in the page. */
declare const document: {
  addEventListener(type: string, listener: (event: Violation) => void): void;
};

/**
 * Clicks an element in the page itself. A click at a position could miss an element that the page
 * moves or draws again meanwhile.
 */
export async function press(page: Page, selector: string): Promise<void> {
  await page.evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
}

/**
 * Opens a page with long timeouts. A violation of its Content-Security-Policy fails the test; see
 * {@linkcode assertNoViolations}.
 */
export async function newPage(
  context: Pick<BrowserContext, "newPage">,
  options?: Parameters<BrowserContext["newPage"]>[0],
): Promise<Page> {
  const page = await context.newPage(options);
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("console", (message) => {
    const text = message.text();
    if (/content.security.policy/i.test(text)) violations.push(`${page.url()}: ${text}`);
  });
  // Firefox tells only the page.
  await page.evaluateOnNewDocument(() => {
    document.addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) => {
      console.error(`Content-Security-Policy forbids ${effectiveDirective}: ${blockedURI}`);
    });
  });
  return page;
}

/** Checks that no page has violated its Content-Security-Policy since the last check. */
export function assertNoViolations(): void {
  const found = violations;
  violations = [];
  assertEquals(found, []);
}

/**
 * Sets the color scheme of a page. It also enables reduced motion, which keeps half-finished
 * animations out of pictures.
 */
export async function emulate(page: Page, colors: "light" | "dark"): Promise<void> {
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: colors },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
}

/** Returns the path for a picture. */
export function pathOf(folder: URL, name: string): `${string}.png` {
  return `${folder.pathname}${name}.png`;
}
