/**
 * The messages that negotiate a version and exchange parameters: gomoqt's SESSION_CLIENT and
 * SESSION_SERVER, CLIENT_SETUP and SERVER_SETUP of the IETF's draft 14, and SETUP of moq-lite-05.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 * @see {@link https://datatracker.ietf.org/doc/draft-ietf-moq-transport/14/ | Media over QUIC Transport, draft 14}
 *
 * @module
 */
import { decodeMessage, type FieldReader, FieldWriter } from "./bytes.ts";
import { BidiType, SERVER_SETUP, UniType } from "./stream_types.ts";
import type { VersionTraits } from "./versions.ts";

/** Parameters of a setup message, at most, as in moq-rs. */
export const MAX_PARAMETERS = 64;

/** Versions that a client may offer in a setup message. */
const MAX_OFFERED_VERSIONS = 64;

/** The largest body of draft 14, whose length has two bytes. */
const MAX_COMPAT_BYTES = 0xffff;

/** Parameters of a setup message: number to bytes. */
export type MoqParameters = ReadonlyMap<number, Uint8Array>;

/** The offer of a client: SESSION_CLIENT of gomoqt, or CLIENT_SETUP. */
export interface ClientSetup {
  /** The numbers of the versions, the best first. */
  readonly versions: readonly number[];
  /** Parameters of the client. */
  readonly parameters: MoqParameters;
}

/** The choice of a server: SESSION_SERVER of gomoqt, or SERVER_SETUP. */
export interface ServerSetup {
  /** The number of the version. */
  readonly version: number;
  /** Parameters of the server. */
  readonly parameters: MoqParameters;
}

/**
 * Encodes SESSION_CLIENT after a length, or CLIENT_SETUP after a type and length.
 *
 * @param setup The offer. In CLIENT_SETUP, a parameter with an even number is one varint, without a
 * length.
 * @param traits A version that this message negotiates.
 * @returns The message.
 * @throws {RangeError} If a number is too large, or CLIENT_SETUP would have more than 65,535 bytes.
 *
 * @example Usage
 * ```ts
 * import { encodeClientSetup } from "./setup_messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const traits = VERSIONS["gomoqt-dev"];
 * const parameters = new Map([[1, new TextEncoder().encode("/moq")]]);
 * const bytes = encodeClientSetup({ versions: [traits.code], parameters }, traits);
 * assertEquals(bytes.toHex(), "1001c0000000feedbabe0101042f6d6f71");
 * ```
 */
export function encodeClientSetup(setup: ClientSetup, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().varint(setup.versions.length);
  for (const version of setup.versions) fields.varint(version);
  return setupMessage(fields, setup.parameters, traits, BidiType.clientSetup);
}

/**
 * Decodes the body of SESSION_CLIENT or CLIENT_SETUP.
 *
 * @param body The bytes after the length.
 * @param traits A version that this message negotiates.
 * @returns The offer.
 * @throws {ProtocolError} If the body is malformed, or has too many versions or parameters.
 */
export function decodeClientSetup(body: Uint8Array, traits: VersionTraits): ClientSetup {
  return decodeMessage(body, "the client's setup", (fields) => {
    const count = fields.varint();
    if (count > MAX_OFFERED_VERSIONS) {
      throw fields.fault(`at most ${MAX_OFFERED_VERSIONS} versions are read, received ${count}`);
    }
    // A number that is too large for this end is no version of this end either.
    const versions = Array.from({ length: count }, () => fields.limit());
    return { versions, parameters: readParameters(fields, traits) };
  });
}

/**
 * Encodes SESSION_SERVER after a length, or SERVER_SETUP after a type and length.
 *
 * @param setup The choice.
 * @param traits A version that this message negotiates.
 * @returns The message.
 * @throws {RangeError} If a number is too large, or SERVER_SETUP would have more than 65,535 bytes.
 */
export function encodeServerSetup(setup: ServerSetup, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().varint(setup.version);
  return setupMessage(fields, setup.parameters, traits, SERVER_SETUP);
}

/**
 * Decodes the body of SESSION_SERVER or SERVER_SETUP.
 *
 * @param body The bytes after the length.
 * @param traits A version that this message negotiates.
 * @returns The choice.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeServerSetup(body: Uint8Array, traits: VersionTraits): ServerSetup {
  return decodeMessage(body, "the server's setup", (fields) => {
    const version = fields.limit();
    return { version, parameters: readParameters(fields, traits) };
  });
}

/**
 * Encodes SETUP of moq-lite-05, the only message of a stream.
 *
 * @param parameters The parameters of this end.
 * @returns The type of the stream, and the message with the length in front.
 */
export function encodeSetupStream(parameters: MoqParameters): Uint8Array {
  const fields = new FieldWriter();
  writePlainParameters(fields, parameters);
  return fields.finishSized(UniType.setup);
}

/**
 * Decodes the body of SETUP of moq-lite-05.
 *
 * @param body The bytes after the length.
 * @returns The parameters of the peer.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeSetupStream(body: Uint8Array): MoqParameters {
  return decodeMessage(body, "SETUP", readPlainParameters);
}

/**
 * Encodes SESSION_UPDATE.
 *
 * @param bitrate The bitrate, in kilobits a second on gomoqt and in bits a second on moq-lite.
 * @returns The message, with the length in front.
 * @throws {RangeError} If the number is too large.
 */
export function encodeSessionUpdate(bitrate: number): Uint8Array {
  return new FieldWriter().varint(bitrate).finishSized();
}

/**
 * Decodes the body of SESSION_UPDATE.
 *
 * @param body The bytes after the length.
 * @returns The bitrate, in the unit of {@linkcode encodeSessionUpdate}.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeSessionUpdate(body: Uint8Array): number {
  return decodeMessage(body, "SESSION_UPDATE", (fields) => fields.limit());
}

function setupMessage(
  fields: FieldWriter,
  parameters: MoqParameters,
  { setup }: VersionTraits,
  type: number,
): Uint8Array {
  if (setup === "session") {
    writePlainParameters(fields, parameters);
    return fields.finishSized();
  }
  writeCompatParameters(fields, parameters);
  const body = fields.finish();
  const { byteLength } = body;
  if (byteLength > MAX_COMPAT_BYTES) {
    throw new RangeError(
      `Cannot write setup: it must have at most ${MAX_COMPAT_BYTES} bytes, received ${byteLength}`,
    );
  }
  // Draft 14 of the IETF: the length has two bytes.
  return new FieldWriter().varint(type).u8(byteLength >>> 8).u8(byteLength & 0xff).raw(body)
    .finish();
}

function readParameters(fields: FieldReader, { setup }: VersionTraits): MoqParameters {
  return setup === "session" ? readPlainParameters(fields) : readCompatParameters(fields);
}

function writePlainParameters(fields: FieldWriter, parameters: MoqParameters): void {
  fields.varint(parameters.size);
  for (const [key, value] of parameters) fields.varint(key).sized(value);
}

function readPlainParameters(fields: FieldReader): MoqParameters {
  return readPairs(fields, () => fields.sized());
}

/** Draft 14 of the IETF: even keys have a varint, odd keys a length and bytes. */
function writeCompatParameters(fields: FieldWriter, parameters: MoqParameters): void {
  fields.varint(parameters.size);
  for (const [key, value] of parameters) {
    fields.varint(key);
    if (key % 2 === 0) fields.raw(value);
    else fields.sized(value);
  }
}

function readCompatParameters(fields: FieldReader): MoqParameters {
  return readPairs(fields, (key) => {
    if (key % 2n === 1n) return fields.sized();
    return new FieldWriter().varint62(fields.varint62()).finish();
  });
}

function readPairs(fields: FieldReader, read: (key: bigint) => Uint8Array): MoqParameters {
  const count = fields.varint();
  if (count > MAX_PARAMETERS) {
    throw fields.fault(`at most ${MAX_PARAMETERS} parameters are read, received ${count}`);
  }
  const parameters = new Map<number, Uint8Array>();
  for (let i = 0; i < count; i++) {
    const key = fields.varint62();
    const value = read(key);
    // This end cannot know a parameter with such a number: skipped like other unknown parameters.
    if (key > BigInt(Number.MAX_SAFE_INTEGER)) continue;
    if (parameters.has(Number(key))) throw fields.fault(`parameter ${key} came twice`);
    parameters.set(Number(key), value);
  }
  return parameters;
}
