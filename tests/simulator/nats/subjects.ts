/** Subjects, their wildcards, and matching subscriptions. */

const DOT = 46;
const ANY = 42;
const REST = 62;

/**
 * Checks whether a subject can be published to.
 *
 * @returns False for an empty token, a wildcard or a space.
 */
export function isPublishSubject(subject: string): boolean {
  return isSubject(subject) && !hasWildcard(subject);
}

/**
 * Checks whether a subject can be subscribed to.
 *
 * @param subject The subject; it may contain wildcards.
 * @returns False for an empty token, a space, or tokens after `>`.
 */
export function isSubject(subject: string): boolean {
  if (subject === "" || /[ \t\r\n]/.test(subject)) return false;
  const tokens = subject.split(".");
  return tokens.every((token, i) => token !== "" && (token !== ">" || i === tokens.length - 1));
}

/**
 * Checks whether a subject has a wildcard.
 *
 * @returns True if a token is `*` or `>`.
 */
export function hasWildcard(subject: string): boolean {
  if (!subject.includes("*") && !subject.includes(">")) return false;
  return subject.split(".").some((token) => token === "*" || token === ">");
}

/**
 * Checks whether a pattern matches all subjects of another pattern.
 *
 * @param subject A subject, or a narrower pattern.
 * @returns True if the pattern matches each subject that `subject` matches.
 */
export function matches(pattern: string, subject: string): boolean {
  if (pattern === subject || pattern === ">") return true;
  let at = 0;
  let to = 0;
  // Compares one token at a time, without copies, because streams compare all of their subjects.
  for (;;) {
    if (isToken(pattern, at, REST)) return true;
    if (isToken(subject, to, REST)) return false;
    if (isToken(pattern, at, ANY)) {
      at++;
      while (to < subject.length && subject.charCodeAt(to) !== DOT) to++;
    } else {
      while (at < pattern.length && pattern.charCodeAt(at) !== DOT) {
        if (pattern.charCodeAt(at++) !== subject.charCodeAt(to++)) return false;
      }
      if (to < subject.length && subject.charCodeAt(to) !== DOT) return false;
    }
    if (at >= pattern.length || to >= subject.length) {
      return at >= pattern.length && to >= subject.length;
    }
    at++;
    to++;
  }
}

/** Checks whether a token is a single character. */
function isToken(subject: string, at: number, code: number): boolean {
  return subject.charCodeAt(at) === code &&
    (at + 1 === subject.length || subject.charCodeAt(at + 1) === DOT);
}

/**
 * Checks whether two patterns have a subject in common.
 *
 * @param other Another pattern.
 * @returns True if any subject matches both.
 */
export function collide(one: string, other: string): boolean {
  const [left, right] = [one.split("."), other.split(".")];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    if (left[i] === ">" || right[i] === ">") return true;
    const isAny = left[i] === "*" || right[i] === "*";
    if (!isAny && left[i] !== right[i]) return false;
  }
  return left.length === right.length;
}

/** An entry of an {@linkcode Interest}. */
export interface Interested {
  /** The subject; it may contain wildcards. */
  readonly subject: string;
}

/** Entries in a tree of tokens, each with its position in the order of addition. */
interface Branch<T> {
  readonly next: Map<string, Branch<T>>;
  /** Entries whose subject ends here. */
  readonly here: Map<T, number>;
  /** Entries whose subject ends with `>` after this token. */
  readonly behind: Map<T, number>;
}

/** Entries by subject, found in the order in which they were added. */
export class Interest<T extends Interested> {
  readonly #exact = new Map<string, Map<T, number>>();
  /** Entries with wildcards, by tokens. */
  readonly #wild: Branch<T> = newBranch();
  #added = 0;

  add(entry: T): void {
    const { subject } = entry;
    if (hasWildcard(subject)) {
      let branch = this.#wild;
      const tokens = subject.split(".");
      const isOpen = tokens.at(-1) === ">";
      if (isOpen) tokens.pop();
      for (const token of tokens) {
        let next = branch.next.get(token);
        if (next === undefined) branch.next.set(token, next = newBranch());
        branch = next;
      }
      (isOpen ? branch.behind : branch.here).set(entry, this.#added++);
      return;
    }
    const entries = this.#exact.get(subject);
    if (entries !== undefined) entries.set(entry, this.#added++);
    else this.#exact.set(subject, new Map([[entry, this.#added++]]));
  }

  /**
   * Removes an entry.
   *
   * @param entry The entry; ignored if absent.
   */
  delete(entry: T): void {
    const { subject } = entry;
    if (hasWildcard(subject)) return prune(this.#wild, subject.split("."), 0, entry);
    const entries = this.#exact.get(subject);
    entries?.delete(entry);
    if (entries?.size === 0) this.#exact.delete(subject);
  }

  /**
   * Finds entries.
   *
   * @param subject A subject without wildcards.
   * @returns All matching entries, in the order in which they were added.
   */
  match(subject: string): readonly T[] {
    const exact = this.#exact.get(subject);
    const wild: [T, number][] = [];
    collect(this.#wild, subject, 0, wild);
    if (exact === undefined && wild.length === 0) return NONE;
    if (wild.length === 0) return [...exact!.keys()];
    if (exact !== undefined) wild.push(...exact);
    if (wild.length > 1) wild.sort((a, b) => a[1] - b[1]);
    return wild.map(([entry]) => entry);
  }
}

const NONE: readonly never[] = [];

function newBranch<T>(): Branch<T> {
  return { next: new Map(), here: new Map(), behind: new Map() };
}

/** Collects the entries that match a subject, starting at one of its tokens. */
function collect<T>(branch: Branch<T>, subject: string, at: number, found: [T, number][]): void {
  if (at > subject.length) {
    for (const entry of branch.here) found.push(entry);
    return;
  }
  for (const entry of branch.behind) found.push(entry);
  if (branch.next.size === 0) return;
  const dot = subject.indexOf(".", at);
  const end = dot === -1 ? subject.length : dot;
  const next = branch.next.get(subject.slice(at, end));
  if (next !== undefined) collect(next, subject, end + 1, found);
  const any = branch.next.get("*");
  if (any !== undefined && any !== next) collect(any, subject, end + 1, found);
}

/** Removes an entry, and branches that become empty. */
function prune<T>(branch: Branch<T>, tokens: readonly string[], at: number, entry: T): void {
  const token = tokens[at];
  if (token === undefined) return void branch.here.delete(entry);
  if (token === ">") return void branch.behind.delete(entry);
  const next = branch.next.get(token);
  if (next === undefined) return;
  prune(next, tokens, at + 1, entry);
  if (next.next.size + next.here.size + next.behind.size === 0) branch.next.delete(token);
}
