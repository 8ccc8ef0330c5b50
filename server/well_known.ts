/**
 * The well-known resource of a development server: WebTransport port, and hash of the certificate.
 */
import type { WebTransportHalf } from "./webtransport.ts";
import { hostOf, isAnyAddress } from "./webtransport.ts";
import { isOriginAllowed, LOCAL_HOSTS, type OriginRules } from "../transport/origins.ts";

/** Path of the resource. */
export const WELL_KNOWN_PATH = "/.well-known/skein/webtransport";

/** Content of the resource, in JSON. */
export interface WellKnown {
  /** The UDP port. */
  readonly port: number;
  /** Address in the form of URLs, if different from the requested host. */
  readonly hostname?: string;
  /** Hashes of the certificate; the values in base64. */
  readonly serverCertificateHashes: readonly {
    readonly algorithm: "sha-256";
    readonly value: string;
  }[];
}

/**
 * Answers programs on this machine, and pages that may connect. All others get the answer of a
 * server that does not know the path: a foreign name pointed at this machine (DNS rebinding) is not
 * a name of this machine.
 *
 * @param request Any request.
 * @param half The WebTransport half.
 * @param rules Rules for pages.
 * @returns The answer; `undefined` for other requests.
 */
export function answerWellKnown(
  request: Request,
  half: WebTransportHalf,
  rules: OriginRules,
): Response | undefined {
  const { method, url, headers } = request;
  if (!url.includes(WELL_KNOWN_PATH) || method !== "GET") return undefined;
  // A peer may send an invalid host, which makes no URL.
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
