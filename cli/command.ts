/** Commands, with their options, help and exit codes. */
import { parseArgs } from "@std/cli/parse-args";
import { levenshteinDistance } from "@std/text/levenshtein-distance";
import type { Context } from "./context.ts";

/** Exit codes of all commands. */
export const Exit = {
  /** The command succeeded. */
  done: 0,
  /** The command ran, but the result is a failure. */
  failed: 1,
  /** A command, an option or an argument is wrong. */
  usage: 2,
  /** The server cannot be reached. */
  unreachable: 3,
  /** Ended by Ctrl-C. */
  interrupted: 130,
} as const;

/** Thrown to exit with a message for the user. */
export class CommandError extends Error {
  readonly exitCode: number;

  /**
   * Creates the error.
   *
   * @param message The text, in the form "Cannot <verb>: <rule>, received <value>".
   * @param options The exit code, by default 1, and the cause.
   */
  constructor(
    message: string,
    options: ErrorOptions & { readonly exitCode?: number | undefined } = {},
  ) {
    super(message, options);
    this.name = "CommandError";
    this.exitCode = options.exitCode ?? Exit.failed;
  }
}

/**
 * Creates the error for an invalid option or argument. The command prints the usage, too.
 *
 * @param message The text.
 * @returns The error, with the exit code 2.
 */
export function usageError(message: string): CommandError {
  return new CommandError(message, { exitCode: Exit.usage });
}

export interface CommandOption {
  /** The long name, without the dashes. */
  readonly name: string;
  /** A one-letter alias of the name. */
  readonly short?: string | undefined;
  /** Name of the value in the help, such as `TOKEN`. An option without a value is a flag. */
  readonly value?: string | undefined;
  /** One line for the help. */
  readonly summary: string;
  /** The values that the option may have. By default, any value is allowed. */
  readonly choices?: readonly string[] | undefined;
  /** True if the option may be repeated, each time with a value. */
  readonly isRepeatable?: boolean | undefined;
}

/** A command, such as `skein connect`. */
export interface Command {
  /** The name, as typed. */
  readonly name: string;
  /** One line for the list of all commands. */
  readonly summary: string;
  /** The arguments, as in `URL [options]`. */
  readonly usage: string;
  /** Paragraphs below the usage. By default, there are none. */
  readonly details?: string | undefined;
  /** The options of this command; options that every command has are left out. */
  readonly options: readonly CommandOption[];
  /** Example command lines, each with its effect. */
  readonly examples: readonly { readonly line: string; readonly effect: string }[];
  /** The exit codes of the command, each with its cause. */
  readonly exitCodes: Readonly<Record<number, string>>;
  /**
   * Runs the command.
   *
   * @param args Arguments and options.
   * @param context The environment.
   * @returns The exit code.
   * @throws {CommandError} If the program should exit with a message for the user.
   */
  run(args: Arguments, context: Context): Promise<number>;
}

/** Options of every command. */
export const GLOBAL_OPTIONS: readonly CommandOption[] = [
  {
    name: "color",
    value: "WHEN",
    choices: ["auto", "always", "never"],
    summary: "Color the output: auto, always or never",
  },
  { name: "help", short: "h", summary: "Show this help" },
];

/** The arguments of one call of a command. */
export class Arguments {
  /** Arguments that are not options, in order. */
  readonly positional: readonly string[];
  readonly #values: ReadonlyMap<string, readonly string[]>;
  readonly #flags: ReadonlySet<string>;

  /**
   * Parses the arguments.
   *
   * @param args The arguments after the name of the command.
   * @param options The command's own options. The options that all commands share are added.
   * @throws {CommandError} With exit code 2, if an option is unknown, or if its value is missing or
   * is not among the choices.
   */
  constructor(args: readonly string[], options: readonly CommandOption[]) {
    const known = [...options, ...GLOBAL_OPTIONS];
    const names = (keep: (option: CommandOption) => unknown) =>
      known.filter(keep).map(({ name }) => name);
    const parsed = parseArgs([...args], {
      string: [...names(({ value }) => value !== undefined), "_"],
      boolean: names(({ value }) => value === undefined),
      collect: names(({ isRepeatable }) => isRepeatable),
      alias: Object.fromEntries(known.flatMap(({ name, short }) => short ? [[short, name]] : [])),
      unknown: (arg: string, key?: string) => {
        if (key !== undefined) throw unknownOption(arg, key, known);
        return true;
      },
    }) as Record<string, unknown>;
    this.positional = (parsed["_"] as unknown[]).map(String);
    this.#flags = new Set(
      names(({ name, value }) => value === undefined && parsed[name] === true),
    );
    const values = new Map<string, readonly string[]>();
    for (const { name, value, choices } of known) {
      const given = value === undefined ? [] : [parsed[name] ?? []].flat().map(String);
      for (const one of given) checkValue(name, one, choices);
      values.set(name, given);
    }
    this.#values = values;
  }

  /**
   * Checks whether a flag is set.
   *
   * @param name The long name.
   * @returns True if the flag is set.
   */
  flag(name: string): boolean {
    return this.#flags.has(name);
  }

  /**
   * Reads the value of an option.
   *
   * @param name The long name.
   * @returns The value, or the last one if the option is repeated; `undefined` if the option is
   * absent.
   */
  value(name: string): string | undefined {
    return this.#values.get(name)?.at(-1);
  }

  /**
   * Reads the values of an option that may be repeated.
   *
   * @param name The long name.
   * @returns The values, in order.
   */
  values(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  /**
   * Reads a number.
   *
   * @param name The long name.
   * @param options The default, the bounds, and whether fractions are allowed.
   * @returns The number, or the default.
   * @throws {CommandError} With exit code 2, if the value is not a number within the bounds.
   */
  number(
    name: string,
    { fallback, min = 0, max = Infinity, isWhole = true }: {
      readonly fallback: number;
      readonly min?: number | undefined;
      readonly max?: number | undefined;
      readonly isWhole?: boolean | undefined;
    },
  ): number {
    const text = this.value(name);
    if (text === undefined) return fallback;
    const number = Number(text);
    const isFit = isWhole ? Number.isSafeInteger(number) : Number.isFinite(number);
    if (isFit && text.trim() !== "" && number >= min && number <= max) return number;
    const range = max === Infinity ? `of at least ${min}` : `between ${min} and ${max}`;
    throw usageError(
      `Cannot read --${name}: the value must be ${
        isWhole ? "an integer" : "a number"
      } ${range}, received ${JSON.stringify(text)}`,
    );
  }

  /**
   * Reads the only argument of a command that requires exactly one.
   *
   * @param name Name of the argument, for the error.
   * @returns The argument.
   * @throws {CommandError} With exit code 2, if there is not exactly one argument.
   */
  single(name: string): string {
    const { positional: [first, second] } = this;
    if (first === undefined) throw usageError(`Cannot run: ${name} is missing`);
    if (second !== undefined) {
      throw usageError(`Cannot run: expected one ${name}, also received "${second}"`);
    }
    return first;
  }

  /**
   * Reads the only argument as the URL of a server. If the URL has no scheme, as in
   * `localhost:8000`, the scheme is `http:` for this machine and `https:` for others.
   *
   * @throws {CommandError} With exit code 2, if the argument is missing or is not such a URL.
   */
  url(): URL {
    const text = this.single("URL");
    const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : withScheme(text));
    if (url !== null && /^(?:https?|wss?):$/.test(url.protocol) && url.hostname !== "") return url;
    throw usageError(
      `Cannot read URL: the scheme must be http, https, ws or wss, received "${text}"`,
    );
  }
}

function withScheme(text: string): string {
  const isLocal = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?:[:/?#]|$)/i.test(text);
  return `${isLocal ? "http" : "https"}://${text}`;
}

function checkValue(name: string, value: string, choices: readonly string[] | undefined): void {
  if (value === "") throw usageError(`Cannot read --${name}: the option needs a value`);
  if (choices === undefined || choices.includes(value)) return;
  throw usageError(
    `Cannot read --${name}: the value must be one of ${choices.join(", ")}, received "${value}"${
      suggestion(value, choices)
    }`,
  );
}

function unknownOption(
  arg: string,
  key: string,
  known: readonly CommandOption[],
): CommandError {
  const names = known.map(({ name }) => name);
  if (arg.startsWith("--")) {
    return usageError(`Cannot run: unknown option --${key}${suggestion(key, names, "--")}`);
  }
  // A long name with one dash is parsed as several letters.
  const word = /^-(\w[\w-]+)/.exec(arg)?.[1] ?? "";
  return usageError(`Cannot run: unknown option -${key}${word && suggestion(word, names, "--")}`);
}

/**
 * Suggests the most similar name.
 *
 * @param name The name as typed.
 * @param known All names.
 * @param prefix Prefix of the suggested name.
 * @returns The text to append to an error message; empty if no name is similar.
 */
export function suggestion(name: string, known: readonly string[], prefix = ""): string {
  // Two swapped letters are a distance of two.
  const far = Math.max(name.length > 2 ? 2 : 1, Math.floor(name.length / 3));
  const [nearest] = known
    .map((one) => ({ one, distance: levenshteinDistance(name, one) }))
    .filter(({ one, distance }) => distance <= far || name.length > 1 && one.startsWith(name))
    .sort((a, b) => a.distance - b.distance);
  return nearest === undefined ? "" : `; did you mean ${prefix}${nearest.one}?`;
}

/** Formats rows of a name and a text as aligned columns. */
export function columns(rows: readonly (readonly [name: string, text: string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}\n`).join("");
}

/**
 * Formats the help of a command.
 *
 * @param colors Styles for the headings.
 * @returns The text, which ends with a line feed.
 */
export function helpOf(command: Command, { colors }: Pick<Context, "colors">): string {
  const { name, summary, usage, details, options, examples, exitCodes } = command;
  const heading = (text: string) => `\n${colors.bold(`${text}:`)}\n`;
  return `${summary}.\n\n${colors.bold("Usage:")} skein ${name} ${usage}\n` +
    (details === undefined ? "" : `\n${details}\n`) +
    heading("Options") + optionsHelp([...options, ...GLOBAL_OPTIONS]) +
    heading("Examples") +
    examples.map(({ line, effect }) => `  ${colors.dim(`# ${effect}`)}\n  ${line}\n`).join("\n") +
    heading("Exit codes") +
    columns(Object.entries(exitCodes).map(([code, cause]) => [code.padStart(3), cause]));
}

/**
 * Formats the list of options.
 *
 * @param options The options, in order.
 * @returns A line for each option.
 */
export function optionsHelp(options: readonly CommandOption[]): string {
  return columns(options.map(({ name, short, value, summary, isRepeatable }) => [
    `${short === undefined ? "    " : `-${short}, `}--${name}${
      value === undefined ? "" : ` ${value}`
    }${isRepeatable ? "…" : ""}`,
    summary,
  ]));
}
