/**
 * Versions of QMux on a WebSocket, and the subprotocols that name them.
 *
 * The drafts are of draft-ietf-quic-qmux. A binary message is a record without
 * its size field, from draft 01 on; in draft 00 it is one frame. `webtransport`
 * is older than the drafts: one frame a message, streams only, without
 * parameters, flow control and datagrams.
 *
 * @module
 */

/** The draft by its number, or the framing from before the drafts. */
export type QmuxVersion = 0 | 1 | 2 | "webtransport";

/** What a subprotocol of QMux says. */
export interface QmuxProtocol {
  /** The version. */
  readonly version: QmuxVersion;
  /** The protocol of the application on top; empty if none was named. */
  readonly protocol: string;
}

/** Subprotocol of the framing from before the drafts; it names no protocol on top. */
const LEGACY = "webtransport";

/** Drafts that are spoken, the best first. */
const DRAFTS: readonly (0 | 1 | 2)[] = [2, 1, 0];

/**
 * Reads a WebSocket subprotocol.
 *
 * @param subprotocol What was agreed on, or is offered.
 * @returns What it says; `undefined` if it is no QMux, or a draft that is not spoken.
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
  if (subprotocol === LEGACY) return { version: LEGACY, protocol: "" };
  for (const version of DRAFTS) {
    const name = nameOf(version);
    if (subprotocol === name) return { version, protocol: "" };
    const prefix = `${name}.`;
    if (subprotocol.startsWith(prefix) && subprotocol.length > prefix.length) {
      return { version, protocol: subprotocol.slice(prefix.length) };
    }
  }
  return undefined;
}

/**
 * Lists what a client offers, the best first. A server may choose any of them:
 * moq-relay 0.17 chooses draft 01 wherever it is offered.
 *
 * @param protocol The protocol of the application; without one the bare names are offered.
 * @returns WebSocket subprotocols.
 *
 * @example Usage
 * ```ts
 * import { qmuxProtocols } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(qmuxProtocols("chat"), ["qmux-02.chat", "qmux-01.chat", "qmux-00.chat"]);
 * assertEquals(qmuxProtocols(), ["qmux-02", "qmux-01", "qmux-00", "webtransport"]);
 * ```
 */
export function qmuxProtocols(protocol = ""): string[] {
  const names = DRAFTS.map(nameOf);
  return protocol === "" ? [...names, LEGACY] : names.map((name) => `${name}.${protocol}`);
}

function nameOf(draft: 0 | 1 | 2): string {
  return `qmux-0${draft}`;
}
