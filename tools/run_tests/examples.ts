/**
 * Runs the examples of the documentation in a few test modules.
 *
 * `deno test --doc` starts an isolate for each example, which takes longer than running most
 * examples. Here each example is a module that a test imports, and one test module runs many
 * examples.
 *
 * @module
 */
import { lowPort } from "../../tests/networks/ports.ts";
import { commentTextOf, importsOf, lineAt } from "../_source.ts";

/** Number of examples per test module. */
const EXAMPLES_A_MODULE = 24;

/** The module that checks the output which a page promises. */
const SHOWN = new URL("shown.ts", import.meta.url).href;

/** A line of a page that prints values, with a comment that says which. */
const PRINTS = /^(?<indent>[ \t]*)console\.log\((?<values>.*)\); \/\/ (?<output>.+)$/gm;

/** A fenced code block with its language. */
const BLOCK = /^[ \t]*```(?<language>\w*)(?<attributes>[^\n]*)\n(?<code>[\s\S]*?)^[ \t]*```/gm;

const LANGUAGES: ReadonlySet<string> = new Set(
  ["js", "javascript", "mjs", "ts", "typescript", "mts"],
);

/** An example of the documentation. */
export interface Example {
  /** The module or page with first and last line, as Deno names examples. */
  readonly name: string;
  /** A module whose line numbers match the source. */
  readonly code: string;
  /** The name under which a reader of the page saves the example; other examples may import it. */
  readonly file?: string;
}

/**
 * Lists the examples of a module or a page, except those marked `ignore`. In a page, the comment
 * after a `console.log(…);` is its output, which the example checks. The blocks of a page with
 * `file=NAME` import each other by their names.
 *
 * @param url URL of the source; relative imports of an example are relative to this URL.
 * @param source Markdown if the URL ends with `.md`, otherwise TypeScript.
 * @returns The examples, in the order of the source.
 */
export function examplesOf(url: string, source: string): Example[] {
  const examples: Example[] = [];
  if (!source.includes("```")) return examples;
  const isPage = url.endsWith(".md");
  for (const { text, at } of isPage ? pageOf(source) : docsOf(source)) {
    for (const { 0: block, index, groups } of text.matchAll(BLOCK)) {
      const { language, attributes, code } = groups!;
      if (!LANGUAGES.has(language!) || /\bignore\b/.test(attributes!)) continue;
      const first = lineAt(source, at) + lineAt(text, index) - 1;
      // Deno counts the line after the fence.
      const last = first + lineAt(block, block.length);
      const file = isPage ? /\bfile=(\S+)/.exec(attributes!)?.[1] : undefined;
      examples.push({
        name: `${url}#${first}-${last}.ts`,
        code: "\n".repeat(first) + (isPage ? checked(code!) : code!),
        ...(file === undefined ? {} : { file }),
      });
    }
  }
  const files = new Set(examples.map(({ file }) => `./${file}`));
  return examples.map((one) => ({ ...one, code: withAbsoluteImports(url, one.code, files) }));
}

/** A page without its comments. */
function pageOf(source: string): { text: string; at: number }[] {
  return [{ text: source.replace(/<!--[\s\S]*?-->/g, (it) => it.replace(/[^\n]/g, " ")), at: 0 }];
}

/** The doc comments of a module, without the asterisk at the start of each line. */
function docsOf(source: string): { text: string; at: number }[] {
  return [...commentTextOf(source).matchAll(/\/\*\*[\s\S]*?\*\//g)].map((
    { 0: comment, index },
  ) => ({
    text: comment.replace(/^[ \t]*\* ?/gm, ""),
    at: index,
  }));
}

/** Lets the lines that print a value compare it with their comments. */
function checked(code: string): string {
  const text = code.replace(
    PRINTS,
    (_, indent, values, output) => `${indent}shown_(${JSON.stringify(output)}, ${values});`,
  );
  return text === code ? code : `${text}import { shown as shown_ } from "${SHOWN}";\n`;
}

function withAbsoluteImports(url: string, code: string, files: ReadonlySet<string>): string {
  const isElsewhere = (specifier: string) => /^\.{1,2}\//.test(specifier) && !files.has(specifier);
  return importsOf(code).filter(({ specifier }) => isElsewhere(specifier)).reduce(
    (text, { specifier }) =>
      text.replaceAll(JSON.stringify(specifier), JSON.stringify(new URL(specifier, url).href)),
    code,
  );
}

/**
 * Writes examples as modules. The named files of a page share a folder.
 *
 * @param folder URL of an empty folder, with a slash at the end.
 * @returns The URL of each example's module.
 */
export async function writeModules(examples: readonly Example[], folder: URL): Promise<URL[]> {
  const pages = new Map<string, string>();
  return await Promise.all(examples.map(async ({ name, code, file }, i) => {
    if (file === undefined) {
      const module = new URL(`example_${i}.ts`, folder);
      await Deno.writeTextFile(module, code);
      return module;
    }
    const page = name.replace(/#.*/, "");
    if (!pages.has(page)) pages.set(page, `page_${pages.size}/`);
    const module = new URL(pages.get(page)! + file, folder);
    await Deno.mkdir(new URL(".", module), { recursive: true });
    await Deno.writeTextFile(module, code, { createNew: true });
    return module;
  }));
}

/**
 * Writes examples as modules, and test modules that run them. The named files of a page have free
 * ports in place of 8000 to 8099, and a file runs only with the file that imports it.
 *
 * @param folder URL of an empty folder, with a slash at the end.
 * @returns URLs of the test modules.
 */
export async function writeExamples(examples: readonly Example[], folder: URL): Promise<URL[]> {
  const urls = await writeModules(withFreePorts(examples), folder);
  const imported = new Set(
    examples.flatMap(({ code, file }, i) =>
      file === undefined
        ? []
        : importsOf(code).map(({ specifier }) => new URL(specifier, urls[i]).href)
    ),
  );
  const tests = examples.flatMap(({ name }, i) =>
    imported.has(urls[i]!.href)
      ? []
      : [`Deno.test(${JSON.stringify(name)}, async () => void await import("${urls[i]}"));\n`]
  );
  const modules: URL[] = [];
  for (let first = 0; first < tests.length; first += EXAMPLES_A_MODULE) {
    const module = new URL(`examples_${first}_test.ts`, folder);
    await Deno.writeTextFile(module, tests.slice(first, first + EXAMPLES_A_MODULE).join(""));
    modules.push(module);
  }
  return modules;
}

function withFreePorts(examples: readonly Example[]): Example[] {
  const ports = new Map<string, string>();
  return examples.map((example) => {
    if (example.file === undefined) return example;
    const page = example.name.replace(/#.*/, "");
    const code = example.code.replace(/\b80\d\d\b/g, (number) => {
      const port = ports.get(page + number) ?? `${lowPort()}`;
      ports.set(page + number, port);
      return port;
    });
    return { ...example, code };
  });
}
