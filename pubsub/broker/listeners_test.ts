import { assertEquals } from "@std/assert";
import { Listeners, ListenerTable } from "./listeners.ts";

class Channel extends Listeners {
  readonly name: string;

  constructor(name: string) {
    super();
    this.name = name;
  }
}

/** A table that logs its events, and creates listeners that do too. */
function open() {
  const events: string[] = [];
  const table = new ListenerTable<Channel>({
    onFirst: ({ name }) => events.push(`first ${name}`),
    onLast: ({ name }) => events.push(`last ${name}`),
  });
  return {
    events,
    table,
    subscribe(topic: string, listener: string) {
      const subscription = table.subscribe(
        topic,
        ({ payload }) => events.push(`${listener} gets ${payload}`),
        {
          make: () => new Channel(topic),
          onInterrupted: () => events.push(`${listener} is interrupted`),
        },
      );
      subscription.ready.then(() => events.push(`${listener} is ready`));
      return subscription;
    },
  };
}

/** Lets promises settle, and takes the events. */
async function take(events: string[]): Promise<string[]> {
  for (let i = 0; i < 4; i++) await Promise.resolve();
  return events.splice(0);
}

Deno.test("ListenerTable subscribes a topic with the first listener, and leaves it with the last", async () => {
  const { events, table, subscribe } = open();
  const [first, second] = [subscribe("news", "a"), subscribe("news", "b")];
  subscribe("other", "c");
  assertEquals(await take(events), ["first news", "first other"]);
  table.get("news")!.live();
  assertEquals(await take(events), ["a is ready", "b is ready"]);
  table.get("news")!.deliver({ topic: "news", payload: "1" });
  await first[Symbol.asyncDispose]();
  await first[Symbol.asyncDispose]();
  table.get("news")!.deliver({ topic: "news", payload: "2" });
  assertEquals(await take(events), ["a gets 1", "b gets 1", "b gets 2"]);
  await second[Symbol.asyncDispose]();
  assertEquals([await take(events), table.get("news")], [["last news"], undefined]);
  subscribe("news", "d");
  assertEquals(await take(events), ["first news"]);
});

Deno.test("Listeners are ready once publications arrive, and are notified of an interruption only after that", async () => {
  const { events, table, subscribe } = open();
  subscribe("news", "early");
  const channel = table.get("news")!;
  channel.live();
  channel.live();
  assertEquals(await take(events), ["first news", "early is ready"]);
  channel.lose();
  subscribe("news", "late");
  channel.interrupt();
  assertEquals(await take(events), []);
  channel.live();
  assertEquals(await take(events), ["early is interrupted", "late is ready"]);
  channel.interrupt();
  assertEquals(await take(events), ["early is interrupted", "late is interrupted"]);
});

Deno.test("Listeners.deliver() reaches the listeners present at its start, except removed ones", () => {
  const listeners = new Listeners();
  const got: string[] = [];
  listeners.add(() => {
    got.push("first");
    listeners.remove(second);
    listeners.add(() => got.push("added"));
  });
  const second = listeners.add(() => got.push("removed"));
  listeners.deliver({ topic: "news", payload: "" });
  assertEquals(got, ["first"]);
});

Deno.test("ListenerTable.clear() ends all subscriptions, and their ready promises resolve", async () => {
  const { events, table, subscribe } = open();
  const subscription = subscribe("news", "a");
  const channel = table.get("news")!;
  table.clear();
  await subscription[Symbol.asyncDispose]();
  channel.live();
  channel.deliver({ topic: "news", payload: "1" });
  assertEquals([await take(events), table.all()], [["first news", "a is ready"], []]);
});
