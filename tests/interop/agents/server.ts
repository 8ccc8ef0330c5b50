/**
 * The program of the tests of adapters for agents: chats of the AI SDK, runs of AG-UI and of
 * TanStack AI, and MCP sessions, in a process that tests kill. The "model" counts words.
 *
 * The arguments are the port and a folder for data.
 *
 * @module
 */
import { setTimeout as delay } from "node:timers/promises";
import { DatabaseSync } from "node:sqlite";
import { McpServer } from "npm:@modelcontextprotocol/sdk@^1/server/mcp.js";
import {
  type BaseEvent,
  EventType,
  type Interrupt,
  type Message,
  type RunAgentInput,
} from "npm:@ag-ui/client@^1";
import {
  resumeServerSentEventsResponse,
  type StreamChunk,
  toServerSentEventsResponse,
} from "npm:@tanstack/ai@0.58.0";
import type { UIMessage, UIMessageChunk } from "npm:ai@^7";
import * as z from "zod";
import { SqliteBroker } from "../../../brokers/sqlite/mod.ts";
import { continueRun as continueEvents } from "../../../examples/adapters/ag_ui.ts";
import { type ChatRequest, continueText } from "../../../examples/adapters/ai_sdk.ts";
import { McpSessions } from "../../../examples/adapters/mcp.ts";
import {
  continueRun as continueChunks,
  skeinDurability,
  stopRun,
} from "../../../examples/adapters/tanstack_ai.ts";
import { AuthenticationError, defineContract, RequestError, serve } from "../../../mod.ts";
import { durableStreams, resumable } from "../../../streams/mod.ts";

/** The part of the context of a call that the tool uses. */
interface CallContext {
  readonly signal: AbortSignal;
  sendNotification(notification: object): Promise<void>;
}

const THREAD = z.string().min(1).max(100);

export const contract = defineContract({
  requests: {
    thread: { input: z.null(), output: z.string() },
    newest: { input: THREAD, output: z.string().nullable() },
    chat: {
      input: z.custom<ChatRequest<UIMessage>>(),
      stream: z.custom<UIMessageChunk>(),
      resume: true,
    },
    agent: { input: z.custom<RunAgentInput>(), stream: z.custom<BaseEvent>(), resume: true },
    /** How many times each run has called the model. */
    calls: { input: z.string(), output: z.number() },
  },
});

/** Pause before each word, in milliseconds. */
const PACE_MS = 10;

/** The text that the model writes when asked to count: "0 1 2 … ". */
async function* model(prompt: string, before: string, signal: AbortSignal): AsyncGenerator<string> {
  const count = Number(/count to (\d+)/i.exec(prompt)?.[1] ?? 0);
  for (let i = before === "" ? 0 : before.trim().split(" ").length; i < count; i++) {
    await delay(PACE_MS, undefined, { signal });
    yield `${i} `;
  }
}

const promptOf = (messages: readonly Message[]) => String(messages.at(-1)?.content ?? "");

if (import.meta.main) await main(Number(Deno.args[0]), Deno.args[1]!);

async function main(port: number, folder: string): Promise<void> {
  const db = new DatabaseSync(`${folder}/threads.db`);
  db.exec(`
    CREATE TABLE IF NOT EXISTS threads (id TEXT PRIMARY KEY, owner TEXT, newest TEXT) STRICT;
    CREATE TABLE IF NOT EXISTS runs (
      id TEXT, thread TEXT, owner TEXT, calls INTEGER, prompt TEXT, PRIMARY KEY (thread, id)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS answers (
      thread TEXT, interrupt TEXT, PRIMARY KEY (thread, interrupt)
    ) STRICT;`);

  /** Throws unless a thread belongs to a user. */
  function check(thread: string, user: string | undefined): void {
    const row = db.prepare("SELECT owner FROM threads WHERE id = ?").get(thread);
    if (row === undefined || row.owner !== user) {
      throw new RequestError("not-found", "There is no such thread");
    }
  }

  function begin(thread: string, run: string, owner: string | undefined, prompt = ""): void {
    db.prepare("UPDATE threads SET newest = ? WHERE id = ?").run(run, thread);
    db.prepare(`INSERT INTO runs VALUES (?, ?, ?, 1, ?)
      ON CONFLICT DO UPDATE SET calls = calls + 1`).run(run, thread, owner!, prompt);
  }

  /** A run that asks a human before it counts. */
  async function* agent(
    { threadId, runId, messages, resume = [] }: RunAgentInput,
    signal: AbortSignal,
  ): AsyncGenerator<BaseEvent> {
    const scope = { threadId, runId };
    yield { type: EventType.RUN_STARTED, ...scope };
    yield { type: EventType.MESSAGES_SNAPSHOT, messages };
    const [answer] = resume;
    if (promptOf(messages).startsWith("ask") && answer === undefined) {
      const interrupts: Interrupt[] = [
        { id: `approve-${runId}`, reason: "confirmation", message: "May I?" },
      ];
      yield { type: EventType.RUN_FINISHED, ...scope, outcome: { type: "interrupt", interrupts } };
      return;
    }
    yield* continueEvents(scope, [{ type: EventType.RUN_STARTED }], async function* () {
      if (answer?.status === "cancelled") yield "Then not. ";
      else yield* model(promptOf(messages), "", signal);
    });
  }

  const streams = durableStreams();
  const nameOf = (thread: string, run: string) => `run/${thread}/${run}`;

  /** The chunks of a run, after those that are stored. */
  async function* chunks(
    { threadId, runId, prompt }: { threadId: string; runId: string; prompt: string },
    written: readonly StreamChunk[],
    signal: AbortSignal,
  ): AsyncGenerator<StreamChunk> {
    const has = (type: string) => written.some((chunk) => chunk.type === type);
    const text = written.map((chunk) => chunk.type === "TEXT_MESSAGE_CONTENT" ? chunk.delta : "");
    const chunk = (value: object) => ({ timestamp: 0, model: "counts", ...value }) as StreamChunk;
    const messageId = `text-${runId}`;
    if (!has("RUN_STARTED")) yield chunk({ type: "RUN_STARTED", runId, threadId });
    if (!has("TEXT_MESSAGE_START")) {
      yield chunk({ type: "TEXT_MESSAGE_START", messageId, role: "assistant" });
    }
    for await (const delta of model(prompt, text.join(""), signal)) {
      yield chunk({ type: "TEXT_MESSAGE_CONTENT", messageId, delta });
    }
    yield chunk({ type: "TEXT_MESSAGE_END", messageId });
    yield chunk({ type: "RUN_FINISHED", runId, threadId, finishReason: "stop" });
  }

  /** The endpoint of TanStack AI. */
  async function tanstack(request: Request, user: string): Promise<Response> {
    const runId = request.headers.get("x-run-id") ?? new URL(request.url).searchParams.get("runId");
    if (runId === null || !/^[\w-]{1,64}$/.test(runId)) return new Response(null, { status: 400 });
    if (request.method !== "POST") {
      const run = db.prepare("SELECT thread FROM runs WHERE id = ? AND owner = ?").get(runId, user);
      if (run === undefined) return new Response(null, { status: 404 });
      const id = nameOf(String(run.thread), runId);
      if (request.method === "DELETE") return Response.json(await stopRun(streams, id));
      const adapter = await skeinDurability({ streams, id, request });
      return resumeServerSentEventsResponse({ adapter });
    }
    const { threadId, messages } = await request.json();
    check(threadId, user);
    const prompt = JSON.stringify(messages.at(-1));
    const adapter = await skeinDurability({ streams, id: nameOf(threadId, runId), request });
    const { abortController } = adapter;
    if (adapter.resumeFrom() === null) begin(threadId, runId, user, prompt);
    const run = chunks({ threadId, runId, prompt }, [], abortController.signal);
    return toServerSentEventsResponse(run, { abortController, durability: { adapter } });
  }

  const mcp = new McpSessions({
    streams,
    async connect(transport, user) {
      const server = new McpServer({ name: "counts", version: "1.0.0" }, {
        capabilities: { logging: {} },
      });
      const inputSchema = { to: z.number() };
      server.registerTool(
        "count",
        { inputSchema },
        async ({ to }: { to: number }, { signal, sendNotification }: CallContext) => {
          let said = "";
          for await (const word of model(`Count to ${to}`, "", signal)) {
            said += word;
            await sendNotification({
              method: "notifications/message",
              params: { level: "info", data: word.trim() },
            });
          }
          return { content: [{ type: "text", text: `${user}: ${said.trim()}` }] };
        },
      );
      await server.connect(transport);
    },
  });

  const broker = await SqliteBroker.open(`${folder}/streams.db`);
  serve({
    port,
    hostname: "127.0.0.1",
    webTransport: false,
    broker,
    contract,
    features: [streams],
    tokens: { inMessage: true },
    onListen: () => console.log("ready"),
    authenticate({ token }) {
      if (!token) throw new AuthenticationError("Sign in first");
      return token;
    },
    requests: {
      thread(_message, { user }) {
        const id = crypto.randomUUID();
        db.prepare("INSERT INTO threads VALUES (?, ?, NULL)").run(id, user!);
        return id;
      },
      newest({ data }, { user }) {
        check(data, user);
        const row = db.prepare("SELECT newest FROM threads WHERE id = ?").get(data);
        return row?.newest as string | null;
      },
      calls({ data }) {
        const row = db.prepare("SELECT sum(calls) AS calls FROM runs WHERE id = ?").get(data);
        return Number(row?.calls ?? 0);
      },
      chat: {
        resumable,
        async *handle({ data: { chat, answer, messages, trigger }, signal }, { user }) {
          check(chat, user);
          if (trigger === "resume-stream") throw new RequestError("not-found", "No such answer");
          begin(chat, answer, user);
          const [part] = messages.at(-1)!.parts;
          const prompt = part?.type === "text" ? part.text : "";
          yield { type: "start", messageId: answer };
          yield { type: "text-start", id: "text" };
          for await (const delta of model(prompt, "", signal)) {
            yield { type: "text-delta", id: "text", delta };
          }
          yield { type: "text-end", id: "text" };
          yield { type: "finish" };
        },
        async *resume({ data: { messages } }, { written, signal }) {
          const [part] = messages.at(-1)!.parts;
          const prompt = part?.type === "text" ? part.text : "";
          yield* continueText(written, (text) => model(prompt, text, signal));
        },
      },
      agent: {
        resumable,
        handle({ data, signal }, { user }) {
          check(data.threadId, user);
          for (const { interruptId } of data.resume ?? []) {
            const { changes } = db.prepare("INSERT OR IGNORE INTO answers VALUES (?, ?)")
              .run(data.threadId, interruptId);
            if (changes === 0) throw new RequestError("conflict", "This was answered before");
          }
          begin(data.threadId, data.runId, user);
          return agent(data, signal);
        },
        resume: ({ data }, { written, signal }) =>
          continueEvents(data, written, (text) => model(promptOf(data.messages), text, signal)),
      },
    },
    async fetch(request) {
      const user = request.headers.get("authorization")?.replace("Bearer ", "");
      if (user === undefined) return new Response(null, { status: 401 });
      const { pathname } = new URL(request.url);
      try {
        if (pathname === "/tanstack") return await tanstack(request, user);
        if (pathname === "/mcp") return await mcp.fetch(request, user);
      } catch (error) {
        if (error instanceof RequestError) return new Response(null, { status: 404 });
        throw error;
      }
      return new Response(null, { status: 404 });
    },
  });

  // Runs of TanStack AI that a killed server has left.
  const left = db.prepare("SELECT id AS runId, thread AS threadId, prompt FROM runs").all();
  for (const run of left as { runId: string; threadId: string; prompt: string }[]) {
    const rest = (written: readonly StreamChunk[], signal: AbortSignal) =>
      chunks(run, written, signal);
    continueChunks(streams, nameOf(run.threadId, run.runId), rest).catch(console.error);
  }
}
