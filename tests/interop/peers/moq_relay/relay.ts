/**
 * Runs moq-relay for the interop tests, with a self-signed certificate and on free ports. The relay
 * forwards each published broadcast to all subscribers.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { type CertificateFiles, PATIENCE_MS, type Peer } from "../../peers.ts";

/** A relay in its own process. */
export class Relay implements AsyncDisposable {
  /** The port for raw QUIC and for WebTransport. */
  readonly quicPort: number;
  /** The port for WebSocket. */
  readonly webPort: number;
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<void>;

  private constructor(child: Deno.ChildProcess, ports: Ports, output: Promise<void>) {
    this.#child = child;
    this.#output = output;
    this.quicPort = ports.quic;
    this.webPort = ports.http;
  }

  /** Starts a relay on free ports or on the given ports. Clients need no token. */
  static async start(
    peer: Peer,
    { cert, key }: CertificateFiles,
    { quicPort = 0, webPort = 0 }: { readonly quicPort?: number; readonly webPort?: number } = {},
  ): Promise<Relay> {
    const child = peer.start([
      ...["--listen", `127.0.0.1:${quicPort}`, "--web-http-listen", `127.0.0.1:${webPort}`],
      ...["--listen-tls-cert", cert, "--listen-tls-key", key, "--auth-public", "**"],
      // Time to wait for clients after GOAWAY; without this option, the relay may send no GOAWAY.
      ...["--drain-timeout", "5s"],
    ]);
    const { promise, resolve, reject } = Promise.withResolvers<Ports>();
    const output = Promise.all([
      readPorts(child.stderr, resolve, reject),
      child.stdout.pipeTo(new WritableStream()),
    ]).then(() => {});
    try {
      return new Relay(child, await deadline(promise, PATIENCE_MS), output);
    } catch (error) {
      await end(child, output);
      throw error;
    }
  }

  /** Sends SIGTERM; the relay ends once all clients have left. */
  terminate(): void {
    this.#child.kill("SIGTERM");
  }

  /** Kills the relay. */
  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#child, this.#output);
  }
}

interface Ports {
  readonly quic: number;
  readonly http: number;
}

/** The relay's log names the ports. */
const LISTENING = /listening addr=\S+:(\d+) kind="(quic|http)"/;

/** Escape sequences, which color the log. */
// deno-lint-ignore no-control-regex
const COLORS = /\x1b\[\d*m/g;

/** Reads the log to its end, so that the relay never has to wait for a reader. */
async function readPorts(
  stderr: ReadableStream<Uint8Array>,
  resolve: (ports: Ports) => void,
  reject: (error: Error) => void,
): Promise<void> {
  const ports: Partial<Record<string, number>> = {};
  let [log, rest] = ["", ""];
  for await (const text of stderr.pipeThrough(new TextDecoderStream())) {
    const { quic, http } = ports;
    if (quic !== undefined && http !== undefined) continue;
    const lines = (rest + text.replaceAll(COLORS, "")).split("\n");
    rest = lines.pop()!;
    log += text;
    for (const line of lines) {
      const [, port, kind] = line.match(LISTENING) ?? [];
      if (kind !== undefined) ports[kind] = Number(port);
    }
    if (ports.quic !== undefined && ports.http !== undefined) {
      resolve({ quic: ports.quic, http: ports.http });
    }
  }
  reject(new Error(`The relay ended:\n${log}`));
}

async function end(child: Deno.ChildProcess, output: Promise<void>): Promise<void> {
  try {
    child.kill("SIGKILL");
  } catch {
    // The process has already ended.
  }
  await child.status;
  await output;
}
