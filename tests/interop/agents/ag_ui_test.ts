/** Tests the AG-UI adapter with `@ag-ui/client`: faults, a second device, stops, interrupts, rights. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type BaseEvent, EventType, type Message } from "npm:@ag-ui/client@^1";
import { SkeinAgent } from "../../../examples/adapters/ag_ui.ts";
import { newId, RequestError } from "../../../client.ts";
import { until } from "../../waiting.ts";
import { AgentServer, counted } from "./process.ts";

/** A device of a user, with an agent. */
class Device implements AsyncDisposable {
  readonly client;
  readonly agent: SkeinAgent;
  /** All events that the agent has received. */
  readonly events: BaseEvent[] = [];
  /** Errors of runs. */
  readonly failures: Error[] = [];

  constructor(server: AgentServer, user: string, threadId: string) {
    const client = this.client = server.connect(user);
    this.agent = new SkeinAgent({
      threadId,
      ask: (input, options) => client.requestStream("agent", input, options),
      newest: (thread) => client.request("newest", thread, { retry: true }),
    });
    this.agent.subscribe({
      onEvent: ({ event }) => void this.events.push(event),
      onRunFailed: ({ error }) => void this.failures.push(error),
    });
  }

  say(content: string): void {
    this.agent.addMessage({ id: newId(), role: "user", content });
  }

  get text(): string {
    return textOf(this.agent.messages);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

function textOf(messages: readonly Message[]): string {
  const last = messages.at(-1);
  return last?.role === "assistant" ? last.content ?? "" : "";
}

async function newThread(server: AgentServer, user: string): Promise<string> {
  await using client = server.connect(user);
  return await client.request("thread", null);
}

Deno.test("SkeinAgent streams a run through cuts, to a second device too", async () => {
  await using server = await AgentServer.start();
  const thread = await newThread(server, "ann");
  await using laptop = new Device(server, "ann", thread);
  await using phone = new Device(server, "ann", thread);
  laptop.say("Count to 60");
  const runId = newId();
  const run = laptop.agent.runAgent({ runId });
  await until(() => laptop.text.includes("10 "));
  server.cable.cut();
  const joined = phone.agent.connectAgent();
  await until(() => laptop.text.includes("30 ") && phone.text !== "");
  server.cable.cut();
  await Promise.all([run, joined]);
  assertEquals(laptop.text, counted(60));
  assertEquals(phone.text, counted(60));
  assertEquals(phone.agent.messages, laptop.agent.messages);
  assertEquals(phone.events, laptop.events);
  assertEquals(await laptop.client.request("calls", runId), 1);
});

Deno.test("SkeinAgent continues a run after its server was killed", async () => {
  await using server = await AgentServer.start();
  const thread = await newThread(server, "ann");
  await using laptop = new Device(server, "ann", thread);
  await using phone = new Device(server, "ann", thread);
  laptop.say("Count to 80");
  const run = laptop.agent.runAgent();
  await until(() => laptop.text.includes("20 "));
  await server.kill();
  await server.restart();
  const joined = phone.agent.connectAgent();
  await Promise.all([run, joined]);
  assertEquals(laptop.text, counted(80));
  assertEquals(phone.events, laptop.events);
  assertEquals(
    laptop.events.filter(({ type }) => type === EventType.TEXT_MESSAGE_CONTENT).length,
    80,
  );
  assertEquals(laptop.failures, []);
});

Deno.test("SkeinAgent.abortRun() stops the run for all readers", async () => {
  await using server = await AgentServer.start();
  const thread = await newThread(server, "ann");
  await using laptop = new Device(server, "ann", thread);
  await using phone = new Device(server, "ann", thread);
  laptop.say("Count to 1000000");
  const run = laptop.agent.runAgent();
  await until(() => laptop.text.includes("5 "));
  const copy = laptop.agent.clone();
  assertEquals(copy.messages, laptop.agent.messages);
  copy.abortRun(); // The copy reads no run.
  await laptop.agent.detachActiveRun(); // Leaves the run, which goes on.
  await run;
  const joined = phone.agent.connectAgent();
  const again = laptop.agent.connectAgent();
  await until(() => phone.text.includes("10 ") && laptop.text.includes("10 "));
  phone.agent.abortRun();
  await Promise.all([joined, again]);
  for (const { failures, agent } of [phone, laptop]) {
    assertEquals(failures.map(({ name, message }) => ({ name, message })), [
      { name: "AbortError", message: "Stopped by the reader" },
    ]);
    assertEquals(agent.isRunning, false);
  }
});

Deno.test("SkeinAgent keeps interrupts through a restart, and one device answers", async () => {
  await using server = await AgentServer.start();
  const thread = await newThread(server, "ann");
  await using laptop = new Device(server, "ann", thread);
  laptop.say("ask, then count to 5");
  await laptop.agent.runAgent();
  const [interrupt] = laptop.agent.pendingInterrupts;
  assertEquals(interrupt?.message, "May I?");
  await server.kill();
  await server.restart();
  await using phone = new Device(server, "ann", thread);
  await phone.agent.connectAgent();
  assertEquals(phone.agent.pendingInterrupts, laptop.agent.pendingInterrupts);
  const resume = [{ interruptId: interrupt!.id, status: "resolved" as const, payload: true }];
  await phone.agent.runAgent({ resume });
  assertEquals([phone.text, phone.agent.pendingInterrupts], [counted(5), []]);
  await assertRejects(() => laptop.agent.runAgent({ resume }), RequestError, "answered before");
});

Deno.test("SkeinAgent: a guessed thread or run reads nothing, starts nothing and takes no name", async () => {
  await using server = await AgentServer.start();
  const thread = await newThread(server, "ann");
  await using laptop = new Device(server, "ann", thread);
  await using eve = new Device(server, "eve", thread);
  await using own = new Device(server, "eve", await newThread(server, "eve"));
  const runId = newId();
  // Before ann's run: her thread, and its id in a thread of eve's own.
  await assertRejects(() => eve.agent.runAgent(), RequestError, "no such thread");
  await assertRejects(() => eve.agent.connectAgent(), RequestError, "no such thread");
  own.say("Count to 2");
  await own.agent.runAgent({ runId });
  assertEquals(own.text, counted(2));

  laptop.say("Count to 30");
  const run = laptop.agent.runAgent({ runId });
  await until(() => laptop.text.includes("5 "));
  await assertRejects(() => eve.agent.connectAgent(), RequestError, "no such thread");
  const input = { threadId: thread, runId, messages: [], tools: [], context: [], state: {} };
  const read = eve.client.requestStream("agent", { ...input, forwardedProps: {} }, {
    id: runId,
    after: "-1",
  });
  const events = await Array.fromAsync(read);
  assert(!JSON.stringify(events).includes(thread), "eve reads her own run");
  await eve.client.requestStream("agent", { ...input, forwardedProps: {} }, { id: runId }).cancel();
  await run;
  assertEquals(laptop.text, counted(30));
});
