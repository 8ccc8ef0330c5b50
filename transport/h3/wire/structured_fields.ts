/**
 * Reads and writes structured field strings (RFC 9651), which contain WebTransport subprotocols.
 */

const PRINTABLE = /^[\x20-\x7e]*$/;

/** A string (RFC 9651 section 3.3.3). */
const STRING = /"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"/y;

/** A parameter, whose value can be any bare item (RFC 9651 section 3.1.2). */
const PARAMETER = new RegExp(
  String.raw`; *[a-z*][a-z0-9_.*-]*(?:=(?:${
    [
      STRING.source,
      // Display string.
      String.raw`%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*"`,
      // Decimal, integer, date.
      String.raw`-?\d{1,12}\.\d{1,3}(?!\d)`,
      String.raw`@?-?\d{1,15}(?![\d.])`,
      // Token.
      String.raw`[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_\x60|~-]*`,
      // Byte sequence, boolean.
      String.raw`:[A-Za-z0-9+/=]*:`,
      String.raw`\?[01]`,
    ].join("|")
  }))?`,
  "y",
);

const SPACES = / */y;
const SEPARATOR = /[ \t]*(?:,[ \t]*|$)/y;

/**
 * Parses a list of strings. Parameters are ignored.
 *
 * @param value The value of the field. Several fields must be joined with commas.
 * @returns The strings in order, or `undefined` for any other content; the field MUST then be
 * ignored.
 *
 * @example Usage
 * ```ts
 * import { parseStringList } from "./structured_fields.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(parseStringList('"chat.2", "chat.1";q=0.5'), ["chat.2", "chat.1"]);
 * assertEquals(parseStringList("chat.2"), undefined);
 * ```
 */
export function parseStringList(value: string): string[] | undefined {
  const scanner = new Scanner(value);
  scanner.take(SPACES);
  const strings: string[] = [];
  while (!scanner.isDone) {
    const string = scanner.takeString();
    const separator = string === undefined ? undefined : scanner.take(SEPARATOR);
    if (string === undefined || separator === undefined) return undefined;
    // Only another string may follow a comma.
    if (scanner.isDone && separator.includes(",")) return undefined;
    strings.push(string);
  }
  return strings;
}

/**
 * Encodes a list of strings.
 *
 * @returns The value of the field. It is empty if there are no strings; the field MUST then be
 * omitted.
 * @throws {TypeError} If a string contains anything but printable ASCII characters.
 */
export function encodeStringList(values: Iterable<string>): string {
  return Array.from(values, encodeStringItem).join(", ");
}

/**
 * Parses one string. Parameters are ignored.
 *
 * @returns The string, or `undefined` for any other content; the field MUST then be ignored.
 */
export function parseStringItem(value: string): string | undefined {
  const scanner = new Scanner(value);
  scanner.take(SPACES);
  const string = scanner.takeString();
  scanner.take(SPACES);
  return scanner.isDone ? string : undefined;
}

/**
 * Encodes one string.
 *
 * @throws {TypeError} If the string contains anything but printable ASCII characters.
 */
export function encodeStringItem(value: string): string {
  if (!PRINTABLE.test(value)) {
    throw new TypeError(
      `Cannot encode string: it must be printable ASCII, received ${JSON.stringify(value)}`,
    );
  }
  return `"${value.replace(/["\\]/g, "\\$&")}"`;
}

/** Scans a text with sticky patterns. */
class Scanner {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get isDone(): boolean {
    return this.#at === this.#text.length;
  }

  /**
   * Consumes a match of the pattern at the current position. Returns `undefined` if the pattern
   * does not match.
   */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text)?.[0];
    this.#at += match?.length ?? 0;
    return match;
  }

  /** Consumes a string and the parameters after it. Returns the content of the string. */
  takeString(): string | undefined {
    const quoted = this.take(STRING);
    while (quoted !== undefined && this.take(PARAMETER) !== undefined);
    return quoted?.slice(1, -1).replace(/\\(["\\])/g, "$1");
  }
}
