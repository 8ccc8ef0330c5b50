/**
 * The versions of QMux on a WebSocket, with their subprotocols.
 *
 * The draft numbers refer to draft-ietf-quic-qmux. A binary message is a record without the size
 * field.
 *
 * @module
 */

/** The draft number. */
export type QmuxVersion = 1 | 2;

/** A parsed subprotocol of QMux. */
export interface QmuxProtocol {
  readonly version: QmuxVersion;
  /** The application protocol; empty if the subprotocol does not name one. */
  readonly protocol: string;
}

/** The supported drafts, in order of preference. */
const DRAFTS: readonly QmuxVersion[] = [2, 1];

/** The start of the subprotocols of all drafts. */
const PREFIX = "qmux-0";

/**
 * Parses a WebSocket subprotocol.
 *
 * @param subprotocol A negotiated or offered subprotocol.
 * @returns The parsed subprotocol; `undefined` for any other protocol or an unsupported draft.
 *
 * @example Usage
 * ```ts
 * import { parseQmuxProtocol } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseQmuxProtocol("qmux-01.skein.1"), { version: 1, protocol: "skein.1" });
 * assertEquals(parseQmuxProtocol("qmux-02"), { version: 2, protocol: "" });
 * assertEquals(parseQmuxProtocol("skein.1"), undefined);
 * ```
 */
export function parseQmuxProtocol(subprotocol: string): QmuxProtocol | undefined {
  if (!subprotocol.startsWith(PREFIX)) return undefined;
  for (const version of DRAFTS) {
    const name = protocolOf(version);
    if (subprotocol === name) return { version, protocol: "" };
    const prefix = `${name}.`;
    if (subprotocol.startsWith(prefix) && subprotocol.length > prefix.length) {
      return { version, protocol: subprotocol.slice(prefix.length) };
    }
  }
  return undefined;
}

/**
 * Lists the subprotocols that a client offers, in order of preference. A server may select any of
 * them. For example, moq-relay 0.17 always selects draft 01 if it is offered.
 *
 * @param protocol The application protocol. If it is empty, the bare names are listed.
 * @example Usage
 * ```ts
 * import { qmuxProtocols } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(qmuxProtocols("chat"), ["qmux-02.chat", "qmux-01.chat"]);
 * assertEquals(qmuxProtocols(), ["qmux-02", "qmux-01"]);
 * ```
 */
export function qmuxProtocols(protocol = ""): string[] {
  const names = DRAFTS.map(protocolOf);
  return protocol === "" ? names : names.map((name) => `${name}.${protocol}`);
}

function protocolOf(draft: QmuxVersion): string {
  return `${PREFIX}${draft}`;
}
