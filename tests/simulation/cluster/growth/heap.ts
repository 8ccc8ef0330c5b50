/** Sizes of all maps, sets and arrays of the program, by the debugger of the engine of JavaScript. */
import inspector from "node:inspector";

/** Kinds of collections, with the property that tells the size. */
const KINDS = { Map: "size", Set: "size", Array: "length" } as const;

/** Largest array whose size is noted. */
const MAX_LENGTH = 100_000;

/**
 * Notes the sizes of all collections, and finds those that grew.
 *
 * Private fields hide most collections of the library from a program. The debugger finds each one
 * that is still in use, after the garbage is collected.
 */
export class Heap implements Disposable {
  readonly #session = new inspector.Session();
  readonly #key = `heap-${crypto.randomUUID()}`;

  /** Notes nothing yet. */
  constructor() {
    this.#session.connect();
  }

  /** Notes the sizes of all collections. */
  async look(): Promise<void> {
    for (const kind of Object.keys(KINDS)) await this.#call(kind, 0);
  }

  /**
   * Finds collections that grew since the look.
   *
   * @param by Least growth.
   * @param kept Newest entries of collections that may grow.
   * @returns The collections with their sizes and newest entries, for people.
   */
  async grown(by: number, kept: readonly RegExp[]): Promise<string[]> {
    const grown: string[] = [];
    for (const kind of Object.keys(KINDS)) grown.push(...await this.#call(kind, by) as string[]);
    return grown.filter((text) =>
      !kept.some((one) => one.test(text.slice(text.indexOf(": ") + 2)))
    );
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
    Reflect.deleteProperty(globalThis, this.#key);
  }

  /** Calls {@linkcode compare} on the list of all collections of a kind. */
  async #call(kind: string, by: number): Promise<unknown> {
    const { result } = await this.#post("Runtime.evaluate", { expression: `${kind}.prototype` });
    const { objects } = await this.#post("Runtime.queryObjects", {
      prototypeObjectId: result!.objectId,
    });
    const size = KINDS[kind as keyof typeof KINDS];
    const called = await this.#post("Runtime.callFunctionOn", {
      objectId: objects!.objectId,
      functionDeclaration: `${compare}`,
      arguments: [kind, this.#key, size, MAX_LENGTH, by].map((value) => ({ value })),
      returnByValue: true,
    });
    await this.#post("Runtime.releaseObject", { objectId: objects!.objectId });
    if (called.exceptionDetails) throw new Error(called.exceptionDetails.exception.description);
    return called.result!.value;
  }

  #post(method: string, params: object): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#session.post(method, params, (error: unknown, result: unknown) => {
      if (error) reject(error);
      else resolve(result as Answer);
    });
    return promise;
  }
}

/** An answer of the debugger, as far as it is used here. */
interface Answer {
  readonly result?: { readonly objectId?: string; readonly value?: unknown };
  readonly objects?: { readonly objectId: string };
  readonly exceptionDetails?: { readonly exception: { readonly description: string } };
}

/** Runs in the debugger: notes the size of each new collection, and finds those that grew. */
function compare(
  this: readonly object[],
  kind: string,
  key: string,
  property: string,
  most: number,
  by: number,
): string[] {
  const store = globalThis as unknown as Record<string, WeakMap<object, number>>;
  const sizes = store[key] ??= new WeakMap();
  const textOf = (value: unknown) =>
    typeof value === "object" && value !== null
      ? `${value.constructor?.name} { ${Object.keys(value).slice(0, 8).join(", ")} }`
      : typeof value === "function"
      ? "a function"
      : String(value);
  const grown: string[] = [];
  for (const one of this) {
    // Prototypes are in the list as well, and have no size.
    if (Object.hasOwn(one, "constructor")) continue;
    const size = Reflect.get(one, property) as number;
    const before = sizes.get(one);
    if (before === undefined && size <= most) sizes.set(one, size);
    if (by === 0 || before === undefined || size < before + by) continue;
    const newest = [...one as Iterable<unknown>].at(-1);
    const text = kind === "Map" ? (newest as unknown[]).map(textOf).join(" => ") : textOf(newest);
    grown.push(`${kind} of ${before}, then ${size}: ${text.slice(0, 200)}`);
  }
  return grown;
}
