/**
 * Runs Cloudflare's programs that send and receive a video: `moq-pub` reads fragmented MP4 from its
 * input, and `moq-sub` writes the same to its output.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { concat } from "../../../base/bytes.ts";
import { PATIENCE_MS, type Peer } from "../peers.ts";

/** One of the programs, in its own process. */
export class MoqMedia implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #output: ReadableStreamDefaultReader<Uint8Array>;
  readonly #log: Promise<string>;
  #received = new Uint8Array();

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#input = child.stdin.getWriter();
    this.#output = child.stdout.getReader();
    this.#log = new Response(child.stderr).text();
  }

  /** Starts a program for one broadcast of a relay. */
  static start(
    { command: [program, ...before] }: Peer,
    { url, name, options = [] }: {
      readonly url: string;
      readonly name: string;
      readonly options?: readonly string[];
    },
  ): MoqMedia {
    const common = ["--tls-disable-verify", "--bind", "127.0.0.1:0", "--name", name];
    const args = [...before, ...common, ...options, url];
    const env = { NO_COLOR: "1" };
    const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    return new MoqMedia(new Deno.Command(program!, { args, env, ...piped }).spawn());
  }

  /** Writes to the program's input. */
  async write(...parts: readonly Uint8Array<ArrayBuffer>[]): Promise<void> {
    for (const part of parts) await deadline(this.#input.write(part), PATIENCE_MS);
  }

  /** The output of the program, as far as it was read. */
  get received(): Uint8Array<ArrayBuffer> {
    return this.#received;
  }

  /** Reads the output of the program until it has a number of bytes. */
  async read(byteLength: number): Promise<void> {
    while (this.#received.byteLength < byteLength) {
      const { value, done } = await deadline(this.#output.read(), PATIENCE_MS);
      if (done) throw new Error(`The program ended:\n${await this.#log}`);
      this.#received = concat([this.#received, value]);
    }
  }

  /** Kills the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // The process has already ended.
    }
    await this.#child.status;
    // Nothing reads the input any longer.
    await this.#input.abort().catch(() => {});
    await this.#output.cancel();
    await this.#log;
  }
}
