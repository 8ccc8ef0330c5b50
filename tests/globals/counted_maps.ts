/**
 * Counts every `Map` and `Set` that is created after this module was loaded, by the class or
 * function that created it. Import it before the code under test.
 *
 * @module
 */
import v8 from "node:v8";
import vm from "node:vm";

const ROOT = new URL("../../", import.meta.url).href;

v8.setFlagsFromString("--expose-gc");
const collectGarbage: () => void = vm.runInNewContext("gc");

const { Map: PlainMap, Set: PlainSet } = globalThis;

const alive = new PlainMap<string, WeakRef<{ readonly size: number }>[]>();

/** Finds the class or function of this repository that called a constructor. */
function makerIn(stack: string): string | undefined {
  for (const line of stack.split("\n").slice(3)) {
    const at = line.indexOf(ROOT);
    if (at < 0) continue;
    const [path] = line.slice(at + ROOT.length).split(":");
    const maker = /at (?:new |async )?([\w$]+)/.exec(line.slice(0, at))?.[1] ?? "";
    return `${path} ${maker}`;
  }
  return undefined;
}

function count(made: { readonly size: number }): void {
  const maker = makerIn(new Error().stack!);
  if (maker === undefined) return;
  const all = alive.get(maker) ?? [];
  all.push(new WeakRef(made));
  alive.set(maker, all);
}

globalThis.Map = class Map<K, V> extends PlainMap<K, V> {
  constructor(entries?: Iterable<readonly [K, V]> | null) {
    super(entries);
    count(this);
  }
} as MapConstructor;

globalThis.Set = class Set<T> extends PlainSet<T> {
  constructor(values?: Iterable<T> | null) {
    super(values);
    count(this);
  }
} as SetConstructor;

/**
 * Collects garbage, and returns the number of entries in all `Map`s and `Set`s that are still used,
 * plus the number of these, by path and name of the class or function that created them.
 */
export function countMaps(): ReadonlyMap<string, number> {
  collectGarbage();
  const sizes = new PlainMap<string, number>();
  for (const [maker, refs] of alive) {
    const used = refs.filter((ref) => ref.deref() !== undefined);
    alive.set(maker, used);
    sizes.set(maker, used.reduce((sum, ref) => sum + ref.deref()!.size + 1, 0));
  }
  return sizes;
}
