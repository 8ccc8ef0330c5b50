/**
 * Tests resumable responses when a client leaves: the server aborts the model calls of guests, but
 * not of users.
 */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, type guest, MemoryBroker, RequestError } from "../mod.ts";
import { type TestServer, testServer } from "../testing/mod.ts";
import { passTime, turns } from "../testing/mod.ts";
import { contract, Model, type Shared } from "./responding.ts";
import { resumable } from "../streams/mod.ts";

const ADDRESS = "192.0.2.1";

const ELSEWHERE = "198.51.100.7";

const MINUTES = 60_000;

type Served = TestServer<string | typeof guest, Shared>;

/** A server on fake time, with a model that has produced its first word. */
class Site implements AsyncDisposable {
  readonly time = new FakeTime();
  readonly model = new Model();
  readonly server: Served;
  readonly #broker = new MemoryBroker();

  constructor(options: Parameters<Model["options"]>[0] = {}) {
    this.model.release(1);
    this.server = this.node(options);
  }

  node(options: Parameters<Model["options"]>[0] = {}): Served {
    return testServer(this.model.options({ broker: this.#broker, ...options }));
  }

  /** Connects as a guest, or as a user if a token is given. */
  connect(token?: string, { server = this.server, address = ADDRESS } = {}): Client<Shared> {
    return server.connect({ contract, address, ...(token !== undefined && { token }) });
  }

  /** Requests a response and disconnects halfway through it. */
  async askAndLeave(token?: string): Promise<string> {
    await using client = this.connect(token);
    const response = client.requestStream("chat:lobby", "hi");
    for await (const _word of response) break;
    return response.id;
  }

  /** Waits, then returns for each model call whether it was aborted. */
  async aborted(afterMs: number): Promise<boolean[]> {
    await passTime(this.time, afterMs);
    return this.model.signals.map(({ aborted }) => aborted);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#broker.close();
    this.time.restore();
  }
}

/** Reads a response until its client closes. Resolves at the first word, with the end of the reading. */
async function readOn(
  client: Client<Shared>,
  id: string,
): Promise<{ readonly over: Promise<void> }> {
  const begun = Promise.withResolvers<void>();
  const read = async () => {
    for await (const _word of client.requestStream("chat:lobby", "hi", { id })) begun.resolve();
  };
  const over = read().catch(begun.reject);
  await begun.promise;
  return { over };
}

/** Reads a finished response to its end; returns its words and its error. */
async function readEnd(client: Client<Shared>, id: string) {
  const words: string[] = [];
  const { failure } = await assertRejects(async () => {
    for await (const word of client.requestStream("chat:lobby", "hi", { id })) words.push(word);
  }, RequestError);
  return { words, failure };
}

Deno.test("serve() aborts the response of a guest 5 minutes after the guest has left", async () => {
  await using site = new Site();
  const id = await site.askAndLeave();
  const userId = await site.askAndLeave("ann");
  assertEquals(await site.aborted(5 * MINUTES - 1_000), [false, false]);
  assertEquals(await site.aborted(2_000), [true, false]);
  assertEquals(site.model.signals[0]!.reason.failure.code, "cancelled");
  await using again = site.connect();
  assertEquals(await readEnd(again, id), {
    words: ["word 0"],
    failure: { code: "cancelled", message: "The caller has left, and no one reads the response" },
  });
  // A user's response runs as long as its generator.
  assertEquals(await site.aborted(60 * MINUTES), [true, false]);
  site.model.release();
  await using ann = site.connect("ann");
  const words = await Array.fromAsync(ann.requestStream("chat:lobby", "hi", { id: userId }));
  assertEquals(words.length, 8);
});

Deno.test("serve() aborts the responses of guests 30 s after they left if half of the slots are in use", async () => {
  await using site = new Site({ features: [resumable({ maxRunning: 4 })] });
  await site.askAndLeave();
  assertEquals(await site.aborted(31_000), [false]);
  await using ann = site.connect("ann", { address: ELSEWHERE });
  // Uses the second of four slots.
  for await (const _word of ann.requestStream("chat:lobby", "hi")) break;
  assertEquals(await site.aborted(1), [true, false]);
  await site.askAndLeave();
  assertEquals(await site.aborted(29_000), [true, false, false]);
  assertEquals(await site.aborted(2_000), [true, false, true]);
});

Deno.test("serve() keeps the response of a guest while its address has a session, or someone reads it", async () => {
  await using site = new Site();
  const id = await site.askAndLeave();
  {
    await using colleague = site.connect("bob");
    await colleague.whenConnected();
    assertEquals(await site.aborted(10 * MINUTES), [false]);
  }
  assertEquals(await site.aborted(4 * MINUTES), [false]);
  {
    await using reader = site.connect(undefined, { address: ELSEWHERE });
    const { over } = await readOn(reader, id);
    assertEquals(await site.aborted(10 * MINUTES), [false]);
    await reader.close();
    await over;
  }
  assertEquals(await site.aborted(4 * MINUTES), [false]);
  assertEquals(await site.aborted(2 * MINUTES), [true]);
});

Deno.test("serve() keeps the response of a guest who reads it from another server", async () => {
  await using site = new Site();
  await using other = site.node();
  const id = await site.askAndLeave();
  const reader = site.connect(undefined, { server: other });
  const { over } = await readOn(reader, id);
  assertEquals(await site.aborted(20 * MINUTES), [false]);
  await reader.close();
  await over;
  assertEquals(await site.aborted(6 * MINUTES), [true]);
});

Deno.test("serve() aborts the response of a guest that another server took over, if no one reads it", async () => {
  await using site = new Site();
  await using other = site.node();
  await passTime(site.time, 1_000); // The servers discover each other.
  const id = await site.askAndLeave();
  const draining = site.server.drain({ withinMs: 1_000 });
  await passTime(site.time, 1_000);
  await draining;
  assertEquals(site.model.signals.map(({ aborted }) => aborted), [true, false]);
  assertEquals(await site.aborted(4 * MINUTES), [true, false]);
  assertEquals(await site.aborted(2 * MINUTES), [true, true]);
  await using again = site.connect(undefined, { server: other });
  assertEquals((await readEnd(again, id)).failure.code, "cancelled");
});

Deno.test("serve() frees the slots of an address that used its whole share and left", async () => {
  await using site = new Site({ features: [resumable({ maxRunning: 8 })] });
  for (let round = 0; round < 3; round++) {
    {
      await using guest = site.connect();
      for (let i = 0; i < 4; i++) { // The share of one address is half of the limit.
        const response = guest.requestStream("chat:lobby", "hi");
        for await (const _word of response) break;
      }
    }
    assertEquals((await site.aborted(31_000)).filter((isAborted) => !isAborted), []);
    await turns();
  }
});
