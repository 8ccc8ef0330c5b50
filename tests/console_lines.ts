/**
 * Lines that a test has the library print.
 *
 * @module
 */

/** Lines printed while it is in use, oldest first. */
export interface ConsoleLines extends Disposable {
  /** The lines, without errors' stacks. */
  readonly lines: string[];
}

/** Takes what is printed as a warning or an error, until it is disposed of. */
export function captureConsole(): ConsoleLines {
  const { warn, error } = console;
  const lines: string[] = [];
  const take = (...parts: unknown[]) => void lines.push(parts.map(String).join(" "));
  Object.assign(console, { warn: take, error: take });
  return { lines, [Symbol.dispose]: () => void Object.assign(console, { warn, error }) };
}
