/**
 * Starts and kills nodes with Yjs documents.
 *
 * @module
 */
import { lowPort } from "../networks/ports.ts";
import { KilledProgram } from "../programs/killed_program.ts";

/** A node in a separate process. */
export class YjsNode extends KilledProgram {
  /** The port, which stays the same after a restart. */
  readonly port: number = lowPort();
  readonly #args: readonly string[];

  private constructor(args: readonly string[]) {
    super();
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
    await this.startReady(new URL("./yjs_node.ts", import.meta.url), [
      `${this.port}`,
      ...this.#args,
    ]);
  }
}
