/**
 * The test vectors of the protocol: their shape, and the comparison of frames.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { ClientCollection, ClientState } from "../../client/state/state.ts";
import { RequestError } from "../../errors.ts";
import { decodeBinary } from "../../session/wire/encode.ts";
import type { passTime } from "../../testing/turns.ts";
import type { Connection, Frame } from "../../transport/connection.ts";
import { settlesSoon, turns } from "../waiting.ts";

/**
 * An envelope in a vector. A text that starts with `$` names a value that is not fixed; `$any`
 * stands for any value.
 */
export type Template = { readonly [key: string]: unknown };

/** One step of a vector. */
export type Step =
  /** One text frame with these envelopes is received. */
  | { readonly receive: readonly Template[] }
  /** One text frame is received, unchanged. */
  | { readonly receiveText: string }
  /** One text frame is received: a text, repeated a number of times. */
  | { readonly receiveRepeated: { readonly text: string; readonly times: number } }
  /** One binary frame is received, in hexadecimal. */
  | { readonly receiveBinary: string }
  /** These envelopes are sent next, in any number of text frames. */
  | { readonly send: readonly Template[] }
  /** These envelopes may be sent next. */
  | { readonly maySend: readonly Template[] }
  /** This binary frame is sent next: in hexadecimal, or split into parts. */
  | { readonly sendBinary: string | { readonly head: Template; readonly data: string } }
  /** The application acts. */
  | { readonly do: { readonly [verb: string]: unknown } }
  /** Exact events that the application has seen since the last such step. */
  | { readonly sees: readonly unknown[] }
  /** The positions of the client, by topic. */
  | { readonly state: { readonly [topic: string]: unknown } }
  /** The rows that the client's application reads, by state and collection. */
  | { readonly rows: { readonly [id: string]: { readonly [collection: string]: unknown } } }
  /** This side closes with the code. */
  | { readonly closes: number }
  /** The peer closes with the code. */
  | { readonly closed: number }
  /** The connection is lost without a close. */
  | { readonly lost: true }
  /** The client connects, and offers these subprotocols. */
  | { readonly connect: readonly string[] }
  /** True if the peer stops reading from this side. */
  | { readonly stalled: boolean }
  /** Time passes, in milliseconds, in which the client opens no connection. */
  | { readonly awayMs: number }
  /** Time passes, in milliseconds. */
  | { readonly waitMs: number }
  /** Steps that are repeated a number of times. */
  | { readonly times: number; readonly steps: readonly Step[] };

/** A change of a row by the application; without a value, the row is deleted. */
export type VectorChange = readonly [collection: string, key: string, value?: unknown];

/** One vector: received frames, sent frames, and the final state. */
export interface Vector {
  /** Title of the shown behavior. */
  readonly name: string;
  /** The numbered rules of the protocol that the vector shows. */
  readonly rules: readonly string[];
  /** The settings of the end under test. */
  readonly given?: Readonly<Record<string, unknown>>;
  /** Steps, in order. */
  readonly steps: readonly Step[];
}

export interface VectorFile {
  /** The end under test. */
  readonly end: "client" | "server";
  /** The vectors, each on separate connections. */
  readonly vectors: readonly Vector[];
}

/** Steps in which time passes: the shortest pauses of an end are some hundred milliseconds. */
const STEPS = 25;

const ANY = "$any";

/** Steps in which a frame is received. */
type Receiving = Extract<
  Step,
  | { readonly receive: unknown }
  | { readonly receiveText: unknown }
  | { readonly receiveRepeated: unknown }
  | { readonly receiveBinary: unknown }
>;

const FOLDER = new URL("../../docs/protocol/vectors/", import.meta.url);

/**
 * Reads all files of vectors for one end.
 *
 * @returns The file names and the contents.
 */
export function vectorFiles(end: VectorFile["end"]): [name: string, file: VectorFile][] {
  return [...Deno.readDirSync(FOLDER)].map(({ name }) => name).sort()
    .filter((name) => name.endsWith(".json"))
    .map((name): [string, VectorFile] => [
      name,
      JSON.parse(Deno.readTextFileSync(new URL(name, FOLDER))),
    ])
    .filter(([, file]) => file.end === end);
}

/**
 * Unrolls repeated steps.
 *
 * @param steps Steps of a vector.
 * @returns Single steps, each with a readable label.
 */
export function unrolled(steps: readonly Step[]): [step: Step, where: string][] {
  return steps.flatMap((step, i): [Step, string][] => {
    if (!("times" in step)) return [[step, `step ${i}: ${JSON.stringify(step)}`]];
    return Array.from(
      { length: step.times },
      (_, time) =>
        unrolled(step.steps).map(([one, where]): [Step, string] => [
          one,
          `step ${i}, time ${time}, ${where}`,
        ]),
    ).flat();
  });
}

/** The values that the names in one vector stand for. */
export class Names {
  readonly #values = new Map<string, unknown>();

  /** Replaces names by their values. */
  fill(template: unknown): unknown {
    if (typeof template === "string") {
      return this.#values.get(template) ?? template;
    }
    if (Array.isArray(template)) return template.map((item) => this.fill(item));
    if (typeof template !== "object" || template === null) return template;
    return Object.fromEntries(
      Object.entries(template).map(([key, value]) => [key, this.fill(value)]),
    );
  }

  /**
   * Checks a value against a template. A name without a value is bound to the value at its
   * position. `"...": true` in an object allows other keys.
   *
   * @param actual The value.
   * @param where Readable label of the checked value.
   */
  check(actual: unknown, template: unknown, where: string): void {
    this.#bind(actual, template);
    assertEquals(reduce(actual, template), this.fill(withoutRest(template)), where);
  }

  #bind(actual: unknown, template: unknown): void {
    if (typeof template === "string" && template.startsWith("$") && !this.#values.has(template)) {
      if (template === ANY) return;
      if (actual !== undefined) this.#values.set(template, actual);
    } else if (typeof template === "object" && template !== null) {
      if (typeof actual !== "object" || actual === null) return;
      for (const [key, value] of Object.entries(template)) {
        this.#bind((actual as Template)[key], value);
      }
    }
  }
}

/**
 * Creates the frame of a receiving step.
 *
 * @param names Values of the names.
 * @returns The frame; `undefined` for any other step.
 */
export function frameOf(step: Step, names: Names): Frame | undefined {
  if (!isReceiving(step)) return undefined;
  if ("receive" in step) {
    return step.receive.map((template) => JSON.stringify(names.fill(template))).join("\n");
  }
  if ("receiveText" in step) return step.receiveText;
  if ("receiveRepeated" in step) {
    return step.receiveRepeated.text.repeat(step.receiveRepeated.times);
  }
  return Uint8Array.fromHex(step.receiveBinary);
}

function isReceiving(step: Step): step is Receiving {
  return Object.keys(step).some((key) => key.startsWith("receive"));
}

/**
 * Checks a sent binary frame.
 *
 * @param expected The frame in hexadecimal, or its head and its data.
 * @param options Values of the names, and a readable label of the checked frame.
 */
export function checkBinary(
  frame: Template | Uint8Array | undefined,
  expected: string | { readonly head: Template; readonly data: string },
  { names, where }: { readonly names: Names; readonly where: string },
): void {
  assert(frame instanceof Uint8Array, `${where}: expected a binary frame, received ${frame}`);
  if (typeof expected === "string") return assertEquals(frame.toHex(), expected, where);
  const parts = decodeBinary(frame);
  assert(parts !== undefined, `${where}: expected a binary message, received ${frame.toHex()}`);
  names.check(JSON.parse(parts.head), expected.head, where);
  assertEquals(parts.data.toHex(), expected.data, where);
}

/**
 * Converts a vector's data for the application: `{"hex"}` becomes bytes, and `{"text", "times"}` a
 * repeated text.
 *
 * @returns Data of the application.
 */
export function fromVector(data: unknown): unknown {
  if (!isObject(data)) return data;
  if (typeof data.hex === "string") return Uint8Array.fromHex(data.hex);
  return typeof data.times === "number" ? String(data.text).repeat(data.times) : data;
}

/**
 * Converts an application's data for a vector: bytes become `{"hex"}`, and absent members are
 * omitted.
 *
 * @param event The data of the application.
 * @returns The data of the vector.
 */
export function withHex({ data }: { readonly data: unknown }): { readonly data?: unknown } {
  if (data === undefined) return {};
  return { data: data instanceof Uint8Array ? { hex: data.toHex() } : data };
}

/**
 * Writes a row, or several in one transaction, as the application does.
 *
 * @returns The version of the rows.
 */
export async function writeRows(
  state: Pick<ClientState, "transaction"> & {
    collection(name: string): Pick<ClientCollection, "delete" | "set">;
  },
  changes: readonly VectorChange[],
): Promise<number> {
  const [[name, row, ...value], ...others] = changes as [VectorChange, ...VectorChange[]];
  if (others.length === 0) {
    const collection = state.collection(name);
    return await (value.length > 0 ? collection.set(row, value[0]) : collection.delete(row));
  }
  return await state.transaction((transaction) => {
    for (const [collection, key, ...values] of changes) {
      if (values.length > 0) transaction.set(collection, key, values[0]);
      else transaction.delete(collection, key);
    }
  });
}

/**
 * Removes keys that a template with `"..."` does not name, and a client's name in a `subscribe`.
 */
function reduce(actual: unknown, template: unknown): unknown {
  if (template === ANY && actual !== undefined) return ANY;
  if (Array.isArray(actual) && Array.isArray(template)) {
    return actual.map((item, i) => reduce(item, template[i]));
  }
  if (!isObject(actual) || !isObject(template)) return actual;
  const keys = template["..."] === true
    ? Object.keys(template)
    : Object.keys(actual).filter((key) => key !== "client" || !actual.subscribe || key in template);
  return Object.fromEntries(
    keys.filter((key) => key !== "..." && key in actual)
      .map((key) => [key, reduce(actual[key], template[key])]),
  );
}

function withoutRest(template: unknown): unknown {
  if (Array.isArray(template)) return template.map(withoutRest);
  if (!isObject(template)) return template;
  return Object.fromEntries(
    Object.entries(template).filter(([key]) => key !== "...")
      .map(([key, value]) => [key, withoutRest(value)]),
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Advances time in a few steps, so that an envelope caused by a timer is answered before the next
 * one is sent.
 *
 * @param time The time of the test.
 * @param ms The time to advance, in milliseconds.
 */
export async function elapse(time: Parameters<typeof passTime>[0], ms: number): Promise<void> {
  await turns();
  const step = Math.max(1, Math.ceil(ms / STEPS));
  for (let left = ms; left > 0; left -= step) {
    await time.tickAsync(Math.min(step, left));
    await turns();
  }
}

/**
 * Checks that a connection is closed.
 *
 * @param code The expected code.
 * @param where Readable label of the check.
 */
export async function checkClosed(
  { closed }: Pick<Connection, "closed">,
  code: number,
  where: string,
): Promise<void> {
  assert(await settlesSoon(closed), `${where}: the connection is open`);
  assertEquals((await closed).closeCode, code, where);
}

/** Reads sent frames one by one: envelopes of text frames, or whole binary frames. */
export class Outgoing {
  readonly #frames: readonly Frame[];
  #frame = 0;
  #lines: string[] = [];

  /**
   * Reads a growing list of frames.
   *
   * @param frames The list.
   */
  constructor(frames: readonly Frame[]) {
    this.#frames = frames;
  }

  /** True if the next frame has arrived. */
  get hasNext(): boolean {
    return this.#lines.length > 0 || this.#frame < this.#frames.length;
  }

  /** The next envelope or binary frame; `undefined` before the next one arrives. */
  next(): Template | Uint8Array | undefined {
    while (this.#lines.length === 0) {
      const frame = this.#frames[this.#frame];
      if (frame === undefined) return undefined;
      this.#frame++;
      if (typeof frame !== "string") return frame;
      this.#lines = frame.split("\n");
    }
    return JSON.parse(this.#lines.shift()!);
  }

  /**
   * Removes the next envelope if the check passes.
   *
   * @param fits Checks an envelope, and throws on a mismatch.
   */
  take(fits: (next: Template | Uint8Array | undefined) => void): void {
    const frame = this.#frame;
    const lines = [...this.#lines];
    try {
      fits(this.next());
    } catch {
      this.#frame = frame;
      this.#lines = lines;
    }
  }

  /** The remaining frames. */
  rest(): (Template | string)[] {
    const all: (Template | string)[] = [];
    for (let next; (next = this.next()) !== undefined;) {
      all.push(next instanceof Uint8Array ? next.toHex() : next);
    }
    return all;
  }
}

/**
 * The streaming response to a message on `count`.
 *
 * @param data The data of the message.
 * @returns The numbers from 0 to `data` - 1. If the data is not a number, the response is bytes,
 * then a rejection.
 */
export async function* countTo(data: unknown): AsyncGenerator<unknown, void, undefined> {
  if (typeof data === "number") {
    for (let n = 0; n < data; n++) yield n;
    return;
  }
  yield Uint8Array.of(1, 2, 255);
  throw new RequestError("denied", "Not today");
}
