/** `skein new`: begins a project that runs and tests at once. */
import config from "../../deno.json" with { type: "json" };
import { columns, type Command, CommandError, Exit, usageError } from "../command.ts";
import { type Context, linesOf } from "../context.ts";
import { filesOf, TEMPLATES } from "../templates/templates.ts";

const NAMES = Object.keys(TEMPLATES);

/** The command `skein new`. */
export const create: Command = {
  name: "new",
  summary: "Begin a project that runs and tests at once",
  usage: "DIR [options]",
  details: `Templates:
${columns(Object.entries(TEMPLATES).map(([name, { summary }]) => [name, summary])).trimEnd()}

Without --template a terminal asks for one. A folder with files is refused.`,
  options: [
    {
      name: "template",
      short: "t",
      value: "NAME",
      choices: NAMES,
      summary: `One of ${NAMES.join(", ")}`,
    },
    { name: "force", short: "f", summary: "Write into a folder with files, also over files" },
  ],
  examples: [
    { line: "skein new my-chat --template chat", effect: "Begin a chat in the folder my-chat" },
    { line: "skein new . --template minimal", effect: "Begin in the current folder, if empty" },
  ],
  exitCodes: {
    0: "the project is there",
    1: "the folder has files, or cannot be written",
    2: "an option is wrong",
    130: "ended by Ctrl-C",
  },
  async run(args, context) {
    const folder = args.single("DIR");
    if (folder === "") throw usageError('Cannot create: DIR must be a path, received ""');
    const isForced = args.flag("force");
    await checkFolder(folder, isForced);
    const name = args.value("template") ?? await chooseTemplate(context);
    const files = filesOf(TEMPLATES[name]!, {
      name: await nameOf(folder),
      version: config.version,
    });
    for (const [path, text] of files) {
      const place = `${folder}/${path}`;
      await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(place, text, { createNew: !isForced });
    }
    const { stdout, colors } = context;
    stdout.write(`Created ${colors.bold(folder)} from the template ${name}:\n`);
    stdout.write(`${[...files.keys()].map((path) => `  ${path}\n`).join("")}\nNext:\n`);
    const hasPage = TEMPLATES[name]!.hasPage;
    stdout.write(
      (folder === "." ? "" : `  cd ${quoted(folder)}\n`) +
        `  deno task dev   ${
          colors.dim(hasPage ? "# then open http://localhost:8000" : "# on port 8000")
        }\n` +
        `  deno task test\n`,
    );
    return Exit.done;
  },
};

/** Writes a path as one word of a shell. */
function quoted(path: string): string {
  if (/^[\w./-]+$/.test(path)) return path;
  return Deno.build.os === "windows" ? `"${path}"` : `'${path.replaceAll("'", `'\\''`)}'`;
}

/** Refuses a folder with files, and a file in place of the folder. */
async function checkFolder(folder: string, isForced: boolean): Promise<void> {
  try {
    for await (const { name } of Deno.readDir(folder)) {
      if (isForced) return;
      throw new CommandError(
        `Cannot create ${folder}: the folder must be empty, received one with ${name}; ` +
          "--force writes into it",
      );
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    if (!(error instanceof Deno.errors.NotADirectory)) throw error;
    throw new CommandError(`Cannot create ${folder}: there is a file of that name`);
  }
}

/** The name of the folder, also of `.`. */
async function nameOf(folder: string): Promise<string> {
  await Deno.mkdir(folder, { recursive: true });
  const path = await Deno.realPath(folder);
  return path.split(/[/\\]/).findLast((part) => part !== "") ?? "project";
}

/** Asks for a template, by number or name. */
async function chooseTemplate({ isTerminal, stdin, stdout, signal }: Context): Promise<string> {
  const missing = () =>
    usageError(`Cannot create: --template must be one of ${NAMES.join(", ")}, received none`);
  if (!isTerminal) throw missing();
  const rows = Object.entries(TEMPLATES).map(([name, { summary }], i) =>
    [`${i + 1}  ${name}`, summary] as const
  );
  const ask = () => stdout.write("Template (number or name): ");
  stdout.write(columns(rows));
  ask();
  for await (const line of linesOf(stdin.readable, signal)) {
    const word = line.trim();
    const found = NAMES.find((name, i) => word === name || word === String(i + 1));
    if (found !== undefined) return found;
    ask();
  }
  signal.throwIfAborted();
  throw missing();
}
