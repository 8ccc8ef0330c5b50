/**
 * The supported versions of MoQ, the negotiation of each, and the differences.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite},
 * revisions 01, 02, 04 and 05
 *
 * @module
 */
import { ProtocolError } from "../../../errors.ts";

/**
 * A version of MoQ: the drafts of moq-lite, and gomoqt's own of the releases 0.8 to 0.11, which has
 * the number `0xfeedbabe`.
 */
export type MoqVersion =
  | "moq-lite-05"
  | "moq-lite-04"
  | "moq-lite-02"
  | "moq-lite-01"
  | "gomoqt-dev";

/** The differences between versions; the codecs branch on these traits, never on the name. */
export interface VersionTraits {
  /** The version. */
  readonly version: MoqVersion;
  /** The number of the version in SETUP. */
  readonly code: number;
  /**
   * The start of a session: `none` without any message, `compat` with CLIENT_SETUP of the IETF's
   * draft 14, `session` with gomoqt's SESSION_CLIENT, `stream` with one SETUP each way, in parallel
   * to other streams.
   */
  readonly setup: "none" | "compat" | "session" | "stream";
  /**
   * Paths are sent with a leading slash: gomoqt needs that slash, moq-rs and the JavaScript of
   * moq-rs trim it.
   */
  readonly slashedPaths: boolean;
  /**
   * The head of the answer to an announce interest: a list of broadcasts (`init`), the number of
   * announcements that follow (`ok`), or no head.
   */
  readonly announceHead: "init" | "ok" | "none";
  /** Announcements carry the ids of the relays that they passed. */
  readonly hops: boolean;
  /** SUBSCRIBE carries order, latency and range, beside the priority. */
  readonly subscribeRange: boolean;
  /**
   * Peers accept SUBSCRIBE_UPDATE: those of moq-lite-01 and -02 take that message for the end of
   * the subscription.
   */
  readonly subscribeUpdates: boolean;
  /** The responses to SUBSCRIBE: OK alone, OK and DROP, or START, END and DROP. */
  readonly responses: "ok" | "ok-drop" | "start-end-drop";
  /** The fields of OK: no fields, the priority, or all fields of SUBSCRIBE. */
  readonly okFields: "none" | "priority" | "all";
  /** A priority is a varint, not a byte. */
  readonly varintPriority: boolean;
  /** FETCH, PROBE and GOAWAY exist. */
  readonly requests: boolean;
  /** TRACK asks for the fixed properties of a track, and every frame carries a timestamp. */
  readonly timestamps: boolean;
}

const LITE = {
  slashedPaths: false,
  hops: true,
  subscribeRange: true,
  subscribeUpdates: true,
  okFields: "all",
  varintPriority: false,
  requests: true,
  timestamps: false,
} as const;

const SETUP_LITE = {
  ...LITE,
  setup: "compat",
  announceHead: "init",
  hops: false,
  subscribeRange: false,
  subscribeUpdates: false,
  responses: "ok",
  requests: false,
} as const;

/** All versions, the best first. */
export const VERSIONS: Readonly<Record<MoqVersion, VersionTraits>> = {
  "moq-lite-05": {
    ...LITE,
    version: "moq-lite-05",
    code: 0xff0d_ad05,
    setup: "stream",
    announceHead: "ok",
    responses: "start-end-drop",
    timestamps: true,
  },
  "moq-lite-04": {
    ...LITE,
    version: "moq-lite-04",
    code: 0xff0d_ad04,
    setup: "none",
    // Both families speak this version, and the one that does not need the slash trims it.
    slashedPaths: true,
    announceHead: "none",
    responses: "ok-drop",
  },
  "moq-lite-02": { ...SETUP_LITE, version: "moq-lite-02", code: 0xff0d_ad02, okFields: "none" },
  "moq-lite-01": { ...SETUP_LITE, version: "moq-lite-01", code: 0xff0d_ad01, okFields: "priority" },
  "gomoqt-dev": {
    ...SETUP_LITE,
    version: "gomoqt-dev",
    code: 0xfeed_babe,
    setup: "session",
    slashedPaths: true,
    subscribeUpdates: true,
    okFields: "none",
    varintPriority: true,
  },
};

/** The versions offered by default where a name selects the version; the best first. */
export const DEFAULT_VERSIONS: readonly MoqVersion[] = [
  "moq-lite-05",
  "moq-lite-04",
  "moq-lite-02",
  "moq-lite-01",
];

/** The subprotocol under which SETUP negotiates `moq-lite-01` and `-02`. */
export const SETUP_PROTOCOL = "moql";

/** The ALPN name of gomoqt's releases 0.4 to 0.11 on raw QUIC. */
export const GOMOQT_ALPN = "moq-00";

/**
 * Lists the names that offer versions: ALPN names on raw QUIC, subprotocols elsewhere.
 *
 * @param versions The versions, the best first.
 * @param wire The transport of the offer.
 * @returns The names, in the same order.
 *
 * @example Usage
 * ```ts
 * import { protocolsOf } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(protocolsOf(["moq-lite-04", "moq-lite-02", "moq-lite-01"], "webtransport"), ["moq-lite-04", "moql"]);
 * assertEquals(protocolsOf(["gomoqt-dev"], "quic"), ["moq-00"]);
 * ```
 */
export function protocolsOf(
  versions: readonly MoqVersion[],
  wire: "quic" | "webtransport" | "websocket",
): string[] {
  const names = versions.flatMap((version) => {
    const { setup } = VERSIONS[version];
    if (setup === "compat") return [SETUP_PROTOCOL];
    // Over WebTransport, gomoqt of that time neither offers nor checks a name.
    if (setup === "session") return wire === "quic" ? [GOMOQT_ALPN] : [];
    return [version];
  });
  return [...new Set(names)];
}

/**
 * Finds the version that a protocol name selects.
 *
 * @param protocol The negotiated ALPN name or subprotocol; empty without one.
 * @returns The version; `undefined` if SETUP selects the version.
 * @throws {ProtocolError} If the name is unknown.
 *
 * @example Usage
 * ```ts
 * import { versionOf } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(versionOf("moq-lite-04"), "moq-lite-04");
 * assertEquals(versionOf("moql"), undefined);
 * ```
 */
export function versionOf(protocol: string): MoqVersion | undefined {
  if (protocol === GOMOQT_ALPN) return "gomoqt-dev";
  if (protocol === "" || protocol === SETUP_PROTOCOL) return undefined;
  if (protocol === "moq-lite-05" || protocol === "moq-lite-04") return protocol;
  throw new ProtocolError(
    `Cannot speak MoQ: the protocol must be one of ${DEFAULT_VERSIONS.join(", ")}, ` +
      `${SETUP_PROTOCOL} or ${GOMOQT_ALPN}, received "${protocol}"`,
  );
}
