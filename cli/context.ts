/** The surroundings of a command: streams, colors, signal and clock, all handed in. */
import type { Runtime } from "../base/runtime.ts";

/** Standard input. */
export interface Input {
  /** The bytes, for one reader. */
  readonly readable: ReadableStream<Uint8Array>;
  /** True if a person types the input. */
  readonly isTerminal: boolean;
  /**
   * Sets whether each key arrives at once and without an echo. Without effect where the input is no
   * terminal.
   *
   * @param isRaw True for single keys, false for whole lines.
   */
  setRaw(isRaw: boolean): void;
}

/** Standard output, or standard error. */
export interface Output {
  /** True if a person reads the output. */
  readonly isTerminal: boolean;
  /** Width in characters: that of the terminal now, or 80. */
  readonly columns: number;
  /** Height in lines: that of the terminal now, or 24. */
  readonly rows: number;
  /**
   * Writes a text. The text is written as a whole once the call returns.
   *
   * @param text The text, with line feeds where lines end.
   * @throws {Deno.errors.BrokenPipe} If the reader of the output has closed its end.
   */
  write(text: string): void;
}

/** Names of the styles of {@linkcode Colors}, with the codes that begin and end each. */
const STYLES = {
  bold: [1, 22],
  dim: [2, 22],
  underline: [4, 24],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  magenta: [35, 39],
  cyan: [36, 39],
} as const;

/** Functions that give a text a style; the functions return the same text where colors are off. */
export type Colors = {
  /** True if the functions add colors. */
  readonly isOn: boolean;
} & { readonly [Name in keyof typeof STYLES]: (text: string) => string };

/**
 * Creates the styles.
 *
 * @param isOn True for styles, false for plain text.
 * @returns One function for each style.
 */
export function makeColors(isOn: boolean): Colors {
  const functions = Object.entries(STYLES).map(([name, [begin, end]]) => [
    name,
    isOn ? (text: string) => `\x1b[${begin}m${text}\x1b[${end}m` : (text: string) => text,
  ]);
  return { isOn, ...Object.fromEntries(functions) };
}

/** All that a command takes from its surroundings, so that a test of a command needs no process. */
export interface Context {
  /** Standard input. */
  readonly stdin: Input;
  /** Results go to this stream. */
  readonly stdout: Output;
  /** Errors, and notes about the progress, go to this stream. */
  readonly stderr: Output;
  /** True if both standard input and standard output are a terminal: a command may ask then. */
  readonly isTerminal: boolean;
  /** Styles of standard output, and plain functions where that is no terminal. */
  readonly colors: Colors;
  /** Aborted by Ctrl-C, and by the signal to terminate. */
  readonly signal: AbortSignal;
  /**
   * Reads a variable of the environment.
   *
   * @param name The variable.
   * @returns The value, or `undefined` for a variable that is not set.
   */
  readonly env: (name: string) => string | undefined;
  /** Clocks, timers and randomness. */
  readonly runtime: Runtime;
  /**
   * Opens a page in the browser of the user.
   *
   * @param url The address.
   * @returns False where there is no display, or no program that opens pages.
   */
  readonly openPage: (url: string) => Promise<boolean>;
}

// deno-lint-ignore no-control-regex -- escape sequences begin with a control character.
const CONTROL = /\x1b\[[0-9;?]*[A-Za-z]|[\p{Cc}\p{Cf}]/gu;

/**
 * Makes a text of a peer safe for a terminal: control characters, which could move the cursor or
 * reverse the direction of the text, become spaces.
 *
 * @param text The text as received.
 * @returns The text in one line.
 */
export function plainText(text: string): string {
  return text.replace(CONTROL, " ");
}

/** Characters that `JSON.stringify` leaves as they are, and a terminal obeys. */
const OBEYED = /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/**
 * Writes a value as JSON that is safe for a terminal: control characters are escaped.
 *
 * @param value Any value for JSON.
 * @param indent Spaces for each level; none for one line.
 * @returns The text, without a line feed at its end.
 */
export function plainJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(
    OBEYED,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Longest line of an input, in characters: above any message of a server. */
const MAX_INPUT_LINE = 4 * 1_048_576;

/**
 * Yields the lines of an input, up to its end or the signal. The end of the loop ends the input.
 *
 * @param readable The input.
 * @param signal Ends the loop.
 * @returns The lines, without their line feeds.
 * @throws {RangeError} If a line is longer than 4 MiB.
 */
export async function* linesOf(
  readable: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const reader = readable.getReader();
  const decoder = new TextDecoder();
  const stop = () => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", stop);
  let rest = "";
  try {
    while (!signal.aborted) {
      const { done, value } = await reader.read();
      const lines = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n/);
      rest = done ? "" : lines.pop()!;
      if (rest.length > MAX_INPUT_LINE) {
        throw new RangeError(
          `Cannot read the input: a line must have at most ${MAX_INPUT_LINE} characters`,
        );
      }
      for (const line of lines) {
        if (signal.aborted) return;
        yield line;
      }
      if (done) return;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}
