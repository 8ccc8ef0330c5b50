/**
 * Tests the parts of the AI chat: the writers, the Markdown of answers, and the file of
 * conversations.
 */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { connect } from "../../mod.ts";
import { contract } from "../../examples/ai_chat/contract.ts";
import { Conversations } from "../../examples/ai_chat/conversations.ts";
import { blocksOf, spansOf } from "../../examples/ai_chat/page/markdown.js";
import { answerTo, localWriter, modelWriter, type Prompt } from "../../examples/ai_chat/writer.ts";
import { ChatProcess } from "../browser/browsers.ts";

/** Longest wait for a word: a takeover, and a server start on a busy machine. */
const PATIENCE_MS = 60_000;

const { signal } = new AbortController();
const PROMPT: Prompt = { before: [], question: "count to 12", written: "", signal };

Deno.test("localWriter() repeats the same words, and writes only the remaining ones", async () => {
  const write = localWriter(0);
  const whole = answerTo("What if the server is killed?");
  const question = "What if the server is killed?";
  for (const kept of [0, 4, 100, whole.length]) {
    const words = await Array.fromAsync(write({ ...PROMPT, question }));
    let written = "";
    while (written.length < kept) written += words.shift();
    const rest = await Array.fromAsync(write({ ...PROMPT, question, written }));
    assertEquals(written + rest.join(""), whole);
  }
  assertStringIncludes(answerTo("Why?"), "> Why?");
  await assertRejects(() => Array.fromAsync(write({ ...PROMPT, question: "fail" })), Error, "fail");
  const stopped = write({ ...PROMPT, signal: AbortSignal.abort(new Error("enough")) });
  await assertRejects(() => Array.fromAsync(stopped));
});

Deno.test("modelWriter() forwards the words of a model, and requests the rest", async () => {
  const requests: unknown[] = [];
  const deltas = (...words: string[]) =>
    words.map((content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
  const answers = [
    [...deltas("One", " two"), 'data: {"choices":[{"delta":{}}]}\r\n\r\n', "data: [DONE]\n\n"],
    deltas("cut"),
  ];
  await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
    assertEquals(new URL(request.url).pathname, "/v1/chat/completions");
    requests.push(request.headers.get("authorization"), (await request.json()).messages);
    const body = answers.shift();
    if (body === undefined) return new Response("busy", { status: 429 });
    // Chunks are split in the middle of events.
    const chunks = body.join("").match(/.{1,7}/gs)!;
    return new Response(ReadableStream.from(chunks).pipeThrough(new TextEncoderStream()));
  });
  const url = `http://localhost:${server.addr.port}/v1`;
  const write = modelWriter({ url, name: "small", key: "secret" });
  assertEquals(await Array.fromAsync(write(PROMPT)), ["One", " two"]);
  assertEquals(requests, ["Bearer secret", [{ role: "user", content: "count to 12" }]]);
  const rest = write({ ...PROMPT, written: "1 2" });
  await assertRejects(() => Array.fromAsync(rest), Error, "stopped in the middle");
  assertEquals((requests[3] as unknown[]).length, 3);
  await assertRejects(() => Array.fromAsync(write(PROMPT)), Error, "status 429");
});

Deno.test("blocksOf() parses a text that may end anywhere", () => {
  const text = [
    "# Title",
    "A *line*",
    "wrapped",
    "",
    "2. two",
    "   and more",
    "3. three",
    "- a",
    "> said",
    "> so",
    "```ts",
    "const a = `<b>`;",
    "",
    "```",
    "end",
  ].join("\n");
  const blocks = blocksOf(text).map(({ source: _, ...block }) => block);
  assertEquals(blocks, [
    { kind: "h", level: 1, text: "Title" },
    { kind: "p", text: "A *line* wrapped" },
    { kind: "ol", items: ["two and more", "three"], start: 2 },
    { kind: "ul", items: ["a"] },
    { kind: "quote", text: "said so" },
    { kind: "code", language: "ts", code: "const a = `<b>`;\n" },
    { kind: "p", text: "end" },
  ]);
  // Blocks before the last one stay the same while the text grows, and no cut throws.
  for (let end = 0; end <= text.length; end++) {
    const part = blocksOf(text.slice(0, end));
    const sources = blocksOf(text).map(({ source }) => source);
    for (const [i, { source }] of part.slice(0, -1).entries()) assertEquals(source, sources[i]);
  }
});

Deno.test("spansOf() parses spans, and links only to web addresses", () => {
  const plain = (text: string) => ({ kind: "text", text });
  assertEquals(spansOf("a **b *c*** `**d**`"), [
    plain("a "),
    { kind: "strong", spans: [plain("b "), { kind: "em", spans: [plain("c")] }] },
    plain(" "),
    { kind: "code", text: "**d**" },
  ]);
  assertEquals(spansOf("so **open"), [plain("so "), { kind: "strong", spans: [plain("open")] }]);
  assertEquals(spansOf("2 ** 3 * 4"), [plain("2 ** 3 * 4")]);
  assertEquals(spansOf("[x](https://a.b/c)"), [
    { kind: "a", spans: [plain("x")], address: "https://a.b/c" },
  ]);
  // A bare address is a link, except within the words of another link.
  const address = "https://a.b/c";
  const bare = { kind: "a", spans: [plain(address)], address };
  assertEquals(spansOf(`**See ${address}.**`), [
    { kind: "strong", spans: [plain("See "), bare, plain(".")] },
  ]);
  assertEquals(spansOf(`[on ${address}](${address})`), [
    { kind: "a", spans: [plain(`on ${address}`)], address },
  ]);
  for (const text of ["[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "[x](data:a)"]) {
    assertEquals(spansOf(text), [plain(text)]);
  }
});

Deno.test("Conversations keeps each turn once, even after a restart", async () => {
  const path = await Deno.makeTempFile();
  const conversation = "conversation-0001";
  const ask = (id: string, replaces?: string) => ({ id, conversation, question: "Why?", replaces });
  {
    using conversations = new Conversations(path);
    conversations.begin(ask("turn-000000000001"));
    conversations.begin(ask("turn-000000000001"));
    conversations.begin({ ...ask("turn-000000000002"), conversation: "conversation-0002" });
    const end = { state: "failed", answer: "Be", reason: "no" } as const;
    conversations.end("turn-000000000001", end);
  }
  using conversations = new Conversations(path);
  assertEquals(conversations.turns(conversation).map(({ answer }) => answer), ["Be"]);
  conversations.begin(ask("turn-000000000003", "turn-000000000001"));
  conversations.begin(ask("turn-000000000004", "turn-000000000002"));
  assertEquals(
    conversations.turns(conversation).map(({ id, state }) => [id, state]),
    [["turn-000000000003", "writing"], ["turn-000000000004", "writing"]],
  );
  conversations.remove(conversation);
  assertEquals(conversations.turn("turn-000000000003"), undefined);
  assertEquals(conversations.list(), [{ id: "conversation-0002", title: "Why?" }]);
  await Deno.remove(path);
});

Deno.test("an answer continues without duplicate words after its server is killed", async () => {
  const data = await Deno.makeTempDir();
  try {
    await using server = await ChatProcess.start("ai_chat", ["--data", data, "--pace", "5"]);
    const id = crypto.randomUUID();
    const question = { id, conversation: crypto.randomUUID(), question: "count to 600" };
    await using client = connect(`${server.url}/session`, {
      contract,
      transports: ["websocket"],
      backoff: { maxDelayMs: 200 },
    });
    const words: string[] = [];
    const kills = [40, 300];
    const options = { id, itemTimeoutMs: PATIENCE_MS };
    for await (const word of client.requestStream("ask", question, options)) {
      if (words.push(word) !== kills[0]) continue;
      kills.shift();
      await server.stop("SIGKILL");
      await server.start();
    }
    const whole = answerTo("count to 600");
    assertEquals([words.join(""), kills], [whole, []]);
    const [turn] = await client.request("open", question.conversation);
    assertEquals([turn?.state, turn?.answer], ["complete", whole]);
    // A second device that connects later.
    await using later = connect(`${server.url}/session`, { contract });
    const again = await Array.fromAsync(later.requestStream("ask", question, { id }));
    assertEquals(again.join(""), whole);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});
