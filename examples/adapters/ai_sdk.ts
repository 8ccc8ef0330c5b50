/**
 * A transport that carries AI SDK chats (`useChat`, `Chat`) over a Skein session. An answer
 * continues after a page reload, on a second device, and after its server fails. `stop()` also
 * reaches the model after a reload.
 *
 * Copy this file into your project. `docs/guide/ai-libraries.md` shows the code of the page and of
 * the server.
 *
 * @module
 */
import { newId, RequestError } from "../../client.ts"; // jsr:@skein/skein/client
import type { ChatTransport, UIMessage, UIMessageChunk } from "npm:ai@^7";

/** The data of a request for an answer. */
export interface ChatRequest<M extends UIMessage> {
  /** Id of the chat. */
  readonly chat: string;
  /** Name of the answer; store it as the chat's active answer. */
  readonly answer: string;
  /** The messages; none for a page that only resumes. */
  readonly messages: readonly M[];
  /**
   * For `resume-stream` the server replies with the existing answer of that name and starts no new
   * one.
   */
  readonly trigger: "submit-message" | "regenerate-message" | "resume-stream";
  /** The message to regenerate. */
  readonly messageId?: string | undefined;
  /** The `body` of the call, for example the chosen model. */
  readonly body?: object | undefined;
}

/** An answer, as `client.requestStream` returns one. */
export interface ChatAnswer extends AsyncIterable<UIMessageChunk> {
  /** Stops the answer for all readers. */
  cancel(reason?: string): Promise<void> | void;
}

/** Options of {@linkcode SkeinChatTransport}. */
export interface SkeinChatOptions<M extends UIMessage> {
  /** Sends the request: `(request, { id }) => client.requestStream("chat", request, { id })`. */
  readonly ask: (request: ChatRequest<M>, options: { readonly id: string }) => ChatAnswer;
  /** Returns the name of the answer that is being written in a chat, if any. */
  readonly active: (chat: string) => Promise<string | null>;
}

type SendOptions<M extends UIMessage> = Parameters<ChatTransport<M>["sendMessages"]>[0];
type ReconnectOptions<M extends UIMessage> = Parameters<ChatTransport<M>["reconnectToStream"]>[0];

/**
 * The transport: `new Chat({ transport: new SkeinChatTransport({ … }) })`.
 *
 * - **Lost connections:** the client reconnects and the answer continues; the chat does not notice.
 * - **Reload:** `resumeStream()`, or `useChat({ resume: true })`, reads the answer from its start.
 * - **Stop:** `stop()` cancels the answer on the server. Closing the page or resuming again does
 *   not cancel it. Other readers see a stopped answer end without an error.
 */
export class SkeinChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  /** A resumed answer is read from its first chunk. */
  readonly resumeStreamIsReplay = true;
  readonly #options: SkeinChatOptions<M>;
  /** The newest reader of each chat that resumes. */
  readonly #resumed = new Map<string, AbortSignal | undefined>();

  /** Creates a transport over a client. */
  constructor(options: SkeinChatOptions<M>) {
    this.#options = options;
  }

  /** Requests a new answer. */
  sendMessages(
    { chatId, messages, trigger, messageId, body, abortSignal }: SendOptions<M>,
  ): Promise<ReadableStream<UIMessageChunk>> {
    const id = newId();
    const request = { chat: chatId, answer: id, messages, trigger, messageId, body };
    const answer = this.#options.ask(request, { id });
    abortSignal?.addEventListener("abort", () => void stop(answer), { once: true });
    return Promise.resolve(streamOf(answer, abortSignal));
  }

  /** Reads the answer that is being written, if any. */
  async reconnectToStream(
    { chatId, abortSignal, body }: ReconnectOptions<M>,
  ): Promise<ReadableStream<UIMessageChunk> | null> {
    this.#resumed.set(chatId, abortSignal);
    const id = await this.#options.active(chatId);
    if (id === null || abortSignal?.aborted) return null;
    const trigger = "resume-stream";
    const answer = this.#options.ask({ chat: chatId, answer: id, messages: [], trigger, body }, {
      id,
    });
    abortSignal?.addEventListener("abort", () => {
      // A chat that resumes again first aborts its previous reader, and calls this method in the
      // same turn.
      queueMicrotask(() => {
        if (this.#resumed.get(chatId) === abortSignal) void stop(answer);
      });
    }, { once: true });
    return streamOf(answer, abortSignal);
  }
}

/** Stops an answer, unless it has ended or its client is closed. */
async function stop(answer: ChatAnswer): Promise<void> {
  try {
    await answer.cancel("Stopped by the reader");
  } catch {
    // The reader is leaving anyway.
  }
}

function streamOf(
  answer: ChatAnswer,
  signal: AbortSignal | undefined,
): ReadableStream<UIMessageChunk> {
  const iterator = answer[Symbol.asyncIterator]();
  return new ReadableStream<UIMessageChunk>({
    async pull(controller) {
      try {
        const { done, value } = await iterator.next();
        if (!done) return controller.enqueue(value);
      } catch (error) {
        const isStopped = error instanceof RequestError && error.failure.code === "cancelled";
        if (!isStopped) return controller.error(error);
        if (!signal?.aborted) controller.enqueue({ type: "abort", reason: error.message });
      }
      controller.close();
    },
    // Leaves the loop; the answer continues for other readers.
    async cancel() {
      await iterator.return?.();
    },
  }, { highWaterMark: 0 });
}

/**
 * Continues a text answer whose server failed: adds the rest of the text to the open part and
 * finishes the message. Call it in the handler's `resume`.
 *
 * @param written The stored chunks.
 * @param rest Returns the rest of the text, given the text so far.
 * @returns The missing chunks.
 */
export async function* continueText(
  written: readonly UIMessageChunk[],
  rest: (text: string) => AsyncIterable<string>,
): AsyncGenerator<UIMessageChunk> {
  if (written.some(({ type }) => type === "finish")) return;
  let open: string | undefined;
  let text = "";
  for (const chunk of written) {
    if (chunk.type === "text-start") open = chunk.id;
    else if (chunk.type === "text-end") open = undefined;
    else if (chunk.type === "text-delta") text += chunk.delta;
  }
  if (!written.some(({ type }) => type === "start")) yield { type: "start" };
  const id = open ?? crypto.randomUUID();
  for await (const delta of rest(text)) {
    if (open === undefined) yield { type: "text-start", id };
    open = id;
    yield { type: "text-delta", id, delta };
  }
  if (open !== undefined) yield { type: "text-end", id };
  yield { type: "finish" };
}
