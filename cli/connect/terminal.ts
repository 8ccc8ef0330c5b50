/** The input line below the events, with editing, history and completion. */
import {
  clearScreenDown,
  createInterface,
  cursorTo,
  type Interface,
  moveCursor,
} from "node:readline";
import { PassThrough, Writable } from "node:stream";
import type { Context } from "../context.ts";
import { MAX_LINES } from "./history.ts";

/** Options for {@linkcode Terminal}. */
export interface TerminalOptions {
  /** The environment, in which input and output are terminals. */
  readonly context: Context;
  /** Earlier lines, the oldest first. */
  readonly history: readonly string[];
  /** Completes a line: the possible words, and the part of the line that the words replace. */
  readonly complete: (line: string) => [string[], string];
  /** Called for Ctrl-C, with the text typed so far. */
  readonly onInterrupt: (line: string) => void;
}

/** Members of Node's interface that its types omit. */
interface Refreshing {
  prevRows: number;
}

/**
 * A prompt at the bottom of a terminal. Text is printed above the line being typed. Ctrl-D on an
 * empty line ends the input.
 */
export class Terminal implements Disposable {
  /** Lines typed in this session, oldest first; at most as many as the history keeps. */
  readonly typed: string[] = [];
  readonly #context: Context;
  readonly #line: Interface & Refreshing;
  readonly #output: Writable;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #isOpen = true;

  /** Switches the terminal to raw mode, until disposed. */
  constructor({ context, history, complete, onInterrupt }: TerminalOptions) {
    this.#context = context;
    const { stdin, stdout } = context;
    const input = Object.assign(new PassThrough(), {
      isTTY: true,
      setRawMode: (isRaw: boolean) => stdin.setRaw(isRaw),
    });
    this.#output = Object.defineProperties(
      new Writable({
        write(chunk, _encoding, done) {
          stdout.write(String(chunk));
          done();
        },
      }),
      { isTTY: { value: true }, columns: { get: () => stdout.columns } },
    );
    this.#line = createInterface({
      input,
      output: this.#output,
      terminal: true,
      history: history.toReversed(),
      historySize: MAX_LINES,
      removeHistoryDuplicates: true,
      completer: complete,
    }) as Interface & Refreshing;
    this.#line.on("SIGINT", () => onInterrupt(this.#line.line));
    this.#line.on("close", () => this.#isOpen = false);
    // Ctrl-Z pauses the input. The prompt resumes it.
    this.#line.on("SIGCONT", () => this.#line.prompt(true));
    this.#reader = stdin.readable.getReader();
    void this.#pump(input);
  }

  /** Yields the typed lines until the input ends. */
  async *lines(): AsyncGenerator<string, void, undefined> {
    this.#line.prompt();
    for await (const line of this.#line) {
      if (line.trim() !== "") this.#note(line);
      if (this.#isOpen) this.#line.prompt();
      yield line;
    }
  }

  /**
   * Sets the text before the line.
   *
   * @param text The text, which may include colors.
   */
  setPrompt(text: string): void {
    this.#line.setPrompt(text);
    if (this.#isOpen) this.#line.prompt(true);
  }

  /**
   * Prints above the line being typed.
   *
   * @param text Lines, each with a line feed.
   */
  print(text: string): void {
    if (!this.#isOpen) return this.#context.stdout.write(text);
    moveCursor(this.#output, 0, -this.#line.getCursorPos().rows);
    cursorTo(this.#output, 0);
    clearScreenDown(this.#output);
    this.#context.stdout.write(text);
    // The line is redrawn where the cursor is.
    this.#line.prevRows = 0;
    this.#line.prompt(true);
  }

  /** Drops the typed part of the line. */
  clear(): void {
    this.#line.write(null, { ctrl: true, name: "e" });
    this.#line.write(null, { ctrl: true, name: "u" });
  }

  /** Ends the input, as Ctrl-D does. An unfinished line counts as typed. */
  close(): void {
    if (!this.#isOpen) return;
    if (this.#line.line.trim() !== "") this.#note(this.#line.line);
    this.#line.close();
  }

  #note(line: string): void {
    this.typed.push(line);
    if (this.typed.length > MAX_LINES) this.typed.shift();
  }

  /** Restores the terminal. */
  [Symbol.dispose](): void {
    this.close();
    this.#reader.cancel().catch(() => {});
  }

  async #pump(input: PassThrough): Promise<void> {
    try {
      for (let part; !(part = await this.#reader.read()).done;) input.write(part.value);
    } catch {
      // A failed input has ended.
    }
    this.close();
  }
}
