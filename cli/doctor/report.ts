/** The table of `skein doctor`. */
import type { Context } from "../context.ts";
import type { Check, CheckState } from "./check.ts";
import type { Examination } from "./examine.ts";

/** Groups of checks, by the prefix of their names. */
const GROUPS: readonly (readonly [prefix: RegExp, title: string])[] = [
  [/^(?:dns|tcp|tls|http|clock|health)$/, "Network"],
  [/^websocket\./, "WebSocket"],
  [/^webtransport\./, "WebTransport"],
  [/^http\./, "HTTP as the last transport"],
];

const SIGNS: Readonly<Record<CheckState, string>> = {
  ok: "✓",
  warning: "!",
  failed: "✗",
  skipped: "–",
};

const STYLES = { ok: "green", warning: "yellow", failed: "red", skipped: "dim" } as const;

const TITLE_WIDTH = 8;

const TIME_WIDTH = 8;

/** Shows checks as they finish, with a heading for each group. */
export class DoctorView {
  readonly #context: Context;
  #group = "";

  /** Creates an empty view. */
  constructor(context: Context) {
    this.#context = context;
  }

  show(check: Check): void {
    const { stdout, colors } = this.#context;
    const group = GROUPS.find(([prefix]) => prefix.test(check.id))?.[1] ?? "";
    if (group !== this.#group) stdout.write(`\n${colors.bold(group)}\n`);
    this.#group = group;
    stdout.write(checkText(check, this.#context));
  }
}

function checkText(
  { state, title, detail, ms, cause, cure }: Check,
  { colors, stdout }: Context,
): string {
  const style = colors[STYLES[state]];
  const time = ms === undefined ? "" : `${ms < 10 ? ms : Math.round(ms)} ms`;
  const indent = TITLE_WIDTH + TIME_WIDTH + 7;
  const width = Math.max(indent + 20, Math.min(stdout.columns, 100)) - indent;
  const text = wrap(detail, width).join(`\n${" ".repeat(indent)}`);
  const note = (name: string, words: string) =>
    wrap(`${name}: ${words}.`, width).map((line) => `${" ".repeat(indent)}${line}\n`).join("");
  return `  ${style(SIGNS[state])} ${title.padEnd(TITLE_WIDTH)} ${
    colors.dim(time.padStart(TIME_WIDTH))
  }  ${state === "skipped" ? colors.dim(text) : text}\n` +
    (cause === undefined ? "" : note("Cause", cause)) +
    (cure === undefined ? "" : note("Cure", cure));
}

/**
 * Wraps a text at spaces.
 *
 * @param width Maximum length of a line. A longer word is put on a line of its own.
 * @returns The lines.
 */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

const NAMES = { webtransport: "WebTransport", websocket: "WebSocket", http: "HTTP" } as const;

const WORDS = {
  ok: "gets through",
  rejected: "works, but the server rejects the session",
  failed: "does not work",
  unknown: "could not be tried",
} as const;

/** Formats the end of the table: each transport and the recommendation. */
export function conclusion(
  { transports, recommended, isReachable }: Examination,
  { colors }: Pick<Context, "colors">,
): string {
  const lines = Object.entries(transports).map(([name, state]) => {
    const text = `${NAMES[name as keyof typeof NAMES]} ${WORDS[state]}`;
    const style = state === "ok" ? "green" : state === "failed" ? "red" : "yellow";
    return `  ${colors[style](text)}`;
  });
  const list = JSON.stringify(recommended).replaceAll(",", ", ");
  // This also applies if HTTP does not work, because the default has no cost while the others work.
  const isDefault = recommended.join().startsWith("webtransport,websocket");
  const advice = recommended.length === 0
    ? "No transport works: start with the first ✗ above"
    : !isReachable
    ? "The network is open, but the server rejects the session: see ✗ Session above"
    : isDefault
    ? "The default of connect() is right"
    : `Recommended: connect(url, { transports: ${list} })`;
  return `\n${colors.bold("Result")}\n${lines.join("\n")}\n  ${
    isReachable ? advice : colors.bold(advice)
  }\n`;
}
