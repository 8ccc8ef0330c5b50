/** WebTransport checks: UDP, the QUIC handshake, and a session. */
import * as dgram from "node:dgram";
import { isIP } from "node:net";
import type { Runtime } from "../../base/runtime.ts";
import { UnsupportedError } from "../../errors.ts";
import { isConnectionRefused, isNoCommonProtocol } from "../../transport/deno_errors.ts";
import { isQuicAvailable } from "../../transport/quic/deno_quic.ts";
import {
  locateWebTransport,
  type WebTransportPlace,
} from "../../transport/race/webtransport_leg.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import { textOf } from "../../base/error_text.ts";
import { type CheckList, Fault } from "./check.ts";
import type { Target } from "./network.ts";
import { checkHello } from "./websocket.ts";

/** Size of the probe, in bytes. Servers ignore smaller packets with an unknown version. */
const PROBE_BYTES = 1_200;

/** Interval of probes, in milliseconds, because packets get lost. */
const PROBE_INTERVAL_MS = 400;

/**
 * A version that no server supports. Every server responds to it with its own versions (RFC 9000,
 * 15).
 */
const UNKNOWN_VERSION = [0x0a, 0x1a, 0x2a, 0x3a];

/** Names of QUIC versions. */
const VERSIONS: Readonly<Record<string, string>> = { "00000001": "1", "6b3343cf": "2" };

/** Options for {@linkcode checkWebTransport}. */
export interface WebTransportCheckOptions {
  /** URL as the user gave it. */
  readonly url: URL;
  /** Certificates to trust, by hash. */
  readonly hashes: readonly CertificateHash[] | undefined;
  /** Token of the session. */
  readonly token: string | undefined;
  /** Addresses of the server. */
  readonly addresses: readonly string[];
}

/** Runs all WebTransport checks. */
export async function checkWebTransport(
  list: CheckList,
  target: Target,
  { url, hashes, token, addresses }: WebTransportCheckOptions,
): Promise<void> {
  const place = await locate(list, target, { url, hashes });
  if (place === undefined) return skipWebTransport(list, "no endpoint to try");
  const port = Number(place.url.port || 443);
  await checkUdp(list, addresses, port);
  if (!isQuicAvailable()) {
    const why = "Deno has QUIC only with --unstable-net: run deno run -A --unstable-net …";
    list.skip("webtransport.quic", "QUIC", why);
    list.skip("webtransport.session", "Session", why);
    return;
  }
  if (list.stateOf("webtransport.udp") === "failed") {
    list.skip("webtransport.quic", "QUIC", "UDP does not work");
    list.skip("webtransport.session", "Session", "UDP does not work");
    return;
  }
  await checkQuic(list, place);
  if (list.stateOf("webtransport.quic") === "failed") {
    list.skip("webtransport.session", "Session", "the handshake failed");
    return;
  }
  await checkHello(list, {
    id: "webtransport.session",
    title: "Session",
    transport: "webtransport",
    token,
    url,
    headers: target.headers,
    hashes,
    describe: ({ connection }) => ({ datagrams: `${connection.datagrams.maxDatagramSize} B` }),
  });
}

/** Adds WebTransport checks that cannot run. */
export function skipWebTransport(list: CheckList, why: string): void {
  list.skip("webtransport.udp", "UDP", why);
  list.skip("webtransport.quic", "QUIC", why);
  list.skip("webtransport.session", "Session", why);
}

async function locate(
  list: CheckList,
  { isSecure }: Target,
  { url, hashes }: Pick<WebTransportCheckOptions, "url" | "hashes">,
): Promise<WebTransportPlace | undefined> {
  return await list.run<WebTransportPlace>(
    { id: "webtransport.endpoint", title: "Endpoint" },
    async (signal) => {
      const { runtime } = list;
      const place = await locateWebTransport(url, { runtime, hashes, signal }).catch((error) => {
        if (!(error instanceof UnsupportedError)) throw error;
        const isPlain = error.message.includes("plain HTTP");
        throw new Fault({
          detail: isPlain ? "the URL has no TLS" : "the server announces none",
          cause: isPlain
            ? "WebTransport always uses TLS, but the URL is plain HTTP"
            : "The server is not a Skein server, runs without --unstable-net, or has webTransport: false",
          cure: isPlain
            ? "Use https: with a certificate"
            : "Start a Skein server with deno run --unstable-net, and without webTransport: false",
        });
      });
      const by = isSecure
        ? "the same host and port as TCP"
        : hashes === undefined
        ? "announced by the server"
        : "by the given hashes";
      return {
        state: "ok",
        detail: `${place.url.host}, ${by}`,
        facts: {
          url: place.url.origin,
          sha256: place.hashes?.map(({ value }) => new Uint8Array(value as ArrayBuffer).toHex()),
        },
        value: place,
      };
    },
  );
}

async function checkUdp(
  list: CheckList,
  addresses: readonly string[],
  port: number,
): Promise<void> {
  const isLocal = addresses.every((address) => /^(?:127\.|::1$)/.test(address));
  const silence = {
    cause: isLocal
      ? `No QUIC server listens on UDP port ${port}`
      : `A firewall drops UDP to port ${port}, or no QUIC server listens there: both look the same`,
    cure: isLocal
      ? "Start the server with --unstable-net, and check its WebTransport port"
      : `Open UDP port ${port} in addition to TCP: firewall, security group, container (-p ${port}:${port}/udp), load balancer; an HTTP proxy does not forward UDP`,
  };
  await list.run({ id: "webtransport.udp", title: "UDP", late: silence }, async (signal) => {
    const { runtime } = list;
    const startMs = runtime.monotonic();
    const probes = addresses.map((address) => probeQuic(runtime, { address, port, signal }));
    const { address, versions } = await Promise.any(probes).catch((error: AggregateError) => {
      signal.throwIfAborted();
      const [first] = error.errors as (Error & { code?: string })[];
      throw new Fault({ detail: first?.message ?? "UDP failed", ...silence });
    });
    const ms = Math.round((runtime.monotonic() - startMs) * 10) / 10;
    return {
      state: "ok",
      detail: `${address} port ${port} responds in ${ms} ms, QUIC version ${
        versions.includes("1") ? 1 : versions.join(", ")
      }`,
      facts: { address, port, versions },
    };
  });
}

/**
 * Sends packets with a QUIC version that does not exist. Every QUIC server responds with its own
 * versions, whatever its certificate and protocols are.
 */
async function probeQuic(
  runtime: Runtime,
  { address, port, signal }: {
    readonly address: string;
    readonly port: number;
    readonly signal: AbortSignal;
  },
): Promise<{ readonly address: string; readonly versions: readonly string[] }> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<readonly string[]>();
  const socket = dgram.createSocket(isIP(address) === 6 ? "udp6" : "udp4");
  const id = crypto.getRandomValues(new Uint8Array(8));
  const probe = new Uint8Array(PROBE_BYTES);
  // The packet has a long header, a version, a destination id of 8 bytes, and a source id of 8
  // bytes.
  probe.set([0xc0, ...UNKNOWN_VERSION, 8, ...id, 8, ...id]);
  let timer: ReturnType<Runtime["setTimeout"]> | undefined;
  const send = () => {
    socket.send(probe, port, address, (error) => error && reject(error));
    timer = runtime.setTimeout(send, PROBE_INTERVAL_MS);
  };
  const onAbort = () => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  socket.on("error", reject);
  socket.on("message", (packet: Uint8Array) => {
    const versions = versionsOf(packet);
    if (versions !== undefined) resolve(versions);
  });
  try {
    send();
    return { address, versions: await promise };
  } finally {
    runtime.clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    socket.close();
  }
}

/**
 * Reads a version negotiation packet (RFC 9000, 17.2.1).
 *
 * @returns The versions, except reserved ones; `undefined` if it is a packet of another type.
 */
export function versionsOf(packet: Uint8Array): readonly string[] | undefined {
  if (packet.length < 7 || (packet[0]! & 0x80) === 0) return undefined;
  if (packet.subarray(1, 5).some((byte) => byte !== 0)) return undefined;
  let at = 5;
  for (let i = 0; i < 2; i++) at += 1 + (packet[at] ?? 0);
  const versions: string[] = [];
  for (; at + 4 <= packet.length; at += 4) {
    const hex = packet.slice(at, at + 4).toHex();
    const draft = /^ff0000(..)$/.exec(hex)?.[1];
    const name = draft === undefined ? `0x${hex}` : `draft-${Number.parseInt(draft, 16)}`;
    if (!/^(?:.a){4}$/.test(hex)) versions.push(VERSIONS[hex] ?? name);
  }
  return versions;
}

async function checkQuic(list: CheckList, { url, hashes }: WebTransportPlace): Promise<void> {
  await list.run({ id: "webtransport.quic", title: "QUIC" }, async (signal) => {
    const { dialQuic } = await import("../../transport/quic/client.ts");
    const { runtime } = list;
    const connection = await dialQuic(url, {
      protocols: ["h3"],
      runtime,
      signal,
      serverCertificateHashes: hashes,
    }).catch((error) => {
      signal.throwIfAborted();
      throw quicFault(error, hashes);
    });
    connection.close();
    return {
      state: "ok",
      detail: `the handshake is done, ${connection.protocol}`,
      facts: { alpn: connection.protocol },
    };
  });
}

function quicFault(error: unknown, hashes: readonly unknown[] | undefined): Fault {
  const detail = textOf(error);
  if (isNoCommonProtocol(error)) {
    return new Fault({
      detail: "the QUIC server does not speak HTTP/3",
      cause: "Another service uses this UDP port",
      cure: "Check the port in the URL",
    });
  }
  if (isConnectionRefused((error as Error).cause ?? error)) {
    return new Fault({
      detail: "the server rejects connections",
      cause: "The server is draining, or has too many connections",
      cure: "Try again later, or connect to another node",
    });
  }
  if (detail.includes("invalid peer certificate")) {
    const reason = /invalid peer certificate: (?:\w+\()?(\w+)/.exec(detail)?.[1] ?? "unknown";
    return new Fault({
      detail: `the certificate is not accepted (${reason})`,
      cause: hashes === undefined
        ? "The certificate is not from a known authority, has expired, or is for another name"
        : "The certificate matches none of the hashes, or has expired",
      cure: hashes === undefined
        ? "Use a certificate from an authority; for development, pass its hash with --cert-hash"
        : "Read the hash again (server.certificateHashes): a development certificate is valid for 13 days",
    });
  }
  return new Fault({ detail });
}
