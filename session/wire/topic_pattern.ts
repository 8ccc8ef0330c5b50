/**
 * Topic patterns such as `chat:{room}`, and the router that finds the pattern for a topic.
 */
import { checkTopic } from "./encode.ts";

/**
 * Number of topics whose match a {@linkcode TopicRouter} caches. This is enough for the busy topics
 * of one process, and uses about 512 KiB with topics of 255 bytes.
 */
export const MAX_CACHED_MATCHES = 1024;

/**
 * The topics that match a pattern, as a type: `chat:{room}` is `chat:${string}`.
 *
 * @typeParam P The pattern.
 */
export type TopicOf<P extends string> = P extends `${infer Head}{${string}}${infer Tail}`
  ? `${Head}${string}${TopicOf<Tail>}`
  : P;

/**
 * The type of a pattern's parameters. For `chat:{room}`, it is `{ readonly room: string }`.
 *
 * @typeParam P The pattern.
 */
export type ParamsOf<P extends string> = string extends P ? Readonly<Record<string, string>>
  : P extends `${string}{${infer Name}}${infer Tail}`
    ? { readonly [Key in Name | keyof ParamsOf<Tail>]: string }
  // deno-lint-ignore ban-types -- no parameters: an object without members.
  : {};

// Tokens of a pattern, for the overlap check. A parameter becomes `ONE`, which is any character,
// and `RUN`, which is any number of further characters. All other tokens are UTF-16 code units.
const ONE = -1;
const RUN = -2;

/**
 * A compiled topic pattern: literal text with parameters in braces.
 *
 * - **Parameters** match one or more characters of any kind, up to the next literal text. At the
 *   end of the pattern, they match the rest, so `chat:{room}` also matches `chat:a:b`. TypeScript
 *   reads `chat:${string}` in the same way, so types and runtime agree.
 * - **Cost:** for any pattern and any topic that a peer sends, matching scans the topic once,
 *   without backtracking or a regular expression.
 *
 * @example Usage
 * ```ts
 * import { TopicPattern } from "./topic_pattern.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const pattern = new TopicPattern("game/{id}/move");
 * assertEquals(pattern.match("game/7/move"), { id: "7" });
 * assertEquals(pattern.match("game//move"), undefined);
 * ```
 *
 * @typeParam P The pattern as a literal type.
 */
export class TopicPattern<P extends string = string> {
  /** The pattern as written. */
  readonly source: P;
  /** Names of the parameters, in order. */
  readonly paramNames: readonly string[];
  readonly #literals: string[] = [];

  /**
   * Compiles a pattern.
   *
   * @param source The pattern.
   * @param verb The caller's operation, for the error message.
   * @throws {TypeError} If the pattern is empty or contains a `*`, if a brace is unbalanced, if a
   * name is duplicated or is not a letter followed by letters, digits and `_`, or if there is no
   * text between two parameters.
   * @throws {RangeError} If the pattern is longer than 255 bytes.
   */
  constructor(source: P, verb: string = "compile topic pattern") {
    checkTopic(source, verb);
    const names: string[] = [];
    // Pieces alternate: literal, name, literal, name, ..., literal.
    const pieces = source.split(/\{([^{}]*)\}/);
    for (const [index, piece] of pieces.entries()) {
      let rule = "";
      if (index % 2 === 0) {
        if (/[{}]/.test(piece)) rule = "braces must come in pairs";
        else if (piece.includes("*")) {
          rule = "a pattern has parameters such as {name}, and no *";
        } else if (!piece && index > 0 && index < pieces.length - 1) {
          rule = "parameters must have text between them";
        }
        this.#literals.push(piece);
      } else {
        if (!/^[a-z]\w*$/i.test(piece)) {
          rule = "a parameter name must be a letter, then letters, digits or _";
        } else if (names.includes(piece)) rule = "parameter names must differ";
        names.push(piece);
      }
      if (rule) throw new TypeError(`Cannot ${verb}: ${rule}, received "${source}"`);
    }
    this.source = source;
    this.paramNames = names;
  }

  /**
   * Extracts the parameters from a topic.
   *
   * @returns The parameters, or `undefined` if the topic does not match.
   */
  match(topic: string): ParamsOf<P> | undefined {
    const literals = this.#literals;
    const last = literals.length - 1;
    const head = literals[0]!;
    if (last === 0) return topic === head ? {} as ParamsOf<P> : undefined;
    const tail = literals[last]!;
    if (!topic.startsWith(head) || !topic.endsWith(tail)) return undefined;
    const params: Record<string, string> = {};
    const end = topic.length - tail.length;
    let start = head.length;
    for (let index = 1; index <= last; index++) {
      // The nearest occurrence is enough: if the rest of the topic does not match after it, no
      // later one helps.
      const at = index < last ? topic.indexOf(literals[index]!, start + 1) : end;
      if (at <= start) return undefined;
      params[this.paramNames[index - 1]!] = topic.slice(start, at);
      start = at + literals[index]!.length;
    }
    return params as ParamsOf<P>;
  }

  /**
   * Checks whether any topic matches both patterns.
   *
   * @example Usage
   * ```ts
   * import { TopicPattern } from "./topic_pattern.ts";
   * import { assert, assertFalse } from "@std/assert";
   *
   * const rooms = new TopicPattern("chat:{room}");
   * assert(rooms.overlaps(new TopicPattern("chat:lobby")));
   * assertFalse(rooms.overlaps(new TopicPattern("game:{id}")));
   * ```
   *
   * @param other The other pattern.
   * @returns True if a topic matches both.
   */
  overlaps(other: TopicPattern): boolean {
    const [head, otherHead] = [this.#literals[0]!, other.#literals[0]!];
    if (!head.startsWith(otherHead) && !otherHead.startsWith(head)) return false;
    const [a, b] = [this.#tokens(), other.#tokens()];
    // row[j] is true if some text matches both the rest of a from i and the rest of b from j. Reads
    // beyond the ends return undefined, which counts as false.
    let below: boolean[] = [];
    for (let i = a.length; i >= 0; i--) {
      const row: boolean[] = [];
      for (let j = b.length; j >= 0; j--) {
        const [x, y] = [a[i]!, b[j]!];
        row[j] = (i === a.length && j === b.length) ||
          ((x === RUN || y === RUN) && (below[j] || row[j + 1])) ||
          ((x === y || x < 0 || y < 0) && below[j + 1]) || false;
      }
      below = row;
    }
    return below[0]!;
  }

  #tokens(): number[] {
    return this.#literals.flatMap((literal, index) => [
      ...(index > 0 ? [ONE, RUN] : []),
      ...Array.from({ length: literal.length }, (_, at) => literal.charCodeAt(at)),
    ]);
  }
}

/**
 * The result of {@linkcode TopicRouter.match}, with the route's own fields and the topic's
 * parameters.
 *
 * @typeParam Route The value of a pattern.
 */
export type RouteMatch<Route extends object> = Readonly<Route> & {
  /** The parameters of the topic; empty if the route is for an exact topic. */
  readonly params: Readonly<Record<string, string>>;
};

/**
 * Finds the pattern that a topic matches.
 *
 * - **Exact topics** need one lookup. Patterns are tried in order, and the matches of up to
 *   {@linkcode MAX_CACHED_MATCHES} topics are cached.
 * - **No precedence:** overlapping patterns are rejected.
 * - **Matches are shared** between calls, and therefore frozen.
 *
 * @example Usage
 * ```ts
 * import { TopicRouter } from "./topic_pattern.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const router = new TopicRouter([
 *   ["chat:{room}", { policy: "drop-oldest" }],
 *   ["cursor", { policy: "latest" }],
 * ]);
 * assertEquals(router.match("chat:lobby"), {
 *   policy: "drop-oldest",
 *   params: { room: "lobby" },
 * });
 * assertEquals(router.match("weather"), undefined);
 * ```
 *
 * @typeParam Route The value of a pattern.
 */
export class TopicRouter<Route extends object> {
  readonly #exact = new Map<string, RouteMatch<Route>>();
  readonly #patterns: [pattern: TopicPattern, route: Route][] = [];
  readonly #cache = new Map<string, RouteMatch<Route>>();

  /**
   * Compiles the patterns.
   *
   * @param routes Pairs of a pattern and its route.
   * @param verb The caller's operation, for the error message.
   * @throws {TypeError} If a pattern is malformed, or if two patterns overlap.
   * @throws {RangeError} If a pattern is longer than 255 bytes.
   */
  constructor(
    routes: Iterable<readonly [pattern: string, route: Route]>,
    verb: string = "create topic router",
  ) {
    const known: TopicPattern[] = [];
    for (const [source, route] of routes) {
      const pattern = new TopicPattern(source, verb);
      const other = known.find((candidate) => candidate.overlaps(pattern));
      if (other) {
        throw new TypeError(
          `Cannot ${verb}: patterns "${other.source}" and "${source}" overlap, ` +
            "and a topic may fit one only",
        );
      }
      known.push(pattern);
      if (pattern.paramNames.length > 0) this.#patterns.push([pattern, route]);
      else this.#exact.set(source, join(route, {}));
    }
  }

  /** The routes of all patterns. */
  get routes(): readonly Route[] {
    return [...this.#exact.values(), ...this.#patterns.map(([, route]) => route)];
  }

  /**
   * Finds the route of a topic.
   *
   * @returns The route and the parameters, or `undefined` if no pattern matches.
   */
  match(topic: string): RouteMatch<Route> | undefined {
    const known = this.#exact.get(topic) ?? this.#cache.get(topic);
    if (known) return known;
    for (const [pattern, route] of this.#patterns) {
      const params = pattern.match(topic);
      if (!params) continue;
      const match = join(route, params);
      // Clearing the cache is cheaper than tracking the age of entries, and also keeps the cache
      // bounded.
      if (this.#cache.size >= MAX_CACHED_MATCHES) this.#cache.clear();
      this.#cache.set(topic, match);
      return match;
    }
    return undefined;
  }
}

function join<Route extends object>(
  route: Route,
  params: Readonly<Record<string, string>>,
): RouteMatch<Route> {
  return Object.freeze({ ...route, params: Object.freeze(params) });
}
