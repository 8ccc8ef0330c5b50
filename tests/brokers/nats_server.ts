/**
 * NATS servers for tests: that of the distribution, started on loopback.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { isMissing } from "./programs.ts";

/** How long a server may take to answer, in milliseconds. */
const PATIENCE_MS = 40_000;

const PROGRAM = "nats-server";

/** Options for {@linkcode NatsServer.start}. */
export interface NatsServerOptions {
  /**
   * Whether it has JetStream.
   *
   * @default {true}
   */
  readonly jetstream?: boolean;
  /** Further settings, as they stand in its file. */
  readonly settings?: string;
  /** The port, of which nobody else may be; a free one, if left out. */
  readonly port?: number;
}

/** Whether tests without NATS are left out; where all must run, they fail in place of that. */
export const isNatsMissing: boolean = await isMissing(PROGRAM, "NATS");

/** A server, with a folder of its own that goes with it. */
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

  /** Starts one. */
  static async start(options: NatsServerOptions = {}): Promise<NatsServer> {
    const folder = await Deno.makeTempDir({ prefix: "skein-nats-" });
    const server = new NatsServer(options.port ?? freePort(), folder, options);
    await server.restart();
    return server;
  }

  /** Where it is. */
  get servers(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** The process. */
  get pid(): number {
    return this.#process!.pid;
  }

  /** Starts the process; once it resolves, the server answers. */
  async restart(options: NatsServerOptions = this.#options): Promise<void> {
    const { jetstream = true, settings = "" } = options;
    const file = `${this.folder}/nats.conf`;
    await Deno.writeTextFile(
      file,
      `host: "127.0.0.1"
       port: ${this.port}
       ${jetstream ? `jetstream { store_dir: "${this.folder}/jetstream" }` : ""}
       ${settings}`,
    );
    this.#process = new Deno.Command(PROGRAM, {
      args: ["-c", file],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await deadline(this.#answers(), PATIENCE_MS);
  }

  /** Ends the process as `kill -9` does. */
  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.status;
    this.#process = undefined;
  }

  /** Forgets what JetStream has on the disk, while the server does not run. */
  async forget(): Promise<void> {
    await Deno.remove(`${this.folder}/jetstream`, { recursive: true });
  }

  /** Stops the process where it stands, without closing anything. */
  freeze(): void {
    this.#process!.kill("SIGSTOP");
  }

  /** Lets it go on. */
  thaw(): void {
    this.#process!.kill("SIGCONT");
  }

  /** Ends the process, and removes its folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.folder, { recursive: true });
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

/** A port that nobody listens on. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}
