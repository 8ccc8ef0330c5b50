/**
 * Reloads and kills pages that write all the time, kills their server, and lets users sign out and
 * in; then judges what arrived. Run it by hand for long:
 *
 * ```sh
 * deno run -A tools/launch.ts run -A --no-check tests/browser/offline/storm.ts \
 *   --browser=chromium --reloads=1000 --kills=200
 * ```
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { connect, serve, type Server } from "../../../mod.ts";
import { lowPort } from "../../networks/ports.ts";
import { TextLineStream } from "../../soak/processes/lines.ts";
import { until } from "../../waiting.ts";
import {
  type Browser,
  BROWSERS,
  bundleOf,
  isFirefox,
  launchBrowser,
  newPage,
  type Page,
} from "../browsers.ts";
import type {} from "../pages/outbox.ts";
import {
  judge,
  judgeCount,
  judgeRows,
  type Judgment,
  type PageLoad,
  type StateLoad,
} from "./ledger.ts";
import { DATA_FILE, type ServerData } from "./server.ts";

export interface StormOptions {
  readonly reloads: number;
  readonly kills: number;
  /** The kinds of writes; see `CALLS` in `pages/outbox.ts`. */
  readonly kinds: readonly string[];
  /**
   * Lets pages write to a state as well.
   *
   * @default {false}
   */
  readonly state?: boolean | undefined;
  /**
   * The users who sign in one after another in each tab, `null` for a guest.
   *
   * @default {["ann"]}
   */
  readonly users?: readonly (string | null)[] | undefined;
  /**
   * Number of tabs.
   *
   * @default {3}
   */
  readonly tabs?: number | undefined;
  /** The seed of the order of events. */
  readonly seed?: number | undefined;
  /** Reports progress. */
  readonly onProgress?: ((text: string) => void) | undefined;
}

/** A server is killed before each event with this probability. */
const SERVER_KILL = 1 / 8;

const PROGRAM = new URL("server.ts", import.meta.url);

const HTML = `<!doctype html><title>Page</title><script type="module" src="/page.js"></script>`;

/** A tab, and the user who is signed in there. */
interface Tab {
  page: Page;
  user: string | null;
}

/** Runs a storm, and judges it. */
export async function storm(browser: Browser, options: StormOptions): Promise<Judgment> {
  await using running = await Storm.start(browser, options);
  await running.run();
  return await running.finish();
}

class Storm implements AsyncDisposable {
  readonly #browser: Browser;
  readonly #options: StormOptions;
  readonly #site: Server;
  readonly #folder: string;
  readonly #port = lowPort();
  readonly #tabs: Tab[] = [];
  /** The last that is known of each load. */
  readonly #loads = new Map<string, PageLoad>();
  readonly #states = new Map<string, StateLoad & { readonly unknown: Set<number> }>();
  /** The notices about dropped writes. */
  readonly #drops = new Set<string>();
  readonly #errors = new Map<string, number>();
  readonly #faults: string[] = [];
  #server: Deno.ChildProcess | undefined;
  #serverKills = 0;
  #random: () => number;

  private constructor(browser: Browser, options: StormOptions, site: Server, folder: string) {
    this.#browser = browser;
    this.#options = options;
    this.#site = site;
    this.#folder = folder;
    let seed = options.seed ?? 1;
    this.#random = () => {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
      return seed / 2 ** 32;
    };
  }

  static async start(browser: Browser, options: StormOptions): Promise<Storm> {
    const script = await bundleOf(new URL("../pages/outbox.ts", import.meta.url));
    const site = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      fetch: ({ url }) =>
        new URL(url).pathname === "/page.js"
          ? new Response(script, { headers: { "content-type": "text/javascript" } })
          : new Response(HTML, { headers: { "content-type": "text/html" } }),
    });
    const made = new Storm(browser, options, site, await Deno.makeTempDir());
    await made.#startServer();
    for (let i = 0; i < (options.tabs ?? 3); i++) {
      const tab = { page: await newPage(browser), user: made.#users[0]! };
      made.#tabs.push(tab);
      await made.#load(tab);
    }
    return made;
  }

  /** Runs all events in a random order. */
  async run(): Promise<void> {
    const { reloads, kills, onProgress } = this.#options;
    let [reloadsLeft, killsLeft] = [reloads, kills];
    for (let event = 1; reloadsLeft + killsLeft > 0; event++) {
      if (this.#random() < SERVER_KILL) await this.#restartServer();
      const tab = this.#tabs[Math.floor(this.#random() * this.#tabs.length)]!;
      await new Promise((resolve) => setTimeout(resolve, this.#random() * 150));
      await this.#note(tab);
      const isReload = this.#random() * (reloadsLeft + killsLeft) < reloadsLeft;
      if (isReload) {
        reloadsLeft--;
        tab.user = this.#users[Math.floor(this.#random() * this.#users.length)]!;
        await this.#load(tab);
      } else {
        killsLeft--;
        await this.#kill(tab);
      }
      if (event % 50 === 0) onProgress?.(`${event} events, ${this.#serverKills} server kills`);
    }
  }

  /** Waits until everything that was kept has arrived, and judges. */
  async finish(): Promise<Judgment> {
    for (const { page } of this.#tabs) await page.evaluate(() => outboxPage.stop());
    for (const tab of this.#tabs) await this.#note(tab);
    for (const user of this.#users) {
      // The writes of another user wait until that user opens a page.
      const open = this.#tabs.find((tab) => tab.user === user);
      const tab: Tab = open ?? { page: await newPage(this.#browser), user };
      if (open === undefined) await this.#load(tab, true);
      const isDrained = async () => {
        const { 2: items = 0, 5: writes = 0 } = await tab.page.evaluate(() => outboxPage.kept());
        return items + writes === 0;
      };
      await until(isDrained).catch((error) => this.#faults.push(`${user}: ${error.message}`));
      await this.#note(tab);
      if (open === undefined) await tab.page.close();
    }
    for (const tab of this.#tabs) await this.#note(tab);
    const { onProgress } = this.#options;
    for (const [text, count] of this.#errors) onProgress?.(`${count} times: ${text}`);
    for (const text of this.#drops) onProgress?.(`Dropped: ${text}`);
    const { history, rows, added } = await this.#readData();
    const judgment = judge({
      loads: [...this.#loads.values()],
      ledger: (await Deno.readTextFile(`${this.#folder}/ledger`)).trim().split("\n")
        .map((line) => JSON.parse(line)),
      history,
      serverKills: this.#serverKills,
      pages: this.#tabs.length,
    });
    // The page that was killed may have made more writes than the test saw.
    const states = [...this.#states.values()].map((state) => ({ ...state, made: Infinity }));
    const faults = [
      ...this.#faults,
      ...judgment.faults,
      ...judgeRows(states, rows, this.#serverKills * this.#tabs.length),
      ...judgeCount(rows, added),
    ];
    if (this.#options.state) faults.push(...await this.#differences(rows));
    return { ...judgment, faults };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { page } of this.#tabs) await page.close().catch(() => {});
    await this.#stopServer();
    await this.#site.close();
    await Deno.remove(this.#folder, { recursive: true });
  }

  get #users(): readonly (string | null)[] {
    return this.#options.users ?? ["ann"];
  }

  /** Loads the page of a tab: again, or for another user. */
  async #load({ page, user }: Tab, isIdle = false): Promise<void> {
    const query = new URLSearchParams({
      server: `ws://127.0.0.1:${this.#port}/`,
      kinds: this.#options.kinds.join(),
      ...user === null ? {} : { user },
      ...isIdle ? { idle: "" } : {},
      ...this.#options.state ? { state: "" } : {},
    });
    const url = `${this.#site.url.replace("ws:", "http:").replace(/\/?$/, "/")}?${query}`;
    if (page.url() === url) await page.reload();
    else await page.goto(url);
    await page.waitForFunction(() => globalThis.outboxPage !== undefined, { polling: 10 });
  }

  /** Ends a tab's process without any event in the page, and opens a new tab. */
  async #kill(tab: Tab): Promise<void> {
    const { page } = tab;
    if (!isFirefox(this.#browser)) {
      const session = await page.createCDPSession();
      // The reply never comes.
      session.send("Page.crash").catch(() => {});
      await new Promise<void>((resolve) => page.once("error", () => resolve()));
    }
    tab.page = await newPage(this.#browser);
    await page.close();
    await this.#load(tab);
  }

  /** Remembers what a page knows. */
  async #note({ page, user }: Tab): Promise<void> {
    const { load, stored, dropped, errors, state } = await page.evaluate(() => {
      const { load, stored, dropped, errors, state } = outboxPage;
      return { load, stored, dropped, errors, state };
    });
    const unknown = this.#states.get(load)?.unknown ?? new Set();
    const failed = state.failed.filter((failure) => {
      const number = /^(\d+): unknown$/.exec(failure)?.[1];
      if (number !== undefined) unknown.add(Number(number));
      return number === undefined;
    });
    this.#states.set(load, { load, ...state, failed, unknown });
    const known = this.#loads.get(load);
    this.#loads.set(load, { load, user, stored, dropped: known?.dropped ?? new Map() });
    for (const error of errors) {
      const text = error.replace(/^\d+ /, "");
      this.#errors.set(text, (this.#errors.get(text) ?? 0) + 1);
    }
    for (const text of dropped) {
      const { kind, reason, data, error } = JSON.parse(text);
      this.#drops.add(`${kind} ${JSON.stringify(data)}: ${reason} ${error ?? ""}`);
      const of: unknown = this.#loads.get(data?.load)?.dropped;
      if (of instanceof Map) of.set(data.number, reason);
      const write = stateWriteIn(data);
      if (write === undefined) continue;
      if (reason === "unknown") this.#states.get(write.load)?.unknown.add(write.number);
      else this.#faults.push(`${write.load}: ${kind} ${write.number} was dropped: ${reason}`);
    }
  }

  async #startServer(): Promise<void> {
    const child = this.#server = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", PROGRAM.href, String(this.#port), this.#folder],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const lines = child.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream());
    for await (const line of lines.values({ preventCancel: true })) {
      if (line === "listening") return;
    }
    throw new Error("The server ended before it listened");
  }

  async #stopServer(): Promise<void> {
    this.#server?.kill("SIGKILL");
    await this.#server?.status;
    this.#server = undefined;
  }

  async #restartServer(): Promise<void> {
    this.#serverKills++;
    await this.#stopServer();
    // Some events happen while there is no server.
    const starting = new Promise((resolve) => setTimeout(resolve, this.#random() * 500));
    await starting;
    await this.#startServer();
  }

  async #readData(): Promise<ServerData> {
    await using client = connect(`ws://127.0.0.1:${this.#port}/`);
    await client.request("write data", null, { timeoutMs: 60_000 });
    return JSON.parse(await Deno.readTextFile(`${this.#folder}/${DATA_FILE}`));
  }

  /** Compares the rows that pages show with those of the server. */
  async #differences(rows: readonly string[]): Promise<string[]> {
    const faults: string[] = [];
    for (const [i, { page }] of this.#tabs.entries()) {
      const isEqual = async () =>
        JSON.stringify(await page.evaluate(() => outboxPage.rows())) === JSON.stringify(rows);
      await until(isEqual).catch(() =>
        faults.push(`tab ${i} shows other rows than the server has`)
      );
    }
    return faults;
  }
}

/** The write to the state that a dropped one was: the call of a mutation, or a change. */
function stateWriteIn(
  data: unknown,
): { readonly load: string; readonly number: number } | undefined {
  const { input, 0: change } = Object(data);
  const key: unknown = input?.key ?? change?.key;
  if (typeof key !== "string") return undefined;
  const [load, number] = key.split("/");
  const isDeletion = change !== undefined && change.value === undefined;
  return { load: load!, number: Number(number) + (isDeletion ? 1 : 0) };
}

if (import.meta.main) {
  const args = parseArgs(Deno.args);
  const option = (name: string, value: string) => String(args[name] ?? value);
  const name = option("browser", "chromium");
  const kind = BROWSERS.find((kind) => kind.name.toLowerCase() === name)!;
  const browser = await launchBrowser(kind);
  try {
    const startMs = performance.now();
    const judgment = await storm(browser, {
      reloads: Number(option("reloads", "1000")),
      kills: Number(option("kills", "200")),
      kinds: option("kinds", "message,history,once,request").split(","),
      users: option("users", "ann").split(",").map((user) => user === "guest" ? null : user),
      state: args.state === true,
      tabs: Number(option("tabs", "3")),
      seed: Number(option("seed", "1")),
      onProgress: (text) => console.log(text),
    });
    const seconds = Math.round((performance.now() - startMs) / 1_000);
    const { faults, ...counts } = judgment;
    console.log({ faults: faults.length, first: faults.slice(0, 50), ...counts, seconds });
    Deno.exitCode = judgment.faults.length === 0 ? 0 : 1;
  } finally {
    await browser.close();
  }
}
