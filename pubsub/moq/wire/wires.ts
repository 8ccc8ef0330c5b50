/**
 * The names under which MoQ is offered and chosen, wire by wire.
 *
 * @module
 */
import { parseQmuxProtocol, qmuxProtocols } from "../../../transport/qmux/versions.ts";
import { type MoqVersion, protocolsOf, SETUP_PROTOCOL, VERSIONS } from "./versions.ts";

/** Where a server in development tells the hash of its certificate, in hexadecimal; relays of MoQ do too. */
export const HASH_PATH = "/certificate.sha256";

/**
 * Streams of each kind that a peer may have open. Every group has a unidirectional one, and every
 * subscription a bidirectional one; some peers fail where others wait.
 */
export const MAX_STREAMS = 1_024;

/** The versions that are agreed on by a first message, not by a name. */
const BY_MESSAGE: readonly unknown[] = ["compat", "session"];

/**
 * Checks versions before anything is dialed or bound.
 *
 * @param versions What was given.
 * @param verb What it was for.
 * @throws {TypeError} If there is none, or one is not known.
 */
export function checkVersions(versions: readonly MoqVersion[], verb: string): void {
  const known = Object.keys(VERSIONS);
  const isList = Array.isArray(versions) && versions.length > 0;
  if (isList && versions.every((version) => known.includes(version))) return;
  throw new TypeError(
    `Cannot ${verb}: versions must be some of ${known.join(", ")}, received ${
      JSON.stringify(versions)
    }`,
  );
}

/**
 * Lists what a client offers on a WebSocket. Every version is one of QMux's protocols; bare names of
 * QMux leave it to the first message.
 *
 * @param versions The versions, the best first.
 * @returns The subprotocols, the best first.
 */
export function webSocketOffers(versions: readonly MoqVersion[]): string[] {
  const named = protocolsOf(versions, "websocket").flatMap((name) => qmuxProtocols(name));
  return bySetup(versions).length === 0 ? named : [...named, ...qmuxProtocols()];
}

/**
 * Chooses a subprotocol of a WebSocket.
 *
 * @param offered What the client offers.
 * @param versions The versions of the server, the best first.
 * @returns The subprotocol; `undefined` if none is common.
 */
export function chooseWebSocket(
  offered: readonly string[],
  versions: readonly MoqVersion[],
): string | undefined {
  const names: string[] = protocolsOf(versions, "websocket");
  if (bySetup(versions).length > 0) names.push("");
  for (const name of names) {
    const found = offered.find((one) => parseQmuxProtocol(one)?.protocol === name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * Chooses a subprotocol of WebTransport.
 *
 * @param offered What the client offers; old clients offer nothing.
 * @param versions The versions of the server, the best first.
 * @returns The subprotocol; empty if the first message decides; `undefined` if nothing is common.
 */
export function chooseWebTransport(
  offered: readonly string[],
  versions: readonly MoqVersion[],
): string | undefined {
  const found = protocolsOf(versions, "webtransport").find((name) => offered.includes(name));
  if (found !== undefined) return found;
  return offered.length === 0 && bySetup(versions).length > 0 ? "" : undefined;
}

/**
 * Finds the versions that can still be meant once a protocol was agreed on.
 *
 * @param protocol The protocol; empty if there was none.
 * @param versions The versions of this end, the best first.
 * @returns Those of them that are left.
 */
export function versionsLeft(protocol: string, versions: readonly MoqVersion[]): MoqVersion[] {
  if (protocol === "") return bySetup(versions);
  return versions.filter((version) =>
    protocol === SETUP_PROTOCOL
      ? VERSIONS[version].setup === "compat"
      : protocolsOf([version], "quic").includes(protocol)
  );
}

/**
 * Finds the versions that a client may offer in its first message: it has to begin in the way of the
 * best one.
 *
 * @param protocol The protocol that was agreed on; empty if there was none.
 * @param versions The versions of the client, the best first.
 * @returns Those of them that begin alike.
 */
export function versionsBegun(protocol: string, versions: readonly MoqVersion[]): MoqVersion[] {
  const left = versionsLeft(protocol, versions);
  return left.filter((version) => VERSIONS[version].setup === VERSIONS[left[0]!].setup);
}

function bySetup(versions: readonly MoqVersion[]): MoqVersion[] {
  return versions.filter((version) => BY_MESSAGE.includes(VERSIONS[version].setup));
}
