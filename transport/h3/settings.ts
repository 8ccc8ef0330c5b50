/**
 * Settings of HTTP/3 (RFC 9114 section 7.2.4), and how an end says with them
 * that it speaks WebTransport.
 *
 * @module
 */
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import {
  MAX_VARINT,
  readVarint,
  varintLength,
  varintLengthAt,
  writeVarint,
} from "../quic/varint.ts";

/**
 * The settings that are known here. WebTransport was announced under another
 * number every few drafts; peers of each kind are in use.
 */
export const SettingId = {
  /** Capacity of QPACK's dynamic table. */
  qpackMaxTableCapacity: 0x1,
  /** Largest field section. */
  maxFieldSectionSize: 0x6,
  /** How many streams may wait for QPACK's dynamic table. */
  qpackBlockedStreams: 0x7,
  /** 1 if extended CONNECT is supported, RFC 9220. */
  enableConnectProtocol: 0x8,
  /** 1 if HTTP datagrams are supported, RFC 9297. */
  h3Datagram: 0x33,
  /** The same in draft 04 of HTTP datagrams. */
  h3DatagramDraft04: 0xff_d277,
  /** WebTransport of drafts 02 to 06, which Chromium and Firefox look for. */
  enableWebTransport: 0x2b60_3742,
  /** Sessions a server takes, in draft 02. Known, and never sent. */
  webTransportMaxSessionsDraft02: 0x2b60_3743,
  /** Sessions a server takes, in drafts 07 to 12. */
  webTransportMaxSessionsDraft07: 0xc671_706a,
  /** Sessions a server takes, in drafts 13 and 14, which Safari looks for. */
  webTransportMaxSessions: 0x14e9_cd29,
  /** WebTransport from draft 15 on. */
  webTransportEnabled: 0x2c7c_f000,
  /** Flow control: bytes on streams, in all, before the first grant. */
  initialMaxData: 0x2b61,
  /** Flow control: unidirectional streams before the first grant. */
  initialMaxStreamsUni: 0x2b64,
  /** Flow control: bidirectional streams before the first grant. */
  initialMaxStreamsBidi: 0x2b65,
} as const;

/** Settings by id; a value above 2^53 - 1 is rounded. */
export type Settings = ReadonlyMap<number, number>;

/** The flow control that this end announces; all 0 leaves it off. */
export interface ClientSettingsOptions {
  /** Bytes the peer may send on streams, in all, before the first grant. */
  readonly initialMaxData: number;
  /** Bidirectional streams the peer may open before the first grant. */
  readonly initialMaxStreamsBidi: number;
  /** Unidirectional streams the peer may open before the first grant. */
  readonly initialMaxStreamsUni: number;
}

/** What a server announces. */
export interface ServerSettingsOptions extends ClientSettingsOptions {
  /** Sessions that one connection may carry at a time. */
  readonly maxSessions: number;
}

/** Limits of WebTransport's flow control at the start of a session. */
export interface FlowControlLimits {
  /** Bytes on streams, in all. */
  readonly maxData: number;
  /** Bidirectional streams, in all. */
  readonly maxStreamsBidi: number;
  /** Unidirectional streams, in all. */
  readonly maxStreamsUni: number;
}

/** Most settings that a frame may hold; the known peers send fewer than 20. */
export const MAX_SETTINGS = 256;

/** Largest field section that this end takes. */
const MAX_FIELD_SECTION_BYTES = 65_536;

/** Settings of HTTP/2 that have no meaning here, RFC 9114 section 7.2.4.1. */
const RESERVED_IDS: ReadonlySet<number> = new Set([0x2, 0x3, 0x4, 0x5]);

/** Settings that are either 0 or 1. */
const BOOLEAN_IDS: ReadonlySet<number> = new Set([
  SettingId.enableConnectProtocol,
  SettingId.h3Datagram,
]);

/** What both ends always send. */
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

const WEB_TRANSPORT_IDS: readonly number[] = [
  SettingId.enableWebTransport,
  SettingId.webTransportMaxSessionsDraft02,
  SettingId.webTransportMaxSessionsDraft07,
  SettingId.webTransportMaxSessions,
  SettingId.webTransportEnabled,
];

/**
 * Encodes settings.
 *
 * @param settings Pairs of id and value.
 * @returns The payload of a SETTINGS frame.
 * @throws {RangeError} If an id or a value is not an integer from 0 to 2^53 - 1.
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
 * @param payload The payload of a SETTINGS frame.
 * @returns Settings by id, the unknown ones too; ids above 2^53 - 1 are left out.
 * @throws {H3ProtocolError} With `frameError` if the payload is truncated, `settingsError` if an id
 * comes twice, is reserved, or has a wrong value, and `excessiveLoad` if there are more than
 * {@linkcode MAX_SETTINGS}.
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
export function decodeSettings(payload: Uint8Array): Settings {
  const settings = new Map<number, number>();
  let at = 0;
  for (let count = 0; at < payload.length; count++) {
    if (count === MAX_SETTINGS) {
      throw failure(H3Error.excessiveLoad, `at most ${MAX_SETTINGS} are taken, received more`);
    }
    const valueAt = endOfVarint(payload, at);
    const end = endOfVarint(payload, valueAt);
    const id = readVarint(payload, at);
    const value = readVarint(payload, valueAt);
    at = end;
    checkSetting(id, value);
    if (settings.has(id)) throw failure(H3Error.settingsError, `${hex(id)} came twice`);
    // Rounded ids are not told apart, and none of them is known.
    if (id <= MAX_VARINT) settings.set(id, value);
  }
  return settings;
}

/**
 * Lists what a server sends, so that clients of every draft in use connect.
 *
 * @param options See {@linkcode ServerSettingsOptions}.
 * @returns Pairs of id and value for {@linkcode encodeSettings}.
 */
export function serverSettings(options: ServerSettingsOptions): [id: number, value: number][] {
  const flowControl = flowControlSettings(options);
  // Safari wants flow control where it is told of more than one session.
  const safariSessions = flowControl.length > 0 ? options.maxSessions : 1;
  return [
    ...COMMON_SETTINGS.map(([id, value]): [number, number] => [id, value]),
    [SettingId.webTransportMaxSessionsDraft07, options.maxSessions],
    [SettingId.webTransportMaxSessions, Math.min(safariSessions, options.maxSessions)],
    ...flowControl,
  ];
}

/**
 * Lists what a client sends, so that servers of every draft in use accept it.
 *
 * @param options See {@linkcode ClientSettingsOptions}.
 * @returns Pairs of id and value for {@linkcode encodeSettings}.
 */
export function clientSettings(options: ClientSettingsOptions): [id: number, value: number][] {
  return serverSettings({ ...options, maxSessions: 1 });
}

/**
 * Tells whether a peer speaks WebTransport, in any draft.
 *
 * @param settings What the peer sent.
 * @returns Whether it announces both WebTransport and HTTP datagrams.
 */
export function supportsWebTransport(settings: Settings): boolean {
  const has = (id: number): boolean => (settings.get(id) ?? 0) > 0;
  return WEB_TRANSPORT_IDS.some(has) &&
    (has(SettingId.h3Datagram) || has(SettingId.h3DatagramDraft04));
}

/**
 * Reads the limits that a peer starts a session with. Flow control is on only
 * if both ends announce some.
 *
 * @param settings What the peer sent.
 * @returns The limits; `undefined` if the peer announces none, or only zeros.
 */
export function flowControlOf(settings: Settings): FlowControlLimits | undefined {
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
