/**
 * Where a client finds the WebTransport of a server in development: its port,
 * and the hash of a certificate that no authority knows.
 *
 * @module
 */
import type { WebTransportHalf } from "./webtransport.ts";
import { hostOf, isAnyAddress } from "./webtransport.ts";
import { isOriginAllowed, LOCAL_HOSTS, type OriginRules } from "../transport/origins.ts";

/** Where it is asked for. */
export const WELL_KNOWN_PATH = "/.well-known/skein/webtransport";

/** What it says, in JSON. */
export interface WellKnown {
  /** The UDP port. */
  readonly port: number;
  /** The address as URLs have it, where it is not that which was asked. */
  readonly hostname?: string;
  /** The hashes; their values in base64. */
  readonly serverCertificateHashes: readonly {
    readonly algorithm: "sha-256";
    readonly value: string;
  }[];
}

/**
 * Tells programs on this machine, and pages that may connect. Everybody else
 * gets the answer of a server that does not know the path: a name that was
 * pointed here (DNS rebinding) is no name of this machine.
 *
 * @param request Any request.
 * @param half What it is about.
 * @param rules Which pages may connect.
 * @returns The answer; `undefined` if that is somebody else's matter.
 */
export function answerWellKnown(
  request: Request,
  half: WebTransportHalf,
  rules: OriginRules,
): Response | undefined {
  const { method, url, headers } = request;
  if (!url.includes(WELL_KNOWN_PATH) || method !== "GET") return undefined;
  // A peer may ask for a host that is none, which is no URL.
  if (URL.parse(url)?.pathname !== WELL_KNOWN_PATH) return undefined;
  const asked = URL.parse(`http://${headers.get("host")}`);
  if (asked === null || !LOCAL_HOSTS.includes(asked.hostname)) return undefined;
  if (!isOriginAllowed(headers, rules)) return undefined;
  const origin = headers.get("origin");
  return Response.json(wellKnownOf(half), {
    headers: {
      "cache-control": "no-store",
      vary: "origin",
      ...(origin === null ? {} : { "access-control-allow-origin": origin }),
    },
  });
}

function wellKnownOf({ address, hashes }: WebTransportHalf): WellKnown {
  const { hostname, port } = address;
  return {
    port,
    ...(isAnyAddress(hostname) ? {} : { hostname: hostOf(hostname) }),
    serverCertificateHashes: hashes.map(({ algorithm, value }) => ({
      algorithm,
      value: value.toBase64(),
    })),
  };
}
