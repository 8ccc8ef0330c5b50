/**
 * The environment of a command: its streams, colors, signal and clock, all of which are injected.
 */
import type { Runtime } from "../base/runtime.ts";

/** Standard input. */
export interface Input {
  /** The bytes, for one reader. */
  readonly readable: ReadableStream<Uint8Array>;
  /** True if the input is a terminal. */
  readonly isTerminal: boolean;
  /**
   * Turns raw mode on or off. In raw mode, each key is read immediately and is not echoed. If the
   * input is not a terminal, nothing happens.
   *
   * @param isRaw True for single keys, false for whole lines.
   */
  setRaw(isRaw: boolean): void;
}

/** Standard output, or standard error. */
export interface Output {
  /** True if the output is a terminal. */
  readonly isTerminal: boolean;
  /** Current width of the terminal in characters, or 80. */
  readonly columns: number;
  /** Current height of the terminal in lines, or 24. */
  readonly rows: number;
  /**
   * Writes a complete text synchronously.
   *
   * @param text The text, including line feeds.
   * @throws {Deno.errors.BrokenPipe} If the reader has closed the output.
   */
  write(text: string): void;
}

/** Names of the styles of {@linkcode Colors}, each with the codes that start and end it. */
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

/** Functions that style a text. Without colors, they return it unchanged. */
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

/** The environment of a command, so that a test needs no process. */
export interface Context {
  /** Standard input. */
  readonly stdin: Input;
  /** The stream for results. */
  readonly stdout: Output;
  /** The stream for errors and progress. */
  readonly stderr: Output;
  /** True if standard input and output are terminals, so that a command can ask questions. */
  readonly isTerminal: boolean;
  /** Styles for standard output. If it is not a terminal, text stays plain. */
  readonly colors: Colors;
  /** Aborted by Ctrl-C, and by SIGTERM. */
  readonly signal: AbortSignal;
  /**
   * Reads an environment variable.
   *
   * @param name The variable.
   * @returns The value, or `undefined` if it is not set.
   */
  readonly env: (name: string) => string | undefined;
  /** Clocks, timers and randomness. */
  readonly runtime: Runtime;
  /**
   * Opens a page in the user's browser.
   *
   * @param url The address.
   * @returns False if there is no display, or no program that opens pages.
   */
  readonly openPage: (url: string) => Promise<boolean>;
}

// deno-lint-ignore no-control-regex -- escape sequences start with a control character.
const CONTROL = /\x1b\[[0-9;?]*[A-Za-z]|[\p{Cc}\p{Cf}]/gu;

/**
 * Makes a peer's text safe for a terminal: control characters, which could move the cursor or
 * reverse the text direction, become spaces.
 *
 * @param text The text as received.
 * @returns The text on one line.
 */
export function plainText(text: string): string {
  return text.replace(CONTROL, " ");
}

/** Characters that affect a terminal and that `JSON.stringify` does not escape. */
const OBEYED = /[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/**
 * Formats a value as JSON with escaped control characters, so that it is safe for a terminal.
 *
 * @param value Any value for JSON.
 * @param indent Number of spaces for each level. Without it, the result is one line.
 * @returns The text, without a final line feed.
 */
export function plainJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(
    OBEYED,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Longest line of an input, in characters. It is longer than any message that a server accepts. */
const MAX_INPUT_LINE = 4 * 1_048_576;

/**
 * Yields the lines of an input until it ends or the signal aborts. Leaving the loop cancels the
 * input.
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
      rest = lines.pop()!;
      // After the last line feed there is no further, empty line.
      if (done && rest !== "") lines.push(rest);
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
