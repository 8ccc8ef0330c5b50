/**
 * Ports for programs that need a given port, and for servers that restart on their port.
 *
 * @module
 */
import { cacheFolder } from "../../tools/launch.ts";

/**
 * These ports are below the ephemeral ports, and so is the bus port of a Redis Cluster, which is
 * 10,000 higher.
 */
const FIRST_PORT = 12_000;
const PORTS = 10_000;
const MOST_ATTEMPTS = 100;

/** A port is given out at most once in this time; no test takes longer. */
const CLAIM_MS = 3_600_000;

/** Options of {@linkcode lowPort}. */
export interface LowPortOptions {
  /** Distance to a second port that must be free. */
  readonly beside?: number;
}

/**
 * Finds a port below the ephemeral ports that is free on TCP and UDP. No other test or client in
 * any process receives it, even while a server restarts on it.
 *
 * @param options See {@linkcode LowPortOptions}.
 */
export function lowPort({ beside = 0 }: LowPortOptions = {}): number {
  for (let attempts = MOST_ATTEMPTS;; attempts--) {
    const port = FIRST_PORT + Math.floor(Math.random() * PORTS);
    if (!claim(port) || beside > 0 && !claim(port + beside)) continue;
    try {
      check(port);
      if (beside > 0) check(port + beside);
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse) || attempts <= 0) throw error;
    }
  }
}

/** Claims a port among all tests on this machine; returns false if another test is using it. */
function claim(port: number): boolean {
  const folder = `${cacheFolder() ?? "/tmp/skein"}/ports`;
  const file = `${folder}/${port}`;
  Deno.mkdirSync(folder, { recursive: true });
  try {
    Deno.openSync(file, { write: true, createNew: true }).close();
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  }
  const sinceMs = Deno.statSync(file).mtime?.getTime() ?? 0;
  if (Date.now() - sinceMs < CLAIM_MS) return false;
  const now = new Date();
  Deno.utimeSync(file, now, now);
  return true;
}

/** The part of the runtime's unstable API that binds a UDP socket. */
interface Datagrams {
  listenDatagram(options: Deno.TcpListenOptions & { readonly transport: "udp" }): {
    close(): void;
  };
}

/** Binds a port on TCP and UDP, and releases it. */
function check(port: number): void {
  const options = { hostname: "0.0.0.0", port };
  Deno.listen(options).close();
  (Deno as unknown as Datagrams).listenDatagram({ transport: "udp", ...options }).close();
}
