/** Tests what a client keeps while its application reads nothing of what the server sends. */
import { assert, assertEquals } from "@std/assert";
import type { Client, Recovery, Session } from "../mod.ts";
import { type TestServer, testServer, turns } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { soon, until } from "./waiting.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";

/** More messages than any queue of a client holds. */
const COUNT = 5_000;

/** Messages that the server sends at once, below the bound of its send queue. */
const AT_ONCE = 100;

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

const server = () =>
  testServer<string>({
    authenticate: ({ token }) => token ?? "bob",
    authorize: () => true,
    rooms: ["room:{name}", "hall:{name}"],
    history: { "hall:{name}": { size: 10_000, ttlMs: 60_000 }, "short:{name}": { size: 100 } },
    features: streamFeatures({ path: "/streams" }),
    requests: {
      async *count() {
        for (let i = 0; i < COUNT; i++) yield i;
      },
    },
  });

interface Bench {
  readonly server: TestServer<string>;
  readonly client: Client;
  /** The client's session at the server. */
  readonly session: Session<string>;
}

interface Unread {
  /** Sends one of the messages. */
  readonly send: (i: number) => unknown;
  /** Reads late. */
  readonly read?: () => Promise<void>;
  /** The topics about which the console prints a line. */
  readonly told?: readonly string[];
}

/** Reads a number of messages from a loop. */
async function take(loop: AsyncIterable<{ readonly data: unknown }>, count: number) {
  const got: unknown[] = [];
  for await (const { data } of loop) if (got.push(data) === count) break;
  return got;
}

const CASES: Record<string, (bench: Bench) => Promise<Unread>> = {
  "a topic": async ({ server, client }) => {
    const told: Recovery[] = [];
    const news = client.subscribe("news", { onRecovery: (how) => void told.push(how) });
    await news.ready;
    return {
      send: (i) => server.publish("news", i),
      told: ["news"],
      read: async () => {
        // A loop receives the newest messages, after the loss.
        const dropped = { recovered: false, reason: "dropped" } as const;
        assertEquals(await take(news, 4_096), range(COUNT - 4_096, COUNT));
        assertEquals([told, news.recovery], [[dropped], dropped]);
        // Between two loops, the same applies.
        for (const i of range(0, COUNT)) {
          server.publish("news", i);
          if (i % AT_ONCE === 0) await turns();
        }
        await turns();
        assertEquals((await take(news, 1))[0], COUNT - 4_096);
        assertEquals(told, [dropped, dropped]);
      },
    };
  },
  "a topic without onRecovery": async ({ server, client }) => {
    const news = client.subscribe("news");
    await news.ready;
    return {
      send: (i) => server.publish("news", i),
      told: ["news"],
      read: async () => {
        assertEquals((await take(news, 4_096)).at(-1), COUNT - 1);
        assertEquals(news.recovery, { recovered: false, reason: "dropped" });
      },
    };
  },
  "a topic with large messages": async ({ server, client }) => {
    const news = client.subscribe("news");
    await news.ready;
    const large = "x".repeat(1_000);
    return {
      send: (i) => server.publish("news", `${i} ${large}`),
      told: ["news"],
      read: async () => {
        const got = await take(news, 1_000);
        assert(got.join("").length < 1_048_576);
      },
    };
  },
  "a history": async ({ server, client }) => {
    const told: Recovery[] = [];
    const hall = client.subscribe("hall:a", { onRecovery: (how) => void told.push(how) });
    await hall.ready;
    return {
      send: (i) => server.publish("hall:a", i),
      told: ["hall:a"],
      read: async () => {
        assertEquals(await take(hall, COUNT), range(0, COUNT));
        assertEquals(told, []);
      },
    };
  },
  "a history, with lost connections": async ({ server, client }) => {
    const hall = client.subscribe("hall:a");
    await hall.ready;
    const gone = (await client.whenConnected()).id;
    return {
      send: (i) => server.publish("hall:a", i),
      told: ["hall:a"],
      read: async () => {
        for (let i = 0; i < 3; i++) {
          const { session } = client;
          server.network.disconnect();
          await until(() => client.session !== session && hall.status.current === "subscribed");
          server.publish("hall:a", COUNT + i);
        }
        assertEquals(await take(hall, COUNT + 3), range(0, COUNT + 3));
        assert(client.session!.id !== gone);
      },
    };
  },
  "a history that keeps less": async ({ server, client }) => {
    const told: Recovery[] = [];
    const short = client.subscribe("short:a", { onRecovery: (how) => void told.push(how) });
    await short.ready;
    return {
      send: (i) => server.publish("short:a", i),
      told: ["short:a"],
      read: async () => {
        const reading = take(short, 4_097);
        await until(() => told.length > 0);
        server.publish("short:a", COUNT);
        assertEquals(await reading, [...range(0, 4_096), COUNT]);
        assertEquals(told.map(({ reason }) => reason), ["too-old"]);
      },
    };
  },
  "one of two subscriptions": async ({ server, client }) => {
    const unread = client.subscribe("hall:a");
    const read = client.subscribe("hall:a");
    await Promise.all([unread.ready, read.ready]);
    const reading = take(read, COUNT);
    return {
      send: (i) => server.publish("hall:a", i),
      told: ["hall:a"],
      read: async () => {
        assertEquals(await reading, range(0, COUNT));
        assertEquals(await take(unread, COUNT), range(0, COUNT));
      },
    };
  },
  "the members of a room": async ({ server, client }) => {
    const rooms: number[] = [];
    client.members("room:b").subscribe(({ size }) => void rooms.push(size));
    await until(() => rooms.at(-1) === 1);
    return { send: (i) => server.publish("room:b", i) };
  },
  "the records of a durable stream": async ({ server, client }) => {
    const writer = await streamsOf(server).create<number>("log");
    const log = client.durableStream<number>("log");
    return {
      send: (i) => writer.append(i),
      read: async () => {
        await writer.close();
        assertEquals(await Array.fromAsync(log), range(0, COUNT));
      },
    };
  },
  "the rows of a state": async ({ server, client }) => {
    const own = (await statesOf(server).open("board")).collection<number>("items");
    const state = await client.state("board");
    await state.ready;
    return {
      send: (i) => own.set(`row ${i % 10}`, i),
      read: async () => {
        const items = state.collection<number>("items");
        await until(() => items.current.get("row 9") === COUNT - 1);
        state[Symbol.dispose]();
      },
    };
  },
  "a streaming response": async ({ client }) => {
    const response = client.requestStream("count", undefined);
    await turns();
    return {
      send: () => {},
      read: async () => assertEquals(await Array.fromAsync(response), range(0, COUNT)),
    };
  },
  "messages of the session": ({ session }) =>
    Promise.resolve({ send: (i: number) => session.send("note", i), told: ["note"] }),
  "messages of the session after a loop": async ({ client, session }) => {
    const reading = take(client, 1);
    await turns();
    session.send("note", -1);
    await reading;
    return { send: (i) => session.send("note", i), told: ["note"] };
  },
  "streams": ({ session }) =>
    Promise.resolve({
      send: (i: number) => {
        if (i < 50) session.createUnidirectionalStream().catch(() => {});
      },
    }),
};

for (const [what, open] of Object.entries(CASES)) {
  Deno.test(`A client that reads nothing stays connected and in its rooms: ${what}`, async () => {
    using printed = captureConsole();
    await using host = server();
    await using client = host.connect({ backoff: { firstDelayMs: 1, maxDelayMs: 5 } });
    const room = client.subscribe("room:tea");
    await soon(room.ready);
    const { id } = await client.whenConnected();
    const session = host.manager.get(id) as Session<string>;
    const { send, read, told = [] } = await open({ server: host, client, session });
    for (let i = 0; i < COUNT; i++) {
      void send(i);
      if (i % AT_ONCE === AT_ONCE - 1) await turns();
    }
    await turns();
    assertEquals([client.session?.id, room.status.current], [id, "subscribed"]);
    assertEquals(host.rooms.members("room:tea").map(({ user }) => user), ["bob"]);
    await read && await soon(read!());
    assertEquals(host.rooms.members("room:tea").map(({ user }) => user), ["bob"]);
    const topics = printed.lines.map((line) =>
      /^Skein: Messages on "(.*)" have no/.exec(line)?.[1]
    );
    assertEquals(topics, [...told]);
  });
}
