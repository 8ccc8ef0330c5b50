/**
 * Parses an example's command line, and prints `--help`.
 *
 * @module
 */
import { parseArgs } from "node:util";

/** A program, as `--help` describes it. */
export interface Program {
  /** The command that runs the program, without options. */
  readonly run: string;
  /** Its purpose, in a sentence or two. */
  readonly about: string;
  /**
   * The command line.
   *
   * @default {Deno.args}
   */
  readonly args?: readonly string[];
}

/** An option of a program: a flag, or with `value` an option that takes a value. */
export interface Option {
  /** One line for `--help`. */
  readonly help: string;
  /** Name of the value in `--help`, such as `PORT`. */
  readonly value?: string;
  /** The value if the option is absent; if this is a number, the option takes a number. */
  readonly default?: string | number;
  /** Maximum of a numeric option. */
  readonly max?: number;
  /** True if the option may be given several times. */
  readonly multiple?: boolean;
}

export type ValueOf<O extends Option> = O extends { readonly multiple: true } ? string[]
  : O extends { readonly default: number } ? number
  : O extends { readonly default: string } ? string
  : O extends { readonly value: string } ? string | undefined
  : boolean;

/** The port of a server. */
export const PORT = { value: "PORT", default: 8000, max: 65_535, help: "port to listen on" };

/** Runs a script instead of a server. */
export const ONCE = { help: "runs once, prints each step, and exits" };

/**
 * Parses a program's options. With `--help`, it prints the options and exits. If an option is
 * invalid, it prints an error and exits with code 2.
 *
 * @param options The options, by name.
 * @returns The value of each option.
 */
export function optionsOf<const T extends Readonly<Record<string, Option>>>(
  program: Program,
  options: T,
): { readonly [Name in keyof T]: ValueOf<T[Name]> } {
  try {
    const { values } = parseArgs({
      // `deno task demo -- --once` passes the separator on, and no example takes other arguments.
      args: (program.args ?? Deno.args).filter((arg) => arg !== "--"),
      options: {
        ...Object.fromEntries(
          Object.entries(options).map(([name, option]) => [name, {
            type: option.value === undefined ? "boolean" as const : "string" as const,
            multiple: option.multiple ?? false,
          }]),
        ),
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.help) {
      console.log(helpOf(program, options));
      Deno.exit(0);
    }
    const given: Readonly<Record<string, unknown>> = values;
    return Object.fromEntries(
      Object.entries(options).map(([name, option]) => [name, valueOf(name, option, given[name])]),
    ) as { [Name in keyof T]: ValueOf<T[Name]> };
  } catch (error) {
    console.error(`${(error as Error).message.split("\n")[0]}\nSee --help`);
    return Deno.exit(2);
  }
}

function valueOf(name: string, option: Option, given: unknown): unknown {
  if (option.multiple) return given ?? [];
  if (option.value === undefined) return given ?? false;
  if (typeof option.default !== "number" || given === undefined) return given ?? option.default;
  const number = Number(given);
  const { max = Number.MAX_SAFE_INTEGER } = option;
  if (given !== "" && Number.isInteger(number) && number >= 0 && number <= max) return number;
  throw new RangeError(`Cannot start: --${name} must be from 0 to ${max}, received ${given}`);
}

function helpOf({ run, about }: Program, options: Readonly<Record<string, Option>>): string {
  const rows = Object.entries({ ...options, help: { help: "prints this text" } as Option })
    .map(([name, { value, help, default: initial }]) => [
      `--${name}${value === undefined ? "" : ` ${value}`}`,
      `${help}${initial === undefined ? "" : ` (default ${initial})`}`,
    ]);
  const width = Math.max(...rows.map(([left]) => left!.length)) + 3;
  const lines = rows.map(([left, right]) => `  ${left!.padEnd(width)}${right}`);
  return `${about}\n\nUsage: ${run} [options]\n\n${lines.join("\n")}`;
}
