/** Producers and the items of their outboxes, in memory and in a store. */
import { decodeBinary, type EncodedMessage, encodeMessage } from "../../session/wire/encode.ts";
import { MAX_PRODUCER_NUMBER, PRODUCER_NAME } from "../../session/wire/producer.ts";
import { keyIn } from "./keys.ts";
import { jsonIn } from "./reading.ts";
import type { StoreEntry } from "./store.ts";

/** Largest record of a producer, in bytes. */
const MAX_RECORD_BYTES = 1_024;

const NEWLINE = 10;

const KINDS = ["message", "publication", "request"] as const;

/** A promise to settle. Pages may be compiled without the type `PromiseWithResolvers`. */
interface Settling {
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: unknown) => void;
}

/** A message, publication or request that waits until the server has handled it. */
export interface KeptItem extends EncodedMessage {
  readonly kind: typeof KINDS[number];
  /** Its number. The numbers of a producer increase. */
  readonly seq: number;
  /** The time of the call, in milliseconds since the Unix epoch. */
  readonly calledAt: number;
  /** True if the client doesn't receive the publication itself. */
  readonly isQuiet: boolean;
  /** Settles with the reply, if the page that made the call still waits for it. */
  readonly reply?: Settling | undefined;
  /** True if a session of this page has accepted it. */
  isSent?: boolean | undefined;
  isStored?: boolean | undefined;
  isRemoved?: boolean | undefined;
}

/** The calls of one page, in the order in which they are sent. */
export class Producer {
  /** The producer's name in the store, which never changes. */
  readonly id: string;
  /** The name by which the server knows the producer. */
  name: string;
  /** The time of the page, in milliseconds since the Unix epoch; later pages have later times. */
  since: number;
  /** Number of times that another page has taken over the producer. */
  epoch = 0;
  /** All numbers up to this one are acknowledged. */
  acked = 0;
  /** No number above this one was ever sent. */
  sent = 0;
  /** The newest number. */
  last = 0;
  /** The items that wait, in order. */
  readonly items: KeptItem[] = [];

  constructor({ id, name = id, since }: {
    readonly id: string;
    readonly name?: string;
    readonly since: number;
  }) {
    this.id = id;
    this.name = name;
    this.since = since;
  }

  /** Adds an item that has a higher number than the last one. */
  add(item: KeptItem): void {
    this.last = item.seq;
    this.items.push(item);
  }

  /** Returns the index of the first item with a number above another one. */
  indexAfter(seq: number): number {
    let [low, high] = [0, this.items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle]!.seq <= seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Removes an item. Returns false if it was removed before. */
  remove(item: KeptItem): boolean {
    if (item.isRemoved) return false;
    item.isRemoved = true;
    this.items.splice(this.indexAfter(item.seq - 1), 1);
    return true;
  }
}

/** A random name: 128 bits in base64url. */
export function randomName(bytes: Uint8Array<ArrayBuffer>): string {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_")
    .replaceAll("=", "");
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

const isNumber = (value: unknown): value is number =>
  Number.isInteger(value) && value as number >= 0 && value as number < MAX_PRODUCER_NUMBER;

const isTime = (value: unknown): value is number => Number.isFinite(value) && value as number >= 0;

/** Parses JSON. Returns an empty object for anything but an object. */
function objectIn(bytes: Uint8Array): Readonly<Record<string, unknown>> {
  const value = jsonIn(bytes);
  return typeof value === "object" && value !== null ? value as Record<string, unknown> : {};
}

/** Encodes what the store has about a producer, except its items. */
export function recordOf({ id, name, since, epoch, acked, sent }: Producer): StoreEntry {
  const value = utf8(JSON.stringify({ name, since, epoch, acked, sent }));
  return { key: keyIn("producers", id), value };
}

/** Reads the record of a producer. Returns `undefined` if it is damaged. */
export function producerIn(id: string, value: Uint8Array): Producer | undefined {
  if (value.length > MAX_RECORD_BYTES || !PRODUCER_NAME.test(id)) return undefined;
  const { name, since, epoch, acked, sent } = objectIn(value);
  if (typeof name !== "string" || !PRODUCER_NAME.test(name) || !isTime(since)) return undefined;
  if (!isNumber(epoch) || !isNumber(acked) || !isNumber(sent) || acked > sent) return undefined;
  return Object.assign(new Producer({ id, name, since }), { epoch, acked, sent });
}

/** Encodes an item: a line of JSON, and then the envelope. */
export function entryOf({ id }: Producer, item: KeptItem): StoreEntry {
  const { kind, calledAt, isQuiet, frame, seq } = item;
  const isBinary = typeof frame !== "string";
  const head = utf8(
    JSON.stringify({
      kind,
      calledAt,
      isQuiet: isQuiet || undefined,
      isBinary: isBinary || undefined,
    }) +
      "\n",
  );
  const body = isBinary ? frame : utf8(frame);
  const value = new Uint8Array(head.length + body.length);
  value.set(head);
  value.set(body, head.length);
  return { key: keyIn("items", id, seq), value };
}

/**
 * Reads an item, which may be anybody's bytes. Its envelope is encoded again from its topic and data,
 * so that it can have nothing else.
 *
 * @param seq The number in the key.
 * @param maxBytes The maximum size of a message, in bytes.
 * @returns The item; `undefined` if it is damaged.
 */
export function itemIn(seq: number, value: Uint8Array, maxBytes: number): KeptItem | undefined {
  const end = value.indexOf(NEWLINE);
  const { kind, calledAt, isQuiet = false, isBinary = false } = objectIn(value.subarray(0, end));
  const known = KINDS.find((one) => one === kind);
  if (end < 0 || !isNumber(seq) || known === undefined || !isTime(calledAt)) return undefined;
  const { topic, data } = isBinary
    ? binaryIn(value.subarray(end + 1))
    : objectIn(value.subarray(end + 1));
  if (typeof topic !== "string") return undefined;
  try {
    const message = encodeMessage(topic, data, { maxBytes });
    return { ...message, kind: known, seq, calledAt, isQuiet: isQuiet === true, isStored: true };
  } catch {
    return undefined; // The topic isn't one, or the message is larger than this client sends.
  }
}

function binaryIn(frame: Uint8Array): { readonly topic?: unknown; readonly data?: unknown } {
  const { head = "", data } = decodeBinary(frame) ?? {};
  return { topic: objectIn(utf8(head)).topic, data };
}

/** Returns the data of an item, for the application. */
export function dataOf({ frame }: EncodedMessage): unknown {
  return typeof frame === "string" ? JSON.parse(frame).data : decodeBinary(frame)?.data;
}
