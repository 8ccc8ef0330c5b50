/**
 * Processes for the soak test's servers and peers, and the limit on open files.
 *
 * @module
 */
import type { OverflowPolicy } from "../../../mod.ts";
import { TextLineStream } from "./lines.ts";
import type { ServerStats } from "../server.ts";

/** A server in a separate process. */
export class SoakServer implements AsyncDisposable {
  /** The port of the server. */
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

  /** Starts a server whose sessions use the given policy and heartbeat. */
  static async start(
    policy: OverflowPolicy = "close",
    heartbeatMs = 25_000,
  ): Promise<SoakServer> {
    const file = new URL("../server.ts", import.meta.url).href;
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
    if (value === undefined) throw new Error("Cannot start: the server exited");
    return new SoakServer(JSON.parse(value).port, process, lines);
  }

  /** Returns the server's report, after a garbage collection. */
  stats(): Promise<ServerStats> {
    return this.#ask("stats");
  }

  /** Drains the server, which stops listening. */
  drain(withinMs: number): Promise<{ closed: number; cut: number; tookMs: number }> {
    return this.#ask(`drain ${withinMs}`);
  }

  /**
   * Requests the report repeatedly until it is right or the time is up. Returns the last report.
   */
  async until(isRight: (stats: ServerStats) => boolean, withinMs: number): Promise<ServerStats> {
    const end = performance.now() + withinMs;
    while (true) {
      const stats = await this.stats();
      if (isRight(stats) || performance.now() > end) return stats;
      await sleep(100);
    }
  }

  /** Stops the process. */
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
    if (value === undefined) throw new Error(`Cannot request ${command}: the server exited`);
    return JSON.parse(value);
  }
}

/** Time that a process has to exit by itself, in milliseconds. */
const END_MS = 20_000;

/** A process that reads and writes lines of text. */
export class LineProcess implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #commands: WritableStreamDefaultWriter<Uint8Array>;

  /** Starts a program from its URL, with arguments. */
  constructor(program: string, ...args: string[]) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--unstable-net", "--v8-flags=--expose-gc"]
        .concat(program, args),
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream()).getReader();
    this.#commands = this.#process.stdin.getWriter();
  }

  /** Id of the process. */
  get pid(): number {
    return this.#process.pid;
  }

  /** Reads a line. */
  async line(): Promise<string> {
    const { value } = await this.#lines.read();
    if (value === undefined) throw new Error("The process exited");
    return value;
  }

  /** Writes a line, and reads the reply. */
  async ask<T>(command: string): Promise<T> {
    await this.#commands.write(new TextEncoder().encode(`${command}\n`));
    return JSON.parse(await this.line());
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Waits until the process exits. */
  async end(): Promise<Deno.CommandStatus> {
    await this.#commands.close().catch(() => {});
    const status = await this.#process.status;
    await this.#lines.cancel();
    return status;
  }

  /** Closes the process's input, which makes it exit. */
  async [Symbol.asyncDispose](): Promise<void> {
    const timer = setTimeout(() => this.kill("SIGKILL"), END_MS);
    await this.end();
    clearTimeout(timer);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * Returns the limit on open files of this process. JavaScript cannot read this limit, so the test
 * uses a shell.
 *
 * @returns The limit, or `Infinity` if it is unlimited or unknown.
 */
export async function openFileLimit(): Promise<number> {
  if (Deno.build.os === "windows") return Infinity;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", "ulimit -n"] }).output();
  return Number(new TextDecoder().decode(stdout)) || Infinity;
}
