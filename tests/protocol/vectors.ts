/**
 * The test vectors of the wire: their shape, and how frames are compared.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { decodeBinary } from "../../session/wire/encode.ts";
import { type passTime, settlesSoon, turns } from "../../testing/turns.ts";
import type { Connection, Frame } from "../../transport/connection.ts";

/**
 * An envelope in a vector. A text that begins with `$` names a value that is not fixed; `$any` stands
 * for any value.
 */
export type Template = { readonly [key: string]: unknown };

/** One step of a vector. */
export type Step =
  /** One text frame of these envelopes comes in. */
  | { readonly receive: readonly Template[] }
  /** One text frame comes in, as it is. */
  | { readonly receiveText: string }
  /** One text frame comes in: a text, so many times. */
  | { readonly receiveRepeated: { readonly text: string; readonly times: number } }
  /** One binary frame comes in, in hexadecimal. */
  | { readonly receiveBinary: string }
  /** These envelopes go out next, in any number of text frames. */
  | { readonly send: readonly Template[] }
  /** These envelopes may go out next; it is no fault where they do not. */
  | { readonly maySend: readonly Template[] }
  /** This binary frame goes out next: in hexadecimal, or taken apart. */
  | { readonly sendBinary: string | { readonly head: Template; readonly data: string } }
  /** The application does something. */
  | { readonly do: { readonly [verb: string]: unknown } }
  /** The application has seen exactly this since it was last asked. */
  | { readonly sees: readonly unknown[] }
  /** The positions of the client, by topic. */
  | { readonly state: { readonly [topic: string]: unknown } }
  /** This end closes with the code. */
  | { readonly closes: number }
  /** The peer closes with the code. */
  | { readonly closed: number }
  /** The connection is lost without a close. */
  | { readonly lost: true }
  /** The client connects, and offers these subprotocols. */
  | { readonly connect: readonly string[] }
  /** True if the peer takes no more of this end. */
  | { readonly stalled: boolean }
  /** Time passes, in milliseconds, in which the client opens no connection. */
  | { readonly awayMs: number }
  /** Time passes, in milliseconds. */
  | { readonly waitMs: number }
  /** Steps that are done so many times. */
  | { readonly times: number; readonly steps: readonly Step[] };

/** One vector: frames in, frames out, and the state after. */
export interface Vector {
  /** Names what it shows. */
  readonly name: string;
  /** The numbered rules of the protocol that it shows. */
  readonly rules: readonly string[];
  /** How the end under test is set up. */
  readonly given?: Readonly<Record<string, unknown>>;
  /** In their order. */
  readonly steps: readonly Step[];
}

/** A file of vectors. */
export interface VectorFile {
  /** The end that is tested. */
  readonly end: "client" | "server";
  /** The vectors, each on connections of its own. */
  readonly vectors: readonly Vector[];
}

/** Steps in which time passes: the shortest pauses of an end are some hundred milliseconds. */
const STEPS = 25;

/** Stands for any value. */
const ANY = "$any";

/** Steps by which a frame comes in. */
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
 * @param end The end.
 * @returns The file names and what they hold.
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
 * Takes apart the steps that are done several times.
 *
 * @param steps Steps of a vector.
 * @returns Steps that are done once, each with what it is for people.
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

/** The values that the names of one vector stand for. */
export class Names {
  readonly #values = new Map<string, unknown>();

  /** Puts the values in the place of their names. */
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
   * Checks a value against a template. A name that has no value takes the one that it meets.
   * `"...": true` in an object allows other keys.
   *
   * @param actual The value.
   * @param template What is expected.
   * @param where Says what is checked, for people.
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
 * Makes the frame of a step by which one comes in.
 *
 * @param step The step.
 * @param names What the names in it stand for.
 * @returns The frame; `undefined` if it is another step.
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
 * Checks a binary frame that went out.
 *
 * @param frame What went out.
 * @param expected The frame in hexadecimal, or its head and its data.
 * @param options What names stand for, and what is checked, for people.
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
 * Makes the data of a vector what the application has: `{"hex"}` is bytes, `{"text", "times"}` a text
 * so many times.
 *
 * @param data Data of a vector.
 * @returns Data of the application.
 */
export function fromVector(data: unknown): unknown {
  if (!isObject(data)) return data;
  if (typeof data.hex === "string") return Uint8Array.fromHex(data.hex);
  return typeof data.times === "number" ? String(data.text).repeat(data.times) : data;
}

/**
 * Writes data as vectors have it: bytes are `{"hex"}`, and what is absent is left out.
 *
 * @param event The data of the application.
 * @returns What a vector has for it.
 */
export function withHex({ data }: { readonly data: unknown }): { readonly data?: unknown } {
  if (data === undefined) return {};
  return { data: data instanceof Uint8Array ? { hex: data.toHex() } : data };
}

/** Leaves out what a template with a rest does not name. */
function reduce(actual: unknown, template: unknown): unknown {
  if (template === ANY && actual !== undefined) return ANY;
  if (Array.isArray(actual) && Array.isArray(template)) {
    return actual.map((item, i) => reduce(item, template[i]));
  }
  if (!isObject(actual) || !isObject(template)) return actual;
  const keys = template["..."] === true ? Object.keys(template) : Object.keys(actual);
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
 * Lets time pass, in few steps: what a timer sends is answered before the next one.
 *
 * @param time The time of the test.
 * @param ms How long, in milliseconds.
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
 * Checks that a connection was closed by now.
 *
 * @param connection The connection.
 * @param code The code that it was closed with.
 * @param where Says what is checked, for people.
 */
export async function checkClosed(
  { closed }: Pick<Connection, "closed">,
  code: number,
  where: string,
): Promise<void> {
  assert(await settlesSoon(closed), `${where}: the connection is open`);
  assertEquals((await closed).closeCode, code, where);
}

/** Reads what goes out one by one: envelopes of text frames, or whole binary frames. */
export class Outgoing {
  readonly #frames: readonly Frame[];
  #frame = 0;
  #lines: string[] = [];

  /**
   * Reads frames that are still coming.
   *
   * @param frames The list that grows.
   */
  constructor(frames: readonly Frame[]) {
    this.#frames = frames;
  }

  /** The next envelope or binary frame; `undefined` if there is none yet. */
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
   * Takes the next envelope, if it fits.
   *
   * @param fits Checks it, and throws where it does not fit.
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

  /** Everything that is left. */
  rest(): (Template | string)[] {
    const all: (Template | string)[] = [];
    for (let next; (next = this.next()) !== undefined;) {
      all.push(next instanceof Uint8Array ? next.toHex() : next);
    }
    return all;
  }
}
