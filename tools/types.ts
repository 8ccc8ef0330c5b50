/**
 * Checks all types in one compiler run: the repository's modules with their documentation examples,
 * the TypeScript blocks and programs of the pages, and mistakes that the compiler must report.
 *
 * ```sh
 * deno run -A tools/launch.ts run -A tools/types.ts
 * ```
 *
 * @module
 */
import { fileURLToPath, pathToFileURL } from "node:url";
import { filesIn } from "./arrows.ts";
import { MISTAKES, MISTAKES_BEGIN } from "../tests/programs/type_mistakes.ts";
import { type Example, examplesOf, writeModules } from "./run_tests/examples.ts";
import { PROGRAMS } from "../tests/programs/page_programs.ts";

/**
 * Pages whose blocks are files of a project with its own compiler options. `deno task docs --check`
 * builds these projects.
 */
const IN_PROJECTS: ReadonlySet<string> = new Set(["docs/recipes/react.md"]);

/** A compiler error. */
export interface TypeFault {
  /** The whole text. */
  readonly text: string;
  /** First line of the message, without the error number. */
  readonly message: string;
  /** The file, as the compiler names it. */
  readonly file: string;
  /** Line number, from 1. */
  readonly line: number;
}

/**
 * Parses the errors that `deno check` prints.
 *
 * @param output The output, without colors.
 * @returns The errors, in the order of the output.
 */
export function faultsOf(output: string): TypeFault[] {
  return output.split("\n\n").flatMap((text) => {
    const message = /^TS\d+ \[ERROR\]: (.*)$/m.exec(text)?.[1];
    if (message === undefined) return [];
    // The first location is the error's; others belong to explanations.
    const place = /^ {4}at (\S+?):(\d+):\d+$/m.exec(text);
    return [{ text, message, file: place?.[1] ?? "", line: Number(place?.[2] ?? 0) }];
  });
}

/**
 * Compares the compiler's errors for the program of deliberate mistakes with the expected errors.
 *
 * @param faults The errors in that program.
 * @returns A message for each mistake that the compiler missed or reported differently, and for
 * each error elsewhere in the program.
 */
export function differences(faults: readonly TypeFault[]): string[] {
  const told = new Map(faults.map(({ line, message }) => [line, message]));
  const texts = MISTAKES.flatMap(({ code, message }, i) => {
    const received = told.get(MISTAKES_BEGIN.length + 1 + i);
    told.delete(MISTAKES_BEGIN.length + 1 + i);
    if (received === message) return [];
    return [`${code} has to be the error "${message}", received "${received ?? "no error"}"`];
  });
  for (const [line, message] of told) texts.push(`line ${line} of the mistakes: ${message}`);
  return texts;
}

/**
 * Checks the types.
 *
 * @param root The folder of the repository.
 * @returns Whether all types are correct, and the compiler's output.
 */
export async function checkTypes(root: URL): Promise<{ passed: boolean; output: string }> {
  const folder = await Deno.makeTempDir();
  try {
    const mistakes = `${folder}/mistakes.ts`;
    const lines = [...MISTAKES_BEGIN, ...MISTAKES.map(({ code }) => code)];
    await Deno.writeTextFile(mistakes, lines.join("\n"));
    const programs = Object.entries(PROGRAMS).map(([name, code]) => ({
      path: `${folder}/${name}.ts`,
      code,
    }));
    for (const { path, code } of programs) await Deno.writeTextFile(path, code);
    const examples: Example[] = [];
    for await (const path of filesIn(root)) {
      if (!path.endsWith(".md") || IN_PROJECTS.has(path)) continue;
      const url = new URL(path, root);
      examples.push(...examplesOf(url.href, await Deno.readTextFile(url)));
    }
    await Deno.mkdir(`${folder}/pages`);
    const modules = await writeModules(examples, pathToFileURL(`${folder}/pages/`));
    const names = new Map(modules.map(({ href }, i) => [href, examples[i]!.name]));
    const config = fileURLToPath(new URL("deno.json", root));
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "check",
        "--doc",
        "--config",
        config,
        ".",
        mistakes,
        ...programs.map((it) => it.path),
        ...modules.map(({ href }) => href),
      ],
      cwd: root,
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    const faults = faultsOf(output);
    const isMistake = ({ file }: TypeFault) => file.endsWith("/mistakes.ts");
    const others = faults.filter((fault) => !isMistake(fault)).map(({ text, file }) =>
      text.replaceAll(file, names.get(file) ?? file)
    );
    const problems = [...others, ...differences(faults.filter(isMistake))];
    // Without any error the compiler has not run.
    if (faults.length === 0) problems.push(output);
    return { passed: problems.length === 0, output: problems.join("\n\n") };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const { passed, output } = await checkTypes(new URL("../", import.meta.url));
  console.log(output);
  Deno.exit(passed ? 0 : 1);
}
