/**
 * Tests the AI SDK adapter against a server that is cut off and killed, and against strangers.
 * `tests/adapters/ai_sdk_test.ts` has the rest.
 */
import { assert, assertEquals } from "@std/assert";
import type { UIMessage, UIMessageChunk } from "npm:ai@^7";
import { SkeinChatTransport } from "../../../examples/adapters/ai_sdk.ts";
import { until } from "../../waiting.ts";
import { AgentServer, counted } from "./process.ts";

/** A device of a user, with one reader of a chat. */
class Device implements AsyncDisposable {
  readonly client;
  readonly chatId: string;
  readonly #transport: SkeinChatTransport;
  readonly #stop = new AbortController();
  text = "";
  readonly types: string[] = [];

  constructor(server: AgentServer, user: string, chatId: string) {
    const client = this.client = server.connect(user);
    this.chatId = chatId;
    this.#transport = new SkeinChatTransport({
      ask: (request, options) => client.requestStream("chat", request, options),
      active: (chat) => client.request("newest", chat, { retry: true }),
    });
  }

  async send(text: string): Promise<void> {
    const messages: UIMessage[] = [{ id: "1", role: "user", parts: [{ type: "text", text }] }];
    await this.#read(
      await this.#transport.sendMessages({
        trigger: "submit-message",
        chatId: this.chatId,
        messageId: undefined,
        messages,
        abortSignal: this.#stop.signal,
      }),
    );
  }

  async resume(): Promise<void> {
    const { chatId } = this;
    const abortSignal = this.#stop.signal;
    await this.#read((await this.#transport.reconnectToStream({ chatId, abortSignal }))!);
  }

  stop(): void {
    this.#stop.abort();
  }

  async #read(chunks: ReadableStream<UIMessageChunk>): Promise<void> {
    for await (const chunk of chunks) {
      this.types.push(chunk.type);
      if (chunk.type === "text-delta") this.text += chunk.delta;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

async function newChat(server: AgentServer, user: string): Promise<string> {
  await using client = server.connect(user);
  return await client.request("thread", null);
}

/** Waits for the text of a promise's rejection. */
async function messageOf(failing: Promise<unknown>): Promise<string> {
  try {
    await failing;
  } catch (error) {
    return (error as Error).message;
  }
  return "none";
}

Deno.test("SkeinChatTransport streams an answer through cuts and a kill, to a second device too", async () => {
  await using server = await AgentServer.start();
  const chat = await newChat(server, "ann");
  await using laptop = new Device(server, "ann", chat);
  await using phone = new Device(server, "ann", chat);
  const sent = laptop.send("Count to 90");
  await until(() => laptop.text.includes("10 "));
  server.cable.cut();
  const resumed = phone.resume();
  await until(() => laptop.text.includes("20 ") && phone.text.includes("20 "));
  await server.kill();
  await server.restart();
  await Promise.all([sent, resumed]);
  for (const { text, types } of [laptop, phone]) {
    assertEquals(text, counted(90));
    assertEquals(types.filter((type) => type === "start" || type === "finish"), [
      "start",
      "finish",
    ]);
  }
});

Deno.test("SkeinChatTransport stops an answer on a second device after a kill", async () => {
  await using server = await AgentServer.start();
  const chat = await newChat(server, "ann");
  await using laptop = new Device(server, "ann", chat);
  await using phone = new Device(server, "ann", chat);
  const sent = laptop.send("Count to 1000000");
  await until(() => laptop.text.includes("5 "));
  await server.kill();
  await server.restart();
  const resumed = phone.resume();
  await until(() => phone.text.includes("20 "));
  phone.stop();
  await Promise.all([sent, resumed]);
  assertEquals(laptop.types.at(-1), "abort");
});

Deno.test("SkeinChatTransport: a guessed chat reads nothing, starts nothing and takes no name", async () => {
  await using server = await AgentServer.start();
  const chat = await newChat(server, "ann");
  await using laptop = new Device(server, "ann", chat);
  await using eve = new Device(server, "eve", chat);
  assertEquals(await messageOf(eve.send("Count to 5")), "There is no such thread");
  const sent = laptop.send("Count to 40");
  await until(() => laptop.text.includes("5 "));
  assertEquals(await messageOf(eve.resume()), "There is no such thread");
  const id = (await laptop.client.request("newest", chat))!;
  const request = { chat, answer: id, messages: [], trigger: "resume-stream" as const };
  const guessed = eve.client.requestStream("chat", request, { id });
  assertEquals(await messageOf(Array.fromAsync(guessed)), "There is no such thread");
  await eve.client.requestStream("chat", request, { id }).cancel();
  await sent;
  assertEquals([laptop.text, eve.text], [counted(40), ""]);
  assert(!laptop.types.includes("abort"));
  assertEquals(await laptop.client.request("calls", id), 1);
});
