/**
 * Starts and kills nodes with Yjs documents.
 *
 * @module
 */
import { lowPort } from "../networks/ports.ts";

/** A node in a separate process. */
export class YjsNode implements AsyncDisposable {
  /** The port, which stays the same after a restart. */
  readonly port: number = lowPort();
  readonly #args: readonly string[];
  #child: Deno.ChildProcess | undefined;

  private constructor(args: readonly string[]) {
    this.#args = args;
  }

  /** Starts a node; resolves once it is listening. */
  static async start(
    { folder, broker }: { readonly folder: string; readonly broker: string },
  ): Promise<YjsNode> {
    const node = new YjsNode([folder, broker]);
    await node.restart();
    return node;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** Restarts the node after it was killed. */
  async restart(): Promise<void> {
    const program = new URL("./yjs_node.ts", import.meta.url).href;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--no-check", program, `${this.port}`, ...this.#args],
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const output = this.#child.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of output) if (text.includes("ready")) return;
    throw new Error("The node exited before it listened");
  }

  /** Kills the process. */
  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.status;
    this.#child = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
