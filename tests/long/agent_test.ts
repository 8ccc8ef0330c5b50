/** Tests the server of the agent: questions, notes, rights, rates, and runs that continue. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type AgentServer, serveAgents } from "../../examples/agent/agent.ts";
import { contract, type Step } from "../../examples/agent/contract.ts";
import { centsOf, think } from "../../examples/agent/model.ts";
import { newId } from "../../client.ts";
import { type Client, connect, RequestError } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import { until } from "../waiting.ts";

function start(broker: MemoryBroker, paceMs = 1): AgentServer {
  return serveAgents({ port: 0, onListen() {}, broker, paceMs, crash() {} });
}

/** A device of a user. */
class Device implements AsyncDisposable {
  readonly client: Client<typeof contract>;
  readonly user: string;
  readonly steps: Step[] = [];

  constructor(url: string | string[], user = "ann") {
    this.user = user;
    this.client = connect([url].flat().map((url) => `${url}session`), {
      contract,
      token: user,
      transports: ["websocket"],
      backoff: { maxDelayMs: 50 },
    });
  }

  desk() {
    return this.client.state(`agent:${this.user}`);
  }

  async run(id: string, { user = this.user, after }: { user?: string; after?: string } = {}) {
    const run = this.client.requestStream("run", { id, task: "Find a table", user }, {
      id,
      ...(after !== undefined && { after }),
    });
    for await (const step of run) this.steps.push(step);
  }

  text(): string {
    return this.steps.map((step) => step.kind === "word" ? step.text : `[${step.kind}] `).join("");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
  }
}

Deno.test("serveAgents() asks once, on any device, and books once", async () => {
  await using broker = new MemoryBroker();
  await using server = start(broker);
  await using laptop = new Device(server.url);
  await using phone = new Device(server.url);
  using desk = await phone.desk();
  await desk.ready;
  const id = newId();
  const run = laptop.run(id);
  const questions = desk.collection("questions");
  await until(() => questions.size === 1);
  const [[key, question]] = [...questions] as [[string, { run: string; text: string }]];
  assertEquals(question.text, "Book Luna, Friday at 19:00, deposit of 40 €?");
  assertEquals(desk.collection("runs").get(id)?.state, "asking");
  // The text of a question is the server's, and only the first answer counts.
  await questions.set(key, { ...question, text: "Free?", answer: "yes" });
  await assertRejects(() => questions.set(key, { ...question, answer: "no" }), RequestError);
  await assertRejects(() => questions.delete(key), RequestError);
  await assertRejects(() => questions.set("other", question), RequestError);
  await assertRejects(() => desk.collection("bookings").set("1", "mine"), RequestError);
  await run;
  assertEquals(questions.get(key), { ...question, answer: "yes" });
  await until(() => desk.collection("runs").get(id)?.state === "done");
  assertEquals(desk.collection("bookings").size, 1);
  const { cents } = desk.collection("runs").get(id)!;
  assertEquals(cents, centsOf("Find a table", laptop.steps));
  assert(cents > 0.5 && cents < 5, `${cents}`);
});

Deno.test("serveAgents() takes notes, and withdraws a question", async () => {
  await using broker = new MemoryBroker();
  await using server = start(broker);
  await using laptop = new Device(server.url);
  using desk = await laptop.desk();
  await desk.ready;
  const id = newId();
  const run = laptop.run(id);
  await until(() => desk.collection("questions").size === 1);
  const notes = desk.collection("notes");
  await notes.insert("note-1", { run: id, text: "vegetarian" });
  await assertRejects(() => notes.delete("note-1"), RequestError);
  await until(() =>
    [...desk.collection("questions").values()].some(({ text }) => /Sole/.test(text))
  );
  const [key, question] = [...desk.collection("questions")].find(([, { text }]) =>
    /Sole/.test(text)
  )!;
  await desk.collection("questions").set(key, { ...question, answer: "no" });
  await run;
  assert(laptop.text().includes("[note] Understood: vegetarian."));
  assert(laptop.text().endsWith("Then I book nothing. The task ends here."));
  assertEquals(desk.collection("bookings").size, 0);
});

Deno.test("serveAgents() continues a run, and its question, on another server", async () => {
  await using broker = new MemoryBroker();
  const first = start(broker, 5);
  await using second = start(broker);
  await using laptop = new Device([first.url, second.url]);
  using desk = await laptop.desk();
  await desk.ready;
  const run = laptop.run(newId());
  await until(() => laptop.steps.length > 5);
  await first.close();
  await until(() => desk.collection("questions").size === 1);
  const [[key, question]] = [...desk.collection("questions")] as [[string, {
    run: string;
    text: string;
  }]];
  await desk.collection("questions").set(key, { ...question, answer: "yes" });
  await run;
  const said = (steps: readonly Step[]) =>
    think("Find a table", steps.slice(0, steps.findLastIndex(({ kind }) => kind !== "word") + 1))
      .say;
  assert(laptop.text().endsWith(said(laptop.steps)));
  assertEquals(laptop.text().match(/First I look/g)?.length, 1);
});

Deno.test("serveAgents() keeps users apart, and limits how many runs one starts", async () => {
  await using broker = new MemoryBroker();
  await using server = start(broker, 1_000);
  await using ann = new Device(server.url);
  await using eve = new Device(server.url, "eve");
  const id = newId();
  const stopped = assertRejects(() => ann.run(id), RequestError);
  await until(() => ann.steps.length > 0);
  await assertRejects(() => eve.run(newId(), { user: "ann" }), RequestError, "another user's");
  await assertRejects(() => eve.run(id, { after: "-1" }), RequestError);
  assertEquals(eve.steps, []);
  using desk = await eve.client.state("agent:ann");
  await assertRejects(() => desk.ready, RequestError);
  await eve.client.requestStream("run", { id, task: "x", user: "eve" }, { id, after: "-1" })
    .cancel()
    ?.catch(() => {});

  const started = [newId(), newId(), newId()];
  const leaving = new AbortController();
  const { signal } = leaving;
  const runs = started.map((id) =>
    Array.fromAsync(
      ann.client.requestStream("run", { id, task: "Find", user: "ann" }, { id, signal }),
    ).catch(() => {})
  );
  using own = await ann.desk();
  await own.ready;
  await until(() => own.collection("runs").size >= 3);
  leaving.abort();
  await Promise.all(runs);
  for (const key of own.collection("runs").keys()) {
    await ann.client.requestStream("run", { id: key, task: "Find", user: "ann" }, { id: key })
      .cancel();
  }
  await stopped;
  await until(() => own.collection("runs").get(id)?.state === "stopped");
  assertEquals(own.collection("runs").size, 3, "the fourth run waited for its turn");
});
