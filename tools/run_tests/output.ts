/** Shortens the output of `deno test` to failures, skipped tests and the summary. */

/** A passed test or step, and the start of a module. */
const PROGRESS = /\.\.\. ok \([\dµa-z]+\)$|^running \d+ tests? from /;

/** The first and the last line of the text that a test printed; its result follows. */
const PRINTED = /^------- (?:post-test )?output -------$/;
const PRINTED_END = /----- (?:post-test )?output end -----$/;

/** The place of a test that a helper registers, as `tools/run_tests/deadline.ts` writes it. */
const CALLED = /(?<= => \S+)\?(?=:\d+:\d+)/;

/** The colors of a terminal. */
// deno-lint-ignore no-control-regex
const COLORS = /\x1b\[[\d;]*m/g;

/** Options of {@linkcode TestOutput}. */
export interface TestOutputOptions {
  /** Name of the folder with the modules that the runner wrote, which no line shows. */
  readonly folder: string;
  /** Names what runs in a module that the runner wrote, by its path in the folder. */
  readonly nameOf: (path: string) => string;
  /** True to show all lines. */
  readonly isVerbose?: boolean;
  /** Called with the number of passed tests and steps. */
  readonly onProgress?: ((passed: number) => void) | undefined;
}

/**
 * Shortens the output of `deno test`.
 *
 * - Failures with what they printed, skipped tests, and the summary stay. Lines of passed tests go.
 * - A test in a module that the runner wrote has its own name and place only. Such a module itself
 *   is never named, and has no line in a stack.
 */
export class TestOutput extends TransformStream<string, string> {
  /**
   * Creates the stream.
   *
   * @param options See {@linkcode TestOutputOptions}.
   */
  constructor({ folder, nameOf, isVerbose = false, onProgress }: TestOutputOptions) {
    const written = new RegExp(`\\S*${folder}/\\S* => | => \\S*${folder}/\\S*`, "g");
    const module = new RegExp(`\\S*${folder}/((?:together|examples)/\\w+\\.ts)`, "g");
    const stackLine = new RegExp(`^ +at .*${folder}/(?:together|examples)/`);
    let passed = 0;
    let rest = "";
    /** Lines that a test printed, until its result is known. */
    let printed = "";
    let isPrinting = false;
    const shown = (line: string) => {
      const plain = line.replace(COLORS, "");
      if (stackLine.test(plain)) return "";
      const text = plain.includes(folder)
        ? `${plain.replace(written, "").replace(module, (_, path) => nameOf(path))}\n`
        : `${line.replace(CALLED, "")}\n`;
      if (PROGRESS.test(plain)) onProgress?.(++passed);
      if (isVerbose) return text;
      if (isPrinting || PRINTED.test(plain)) {
        printed = isPrinting ? printed + text : text;
        isPrinting = !PRINTED_END.test(plain);
        return "";
      }
      const before = / \.\.\. FAILED/.test(plain) ? printed : "";
      printed = "";
      return PROGRESS.test(plain) ? "" : before + text;
    };
    super({
      transform(text, controller) {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        const output = lines.map(shown).join("");
        if (output !== "") controller.enqueue(output);
      },
      flush(controller) {
        // A run that was stopped may end in the middle of a text.
        if (printed + rest !== "") controller.enqueue(printed + rest);
      },
    });
  }
}
