/**
 * Takes the pictures of the `skein` command in `docs/`. They show the output of real runs as in a
 * terminal.
 *
 * ```sh
 * deno run -A tests/browser/screenshots/terminal.ts  # docs/cli-load.png, docs/cli-doctor.png
 * ```
 *
 * Port 8000 must be free.
 *
 * @module
 */
import { main } from "../../../cli/skein.ts";
import { type Context, makeColors } from "../../../cli/context.ts";
import { serve } from "../../../server.ts";
import { fakeContext } from "../../cli_context.ts";
import { BROWSERS, launchBrowser, pathOf } from "../browsers.ts";
import { metrics } from "../../../operations/mod.ts";

const DOCS = new URL("../../../docs/", import.meta.url);

const COLUMNS = 92;

/** The terminal's colors, keyed by the escape code that starts each color. */
const CLASSES: Readonly<Record<string, string>> = {
  "1": "bold",
  "2": "dim",
  "4": "underline",
  "31": "red",
  "32": "green",
  "33": "yellow",
  "34": "blue",
  "35": "magenta",
  "36": "cyan",
};

const STYLE = `
  body { margin: 0; background: #16181d; display: inline-block; }
  pre { margin: 0; padding: 24px 28px; color: #d8dce4; font: 14px/1.45 "DejaVu Sans Mono", monospace; }
  .bold { font-weight: 700; color: #fff; } .dim { color: #858d9c; } .underline { text-decoration: underline; }
  .red { color: #ff7b72; } .green { color: #7ee787; } .yellow { color: #e3b341; }
  .blue { color: #79c0ff; } .magenta { color: #d2a8ff; } .cyan { color: #76e3ea; }
`;

/** Runs a command line in a terminal; resolves with the text on the screen. */
async function screenOf(...args: readonly string[]): Promise<string> {
  const base = fakeContext();
  let text = `${makeColors(true).bold(`$ skein ${args.join(" ")}`)}\n`;
  const output = {
    isTerminal: true,
    columns: COLUMNS,
    rows: 40,
    write(more: string) {
      text += more;
    },
  };
  const context: Context = {
    ...base,
    stdout: output,
    stderr: output,
    colors: makeColors(true),
  };
  await main(args, context);
  return redrawn(text);
}

/** Applies cursor movements: `ESC [ n F ESC [ J` removes the last n lines. */
function redrawn(text: string): string {
  let lines: string[] = [];
  // deno-lint-ignore no-control-regex -- control characters move the cursor.
  for (const part of text.split(/(\x1b\[\d+F\x1b\[J)/)) {
    const up = part.startsWith("\x1b[") && part.endsWith("F\x1b[J")
      ? Number(part.slice(2, part.indexOf("F")))
      : undefined;
    if (up !== undefined) lines = [...lines.slice(0, lines.length - 1 - up), ""];
    else {
      const [first = "", ...rest] = part.split("\n");
      lines = [...lines.slice(0, -1), (lines.at(-1) ?? "") + first, ...rest];
    }
  }
  return lines.join("\n").trimEnd();
}

/** Converts a text with styles to HTML. */
function htmlOf(text: string): string {
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  // deno-lint-ignore no-control-regex -- styles begin with a control character.
  return escaped.replace(/\x1b\[(\d+)m/g, (_, code: string) => {
    const name = CLASSES[code];
    return name === undefined ? "</span>" : `<span class="${name}">`;
  });
}

async function shoot(name: string, text: string): Promise<void> {
  const browser = await launchBrowser(BROWSERS[0]!);
  try {
    const page = await browser.newPage();
    await page.setViewport({ width: 860, height: 400, deviceScaleFactor: 2 });
    await page.setContent(`<style>${STYLE}</style><pre>${htmlOf(text)}</pre>`);
    const element = await page.$("body");
    await element!.screenshot({ path: pathOf(DOCS, name) });
    console.log(`docs/${name}.png`);
  } finally {
    await browser.close();
  }
}

/** Takes the picture of a load test on a server in another process. */
async function shootLoad(): Promise<void> {
  const echo = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--unstable-net", new URL("../examples/streams.ts", DOCS).href, "--load"],
    stdout: "null",
  }).spawn();
  try {
    await answersAt("http://localhost:8000");
    const args = ["http://localhost:8000", "-n", "100", "-r", "2000", "-d", "30s"];
    await shoot("cli-load", await screenOf("load", ...args));
  } finally {
    echo.kill();
    await echo.status;
  }
}

async function answersAt(url: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      await (await fetch(url)).body?.cancel();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Takes the picture of a diagnosis that finds two faults. */
async function shootDoctor(): Promise<void> {
  await using _server = serve({
    port: 8000,
    hostname: "127.0.0.1",
    features: [metrics()],
    webTransport: false,
    origins: ["https://app.example.com"],
    onListen() {},
    onSessionRejected() {},
  });
  const args = ["http://localhost:8000", "--origin", "https://other.example.com"];
  await shoot("cli-doctor", await screenOf("doctor", ...args));
}

if (import.meta.main) {
  await shootDoctor();
  await shootLoad();
  Deno.exit();
}
