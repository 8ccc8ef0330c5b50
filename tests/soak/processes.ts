/**
 * The soak test's servers and peers as processes, and the limit of open files.
 *
 * @module
 */
import type { OverflowPolicy } from "../../mod.ts";
import { TextLineStream } from "./lines.ts";
import type { ServerStats } from "./server.ts";

/** A server in a process of its own. */
export class SoakServer implements AsyncDisposable {
  /** Its port. */
  readonly port: number;
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #commands: WritableStreamDefaultWriter<Uint8Array>;

  private constructor(
    port: number,
    process: Deno.ChildProcess,
    lines: ReadableStreamDefaultReader<string>,
  ) {
    this.port = port;
    this.#process = process;
    this.#lines = lines;
    this.#commands = process.stdin.getWriter();
  }

  /** Starts a server whose sessions have this policy and this heartbeat. */
  static async start(
    policy: OverflowPolicy = "close",
    heartbeatMs = 25_000,
  ): Promise<SoakServer> {
    const file = new URL("./server.ts", import.meta.url).href;
    const process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--v8-flags=--expose-gc", file, policy, String(heartbeatMs)],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const lines = process.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(
      new TextLineStream(),
    ).getReader();
    const { value } = await lines.read();
    if (value === undefined) throw new Error("Cannot start: the server ended");
    return new SoakServer(JSON.parse(value).port, process, lines);
  }

  /** What the server tells of itself, after a garbage collection. */
  stats(): Promise<ServerStats> {
    return this.#ask("stats");
  }

  /** Drains the server; it does not listen any more then. */
  drain(withinMs: number): Promise<{ closed: number; cut: number; tookMs: number }> {
    return this.#ask(`drain ${withinMs}`);
  }

  /** Asks until an answer is right, or it took too long; returns the last one. */
  async until(isRight: (stats: ServerStats) => boolean, withinMs: number): Promise<ServerStats> {
    const end = performance.now() + withinMs;
    while (true) {
      const stats = await this.stats();
      if (isRight(stats) || performance.now() > end) return stats;
      await sleep(100);
    }
  }

  /** Ends the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#commands.close().catch(() => {});
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), 5_000);
    await this.#process.status;
    clearTimeout(timer);
    await this.#lines.cancel();
  }

  async #ask<T>(command: string): Promise<T> {
    await this.#commands.write(new TextEncoder().encode(`${command}\n`));
    const { value } = await this.#lines.read();
    if (value === undefined) throw new Error(`Cannot ask for ${command}: the server ended`);
    return JSON.parse(value);
  }
}

/** A process that talks in lines. */
export class LineProcess {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #commands: WritableStreamDefaultWriter<Uint8Array>;

  /** Starts it: a file of this folder, and what it is told. */
  constructor(file: string, ...args: string[]) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--unstable-net", "--v8-flags=--expose-gc"]
        .concat(new URL(file, import.meta.url).href, args),
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream()).getReader();
    this.#commands = this.#process.stdin.getWriter();
  }

  /** Its number. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Reads a line. */
  async line(): Promise<string> {
    const { value } = await this.#lines.read();
    if (value === undefined) throw new Error("The process ended");
    return value;
  }

  /** Says a line, and reads the answer. */
  async ask<T>(command: string): Promise<T> {
    await this.#commands.write(new TextEncoder().encode(`${command}\n`));
    return JSON.parse(await this.line());
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Waits for its end. */
  async end(): Promise<Deno.CommandStatus> {
    await this.#commands.close().catch(() => {});
    const status = await this.#process.status;
    await this.#lines.cancel();
    return status;
  }
}

/** Waits. */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * Finds out how many files this process may open. A process cannot raise its own
 * limit from JavaScript, so the test asks for a shell that does.
 *
 * @returns The limit; `Infinity` where there is none, or no way to ask.
 */
export async function openFileLimit(): Promise<number> {
  if (Deno.build.os === "windows") return Infinity;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", "ulimit -n"] }).output();
  return Number(new TextDecoder().decode(stdout)) || Infinity;
}
