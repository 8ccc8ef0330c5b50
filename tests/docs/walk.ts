/**
 * Walks through pages of the documentation as a reader does: with files, commands and output.
 *
 * A walk runs the blocks that {@linkcode blocksOf} lists. The reader's machine is a temporary folder
 * with these substitutions:
 *
 * - **Packages:** `jsr:@skein/skein` is this checkout, served by `tools/mirror/mirror.ts`, and
 *   `@skein/client` on npm is built from this checkout and served by `tools/npm/registry.ts`.
 * - **Ports:** numbers from 8000 to 8099 in a block, and numbers in the option `ports`, are
 *   replaced with free ports, which are the same for all pages of a walk.
 * - **Folders:** a `cd` in a block applies to all later blocks, including `file` blocks.
 * - **Processes:** a background block runs until the end of the page. A block with the same text as
 *   an earlier block restarts its process: the earlier process is stopped first.
 *
 * @module
 */
import { openMirror } from "../../tools/mirror/mirror.ts";
import { openRegistry } from "../../tools/npm/registry.ts";
import { lowPort } from "../networks/ports.ts";
import { type Block, blocksOf, missingLine } from "./blocks.ts";

/**
 * Longest time of a `run` block, and of a background process until its expected lines, in
 * milliseconds.
 */
const PATIENCE_MS = 120_000;

/** Time between an interrupt and the kill of a background process, in milliseconds. */
const GRACE_MS = 5_000;

const ROOT = new URL("../../", import.meta.url);

/** The ports used in pages. */
const PORT = /\b80\d\d\b/g;

/** A page that is being walked, for a function that inspects its processes. */
export interface Walked {
  /** The reader's current folder. */
  readonly folder: string;
  /**
   * Returns the port that replaces a number in the page.
   *
   * @param number The number, such as 8000.
   */
  port(number: number): number;
  /**
   * Returns the output of the background block that includes a text, since its last start.
   *
   * @param command A part of the block.
   */
  outputOf(command: string): string;
  /**
   * Stops the processes of the background block that includes a text, as Ctrl-C does.
   *
   * @param command A part of the block.
   */
  stop(command: string): Promise<void>;
  /**
   * Restarts a background block, and waits as at the first start.
   *
   * @param command A part of the block.
   */
  restart(command: string): Promise<void>;
}

/** Options of {@linkcode walk}. */
export interface WalkOptions {
  /** Further environment variables. */
  readonly env?: Readonly<Record<string, string>>;
  /** Programs of the reader, from name to path, which precede this machine's programs. */
  readonly programs?: Readonly<Record<string, string>>;
  /** Numbers other than 8000 to 8099 that stand for ports, such as 6379. */
  readonly ports?: readonly number[];
  /**
   * Functions that run after a page, while its background processes still run, keyed by the page's
   * path. They may, for example, look at a page in a browser. The test of such a page has no
   * sanitizers, because a browser keeps processes and timers until after it is closed.
   */
  readonly then?: Readonly<Record<string, (walked: Walked) => Promise<void>>>;
  /** If `true`, the walk is ignored, because a program is missing. */
  readonly ignore?: boolean;
}

/**
 * Registers a test for each page. All pages share one folder, so each page continues where the
 * previous one ended. If a page fails, all later pages fail immediately.
 *
 * @param pages Paths from the root of the repository, or URLs.
 * @param options See {@linkcode WalkOptions}.
 */
export function walk(pages: readonly string[], options: WalkOptions = {}): void {
  const reader = new Reader(options);
  for (const page of pages) {
    const isSanitized = options.then?.[page] === undefined;
    Deno.test({
      name: `walk() through ${page}`,
      ignore: options.ignore ?? false,
      sanitizeOps: isSanitized,
      sanitizeResources: isSanitized,
      fn: () => reader.read(page),
    });
  }
}

/** A reader with a folder, who walks pages one after the other. */
class Reader {
  readonly #options: WalkOptions;
  readonly #ports = new Map<number, number>();
  #home: string | undefined;
  #folder = "";
  #failed: string | undefined;

  constructor(options: WalkOptions) {
    this.#options = options;
  }

  async read(page: string): Promise<void> {
    if (this.#failed !== undefined) {
      throw new Error(`Cannot walk ${page}: the walk through ${this.#failed} failed`);
    }
    this.#failed = page;
    const text = this.#withPorts(await Deno.readTextFile(new URL(page, ROOT)));
    const env = await this.#prepare();
    await using mirror = await openMirror({ checkout: ROOT });
    await using registry = await openRegistry({ checkout: ROOT });
    await using background = new Background(page);
    for (const block of blocksOf(page, text)) {
      const where = `${page}:${block.line}`;
      await this.#execute(
        block,
        where,
        { ...env, JSR_URL: mirror.url, ...registry.env },
        background,
      );
    }
    await this.#options.then?.[page]?.({
      folder: this.#folder,
      port: (number) => this.#portFor(number),
      outputOf: (command) => background.find(this.#withPorts(command)).output,
      stop: (command) => background.find(this.#withPorts(command)).end(),
      restart: (command) => background.restart(this.#withPorts(command)),
    });
    this.#failed = undefined;
  }

  /** Creates the folder, and adds the running Deno and other programs to the path. */
  async #prepare(): Promise<Record<string, string>> {
    if (this.#home === undefined) {
      this.#home = await Deno.makeTempDir({ prefix: "walk-" });
      this.#folder = `${this.#home}/work`;
      await Deno.mkdir(this.#folder);
      await Deno.mkdir(`${this.#home}/bin`);
      const programs = { deno: Deno.execPath(), ...this.#options.programs };
      for (const [name, path] of Object.entries(programs)) {
        await Deno.symlink(path, `${this.#home}/bin/${name}`);
      }
    }
    return {
      DENO_NO_UPDATE_CHECK: "1",
      NO_COLOR: "1",
      PATH: `${this.#home}/bin:${Deno.env.get("PATH")}`,
      ...this.#options.env,
    };
  }

  async #execute(
    block: Block,
    where: string,
    env: Record<string, string>,
    background: Background,
  ): Promise<void> {
    if (block.kind === "file") {
      const path = `${this.#folder}/${block.path}`;
      await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(path, block.text);
    } else if (block.kind === "background") {
      await background.start(block, where, { cwd: this.#folder, env });
    } else {
      const memory = `${this.#home}/folder`;
      // All output in one stream, in the order that a terminal shows.
      const script = `exec 2>&1\n${block.text}\npwd >'${memory}'\n`;
      const { success, stdout } = await new Deno.Command("sh", {
        args: ["-e", "-c", script],
        cwd: this.#folder,
        env,
        stdin: "null",
        stderr: "null",
        signal: AbortSignal.timeout(PATIENCE_MS),
      }).output();
      const output = new TextDecoder().decode(stdout);
      if (!success) throw new Error(`${where} a command failed:\n${block.text}\n${output}`);
      const missing = missingLine(output, block.output);
      if (missing !== undefined) throw new Error(`${where} no line "${missing}" in:\n${output}`);
      this.#folder = (await Deno.readTextFile(memory)).trimEnd();
    }
  }

  #withPorts(text: string): string {
    const others = this.#options.ports ?? [];
    return others.reduce(
      (changed, port) => changed.replaceAll(new RegExp(`\\b${port}\\b`, "g"), this.#numberFor),
      text.replace(PORT, this.#numberFor),
    );
  }

  readonly #numberFor = (number: string): string => `${this.#portFor(Number(number))}`;

  /** A port that was free when its number first occurred. */
  #portFor(number: number): number {
    let port = this.#ports.get(number);
    if (port === undefined) {
      port = lowPort();
      this.#ports.set(number, port);
    }
    return port;
  }
}

/** The background processes of a page, which stop with the page. */
class Background implements AsyncDisposable {
  readonly #page: string;
  readonly #started: Process[] = [];

  constructor(page: string) {
    this.#page = page;
  }

  async start(
    block: Block & { readonly kind: "background" },
    where: string,
    options: { readonly cwd: string; readonly env: Record<string, string> },
  ): Promise<void> {
    const earlier = this.#started.findIndex((process) => process.block.text === block.text);
    if (earlier !== -1) await this.#started.splice(earlier, 1)[0]!.end();
    const process = new Process(block, where, options);
    this.#started.push(process);
    await process.isUp();
  }

  /** Returns the last process of a block that includes a text. */
  find(command: string): Process {
    const process = this.#started.findLast(({ block }) => block.text.includes(command));
    if (process === undefined) {
      throw new Error(`Cannot find a process: ${this.#page} starts no "${command}"`);
    }
    return process;
  }

  async restart(command: string): Promise<void> {
    const { block, where, options } = this.find(command);
    await this.start(block, where, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#started.map((process) => process.end()));
  }
}

/** A shell with its child processes, and all output. */
class Process {
  readonly block: Block & { readonly kind: "background" };
  readonly where: string;
  readonly options: { readonly cwd: string; readonly env: Record<string, string> };
  output = "";
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;
  #isOver = false;
  #wake: PromiseWithResolvers<void> = Promise.withResolvers();

  constructor(block: Process["block"], where: string, options: Process["options"]) {
    this.block = block;
    this.where = where;
    this.options = options;
    this.#child = new Deno.Command("sh", {
      args: ["-e", "-c", `exec 2>&1\n${block.text}`],
      ...options,
      stdin: "null",
      stdout: "piped",
      stderr: "null",
      // A separate process group, so that one signal reaches the children of the shell.
      detached: true,
    }).spawn();
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      this.output += text;
      this.#signal();
    }
    this.#isOver = true;
    this.#signal();
  }

  #signal(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  /** Waits until the process has printed the expected lines. */
  async isUp(): Promise<void> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.#signal();
    }, PATIENCE_MS);
    try {
      for (let fault = this.#fault(); fault !== undefined; fault = this.#fault()) {
        if (isLate || this.#isOver) throw new Error(`${this.where} ${fault} in:\n${this.output}`);
        await this.#wake.promise;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #fault(): string | undefined {
    const { until, output } = this.block;
    if (until !== undefined && !this.output.includes(until)) return `no "${until}"`;
    if (this.output === "") return "no line";
    const missing = missingLine(this.output, output);
    return missing === undefined ? undefined : `no line "${missing}"`;
  }

  async end(): Promise<void> {
    this.#kill("SIGINT");
    const timer = setTimeout(() => this.#kill("SIGKILL"), GRACE_MS);
    await this.#child.status;
    clearTimeout(timer);
    this.#kill("SIGKILL"); // Children of a shell that has exited.
    await this.#reading;
  }

  #kill(signal: Deno.Signal): void {
    try {
      Deno.kill(-this.#child.pid, signal);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}
