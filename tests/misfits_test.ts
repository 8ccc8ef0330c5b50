/**
 * Tests data that does not match a schema, for example from a peer with another version of the
 * contract. Wherever a schema validates data, mismatches are skipped, counted and reported, and
 * nothing closes.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  type Client,
  type ClientSubscribeOptions,
  defineContract,
  RequestError,
  type Session,
} from "../mod.ts";
import { type TestServer, testServer, turns } from "../testing/mod.ts";
import { soon } from "./waiting.ts";
import { streamFeatures, streamsOf } from "./stream_features.ts";
import { resumable } from "../streams/mod.ts";

/** More than the number of faults, or of failed handlers, after which a session closes. */
const MANY = 40;

const old = z.strictObject({ text: z.string() });
const contract = defineContract({
  toServer: { typing: old },
  toClient: { news: old, kept: old, direct: old },
  requests: {
    ask: { input: old, output: old },
    tell: { input: z.null(), stream: old },
    resume: { input: z.null(), stream: old, resume: true },
  },
  presence: { news: old },
});

type Page = Client<typeof contract>;

/** Data of the next version, and data that both versions accept. */
const MISFIT = { text: "hello", at: 1 };
const FIT = { text: "hello" };

/** A server of the next version, simulated without a contract. */
function newerServer(): TestServer {
  async function* items() {
    for (let i = 0; i < MANY; i++) yield MISFIT;
    yield FIT;
  }
  return testServer({
    authenticate: (): unknown => "ann",
    userOf: () => "ann",
    authorize: () => true,
    history: { kept: { size: 100 } },
    features: streamFeatures({ path: "/streams" }),
    requests: {
      ask: ({ data }) => data ? FIT : MISFIT,
      tell: items,
      resume: { resumable, handle: items },
    },
  });
}

/** Errors that the client's application received. */
interface Told {
  readonly onInvalid: (error: RequestError, data: unknown) => void;
  readonly errors: RequestError[];
}

/** Returns the session of the only client. */
function only(server: TestServer): Session {
  return server.manager.all()[0]!;
}

async function first<T>(items: AsyncIterable<T>): Promise<T> {
  for await (const item of items) return item;
  throw new Error("The loop ended without an item");
}

async function firstOf(
  client: Page,
  topic: "news" | "kept",
  options: ClientSubscribeOptions,
  publish: () => void,
): Promise<unknown> {
  const subscription = client.subscribe(topic, options);
  await subscription.ready;
  publish();
  const { data } = await first(subscription);
  return data;
}

/**
 * Places in a client where data is validated. Each sends many mismatches and one matching message,
 * and returns the matching message.
 */
const CLIENT_PLACES: Record<
  string,
  (client: Page, server: TestServer, told: Pick<Told, "onInvalid"> | undefined) => Promise<unknown>
> = {
  "a publication": (client, server, told) =>
    firstOf(client, "news", { ...told }, () => {
      for (let i = 0; i < MANY; i++) server.publish("news", MISFIT);
      server.publish("news", FIT);
    }),
  "a publication of bytes": (client, server, told) =>
    firstOf(client, "news", { ...told }, () => {
      for (let i = 0; i < MANY; i++) server.publish("news", new Uint8Array([1]));
      server.publish("news", FIT);
    }),
  "a publication with a position": (client, server, told) =>
    firstOf(client, "kept", { ...told }, () => {
      for (let i = 0; i < MANY; i++) server.publish("kept", MISFIT);
      server.publish("kept", FIT);
    }),
  "a publication from a history": (client, server, told) => {
    for (let i = 0; i < MANY; i++) server.publish("kept", MISFIT);
    server.publish("kept", FIT);
    return firstOf(client, "kept", { ...told, last: 100 }, () => {});
  },
  "a topic that is not in the contract": (client, server, told) =>
    firstOf(client, "other" as "news", { ...told }, () => {
      for (let i = 0; i < MANY; i++) server.publish("other", FIT);
      server.unsubscribe(only(server), "other", { code: "done" });
    }).catch((error) => error.failure.code === "done" ? FIT : error),
  "an item of a streaming response": (client, _server, told) =>
    first(client.requestStream("tell", null, { ...told })),
  "an item of a resumable response": (client, _server, told) =>
    first(client.requestStream("resume", null, { ...told })),
  "a record of a durable stream": async (client, server, told) => {
    await using writer = await streamsOf(server).create("log");
    for (let i = 0; i < MANY; i++) await writer.append(MISFIT);
    await writer.append(FIT);
    await writer.close();
    return await first(client.durableStream("log", { ...told, parse: old.parse }));
  },
};

for (const [place, receive] of Object.entries(CLIENT_PLACES)) {
  for (const way of ["onInvalid", "onError"] as const) {
    // Without `onInvalid`, an error thrown by `parse` ends the loop.
    if (way === "onError" && place.includes("durable stream")) continue;
    Deno.test(`Client skips ${place} that does not match the schema, and reports to ${way}`, async () => {
      await using server = newerServer();
      const errors: unknown[] = [];
      const told = (error: unknown) => void errors.push(error);
      await using client = server.connect({
        contract,
        ...(way === "onError" && { onError: told }),
      } as never) as unknown as Page;
      const session = await client.whenConnected();
      const options = way === "onInvalid" ? { onInvalid: told } : undefined;
      assertEquals(await soon(receive(client, server, options)), FIT);
      assertEquals(errors.length, MANY);
      for (const error of errors) {
        assert(error instanceof RequestError, String(error));
        assert(["invalid", "unknown-topic"].includes(error.failure.code));
      }
      assertEquals(session.stats.invalidMessages, MANY);
      assertEquals([session.isClosed, client.session], [false, session]);
    });
  }
}

Deno.test("Client skips an invalid message outside of its subscriptions, and reports to onError", async () => {
  await using server = newerServer();
  const errors: RequestError[] = [];
  const client = server.connect({
    contract,
    onError: (error: RequestError) => void errors.push(error),
  } as never) as unknown as Page;
  await using _ = client;
  const session = await client.whenConnected();
  const received = first(client);
  for (let i = 0; i < MANY; i++) only(server).send("direct", MISFIT);
  only(server).send("direct", FIT);
  assertEquals((await soon(received)).data, FIT);
  assertEquals({
    errors: errors.length,
    invalidMessages: session.stats.invalidMessages,
    isClosed: session.isClosed,
  }, { errors: MANY, invalidMessages: MANY, isClosed: false });
});

Deno.test("Client answers a request that does not match with invalid, and rejects on a reply that does not match", async () => {
  await using server = newerServer();
  await using client = server.connect({
    contract,
    requests: { ask: () => FIT, tell: () => ReadableStream.from([FIT]), resume: () => 0 },
  } as never) as unknown as Page;
  const session = await client.whenConnected();
  for (let i = 0; i < MANY; i++) {
    const { failure } = await assertRejects(
      () => only(server).request("ask", MISFIT),
      RequestError,
    );
    assertEquals(failure.code, i < 16 ? "invalid" : "too-many");
  }
  assertEquals(await only(server).request("ask", FIT), FIT);
  for (let i = 0; i < MANY; i++) {
    const { failure } = await assertRejects(
      () => client.request("ask", undefined as never),
      RequestError,
    );
    assertEquals([failure.code, failure.path], ["invalid", []]);
  }
  assertEquals(await client.request("ask", FIT), FIT);
  assertEquals([session.stats.invalidMessages, session.isClosed], [2 * MANY, false]);
});

Deno.test("Subscription.position moves past skipped messages", async () => {
  await using server = newerServer();
  await using client = server.connect({ contract, onError() {} } as never) as unknown as Page;
  const subscription = client.subscribe("kept", { last: 10 });
  await subscription.ready;
  const received = first(subscription);
  server.publish("kept", MISFIT);
  server.publish("kept", FIT);
  server.publish("kept", MISFIT);
  await soon(received);
  assertEquals(subscription.position?.offset, 2);
  const rest = Array.fromAsync(subscription);
  await turns();
  assertEquals(subscription.position?.offset, 3);
  await subscription.unsubscribe();
  assertEquals(await rest, []);
});

Deno.test("Subscription throws what onInvalid throws", async () => {
  await using server = newerServer();
  await using client = server.connect({ contract } as never) as unknown as Page;
  const throwing = (error: RequestError) => {
    throw error;
  };
  for (const onInvalid of [throwing, (error: RequestError) => Promise.reject(error)]) {
    await using strict = client.subscribe("news", { onInvalid });
    await strict.ready;
    server.publish("news", MISFIT);
    await assertRejects(() => soon(first(strict)), RequestError, "does not fit the contract");
  }
});

/**
 * Places in a server where data is validated. Each sends one mismatch from an older page; the
 * mismatch need not type-check.
 */
const SERVER_PLACES: Record<string, (client: Client, data: unknown) => Promise<unknown>> = {
  "a message": (client, data) => Promise.resolve(client.send("typing", data)),
  "a request": (client, data) => client.request("ask", data),
  "a publication": (client, data) => client.publish("news", data),
  "presence data": (client, data) => client.presence("news", data),
  "a topic that is not in the contract": (client, data) =>
    Promise.resolve(client.send("other", data)),
};

for (const [place, send] of Object.entries(SERVER_PLACES)) {
  for (const delivery of ["at-most-once", "at-least-once"] as const) {
    Deno.test(`Server does not close a page that sends ${place} of another version ten times a second, ${delivery}`, async () => {
      using time = new FakeTime();
      const ends: number[] = [];
      await using server = testServer({
        contract,
        authenticate: () => "ann",
        authorize: () => true,
        rooms: ["news"],
        rates: { perSession: { messages: { perSecond: 100 } }, maxRejections: 100 },
        onMessage: (message) => void (message.isRequest && message.reply(FIT as never)),
        onClose: (_session, { code }) => void ends.push(code),
      });
      const codes: string[] = [];
      await using client = server.connect({
        delivery,
        onMessageRejected: ({ failure }: RequestError) => void codes.push(failure.code),
      } as never) as unknown as Client;
      await client.subscribe("news").ready;
      for (let i = 0; i < 300; i++) {
        send(client, MISFIT).catch((error) =>
          void codes.push(error.failure?.code ?? String(error))
        );
        await time.tickAsync(100);
      }
      const isTopic = place.startsWith("a topic");
      assertEquals([...new Set(codes)], [isTopic ? "unknown-topic" : "invalid", "too-many"]);
      assertEquals(codes.indexOf("too-many"), 16);
      assertEquals([ends, client.isConnected], [[], true]);
      assertEquals(await client.request("ask", FIT), FIT);
    });
  }
}
