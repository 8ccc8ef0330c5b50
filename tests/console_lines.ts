/**
 * Collects the lines that the library prints during a test.
 *
 * @module
 */

/** The printed lines, oldest first. */
export interface ConsoleLines extends Disposable {
  /** The lines, without stack traces. */
  readonly lines: string[];
}

/** Captures printed warnings and errors until disposed. */
export function captureConsole(): ConsoleLines {
  const { warn, error } = console;
  const lines: string[] = [];
  const take = (...parts: unknown[]) => void lines.push(parts.map(String).join(" "));
  Object.assign(console, { warn: take, error: take });
  return { lines, [Symbol.dispose]: () => void Object.assign(console, { warn, error }) };
}
