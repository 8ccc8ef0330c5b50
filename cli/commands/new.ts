/** `skein new`: creates a project that runs and has tests. */
import config from "../../deno.json" with { type: "json" };
import {
  type Arguments,
  columns,
  type Command,
  CommandError,
  Exit,
  suggestion,
  usageError,
} from "../command.ts";
import { type Context, linesOf, plainText } from "../context.ts";
import { filesOf, TEMPLATES } from "../templates/templates.ts";

const NAMES = Object.keys(TEMPLATES);

/** The template without the option and without a terminal. */
const FALLBACK = "minimal";

/** The command `skein new`. */
export const create: Command = {
  name: "new",
  summary: "Create a project that runs and has tests",
  usage: "DIR [options]",
  details: `Templates:
${columns(Object.entries(TEMPLATES).map(([name, { summary }]) => [name, summary])).trimEnd()}

In a terminal, the command asks for the template, and offers to create a Git repository unless the
folder is already in one. Elsewhere the default template is ${FALLBACK}. The folder must be empty.`,
  options: [
    {
      name: "template",
      short: "t",
      value: "NAME",
      choices: NAMES,
      summary: `One of ${NAMES.join(", ")}`,
    },
    { name: "git", summary: "Create a Git repository without asking" },
    { name: "no-git", summary: "Create no Git repository" },
    {
      name: "force",
      short: "f",
      summary: "Write into a folder that is not empty, and overwrite files",
    },
  ],
  examples: [
    { line: "skein new my-chat --template chat", effect: "Create a chat in the folder my-chat" },
    {
      line: "skein new . --template minimal",
      effect: "Create a project in the current folder, which must be empty",
    },
  ],
  exitCodes: {
    0: "the project was created",
    1: "the folder is not empty or not writable, or git failed",
    2: "invalid option",
    130: "interrupted with Ctrl-C",
  },
  async run(args, context) {
    const [, second] = args.positional;
    if (second !== undefined && Object.hasOwn(TEMPLATES, second)) {
      throw usageError(
        `Cannot create: expected one DIR, also received "${second}"; ` +
          `did you mean --template ${second}?`,
      );
    }
    const folder = args.single("DIR");
    if (folder === "") throw usageError('Cannot create: DIR must be a path, received ""');
    if (args.flag("git") && args.flag("no-git")) {
      throw usageError("Cannot create: --git and --no-git exclude each other");
    }
    const isForced = args.flag("force");
    await checkFolder(folder, isForced);
    const lines = linesOf(context.stdin.readable, context.signal);
    try {
      const name = args.value("template") ?? await chooseTemplate(lines, context);
      await Deno.mkdir(folder, { recursive: true });
      // If the user cancels here, or Git fails, the folder is still empty for the next attempt.
      const hasGit = await wantsGit(folder, { args, context, lines });
      if (hasGit) await git(folder, "init", "--quiet");
      const paths = await write(folder, { name, isForced });
      context.stdout.write(reportOf(folder, { name, paths, hasGit, context }));
    } finally {
      await lines.return();
    }
    return Exit.done;
  },
};

async function write(
  folder: string,
  { name, isForced }: { readonly name: string; readonly isForced: boolean },
): Promise<string[]> {
  const project = { name: await nameOf(folder), version: config.version };
  const files = filesOf(TEMPLATES[name]!, project);
  for (const [path, text] of files) {
    const place = `${folder}/${path}`;
    await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(place, text, { createNew: !isForced });
  }
  return [...files.keys()];
}

function reportOf(
  folder: string,
  { name, paths, hasGit, context: { colors } }: {
    readonly name: string;
    readonly paths: readonly string[];
    readonly hasGit: boolean;
    readonly context: Context;
  },
): string {
  const hint = TEMPLATES[name]!.page ? "# then open http://localhost:8000" : "# on port 8000";
  return `Created ${colors.bold(folder)} from the template ${name}:\n` +
    paths.map((path) => `  ${path}\n`).join("") +
    (hasGit ? "with a Git repository\n" : "") +
    `\nNext:\n${folder === "." ? "" : `  cd ${quoted(folder)}\n`}` +
    `  deno task dev   ${colors.dim(hint)}\n` +
    "  deno task test\n";
}

/** Quotes a path for the shell if necessary. */
function quoted(path: string): string {
  if (/^[\w./-]+$/.test(path)) return path;
  return Deno.build.os === "windows" ? `"${path}"` : `'${path.replaceAll("'", `'\\''`)}'`;
}

async function checkFolder(folder: string, isForced: boolean): Promise<void> {
  try {
    for await (const { name } of Deno.readDir(folder)) {
      if (isForced) return;
      throw new CommandError(
        `Cannot create ${folder}: it is not empty and has ${name}; ` +
          "--force writes into it",
      );
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    if (!(error instanceof Deno.errors.NotADirectory)) throw error;
    throw new CommandError(`Cannot create ${folder}: there is a file of that name`);
  }
}

/** The name of the folder, also for `.`. */
async function nameOf(folder: string): Promise<string> {
  const path = await Deno.realPath(folder);
  return path.split(/[/\\]/).findLast((part) => part !== "") ?? "project";
}

type InputLines = AsyncGenerator<string, void, undefined>;

/** Asks in a terminal until the input is valid. Resolves to `undefined` if the input ends first. */
async function ask<T>(
  lines: InputLines,
  { stdout, signal }: Context,
  { question, read }: {
    readonly question: string;
    readonly read: (word: string) => T | undefined;
  },
): Promise<T | undefined> {
  while (true) {
    stdout.write(question);
    const { done, value } = await lines.next();
    signal.throwIfAborted();
    if (done) {
      stdout.write("\n");
      return undefined;
    }
    const found = read(value.trim());
    if (found !== undefined) return found;
  }
}

/**
 * Asks for a template, by number or name. Without a terminal, uses the smallest template and says
 * so.
 */
async function chooseTemplate(lines: InputLines, context: Context): Promise<string> {
  const { isTerminal, stdout, stderr } = context;
  if (!isTerminal) {
    const others = NAMES.filter((name) => name !== FALLBACK).join(", ");
    stderr.write(`Not in a terminal: using the template ${FALLBACK} (--template: ${others})\n`);
    return FALLBACK;
  }
  const rows = Object.entries(TEMPLATES).map(([name, { summary }], i) =>
    [`${i + 1}  ${name}`, summary] as const
  );
  stdout.write(columns(rows));
  const chosen = await ask(lines, context, {
    question: "Template (number or name): ",
    read(word) {
      const found = NAMES.find((name, i) => word === name || word === String(i + 1));
      if (found === undefined && word !== "") {
        stdout.write(`There is no template "${plainText(word)}"${suggestion(word, NAMES)}\n`);
      }
      return found;
    },
  });
  if (chosen !== undefined) return chosen;
  throw usageError(`Cannot create: --template needs one of ${NAMES.join(", ")}`);
}

/** Answers to a yes/no question. An empty line means yes. */
const ANSWERS: Readonly<Record<string, boolean>> = {
  "": true,
  y: true,
  yes: true,
  n: false,
  no: false,
};

/** Asks only if Git is installed and the folder is not in a repository. No answer means no. */
async function wantsGit(
  folder: string,
  { args, context, lines }: {
    readonly args: Arguments;
    readonly context: Context;
    readonly lines: InputLines;
  },
): Promise<boolean> {
  if (args.flag("git")) return true;
  if (args.flag("no-git") || !context.isTerminal) return false;
  try {
    await git(folder, "--version");
  } catch {
    return false; // Git is not installed.
  }
  const isInside = await git(folder, "rev-parse", "--git-dir").then(() => true, () => false);
  if (isInside) return false;
  return await ask(lines, context, {
    question: "Create a Git repository? [Y/n] ",
    read: (word) => ANSWERS[word.toLowerCase()],
  }) ?? false;
}

async function git(folder: string, ...args: string[]): Promise<void> {
  const fail = (why: string, cause?: unknown): never => {
    throw new CommandError(`Cannot create a Git repository in ${folder}: ${why}`, { cause });
  };
  try {
    const { success, stderr } = await new Deno.Command("git", {
      args,
      cwd: folder,
      stdin: "null",
      stdout: "null",
    }).output();
    if (!success) fail(new TextDecoder().decode(stderr).trim());
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) fail("git is not installed", error);
    throw error;
  }
}
