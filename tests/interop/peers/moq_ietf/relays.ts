/**
 * Runs relays for the IETF's drafts of MoQ in their own processes, with a self-signed certificate
 * and on free ports.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { lowPort } from "../../../networks/ports.ts";
import { type CertificateFiles, PATIENCE_MS, type Peer } from "../../peers.ts";

/** The arguments of each relay. */
const ARGUMENTS: Readonly<
  Record<string, (port: number, files: CertificateFiles) => readonly string[]>
> = {
  "moq-relay-ietf": (port, { cert, key }) => [
    ...["--bind", `127.0.0.1:${port}`, "--tls-cert", cert, "--tls-key", key],
  ],
  "aiomoqt": (port, { cert, key }) => [
    ...["--bind", "127.0.0.1", "--port", `${port}`, "--cert", cert, "--key", key, "--quic"],
  ],
};

/** The line of a log after which the relay accepts connections. */
const LISTENING = /listening on|Starting MOQT server/;

/** A relay in its own process. */
export class DraftRelay implements AsyncDisposable {
  /** The port of raw QUIC and, as far as the relay has it, of WebTransport. */
  readonly port: number;
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<unknown>;

  private constructor(child: Deno.ChildProcess, port: number, output: Promise<unknown>) {
    this.#child = child;
    this.port = port;
    this.#output = output;
  }

  static async start(peer: Peer, files: CertificateFiles): Promise<DraftRelay> {
    const port = lowPort(); // The relays report no port.
    const child = peer.start(ARGUMENTS[peer.name]!(port, files), { NO_COLOR: "1" });
    const { promise, resolve } = Promise.withResolvers<void>();
    const output = Promise.all([readLog(child.stdout, resolve), readLog(child.stderr, resolve)]);
    const relay = new DraftRelay(child, port, output);
    try {
      const ended = output.then((logs) => {
        throw new Error(`The relay ended:\n${logs.join("\n")}`);
      });
      ended.catch(() => {}); // A relay that is killed later has ended, too.
      await deadline(Promise.race([promise, ended]), PATIENCE_MS);
      return relay;
    } catch (error) {
      await relay[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Kills the relay. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // The process has already ended.
    }
    await this.#child.status;
    await this.#output;
  }
}

/** Reads a log to its end, so that the relay never has to wait for a reader. */
async function readLog(log: ReadableStream<Uint8Array>, onListening: () => void): Promise<string> {
  let start = "";
  for await (const text of log.pipeThrough(new TextDecoderStream())) {
    if (start.length > 10_000) continue;
    start += text;
    if (LISTENING.test(start)) onListening();
  }
  return start;
}
