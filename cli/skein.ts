/** The command `skein`, which finds the command to run and turns its result into an exit code. */
import { textOf } from "../base/error_text.ts";
import config from "../deno.json" with { type: "json" };
import {
  Arguments,
  columns,
  type Command,
  CommandError,
  type CommandOption,
  Exit,
  GLOBAL_OPTIONS,
  helpOf,
  optionsHelp,
  suggestion,
  usageError,
} from "./command.ts";
import { connect } from "./commands/connect.ts";
import { doctor } from "./commands/doctor.ts";
import { inspect } from "./commands/inspect.ts";
import { load } from "./commands/load.ts";
import { create } from "./commands/new.ts";
import { type Context, makeColors, plainText } from "./context.ts";

/** All commands, in the order of the help. */
export const COMMANDS: readonly Command[] = [connect, load, inspect, doctor, create];

/** Options before the name of a command. */
const OWN_OPTIONS: readonly CommandOption[] = [
  { name: "version", short: "V", summary: "Show the version" },
];

/**
 * Runs `skein`.
 *
 * @param args The arguments of the command line.
 * @param context The environment.
 * @param commands All commands.
 * @returns The exit code.
 */
export async function main(
  args: readonly string[],
  context: Context,
  commands: readonly Command[] = COMMANDS,
): Promise<number> {
  const inColor = { ...context, colors: colorsFor(args, context) };
  let command: Command | undefined;
  try {
    const at = indexOfCommand(args);
    const name = args[at];
    if (name === undefined || name === "help") {
      return showHelp(args, at, { context: inColor, commands });
    }
    command = findCommand(name, commands);
    const rest = [...args.slice(0, at), ...args.slice(at + 1)];
    // `--help` works next to invalid options, too.
    if (rest.includes("--help") || rest.includes("-h")) {
      context.stdout.write(helpOf(command, inColor));
      return Exit.done;
    }
    const given = new Arguments(rest, command.options);
    if (!given.flag("help")) return await command.run(given, inColor);
    context.stdout.write(helpOf(command, inColor));
    return Exit.done;
  } catch (error) {
    return endOf(error, command, inColor);
  }
}

/** Finds the first argument that is neither an option nor the value of `--color`. */
function indexOfCommand(args: readonly string[]): number {
  const at = args.findIndex((arg, i) => !arg.startsWith("-") && args[i - 1] !== "--color");
  return at === -1 ? args.length : at;
}

function showHelp(
  args: readonly string[],
  at: number,
  { context, commands }: { readonly context: Context; readonly commands: readonly Command[] },
): number {
  const given = new Arguments(
    [...args.slice(0, at), ...args.slice(at + 1)],
    OWN_OPTIONS,
  );
  const [name, extra] = given.positional;
  if (extra !== undefined) throw usageError(`Cannot show help: unknown argument "${extra}"`);
  if (given.flag("version")) context.stdout.write(`skein ${config.version}\n`);
  else if (name !== undefined) {
    context.stdout.write(helpOf(findCommand(name, commands), context));
  } else if (at < args.length || given.flag("help")) {
    context.stdout.write(overview(commands, context));
  } else {
    // A call without arguments is a usage error.
    context.stderr.write(overview(commands, context));
    return Exit.usage;
  }
  return Exit.done;
}

function findCommand(name: string, commands: readonly Command[]): Command {
  const found = commands.find((command) => command.name === name);
  if (found !== undefined) return found;
  const names = [...commands.map((command) => command.name), "help"];
  throw usageError(`Cannot run: unknown command "${plainText(name)}"${suggestion(name, names)}`);
}

function overview(commands: readonly Command[], { colors }: Context): string {
  return `Skein on the command line: talk to real-time servers, measure them, create new ones.

${colors.bold("Usage:")} skein COMMAND [options]

${colors.bold("Commands:")}
${
    columns([
      ...commands.map(({ name, summary }) => [name, summary] as const),
      ["help", "Show the options, examples and exit codes of a command"],
    ])
  }
${colors.bold("Options:")}
${optionsHelp([...OWN_OPTIONS, ...GLOBAL_OPTIONS])}
Run "skein help COMMAND" for more on a command.
`;
}

/** Reads `--color` before anything else, because errors have colors, too. */
function colorsFor(args: readonly string[], { colors, stdout, env }: Context): Context["colors"] {
  const at = args.findLastIndex((arg) => /^--color(?:=|$)/.test(arg));
  const when = at === -1 ? undefined : args[at]!.split("=")[1] ?? args[at + 1];
  if (when === "always") return makeColors(true);
  if (when === "never" || env("NO_COLOR")) return makeColors(false);
  return when === "auto" ? makeColors(stdout.isTerminal) : colors;
}

function endOf(error: unknown, command: Command | undefined, context: Context): number {
  const { signal, stderr } = context;
  if (error instanceof Deno.errors.BrokenPipe) return Exit.done;
  if (signal.aborted && !(error instanceof CommandError)) return Exit.interrupted;
  const who = command === undefined ? "skein" : `skein ${command.name}`;
  // Parts of many errors come from a server.
  const shown = textOf(error).split("\n").map(plainText).join("\n");
  stderr.write(`${errorColors(context).red("error:")} ${shown}\n`);
  const code = error instanceof CommandError ? error.exitCode : Exit.failed;
  if (code === Exit.usage) {
    const usage = command === undefined ? "COMMAND [options]" : command.usage;
    stderr.write(`\nUsage: ${who} ${usage}\nRun "${who} --help" for more.\n`);
  }
  return code;
}

function errorColors({ colors, stderr }: Context): Context["colors"] {
  return makeColors(colors.isOn && stderr.isTerminal);
}
