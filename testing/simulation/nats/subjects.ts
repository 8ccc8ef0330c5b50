/** Subjects, their wildcards, and the subscriptions that match. */

/**
 * Tells whether a subject can be published to.
 *
 * @param subject The subject.
 * @returns False for an empty token, a wildcard or a space.
 */
export function isPublishSubject(subject: string): boolean {
  return isSubject(subject) && !hasWildcard(subject);
}

/**
 * Tells whether a subject can be subscribed to.
 *
 * @param subject The subject, perhaps with wildcards.
 * @returns False for an empty token, a space, or tokens behind `>`.
 */
export function isSubject(subject: string): boolean {
  if (subject === "" || /[ \t\r\n]/.test(subject)) return false;
  const tokens = subject.split(".");
  return tokens.every((token, i) => token !== "" && (token !== ">" || i === tokens.length - 1));
}

/**
 * Tells whether a subject has a wildcard.
 *
 * @param subject The subject.
 * @returns True if a token is `*` or `>`.
 */
export function hasWildcard(subject: string): boolean {
  if (!subject.includes("*") && !subject.includes(">")) return false;
  return subject.split(".").some((token) => token === "*" || token === ">");
}

/**
 * Tells whether a pattern matches all subjects of another pattern.
 *
 * @param pattern The pattern.
 * @param subject A subject, or a narrower pattern.
 * @returns True if each subject that `subject` matches is matched by the pattern.
 */
export function matches(pattern: string, subject: string): boolean {
  if (pattern === subject || pattern === ">") return true;
  const wanted = pattern.split(".");
  const tokens = subject.split(".");
  for (let i = 0; i < wanted.length; i++) {
    if (i >= tokens.length) return false;
    if (wanted[i] === ">") return true;
    if (tokens[i] === ">") return false;
    if (wanted[i] !== "*" && wanted[i] !== tokens[i]) return false;
  }
  return wanted.length === tokens.length;
}

/**
 * Tells whether two patterns have a subject in common.
 *
 * @param one A pattern.
 * @param other Another one.
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
  /** The subject, perhaps with wildcards. */
  readonly subject: string;
}

/** Entries by subject, found in the order in which these were added. */
export class Interest<T extends Interested> {
  readonly #exact = new Map<string, Map<T, number>>();
  readonly #wild = new Map<T, number>();
  #added = 0;

  /**
   * Adds an entry.
   *
   * @param entry The entry.
   */
  add(entry: T): void {
    const { subject } = entry;
    if (hasWildcard(subject)) return void this.#wild.set(entry, this.#added++);
    const entries = this.#exact.get(subject) ?? new Map<T, number>();
    this.#exact.set(subject, entries.set(entry, this.#added++));
  }

  /**
   * Removes an entry.
   *
   * @param entry The entry; ignored if absent.
   */
  delete(entry: T): void {
    if (this.#wild.delete(entry)) return;
    const entries = this.#exact.get(entry.subject);
    entries?.delete(entry);
    if (entries?.size === 0) this.#exact.delete(entry.subject);
  }

  /**
   * Finds entries.
   *
   * @param subject A subject without wildcards.
   * @returns All entries that match, in the order of their addition.
   */
  match(subject: string): T[] {
    const found = [...this.#exact.get(subject) ?? []];
    const exact = found.length;
    for (const one of this.#wild) if (matches(one[0].subject, subject)) found.push(one);
    if (exact > 0 && found.length > exact) found.sort((a, b) => a[1] - b[1]);
    return found.map(([entry]) => entry);
  }
}
