/** The HTTP/3 settings (RFC 9114 section 7.2.4), including those that announce WebTransport. */
import type { FlowControlOptions } from "../../connection.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import {
  MAX_VARINT,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../../quic/varint.ts";

/**
 * The known settings. The ID that announces WebTransport changed every few drafts, and peers of all
 * these drafts are in use.
 */
export const SettingId = {
  /** The capacity of QPACK's dynamic table. */
  qpackMaxTableCapacity: 0x1,
  /** The maximum size of a field section. */
  maxFieldSectionSize: 0x6,
  /** The number of streams that may wait for QPACK's dynamic table. */
  qpackBlockedStreams: 0x7,
  /** 1 if extended CONNECT is supported (RFC 9220). */
  enableConnectProtocol: 0x8,
  /** 1 if HTTP datagrams are supported (RFC 9297). */
  h3Datagram: 0x33,
  /** 1 if HTTP datagrams are supported, in draft 04. */
  h3DatagramDraft04: 0xff_d277,
  /** Announces WebTransport in drafts 02 to 06. Chromium and Firefox require it. */
  enableWebTransport: 0x2b60_3742,
  /** The session limit of a server, in draft 02. It is known, but never sent. */
  webTransportMaxSessionsDraft02: 0x2b60_3743,
  /** The session limit of a server, in drafts 07 to 12. */
  webTransportMaxSessionsDraft07: 0xc671_706a,
  /** The session limit of a server, in drafts 13 and 14. Safari requires it. */
  webTransportMaxSessions: 0x14e9_cd29,
  /** Announces WebTransport since draft 15. */
  webTransportEnabled: 0x2c7c_f000,
  /** The initial limit on the bytes of all streams. */
  initialMaxData: 0x2b61,
  /** The initial limit on unidirectional streams. */
  initialMaxStreamsUni: 0x2b64,
  /** The initial limit on bidirectional streams. */
  initialMaxStreamsBidi: 0x2b65,
} as const;

/** The settings by ID. A value above 2^53 - 1 is rounded. */
export type Http3Settings = ReadonlyMap<number, number>;

/**
 * The flow-control limits that this side announces. If all of them are zero, flow control is off.
 */
interface ClientSettingsOptions {
  /** The initial limit on bytes that the peer can send on all streams. */
  readonly initialMaxData: number;
  /** The initial limit on bidirectional streams that the peer can open. */
  readonly initialMaxStreamsBidi: number;
  /** The initial limit on unidirectional streams that the peer can open. */
  readonly initialMaxStreamsUni: number;
}

interface ServerSettingsOptions extends ClientSettingsOptions {
  /** The maximum number of concurrent sessions on one connection. */
  readonly maxSessions: number;
}

/** The maximum number of settings in a frame. Known peers send fewer than 20. */
export const MAX_SETTINGS = 256;

/** The maximum size of a field section that this side accepts. */
const MAX_FIELD_SECTION_BYTES = 65_536;

/** The settings of HTTP/2 that are invalid in HTTP/3 (RFC 9114 section 7.2.4.1). */
const RESERVED_IDS: ReadonlySet<number> = new Set([0x2, 0x3, 0x4, 0x5]);

/** The settings whose value is 0 or 1. */
const BOOLEAN_IDS: ReadonlySet<number> = new Set([
  SettingId.enableConnectProtocol,
  SettingId.h3Datagram,
  SettingId.webTransportEnabled,
]);

/** The settings that both sides always send. */
const COMMON_SETTINGS: readonly (readonly [id: number, value: number])[] = [
  [SettingId.qpackMaxTableCapacity, 0],
  [SettingId.qpackBlockedStreams, 0],
  [SettingId.maxFieldSectionSize, MAX_FIELD_SECTION_BYTES],
  [SettingId.enableConnectProtocol, 1],
  [SettingId.h3Datagram, 1],
  [SettingId.h3DatagramDraft04, 1],
  [SettingId.enableWebTransport, 1],
  [SettingId.webTransportEnabled, 1],
];

/** The settings that announce WebTransport up to draft 14. */
const EARLY_IDS: readonly number[] = [
  SettingId.enableWebTransport,
  SettingId.webTransportMaxSessionsDraft02,
  SettingId.webTransportMaxSessionsDraft07,
  SettingId.webTransportMaxSessions,
];

/**
 * The value of `:protocol` in a request for a session. The first value is used up to draft 14, the
 * second since draft 15.
 */
export type UpgradeToken = "webtransport" | "webtransport-h3";

/**
 * Encodes settings.
 *
 * @returns The payload of a SETTINGS frame.
 * @throws {RangeError} If an ID or a value is not an integer from 0 to 2^53 - 1.
 */
export function encodeSettings(
  settings: Iterable<readonly [id: number, value: number]>,
): Uint8Array<ArrayBuffer> {
  const pairs = [...settings];
  let size = 0;
  for (const [id, value] of pairs) size += varintLength(id) + varintLength(value);
  const payload = new Uint8Array(size);
  let at = 0;
  for (const [id, value] of pairs) {
    at = writeVarint(payload, writeVarint(payload, at, id), value);
  }
  return payload;
}

/**
 * Decodes settings.
 *
 * @returns The settings by ID, including unknown ones. Settings whose ID is above 2^53 - 1 are
 * omitted.
 * @throws {H3ProtocolError} With code `frameError` if the payload is truncated, with
 * `settingsError` if an ID is repeated, is reserved or has an invalid value, and with
 * `excessiveLoad` if there are more than {@linkcode MAX_SETTINGS} settings.
 *
 * @example Usage
 * ```ts
 * import { decodeSettings, encodeSettings, SettingId } from "./settings.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const payload = encodeSettings([[SettingId.h3Datagram, 1]]);
 * assertEquals(decodeSettings(payload).get(SettingId.h3Datagram), 1);
 * ```
 */
export function decodeSettings(payload: Uint8Array): Http3Settings {
  const settings = new Map<number, number>();
  let at = 0;
  for (let count = 0; at < payload.length; count++) {
    if (count === MAX_SETTINGS) {
      throw failure(H3Error.excessiveLoad, `there are more than ${MAX_SETTINGS}`);
    }
    const valueAt = endOfVarint(payload, at);
    const end = endOfVarint(payload, valueAt);
    const id = readVarint(payload, at);
    const value = readVarint(payload, valueAt);
    at = end;
    checkSetting(id, value);
    if (settings.has(id)) throw failure(H3Error.settingsError, `${hex(id)} is repeated`);
    // A larger ID is rounded and therefore ambiguous. No known ID is that large.
    if (id <= MAX_VARINT) settings.set(id, value);
  }
  return settings;
}

/**
 * Lists the server settings, which clients of every draft in use accept.
 *
 * @returns Pairs of an ID and a value, for {@linkcode encodeSettings}.
 */
export function serverSettings(options: ServerSettingsOptions): [id: number, value: number][] {
  const flowControl = flowControlSettings(options);
  // Safari requires flow control if more than one session is announced.
  const safariSessions = flowControl.length > 0 ? options.maxSessions : 1;
  return [
    ...COMMON_SETTINGS.map(([id, value]): [number, number] => [id, value]),
    [SettingId.webTransportMaxSessionsDraft07, options.maxSessions],
    [SettingId.webTransportMaxSessions, Math.min(safariSessions, options.maxSessions)],
    ...flowControl,
  ];
}

/**
 * Lists the client settings, which servers of every draft in use accept.
 *
 * @returns Pairs of an ID and a value, for {@linkcode encodeSettings}.
 */
export function clientSettings(options: ClientSettingsOptions): [id: number, value: number][] {
  return serverSettings({ ...options, maxSessions: 1 });
}

/**
 * Tells whether a peer supports WebTransport in any draft.
 *
 * @returns True if the peer announces WebTransport and HTTP datagrams.
 */
export function supportsWebTransport(settings: Http3Settings): boolean {
  const hasDatagrams = isOn(settings, SettingId.h3Datagram) ||
    isOn(settings, SettingId.h3DatagramDraft04);
  return hasDatagrams && (isOn(settings, SettingId.webTransportEnabled) || isEarly(settings));
}

/**
 * Lists the values of `:protocol` to try when requesting a session.
 *
 * @returns The more likely value, followed by the other value for a second attempt. A server that
 * announces both early and late drafts knows both values, so only one is listed.
 */
export function upgradeTokensOf(
  settings: Http3Settings,
): readonly [UpgradeToken, ...UpgradeToken[]] {
  if (!isOn(settings, SettingId.webTransportEnabled)) return ["webtransport", "webtransport-h3"];
  return isEarly(settings) ? ["webtransport"] : ["webtransport-h3", "webtransport"];
}

function isEarly(settings: Http3Settings): boolean {
  return EARLY_IDS.some((id) => isOn(settings, id));
}

function isOn(settings: Http3Settings, id: number): boolean {
  return (settings.get(id) ?? 0) > 0;
}

/**
 * Reads the peer's initial limits for a session. Flow control is on only if both sides announce
 * limits.
 *
 * @returns The limits; `undefined` if the peer does not announce a limit above 0.
 */
export function flowControlOf(settings: Http3Settings): FlowControlLimits | undefined {
  const maxData = settings.get(SettingId.initialMaxData) ?? 0;
  const maxStreamsBidi = settings.get(SettingId.initialMaxStreamsBidi) ?? 0;
  const maxStreamsUni = settings.get(SettingId.initialMaxStreamsUni) ?? 0;
  if (maxData === 0 && maxStreamsBidi === 0 && maxStreamsUni === 0) return undefined;
  return { maxData, maxStreamsBidi, maxStreamsUni };
}

function flowControlSettings(options: ClientSettingsOptions): [id: number, value: number][] {
  const { initialMaxData, initialMaxStreamsBidi, initialMaxStreamsUni } = options;
  if (initialMaxData === 0 && initialMaxStreamsBidi === 0 && initialMaxStreamsUni === 0) return [];
  return [
    [SettingId.initialMaxData, initialMaxData],
    [SettingId.initialMaxStreamsUni, initialMaxStreamsUni],
    [SettingId.initialMaxStreamsBidi, initialMaxStreamsBidi],
  ];
}

function checkSetting(id: number, value: number): void {
  if (RESERVED_IDS.has(id)) {
    throw failure(H3Error.settingsError, `${hex(id)} is reserved for HTTP/2`);
  }
  if (BOOLEAN_IDS.has(id) && value > 1) {
    throw failure(H3Error.settingsError, `${hex(id)} must be 0 or 1, received ${value}`);
  }
}

function endOfVarint(payload: Uint8Array, at: number): number {
  const first = payload[at];
  const end = first === undefined ? Infinity : at + varintLengthAt(first);
  if (end > payload.length) throw failure(H3Error.frameError, "the frame is truncated");
  return end;
}

function hex(id: number): string {
  return `0x${id.toString(16)}`;
}

function failure(h3Code: number, message: string): H3ProtocolError {
  return new H3ProtocolError(h3Code, `Cannot read settings: ${message}`);
}

/** The flow-control limits at the start of a WebTransport session. */
export interface FlowControlLimits {
  /** The limit on the bytes of all streams. */
  readonly maxData: number;
  /** The limit on bidirectional streams. */
  readonly maxStreamsBidi: number;
  /** The limit on unidirectional streams. */
  readonly maxStreamsUni: number;
}

/** The default limits. QUIC's own limits also apply. */
const DEFAULTS: FlowControlLimits = {
  maxData: 4 * 1024 * 1024,
  maxStreamsBidi: 128,
  maxStreamsUni: 128,
};

/**
 * Reads the limits from the options.
 *
 * @param options The application's options, if any.
 * @returns The limits, with the default for each missing limit.
 * @throws {RangeError} If a limit is not an integer from 0 to 2^53 - 1, or if all limits are 0,
 * which would announce that this side has no flow control.
 */
export function flowLimitsOf(options: FlowControlOptions | undefined): FlowControlLimits {
  if (options === undefined) return DEFAULTS;
  const {
    maxData = DEFAULTS.maxData,
    maxStreamsBidi = DEFAULTS.maxStreamsBidi,
    maxStreamsUni = DEFAULTS.maxStreamsUni,
  } = options;
  const limits = { maxData, maxStreamsBidi, maxStreamsUni };
  for (const [name, value] of Object.entries(limits)) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    throw new RangeError(
      `Cannot limit flow: ${name} must be an integer from 0 to 2^53 - 1, received ${value}`,
    );
  }
  if (maxData > 0 || maxStreamsBidi > 0 || maxStreamsUni > 0) return limits;
  throw new RangeError(
    "Cannot limit flow: one of maxData, maxStreamsBidi and maxStreamsUni must be above 0 over HTTP/3, received 0 for all",
  );
}
