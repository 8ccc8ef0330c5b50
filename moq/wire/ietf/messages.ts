/**
 * The messages of the IETF's drafts 18, 20 and 22: a type, a length of two bytes, and the fields.
 * `encode…` functions write the whole message, `decode…` functions take the fields after the
 * length.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-ietf-moq-transport/18/ | Media over QUIC Transport, draft 18}
 *
 * @module
 */
import { ProtocolError } from "../../../errors.ts";
import { decodeMessage, type FieldReader, FieldWriter } from "../fields.ts";
import { LEADING_INTEGERS } from "../integers.ts";
import { type MessageReader, TruncatedError } from "../message_reader.ts";
import type { MoqParameters } from "../messages.ts";
import { MoqError, MOQT_REQUEST_CODES } from "../errors.ts";
import type { BroadcastPath } from "../path.ts";
import type { DraftTraits } from "../versions.ts";
import { MAX_NAME_BYTES, readNamespace, readTrackName, writeNamespace } from "./names.ts";
import {
  decodeToken,
  type DraftParameters,
  hasUnknownProperty,
  MAX_DRAFT_PARAMETERS,
  type MoqToken,
  readPairs,
  readParameters,
  SCOPES,
  writePairs,
  writeParameters,
} from "./parameters.ts";

/** The types of messages, and of the streams that begin with them. */
export const DraftType = {
  requestUpdate: 0x02,
  subscribe: 0x03,
  subscribeOk: 0x04,
  requestError: 0x05,
  publishNamespace: 0x06,
  requestOk: 0x07,
  namespace: 0x08,
  publishDone: 0x0b,
  trackStatus: 0x0d,
  namespaceDone: 0x0e,
  goaway: 0x10,
  fetch: 0x16,
  publish: 0x1d,
  publishState: 0x22,
  subscribeNamespace: 0x50,
  subscribeTracks: 0x51,
  setup: 0x2f00,
} as const;

/** The types of unidirectional streams besides SETUP and subgroups. */
export const DraftStream = {
  /** Objects of a fetch. */
  fetch: 0x05,
  /** Zeros, to measure the path. */
  padding: 0x132b_3e28,
} as const;

/** The longest reason in words, in bytes. */
const MAX_REASON_BYTES = 1_024;

/** The longest URI of GOAWAY, in bytes. */
const MAX_URI_BYTES = 8_192;

/** A message whose fields were not decoded yet. */
export interface DraftMessage {
  readonly type: number;
  readonly body: Uint8Array;
}

/**
 * Reads a message.
 *
 * @returns The message; `undefined` at the end of the stream.
 * @throws {TruncatedError} If the stream ends inside the message.
 */
export async function readDraftMessage(reader: MessageReader): Promise<DraftMessage | undefined> {
  const type = await reader.varint();
  return type === undefined ? undefined : { type, body: await readDraftBody(reader) };
}

/** Reads the length and the fields of a message. */
export async function readDraftBody(reader: MessageReader): Promise<Uint8Array> {
  const [high, low] = await reader.bytes(2);
  return await reader.bytes(high! << 8 | low!);
}

function finish(type: number, fields: FieldWriter): Uint8Array<ArrayBuffer> {
  return fields.finishDraft(type, "message");
}

function newFields(): FieldWriter {
  return new FieldWriter(LEADING_INTEGERS);
}

function decode<T>(body: Uint8Array, name: string, read: (fields: FieldReader) => T): T {
  return decodeMessage(body, name, read, LEADING_INTEGERS);
}

/** The numbers of the options of SETUP. */
export const SetupOption = {
  path: 0x01,
  token: 0x03,
  authority: 0x05,
  implementation: 0x07,
} as const;

/** The options of SETUP that must not be repeated. */
const KNOWN_OPTIONS: readonly number[] = [1, 4, 5, 6, 7, 8];

/** The first message of each control stream. */
export interface DraftSetup {
  /** Options by number; the value of an even number is an encoded integer. */
  readonly options: MoqParameters;
  /** The tokens, which may be repeated. */
  readonly tokens: readonly MoqToken[];
}

/** Encodes SETUP; tokens are among the options. */
export function encodeDraftSetup(options: MoqParameters): Uint8Array {
  const fields = newFields();
  writePairs(fields, options);
  return finish(DraftType.setup, fields);
}

export function decodeDraftSetup(body: Uint8Array): DraftSetup {
  const options = new Map<number, Uint8Array>();
  const tokens: MoqToken[] = [];
  decode(body, "SETUP", (fields) =>
    readPairs(fields, MAX_DRAFT_PARAMETERS, (number, value) => {
      if (number === SetupOption.token) tokens.push(decodeToken(value, true));
      else if (options.has(number) && KNOWN_OPTIONS.includes(number)) {
        throw fields.fault(`expected option ${number} once, received it again`);
      } else options.set(number, value.slice());
    }));
  return { options, tokens };
}

/** The request to leave a session. */
export interface DraftGoaway {
  /** The URI to connect to instead; empty for the same one. */
  readonly uri: string;
  /** The time after which the session closes, in milliseconds; 0 for no limit. */
  readonly timeoutMs: number;
  /** The first request that was not handled, in drafts that send it. */
  readonly requestId: number;
}

export function encodeDraftGoaway(message: DraftGoaway, draft: DraftTraits): Uint8Array {
  const fields = newFields().string(message.uri).varint(message.timeoutMs);
  if (draft.goawayRequestId) fields.varint(message.requestId);
  return finish(DraftType.goaway, fields);
}

export function decodeDraftGoaway(body: Uint8Array, draft: DraftTraits): DraftGoaway {
  return decode(body, "GOAWAY", (fields) => {
    const uri = fields.string();
    if (uri.length > MAX_URI_BYTES) {
      throw fields.fault(`a URI has at most ${MAX_URI_BYTES} bytes`);
    }
    const timeoutMs = fields.limit();
    // GOAWAY of a single request has no id.
    const hasId = draft.goawayRequestId && fields.left > 0;
    return { uri, timeoutMs, requestId: hasId ? fields.limit() : 0 };
  });
}

/** A request for a track, or the offer of one. */
export interface TrackRequestMessage {
  readonly requestId: number;
  /** The broadcast; `undefined` for a namespace that no path can tell apart. */
  readonly path: BroadcastPath | undefined;
  /** The track; `undefined` for a name that is not UTF-8. */
  readonly track: string | undefined;
  readonly parameters: DraftParameters;
}

/** A request for a track, as this side sends it. */
export interface NamedTrackRequest extends TrackRequestMessage {
  readonly path: BroadcastPath;
  readonly track: string;
}

function writeTrack(
  fields: FieldWriter,
  { path, track }: { readonly path: BroadcastPath; readonly track: string },
): void {
  writeNamespace(fields, path);
  fields.string(track);
}

export function encodeDraftSubscribe(message: NamedTrackRequest, draft: DraftTraits): Uint8Array {
  const fields = newFields().varint(message.requestId);
  writeTrack(fields, message);
  writeParameters(fields, message.parameters, draft);
  return finish(DraftType.subscribe, fields);
}

export function decodeDraftSubscribe(body: Uint8Array, draft: DraftTraits): TrackRequestMessage {
  return decode(body, "SUBSCRIBE", (fields) => ({
    requestId: fields.varint(),
    path: readNamespace(fields),
    track: readTrackName(fields),
    parameters: readParameters(fields, draft, SCOPES.subscribe),
  }));
}

/** The response to SUBSCRIBE. */
export interface SubscribeOkMessage {
  /** The number of the track in heads of groups. */
  readonly alias: number;
  readonly parameters: DraftParameters;
  /** True if the track has a mandatory property that this side does not know. */
  readonly isUnsupported: boolean;
}

export function encodeSubscribeOk(
  { alias, parameters }: Omit<SubscribeOkMessage, "isUnsupported">,
  draft: DraftTraits,
): Uint8Array {
  const fields = newFields().varint(alias);
  writeParameters(fields, parameters, draft);
  return finish(DraftType.subscribeOk, fields);
}

export function decodeSubscribeOk(body: Uint8Array, draft: DraftTraits): SubscribeOkMessage {
  return decode(body, "SUBSCRIBE_OK", (fields) => ({
    alias: fields.varint(),
    parameters: readParameters(fields, draft),
    isUnsupported: hasUnknownProperty(fields),
  }));
}

/** The offer of a track. */
export interface PublishMessage extends TrackRequestMessage, SubscribeOkMessage {}

export function encodeDraftPublish(
  message: NamedTrackRequest & { readonly alias: number },
  draft: DraftTraits,
): Uint8Array {
  const fields = newFields().varint(message.requestId);
  writeTrack(fields, message);
  fields.varint(message.alias);
  writeParameters(fields, message.parameters, draft);
  return finish(DraftType.publish, fields);
}

export function decodeDraftPublish(body: Uint8Array, draft: DraftTraits): PublishMessage {
  return decode(body, "PUBLISH", (fields) => ({
    requestId: fields.varint(),
    path: readNamespace(fields),
    track: readTrackName(fields),
    alias: fields.varint(),
    parameters: readParameters(fields, draft),
    isUnsupported: hasUnknownProperty(fields),
  }));
}

/** A change of a request. */
export interface RequestUpdateMessage {
  readonly requestId: number;
  readonly parameters: DraftParameters;
}

export function encodeRequestUpdate(message: RequestUpdateMessage, draft: DraftTraits): Uint8Array {
  const fields = newFields().varint(message.requestId);
  writeParameters(fields, message.parameters, draft);
  return finish(DraftType.requestUpdate, fields);
}

export function decodeRequestUpdate(body: Uint8Array, draft: DraftTraits): RequestUpdateMessage {
  return decode(body, "REQUEST_UPDATE", (fields) => ({
    requestId: fields.varint(),
    parameters: readParameters(fields, draft, SCOPES.update),
  }));
}

/** Encodes the response to any request except SUBSCRIBE. */
export function encodeRequestOk(parameters: DraftParameters, draft: DraftTraits): Uint8Array {
  const fields = newFields();
  writeParameters(fields, parameters, draft);
  return finish(DraftType.requestOk, fields);
}

export function decodeRequestOk(body: Uint8Array, draft: DraftTraits): DraftParameters {
  return decode(body, "REQUEST_OK", (fields) => {
    const parameters = readParameters(fields, draft);
    hasUnknownProperty(fields);
    return parameters;
  });
}

/** The rejection of a request. */
export interface RequestErrorMessage {
  readonly code: number;
  /** The time before another attempt, in milliseconds; `undefined` if none should follow. */
  readonly retryMs: number | undefined;
  readonly reason: string;
}

export function encodeRequestError({ code, retryMs, reason }: RequestErrorMessage): Uint8Array {
  const fields = newFields().varint(code).varint(retryMs === undefined ? 0 : retryMs + 1);
  return finish(DraftType.requestError, fields.string(shortened(reason)));
}

export function decodeRequestError(body: Uint8Array): RequestErrorMessage {
  return decode(body, "REQUEST_ERROR", (fields) => {
    const code = fields.limit();
    const retry = fields.limit();
    const reason = readReason(fields);
    // A redirect names another place after the reason.
    if (code === MOQT_REQUEST_CODES.redirect) {
      fields.sized();
      readNamespace(fields);
      readTrackName(fields);
    }
    return { code, retryMs: retry === 0 ? undefined : retry - 1, reason };
  });
}

/** The end of a subscription. */
export interface PublishDoneMessage {
  readonly code: number;
  /** The number of opened data streams; `undefined` if it is unknown. */
  readonly streams: number | undefined;
  readonly reason: string;
}

/** The number of streams of a publisher that does not know it: 2^62 - 1, encoded. */
const UNKNOWN_STREAMS = Uint8Array.fromHex("ff3fffffffffffffff");

export function encodePublishDone({ code, streams, reason }: PublishDoneMessage): Uint8Array {
  const fields = newFields().varint(code);
  if (streams === undefined) fields.raw(UNKNOWN_STREAMS);
  else fields.varint(streams);
  return finish(DraftType.publishDone, fields.string(shortened(reason)));
}

export function decodePublishDone(body: Uint8Array): PublishDoneMessage {
  return decode(body, "PUBLISH_DONE", (fields) => {
    const code = fields.limit();
    const streams = fields.limit();
    const isKnown = streams < Number.MAX_SAFE_INTEGER;
    return { code, streams: isKnown ? streams : undefined, reason: readReason(fields) };
  });
}

/** The offer of a broadcast, or the request for broadcasts below a prefix. */
export interface NamespaceRequest {
  readonly requestId: number;
  /** The path or prefix; `undefined` for a namespace that no path can tell apart. */
  readonly path: BroadcastPath | undefined;
  readonly parameters: DraftParameters;
}

export function encodeNamespaceRequest(
  type: typeof DraftType.publishNamespace | typeof DraftType.subscribeNamespace,
  message: NamespaceRequest & { readonly path: BroadcastPath },
  draft: DraftTraits,
): Uint8Array {
  const fields = newFields().varint(message.requestId);
  writeNamespace(fields, message.path);
  writeParameters(fields, message.parameters, draft);
  return finish(type, fields);
}

export function decodeNamespaceRequest(body: Uint8Array, draft: DraftTraits): NamespaceRequest {
  return decode(body, "a request about a namespace", (fields) => ({
    requestId: fields.varint(),
    path: readNamespace(fields),
    parameters: readParameters(fields, draft, SCOPES.namespace),
  }));
}

/**
 * Encodes the start or end of a broadcast below a requested prefix.
 *
 * @param suffix The path without the prefix.
 */
export function encodeNamespace(isActive: boolean, suffix: string): Uint8Array {
  const fields = newFields();
  writeNamespace(fields, suffix);
  return finish(isActive ? DraftType.namespace : DraftType.namespaceDone, fields);
}

/** Decodes the start or end of a broadcast; `undefined` if no path can tell it apart. */
export function decodeNamespace(body: Uint8Array): BroadcastPath | undefined {
  return decode(body, "NAMESPACE", readNamespace);
}

/** Reads the number of a request that this side does not support. */
export function decodeRequestId(body: Uint8Array): number {
  return decode(body, "a request", (fields) => {
    const requestId = fields.varint();
    fields.raw();
    return requestId;
  });
}

/** Decodes all tokens of a request. */
export function tokensOf({ tokens = [] }: DraftParameters): MoqToken[] {
  return tokens.map((token) => decodeToken(token, false));
}

/**
 * Checks the length of a name before it is sent.
 *
 * @throws {MoqError} If the name is too long for the drafts, or reserved.
 */
export function checkTrackName(path: BroadcastPath, track: string): void {
  const byteLength = new TextEncoder().encode(path + track).byteLength;
  if (byteLength <= MAX_NAME_BYTES) return;
  const message = `Cannot subscribe: path and name must have at most ${MAX_NAME_BYTES} bytes`;
  throw new MoqError("subscribe", "notFound", `${message}, received ${byteLength}`);
}

function readReason(fields: FieldReader): string {
  const bytes = fields.sized();
  if (bytes.byteLength > MAX_REASON_BYTES) {
    throw fields.fault(`a reason has at most ${MAX_REASON_BYTES} bytes`);
  }
  return new TextDecoder().decode(bytes);
}

/** Shortens a reason to the maximum length, whatever the text. */
function shortened(reason: string): string {
  return reason.length <= MAX_REASON_BYTES / 3 ? reason : reason.slice(0, MAX_REASON_BYTES / 3);
}

/** Creates the error of a message that must not come here, or of an early end. */
export function unexpected(message: DraftMessage | undefined, expected: string): ProtocolError {
  return message === undefined
    ? new TruncatedError(`Expected ${expected}, received the end`)
    : new ProtocolError(`Expected ${expected}, received a message of type ${message.type}`);
}
