/**
 * Lists the documented options, and those that no program in `examples/` and no running code block
 * of a page sets: an option without an example is better removed.
 *
 * ```sh
 * deno run -A tools/options.ts
 * ```
 *
 * @module
 */
import { filesIn } from "./arrows.ts";
import { examplesOf } from "./run_tests/examples.ts";
import { codeOf } from "./_source.ts";

/** The calls to which the options of each page, or of each section about a feature, belong. */
const CALLS: Readonly<Record<string, RegExp>> = {
  serve: /\b(?:serve|createServer|testServer|SimulatedServer)\b\s*(?:<[^()]*>)?\(/g,
  connect: /\b(?:connect|dial|createSkein|simulatedClient)\b\s*(?:<[^()]*>)?\(/g,
  durableStreams: /\b(?:durableStreams|DurableStreamsHandler)\(/g,
  liveState: /\bliveState\(/g,
  resumable: /\bresumable\(/g,
  metrics: /\bmetrics\(/g,
  inspector: /\binspector\(/g,
  httpApi: /\bhttpApi\(/g,
  otel: /\botel\(/g,
  MoqServer: /\b(?:MoqServer|listenMoq)\(/g,
};

/** A section about the options of a feature. */
const SECTION = /^## `(?:new )?(\w+)\(\)`\n([^]*?)(?=^## |(?![^]))/gm;

/** A code block that is a file of a page whose commands a test runs. */
const WALKED = /^```tsx? [^\n]*file=[^\n]*\n([^]*?)^```/gm;

/** Documented options as `call.option`; further dots separate members of objects. */
export interface OptionFigures {
  readonly all: readonly string[];
  /** Options that no program in `examples/` sets. */
  readonly inNoExample: readonly string[];
  /** Options that neither such a program nor a code block of a page sets. */
  readonly inNoPage: readonly string[];
}

/** Sources in which options are documented and set. */
export interface OptionSources {
  /** The reference pages of options, and the sections about features, by call. */
  readonly references: Readonly<Record<string, string>>;
  /** Programs in `examples/`. */
  readonly programs: readonly string[];
  /** Code blocks of pages that tests run. */
  readonly blocks: readonly string[];
}

/**
 * Compares the documented options with those that examples set. Each table row on a reference page
 * that starts with a code-formatted name documents an option; a dotted name is a member of an
 * object option.
 *
 * @param sources See {@linkcode OptionSources}.
 * @returns See {@linkcode OptionFigures}.
 */
export function optionsOf({ references, programs, blocks }: OptionSources): OptionFigures {
  const all = Object.entries(references).flatMap(([call, page]) =>
    [...page.matchAll(/^\| `([\w.]+)`\s*\|/gm)].map(([, option]) => `${call}.${option}`)
  );
  const [shown, run] = [programs, blocks].map((sources) =>
    new Set(
      Object.entries(CALLS).flatMap(([call, pattern]) =>
        sources.flatMap((source) => [...optionsSet(source, pattern)].map((it) => `${call}.${it}`))
      ),
    )
  );
  const inNoExample = all.filter((option) => !shown!.has(option));
  return { all, inNoExample, inNoPage: inNoExample.filter((option) => !run!.has(option)) };
}

/**
 * Finds the options of some calls, in object literals and in constants that are passed or spread.
 */
function optionsSet(source: string, calls: RegExp): Set<string> {
  const code = codeOf(source);
  const found = new Set<string>();
  for (const { 0: call, index } of code.matchAll(calls)) {
    let at = index + call.length;
    while (at < code.length && code[at] !== ")") {
      // An object literal, possibly returned by a function; otherwise a constant.
      const object = /^\(?\s*\{/.exec(code.slice(at, at + 80))?.[0];
      const name = /^[(,]\s*([\w$]+)\s*[,)]/.exec(code.slice(at - 1, at + 80))?.[1];
      const start = object !== undefined
        ? at + object.length - 1
        : name !== undefined && constant(code, name);
      if (start !== false) addKeys(code, start, { prefix: "", found });
      at = skipped(code, at);
    }
  }
  return found;
}

/** Adds the keys of the object literal at a position, and of nested objects. */
function addKeys(
  code: string,
  start: number,
  { prefix, found }: { readonly prefix: string; readonly found: Set<string> },
): void {
  let at = start + 1;
  while (at < code.length && code[at] !== "}") {
    const entry = /^\s*(?:(?:async|get)\s+|async\s*\*\s*|\*\s*)?([\w$]+)\s*([:,(}])/.exec(
      code.slice(at, at + 200),
    );
    if (entry !== null) {
      const [text, key, mark] = entry;
      const path = prefix + key;
      found.add(path);
      const isNamed = mark === "," || mark === "}";
      const value = at + text.length;
      const name = isNamed ? key : /^\s*([\w$]+)\s*[,}]/.exec(code.slice(value, value + 80))?.[1];
      const object = name === undefined
        ? mark === ":" && /^\s*\{/.test(code.slice(value, value + 80)) && code.indexOf("{", value)
        : constant(code, name);
      if (object !== false && object !== start) {
        addKeys(code, object, { prefix: `${path}.`, found });
      }
    }
    const spread = /^\s*\.\.\.([\w$]+)\s*[,}]/.exec(code.slice(at, at + 80))?.[1];
    const whole = spread !== undefined && constant(code, spread);
    if (whole !== false && whole !== start) addKeys(code, whole, { prefix, found });
    while (at < code.length && code[at] !== "," && code[at] !== "}") at = skipped(code, at);
    if (code[at] === ",") at++;
  }
}

/** Finds the object literal of a constant; false if there is none. */
function constant(code: string, name: string): number | false {
  const found = new RegExp(`\\bconst ${name}\\b[^=;]*=\\s*\\{`).exec(code);
  return found !== null && found.index + found[0].length - 1;
}

/** Returns the position after one character, or after a pair of brackets. */
function skipped(code: string, at: number): number {
  const close = { "(": ")", "[": "]", "{": "}" }[code[at]!];
  if (close === undefined) return at + 1;
  for (at++; at < code.length && code[at] !== close;) at = skipped(code, at);
  return at + 1;
}

/**
 * Reads the options, programs and pages of a repository.
 *
 * @param root The URL of the repository's folder.
 * @returns See {@linkcode OptionFigures}.
 */
export async function documentedOptions(root: URL): Promise<OptionFigures> {
  const references: Record<string, string> = {};
  const [programs, blocks]: [string[], string[]] = [[], []];
  for await (const path of filesIn(root)) {
    const text = () => Deno.readTextFile(new URL(path, root));
    const page = /^docs\/reference\/(\w+)-options\.md$/.exec(path);
    if (page !== null) {
      const own = new RegExp(`^options ${page[1]}Options\n`, "i");
      references[page[1]!] = (await text()).split("<!-- reference: ")
        .filter((block) => own.test(block)).join("");
    }
    if (path.startsWith("docs/reference/")) {
      for (const [, call, section] of (await text()).matchAll(SECTION)) {
        if (call! in CALLS) references[call!] = section!;
      }
    }
    if (/^examples\/.*\.(?:tsx?|js)$/.test(path) && !path.endsWith("_test.ts")) {
      programs.push(await text());
    } else if (/^docs\/(?:start|concepts|guide|deploy|recipes|reference)\/.*\.md$/.test(path)) {
      const source = await text();
      blocks.push(...examplesOf(new URL(path, root).href, source).map(({ code }) => code));
      blocks.push(...[...source.matchAll(WALKED)].map(([, code]) => code!));
    }
  }
  return optionsOf({ references, programs, blocks });
}

if (import.meta.main) {
  const { all, inNoPage } = await documentedOptions(new URL("../", import.meta.url));
  console.log(`${all.length} options, ${inNoPage.length} in no example:\n${inNoPage.join("\n")}`);
}
