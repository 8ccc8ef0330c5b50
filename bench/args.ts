/**
 * Arguments of the benchmark's programs.
 *
 * @module
 */

/**
 * Finds the value of an argument, given as `--name value` or `--name=value`.
 *
 * @param args All arguments.
 * @param name The name, without dashes.
 * @returns The value, or `undefined`.
 */
export function argument(args: readonly string[], name: string): string | undefined {
  const at = args.indexOf(`--${name}`);
  if (at >= 0) return args[at + 1];
  return args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3);
}

/**
 * Finds the value of a numeric argument.
 *
 * @param args All arguments.
 * @param name The name, without dashes.
 * @param fallback The value if the argument is absent.
 * @returns The value.
 * @throws {TypeError} If the value is not a number.
 */
export function numberArgument(args: readonly string[], name: string, fallback: number): number {
  const value = argument(args, name);
  const number = value === undefined ? fallback : Number(value);
  if (!Number.isFinite(number) || number < 0) {
    throw new TypeError(`Cannot run: --${name} must be a number, received ${value}`);
  }
  return number;
}

/**
 * Finds the port to listen on.
 *
 * @param args All arguments.
 * @returns The port; 9100 by default.
 */
export function portOf(args: readonly string[]): number {
  return numberArgument(args, "port", 9100);
}
