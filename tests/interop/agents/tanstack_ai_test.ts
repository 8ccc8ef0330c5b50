/** Tests the durability of TanStack AI with its own client: faults, a second device, stops, rights. */
// Loaded first: otherwise Deno 2.9.6 looks for a second copy of the client, which it has not stored.
import "zod";
import { assertEquals, assertRejects } from "@std/assert";
import { MemoryBroker } from "../../../pubsub/mod.ts";
import { createServer } from "../../../mod.ts";
import { durableStreams } from "../../../streams/mod.ts";
import { continueRun, skeinDurability, stopRun } from "../../../examples/adapters/tanstack_ai.ts";
import { fetchServerSentEvents } from "npm:@tanstack/ai-client@0.33.2";
import type { StreamChunk } from "npm:@tanstack/ai@0.58.0";
import { until } from "../../waiting.ts";
import { AgentServer, counted } from "./process.ts";

/** A reader of a run. */
class Reader {
  text = "";
  readonly types: string[] = [];

  async read(chunks: AsyncIterable<StreamChunk>): Promise<void> {
    for await (const chunk of chunks) {
      this.types.push(chunk.type);
      if (chunk.type === "TEXT_MESSAGE_CONTENT") this.text += chunk.delta;
    }
  }
}

function connectionOf(server: AgentServer, user: string) {
  return fetchServerSentEvents(server.url("/tanstack"), {
    headers: { authorization: `Bearer ${user}` },
    // The client leaves the body of an error unread.
    fetchClient: async (input, init) => {
      const response = await fetch(input, init);
      if (!response.ok) await response.body?.cancel();
      return response;
    },
    // The server restarts within this time.
    reconnect: { maxAttempts: 100, delayMs: 100 },
  });
}

async function newThread(server: AgentServer, user: string): Promise<string> {
  await using client = server.connect(user);
  return await client.request("thread", null);
}

const count = (to: number) => [{
  id: "1",
  role: "user" as const,
  parts: [{ type: "text" as const, content: `Count to ${to}` }],
}];

const ENDS = ["RUN_FINISHED", "RUN_ERROR"];

Deno.test("skeinDurability() keeps a run through cuts, for a second device too", async () => {
  await using server = await AgentServer.start();
  const threadId = await newThread(server, "ann");
  const run = { threadId, runId: "run-1" };
  const [laptop, phone] = [new Reader(), new Reader()];
  const connection = connectionOf(server, "ann");
  const sent = laptop.read(connection.connect(count(120), {}, undefined, run));
  await until(() => laptop.text !== "");
  server.cable.cut();
  const joined = phone.read(connectionOf(server, "ann").joinRun!(run.runId));
  await until(() => phone.text !== "");
  server.cable.cut();
  await Promise.all([sent, joined]);
  assertEquals([laptop.text, phone.text], [counted(120), counted(120)]);
  assertEquals(phone.types, laptop.types);

  // A repeated request reads the run, and calls no model.
  const repeated = new Reader();
  await repeated.read(connection.connect(count(120), {}, undefined, run));
  assertEquals(repeated.text, counted(120));
  await using client = server.connect("ann");
  assertEquals(await client.request("calls", run.runId), 1);
});

Deno.test("skeinDurability() stops a run on a second device", async () => {
  await using server = await AgentServer.start();
  const threadId = await newThread(server, "ann");
  const run = { threadId, runId: "run-1" };
  const laptop = new Reader();
  const sent = laptop.read(connectionOf(server, "ann").connect(count(1e6), {}, undefined, run));
  await until(() => laptop.text !== "");
  const stop = (user: string) =>
    fetch(server.url("/tanstack?runId=run-1"), {
      method: "DELETE",
      headers: { authorization: `Bearer ${user}` },
    });
  const rejected = await stop("eve");
  await rejected.body?.cancel();
  assertEquals(rejected.status, 404);
  assertEquals(await (await stop("ann")).json(), true);
  await sent;
  assertEquals(laptop.types.filter((type) => ENDS.includes(type)), ["RUN_ERROR"]);
});

Deno.test("continueRun() continues a run after its server was killed", async () => {
  await using server = await AgentServer.start();
  const threadId = await newThread(server, "ann");
  const run = { threadId, runId: "run-1" };
  const [laptop, phone] = [new Reader(), new Reader()];
  const sent = laptop.read(connectionOf(server, "ann").connect(count(150), {}, undefined, run));
  await until(() => laptop.text !== "");
  await server.kill();
  await server.restart();
  await phone.read(connectionOf(server, "ann").joinRun!(run.runId));
  await sent;
  assertEquals([laptop.text, phone.text], [counted(150), counted(150)]);
  assertEquals(laptop.types.filter((type) => ENDS.includes(type)), ["RUN_FINISHED"]);
});

Deno.test("skeinDurability(): a guessed thread or run reads nothing, starts nothing and takes no name", async () => {
  await using server = await AgentServer.start();
  const threadId = await newThread(server, "ann");
  const run = { threadId, runId: "run-1" };
  const eve = connectionOf(server, "eve");
  const guess = () => Array.fromAsync(eve.connect(count(3), {}, undefined, run));
  await assertRejects(guess, Error, "404");
  // In a thread of her own, she may use the same id.
  const own = new Reader();
  const ownThread = await newThread(server, "eve");
  await own.read(eve.connect(count(3), {}, undefined, { threadId: ownThread, runId: "run-1" }));
  assertEquals(own.text, counted(3));

  const laptop = new Reader();
  await laptop.read(connectionOf(server, "ann").connect(count(30), {}, undefined, run));
  assertEquals(laptop.text, counted(30));
  await assertRejects(guess, Error, "404");
  const joined = new Reader();
  await joined.read(eve.joinRun!("run-1"));
  assertEquals(joined.text, counted(3));
  const bob = connectionOf(server, "bob");
  await assertRejects(() => Array.fromAsync(bob.joinRun!("run-1")), Error, "404");
});

Deno.test("skeinDurability() has the methods of StreamDurability", async () => {
  await using broker = new MemoryBroker();
  const streams = durableStreams();
  await using _server = createServer({ broker, features: [streams] });
  const requestOf = (query = "") => new Request(`http://localhost/${query}`);
  const durability = (query = "", id = "run/1/1") =>
    skeinDurability({ streams, id, request: requestOf(query) });
  const chunk = (delta: string) => ({ type: "TEXT_MESSAGE_CONTENT", delta }) as StreamChunk;

  const unknown = await durability("?offset=-1", "run/1/2");
  assertEquals(await unknown.snapshot(), []);
  await assertRejects(() => unknown.append([chunk("a")]), TypeError, "belongs to its writer");
  await assertRejects(
    () => Array.fromAsync(unknown.read("-1")),
    Error,
    "there is no durable stream",
  );

  const producer = await durability();
  assertEquals(producer.resumeFrom(), null);
  const offsets = await producer.append([chunk("a"), chunk("b"), chunk("c")]);
  assertEquals(new Set(offsets).size, 3);
  const stored = await producer.snapshot();
  assertEquals(stored.map(({ offset }) => offset), offsets);
  assertEquals((await durability()).resumeFrom(), "-1");
  const reader = await durability(`?offset=${offsets[0]}`);
  assertEquals(reader.resumeFrom(), offsets[0]);

  const stop = new AbortController();
  const read = Array.fromAsync(reader.read(offsets[0]!, stop.signal));
  stop.abort();
  assertEquals((await read).length <= 2, true);
  const rest = Array.fromAsync(reader.read(offsets[0]!), ({ chunk }) => chunk);
  await producer.close();
  assertEquals(await rest, [chunk("b"), chunk("c")]);
  assertEquals(await continueRun(streams, "run/1/1", async function* () {}), false);

  const stopped = await durability("", "run/1/3");
  assertEquals(await stopRun(streams, "run/1/3"), true);
  await until(() => stopped.abortController.signal.aborted);
  await stopped.close();
});
