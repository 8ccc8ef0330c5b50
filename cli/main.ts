/**
 * The command `skein`, which connects to a server, measures it, or creates a project.
 *
 * ```sh
 * deno run -A --unstable-net jsr:@skein/skein/cli --help
 * deno install --global -A --unstable-net --name skein jsr:@skein/skein/cli
 * skein connect http://localhost:8000
 * ```
 *
 * Deno supports QUIC, and therefore WebTransport, only with `--unstable-net`. This module is a
 * program and exports nothing.
 *
 * @module
 */
import { platformRuntime } from "../base/runtime.ts";
import { type Context, makeColors, type Output } from "./context.ts";
import { Exit } from "./command.ts";
import { main } from "./skein.ts";

function outputOf(stream: typeof Deno.stdout | typeof Deno.stderr): Output {
  const isTerminal = stream.isTerminal();
  const size = () => {
    try {
      return Deno.consoleSize();
    } catch {
      // None of the standard streams is a terminal.
      return { columns: 80, rows: 24 };
    }
  };
  return {
    isTerminal,
    get columns() {
      return isTerminal ? size().columns : 80;
    },
    get rows() {
      return isTerminal ? size().rows : 24;
    },
    write(text) {
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
    },
  };
}

/** Aborts on Ctrl-C and SIGTERM. A second Ctrl-C exits immediately. */
function interrupted(): AbortSignal {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) Deno.exit(Exit.interrupted);
    controller.abort();
  };
  Deno.addSignalListener("SIGINT", stop);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", stop);
  return controller.signal;
}

/** Programs that open a page, by operating system. */
const OPENERS: Readonly<Record<string, readonly [program: string, ...args: string[]]>> = {
  darwin: ["open"],
  windows: ["cmd", "/c", "start", ""],
};

async function openPage(url: string): Promise<boolean> {
  const { os } = Deno.build;
  const hasDisplay = os === "darwin" || os === "windows" || Deno.env.get("DISPLAY") ||
    Deno.env.get("WAYLAND_DISPLAY");
  if (!hasDisplay) return false;
  const [program, ...args] = OPENERS[os] ?? ["xdg-open"];
  // On a Windows command line, an ampersand starts another command.
  const address = os === "windows" ? url.replaceAll("&", "^&") : url;
  try {
    const { success } = await new Deno.Command(program, {
      args: [...args, address],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).output();
    return success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function processContext(): Context {
  const [stdout, stderr] = [outputOf(Deno.stdout), outputOf(Deno.stderr)];
  const isInput = Deno.stdin.isTerminal();
  return {
    stdin: {
      readable: Deno.stdin.readable,
      isTerminal: isInput,
      setRaw(isRaw) {
        if (isInput) Deno.stdin.setRaw(isRaw);
      },
    },
    stdout,
    stderr,
    isTerminal: isInput && stdout.isTerminal,
    colors: makeColors(stdout.isTerminal),
    signal: interrupted(),
    env: (name) => Deno.env.get(name),
    runtime: platformRuntime(),
    openPage,
  };
}

if (import.meta.main) Deno.exit(await main(Deno.args, processContext()));
