/**
 * Makes the moving picture of the README: two windows of its chat, whose server is killed and started
 * again.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/restart.ts    # docs/restart.gif
 * ```
 *
 * @module
 */
import gifenc from "npm:gifenc@1.0.3";
import { PNG } from "npm:pngjs@7.0.0";
import { Buffer } from "node:buffer";
import { BROWSERS, launchBrowser, type Page } from "../browsers.ts";
import { blocksOf } from "../../docs/blocks.ts";
import { openMirror } from "../../../tools/mirror/mirror.ts";
import { lowPort } from "../../networks/ports.ts";
import { TextLineStream } from "../../soak/processes/lines.ts";
import { until } from "../../waiting.ts";

const ROOT = new URL("../../../", import.meta.url);
const PICTURE = new URL("docs/restart.gif", ROOT);
const SIZE = { width: 720, height: 352 } as const;
const KEY_MS = 60;

/** Two frames with the page, and a terminal in which the user starts and kills the server. */
const HTML = `<!doctype html><style>
  body { margin: 0; background: #dfe3e8; font: 15px system-ui, sans-serif; }
  main { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; padding: 12px; }
  iframe { width: 100%; height: 170px; border: 0; border-radius: 8px; background: #fff; }
  pre { grid-column: span 2; margin: 0; height: 112px; padding: 12px; border-radius: 8px;
    background: #16181d; color: #e6e8ec; font: 14px/1.5 ui-monospace, monospace; }
</style><main><iframe name="one"></iframe><iframe name="two"></iframe><pre></pre></main>`;

interface Dom {
  textContent: string;
  src: string;
}
declare const document: { querySelector(selector: string): Dom };

/** The chat in a folder, and its server. */
class Chat implements AsyncDisposable {
  readonly #folder: string;
  readonly #jsrUrl: string;
  readonly port = lowPort();
  #server: Deno.ChildProcess | undefined;

  private constructor(folder: string, jsrUrl: string) {
    this.#folder = folder;
    this.#jsrUrl = jsrUrl;
  }

  /** Writes the files of the README, and runs its commands. */
  static async make(jsrUrl: string): Promise<Chat> {
    const chat = new Chat(await Deno.makeTempDir(), jsrUrl);
    const readme = await Deno.readTextFile(new URL("README.md", ROOT));
    for (const block of blocksOf("README.md", readme)) {
      if (block.kind === "file") {
        const text = block.text.replace("port: 8000", `port: ${chat.port}`);
        await Deno.writeTextFile(`${chat.#folder}/${block.path}`, text);
      } else if (block.kind === "run" && block.text.includes("bundle")) {
        await new Deno.Command("sh", {
          args: ["-e", "-c", block.text],
          cwd: chat.#folder,
          env: { JSR_URL: jsrUrl },
        }).output();
      }
    }
    return chat;
  }

  async start(): Promise<void> {
    this.#server = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "server.ts"],
      cwd: this.#folder,
      env: { NO_COLOR: "1", JSR_URL: this.#jsrUrl },
      stderr: "piped",
    }).spawn();
    const lines = this.#server.stderr.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream());
    for await (const line of lines.values({ preventCancel: true })) {
      if (line.includes("Listening")) return;
    }
    throw new Error("The server of the chat ended before it listened");
  }

  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    server?.kill("SIGKILL");
    await server?.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** The picture, frame by frame. */
class Film {
  readonly #page: Page;
  readonly #gif = gifenc.GIFEncoder();
  #terminal = "";

  constructor(page: Page) {
    this.#page = page;
  }

  /** Adds what the page shows now, for a time in milliseconds. */
  async shoot(delay: number): Promise<void> {
    const png = PNG.sync.read(Buffer.from(await this.#page.screenshot()));
    const palette = gifenc.quantize(png.data, 64);
    const pixels = gifenc.applyPalette(png.data, palette);
    this.#gif.writeFrame(pixels, png.width, png.height, { palette, delay });
  }

  /** Types a message into a window, and sends it. */
  async say(window: "one" | "two", text: string): Promise<void> {
    const frame = this.#page.frames().find((frame) => frame.name() === window)!;
    for (const letter of text) {
      await frame.type("input", letter);
      await this.shoot(KEY_MS);
    }
    await frame.click("button");
  }

  /** Waits until both windows have a message. */
  async haveBoth(text: string): Promise<void> {
    for (const frame of this.#page.frames().filter((frame) => frame.name() !== "")) {
      await until(() =>
        frame.evaluate((text) => document.querySelector("pre").textContent.includes(text), text)
      );
    }
    await this.shoot(900);
  }

  /** Adds text to the terminal. */
  async print(text: string, delay = 700): Promise<void> {
    this.#terminal += text;
    await this.#page.evaluate((text) => {
      document.querySelector("body > main > pre").textContent = text;
    }, this.#terminal);
    await this.shoot(delay);
  }

  bytes(): Uint8Array {
    this.#gif.finish();
    return this.#gif.bytes();
  }
}

if (import.meta.main) {
  await using mirror = await openMirror({ checkout: ROOT });
  await using chat = await Chat.make(mirror.url);
  await using browser = await launchBrowser(BROWSERS[0]!);
  await chat.start();
  const page = await browser.newPage();
  await page.setViewport(SIZE);
  await page.setContent(HTML);
  await page.evaluate((url) => {
    for (const name of ["one", "two"]) document.querySelector(`[name=${name}]`).src = url;
  }, `http://localhost:${chat.port}/`);
  for (const name of ["one", "two"]) {
    const handle = await page.waitForSelector(`[name=${name}]`);
    await (await handle!.contentFrame())!.waitForSelector("input");
  }
  const film = new Film(page);
  await film.print("$ deno run -A server.ts\nListening\n");
  await film.say("one", "Is the demo up?");
  await film.haveBoth("Is the demo up?");
  await film.say("two", "Yes. Kill it!");
  await film.haveBoth("Kill it!");
  await chat.kill();
  await film.print("Killed\n$ ", 1_200);
  await film.say("one", "Still there?");
  await film.say("two", "I write on");
  await film.shoot(1_500);
  await film.print("deno run -A server.ts\n");
  await chat.start();
  await film.print("Listening\n", 200);
  await film.haveBoth("Still there?");
  await film.haveBoth("I write on");
  await film.shoot(3_000);
  await Deno.writeFile(PICTURE, film.bytes());
}
