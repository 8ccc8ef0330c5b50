/**
 * The program that the crash tests run: a server in its own process, which ends in the way that the
 * test chooses.
 *
 * The argument is a {@linkcode CrashConfig} in JSON. The program prints a line of JSON once the
 * server is listening.
 *
 * @module
 */
import type { CertificateHash } from "../../client.ts";
import { serve } from "../../mod.ts";
import { LiveTrack, MoqServer, TrackMux } from "../../moq/mod.ts";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { hardenedWebSocket } from "../../transport/hardened/mod.ts";

/** The server's settings. */
export interface CrashConfig {
  /** The server's port, which stays the same after a restart. */
  readonly port: number;
  /** Kind of server. */
  readonly kind: "default" | "hardened" | "moq";
  /** The database file of the histories. */
  readonly database: string;
  /** True if the process reads the way in which it ends from standard input. */
  readonly takesOrders: boolean;
}

/** The line that the server prints. */
export interface CrashReport {
  /** The name of this run, which is also the data of its publication. */
  readonly run: string;
  /** The hashes of the certificate, in hexadecimal. */
  readonly hashes: readonly string[];
}

/** The ways in which the process can end itself. */
const ENDS: Readonly<Record<string, () => void>> = {
  throw: () => {
    throw new Error("a bug of the application");
  },
  reject: () => void Promise.reject(new Error("a bug of the application")),
  "exit 0": () => Deno.exit(0),
  "exit 1": () => Deno.exit(1),
};

/**
 * Serves sessions, and publishes the name of this run on a topic whose history survives the
 * process.
 */
async function serveSessions(
  { port, kind, database }: CrashConfig,
  run: string,
): Promise<readonly CertificateHash[]> {
  const server = serve({
    port,
    hostname: "127.0.0.1",
    onListen() {},
    ...(kind === "moq" ? { features: [moqServer(run)] } : {}),
    broker: await SqliteBroker.open(database),
    history: { runs: {} },
    origins: ["*"],
    authorize: () => true,
    ...(kind === "hardened" ? { webSocket: hardenedWebSocket() } : {}),
  });
  await server.publish("runs", run);
  return server.certificateHashes;
}

/** Creates a MoQ server with one track, whose only frame is the name of this run. */
function moqServer(run: string): MoqServer {
  const live = new LiveTrack();
  const group = live.openGroup();
  group.writeFrame(new TextEncoder().encode(run));
  group.close();
  const mux = new TrackMux();
  mux.publish("/runs", (track) => live.serve(track));
  return new MoqServer({ mux, authorize: () => true });
}

async function takeOrder(): Promise<void> {
  let text = "";
  for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.endsWith("\n")) setTimeout(ENDS[text.trim()]!);
  }
}

if (import.meta.main) {
  const config: CrashConfig = JSON.parse(Deno.args[0]!);
  const run = crypto.randomUUID();
  const hashes = await serveSessions(config, run);
  const hex = hashes.map(({ value }) => new Uint8Array(value as ArrayBuffer).toHex());
  console.log(JSON.stringify({ run, hashes: hex } satisfies CrashReport));
  if (config.takesOrders) void takeOrder();
}
