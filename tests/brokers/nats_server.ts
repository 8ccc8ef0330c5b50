/**
 * Starts NATS servers on loopback for tests, using the installed system package.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { lowPort } from "../networks/ports.ts";
import { isMissing } from "./programs.ts";

/** The longest wait for a server's reply, in milliseconds. */
const PATIENCE_MS = 40_000;

const PROGRAM = "nats-server";

/** Options for {@linkcode NatsServer.start}. */
export interface NatsServerOptions {
  /**
   * Enables JetStream.
   *
   * @default {true}
   */
  readonly jetstream?: boolean;
  /** More settings, in the syntax of the configuration file. */
  readonly settings?: string;
  /** The port, which must be free; a free port by default. */
  readonly port?: number;
}

/**
 * True if NATS is not installed and its tests are skipped. In runs that require all tests, these
 * tests fail instead.
 */
export const isNatsMissing: boolean = await isMissing(PROGRAM, "NATS");

/** A server with a temporary folder, which is removed when the server is disposed of. */
export class NatsServer implements AsyncDisposable {
  readonly port: number;
  readonly folder: string;
  readonly #options: NatsServerOptions;
  #process: Deno.ChildProcess | undefined;

  private constructor(port: number, folder: string, options: NatsServerOptions) {
    this.port = port;
    this.folder = folder;
    this.#options = options;
  }

  static async start(options: NatsServerOptions = {}): Promise<NatsServer> {
    const folder = await Deno.makeTempDir({ prefix: "skein-nats-" });
    const server = new NatsServer(options.port ?? lowPort(), folder, options);
    await server.restart();
    return server;
  }

  /** The address of the server. */
  get servers(): string {
    return `127.0.0.1:${this.port}`;
  }

  get pid(): number {
    return this.#process!.pid;
  }

  /** Starts the process; resolves once the server replies. */
  async restart(options: NatsServerOptions = this.#options): Promise<void> {
    const file = await this.#configure(options);
    this.#process = new Deno.Command(PROGRAM, {
      args: ["-c", file],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await deadline(this.#answers(), PATIENCE_MS);
  }

  /**
   * Makes the running process load other settings; it closes connections that these no longer
   * permit.
   */
  async reload(options: NatsServerOptions): Promise<void> {
    await this.#configure(options);
    this.#process!.kill("SIGHUP");
  }

  /** Kills the process like `kill -9`. */
  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.status;
    this.#process = undefined;
  }

  /** Deletes JetStream's files while the server is stopped. */
  async forget(): Promise<void> {
    await Deno.remove(`${this.folder}/jetstream`, { recursive: true });
  }

  /** Copies JetStream's files to a backup while the server is stopped. */
  async backUp(): Promise<void> {
    await copyFolder(`${this.folder}/jetstream`, `${this.folder}/backup`);
  }

  /** Replaces JetStream's files with the backup while the server is stopped. */
  async restore(): Promise<void> {
    await this.forget();
    await copyFolder(`${this.folder}/backup`, `${this.folder}/jetstream`);
  }

  /** Pauses the process without closing connections. */
  freeze(): void {
    this.#process!.kill("SIGSTOP");
  }

  /** Resumes the process. */
  thaw(): void {
    this.#process!.kill("SIGCONT");
  }

  /** Stops the process, and removes the folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.folder, { recursive: true });
  }

  async #configure({ jetstream = true, settings = "" }: NatsServerOptions): Promise<string> {
    const file = `${this.folder}/nats.conf`;
    await Deno.writeTextFile(
      file,
      `host: "127.0.0.1"
       port: ${this.port}
       ${jetstream ? `jetstream { store_dir: "${this.folder}/jetstream" }` : ""}
       ${settings}`,
    );
    return file;
  }

  async #answers(): Promise<void> {
    while (true) {
      try {
        using connection = await Deno.connect({ hostname: "127.0.0.1", port: this.port });
        const bytes = new Uint8Array(5);
        if (await connection.read(bytes) === 5 && new TextDecoder().decode(bytes) === "INFO ") {
          return;
        }
      } catch (error) {
        if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
      }
      await delay(20);
    }
  }
}

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to);
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    if (isDirectory) await copyFolder(`${from}/${name}`, `${to}/${name}`);
    else await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
  }
}
