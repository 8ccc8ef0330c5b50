/** Option checks with hints about unknown names, and checks of common value types. */
import { describe } from "../error_text.ts";
import { featureHint } from "./feature_hints.ts";
import { hintFor } from "./option_hints.ts";
import type {
  CheckOption,
  NestedCheck,
  NumberCheck,
  NumberRange,
  OptionKind,
  OptionKinds,
  OptionPlace,
} from "./options.ts";
import type { Rate } from "../quotas/token_bucket.ts";
import { MAX_TIMER_MS, MAX_TTL_MS } from "../wait.ts";

/** Limit on the part of a value that an error shows, in characters. */
const MAX_SHOWN = 64;

/**
 * Rejects an option if its name is unknown or its value has the wrong type. The error includes a
 * hint about the name.
 *
 * @param verb The user's call, such as `create broker`.
 * @param options The options as given.
 * @param kinds Kinds of all options.
 * @throws {TypeError} If a name is unknown, or a value has another type.
 */
export function checkOptions(verb: string, options: unknown, kinds: object): void {
  checkKinds(options, kinds, { verb, path: "options" });
}

/**
 * Rejects an option if its name is unknown or its value has the wrong type. Without this check, a
 * misspelled name would be ignored, and the default would silently apply. An option with the value
 * `undefined` counts as absent.
 *
 * @param options The options as given.
 * @param kinds Kinds of all options.
 * @param place The user's call, and the path of the options.
 * @throws {TypeError} If a name is unknown, or a value has another type.
 */
export function checkKinds(options: unknown, kinds: object, place: OptionPlace): void {
  const { verb, path } = place;
  if (!fits(options, "object")) throw wrongKind(options, "object", place);
  for (const name in options as object) {
    const value = (options as Record<string, unknown>)[name];
    if (value === undefined) continue;
    if (!Object.hasOwn(kinds, name)) {
      const hint = hintFor(name, kinds) || placeHint(name, kinds) || featureHint(name, kinds);
      const of = path === "options" ? "" : ` in ${path}`;
      throw new TypeError(`Cannot ${verb}: unknown option "${name}"${of}${hint}`);
    }
    const kind = (kinds as Record<string, OptionKind>)[name]!;
    if (kind === 0 || fits(value, kind)) continue;
    const at = { ...place, path: path === "options" ? name : `${path}.${name}` };
    if (typeof kind === "function") (kind as CheckOption)(value, at);
    else if (typeof kind === "string" || Array.isArray(kind)) throw wrongKind(value, kind, at);
    else checkKinds(value, kind, at);
  }
}

/** Suggests the only option whose object has a member of this name. */
function placeHint(name: string, kinds: object): string {
  const places = Object.entries(kinds).flatMap(([option, kind]) => {
    const { kinds: members = kind, isRecord = false } = Object(kind) as Partial<NestedCheck>;
    return !isRecord && typeof members === "object" && Object.hasOwn(members, name) ? [option] : [];
  });
  return places.length === 1 ? `; did you mean "${places[0]}.${name}"?` : "";
}

function fits(value: unknown, kind: OptionKind): boolean {
  if (Array.isArray(kind)) return kind.includes(value);
  if (kind === "AbortSignal") return typeof (value as Partial<AbortSignal>)?.aborted === "boolean";
  return typeof kind === "string" && kind.includes(typeOf(value));
}

/** Returns the result of `typeof`, but distinguishes arrays and `null`. */
function typeOf(value: unknown): string {
  return Array.isArray(value) ? "array" : value === null ? "null" : typeof value;
}

/** Creates the error about a value of another kind. */
export function wrongKind(
  value: unknown,
  kind: string | readonly unknown[],
  { verb, path }: OptionPlace,
): TypeError {
  const isKind = typeof kind === "string";
  const rule = isKind ? kind.split(" or ").map(withArticle).join(" or ") : choice(kind);
  // Other options may be secrets, and these are not.
  const isShown = typeof value === "string" && (!isKind || kind === "number");
  const received = isShown ? JSON.stringify(value.slice(0, MAX_SHOWN)) : describe(value);
  const cure = value instanceof Promise ? "; await it" : "";
  return new TypeError(`Cannot ${verb}: ${path} must be ${rule}, received ${received}${cure}`);
}

function withArticle(kind: string): string {
  if (kind === "null") return kind;
  return `${/^[aeiou]/i.test(kind) ? "an" : "a"} ${kind}`;
}

/** Lists values; strings such as "a function" are descriptions. */
function choice(values: readonly unknown[]): string {
  const names = values.map((one) =>
    typeof one === "string" && !one.startsWith("a ") ? JSON.stringify(one) : String(one)
  );
  return [names.slice(0, -1).join(", "), names.at(-1)].filter((one) => one !== "").join(" or ");
}

/**
 * Creates the check for an option that is a nested object or another value, such as `false`.
 *
 * @param kind Types of the other values that are allowed.
 * @param kinds Kinds of the options in the object.
 */
export function objectOr(kind: string, kinds: object): NestedCheck {
  const check: CheckOption = (value, place) => {
    if (typeOf(value) === "object") checkKinds(value, kinds, place);
    else if (!kind.includes(typeOf(value))) throw wrongKind(value, `object or ${kind}`, place);
  };
  return Object.assign(check, { kinds });
}

/**
 * Creates the check for an object whose keys the user chooses, such as topic patterns.
 *
 * @param kinds Kinds of the options in each value.
 * @param kind The types that the option may have, for the error.
 */
export function recordOf(kinds: object, kind = "object"): NestedCheck {
  const check: CheckOption = (value, place) => {
    if (typeOf(value) !== "object") throw wrongKind(value, kind, place);
    for (const [name, one] of Object.entries(value as object)) {
      if (one !== undefined) checkKinds(one, kinds, { ...place, path: `${place.path}["${name}"]` });
    }
  };
  return Object.assign(check, { kinds, isRecord: true });
}

/**
 * Creates the check for a library object or an application's own implementation. The check also
 * rejects a promise that the caller forgot to await.
 *
 * @param what Name of the type.
 * @param methods Methods that the object must have.
 */
export function objectWith(what: string, ...methods: readonly string[]): CheckOption {
  return (value, place) => {
    const isOne = typeOf(value) === "object" &&
      methods.every((name) => typeof (value as Record<string, unknown>)[name] === "function");
    if (!isOne) throw wrongKind(value, what, place);
  };
}

/**
 * Creates the check for an object that an application implements. Unknown names are rejected in an
 * object literal; an instance of a class may have members of its own.
 *
 * @param kinds Kinds of the members.
 * @param required Names of the members that must be given.
 */
export function implementing<T>(
  kinds: OptionKinds<T>,
  ...required: readonly (keyof T & string)[]
): NestedCheck {
  const check: CheckOption = (value, place) => {
    if (typeOf(value) !== "object") throw wrongKind(value, "object", place);
    const given = value as Record<string, unknown>;
    const prototype = Object.getPrototypeOf(given);
    const isLiteral = prototype === null || Object.getPrototypeOf(prototype) === null;
    const members = isLiteral
      ? given
      : Object.fromEntries(Object.keys(kinds).map((name) => [name, given[name]]));
    checkKinds(members, kinds, place);
    for (const name of required) {
      if (members[name] !== undefined) continue;
      throw new TypeError(`Cannot ${place.verb}: ${place.path}.${name} must be given`);
    }
  };
  return Object.assign(check, { kinds });
}

/**
 * Creates the check for a number.
 *
 * @param range The numbers that the option accepts.
 */
export function numberIn(range: NumberRange): NumberCheck {
  const { min, max, isInteger = false, isAbove = false } = range;
  const check = (value: unknown, place: OptionPlace) => {
    if (typeof value !== "number") throw wrongKind(value, "number", place);
    const isInside = (isAbove ? value > min : value >= min) && value <= max;
    if (isInside && (!isInteger || value === Infinity || Number.isInteger(value))) return;
    const { verb, path } = place;
    throw new RangeError(`Cannot ${verb}: ${path} must be ${ruleOf(range)}, received ${value}`);
  };
  return Object.assign(check, { range });
}

function ruleOf({ min, max, isInteger = false, isAbove = false }: NumberRange): string {
  if (isInteger && max >= Number.MAX_SAFE_INTEGER) {
    if (min === 1) return "a positive integer";
    if (min === Number.MIN_SAFE_INTEGER) return "an integer";
  }
  const kind = isInteger ? "an integer " : max === Number.MAX_VALUE ? "a finite number " : "";
  if (max < Number.MAX_SAFE_INTEGER) {
    return isAbove ? `${kind}above ${min} and up to ${max}` : `${kind}from ${min} to ${max}`;
  }
  return kind + (isAbove ? `above ${min}` : kind === "" ? `${min} or more` : `of ${min} or more`);
}

/**
 * Creates the check of an integer. If the largest value is `Infinity`, the option may be unlimited.
 */
export function integer(min: number, max: number = Number.MAX_SAFE_INTEGER): NumberCheck {
  return numberIn({ min, max, isInteger: true });
}

/** Check of a limit. */
export const POSITIVE: NumberCheck = integer(1);

/** Check of a limit that `Infinity` disables. */
export const LIMIT: NumberCheck = integer(1, Infinity);

export const COUNT: NumberCheck = integer(0);

/** Check of a timer's duration in milliseconds. */
export const TIMER: NumberCheck = integer(1, MAX_TIMER_MS);

/** Check of a time to live in milliseconds, which a broker stores. */
export const TTL: NumberCheck = integer(1, MAX_TTL_MS);

/** Check of a moment in milliseconds since the Unix epoch, up to the latest one of a `Date`. */
export const MOMENT: NumberCheck = integer(0, 8.64e15);

/** Check of a time in milliseconds, which may be `Infinity`. */
export const TIME: NumberCheck = numberIn({ min: 0, max: Infinity });

/** Check of a number above 0, such as a rate, which may be `Infinity`. */
export const ABOVE_ZERO: NumberCheck = numberIn({ min: 0, max: Infinity, isAbove: true });

/** Check of a port; 0 means any free port. */
export const PORT: NumberCheck = integer(0, 65_535);

/** Check of a fraction above 0, up to 1. */
export const SHARE: NumberCheck = numberIn({ min: 0, max: 1, isAbove: true });

export const RATE: OptionKinds<Rate> = {
  burst: numberIn({ min: 1, max: Infinity }),
  perSecond: ABOVE_ZERO,
};

/** Kinds of the options of a call that only waits for a signal. */
export const SIGNAL: OptionKinds<{ readonly signal?: AbortSignal }> = { signal: "AbortSignal" };

/** Checks whether a path is spelled as in the URL of a request, without a trailing slash. */
function isUrlPath(path: unknown): path is string {
  return typeof path === "string" && /^\/.*[^/]$/.test(path) &&
    URL.parse(path, "http://localhost")?.pathname === path;
}

/** Check of a path below which a feature serves requests; other spellings would never match. */
export const PATH: CheckOption = (value, { verb, path }) => {
  if (typeof value !== "string") throw wrongKind(value, "string", { verb, path });
  if (isUrlPath(value)) return;
  throw new TypeError(
    `Cannot ${verb}: ${path} must be spelled as in a URL, such as "/a", without a trailing slash, ` +
      `received "${value}"`,
  );
};

/** Check of the headers of a request. Names are shown, and values are not: they may be secrets. */
export const HEADERS: CheckOption = (value, { verb, path }) => {
  if (isHeaders(value)) return;
  if (typeof value !== "object" || value === null) throw wrongKind(value, "object", { verb, path });
  const pairs: Iterable<unknown> = Symbol.iterator in value
    ? value as Iterable<unknown>
    : Object.entries(value);
  const wrong = [...pairs].find((pair) => !isHeaders([pair]));
  const received = Array.isArray(wrong)
    ? `an invalid ${JSON.stringify(String(wrong[0]).slice(0, MAX_SHOWN))}`
    : describe(wrong);
  throw new TypeError(
    `Cannot ${verb}: ${path} must have valid names and values, received ${received}`,
  );
};

function isHeaders(value: unknown): boolean {
  try {
    new Headers(value as HeadersInit);
    return true;
  } catch {
    return false;
  }
}

/**
 * Rejects an option that is missing, although the type requires it.
 *
 * @param value The option.
 * @param kind Its type, in words.
 * @param place The user's call, and the name of the option.
 * @throws {TypeError} If the option is `undefined`.
 */
export function checkGiven(value: unknown, kind: string, place: OptionPlace): void {
  if (value === undefined) throw wrongKind(value, kind, place);
}

export const RUNTIME: CheckOption = objectWith("Runtime", "now", "setTimeout");

export const BROKER: CheckOption = objectWith("Broker", "publish", "subscribe");

/**
 * Creates the check for a list.
 *
 * @param kind Types of the items.
 * @param other Other types that the option accepts instead of a list.
 */
export function listOf(kind: string, other = ""): CheckOption {
  return (value, place) => {
    if (!Array.isArray(value)) {
      if (other.includes(typeOf(value))) return;
      throw wrongKind(value, other === "" ? "array" : `array or ${other}`, place);
    }
    value.forEach((item, i) => {
      const at = { ...place, path: `${place.path}[${i}]` };
      if (!kind.includes(typeOf(item))) throw wrongKind(item, kind, at);
    });
  };
}
