/**
 * Starts, kills and restarts the server against which the adapters for agents are tested.
 *
 * @module
 */
import { type Client, connect } from "../../../mod.ts";
import { Cable } from "../../networks/cable.ts";
import { lowPort } from "../../networks/ports.ts";
import { KilledProgram } from "../../programs/killed_program.ts";
import type { contract } from "./server.ts";

/** A server in a separate process, and a cable to it. */
export class AgentServer extends KilledProgram {
  readonly #port = lowPort();
  readonly #folder = Deno.makeTempDirSync();
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
    await this.startReady(new URL("./server.ts", import.meta.url), [
      `${this.#port}`,
      this.#folder,
    ]);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    await this.cable[Symbol.asyncDispose]();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** The text that the model writes for a number. */
export function counted(to: number): string {
  return Array.from({ length: to }, (_, i) => `${i} `).join("");
}
