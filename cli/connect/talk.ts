/** One run of `skein connect`: opens the session, and runs commands from a terminal or a pipe. */
import { connect as open, dial } from "../../client/deno.ts";
import type { Client } from "../../client/client.ts";
import type { TransportName } from "../../transport/race/options.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import { publicUrl } from "../../transport/url.ts";
import { textOf } from "../../base/error_text.ts";
import { type Arguments, CommandError, Exit, usageError } from "../command.ts";
import { type Context, linesOf } from "../context.ts";
import { rejectionCure } from "../rejection_cure.ts";
import { duration, hashesOf, headersOf, tokenOf } from "../values.ts";
import { Conversation, type ConversationPeer } from "./conversation.ts";
import { causeText, jsonOf, type TalkEvent, textOfEvent } from "./event.ts";
import { addHistory, historyFile, readHistory } from "./history.ts";
import { completions, idOf, parseOrder } from "./order.ts";
import { watchSilence } from "./silence.ts";
import { Terminal } from "./terminal.ts";

/**
 * Runs `skein connect`.
 *
 * @param args Arguments and options of the command.
 * @param context The environment.
 * @returns The exit code.
 * @throws {CommandError} If an option is invalid, or if the server cannot be reached.
 */
export async function talk(args: Arguments, context: Context): Promise<number> {
  const settings = readSettings(args, context);
  const over = new AbortController();
  const signal = AbortSignal.any([context.signal, over.signal]);
  const peer = await openPeer(settings, signal);
  try {
    const talk = new Talk(peer, { ...settings, context, over, signal });
    return context.isTerminal && !settings.isJson
      ? await talk.inTerminal(args.flag("no-history"))
      : await talk.inPipe(args.flag("follow"));
  } finally {
    await (peer.kind === "client" ? peer.client : peer.session).close();
  }
}

interface TalkSettings {
  readonly url: URL;
  readonly isPlain: boolean;
  readonly isJson: boolean;
  readonly token: string | undefined;
  readonly transports: readonly TransportName[];
  readonly headers: ReturnType<typeof headersOf>;
  readonly hashes: readonly CertificateHash[];
  readonly timeoutMs: number;
  readonly runtime: Context["runtime"];
}

function readSettings(args: Arguments, { env, runtime }: Context): TalkSettings {
  const isPlain = args.value("protocol") === "plain";
  if (isPlain && args.value("token") !== undefined) {
    throw usageError("Cannot connect: a plain session has no token; use a header, or ?token=");
  }
  return {
    url: args.url(),
    isPlain,
    isJson: args.flag("json"),
    token: isPlain ? undefined : tokenOf(args, env),
    transports: args.values("transport") as TransportName[],
    headers: headersOf(args),
    hashes: hashesOf(args),
    timeoutMs: duration(args, "timeout", 30_000),
    runtime,
  };
}

async function openPeer(settings: TalkSettings, signal: AbortSignal): Promise<ConversationPeer> {
  const { url, isPlain, token, transports, headers, hashes, runtime } = settings;
  const options = {
    transports: transports.length > 0 ? transports : undefined,
    serverCertificateHashes: hashes.length > 0 ? hashes : undefined,
    headers: headers.length > 0 ? headers as [string, string][] : undefined,
    token,
    runtime,
    signal,
  };
  if (isPlain) {
    const session = await dial(url, {
      ...options,
      transports: options.transports ?? ["websocket"],
      protocols: [],
    }).catch((error) => {
      throw signal.aborted ? error : unreachable(textOf(error), error);
    });
    return { kind: "plain", session };
  }
  const client = open(url, { ...options, endOnRejection: true });
  try {
    await established(client);
    return { kind: "client", client };
  } catch (error) {
    await client.close();
    throw signal.aborted ? signal.reason : error;
  }
}

/**
 * Waits for the first session. The client would retry, but the user wants to know about a failure
 * immediately.
 */
async function established(client: Client): Promise<void> {
  for await (const status of client.status) {
    if (status.name === "connected") return;
    if (!("cause" in status)) continue;
    const { code, reason, error } = status.cause;
    const cure = rejectionCure(code, reason);
    throw unreachable(causeText(status.cause) + (cure === undefined ? "" : `. ${cure}`), error);
  }
}

function unreachable(reason: string, cause: unknown): CommandError {
  const message = /^Cannot/.test(reason) ? reason : `Cannot connect: ${reason}`;
  return new CommandError(message, { cause, exitCode: Exit.unreachable });
}

class Talk {
  readonly #peer: ConversationPeer;
  readonly #conversation: Conversation;
  readonly #context: Context;
  readonly #isJson: boolean;
  readonly #signal: AbortSignal;
  readonly #over: AbortController;
  readonly #name: string;
  #print: (text: string) => void;
  #failure: unknown;
  #isRejected = false;

  constructor(
    peer: ConversationPeer,
    { url, isJson, timeoutMs, context, over, signal }: TalkSettings & {
      readonly context: Context;
      readonly over: AbortController;
      readonly signal: AbortSignal;
    },
  ) {
    this.#peer = peer;
    this.#context = context;
    this.#isJson = isJson;
    this.#signal = signal;
    this.#over = over;
    this.#name = url.host;
    this.#print = (text) => context.stdout.write(text);
    this.#conversation = new Conversation({
      peer,
      url: publicUrl(url),
      timeoutMs,
      runtime: context.runtime,
      emit: (event) => this.#emit(event),
    });
  }

  /** Reads commands from a pipe. Closes when the input ends, unless it follows. */
  async inPipe(follows: boolean): Promise<number> {
    const watch = this.#watch();
    const conversation = this.#conversation;
    try {
      for await (const line of linesOf(this.#context.stdin.readable, this.#signal)) {
        if (!await this.#run(line)) break;
      }
      await until(this.#signal, conversation.idle());
      if (follows) await until(this.#signal, Promise.withResolvers<void>().promise);
    } finally {
      watch[Symbol.dispose]();
      this.#over.abort();
    }
    return this.#end(conversation.failures > 0 ? Exit.failed : Exit.done);
  }

  async inTerminal(hasNoHistory: boolean): Promise<number> {
    const conversation = this.#conversation;
    const { colors } = this.#context;
    const path = hasNoHistory ? undefined : historyFile(this.#context.env);
    const history = await readHistory(path).catch(() => []);
    let [isWarned, isInterrupted] = [false, false];
    using terminal = new Terminal({
      context: this.#context,
      history,
      complete: (line) => completions(line, conversation.topics),
      onInterrupt: (line) => {
        const wasWarned = isWarned;
        isWarned = false;
        if (conversation.cancel()) return;
        if (line !== "") return terminal.clear();
        isInterrupted = wasWarned;
        if (wasWarned) return terminal.close();
        isWarned = true;
        terminal.print(colors.dim("To quit, press Ctrl-C again or Ctrl-D, or type quit.\n"));
      },
    });
    this.#print = (text) => terminal.print(text);
    const stop = () => terminal.close();
    this.#signal.addEventListener("abort", stop);
    terminal.setPrompt(this.#promptOf(true));
    const onChange = (isConnected: boolean) => terminal.setPrompt(this.#promptOf(isConnected));
    const watch = this.#watch(onChange);
    this.#watchSilence(onChange);
    terminal.print(colors.dim('Type "help" for the commands.\n'));
    try {
      for await (const line of terminal.lines()) {
        isWarned = false;
        if (!await this.#run(line)) break;
      }
    } finally {
      watch[Symbol.dispose]();
      this.#over.abort();
      this.#signal.removeEventListener("abort", stop);
      terminal.close();
      this.#print = (text) => this.#context.stdout.write(text);
      // The shell's next line starts below the prompt.
      this.#context.stdout.write("\n");
    }
    await addHistory(path, terminal.typed).catch((error) => {
      this.#context.stderr.write(`Cannot save the typed commands: ${textOf(error)}\n`);
    });
    return isInterrupted ? Exit.interrupted : this.#end(Exit.done);
  }

  #promptOf(isConnected: boolean): string {
    const { green, yellow, bold } = this.#context.colors;
    return `${(isConnected ? green : yellow)(bold(this.#name))}${isConnected ? "" : " …"}> `;
  }

  /** Runs the command on a line. Resolves to false for `quit`. */
  async #run(line: string): Promise<boolean> {
    const conversation = this.#conversation;
    let order;
    try {
      order = parseOrder(line);
    } catch (error) {
      conversation.reject(error, idOf(line));
      return true;
    }
    if (order?.name === "quit") return false;
    if (order !== undefined) await conversation.run(order);
    return true;
  }

  #end(code: number): number {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#context.signal.aborted) return Exit.interrupted;
    return this.#isRejected ? Exit.unreachable : code;
  }

  /** Shows status changes and messages from the server, until the connection closes. */
  #watch(onChange: (isConnected: boolean) => void = () => {}): Disposable {
    const peer = this.#peer;
    const stack = new DisposableStack();
    if (peer.kind === "client") {
      const { client } = peer;
      stack.use(client.status.subscribe((status) => {
        this.#emit({ type: "status", status });
        onChange(status.name === "connected");
      }));
    } else this.#emit({ type: "status", status: this.#conversation.status });
    const closed = peer.kind === "client" ? peer.client.closed : peer.session.closed;
    // The client will not reconnect, so no further command can run.
    void closed.then((cause) => {
      if (this.#signal.aborted) return;
      const isNormal = cause.code === 0 || cause.code === 1_000;
      this.#isRejected = !isNormal;
      if (peer.kind === "plain") {
        this.#emit({ type: "status", status: { name: "closed", cause } });
      }
      this.#over.abort();
    });
    // The status reports the close that ends this loop.
    this.#conversation.listen().catch(() => {});
    return stack;
  }

  /** A plain server cannot be pinged. */
  #watchSilence(onChange: (isConnected: boolean) => void): void {
    const peer = this.#peer;
    if (peer.kind === "plain") return;
    void watchSilence(peer.client, {
      runtime: this.#context.runtime,
      signal: this.#signal,
      onChange: (isSilent) => {
        this.#emit({ type: "silence", isOver: !isSilent });
        onChange(!isSilent);
      },
    });
  }

  /** Prints an event. If the output has no reader, the session closes. */
  #emit(event: TalkEvent): void {
    const { runtime, colors } = this.#context;
    const at = runtime.now();
    try {
      this.#print(this.#isJson ? `${jsonOf(event, at)}\n` : textOfEvent(event, { colors, at }));
    } catch (error) {
      this.#failure ??= error;
      this.#over.abort();
    }
  }
}

async function until(signal: AbortSignal, promise: Promise<void>): Promise<void> {
  if (signal.aborted) return;
  const stopped = Promise.withResolvers<void>();
  const stop = () => stopped.resolve();
  signal.addEventListener("abort", stop);
  await Promise.race([promise, stopped.promise]);
  signal.removeEventListener("abort", stop);
}
