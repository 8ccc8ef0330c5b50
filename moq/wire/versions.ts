/**
 * The supported MoQ versions: their differences, and the names that offer and select them on each
 * transport.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite},
 * revisions 01, 02, 04 and 05
 * @see {@link https://datatracker.ietf.org/doc/draft-ietf-moq-transport/ | Media over QUIC Transport},
 * revisions 18, 20 and 22
 *
 * @module
 */
import { ProtocolError } from "../../errors.ts";
import { parseQmuxProtocol, qmuxProtocols } from "../../transport/qmux/versions.ts";

/**
 * A MoQ version: the drafts of moq-lite, the IETF's drafts 18, 20 and 22, and gomoqt's own version
 * of releases 0.8 to 0.11, which has the number `0xfeedbabe`.
 */
export type MoqVersion =
  | "moq-lite-05"
  | "moq-lite-04"
  | "moq-lite-02"
  | "moq-lite-01"
  | "moqt-18"
  | "moqt-20"
  | "moqt-22"
  | "gomoqt-dev";

/** The differences between the IETF's drafts. */
export interface DraftTraits {
  /** LOCATION_FILTER: a type after a length, one to four numbers after a length, or only a type. */
  readonly locationFilter: "tagged" | "counted" | "typed";
  /** A namespace in a parameter has a length of its own. */
  readonly sizedNamespace: boolean;
  /** Filters of ranges, and parameters of fills, exist. */
  readonly rangeFilters: boolean;
  /** GOAWAY on the control stream contains a request id. */
  readonly goawayRequestId: boolean;
  /** The end of the requester's direction withdraws a request. */
  readonly endWithdraws: boolean;
  /** A second subscription to a track is rejected. */
  readonly oneSubscription: boolean;
  /** The response to PUBLISH sets the state of forwarding; otherwise only REQUEST_UPDATE does. */
  readonly publishOkForwards: boolean;
}

/** The differences between versions; codecs branch on these traits, never on the name. */
export interface VersionTraits {
  readonly version: MoqVersion;
  /** The number of the version in SETUP. */
  readonly code: number;
  /**
   * The start of a session: `none` without any message, `compat` with CLIENT_SETUP of the IETF's
   * draft 14, `session` with gomoqt's SESSION_CLIENT, `stream` with one SETUP in each direction, in
   * parallel to other streams, `control` with SETUP of the IETF's drafts on a stream that stays
   * open.
   */
  readonly setup: "none" | "compat" | "session" | "stream" | "control";
  /** Paths are sent with a leading slash: gomoqt needs it, moq-rs and its JavaScript trim it. */
  readonly slashedPaths: boolean;
  /**
   * The head of the response to an announce interest: a list of broadcasts (`init`), the number of
   * announcements that follow (`ok`), or no head.
   */
  readonly announceHead: "init" | "ok" | "none";
  /** Announcements carry the ids of the relays that they passed. */
  readonly hops: boolean;
  /** SUBSCRIBE carries order, latency and range in addition to the priority. */
  readonly subscribeRange: boolean;
  /**
   * Peers accept SUBSCRIBE_UPDATE. Peers of moq-lite-01 and -02 treat it as the end of the
   * subscription.
   */
  readonly subscribeUpdates: boolean;
  /** The responses to SUBSCRIBE: only OK, OK and DROP, or START, END and DROP. */
  readonly responses: "ok" | "ok-drop" | "start-end-drop";
  /** The fields of OK: no fields, the priority, or all fields of SUBSCRIBE. */
  readonly okFields: "none" | "priority" | "all";
  /** A priority is a varint, not a byte. */
  readonly varintPriority: boolean;
  /** FETCH, PROBE and GOAWAY exist. */
  readonly requests: boolean;
  /** TRACK requests the fixed properties of a track, and every frame carries a timestamp. */
  readonly timestamps: boolean;
  /** The traits of the IETF's drafts; `undefined` in other versions. */
  readonly draft?: DraftTraits | undefined;
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

const DRAFT = {
  ...LITE,
  setup: "control",
  announceHead: "none",
  hops: false,
  responses: "ok",
  requests: false,
} as const;

const DRAFT_20: DraftTraits = {
  locationFilter: "counted",
  sizedNamespace: true,
  rangeFilters: true,
  goawayRequestId: false,
  endWithdraws: false,
  oneSubscription: false,
  publishOkForwards: false,
};

/** All versions, in order of preference. */
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
    // Both families speak this version, and the family that doesn't need the slash trims it.
    slashedPaths: true,
    announceHead: "none",
    responses: "ok-drop",
  },
  "moq-lite-02": { ...SETUP_LITE, version: "moq-lite-02", code: 0xff0d_ad02, okFields: "none" },
  "moq-lite-01": { ...SETUP_LITE, version: "moq-lite-01", code: 0xff0d_ad01, okFields: "priority" },
  "moqt-18": {
    ...DRAFT,
    version: "moqt-18",
    code: 0xff00_0012,
    draft: {
      locationFilter: "tagged",
      sizedNamespace: true,
      rangeFilters: false,
      goawayRequestId: true,
      endWithdraws: true,
      oneSubscription: true,
      publishOkForwards: true,
    },
  },
  "moqt-20": { ...DRAFT, version: "moqt-20", code: 0xff00_0014, draft: DRAFT_20 },
  "moqt-22": {
    ...DRAFT,
    version: "moqt-22",
    code: 0xff00_0016,
    draft: { ...DRAFT_20, locationFilter: "typed", sizedNamespace: false },
  },
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

/** The versions offered by default if a name selects the version, in order of preference. */
export const DEFAULT_VERSIONS: readonly MoqVersion[] = [
  "moq-lite-05",
  "moq-lite-04",
  "moq-lite-02",
  "moq-lite-01",
  "moqt-18",
  "moqt-20",
  "moqt-22",
];

/** The subprotocol under which SETUP negotiates `moq-lite-01` and `-02`. */
const SETUP_PROTOCOL = "moql";

/** The ALPN name of gomoqt's releases 0.4 to 0.11 on raw QUIC. */
export const GOMOQT_ALPN = "moq-00";

/**
 * Lists the names that offer versions: ALPN names on raw QUIC, subprotocols on other transports.
 *
 * @param versions The versions, in order of preference.
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
    // Over WebTransport, gomoqt of these releases neither offers nor checks a name.
    if (setup === "session") return wire === "quic" ? [GOMOQT_ALPN] : [];
    // The IETF's drafts define no other transport.
    if (setup === "control" && wire === "websocket") return [];
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
  if (BY_NAME.has(protocol)) return protocol as MoqVersion;
  throw new ProtocolError(
    `Cannot speak MoQ: the protocol must be one of ${DEFAULT_VERSIONS.join(", ")}, ` +
      `${SETUP_PROTOCOL} or ${GOMOQT_ALPN}, received "${protocol}"`,
  );
}

/**
 * The path under which a development server serves the hash of its certificate, in hexadecimal;
 * other MoQ relays use the same path.
 */
export const HASH_PATH = "/certificate.sha256";

/**
 * The maximum number of streams of each kind that a peer may have open. Every group uses a
 * unidirectional stream, and every subscription a bidirectional one. Beyond the limit some peers
 * fail, and others wait.
 */
export const MAX_STREAMS = 1_024;

/** The versions whose own name selects them. */
const BY_NAME: ReadonlySet<string> = new Set(
  Object.values(VERSIONS).filter(({ setup }) => setup !== "compat" && setup !== "session")
    .map(({ version }) => version),
);

/** The setups in which the first message, not a name, selects the version. */
const BY_MESSAGE: readonly unknown[] = ["compat", "session"];

/**
 * Checks versions before dialing or binding.
 *
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
 * Lists the subprotocols that a client offers on a WebSocket. Every version has QMux subprotocols.
 * With a bare QMux name, the first message selects the version.
 *
 * @param versions The versions, in order of preference.
 * @returns The subprotocols, in order of preference.
 */
export function webSocketOffers(versions: readonly MoqVersion[]): string[] {
  const named = protocolsOf(versions, "websocket").flatMap((name) => qmuxProtocols(name));
  return versionsBySetup(versions).length === 0 ? named : [...named, ...qmuxProtocols()];
}

/**
 * Chooses a WebSocket subprotocol.
 *
 * @param versions The versions of the server, in order of preference.
 * @returns The subprotocol; `undefined` if there is no common one.
 */
export function chooseWebSocket(
  offered: readonly string[],
  versions: readonly MoqVersion[],
): string | undefined {
  const names: string[] = protocolsOf(versions, "websocket");
  if (versionsBySetup(versions).length > 0) names.push("");
  for (const name of names) {
    const found = offered.find((one) => parseQmuxProtocol(one)?.protocol === name);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * Chooses a WebTransport subprotocol.
 *
 * @param offered The subprotocols that the client offers; old clients offer none.
 * @param versions The versions of the server, in order of preference.
 * @returns The subprotocol; empty if the first message decides; `undefined` if there is no common
 * one.
 */
export function chooseWebTransport(
  offered: readonly string[],
  versions: readonly MoqVersion[],
): string | undefined {
  const found = protocolsOf(versions, "webtransport").find((name) => offered.includes(name));
  if (found !== undefined) return found;
  return offered.length === 0 && versionsBySetup(versions).length > 0 ? "" : undefined;
}

/**
 * Returns the versions that are possible after a protocol was chosen.
 *
 * @param protocol The protocol; empty without one.
 * @param versions The versions of this side, in order of preference.
 */
export function versionsFor(protocol: string, versions: readonly MoqVersion[]): MoqVersion[] {
  if (protocol === "") return versionsBySetup(versions);
  return versions.filter((version) =>
    protocol === SETUP_PROTOCOL
      ? VERSIONS[version].setup === "compat"
      : protocolsOf([version], "quic").includes(protocol)
  );
}

/**
 * Returns the versions that a client may offer in the first message, which has the format of its
 * preferred version.
 *
 * @param protocol The negotiated protocol; empty without one.
 * @param versions The versions of the client, in order of preference.
 */
export function offeredVersions(protocol: string, versions: readonly MoqVersion[]): MoqVersion[] {
  const left = versionsFor(protocol, versions);
  return left.filter((version) => VERSIONS[version].setup === VERSIONS[left[0]!].setup);
}

function versionsBySetup(versions: readonly MoqVersion[]): MoqVersion[] {
  return versions.filter((version) => BY_MESSAGE.includes(VERSIONS[version].setup));
}
