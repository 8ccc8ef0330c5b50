/** A reader that counts as up to date has everything that was acknowledged before it came. */
import { assertEquals } from "@std/assert";
import type { Client } from "../mod.ts";
import type { Server } from "../server.ts";
import { type TestServer, testServer, turns } from "../testing/mod.ts";
import { type FaultyBroker, FaultyStore, pass, replyAfter } from "./faulty_broker.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";
import { soon, until } from "./waiting.ts";

const ID = "a";

/** A node whose store is shared. */
interface Node {
  readonly broker: FaultyBroker;
  readonly server: TestServer;
}

function nodeOf(store: FaultyStore): Node {
  const broker = store.connect();
  const features = streamFeatures({ path: "/streams", authorize: () => true });
  return { broker, server: testServer({ broker, authorize: () => true, features }) };
}

/** Writes the numbers of a stream or of a state on one node. */
const WRITERS = {
  async stream(server: Server) {
    const writer = await streamsOf(server).create<number>(ID);
    return (number: number) => writer.append(number);
  },
  async state(server: Server) {
    const state = await statesOf(server).open(ID);
    return (number: number) => state.collection<number>("numbers").set("newest", number);
  },
} as const;

/** Reads the newest number, until the server says that the reader is up to date. */
const READERS = {
  async "client.durableStream() of a stream"({ server }: Node) {
    await using client = server.connect();
    return await lastOf<number>(client);
  },
  async "client.durableStream() of a state"({ server }: Node) {
    await using client = server.connect();
    return (await lastOf<readonly { readonly value: number }[]>(client)).at(-1)!.value;
  },
  async "client.state()"({ server }: Node) {
    await using client = server.connect();
    using state = await client.state(ID);
    await state.ready;
    return state.collection("numbers").get("newest");
  },
  async "server-sent events"({ server }: Node) {
    const { body } = await server.fetch(requestOf("sse"));
    let text = "";
    for await (const chunk of body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      if (text.includes('"upToDate":true')) break;
    }
    return JSON.parse(/^data:(\[.*)$/m.exec(text)![1]!).at(-1);
  },
  async "long polling"({ server }: Node) {
    const response = await server.fetch(requestOf("long-poll"));
    assertEquals(response.headers.get("stream-up-to-date"), "true");
    return (await response.json()).at(-1);
  },
  async "catching up over HTTP"({ server }: Node) {
    const response = await server.fetch(requestOf());
    assertEquals(response.headers.get("stream-up-to-date"), "true");
    return (await response.json()).at(-1);
  },
} as const;

async function lastOf<T>(client: Client): Promise<T> {
  const stream = client.durableStream<T>(ID);
  let last: T;
  for await (const record of stream) {
    last = record;
    if (stream.isUpToDate) break;
  }
  return last!;
}

function requestOf(live?: string): Request {
  return new Request(`http://host/streams/${ID}?offset=-1${live ? `&live=${live}` : ""}`);
}

for (const [name, read] of Object.entries(READERS)) {
  const of = name.includes("state") ? "state" : "stream";
  Deno.test(`${name} is up to date with all that was acknowledged before`, async () => {
    const store = new FaultyStore();
    const [near, far] = [nodeOf(store), nodeOf(store)];
    await using _near = near.server;
    await using _far = far.server;
    const write = await WRITERS[of](near.server);
    await write(1);
    // Readers of the far node follow the announcements, of which the next one is late.
    await using client = far.server.connect();
    const follower = client.durableStream(ID);
    const following = Array.fromAsync(follower);
    following.catch(() => {});
    await until(() => follower.isUpToDate);
    far.broker.onDelivery = () => {};
    // A reader has come a moment earlier, and the reply to its read is under way.
    const gate = Promise.withResolvers<void>();
    const isUnderWay = Promise.withResolvers<void>();
    const held = replyAfter(gate.promise);
    far.broker.make("logs.read", (run, call) => {
      if (call.args[1].maxRecords === 0) return pass(run, call);
      far.broker.make("logs.read", pass);
      isUnderWay.resolve();
      return held(run, call);
    });
    const earlier = read(far);
    await soon(isUnderWay.promise);
    await turns();
    assertEquals(await soon(Promise.resolve(write(2)).then(() => "acknowledged")), "acknowledged");
    const later = read(far);
    await turns();
    gate.resolve();
    assertEquals([await soon(earlier), await soon(later)], [1, 2]);
  });
}
