/** Tests the templates of `skein new` as a user runs them, with the package of this checkout. */
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async";
import { connect, dial, SessionClosedError } from "../../mod.ts";
import { TEMPLATES } from "../../cli/templates/templates.ts";
import { openMirror } from "../../tools/mirror/mirror.ts";
import { openRegistry } from "../../tools/npm/registry.ts";
import {
  assertNoViolations,
  BROWSERS,
  findBrowser,
  launchBrowser,
  newPage,
  type Page,
  press,
} from "../browser/browsers.ts";
import { isKept } from "../browser/reader_site.ts";
import { lowPort } from "../networks/ports.ts";

const ROOT = new URL("../../", import.meta.url);

/** Opens a session as a page of an origin does; returns the close code of a rejection. */
async function visit(url: string, origin: string, token: string | null): Promise<number> {
  try {
    await using session = await dial(url, {
      transports: ["websocket"],
      headers: { origin },
      token,
    });
    return session.isClosed ? -1 : 0;
  } catch (error) {
    if (error instanceof SessionClosedError) return error.info!.code;
    throw error;
  }
}

/** Addresses of this machine that are not loopback. */
function ownAddresses(): string[] {
  return Deno.networkInterfaces().map(({ address }) => address).filter((address) =>
    /^\d+\./.test(address) && !address.startsWith("127.")
  );
}

/** Reads a process's errors: `listening` resolves with a server's line. */
function watch(process: Deno.ChildProcess) {
  const { promise: listening, resolve, reject } = Promise.withResolvers<void>();
  const read = async () => {
    let seen = "";
    for await (const part of process.stderr.pipeThrough(new TextDecoderStream())) {
      seen += part;
      if (seen.includes("Listening on")) resolve();
    }
    reject(new Error(`The server exited:\n${seen}`));
  };
  return { listening, end: read() };
}

/** Ends the use of a page, after its server has stopped. */
type Afterwards = () => Promise<void>;

/**
 * Starts a task that serves, and runs a function when the server listens. The function may return
 * another one to run after the server has stopped. Returns the output.
 */
async function whileServing(
  task: string,
  options: Pick<Deno.CommandOptions, "cwd" | "env">,
  use: () => Promise<Afterwards | void>,
): Promise<string> {
  const server = new Deno.Command(Deno.execPath(), {
    ...options,
    args: ["task", task],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { listening, end } = watch(server);
  const printed = new Response(server.stdout).text();
  let afterwards: Afterwards | void;
  try {
    await listening;
    afterwards = await use();
  } finally {
    server.kill("SIGINT");
    await Promise.all([server.status, end]);
  }
  await afterwards?.();
  return await printed;
}

/** Fetches a page's file; the server responds with 503 until Vite listens. */
async function get(url: string): Promise<string> {
  while (true) {
    const response = await fetch(url);
    const text = await response.text();
    if (response.status === 200) return text;
    assertEquals(response.status, 503, `${url}: ${text}`);
    await delay(50);
  }
}

/** Files that a page loads in development, starting with Vite's. */
const LOADED: Readonly<Record<string, readonly string[]>> = {
  "page/": ["page.js", "style.css"],
  "web/": ["main.tsx", "chat.tsx", "style.css"],
};

/** Two users on the page of the template `react`, in Chromium if it is installed. */
async function chat(url: string, addresses: readonly string[]): Promise<void> {
  const browser = await openBrowser();
  if (browser === undefined) return;
  // A background tab draws no frames, for which the browser would wait.
  const shows = (page: Page, what: string) => page.waitForFunction(what, { polling: 10 });
  try {
    const pages: Page[] = [];
    for (const [i, name] of ["Ann", "Ben"].entries()) {
      const page = await newPage(await browser.createBrowserContext());
      await page.goto(url.replace("localhost", (i > 0 && addresses[0]) || "localhost"));
      await page.waitForSelector("#name");
      await page.type("#name", name);
      await page.keyboard.press("Enter");
      pages.push(page);
    }
    for (const page of pages) {
      await shows(page, 'document.querySelectorAll("#people li").length === 2');
    }
    await pages[0]!.type("#form input", "Hello");
    await shows(pages[1]!, 'document.querySelector("#people i")'); // Ann is typing.
    await pages[0]!.keyboard.press("Enter");
    await shows(pages[1]!, 'document.querySelector("#lines li p")?.textContent === "Hello"');
  } finally {
    await browser.close();
  }
}

/** Starts Chromium, unless it is not installed. */
async function openBrowser() {
  const kind = BROWSERS[0]!;
  if (findBrowser(kind) === undefined && Deno.env.get("CI") !== "true") return undefined;
  return await launchBrowser(kind);
}

/** A user on the page of the template `chat`, who goes on when the server has stopped. */
async function talk(url: string): Promise<Afterwards | undefined> {
  const browser = await openBrowser();
  if (browser === undefined) return undefined;
  try {
    const page = await newPage(browser);
    const shows = (what: string) => page.waitForFunction(what, { polling: 10 });
    await page.goto(url);
    await page.waitForSelector("#welcome[open]");
    await page.type("#welcome input", "Ann");
    await page.keyboard.press("Enter");
    // The focus is in the message box.
    await shows('document.activeElement === document.querySelector("#form input")');
    await page.keyboard.type("Hello");
    await page.keyboard.press("Enter");
    const lines = '[...document.querySelectorAll("#lines li")]';
    await shows(
      `${lines}.map((line) => line.className + line.innerText.split("\\n").at(-1)).join() === "Hello"`,
    );
    await shows('document.querySelector("#people").textContent === "Ann"');
    return async () => {
      try {
        await shows('document.querySelector("#present").textContent === "Last known"');
        await page.waitForSelector("#people.stale");
        await page.keyboard.type("Are you there?");
        await page.keyboard.press("Enter");
        await shows(`${lines}.at(-1).className === "waiting"`);
        await shows(`${lines}.at(-1).querySelector("time").textContent === "waiting"`);
      } finally {
        await browser.close();
      }
    };
  } catch (error) {
    await browser.close();
    throw error;
  }
}

/** A conversation on the page of the template `ai`, on two devices. */
async function converse(url: string): Promise<void> {
  const browser = await openBrowser();
  if (browser === undefined) return;
  const shows = (page: Page, what: string) => page.waitForFunction(what, { polling: 10 });
  const answer = 'document.querySelector(".answer")';
  try {
    const open = async (url: string) => {
      const page = await newPage(await browser.createBrowserContext());
      await page.goto(url);
      return page;
    };
    const near = await open(url);
    await shows(near, "location.hash.length > 20");
    await near.type("#form input", "Why?");
    await near.keyboard.press("Enter");
    const far = await open(near.url());
    await shows(far, 'document.querySelector(".question")?.textContent === "Why?"');
    await shows(far, `${answer}?.textContent.includes("asked")`);
    await press(far, "#stop"); // The answer above the button grows meanwhile.
    for (const page of [far, near]) {
      await shows(page, `${answer}.querySelector("small")?.textContent === "Stopped"`);
    }
    await near.reload();
    await shows(near, `${answer}?.querySelector("small")?.textContent === "Stopped"`);
    await shows(near, 'document.querySelector("#stop").hidden');
  } finally {
    await browser.close();
  }
}

/** Two users on the page of the template `board`, one of whom drags a card. */
async function plan(url: string): Promise<void> {
  const browser = await openBrowser();
  if (browser === undefined) return;
  const shows = (page: Page, list: number, text: string) =>
    page.waitForFunction(
      `[...document.querySelectorAll("section:nth-child(${list}) li textarea")]` +
        `.map((input) => input.value).join() === "${text}"`,
      { polling: 10 },
    );
  try {
    const [ann, ben] = await Promise.all(["Ann", "Ben"].map(async (name) => {
      const page = await newPage(await browser.createBrowserContext());
      await page.goto(url);
      await page.waitForSelector("#welcome[open]");
      await page.type("#welcome input", name);
      await page.keyboard.press("Enter");
      await page.waitForFunction('document.querySelector("#people").textContent === "Ann, Ben"', {
        polling: 10,
      });
      return page;
    })) as [Page, Page];
    for (const text of ["Write", "Test"]) {
      await ann.type("section:nth-child(1) form input", text);
      await ann.keyboard.press("Enter");
    }
    await shows(ben, 1, "Write,Test");
    const placeOf = async (selector: string) => {
      const { x, y, width, height } = (await (await ben.$(selector))!.boundingBox())!;
      return [x + width / 2, y + height / 2] as const;
    };
    await ben.mouse.move(...await placeOf("li .grip"));
    await ben.mouse.down();
    await ben.mouse.move(...await placeOf("section:nth-child(3) ol"), { steps: 5 });
    await ben.mouse.up();
    await shows(ann, 3, "Write");
    await ann.focus("section:nth-child(1) .grip");
    await ann.keyboard.press("ArrowRight");
    await shows(ben, 2, "Test");
    await ann.keyboard.press("ArrowRight");
    await shows(ben, 3, "Test,Write");
    await ann.keyboard.press("ArrowDown");
    await shows(ben, 3, "Write,Test");
    const long = "long ".repeat(39).trim();
    await ann.type("section:nth-child(2) form input", long);
    await ann.keyboard.press("Enter");
    await shows(ben, 2, long);
    const hidden = await ben.$eval("section:nth-child(2) li textarea", (element) => {
      const { scrollHeight, clientHeight } = element as unknown as Record<string, number>;
      return scrollHeight! - clientHeight!;
    });
    assertEquals(hidden, 0);
    // A card needs a text, so an emptied one gets its text back.
    await ben.click("section:nth-child(2) li textarea", { count: 3 });
    await ben.keyboard.press("Backspace");
    await shows(ben, 2, "");
    await ben.keyboard.press("Enter");
    await shows(ben, 2, long);
    await ben.waitForFunction('/at least one/.test(document.querySelector("#news").textContent)', {
      polling: 10,
    });
  } finally {
    await browser.close();
  }
}

/** A visitor of a built page, who opens it again when the server has stopped. */
async function comeBack(url: string): Promise<Afterwards | undefined> {
  const browser = await openBrowser();
  if (browser === undefined) return undefined;
  const page = await newPage(browser);
  const shows = (what: string) => page.waitForFunction(what, { polling: 10 });
  try {
    await page.goto(url);
    await shows('document.querySelector("#name, #welcome[open]")');
    await page.type("#name, #welcome input", "Ann");
    await page.keyboard.press("Enter");
    await shows('document.querySelector("#status.good")');
    await shows("navigator.serviceWorker.controller");
    return async () => {
      try {
        await page.reload();
        await shows('/lost|connecting again/.test(document.querySelector("#status")?.textContent)');
        const input = await page.waitForSelector("#form input, #board form input");
        await input!.type("Later");
        await page.keyboard.press("Enter");
        await shows("/wait/.test(document.body.innerText)");
        await isKept(page, "Later");
        await page.reload();
        await shows("/that wait here for the server: 1/.test(document.body.innerText)");
      } finally {
        await browser.close();
      }
    };
  } catch (error) {
    await browser.close();
    throw error;
  }
}

/** A reader of the page of the template `minimal`, who publishes. */
async function publishNews(url: string): Promise<void> {
  const browser = await openBrowser();
  if (browser === undefined) return;
  try {
    const page = await newPage(browser);
    const shows = (what: string) => page.waitForFunction(what, { polling: 10 });
    await page.goto(url);
    await shows('document.querySelector("#greeting").textContent.startsWith("Hello, visitor!")');
    await using other = connect(url);
    await other.publish("news:today", null); // Without a title.
    await page.type("input", "It works");
    await page.keyboard.press("Enter");
    await shows('document.querySelector("#news").textContent === "UntitledIt works"');
  } finally {
    await browser.close();
  }
}

/** A player on the page of the template `game`, also on a phone, whose screen the field fills. */
async function play(url: string): Promise<void> {
  const browser = await openBrowser();
  if (browser === undefined) return;
  try {
    const page = await newPage(browser);
    await page.evaluateOnNewDocument(`
      const { stringify } = JSON;
      JSON.stringify = (value) => {
        if ("n" in Object(value)) globalThis.steered = value.x;
        return stringify(value);
      };
    `);
    await page.goto(url);
    await page.waitForFunction('document.querySelector("#points li") !== null', { polling: 10 });
    await page.keyboard.down("ArrowRight");
    await page.waitForFunction("steered === 1", { polling: 10 });
    // The user holds the key while another window opens.
    await page.evaluate('dispatchEvent(new Event("blur"))');
    await page.waitForFunction("steered === 0", { polling: 10 });
    await page.keyboard.up("ArrowRight");
    await page.setViewport({ width: 390, height: 844 });
    await page.waitForFunction("document.querySelector('#field').clientHeight > 844 * 0.6", {
      polling: 10,
    });
  } finally {
    await browser.close();
  }
}

/** Starts a backend that allows everything, and returns the environment of a server that asks it. */
function openBackend() {
  const options = { port: 0, hostname: "127.0.0.1", onListen() {} };
  const backend = Deno.serve(options, () => Response.json({ allow: true }));
  const env = {
    BACKEND_URL: `http://127.0.0.1:${backend.addr.port}/`,
    HOOKS_SECRET: `whsec_${new Uint8Array(32).toBase64()}`,
    API_KEY: crypto.randomUUID(),
  };
  return { env, [Symbol.asyncDispose]: () => backend.shutdown() };
}

for (const [name, { page }] of Object.entries(TEMPLATES)) {
  Deno.test(`A project from the template ${name} is clean, passes its tests, and serves`, async () => {
    await using mirror = await openMirror({ checkout: ROOT });
    await using registry = await openRegistry({ checkout: ROOT });
    await using backend = openBackend();
    const folder = await Deno.makeTempDir({ prefix: "template-" });
    const port = lowPort();
    const base = `http://localhost:${port}`;
    const options = {
      cwd: `${folder}/app`,
      env: { ...backend.env, JSR_URL: mirror.url, NO_COLOR: "1", PORT: String(port) },
    };
    const deno = async (...args: string[]) => {
      const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        ...options,
        args,
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assert(success, `deno ${args.join(" ")}:\n${text}`);
    };
    try {
      await Deno.mkdir(options.cwd);
      await deno("run", "-A", "--no-lock", "jsr:@skein/skein/cli", "new", ".", "-t", name);
      // Deno reads a scope's registry only here.
      await Deno.copyFile(registry.env["NPM_CONFIG_USERCONFIG"]!, `${options.cwd}/.npmrc`);
      await deno("fmt", "--check");
      await deno("lint");
      await deno("check");
      await deno("task", "test");
      const isReact = page?.folder === "web/";
      // The model of the template `ai` waits for its reader.
      const env = { ...options.env, PACE_MS: "1000" };
      const printed = await whileServing("dev", { ...options, env }, async () => {
        await get(base);
        for (const file of LOADED[page?.folder ?? ""] ?? []) {
          assert((await get(`${base}/${file}`)).length > 500, file);
        }
        for (const address of ownAddresses()) {
          const origin = `http://${address}:${port}`;
          const token = name === "chat" || name === "board" || isReact ? "Ann" : null;
          assertEquals(await visit(origin, origin, token), 0);
          assertEquals(await visit(origin, "http://evil.example", token), 4403);
        }
        if (isReact) await chat(base, ownAddresses());
        if (name === "board") await plan(base);
        if (name === "ai") await converse(base);
        if (name === "game") await play(base);
        if (name === "minimal") await publishNews(base);
        return name === "chat" ? await talk(base) : undefined;
      });
      const lines = printed.split("\n");
      for (const address of ownAddresses()) {
        assert(lines.includes(`In your network: http://${address}:${port}/`), lines.join("\n"));
      }
      if (isReact) await whileServing("start", options, () => chat(base, []));
      if (isReact || name === "board") await whileServing("start", options, () => comeBack(base));
      assertNoViolations();
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
