/**
 * An AG-UI agent whose runs are resumable responses of a Skein server. A run continues after a lost
 * connection, a page reload and a restart of its server, and a second device follows it.
 *
 * Copy this file into your project. `docs/guide/ai-libraries.md` shows the code of the page and of the
 * server.
 *
 * @module
 */
import { RequestError } from "../../client.ts"; // jsr:@skein/skein/client
import {
  AbstractAgent,
  type AgentConfig,
  type BaseEvent,
  EventType,
  type RunAgentInput,
} from "npm:@ag-ui/client@^1";
import { Observable } from "npm:rxjs@7.8.1"; // The version that @ag-ui/client requires.

/** The events of a run, as `client.requestStream` returns them. */
export interface RunEvents extends AsyncIterable<BaseEvent> {
  /** Stops the run for all readers. */
  cancel(reason?: string): Promise<void> | void;
}

/** Options of {@linkcode SkeinAgent}, in addition to those of every agent. */
export interface SkeinAgentOptions extends AgentConfig {
  /** Sends the request: `(input, options) => client.requestStream("agent", input, options)`. */
  readonly ask: (
    input: RunAgentInput,
    options: { readonly id: string; readonly after?: string },
  ) => RunEvents;
  /**
   * Returns the id of the newest run of a thread, if any:
   * `(thread) => client.request("newest", thread, { retry: true })`.
   */
  readonly newest: (threadId: string) => Promise<string | null>;
}

/**
 * The agent: `new SkeinAgent({ threadId, ask, newest })`.
 *
 * - **Lost connections:** the client reconnects and the run continues; subscribers do not notice.
 * - **`connectAgent()`** reads the newest run of the thread from its start, and starts none. If the
 *   run has ended with interrupts, they are in `pendingInterrupts`.
 * - **`abortRun()`** stops the run on the server. `runAgent()` and `connectAgent()` of all readers
 *   resolve, and `onRunFailed` receives an `AbortError`, as with `HttpAgent`.
 * - **`detachActiveRun()`** only leaves the run, which continues.
 */
export class SkeinAgent extends AbstractAgent {
  // Not `#private`: `clone()` of the base class makes objects without private members.
  private readonly options: SkeinAgentOptions;
  private reading: RunEvents | undefined;

  /** Creates an agent over a client. */
  constructor(options: SkeinAgentOptions) {
    super(options);
    this.options = options;
  }

  /** Starts a run, or reads it if there is one with its id. */
  override run(input: RunAgentInput): Observable<BaseEvent> {
    return this.read(() => this.options.ask(input, { id: input.runId }));
  }

  /** Reads the newest run of the thread; starts none. */
  protected override connect(input: RunAgentInput): Observable<BaseEvent> {
    return this.read(async () => {
      const id = await this.options.newest(input.threadId);
      return id === null ? undefined : this.options.ask(input, { id, after: "-1" });
    });
  }

  /** Stops the run that this agent reads. */
  override abortRun(): void {
    // A run that has ended, or a closed client, has nothing to stop.
    Promise.resolve(this.reading?.cancel("Stopped by the reader")).catch(() => {});
  }

  /** Copies the agent; the copy reads no run. */
  override clone(): SkeinAgent {
    return Object.assign(super.clone(), { options: this.options, reading: undefined });
  }

  private read(
    open: () => RunEvents | undefined | Promise<RunEvents | undefined>,
  ): Observable<BaseEvent> {
    return new Observable((reader) => {
      const follow = async () => {
        const events = await open();
        if (events === undefined || reader.closed) return;
        this.reading = events;
        try {
          for await (const event of events) {
            if (reader.closed) return; // Leaving the loop does not stop the run.
            reader.next(event);
          }
        } finally {
          if (this.reading === events) this.reading = undefined;
        }
      };
      follow().then(() => reader.complete(), (error) => reader.error(asAbort(error)));
    });
  }
}

/** A stop looks to subscribers like an aborted request of `HttpAgent`. */
function asAbort(error: unknown): unknown {
  const isStopped = error instanceof RequestError && error.failure.code === "cancelled";
  return isStopped ? new DOMException(error.message, "AbortError") : error;
}

/**
 * Continues a run of text whose server failed: adds the rest to the open message and finishes the
 * run. Call it in the handler's `resume`.
 *
 * @param written The stored events.
 * @param rest Returns the rest of the text, given the text of the run so far.
 * @returns The missing events.
 */
export async function* continueRun(
  { threadId, runId }: Pick<RunAgentInput, "threadId" | "runId">,
  written: readonly BaseEvent[],
  rest: (text: string) => AsyncIterable<string>,
): AsyncGenerator<BaseEvent> {
  const types = new Set(written.map(({ type }) => type));
  if (types.has(EventType.RUN_FINISHED) || types.has(EventType.RUN_ERROR)) return;
  let open: string | undefined;
  let text = "";
  for (const event of written as (BaseEvent & { messageId?: string; delta?: string })[]) {
    if (event.type === EventType.TEXT_MESSAGE_START) open = event.messageId;
    else if (event.type === EventType.TEXT_MESSAGE_END) open = undefined;
    else if (event.type === EventType.TEXT_MESSAGE_CONTENT) text += event.delta;
  }
  if (!types.has(EventType.RUN_STARTED)) yield { type: EventType.RUN_STARTED, threadId, runId };
  const messageId = open ?? crypto.randomUUID();
  for await (const delta of rest(text)) {
    if (open === undefined) {
      yield { type: EventType.TEXT_MESSAGE_START, messageId, role: "assistant" };
    }
    open = messageId;
    yield { type: EventType.TEXT_MESSAGE_CONTENT, messageId, delta };
  }
  if (open !== undefined) yield { type: EventType.TEXT_MESSAGE_END, messageId };
  yield { type: EventType.RUN_FINISHED, threadId, runId };
}
