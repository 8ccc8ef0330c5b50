/**
 * Runs programs in processes of their own, which a test kills and starts again.
 *
 * @module
 */
import { until } from "../waiting.ts";

/** A program, which has at most one process at a time. */
export class KilledProgram implements AsyncDisposable {
  #child: Deno.ChildProcess | undefined;

  /**
   * Starts the process.
   *
   * @param args The arguments of Deno.
   * @param options Options of the process; by default, only its errors are shown.
   */
  protected spawn(args: readonly string[], options: Deno.CommandOptions = {}): Deno.ChildProcess {
    return this.#child = new Deno.Command(Deno.execPath(), {
      args: [...args],
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
      ...options,
    }).spawn();
  }

  /**
   * Starts the process; resolves once it prints that it is ready.
   *
   * @param program The program, without permission to write a lock file.
   * @param args Its arguments.
   */
  protected async startReady(program: URL, args: readonly string[]): Promise<void> {
    const child = this.spawn(
      ["run", "-A", "--no-lock", "--no-check", program.href, ...args],
      { stdout: "piped" },
    );
    const output = child.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of output) if (text.includes("ready")) return;
    throw new Error("The program exited before it listened");
  }

  /** Kills the process like `kill -9`. */
  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.status;
    this.#child = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/** Waits until something listens on a port of this machine. */
export async function untilListening(port: number): Promise<void> {
  await until(async () => {
    const connection = await Deno.connect({ port }).catch(() => undefined);
    connection?.close();
    return connection !== undefined;
  });
}
