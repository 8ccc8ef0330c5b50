/** Subgroups of the IETF's drafts: the head of a data stream, and the objects after it. */
import { ProtocolError } from "../../../errors.ts";
import { LEADING_INTEGERS } from "../integers.ts";
import { type MessageReader, TruncatedError } from "../message_reader.ts";

/** The largest properties of one object to skip, in bytes: as many as one property may have. */
export const MAX_OBJECT_PROPERTY_BYTES = 65_536;

/** The bits of the type of a data stream. */
const SUBGROUP = 0x10;
const PROPERTIES = 0x01;
const ID_MODE = 0x06;
const END_OF_GROUP = 0x08;
const DEFAULT_PRIORITY = 0x20;
const FIRST_OBJECT = 0x40;

/** The values of {@linkcode ID_MODE}. */
const ID_IS_ZERO = 0x00;
const ID_IS_PRESENT = 0x04;
const ID_IS_RESERVED = 0x06;

/** Returns true if the type of a unidirectional stream is that of a subgroup. */
export function isSubgroup(type: number): boolean {
  return type < 0x80 && (type & SUBGROUP) !== 0;
}

/**
 * Encodes the head of a group with one subgroup, whose number is 0. Objects have the priority of
 * the track.
 *
 * @param alias The alias of the track.
 * @param group The number of the group.
 */
export function encodeSubgroupHead(alias: number, group: number): Uint8Array {
  const { length, write } = LEADING_INTEGERS;
  const head = new Uint8Array(1 + length(alias) + length(group));
  head[0] = SUBGROUP | DEFAULT_PRIORITY | FIRST_OBJECT | ID_IS_ZERO;
  write(head, write(head, 1, alias), group);
  return head;
}

/** The head of a data stream. */
export interface SubgroupHead {
  readonly alias: number;
  readonly group: number;
  /** Each object has properties. */
  readonly hasProperties: boolean;
  /** The last object of the stream is the last one of the group, unless the stream is reset. */
  readonly endsGroup: boolean;
}

/**
 * Reads the head of a data stream.
 *
 * @param type The type of the stream.
 * @throws {ProtocolError} If the type is reserved.
 * @throws {TruncatedError} If the stream ends inside the head.
 */
export async function readSubgroupHead(type: number, reader: MessageReader): Promise<SubgroupHead> {
  const mode = type & ID_MODE;
  if (mode === ID_IS_RESERVED) {
    throw new ProtocolError(`Expected a known data stream, received one of type ${type}`);
  }
  const alias = await required(reader);
  const group = await required(reader);
  if (mode === ID_IS_PRESENT) await required(reader);
  if ((type & DEFAULT_PRIORITY) === 0) await reader.bytes(1);
  return {
    alias,
    group,
    hasProperties: (type & PROPERTIES) !== 0,
    endsGroup: (type & END_OF_GROUP) !== 0,
  };
}

async function required(reader: MessageReader): Promise<number> {
  const value = await reader.varint();
  if (value === undefined) throw new TruncatedError("Expected a data stream, received its end");
  return value;
}

export type ObjectStatus = "normal" | "end-of-group" | "end-of-track";

const STATUSES: Readonly<Partial<Record<number, ObjectStatus>>> = {
  0: "normal",
  3: "end-of-group",
  4: "end-of-track",
};

/** An object whose payload was not read yet. */
export interface ObjectHead {
  readonly id: number;
  readonly byteLength: number;
  readonly status: ObjectStatus;
}

/** Reads the heads of objects from a data stream, without waiting for bytes that have arrived. */
export class ObjectReader {
  readonly #reader: MessageReader;
  readonly #hasProperties: boolean;
  #stage: "id" | "size" | "properties" | "length" | "status" = "id";
  #id = -1;
  #propertyBytes = 0;

  constructor(reader: MessageReader, hasProperties: boolean) {
    this.#reader = reader;
    this.#hasProperties = hasProperties;
  }

  /** True between two objects, where a stream may end. */
  get isBetween(): boolean {
    return this.#stage === "id" && this.#reader.held === 0;
  }

  /**
   * Takes the head of the next object if it has arrived completely. The caller must read the
   * payload before the next call.
   *
   * @throws {ProtocolError} If the head is malformed.
   */
  take(): ObjectHead | undefined {
    const reader = this.#reader;
    if (this.#stage === "id") {
      const delta = reader.takeVarint();
      if (delta === undefined) return undefined;
      this.#id += 1 + delta;
      if (!Number.isSafeInteger(this.#id)) throw fault(`a number of up to 53 bits`, this.#id);
      this.#stage = this.#hasProperties ? "size" : "length";
    }
    if (this.#stage === "size") {
      const size = reader.takeVarint();
      if (size === undefined) return undefined;
      if (size > MAX_OBJECT_PROPERTY_BYTES) {
        throw fault(`at most ${MAX_OBJECT_PROPERTY_BYTES} bytes of properties`, size);
      }
      this.#propertyBytes = size;
      this.#stage = "properties";
    }
    if (this.#stage === "properties") {
      if (reader.takeBytes(this.#propertyBytes) === undefined) return undefined;
      this.#stage = "length";
    }
    if (this.#stage === "length") {
      const byteLength = reader.takeVarint();
      if (byteLength === undefined) return undefined;
      if (byteLength > 0) return this.#done(byteLength, "normal");
      this.#stage = "status";
    }
    const code = reader.takeVarint();
    if (code === undefined) return undefined;
    const status = STATUSES[code];
    if (status === undefined) throw fault("a known status", code);
    if (status !== "normal" && this.#propertyBytes > 0) {
      throw fault("no properties beside a status", this.#propertyBytes);
    }
    return this.#done(0, status);
  }

  #done(byteLength: number, status: ObjectStatus): ObjectHead {
    this.#stage = "id";
    this.#propertyBytes = 0;
    return { id: this.#id, byteLength, status };
  }
}

function fault(expected: string, received: number): ProtocolError {
  return new ProtocolError(`Cannot read object: expected ${expected}, received ${received}`);
}
