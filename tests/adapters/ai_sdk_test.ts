/**
 * Tests the AI SDK adapter with the SDK's own chat: sending, page reloads, several devices, stops
 * and failures.
 */
import { assert, assertEquals } from "@std/assert";
import { AbstractChat, type ChatState, type ChatStatus, type UIMessage } from "npm:ai@^7";
import { streamText, type UIMessageChunk } from "npm:ai@^7";
import { MockLanguageModelV4, simulateReadableStream } from "npm:ai@^7/test";
import { z } from "zod";
import {
  type ChatRequest,
  continueText,
  SkeinChatTransport,
} from "../../examples/adapters/ai_sdk.ts";
import {
  type Broker,
  type Client,
  connect,
  defineContract,
  RequestError,
  serve,
  type Server,
} from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import { resumable } from "../../streams/mod.ts";

const contract = defineContract({
  requests: {
    chat: {
      input: z.custom<ChatRequest<UIMessage>>(),
      stream: z.custom<UIMessageChunk>(),
      resume: true,
    },
    "chat-active": { input: z.string(), output: z.string().nullable() },
  },
});

/** A model that produces each word when the test says so. */
class Model {
  /** The abort reasons of the calls so far. */
  readonly stops: unknown[] = [];
  readonly #waiting: PromiseWithResolvers<string | null>[] = [];
  readonly #said: (string | null)[] = [];

  /** Produces words; `null` ends the text. */
  say(...words: (string | null)[]): void {
    for (const word of words) {
      const waiting = this.#waiting.shift();
      if (waiting === undefined) this.#said.push(word);
      else waiting.resolve(word);
    }
  }

  async *text(signal: AbortSignal): AsyncGenerator<string> {
    while (true) {
      const word = this.#said.length > 0 ? this.#said.shift()! : await this.#next(signal);
      if (word === null) return;
      if (word === "fail") throw new RequestError("overloaded", "The model is overloaded");
      yield word;
    }
  }

  async #next(signal: AbortSignal): Promise<string | null> {
    const waiting = Promise.withResolvers<string | null>();
    this.#waiting.push(waiting);
    const onAbort = () => {
      this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
      this.stops.push((signal.reason as Error).message);
      waiting.reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    const word = await waiting.promise;
    signal.removeEventListener("abort", onAbort);
    return word;
  }
}

/** An application's store: maps each chat to the answer that is streaming in it. */
type Active = Map<string, string>;

function serveChats(
  model: Model,
  active: Active,
  broker?: Broker,
): Server<string, typeof contract> {
  return serve({
    port: 0,
    onListen() {},
    webTransport: false,
    contract,
    ...(broker && { broker }),
    authenticate: () => "ann",
    requests: {
      "chat-active": ({ data }) => active.get(data) ?? null,
      chat: {
        resumable,
        async *handle({ data: { chat, answer, trigger }, signal }) {
          if (trigger === "resume-stream") throw new RequestError("not-found", "No such answer");
          active.set(chat, answer);
          yield { type: "start", messageId: `message-${answer}` };
          yield { type: "text-start", id: "text" };
          for await (const delta of model.text(signal)) {
            yield { type: "text-delta", id: "text", delta };
          }
          yield { type: "text-end", id: "text" };
          active.delete(chat);
          yield { type: "finish" };
        },
        resume: (_input, { written, signal }) => continueText(written, () => model.text(signal)),
      },
    },
  });
}

/** A chat state like those in UI libraries. */
class State implements ChatState<UIMessage> {
  error: Error | undefined;
  #status: ChatStatus = "ready";
  #messages: UIMessage[];
  readonly #onChange: () => void;

  constructor(messages: UIMessage[], onChange: () => void) {
    this.#messages = messages;
    this.#onChange = onChange;
  }

  get status(): ChatStatus {
    return this.#status;
  }

  set status(status) {
    this.#status = status;
    this.#onChange();
  }

  get messages(): UIMessage[] {
    return this.#messages;
  }

  set messages(messages) {
    this.#messages = messages;
    this.#onChange();
  }

  pushMessage(message: UIMessage): void {
    this.messages = [...this.messages, structuredClone(message)];
  }

  popMessage(): void {
    this.messages = this.messages.slice(0, -1);
  }

  replaceMessage(index: number, message: UIMessage): void {
    this.messages = this.messages.with(index, structuredClone(message));
  }

  snapshot<T>(thing: T): T {
    return structuredClone(thing);
  }
}

class Chat extends AbstractChat<UIMessage> {
  constructor(client: Client<typeof contract>, state: State) {
    super({
      id: "chat-1",
      state,
      transport: new SkeinChatTransport({
        ask: (request, options) => client.requestStream("chat", request, options),
        active: (chat) => client.request("chat-active", chat),
      }),
    });
  }
}

class Device implements AsyncDisposable {
  readonly client: Client<typeof contract>;
  readonly chat: Chat;
  #changed = Promise.withResolvers<void>();

  constructor(url: string | string[], messages: UIMessage[] = []) {
    this.client = connect(url, {
      contract,
      transports: ["websocket"],
      backoff: { maxDelayMs: 50 },
    });
    const state = new State(messages, () => {
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
    });
    this.chat = new Chat(this.client, state);
  }

  get texts(): string[] {
    return this.chat.messages.map(({ parts }) =>
      parts.map((part) => part.type === "text" ? part.text : "").join("")
    );
  }

  /** Waits until the last message has the given text. */
  async reads(text: string): Promise<void> {
    while (this.texts.at(-1) !== text) await this.#changed.promise;
  }

  async is(status: ChatStatus): Promise<void> {
    while (this.chat.status !== status) await this.#changed.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

Deno.test("SkeinChatTransport streams an answer, and the next one", async () => {
  const model = new Model();
  const active: Active = new Map();
  await using server = serveChats(model, active);
  await using page = new Device(server.url);
  for (const [i, words] of [["Hello", ", Ann"], ["Bye"]].entries()) {
    const sent = page.chat.sendMessage({ text: `Question ${i}` });
    model.say(...words, null);
    await sent;
  }
  assertEquals(page.texts, ["Question 0", "Hello, Ann", "Question 1", "Bye"]);
  assertEquals({ status: page.chat.status, error: page.chat.error, active: active.size }, {
    status: "ready",
    error: undefined,
    active: 0,
  });
  // No answer is streaming.
  await page.chat.resumeStream();
  assertEquals([page.chat.status, page.texts.length], ["ready", 4]);
});

Deno.test("SkeinChatTransport continues an answer after a page reload, and on a second device", async () => {
  const model = new Model();
  await using server = serveChats(model, new Map());
  let question: UIMessage[];
  {
    await using page = new Device(server.url);
    void page.chat.sendMessage({ text: "Hi" });
    model.say("one ", "two ");
    await page.reads("one two ");
    question = page.chat.messages.slice(0, 1);
  }
  await using page = new Device(server.url, question);
  await using other = new Device(server.url, question);
  const resumed = [page, other].map(({ chat }) => chat.resumeStream());
  for (const device of [page, other]) await device.reads("one two ");
  model.say("three", null);
  await Promise.all(resumed);
  for (const { texts, chat } of [page, other]) {
    assertEquals({ texts, status: chat.status, error: chat.error }, {
      texts: ["Hi", "one two three"],
      status: "ready",
      error: undefined,
    });
  }
  assertEquals(page.chat.messages, other.chat.messages);
  assertEquals(model.stops, []);
});

Deno.test("SkeinChatTransport stops an answer for all readers, also after a page reload", async () => {
  const model = new Model();
  await using server = serveChats(model, new Map());
  await using page = new Device(server.url);
  const sent = page.chat.sendMessage({ text: "Hi" });
  model.say("one ");
  await page.reads("one ");
  await using other = new Device(server.url, page.chat.messages.slice(0, 1));
  // A component that mounts twice resumes twice: the second call must not stop the first.
  void other.chat.resumeStream();
  const resumed = other.chat.resumeStream();
  await other.reads("one ");
  model.say("two ");
  await page.reads("one two ");
  assertEquals(model.stops, []);
  await other.chat.stop();
  await Promise.all([sent, resumed]);
  for (const { chat, texts } of [page, other]) {
    assertEquals([chat.status, chat.error, texts.at(-1)], ["ready", undefined, "one two "]);
  }
  assertEquals(model.stops, ["Stopped by the reader"]);
});

Deno.test("SkeinChatTransport reports the failure of a model", async () => {
  const model = new Model();
  await using server = serveChats(model, new Map());
  await using page = new Device(server.url);
  model.say("one ", "fail");
  await page.chat.sendMessage({ text: "Hi" });
  assertEquals([page.chat.status, page.texts.at(-1)], ["error", "one "]);
  assertEquals(page.chat.error?.message, "The model is overloaded");
  model.say("again", null);
  await page.chat.regenerate();
  assertEquals([page.chat.status, page.texts], ["ready", ["Hi", "again"]]);
});

Deno.test("SkeinChatTransport continues on another server", async () => {
  const model = new Model();
  const active: Active = new Map();
  await using broker = new MemoryBroker();
  const first = serveChats(model, active, broker);
  await using second = serveChats(model, active, broker);
  await using page = new Device([first.url, second.url]);
  const sent = page.chat.sendMessage({ text: "Hi" });
  model.say("one ", "two ");
  await page.reads("one two ");
  await first.close();
  model.say("three", null);
  await sent;
  assertEquals([page.texts, page.chat.error], [["Hi", "one two three"], undefined]);
});

Deno.test("SkeinChatTransport carries the chunks of streamText()", async () => {
  const outcomes: string[] = [];
  const model = new MockLanguageModelV4({
    doStream: () =>
      Promise.resolve({
        stream: simulateReadableStream({
          chunks: [
            { type: "text-start", id: "0" },
            { type: "text-delta", id: "0", delta: "Hello" },
            { type: "text-delta", id: "0", delta: ", Ann" },
            { type: "text-end", id: "0" },
            {
              type: "finish",
              finishReason: { unified: "stop", raw: undefined },
              usage: {
                inputTokens: { total: 1, noCache: 1, cacheRead: undefined, cacheWrite: undefined },
                outputTokens: { total: 2, text: 2, reasoning: undefined },
              },
            },
          ],
        }),
      }),
  });
  await using server = serve({
    port: 0,
    onListen() {},
    webTransport: false,
    contract,
    requests: {
      "chat-active": () => null,
      chat: {
        resumable,
        handle: ({ signal }) =>
          streamText({ model, prompt: "Hi", abortSignal: signal }).toUIMessageStream({
            onEnd: ({ outcome }) => void outcomes.push(outcome.status),
          }),
      },
    },
  });
  await using page = new Device(server.url);
  await page.chat.sendMessage({ text: "Hi" });
  assertEquals([page.texts, page.chat.status], [["Hi", "Hello, Ann"], "ready"]);
  assertEquals(outcomes, ["completed"]);
});

Deno.test("continueText() completes a message that was cut off at any point", async () => {
  const whole: UIMessageChunk[] = [
    { type: "start", messageId: "m" },
    { type: "text-start", id: "t" },
    { type: "text-delta", id: "t", delta: "one " },
    { type: "text-delta", id: "t", delta: "two" },
    { type: "text-end", id: "t" },
    { type: "finish" },
  ];
  for (let cut = 0; cut <= whole.length; cut++) {
    const written = whole.slice(0, cut);
    const rest = await Array.fromAsync(continueText(written, async function* (text) {
      assert("one two".startsWith(text));
      if (text !== "one two") yield "one two".slice(text.length);
    }));
    const all = [...written, ...rest];
    const text = all.map((chunk) => chunk.type === "text-delta" ? chunk.delta : "").join("");
    assertEquals(text, "one two", `cut at ${cut}`);
    const types = all.map(({ type }) => type);
    assertEquals([types[0], types.at(-1)], ["start", "finish"]);
    assertEquals(types.filter((type) => type === "finish").length, 1);
    const opened = types.filter((type) => type === "text-start").length;
    assertEquals(types.filter((type) => type === "text-end").length, opened, `cut at ${cut}`);
  }
});
