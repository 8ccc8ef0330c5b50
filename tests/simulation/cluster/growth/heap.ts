/**
 * Reads the collections and counters of all objects in the program with the JavaScript engine's
 * debugger.
 */
import inspector from "node:inspector";

/** Maximum size of an array that is recorded. */
const MAX_LENGTH = 100_000;

/** Objects that the debugger holds for a snapshot. */
const GROUP = "look";

/** Number of objects whose fields are read at once. */
const BATCH = 500;

/** A difference between two snapshots. */
export interface Change {
  /**
   * The class and the field, such as `Queue.#bytes`. A collection also includes its kind and its
   * newest entry.
   */
  readonly of: string;
  /** Number or size in the first snapshot. */
  readonly before: number;
  /** Number or size in the second snapshot. */
  readonly after: number;
}

/**
 * Compares the sizes of all collections and the numbers in all class instances between two
 * snapshots.
 *
 * Most of them are in private fields, which a program cannot read. The debugger can, and it finds
 * every object that is alive after a garbage collection.
 */
export class Heap implements Disposable {
  readonly #session = new inspector.Session();
  readonly #key = "skein-simulation-heap";
  /**
   * Fields by object number. The map is created after the first snapshot, which would otherwise
   * count it.
   */
  #fields: Map<number, ReadonlyMap<string, number>> | undefined;

  /** Creates an instance without a snapshot. */
  constructor() {
    this.#session.connect();
  }

  /**
   * Takes a snapshot.
   *
   * @returns The differences from the previous snapshot. For the first snapshot there are none.
   */
  async look(): Promise<Change[]> {
    const { result } = await this.#post("Runtime.evaluate", {
      expression: "Object.prototype",
      objectGroup: GROUP,
    });
    const all = await this.#post("Runtime.queryObjects", {
      prototypeObjectId: result.objectId,
      objectGroup: GROUP,
    });
    const seen = await this.#call(all.objects.objectId, see, [this.#key, MAX_LENGTH]);
    const changes = await this.#read(seen.result.objectId, "changes", true) as Change[];
    const ids = await this.#read(seen.result.objectId, "ids", true) as number[];
    for (let from = 0; from < ids.length; from += BATCH) {
      const batch = await this.#call(seen.result.objectId, part, [from, from + BATCH]);
      const { result } = await this.#post("Runtime.getProperties", {
        objectId: batch.result.objectId,
        ownProperties: true,
      });
      for (const { name, value } of result) {
        if (value?.objectId === undefined || !/^\d+$/.test(name)) continue;
        const id = ids[from + Number(name)]!;
        changes.push(...this.#compare(id, value.className, await this.#fieldsOf(value.objectId)));
      }
    }
    // Otherwise, objects that die between two snapshots would still be in the second snapshot.
    await this.#post("Runtime.releaseObjectGroup", { objectGroup: GROUP });
    return changes;
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
    Reflect.deleteProperty(globalThis, this.#key);
  }

  #compare(id: number, name: string, fields: ReadonlyMap<string, number>): Change[] {
    const all = this.#fields ??= new Map();
    const known = all.get(id);
    all.set(id, fields);
    return [...fields].flatMap(([field, after]) => {
      const before = known?.get(field);
      return before === undefined || before === after
        ? []
        : [{ of: `${name}.${field}`, before, after }];
    });
  }

  async #fieldsOf(objectId: string): Promise<Map<string, number>> {
    const { result, privateProperties = [] } = await this.#post("Runtime.getProperties", {
      objectId,
      ownProperties: true,
    });
    const fields = new Map<string, number>();
    for (const { name, value } of [...result, ...privateProperties]) {
      if (value?.type === "number") fields.set(name, value.value);
    }
    return fields;
  }

  async #read(objectId: string, name: string, isValue: boolean): Promise<unknown> {
    const { result } = await this.#call(objectId, pick, [name], isValue);
    return result.value;
  }

  #call(
    objectId: string,
    run: (...values: never[]) => unknown,
    values: readonly unknown[],
    returnByValue = false,
  ): Promise<Answer> {
    return this.#post("Runtime.callFunctionOn", {
      objectId,
      functionDeclaration: `${run}`,
      arguments: values.map((value) => ({ value })),
      objectGroup: GROUP,
      returnByValue,
    });
  }

  #post(method: string, params: object): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#session.post(method, params, (error: unknown, answer: unknown) => {
      const { exceptionDetails } = Object(answer) as Answer;
      if (error) reject(error);
      else if (exceptionDetails) reject(new Error(exceptionDetails.exception.description));
      else resolve(answer as Answer);
    });
    return promise;
  }
}

// deno-lint-ignore no-explicit-any -- debugger responses have many forms
type Answer = any;

function pick(this: Record<string, unknown>, name: string): unknown {
  return this[name];
}

function part(this: { readonly objects: readonly object[] }, from: number, to: number): unknown {
  return this.objects.slice(from, to);
}

/** Runs in the debugger. It compares collections and assigns numbers to the other objects. */
function see(this: readonly object[], key: string, most: number): unknown {
  interface Store {
    readonly sizes: WeakMap<object, number>;
    readonly ids: WeakMap<object, number>;
    next: number;
  }
  const all = globalThis as unknown as Record<string, Store>;
  const isFirst = all[key] === undefined;
  const store = all[key] ??= { sizes: new WeakMap(), ids: new WeakMap(), next: 0 };
  const textOf = (value: unknown) =>
    typeof value === "object" && value !== null
      ? `${value.constructor?.name} { ${Object.keys(value).slice(0, 8).join(", ")} }`
      : typeof value === "function"
      ? "a function"
      : String(value);
  const changes: unknown[] = [];
  const objects: object[] = [];
  const ids: number[] = [];
  const sources = new Map<unknown, boolean>();
  for (const one of this) {
    // The list also includes prototypes.
    if (typeof one !== "object" || Object.hasOwn(one, "constructor")) continue;
    const kind = one instanceof Map
      ? "Map"
      : one instanceof Set
      ? "Set"
      : Array.isArray(one)
      ? "Array"
      : "";
    if (kind === "") {
      const { constructor } = one;
      let isOwn = sources.get(constructor);
      if (isOwn === undefined) {
        isOwn = typeof constructor === "function" &&
          /^class (?!extends Zod)/.test(Function.prototype.toString.call(constructor)) &&
          // These are objects of the runtime and the simulation. Many have no number that could
          // show a leak, and the numbers in lists of timers are times of the machine.
          !/^(Abort|DOMEx|Deferred|Direction$|Headers|Immediate|NetworkPath|Readable|Simul|Timeout$|TimersList$|URL|Writable)/
            .test(constructor.name);
        sources.set(constructor, isOwn);
      }
      if (!isOwn) continue;
      let id = store.ids.get(one);
      if (id === undefined) {
        if (!isFirst) continue;
        store.ids.set(one, id = store.next++);
      }
      objects.push(one);
      ids.push(id);
      continue;
    }
    const after = Reflect.get(one, kind === "Array" ? "length" : "size") as number;
    const before = store.sizes.get(one);
    if (after <= most) store.sizes.set(one, after);
    if (before === undefined || before === after) continue;
    const newest = [...one as Iterable<unknown>].at(-1);
    const text = kind === "Map" && newest !== undefined
      ? (newest as unknown[]).map(textOf).join(" => ")
      : textOf(newest);
    changes.push({ of: `${kind} with ${text.slice(0, 200)}`, before, after });
  }
  return { changes, objects, ids };
}
