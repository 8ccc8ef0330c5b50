/**
 * Runs moq-relay for the interop tests, self-signed and on free ports: what is published at it, it
 * passes on to all who subscribe.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { type CertificateFiles, PATIENCE_MS, type Peer } from "../../peers.ts";

/** A relay, in a process of its own. */
export class Relay implements AsyncDisposable {
  /** The port of QUIC, raw and under WebTransport. */
  readonly quicPort: number;
  /** The port of WebSocket. */
  readonly webPort: number;
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<void>;

  private constructor(child: Deno.ChildProcess, ports: Ports, output: Promise<void>) {
    this.#child = child;
    this.#output = output;
    this.quicPort = ports.quic;
    this.webPort = ports.http;
  }

  /** Starts it, on free ports or in the place of another; whoever knows its address may do everything. */
  static async start(
    peer: Peer,
    { cert, key }: CertificateFiles,
    before?: { readonly quicPort: number; readonly webPort: number },
  ): Promise<Relay> {
    const { quicPort = 0, webPort = 0 } = before ?? {};
    const child = peer.start([
      ...["--listen", `127.0.0.1:${quicPort}`, "--web-http-listen", `127.0.0.1:${webPort}`],
      ...["--listen-tls-cert", cert, "--listen-tls-key", key, "--auth-public", "**"],
      // How long it waits for clients that it asked to leave; without it, it may ask nobody.
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

  /** Asks it to end, which it does once its clients have left. */
  terminate(): void {
    this.#child.kill("SIGTERM");
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#child, this.#output);
  }
}

interface Ports {
  readonly quic: number;
  readonly http: number;
}

/** Its log tells where it listens. */
const LISTENING = /listening addr=\S+:(\d+) kind="(quic|http)"/;

/** Escape sequences, by which its log has colors. */
// deno-lint-ignore no-control-regex
const COLORS = /\x1b\[\d*m/g;

/** Reads the log to its end, so that it never has to wait. */
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
    // It has ended by itself.
  }
  await child.status;
  await output;
}
