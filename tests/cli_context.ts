/** The context of a command in tests, with in-memory streams and simulated user input. */
import { platformRuntime } from "../base/runtime.ts";
import { type Context, makeColors } from "../cli/context.ts";
import type { Runtime } from "../base/runtime.ts";

/** Options for {@linkcode fakeContext}. */
export interface FakeContextOptions {
  /** True if the input and both outputs are terminals. */
  readonly isTerminal?: boolean;
  /** Width of the terminal, in columns. */
  readonly columns?: number;
  /** Environment variables. */
  readonly env?: Readonly<Record<string, string>>;
  /** The clock and timers; by default, the platform's own. */
  readonly runtime?: Runtime;
}

/** A context with in-memory streams. */
export interface FakeContext extends Context {
  /** The text written to standard output so far. */
  readonly out: string;
  /** The text written to standard error so far. */
  readonly err: string;
  /** True while the terminal is in raw mode. */
  readonly isRaw: boolean;
  /** Sends a text to standard input. */
  type(text: string): void;
  endInput(): void;
  /** Aborts the command, like Ctrl-C outside of a prompt. */
  interrupt(): void;
  /** URLs of the pages that the command opened. */
  readonly opened: readonly string[];
  /**
   * Resolves when standard output contains a text. Each call starts to search after the text that
   * the previous call found.
   */
  until(text: string): Promise<void>;
  /** Resolves when standard error contains a text. */
  untilError(text: string): Promise<void>;
}

/**
 * Makes a context.
 *
 * @param options See {@linkcode FakeContextOptions}.
 * @returns The context, for one command.
 */
export function fakeContext(options: FakeContextOptions = {}): FakeContext {
  const { isTerminal = false, columns = 80, env = {}, runtime = platformRuntime() } = options;
  const stop = new AbortController();
  let input!: ReadableStreamDefaultController<Uint8Array>;
  const readable = new ReadableStream<Uint8Array>({
    start: (controller) => void (input = controller),
  });
  const texts = { out: "", err: "" };
  let seen = 0;
  let waiters: (() => boolean)[] = [];
  const outputOf = (name: keyof typeof texts) => ({
    isTerminal,
    columns,
    rows: 24,
    write(text: string) {
      texts[name] += text;
      waiters = waiters.filter((isDone) => !isDone());
    },
  });
  const when = (find: () => boolean) =>
    new Promise<void>((resolve) => {
      const isDone = () => {
        const found = find();
        if (found) resolve();
        return found;
      };
      if (!isDone()) waiters.push(isDone);
    });
  let isRaw = false;
  const opened: string[] = [];
  return {
    stdin: { readable, isTerminal, setRaw: (on) => void (isRaw = on) },
    stdout: outputOf("out"),
    stderr: outputOf("err"),
    isTerminal,
    colors: makeColors(false),
    signal: stop.signal,
    env: (name) => env[name],
    runtime,
    opened,
    openPage: (url) => Promise.resolve(isTerminal && opened.push(url) > 0),
    get out() {
      return texts.out;
    },
    get err() {
      return texts.err;
    },
    get isRaw() {
      return isRaw;
    },
    type: (text) => input.enqueue(new TextEncoder().encode(text)),
    endInput: () => input.close(),
    interrupt: () => stop.abort(),
    until: (text) =>
      when(() => {
        const at = texts.out.indexOf(text, seen);
        if (at !== -1) seen = at + text.length;
        return at !== -1;
      }),
    untilError: (text) => when(() => texts.err.includes(text)),
  };
}
