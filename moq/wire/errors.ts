/**
 * MoQ errors, and the codes with which sessions and streams end. Three families use the same
 * numbers for different reasons, so the name of a number depends on the family. An error always
 * keeps both the number and the name.
 *
 * gomoqt has a table for each kind of stream. Since version 0.3, moq-rs has one for sessions and
 * one for streams. The JavaScript client of moq-rs resets every stream with 0, and reports only the
 * number to the application. The IETF's drafts have tables for sessions, for rejected requests, for
 * ended subscriptions and for streams.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite},
 * error codes
 *
 * @module
 */
import { type CloseInfo, SkeinError } from "../../errors.ts";

/** The session, or the kind of stream, that ended. */
export type MoqErrorScope = MoqError["scope"];

/**
 * The family of error codes that a peer uses: gomoqt's, that of moq-rs and its JavaScript, or that
 * of the IETF's drafts.
 */
export type MoqErrorFamily = "gomoqt" | "moq-lite" | "moqt";

/** The reason of an error by name, across all scopes and families. */
export type MoqErrorName =
  /** Ended without an error. */
  | "none"
  /** This side failed. */
  | "internal"
  /** The peer lacks permission for the session or the track. */
  | "unauthorized"
  /** The peer violated the protocol. */
  | "protocolViolation"
  /** A parameter of setup has the wrong length. */
  | "parameterLength"
  /** A parameter of setup is malformed, or there are too many. */
  | "parameterFormat"
  /** The peer has too many subscriptions. */
  | "tooManySubscribes"
  /** The peer did not leave in time after GOAWAY. */
  | "goawayTimeout"
  /** A message or a response took too long. */
  | "timeout"
  /** There is no common version. */
  | "unsupportedVersion"
  /** Setup failed. */
  | "setupFailed"
  /** A path was announced twice. */
  | "duplicated"
  /** An announcement has no known status. */
  | "invalidStatus"
  /** The subscriber wants no more announcements. */
  | "uninterested"
  /** The peer may not receive, or send, announcements below the prefix. */
  | "bannedPrefix"
  /** The prefix is malformed. */
  | "invalidPrefix"
  /** The range of groups is invalid. */
  | "invalidRange"
  /** The number of the subscription is in use. */
  | "duplicateId"
  /** There is no such broadcast or track. */
  | "notFound"
  /** The group is outside of the requested range. */
  | "outOfRange"
  /** The group is too old. */
  | "expired"
  /** The subscription has ended. */
  | "subscribeCancelled"
  /** The publisher aborted the group. */
  | "publishAborted"
  /** The session has closed. */
  | "sessionClosed"
  /** No subscription has the number of the group's header. */
  | "invalidSubscribeId"
  /** The peer cannot measure. */
  | "notSupported"
  /** The receiver wants no more. */
  | "cancelled"
  /** The delivery took too long. */
  | "deliveryTimeout"
  /** The peer is going away. */
  | "goingAway"
  /** The reader fell too far behind. */
  | "tooFarBehind"
  /** The track is malformed. */
  | "malformedTrack"
  /** The group is too large. */
  | "groupTooLarge"
  /** The group is no longer in the cache. */
  | "evicted"
  /** No route leads to the broadcast. */
  | "unroutable"
  /** A frame ended before the announced length. */
  | "wrongSize"
  /** The frame is too large. */
  | "frameTooLarge"
  /** A timestamp is out of range. */
  | "timestampMismatch"
  /** The session uses as much as the peer grants one session. */
  | "sessionLimit"
  /** The sessions of the network address use as much as the peer grants one address. */
  | "addressLimit"
  /** The relay, or the track, is full. */
  | "relayLimit"
  /** The number of a request is in use, or one of this side. */
  | "invalidRequestId"
  /** The alias of a track is in use. */
  | "duplicateAlias"
  /** The server has no such path, or the path is not allowed on the transport. */
  | "invalidPath"
  /** The path is not part of a URL. */
  | "malformedPath"
  /** The server has no such authority, or the authority is not allowed on the transport. */
  | "invalidAuthority"
  /** The authority is not part of a URL. */
  | "malformedAuthority"
  /** The stored tokens are too large. */
  | "tokenOverflow"
  /** The alias of a token is in use. */
  | "duplicateToken"
  /** The token cannot be decoded. */
  | "malformedToken"
  /** No token has the alias. */
  | "unknownToken"
  /** The token has expired. */
  | "expiredToken"
  /** A request was updated too often. */
  | "tooManyUpdates"
  /** The update of a subscription failed. */
  | "updateFailed"
  /** The prefix overlaps with that of another request. */
  | "prefixOverlap"
  /** More broadcasts have the prefix than the peer lists. */
  | "tooManyBroadcasts"
  /** The track requires an extension. */
  | "unsupportedExtension"
  /** The request can succeed elsewhere. */
  | "redirect"
  /** The code is in no table. */
  | "unknown";

type CodeTable = Readonly<Partial<Record<MoqErrorName, number>>>;

/** gomoqt's codes: a table for sessions, and one for each kind of stream. */
export const GOMOQT_CODES = {
  session: {
    none: 0x0,
    internal: 0x1,
    unauthorized: 0x2,
    protocolViolation: 0x3,
    parameterLength: 0x5,
    tooManySubscribes: 0x6,
    goawayTimeout: 0x10,
    unsupportedVersion: 0x12,
    setupFailed: 0x13,
  },
  announce: {
    internal: 0x0,
    duplicated: 0x1,
    invalidStatus: 0x2,
    uninterested: 0x3,
    bannedPrefix: 0x4,
    invalidPrefix: 0x5,
  },
  subscribe: {
    internal: 0x0,
    invalidRange: 0x1,
    duplicateId: 0x2,
    notFound: 0x3,
    unauthorized: 0x4,
    timeout: 0x5,
  },
  group: {
    internal: 0x0,
    outOfRange: 0x2,
    expired: 0x3,
    subscribeCancelled: 0x4,
    publishAborted: 0x5,
    sessionClosed: 0x6,
    invalidSubscribeId: 0x7,
  },
  fetch: { internal: 0x0, timeout: 0x1 },
  probe: { internal: 0x0, timeout: 0x1, notSupported: 0x2 },
} as const satisfies Record<MoqErrorScope, CodeTable>;

/** moq-lite's session codes, as in moq-rs 0.3; codes of 64 and above are the application's. */
export const MOQ_LITE_SESSION_CODES = {
  none: 0x0,
  internal: 0x1,
  unauthorized: 0x2,
  protocolViolation: 0x3,
  parameterFormat: 0x6,
  goawayTimeout: 0x10,
  timeout: 0x11,
  unsupportedVersion: 0x15,
} as const satisfies CodeTable;

/**
 * moq-lite's codes of all streams, as in moq-rs 0.3; codes of 64 and above are the application's.
 */
export const MOQ_LITE_STREAM_CODES = {
  internal: 0x0,
  cancelled: 0x1,
  deliveryTimeout: 0x2,
  sessionClosed: 0x3,
  goingAway: 0x4,
  tooFarBehind: 0x5,
  malformedTrack: 0x12,
  timeout: 0x31,
  groupTooLarge: 0x32,
  notFound: 0x33,
  expired: 0x34,
  evicted: 0x35,
  unroutable: 0x36,
  wrongSize: 0x37,
  frameTooLarge: 0x38,
  timestampMismatch: 0x39,
} as const satisfies CodeTable;

/** The session codes of the IETF's drafts. */
export const MOQT_SESSION_CODES = {
  none: 0x0,
  internal: 0x1,
  unauthorized: 0x2,
  protocolViolation: 0x3,
  invalidRequestId: 0x4,
  duplicateAlias: 0x5,
  parameterFormat: 0x6,
  invalidPath: 0x8,
  malformedPath: 0x9,
  goawayTimeout: 0x10,
  timeout: 0x11,
  deliveryTimeout: 0x12,
  tokenOverflow: 0x13,
  duplicateToken: 0x14,
  unsupportedVersion: 0x15,
  malformedToken: 0x16,
  unknownToken: 0x17,
  expiredToken: 0x18,
  invalidAuthority: 0x19,
  malformedAuthority: 0x1a,
  tooManyUpdates: 0x1b,
} as const satisfies CodeTable;

/** The codes of REQUEST_ERROR in the IETF's drafts. */
export const MOQT_REQUEST_CODES = {
  internal: 0x0,
  unauthorized: 0x1,
  timeout: 0x2,
  notSupported: 0x3,
  malformedToken: 0x4,
  expiredToken: 0x5,
  goingAway: 0x6,
  relayLimit: 0x9,
  notFound: 0x10,
  invalidRange: 0x11,
  malformedTrack: 0x12,
  duplicateId: 0x19,
  uninterested: 0x20,
  prefixOverlap: 0x30,
  tooManyBroadcasts: 0x31,
  unsupportedExtension: 0x33,
  redirect: 0x34,
} as const satisfies CodeTable;

/** The codes of PUBLISH_DONE in the IETF's drafts. */
export const MOQT_DONE_CODES = {
  internal: 0x0,
  unauthorized: 0x1,
  none: 0x2,
  outOfRange: 0x3,
  goingAway: 0x4,
  tooFarBehind: 0x5,
  expired: 0x6,
  updateFailed: 0x8,
  relayLimit: 0x9,
  malformedTrack: 0x12,
} as const satisfies CodeTable;

/** The codes of streams in the IETF's drafts. */
export const MOQT_STREAM_CODES = {
  internal: 0x0,
  cancelled: 0x1,
  deliveryTimeout: 0x2,
  sessionClosed: 0x3,
  goingAway: 0x4,
  tooFarBehind: 0x5,
  expiredToken: 0x7,
  relayLimit: 0x9,
  malformedTrack: 0x12,
} as const satisfies CodeTable;

/**
 * Skein's codes of all streams in the first two families: 429 as in HTTP, then a digit for the level.
 * moq-lite leaves codes of 64 and above to applications, and gomoqt's tables end before them.
 */
export const LIMIT_CODES = {
  sessionLimit: 4291,
  addressLimit: 4292,
  relayLimit: 4293,
} as const satisfies CodeTable;

/** The JavaScript of moq-rs closes a session with this code after a protocol violation. */
const OLD_PROTOCOL_VIOLATION = 0xf;

/** The names that moq-lite uses instead of names that only gomoqt has. */
const IN_MOQ_LITE: Readonly<Partial<Record<MoqErrorName, MoqErrorName>>> = {
  duplicated: "internal",
  invalidStatus: "internal",
  uninterested: "cancelled",
  bannedPrefix: "notFound",
  invalidPrefix: "notFound",
  invalidRange: "expired",
  duplicateId: "internal",
  unauthorized: "notFound",
  outOfRange: "expired",
  subscribeCancelled: "cancelled",
  publishAborted: "cancelled",
  invalidSubscribeId: "cancelled",
  notSupported: "internal",
  parameterLength: "parameterFormat",
};

/** The names that the IETF's drafts use instead of names that only the other families have. */
const IN_MOQT: Readonly<Partial<Record<MoqErrorName, MoqErrorName>>> = {
  sessionLimit: "relayLimit",
  addressLimit: "relayLimit",
  tooManySubscribes: "relayLimit",
  bannedPrefix: "unauthorized",
  invalidPrefix: "notFound",
  unroutable: "notFound",
  publishAborted: "cancelled",
  subscribeCancelled: "cancelled",
  invalidSubscribeId: "cancelled",
  outOfRange: "cancelled",
  notFound: "cancelled",
  expired: "deliveryTimeout",
  evicted: "deliveryTimeout",
  timeout: "deliveryTimeout",
  parameterLength: "parameterFormat",
};

/** The names that gomoqt uses instead of names that only moq-lite has. */
const IN_GOMOQT: Readonly<Partial<Record<MoqErrorName, MoqErrorName>>> = {
  cancelled: "subscribeCancelled",
  deliveryTimeout: "expired",
  goingAway: "sessionClosed",
  tooFarBehind: "expired",
  evicted: "expired",
  unroutable: "notFound",
  parameterFormat: "parameterLength",
};

const SIMILAR = { "gomoqt": IN_GOMOQT, "moq-lite": IN_MOQ_LITE, "moqt": IN_MOQT } as const;

/**
 * Returns the error code for a name.
 *
 * @param scope The session or kind of stream that ends.
 * @param name A name such as `notFound`.
 * @param family The family of numbers.
 * @returns The code, or the code for `internal` if the family has neither the name nor a similar
 * one.
 *
 * @example Usage
 * ```ts
 * import { moqErrorCode } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(moqErrorCode("subscribe", "notFound", "gomoqt"), 3);
 * assertEquals(moqErrorCode("subscribe", "notFound", "moq-lite"), 0x33);
 * ```
 */
export function moqErrorCode(
  scope: MoqError["scope"],
  name: MoqErrorName,
  family: "gomoqt" | "moq-lite" | "moqt",
): number {
  if (family !== "moqt" && scope !== "session" && isLimit(name)) return LIMIT_CODES[name];
  return codeIn(tableOf(scope, family), name, SIMILAR[family]);
}

/** Returns the code of PUBLISH_DONE for a name; that of the end of the track without a name. */
export function doneCode(name: MoqErrorName = "none"): number {
  return codeIn(MOQT_DONE_CODES, name, SIMILAR.moqt);
}

/** Finds the name of a code of PUBLISH_DONE. */
export function doneName(code: number): MoqErrorName {
  return nameIn(MOQT_DONE_CODES, code);
}

function codeIn(
  table: CodeTable,
  name: MoqErrorName,
  similarNames: Readonly<Partial<Record<MoqErrorName, MoqErrorName>>>,
): number {
  const similar = similarNames[name];
  return table[name] ?? (similar === undefined ? undefined : table[similar]) ?? table.internal!;
}

/**
 * Finds the name of a number that a peer sent.
 *
 * @param scope The session or kind of stream that ended.
 * @param code The number.
 * @param family The family of numbers that the peer uses.
 * @returns The name; `unknown` if the number is in no table of the family.
 *
 * @example Usage
 * ```ts
 * import { moqErrorName } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(moqErrorName("subscribe", 3, "gomoqt"), "notFound");
 * assertEquals(moqErrorName("subscribe", 3, "moq-lite"), "sessionClosed");
 * ```
 */
export function moqErrorName(
  scope: MoqError["scope"],
  code: number,
  family: "gomoqt" | "moq-lite" | "moqt",
): MoqErrorName {
  if (scope === "session" && family === "moq-lite" && code === OLD_PROTOCOL_VIOLATION) {
    return "protocolViolation";
  }
  const table = tableOf(scope, family);
  const hasLimits = scope !== "session" && family !== "moqt";
  return nameIn(hasLimits ? { ...table, ...LIMIT_CODES } : table, code);
}

function nameIn(table: CodeTable, code: number): MoqErrorName {
  const found = Object.entries(table).find(([, value]) => value === code);
  return found === undefined ? "unknown" : found[0] as MoqErrorName;
}

function isLimit(name: MoqErrorName): name is keyof typeof LIMIT_CODES {
  return Object.hasOwn(LIMIT_CODES, name);
}

function tableOf(scope: MoqErrorScope, family: MoqErrorFamily): CodeTable {
  if (family === "gomoqt") return GOMOQT_CODES[scope];
  if (family === "moqt") {
    if (scope === "session") return MOQT_SESSION_CODES;
    return scope === "group" ? MOQT_STREAM_CODES : MOQT_REQUEST_CODES;
  }
  return scope === "session" ? MOQ_LITE_SESSION_CODES : MOQ_LITE_STREAM_CODES;
}

/**
 * A session, an announcement, a subscription, a group, a fetch or a probe that ended early.
 *
 * @example Usage
 * ```ts
 * import { MoqError } from "@skein/skein/moq";
 * import { assertEquals } from "@std/assert";
 *
 * const error = new MoqError("subscribe", "notFound", "Cannot subscribe: there is no such track", {
 *   moqCode: 3,
 *   by: "remote",
 * });
 * assertEquals([error.code, error.scope, error.reason, error.moqCode], ["moq", "subscribe", "notFound", 3]);
 * ```
 */
export class MoqError extends SkeinError {
  /** @ignore */
  static override readonly skeinError: string = "moq";
  /** The session, or the kind of stream, that ended. */
  readonly scope: "session" | "announce" | "subscribe" | "group" | "fetch" | "probe";
  /** The reason by name; `unknown` if the peer's number is in no table. */
  readonly reason: MoqErrorName;
  /** The number on the wire; `undefined` if there is none, as over Deno's QUIC. */
  readonly moqCode: number | undefined;
  /** The end that caused the error. */
  readonly by: CloseInfo["by"];

  /**
   * Creates the error.
   *
   * @param scope The session, or the kind of stream, that ended.
   * @param reason The reason by name.
   * @param message A message for humans.
   * @param options The number, the end that caused the error, and standard error options.
   */
  constructor(
    scope: MoqError["scope"],
    reason: MoqErrorName,
    message: string,
    options: ErrorOptions & {
      readonly moqCode?: number | undefined;
      readonly by?: CloseInfo["by"] | undefined;
    } = {},
  ) {
    super(message, options);
    this.scope = scope;
    this.reason = reason;
    this.moqCode = options.moqCode;
    this.by = options.by ?? "local";
  }
}

/** Groups that a reader missed. */
export interface MissedGroups {
  /** The first one. */
  readonly first: number;
  /** The last one. */
  readonly last: number;
}

/** A reader fell too far behind: groups were dropped, and the next ones can still be read. */
export class MoqLaggedError extends MoqError {
  /** @ignore */
  static override readonly skeinError = "moq-lagged";
  /** The same as for every error of Media over QUIC. */
  override readonly code: "moq" = "moq";
  /** The dropped groups. */
  readonly missed: MissedGroups;

  /**
   * Creates the error.
   *
   * @param message A message for humans.
   * @param missed The dropped groups.
   */
  constructor(message: string, missed: MissedGroups) {
    super("group", "tooFarBehind", message, { by: "local" });
    this.missed = missed;
  }
}
