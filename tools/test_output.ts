/** Shortens the output of `deno test` to failures, skipped tests and the summary. */

/** A passed test or step, and the start of a module. */
const PROGRESS = /\.\.\. ok \([\dµa-z]+\)$|^running \d+ tests? from /;

/** The colors of a terminal. */
// deno-lint-ignore no-control-regex
const COLORS = /\x1b\[[\d;]*m/g;

/** Options of {@linkcode TestOutput}. */
export interface TestOutputOptions {
  /** Name of the folder with the modules that the runner wrote, which no line shows. */
  readonly folder: string;
  /** True to show all lines. */
  readonly isVerbose?: boolean;
  /** Called with the number of passed tests and steps. */
  readonly onProgress?: (passed: number) => void;
}

/**
 * Shortens the output of `deno test`.
 *
 * - Failures, skipped tests, what tests print, and the summary stay; lines of passed tests go.
 * - A test in a module that the runner wrote has its own name and place only.
 */
export class TestOutput extends TransformStream<string, string> {
  /**
   * Creates the stream.
   *
   * @param options See {@linkcode TestOutputOptions}.
   */
  constructor({ folder, isVerbose, onProgress }: TestOutputOptions) {
    const written = new RegExp(`\\S*${folder}/\\S* => | => \\S*${folder}/\\S*`, "g");
    let passed = 0;
    let rest = "";
    const shown = (line: string) => {
      const plain = line.replace(COLORS, "");
      const isProgress = PROGRESS.test(plain);
      if (isProgress) onProgress?.(++passed);
      if (isProgress && !isVerbose) return "";
      return `${plain.includes(folder) ? plain.replace(written, "") : line}\n`;
    };
    super({
      transform(text, controller) {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        const output = lines.map(shown).join("");
        if (output !== "") controller.enqueue(output);
      },
      flush(controller) {
        if (rest !== "") controller.enqueue(rest);
      },
    });
  }
}
