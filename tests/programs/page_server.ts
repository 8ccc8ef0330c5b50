/**
 * Runs the programs of pages in processes that a test kills.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { blocksOf } from "../docs/blocks.ts";
import { KilledProgram, untilListening } from "./killed_program.ts";

const ROOT = new URL("../../", import.meta.url);

/**
 * Reads the files of a page.
 *
 * @param page The path of the page, from the root of the repository.
 * @returns Their texts, by path.
 */
export async function pageBlocks(page: string): Promise<Map<string, string>> {
  const blocks = blocksOf(page, await Deno.readTextFile(new URL(page, ROOT)));
  return new Map(blocks.flatMap((it) => it.kind === "file" ? [[it.path, it.text]] : []));
}

/** Options of {@linkcode PageServer}. */
export interface PageServerOptions {
  /** The port on which the program listens. */
  readonly port: number;
  /** Further environment variables. */
  readonly env: Readonly<Record<string, string>>;
}

/** A server program, which uses the library of this repository. */
export class PageServer extends KilledProgram {
  readonly port: number;
  readonly #env: Readonly<Record<string, string>>;
  readonly #file: string;

  constructor(text: string, { port, env }: PageServerOptions) {
    super();
    this.port = port;
    this.#env = env;
    this.#file = Deno.makeTempFileSync({ suffix: ".ts" });
    Deno.writeTextFileSync(this.#file, text);
  }

  /** Starts the process; resolves once it listens. */
  async start(): Promise<void> {
    this.spawn(["run", "-A", "--no-check", "--quiet", "--config", "deno.json", this.#file], {
      cwd: fileURLToPath(ROOT),
      env: { NO_COLOR: "1", ...this.#env },
      stderr: "null",
    });
    await untilListening(this.port);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    await Deno.remove(this.#file);
  }
}
