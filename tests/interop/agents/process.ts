/**
 * Starts, kills and restarts the server of the tests of adapters for agents.
 *
 * @module
 */
import { type Client, connect } from "../../../mod.ts";
import { Cable } from "../../networks/cable.ts";
import { lowPort } from "../../networks/ports.ts";
import type { contract } from "./server.ts";

/** A server in a separate process, and a cable to it. */
export class AgentServer implements AsyncDisposable {
  readonly #port = lowPort();
  readonly #folder = Deno.makeTempDirSync();
  #child: Deno.ChildProcess | undefined;
  /** The path of all clients; {@linkcode Cable.cut} ends their connections. */
  readonly cable: Cable = new Cable(this.#port);

  /** Starts a server; resolves once it is listening. */
  static async start(): Promise<AgentServer> {
    const server = new AgentServer();
    await server.restart();
    return server;
  }

  /** The address for HTTP. */
  url(path: string): string {
    return new URL(path, this.cable.url.replace("ws:", "http:")).href;
  }

  /** Connects a device of a user. */
  connect(user: string): Client<typeof contract> {
    return connect<typeof contract>(this.cable.url, {
      token: user,
      transports: ["websocket"],
      backoff: { maxDelayMs: 50 },
    });
  }

  /** Starts the server again after it was killed. */
  async restart(): Promise<void> {
    const program = new URL("./server.ts", import.meta.url).href;
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-lock", "--no-check", program, `${this.#port}`, this.#folder],
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const output = this.#child.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of output) if (text.includes("ready")) return;
    throw new Error("The server exited before it listened");
  }

  /** Kills the process. */
  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.status;
    this.#child = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await this.cable[Symbol.asyncDispose]();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** The text that the model writes for a number. */
export function counted(to: number): string {
  return Array.from({ length: to }, (_, i) => `${i} `).join("");
}
