/** The names that offer and select MoQ, by transport. */
import { parseQmuxProtocol, qmuxProtocols } from "../../../transport/qmux/versions.ts";
import { type MoqVersion, protocolsOf, SETUP_PROTOCOL, VERSIONS } from "./versions.ts";

/**
 * The path under which a development server gives the hash of the certificate, in hexadecimal;
 * relays of MoQ use the same path.
 */
export const HASH_PATH = "/certificate.sha256";

/**
 * Streams of each kind that a peer may have open. Every group has a unidirectional stream, and
 * every subscription a bidirectional one. Above the limit some peers fail, and others wait.
 */
export const MAX_STREAMS = 1_024;

/** The setups whose first message, not a name, selects the version. */
const BY_MESSAGE: readonly unknown[] = ["compat", "session"];

/**
 * Checks versions before dialing or binding.
 *
 * @param versions The given versions.
 * @param verb The verb of the error.
 * @throws {TypeError} If the list is empty, or a version is unknown.
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
 * Lists the subprotocols that a client offers on a WebSocket. Every version has subprotocols of
 * QMux; bare names of QMux leave the choice to the first message.
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
 * @param offered The subprotocols that the client offers.
 * @param versions The versions of the server, the best first.
 * @returns The subprotocol; `undefined` if no subprotocol is common.
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
 * @param offered The subprotocols that the client offers; old clients offer none.
 * @param versions The versions of the server, the best first.
 * @returns The subprotocol; empty if the first message decides; `undefined` if no subprotocol is
 * common.
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
 * Finds the versions that are possible after the choice of a protocol.
 *
 * @param protocol The protocol; empty without one.
 * @param versions The versions of this end, the best first.
 * @returns The possible versions.
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
 * Finds the versions that a client may offer in the first message, which has the form of the best
 * version.
 *
 * @param protocol The negotiated protocol; empty without one.
 * @param versions The versions of the client, the best first.
 * @returns The versions with the same form of setup.
 */
export function versionsBegun(protocol: string, versions: readonly MoqVersion[]): MoqVersion[] {
  const left = versionsLeft(protocol, versions);
  return left.filter((version) => VERSIONS[version].setup === VERSIONS[left[0]!].setup);
}

function bySetup(versions: readonly MoqVersion[]): MoqVersion[] {
  return versions.filter((version) => BY_MESSAGE.includes(VERSIONS[version].setup));
}
