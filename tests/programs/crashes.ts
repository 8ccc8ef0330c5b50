/**
 * Servers that crash in each way in which a process can end without a goodbye.
 *
 * @module
 */
import type { TransportName } from "../../transport/race/options.ts";
import type { CrashConfig, CrashReport } from "./crash_server.ts";
import { lowPort } from "../networks/ports.ts";
import { TextLineStream } from "../soak/processes/lines.ts";

/** The ways in which a server ends. After each of them except `--watch`, a new process starts. */
export const CRASHES = [
  "throw",
  "reject",
  "exit 0",
  "exit 1",
  "SIGTERM",
  "SIGKILL",
  "--watch",
] as const;

/** A way in which a server ends. */
export type Crash = typeof CRASHES[number];

/** A client of a server that crashes. */
export interface CrashClient {
  /** The name of the transport and of the server's engine. */
  readonly name: string;
  /** Kind of server. */
  readonly kind: CrashConfig["kind"];
  /** The only transport of the client. */
  readonly transport: TransportName;
}

/** The kinds of server for each transport. */
const KINDS: Readonly<Record<TransportName, Readonly<Record<string, CrashConfig["kind"]>>>> = {
  webtransport: { "WebTransport": "default" },
  websocket: {
    "WebSocket on Deno's engine": "default",
    "WebSocket on the hardened engine": "hardened",
  },
  http: { "HTTP": "default" },
};

/** Clients of sessions, on every transport. */
export const CRASH_CLIENTS: readonly CrashClient[] = Object.entries(KINDS).flatMap((
  [transport, kinds],
) =>
  Object.entries(kinds).map(([name, kind]) => ({
    name,
    kind,
    transport: transport as TransportName,
  }))
);

const PROGRAM = new URL("./crash_server.ts", import.meta.url).href;

/** A server in a separate process that crashes in one way and restarts on the same port. */
export class CrashingServer implements AsyncDisposable {
  readonly port: number = lowPort();
  readonly #way: Crash;
  readonly #options: Pick<CrashConfig, "kind">;
  readonly #folder: string = Deno.makeTempDirSync();
  #child: Deno.ChildProcess | undefined;
  #lines: ReadableStreamDefaultReader<string> | undefined;
  #errors: Promise<string> | undefined;

  private constructor(way: Crash, options: Pick<CrashConfig, "kind">) {
    this.#way = way;
    this.#options = options;
  }

  /** Starts a server; resolves once it is listening. */
  static async start(
    way: Crash,
    options: Pick<CrashConfig, "kind">,
  ): Promise<{ readonly server: CrashingServer; readonly report: CrashReport }> {
    await using stack = new AsyncDisposableStack();
    const server = stack.use(new CrashingServer(way, options));
    Deno.writeTextFileSync(server.#watched, "");
    const report = await server.#start();
    stack.move();
    return { server, report };
  }

  /** Crashes the server and starts the next one; resolves once the new server is listening. */
  async crash(): Promise<CrashReport> {
    const child = this.#child!;
    if (this.#way === "--watch") {
      // Changes only the modification time, which causes one event. A write causes two events, and
      // a busy watcher restarts after each of them.
      const now = new Date();
      await Deno.utime(this.#watched, now, now);
      return await this.#report();
    }
    if (this.#way === "SIGTERM" || this.#way === "SIGKILL") child.kill(this.#way);
    else await tell(child, this.#way);
    await this.#end();
    return await this.#start();
  }

  /** Kills the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child?.kill("SIGKILL");
    } catch {
      // The process has ended.
    }
    await this.#end();
    await Deno.remove(this.#folder, { recursive: true });
  }

  get #watched(): string {
    return `${this.#folder}/watched`;
  }

  async #start(): Promise<CrashReport> {
    const isWatched = this.#way === "--watch";
    const watch = isWatched ? [`--watch=${this.#watched}`, "--no-clear-screen"] : [];
    const config: CrashConfig = {
      ...this.#options,
      port: this.port,
      database: `${this.#folder}/histories.db`,
      takesOrders: !isWatched,
    };
    const child = this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", ...watch, PROGRAM, JSON.stringify(config)],
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped", // Contains the crash errors, and why a server does not start.
    }).spawn();
    this.#errors = child.stderr.text();
    this.#lines = child.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream()).getReader();
    return await this.#report();
  }

  async #report(): Promise<CrashReport> {
    const { value } = await this.#lines!.read();
    if (value === undefined) {
      const { code } = await this.#child!.status;
      throw new Error(
        `Cannot start server: the process ended, code ${code}: ${await this.#errors}`,
      );
    }
    return JSON.parse(value);
  }

  /** Waits until the process has ended, and releases its pipes. */
  async #end(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    await child.status;
    await this.#lines!.cancel();
    await this.#errors;
    await child.stdin.abort().catch(() => {});
  }
}

async function tell(child: Deno.ChildProcess, order: string): Promise<void> {
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(`${order}\n`));
  writer.releaseLock();
}
