import { durableStreams, liveState, resumable } from "../../streams/mod.ts";
// run_tests: alone, because these tests have a document.
/**
 * Tests the React hooks in a happy-dom document, with servers over memory and loopback.
 * `tests/npm/react_18_test.ts` runs these tests with React 18 in a separate process, because a
 * process can load only one version.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertStrictEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  createElement as h,
  Fragment,
  type ReactElement,
  type ReactNode,
  StrictMode,
  useEffect,
  version,
} from "react";
import { z } from "zod";
import { RequestError } from "../../errors.ts";
import { keptOn } from "../store/states/kept_fixture.ts";
import { TestDisk } from "../store/test_disk_fixture.ts";
import { defineContract } from "../../session/contract.ts";
import { defineMutations } from "../../session/mutations/mod.ts";
import { testServer, type TestServerOptions } from "../../testing/test_server.ts";
import { passTime, turns, until } from "../../tests/waiting.ts";
import { listen } from "../../tests/servers.ts";
import {
  type CollectionState,
  createHooks,
  type LiveState,
  type RequestStreamState,
  SkeinProvider,
  type TopicState,
  useCollection,
  useDurableStream,
  useLiveState,
  usePresence,
  useRequest,
  useRequestStream,
  useSkein,
  useStatus,
  useTopic,
} from "./react.ts";
import { statesOf, streamFeatures } from "../../tests/stream_features.ts";

// Without its types, which change the types of the globals.
const happyDom = "npm:happy-dom@20.14.6";
const { Window } = await import(happyDom);
const window = new Window({ url: "http://localhost/" });
const { document } = window;
// React DOM reads these globals when it loads.
Object.assign(globalThis, { window, document, HTMLIFrameElement: window.HTMLIFrameElement });
const { createRoot, hydrateRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");

/** The page of one test. Warnings and errors from React fail the test. */
class Page implements Disposable {
  readonly container = document.createElement("div");
  readonly faults: string[] = [];
  readonly #error = console.error;
  #root: ReturnType<typeof createRoot> | undefined;

  constructor() {
    console.error = (...args: unknown[]) => void this.faults.push(args.join(" "));
    document.body.append(this.container);
  }

  get text(): string {
    return this.container.textContent ?? "";
  }

  show(element: ReactNode): void {
    this.#root ??= createRoot(this.container);
    this.#root.render(element);
  }

  hydrate(element: ReactNode): void {
    this.container.innerHTML = renderToString(element);
    this.#root = hydrateRoot(this.container, element, {
      onRecoverableError: (error: unknown) => void this.faults.push(String(error)),
    });
  }

  async has(text: string): Promise<void> {
    await until(() => this.text === text).catch((error) => {
      throw new Error(`The page has "${this.text}" in place of "${text}"`, { cause: error });
    });
  }

  click(selector = "button"): void {
    this.container.querySelector(selector)!.dispatchEvent(
      new window.MouseEvent("click", { bubbles: true }),
    );
  }

  hide(): void {
    this.#root?.unmount();
    this.#root = undefined;
  }

  [Symbol.dispose](): void {
    this.hide();
    this.container.remove();
    console.error = this.#error;
    assertEquals(this.faults, []);
  }
}

/** The options of a server that has rooms and whose users choose their names. */
const ROOMS: TestServerOptions<string | null> = {
  authenticate: ({ token }) => token ?? null,
  authorize: () => true,
  rooms: ["room:{name}"],
  presence: { graceMs: 0 },
  tokens: { inMessage: true },
};

/** A component that shows a function's result, and counts its renders. */
function probe<P extends object>(show: (props: P) => string): ((props: P) => string) & {
  renders: number;
} {
  const component = Object.assign((props: P) => {
    component.renders++;
    return show(props);
  }, { renders: 0 });
  return component;
}

Deno.test("useTopic() shows messages and the status, and publishes", async () => {
  await using server = testServer({ authorize: () => true });
  await using client = server.connect();
  using page = new Page();
  const Chat = () => {
    const { messages, last, status, publish } = useTopic("chat");
    const texts = messages.map(({ key, data }) => `${key}${data}`).join();
    return h("button", { onClick: () => void publish("c") }, `${status} ${texts} ${last?.data}`);
  };
  page.show(h(SkeinProvider, { client }, h(Chat)));
  await page.has("pending  undefined");
  await page.has("subscribed  undefined");
  server.publish("chat", "a");
  server.publish("chat", "b");
  await page.has("subscribed 0a,1b b");
  page.click();
  await page.has("subscribed 0a,1b,2c c");
});

/** Every hook, and whatever each of them shows. */
const Everything = () => {
  const status = useStatus();
  const client = useSkein();
  const topic = useTopic("chat");
  const room = usePresence("room:a", { data: 1 });
  const reply = useRequest("double");
  const answer = useRequestStream("count");
  const stream = useDurableStream("log");
  const cards = useCollection("board", "cards");
  const board = useLiveState("board");
  useEffect(() => {
    void topic.publish("hello");
    void room.set(2);
    void reply.request(1).catch(() => {});
    void answer.request(1);
    void stream.cancel().catch(() => {});
    void cards.set("a", 1).catch(() => {});
    void board.transaction(() => {}).catch(() => {});
    client.retryNow();
  }, []);
  const errors = [topic, room, reply, answer, stream, cards, board].map(({ error }) => error?.name);
  return `${status.name} ${new Set(errors).size === 1 ? errors[0] : errors.join()}`;
};

Deno.test("hooks return the error of a runtime that lacks a global, and throw nothing", async () => {
  // Without the others, React does not work either.
  const missing: [owner: object, name: string][] = [
    [Promise, "withResolvers"],
    [AbortSignal.prototype, "throwIfAborted"],
    [globalThis, "URL"],
    [globalThis, "TextDecoder"],
    [globalThis, "TextEncoder"],
    [Object.getPrototypeOf(crypto), "getRandomValues"],
  ];
  for (const [owner, name] of missing) {
    const known = Object.getOwnPropertyDescriptor(owner, name)!;
    using page = new Page();
    Object.defineProperty(owner, name, { value: undefined, configurable: true });
    try {
      page.show(h(StrictMode, null, h(SkeinProvider, { url: "/session" }, h(Everything))));
      await page.has("closed UnsupportedError");
      page.hide();
    } finally {
      Object.defineProperty(owner, name, known);
    }
  }
});

Deno.test("a provider prints the error of a runtime that lacks a global if no component shows it", async () => {
  const { withResolvers } = Promise;
  using page = new Page();
  Promise.withResolvers = undefined as never;
  try {
    const Chat = () => String(useTopic("chat").status);
    // StrictMode mounts twice.
    page.show(h(StrictMode, null, h(SkeinProvider, { url: "/session" }, h(Chat))));
    await page.has("ended");
  } finally {
    Promise.withResolvers = withResolvers;
  }
  const line = "UnsupportedError: Cannot connect: this runtime has no Promise.withResolvers; " +
    "use Node 22 or newer";
  assertEquals(page.faults.splice(0), [line]);
});

Deno.test("hooks keep their room through more messages than a queue holds", async () => {
  const streams = durableStreams({ path: "/streams" });
  await using server = testServer({
    authenticate: () => "ann",
    authorize: () => true,
    rooms: ["room"],
    history: { log: { size: 10_000 } },
    features: [streams],
  });
  await using writer = await streams.create<number>("a");
  await using client = server.connect();
  using page = new Page();
  const Chat = () => {
    const { last, status } = useTopic("room");
    const { users } = usePresence("room");
    const log = useTopic("log");
    const stream = useDurableStream<number>("a");
    const newest = [last, log.last].map((one) => one?.data).join(" ");
    return h(Fragment, null, `${status} ${users.length} ${newest} ${stream.items.length}`);
  };
  page.show(h(SkeinProvider, { client }, h(Chat)));
  await page.has("subscribed 1   0");
  for (let i = 1; i <= 5_000; i++) {
    server.publish("room", i);
    server.publish("log", i);
    void writer.append(i);
    if (i % 100 === 0) await turns();
  }
  await page.has("subscribed 1 5000 5000 5000");
});

Deno.test("hooks of a contract skip data that does not fit, and the client calls onError", async () => {
  const contract = defineContract({
    toClient: { chat: z.string() },
    requests: { count: { input: z.number(), stream: z.string() } },
  });
  const hooks = createHooks(contract);
  await using server = testServer({
    authorize: () => true,
    requests: {
      async *count() {
        yield 1;
        yield "one";
      },
    },
  });
  const told: unknown[] = [];
  const onError = (error: unknown) => void told.push(error);
  await using client = server.connect({ contract, onError } as never);
  using page = new Page();
  const Chat = () => {
    const { messages, status, error } = hooks.useTopic("chat");
    const { items, request, isDone, error: failure } = hooks.useRequestStream("count");
    useEffect(() => request(1), [request]);
    return [status, messages.map(({ data }) => data), items, isDone, error ?? failure].join();
  };
  page.show(h(hooks.SkeinProvider, { client: client as never }, h(Chat)));
  await page.has("subscribed,,one,true,");
  for (let i = 0; i < 20; i++) server.publish("chat", i);
  server.publish("chat", "hi");
  await page.has("subscribed,hi,one,true,");
  assertEquals([told.length, client.isConnected], [21, true]);
});

Deno.test(
  "useTopic() keeps the newest messages, the first ones from the history",
  async () => {
    await using server = testServer({ authorize: () => true, history: { "chat": {} } });
    for (let i = 0; i < 10; i++) await server.topics.append("chat", i);
    await using client = server.connect();
    using page = new Page();
    const Chat = () =>
      useTopic("chat", { last: 5, keep: 3 }).messages.map(({ data }) => data).join();
    page.show(h(SkeinProvider, { client }, h(Chat)));
    await page.has("7,8,9");
    for (let i = 10; i < 20; i++) server.publish("chat", i);
    await page.has("17,18,19");
  },
);

Deno.test(
  "components with one topic share a subscription, even across a route change",
  async () => {
    using time = new FakeTime();
    let asked = 0;
    await using server = testServer({ authorize: () => ++asked > 0 });
    await using client = server.connect();
    using page = new Page();
    const Topic = ({ of: topic }: { of: string | null }) => {
      const { messages } = useTopic(topic);
      return h("p", null, messages.map(({ data }) => data).join());
    };
    const show = (...topics: (string | null)[]) => {
      const all = topics.map((topic, i) => h(Topic, { key: i, of: topic }));
      page.show(h(SkeinProvider, { client }, h(Fragment, null, ...all)));
    };
    const has = async (text: string) => {
      for (let i = 0; i < 50 && page.text !== text; i++) await passTime(time, 20);
      assertEquals(page.text, text);
    };
    show("a", "a");
    await passTime(time, 20);
    server.publish("a", "1");
    await has("11");
    assertEquals([asked, server.topics.subscribers("a").length], [1, 1]);

    show("a", "b"); // One component changes its topic, and shows no message of the old one.
    await has("1");
    server.publish("b", "2");
    await has("12");
    show(null); // Both topics lose their last component, but only briefly.
    await has("");
    await passTime(time, 4_000);
    server.publish("a", "3");
    show("a");
    await has("1,3");
    assertEquals(asked, 2);

    await passTime(time, 6_000);
    assertEquals(server.topics.subscribers("b").length, 0);
    show();
    await passTime(time, 6_000);
    assertEquals(server.topics.subscribers("a").length, 0);
  },
);

Deno.test("a provider closes all topics of an application's client when it unmounts", async () => {
  await using server = testServer({ authorize: () => true });
  await using client = server.connect();
  using page = new Page();
  const Topic = () => useTopic("a").status;
  page.show(h(SkeinProvider, { client }, h(Topic)));
  await page.has("subscribed");
  page.hide();
  await until(() => server.topics.subscribers("a").length === 0);
  assert(client.isConnected);
});

Deno.test("useTopic() lists publications that wait for the server, until they arrive or are rejected", async () => {
  const { promise: isOpen, resolve: open } = Promise.withResolvers<void>();
  const answers: (() => void)[] = [];
  await using server = testServer({
    authorize: async (_session, topic, action) => {
      if (action === "publish") await new Promise<void>((answer) => answers.push(answer));
      return topic === "chat";
    },
  });
  await using client = server.connect({ connectAfter: isOpen, delivery: "at-least-once" });
  using page = new Page();
  const states = new Set<string>();
  let publish!: TopicState["publish"];
  const Lines = ({ topic, keep }: { topic: string; keep: number }) => {
    const state = useTopic(topic, { keep });
    if (keep === 10) publish = state.publish;
    const texts = [...state.messages, ...state.pending].map(({ key, data }) => `${key}${data}`);
    const text = `${texts.join()} ${state.error instanceof RequestError}`;
    states.add(text);
    return `[${text}]`;
  };
  const show = (topic: string) =>
    page.show(
      h(
        SkeinProvider,
        { client },
        h(Fragment, null, h(Lines, { topic, keep: 10 }), h(Lines, { topic, keep: 5 })),
      ),
    );
  show("chat");
  await page.has("[ false][ false]");
  for (const text of ["a", "a", "b"]) publish(text).catch(() => {});
  await page.has("[-1a,-2a,-3b false][-1a,-2a,-3b false]"); // Offline, in order, in both lists.
  open();
  await until(() => answers.length === 1);
  answers.shift()!();
  await page.has("[0a,-2a,-3b false][0a,-2a,-3b false]");
  await until(() => answers.length === 1);
  answers.shift()!();
  await page.has("[0a,1a,-3b false][0a,1a,-3b false]");
  await until(() => answers.length === 1);
  answers.shift()!();
  await page.has("[0a,1a,2b false][0a,1a,2b false]");
  // No intermediate state shows a line twice or not at all.
  for (const state of states) assert(/^(0a,|-1a,)(1a,|-2a,)(2b|-3b) |^ /.test(state), state);

  show("secret");
  await page.has("[ true][ true]");
  void publish("c");
  await page.has("[-4c true][-4c true]");
  await until(() => answers.length === 1);
  answers.shift()!();
  await page.has("[ true][ true]");
});

Deno.test("useTopic() shows errors and gaps instead of throwing", async () => {
  await using server = testServer({
    authorize: (_session, topic, action) => topic === "open" && action === "subscribe",
  });
  await using client = server.connect({ backoff: { firstDelayMs: 1 } });
  using page = new Page();
  const Topic = ({ of: topic }: { of: string }) => {
    const { messages, status, gap, error, publish } = useTopic(topic);
    const all = messages.map(({ key, data }) => (gap?.key === key ? `${gap.reason}:` : "") + data);
    const text = `${status} ${all} ${error?.message ?? ""}`;
    return h("button", { onClick: () => void publish("x") }, text);
  };
  const show = (topic: string) => page.show(h(SkeinProvider, { client }, h(Topic, { of: topic })));
  show("closed");
  await page.has('ended  This session may not subscribe to "closed"');
  show("");
  await until(() => /^ended +Cannot subscribe/.test(page.text));
  show("open");
  await page.has("subscribed  ");
  page.click();
  await page.has('subscribed  This session may not publish on "open"');
  show("closed");
  await page.has('ended  This session may not subscribe to "closed"');

  show("open");
  await until(() => page.text.startsWith("subscribed"));
  server.publish("open", "a");
  await until(() => page.text.startsWith("subscribed a"));
  server.network.down();
  await until(() => page.text.startsWith("lost a"));
  server.network.up();
  await until(() => page.text.startsWith("subscribed a"));
  server.publish("open", "b");
  await until(() => page.text.startsWith("subscribed a,no-history:b"));
});

Deno.test(
  "SkeinProvider opens one connection in StrictMode, and closes it when it unmounts",
  async () => {
    const opened: string[] = [];
    const said: unknown[] = [];
    await using server = listen({
      authorize: () => true,
      onOpen: (session) => void opened.push(session.id),
      onMessage: ({ data }) => void said.push(data),
    });
    using page = new Page();
    const App = () => {
      const client = useSkein();
      const { name } = useStatus();
      const { messages, status } = useTopic("news");
      // Children run their effects before the provider.
      useEffect(() => client.send("say", "hello"), [client]);
      return `${name} ${status} ${messages.map(({ data }) => data)}`;
    };
    const element = h(StrictMode, null, h(SkeinProvider, { url: server.url }, h(App)));
    page.show(element);
    await page.has("connected subscribed ");
    server.publish("news", "x");
    await page.has("connected subscribed x");
    assertEquals({ opened: opened.length, sessions: server.manager.count, said }, {
      opened: 1,
      sessions: 1,
      said: ["hello", "hello"],
    });
    page.hide();
    await until(() => server.manager.count === 0);
    assertEquals(opened.length, 1);
  },
);

Deno.test("unmounting while connecting leaves no connection", async () => {
  const opened: string[] = [];
  await using server = listen({ onOpen: (session) => void opened.push(session.id) });
  const App = () => useTopic("news").status;
  for (const waits of [() => Promise.resolve(), turns]) {
    using page = new Page();
    page.show(h(StrictMode, null, h(SkeinProvider, { url: server.url }, h(App))));
    await waits();
    page.hide();
  }
  // A client opened later connects, and is the only one.
  using page = new Page();
  page.show(h(SkeinProvider, { url: server.url }, h(App)));
  await page.has("ended");
  await until(() => server.manager.count === 1);
});

Deno.test(
  "SkeinProvider connects to a new URL, and uses the newest token for each connection",
  async () => {
    const options = {
      tokens: { inMessage: true },
      authenticate: ({ token }: { token?: string | undefined }) => token ?? "guest",
    } as const;
    await using one = listen({
      ...options,
      onMessage: (message, { user }) => message.reply(`one ${user}`),
    });
    await using two = listen({
      ...options,
      onMessage: (message, { user }) => message.reply(`two ${user}`),
    });
    using page = new Page();
    const Who = () => {
      const { name } = useStatus();
      const { data, request } = useRequest("who");
      return h("button", { onClick: () => void request() }, `${name} ${data}`);
    };
    const show = (url: string, token?: string) =>
      page.show(
        h(SkeinProvider, { url, options: { token, backoff: { firstDelayMs: 1 } } }, h(Who)),
      );
    show(one.url);
    await page.has("connected undefined");
    page.click();
    await page.has("connected one guest");
    show(one.url, "ann");
    await turns();
    for (const session of one.manager.sessionsOf("guest")) void session.close({ code: 4000 });
    await until(() => {
      if (page.text.startsWith("connected")) page.click();
      return page.text === "connected one ann";
    });
    show(two.url, "bob");
    await until(() => one.manager.count === 0 && two.manager.count === 1);
    await page.has("connected undefined");
    page.click();
    await page.has("connected two bob");
  },
);

Deno.test(
  "hooks on a server show the initial state, and the page hydrates with it",
  async () => {
    let connects = 0;
    await using server = listen({ authorize: () => true, onOpen: () => void connects++ });
    const App = () => {
      const client = useSkein();
      const { name } = useStatus();
      const { messages, status } = useTopic("news");
      const { count } = usePresence("news");
      const { isPending } = useRequest("who");
      const { isDone } = useDurableStream(null);
      const text = [name, status, messages.length, count, isPending, isDone].join();
      return h("button", { onClick: () => void client.publish("news", "x") }, text);
    };
    const relative = h(SkeinProvider, { url: "/session" }, h(App));
    assertEquals(renderToString(relative), "<button>connecting,pending,0,0,false,false</button>");

    using page = new Page();
    page.hydrate(h(StrictMode, null, h(SkeinProvider, { url: server.url }, h(App))));
    assertEquals([page.text, connects], ["connecting,pending,0,0,false,false", 0]);
    await page.has("connected,subscribed,0,0,false,false");
    page.click();
    await page.has("connected,subscribed,1,0,false,false");
    assertEquals(connects, 1);
  },
);

Deno.test("usePresence() lists the users of a room, with their data", async () => {
  await using server = testServer(ROOMS);
  const notices: unknown[] = [];
  await using ann = server.connect({
    token: "ann",
    onMessage: ({ data }) => void notices.push(data),
  });
  await using bob = server.connect({ token: "bob" });
  using page = new Page();
  const Room = ({ is }: { is: string }) => {
    const { users, count, set } = usePresence("room:a", { data: { is } });
    const names = users.map(({ user, data }) => `${user}:${JSON.stringify(data)}`);
    return h("button", { onClick: () => void set({ is: "busy" }) }, `${count} ${names}`);
  };
  const Topic = () => useTopic("room:a").messages.map(({ data }) => data).join();
  const show = (is?: string) =>
    page.show(
      h(
        SkeinProvider,
        { client: ann },
        h(Fragment, null, h(Topic), is && h(Room, { is })),
      ),
    );
  show(); // The list arrives when the room is joined, before a component needs it.
  await until(() => notices.length > 0);
  show("here");
  await page.has('1 ann:{"is":"here"}');
  bob.subscribe("room:a");
  await page.has('2 ann:{"is":"here"},bob:undefined');
  await bob.presence("room:a", 1);
  await page.has('2 ann:{"is":"here"},bob:1');
  show("away");
  await page.has('2 ann:{"is":"away"},bob:1');
  page.click();
  await page.has('2 ann:{"is":"busy"},bob:1');
  // The application's handler receives the same notices.
  assertEquals((notices[0] as { type: string }).type, "members");
  await bob.close();
  await until(() => server.manager.count === 1);
  page.hide();
  await until(() => server.rooms.members("room:a").length === 0);
});

Deno.test("usePresence() removes the data once a component has none", async () => {
  await using server = testServer({
    authenticate: () => "ann",
    authorize: () => true,
    rooms: ["room:{name}"],
  });
  await using client = server.connect();
  using page = new Page();
  const Room = ({ isTyping }: { isTyping: boolean }) => {
    const { users } = usePresence("room:a", { data: isTyping ? { isTyping } : undefined });
    return users.map(({ data }) => `ann:${JSON.stringify(data)}`).join();
  };
  const show = (isTyping: boolean) =>
    page.show(h(StrictMode, null, h(SkeinProvider, { client }, h(Room, { isTyping }))));
  show(false);
  await page.has("ann:undefined");
  show(true);
  await page.has('ann:{"isTyping":true}');
  show(false);
  await page.has("ann:undefined");
});

Deno.test("two providers of one client show the users of one room", async () => {
  await using server = testServer(ROOMS);
  await using client = server.connect({ token: "ann" });
  await using bob = server.connect({ token: "bob" });
  const Users = () => usePresence("room:a").users.map(({ user }) => user).join();
  const element = h(SkeinProvider, { client }, h(Users));
  using one = new Page();
  one.show(element);
  await one.has("ann");
  {
    using two = new Page();
    two.show(element);
    await two.has("ann"); // The list arrived with the join, before this provider.
  }
  bob.subscribe("room:a");
  await one.has("ann,bob"); // Unmounting the second provider removes no notices.
});

Deno.test("useRequest() holds the newest reply, and cancels when the component unmounts", async () => {
  const asked: { data: unknown; signal: AbortSignal; reply: (data: unknown) => void }[] = [];
  await using server = testServer({
    session: { concurrency: 10 },
    onMessage: (message) => {
      if (message.data === "bad") throw new RequestError("no", "Not so");
      const { promise, resolve } = Promise.withResolvers<void>();
      const reply = (data: unknown) => (message.reply(data), resolve());
      message.signal.addEventListener("abort", () => resolve());
      asked.push({ data: message.data, signal: message.signal, reply });
      return promise;
    },
  });
  await using client = server.connect();
  using page = new Page();
  let call!: ReturnType<typeof useRequest>;
  const Call = ({ topic }: { topic: string }) => {
    call = useRequest(topic);
    return `${call.isPending} ${call.data} ${call.error?.message}`;
  };
  const show = (topic: string) => page.show(h(SkeinProvider, { client }, h(Call, { topic })));
  show("ask");
  await page.has("false undefined undefined");
  const { request, cancel } = call;
  void request(1);
  await page.has("true undefined undefined");
  await until(() => asked.length === 1);
  void request(2); // The previous request is cancelled, and its reply is ignored.
  await until(() => asked.length === 2 && asked[0]!.signal.aborted);
  asked[1]!.reply("two");
  await page.has("false two undefined");
  void request("bad"); // No rejection is unhandled.
  await page.has("false two Not so");
  assertEquals(await request("bad").catch((error) => error.message), "Not so");
  void request(3);
  await page.has("true two undefined");
  cancel();
  await page.has("false two undefined");
  await until(() => asked.length < 3 || asked[2]!.signal.aborted);

  void request(4);
  await until(() => asked.at(-1)!.data === 4);
  assertStrictEquals(call.request, request);
  show("other");
  await page.has("false undefined undefined");
  await until(() => asked.at(-1)!.signal.aborted);
  void call.request(5);
  await until(() => asked.at(-1)!.data === 5);
  page.hide();
  await until(() => asked.at(-1)!.signal.aborted);
});

Deno.test("useRequestStream() shows items as they arrive, and stops", async () => {
  const signals: AbortSignal[] = [];
  let next = Promise.withResolvers<void>();
  await using server = testServer({
    requests: {
      async *count({ data, signal }) {
        signals.push(signal);
        if (data === "bad") throw new RequestError("no", "Not so");
        for (let n = 1; n <= Number(data); n++) {
          yield `${n} `;
          await Promise.race([next.promise, new Promise((end) => signal.onabort = end)]);
          if (signal.aborted) return;
          next = Promise.withResolvers();
        }
      },
    },
  });
  await using client = server.connect();
  using page = new Page();
  let answer!: RequestStreamState;
  const Answer = () => {
    answer = useRequestStream("count", { keep: 2 });
    const { text, items, omitted, isPending, isDone, error } = answer;
    return `${text}${items.length}+${omitted} ${isPending} ${isDone} ${error?.message}`;
  };
  page.show(h(SkeinProvider, { client }, h(Answer)));
  await page.has("0+0 false false undefined");
  answer.request(3);
  await page.has("1 1+0 true false undefined");
  next.resolve();
  await page.has("1 2 2+0 true false undefined");
  next.resolve();
  await page.has("2 3 2+1 true false undefined");
  next.resolve();
  await page.has("2 3 2+1 false true undefined");
  answer.request("bad");
  await page.has("0+0 false false Not so");
  answer.request(9);
  await page.has("1 1+0 true false undefined");
  answer.cancel();
  await page.has("1 1+0 false false undefined");
  await until(() => signals.at(-1)!.aborted);
  answer.request(9);
  await until(() => signals.length === 4);
  page.hide();
  await until(() => signals.at(-1)!.aborted);
});

Deno.test(
  "a resumable response continues after a reload, and stops when cancelled",
  async () => {
    const contract = defineContract({
      requests: { ask: { input: z.string(), stream: z.string(), resume: true } },
    });
    let next = Promise.withResolvers<void>();
    let begun = 0;
    const stopped = Promise.withResolvers<unknown>();
    await using server = testServer({
      contract,
      authenticate: () => "ann",
      requests: {
        ask: {
          resumable,
          async *handle({ data, signal }) {
            begun++;
            signal.addEventListener("abort", () => stopped.resolve(signal.reason.message));
            yield `${data}:`;
            for (let n = 1;; n++) {
              await Promise.race([next.promise, stopped.promise]);
              if (signal.aborted) return;
              next = Promise.withResolvers();
              yield ` ${n}`;
            }
          },
        },
      },
    });
    const { SkeinProvider, useRequestStream } = createHooks(contract);
    const Answer = () => {
      const { text, isPending, request, cancel } = useRequestStream("ask");
      useEffect(() => request("Why?", { id: "question-7-of-ann" }), [request]);
      return h("button", { onClick: () => cancel("enough") }, `${text} ${isPending}`);
    };
    const open = async (first: string) => {
      const client = server.connect({ contract });
      const page = new Page();
      page.show(h(StrictMode, null, h(SkeinProvider, { client }, h(Answer))));
      await page.has(first);
      return { page, client };
    };
    {
      const { page, client } = await open("Why?: true");
      next.resolve();
      await page.has("Why?: 1 true");
      page[Symbol.dispose]();
      await client.close();
    }
    next.resolve();
    const { page, client } = await open("Why?: 1 2 true");
    assertEquals(begun, 1);
    page.click();
    await page.has("Why?: 1 2 false");
    assertEquals(await stopped.promise, "enough");
    page[Symbol.dispose]();
    await client.close();
  },
);

Deno.test(
  "useDurableStream() continues after a reload, and shows the end and errors",
  async () => {
    const streams = durableStreams({ path: "/streams" });
    await using server = testServer({
      features: [streams],
      authorize: (_session, topic) => topic.startsWith("stream:"),
    });
    await using one = await streams.create<string>("one");
    await using two = await streams.create<string>("two");
    await one.append("a");
    const Stream = ({ id }: { id: string | null }) => {
      const { text, isPending, isDone, error, cancel } = useDurableStream<string>(id);
      const label = `${text} ${isPending} ${isDone} ${error?.message ?? ""}`;
      return h("button", { onClick: () => void cancel("enough") }, label);
    };
    await using first = server.connect();
    {
      using page = new Page();
      page.show(h(SkeinProvider, { client: first }, h(Stream, { id: "one" })));
      await page.has("a true false ");
    }
    await one.append("b");
    await using client = server.connect();
    using page = new Page();
    const show = (id: string | null) => page.show(h(SkeinProvider, { client }, h(Stream, { id })));
    show("one");
    await page.has("ab true false ");
    server.network.disconnect(); // The reader continues in the next session.
    await one.append("c");
    await page.has("abc true false ");
    page.click();
    await until(() => one.signal.aborted);
    await one.close();
    await page.has("abc false true ");
    show("two");
    await page.has(" true false ");
    await two.abort("The model failed");
    await page.has(" false false The model failed");
    show("none");
    await until(() => / false false ./.test(page.text) && !page.text.includes("model"));
    show(null);
    await page.has(" true false ");
  },
);

interface Card {
  readonly title: string;
}

/** A server with live state, whose clients may write unless a test forbids it. */
function boards(mayWrite: () => boolean = () => true) {
  return testServer({
    features: streamFeatures({ path: "/streams" }),
    authorize: (_session, _topic, action) => action !== "publish" || mayWrite(),
    onMessageRejected() {},
  });
}

/** Shows the cards of a board, and passes the hook's result to the test. */
function Cards(
  { board, collection = "cards", take }: {
    board: string | null;
    collection?: string;
    take?: (cards: CollectionState<Card>) => void;
  },
): string {
  const cards = useCollection<Card>(board, collection);
  take?.(cards);
  const texts = [...cards.rows].map(([key, { title }]) => `${key}${title}`);
  return `[${cards.status} ${texts.join()} ${cards.error?.message ?? ""}]`;
}

Deno.test("useCollection() shows rows, and its own writes within the event, in StrictMode", async () => {
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  const cards = own.collection<Card>("cards");
  await cards.set("a", { title: "Tea" });
  await using client = server.connect();
  using page = new Page();
  let hook!: CollectionState<Card>;
  const show = (board: string | null) =>
    page.show(
      h(
        StrictMode,
        null,
        h(SkeinProvider, { client }, h(Cards, { board, take: (one) => hook = one })),
      ),
    );
  show("board:1");
  await page.has("[pending  ]");
  await page.has("[live aTea ]");
  assertEquals(server.topics.subscribers("stream:board:1").length, 1);
  const { rows, set, update } = hook;
  const writing = set("b", { title: "Milk" });
  await Promise.resolve(); // React renders in a microtask, before the next event.
  assertEquals(page.text, "[live aTea,bMilk ]");
  assertEquals(rows.size, 1); // A snapshot does not change.
  assert([...rows.values(), ...hook.rows.values()].every(Object.isFrozen));
  assertEquals(await writing, 2);
  await assertRejects(() => hook.insert("a", { title: "Again" }), Error, "already exists");
  await Promise.all([
    update("a", ({ title }) => ({ title: title + "!" })),
    hook.delete("b"),
  ]);
  await page.has("[live aTea! ]");
  await until(() => cards.get("a")?.title === "Tea!" && cards.size === 1);
  await cards.set("c", { title: "Bread" });
  await page.has("[live aTea!,cBread ]");
  assertEquals([hook.set, hook.update], [set, update]);
  show(null);
  await page.has("[pending  ]");
  assertMatch(String(await hook.delete("c").catch((error) => error)), /the hook.s id is null/);
  await page.has("[pending  Cannot write state: the hook's id is null]");
});

Deno.test("useCollection() holds the error of a rejected write until the next write", async () => {
  let mayWrite = false;
  await using server = boards(() => mayWrite);
  await using _own = await statesOf(server).open("board:1");
  await using client = server.connect();
  using page = new Page();
  const hooks: CollectionState<Card>[] = [];
  const cards = [0, 1].map((i) =>
    h(Cards, { key: i, board: "board:1", take: (one) => hooks[i] = one })
  );
  page.show(h(SkeinProvider, { client }, h(Fragment, null, ...cards)));
  await page.has("[live  ][live  ]");
  void hooks[0]!.set("a", { title: "Tea" });
  await page.has("[live aTea ][live aTea ]"); // Both components show it before the reply.
  const rejection = 'This session may not publish on "stream:board:1"';
  await page.has(`[live  ${rejection}][live  ]`);
  mayWrite = true;
  const writing = hooks[0]!.set("a", { title: "Tea" });
  await page.has("[live aTea ][live aTea ]");
  await writing;
  void hooks[1]!.update("none", (card) => card);
  await page.has(
    '[live aTea ][live aTea Cannot update: there is no row "none" in "cards"]',
  );
  void hooks[1]!.update("a", () => {
    throw new Error("No title");
  });
  await page.has("[live aTea ][live aTea No title]");
  const options = (reason: string) => ({ signal: AbortSignal.abort(new Error(reason)) });
  void hooks[0]!.set("a", { title: "Milk" }, options("Not set"));
  void hooks[1]!.update("a", () => ({ title: "Milk" }), options("Not updated"));
  await page.has("[live aTea Not set][live aTea Not updated]");
  void hooks[0]!.delete("a", options("Not deleted"));
  await page.has("[live aTea Not deleted][live aTea Not updated]");
});

Deno.test("useCollection() shows ephemeral rows", async () => {
  const schema = z.object({ title: z.string() });
  const states = liveState();
  await using server = testServer({
    contract: defineContract({ state: { board: { cursors: { schema, ephemeral: true } } } }),
    features: [states],
    authorize: () => true,
  });
  await using own = await states.open("board");
  const cursors = own.collection("cursors");
  await cursors.set("a", { title: "Ann" });
  await using client = server.connect();
  using page = new Page();
  let hook!: CollectionState<Card>;
  const shown = h(Cards, { board: "board", collection: "cursors", take: (one) => hook = one });
  page.show(h(SkeinProvider, { client: client as never }, shown));
  await page.has("[live aAnn ]");
  const writing = hook.set("b", { title: "Bob" });
  await Promise.resolve();
  assertEquals(page.text, "[live aAnn,bBob ]");
  await writing;
  assertEquals(cursors.get("b"), { title: "Bob" });
  const rejected = await hook.set("b", { title: 5 } as never).catch((error) => error.message);
  await page.has(`[live aAnn,bBob ${rejected}]`);
});

Deno.test("useCollection() renders only components whose rows change", async () => {
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  await using client = server.connect();
  using page = new Page();
  const seen = { cards: [] as unknown[], players: [] as unknown[] };
  const take = (name: "cards" | "players") => (hook: CollectionState<Card>) =>
    void seen[name].push(hook.rows);
  const App = () =>
    (["cards", "players"] as const).map((collection) =>
      h(Cards, { key: collection, board: "board:1", collection, take: take(collection) })
    );
  page.show(h(SkeinProvider, { client }, h(App)));
  await page.has("[live  ][live  ]");
  const before = seen.players.length;
  const rendersBefore = seen.cards.length;
  for (let i = 0; i < 500; i++) await own.collection("cards").set("a", { title: `${i}` });
  await page.has("[live a499 ][live  ]");
  assertEquals(seen.players.length, before);
  const renders = seen.cards.length - rendersBefore;
  console.log(`React ${version}: ${renders} renders for 500 changes`);
  assert(renders <= 50, `${renders} renders`);
});

Deno.test("useLiveState() makes transactions, and counts the writes that wait", async () => {
  let mayWrite = true;
  await using server = boards(() => mayWrite);
  await using own = await statesOf(server).open("board:1");
  await using client = server.connect({ backoff: { firstDelayMs: 1 } });
  using page = new Page();
  let state!: LiveState;
  const Saving = () => {
    state = useLiveState("board:1");
    return `${state.status} ${state.pendingWrites} ${state.error?.message ?? ""}`;
  };
  page.show(h(SkeinProvider, { client }, h(Saving), h(Cards, { board: "board:1" })));
  // The code of live state is not loaded yet.
  await page.has("pending 0 [pending  ]");
  const early = state.transaction((to) => {
    to.set("cards", "a", { title: "Tea" });
    to.set("cards", "b", { title: "Milk" });
  });
  await page.has("live 0 [live aTea,bMilk ]");
  assertEquals(await early, 1);
  server.network.down();
  await page.has("lost 0 [lost aTea,bMilk ]");
  const late = state.transaction((to) => to.delete("cards", "a"));
  await page.has("lost 1 [lost bMilk ]");
  server.network.up();
  client.retryNow();
  await late;
  await page.has("live 0 [live bMilk ]");
  assertEquals([...own.collection("cards").keys()], ["b"]);
  mayWrite = false;
  void state.transaction((to) => to.delete("cards", "b"));
  await page.has('live 0 This session may not publish on "stream:board:1"[live bMilk ]');
});

Deno.test("useLiveState() calls mutations, which run in the page too", async () => {
  const contract = defineContract({
    state: {
      "hall:{id}": {
        collections: { seats: z.string() },
        mutations: { claimSeat: z.object({ seat: z.string() }) },
      },
    },
  });
  const mutations = defineMutations(contract, {
    async claimSeat(tx, { seat }, { user = "" }) {
      if (await tx.has("seats", seat)) throw new RequestError("taken", `${seat} is taken`);
      await tx.set("seats", seat, user);
    },
  });
  const hooks = createHooks(contract, { mutations });
  await using server = testServer({
    ...ROOMS,
    contract,
    features: [liveState(contract, { mutations })],
  });
  await using client = server.connect({ contract, token: "ann", backoff: { firstDelayMs: 1 } });
  using page = new Page();
  const seen = new Set<unknown>();
  let claim!: (input: { readonly seat: string }) => Promise<number>;
  const Hall = () => {
    const { rows } = hooks.useCollection("hall:1", "seats");
    const { mutate, status, error } = hooks.useLiveState("hall:1");
    seen.add(mutate);
    claim = mutate.claimSeat;
    return `${status} ${[...rows].flat().join()} ${error?.message ?? ""}`;
  };
  const show = (user: string) => page.show(h(hooks.SkeinProvider, { client, user }, h(Hall)));
  show("page");
  await page.has("live  ");
  server.network.down();
  await page.has("lost  ");
  const claiming = claim({ seat: "7" });
  await page.has("lost 7,page ");
  server.network.up();
  client.retryNow();
  await claiming;
  await page.has("live 7,ann ");
  void claim({ seat: "7" });
  await page.has("live 7,ann 7 is taken");
  assertEquals(seen.size, 1);
});

Deno.test("useCollection() shows the error of a state that cannot be read", async () => {
  await using server = boards();
  await using client = server.connect();
  using page = new Page();
  let hook!: CollectionState<Card>;
  const show = (board: string | null) => {
    const cards = h(Cards, { key: board, board, take: (one) => hook = one });
    page.show(h(SkeinProvider, { client }, cards));
  };
  show("none");
  await until(() => /^\[ended {2}\S/.test(page.text));
  assert(hook.error instanceof RequestError);
  await assertRejects(() => hook.set("a", { title: "Tea" }), RequestError);
  show(null);
  await page.has("[pending  ]");
  await using _own = await statesOf(server).open("none");
  show("none"); // A component that mounts tries again.
  await page.has("[live  ]");
  page.show(h(SkeinProvider, { client }, h(Cards, { board: "none", collection: "" })));
  await page.has("[ended  Cannot open collection: name must have 1 to 1024 bytes, received 0]");
});

Deno.test("useCollection() shows that the server rejects the client, until it is connected again", async () => {
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  await own.collection<Card>("cards").set("a", { title: "Tea" });
  await using client = server.connect();
  using page = new Page();
  page.show(h(SkeinProvider, { client }, h(Cards, { board: "board:1" })));
  await page.has("[live aTea ]");
  await client.session?.close({ code: 4403 });
  await page.has("[ended aTea Cannot read state: the client is rejected (4403, by local)]");
  client.retryNow();
  await page.has("[live aTea ]");
});

Deno.test("useCollection() shows rows that an earlier page has kept, and how old they are", async () => {
  const disk = new TestDisk();
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  await own.collection<Card>("cards").set("a", { title: "Tea" });
  const Board = () => {
    const { rows, status, keptAt } = useCollection<Card>("board:1", "cards");
    const state = useLiveState("board:1");
    const isRecent = Date.now() - Number(keptAt) < 60_000;
    return h("p", null, `${status} ${rows.get("a")?.title} ${isRecent} ${state.keptAt === keptAt}`);
  };
  {
    await using client = server.connect({ store: keptOn(disk) });
    using page = new Page();
    page.show(h(SkeinProvider, { client, store: true }, h(Board)));
    await page.has("live Tea false true");
  }
  using page = new Page();
  const options = { store: keptOn(disk), transports: ["websocket"], onError() {} } as const;
  page.show(h(SkeinProvider, { url: "ws://127.0.0.1:1/", options }, h(Board)));
  await page.has("stale Tea true true");
});

Deno.test("useCollection() shows no rows that were kept for another user", async () => {
  const disk = new TestDisk();
  const asked = Promise.withResolvers<void>();
  const decision = Promise.withResolvers<boolean>();
  await using server = testServer({
    features: streamFeatures({ path: "/streams" }),
    authenticate: ({ token }) => token ?? null,
    tokens: { inMessage: true },
    authorize({ user }) {
      if (user === "ann") return true;
      asked.resolve();
      return decision.promise;
    },
  });
  await using own = await statesOf(server).open("board:1");
  await own.collection<Card>("cards").set("a", { title: "Tea" });
  const seen: string[] = [];
  const Board = () => {
    const text = Cards({ board: "board:1" });
    seen.push(text);
    return text;
  };
  for (const user of ["ann", "bob"]) {
    const store = keptOn(disk, "ann"); // A slip: the store of a user for everyone.
    await using client = server.connect({ token: user, store, onError() {} });
    using page = new Page();
    page.show(h(SkeinProvider, { client, store: true }, h(Board)));
    if (user === "ann") {
      await page.has("[live aTea ]");
      continue;
    }
    await asked.promise;
    await page.has("[pending  ]");
    decision.resolve(true);
    await page.has("[live aTea ]");
  }
  assertEquals(
    seen.slice(seen.indexOf("[live aTea ]")).filter((text) => text.startsWith("[lost")),
    [],
  );
});

Deno.test("useCollection() hydrates with no rows, and leaves no state that loads too late", async () => {
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  await using other = await statesOf(server).open("board:2");
  for (const state of [own, other]) await state.collection("cards").set("a", { title: "Tea" });
  await using client = server.connect();
  const show = (board: string) => h(SkeinProvider, { client }, h(Cards, { board }));
  {
    using page = new Page();
    page.show(show("board:1"));
    await page.has("[pending  ]");
    page.hide(); // The code of the state has not loaded yet.
    assertEquals(server.topics.subscribers("stream:board:1").length, 0);
  }
  using page = new Page();
  page.hydrate(show("board:2"));
  await page.has("[live aTea ]");
  assertEquals(server.topics.subscribers("stream:board:1").length, 0);
});

Deno.test("a live state outlives a route change, and its last component while writes wait", async () => {
  using time = new FakeTime();
  await using server = boards();
  await using own = await statesOf(server).open("board:1");
  await using client = server.connect({ backoff: { firstDelayMs: 1 } });
  using page = new Page();
  let hook!: CollectionState<Card>;
  const show = (board: string | null) =>
    page.show(
      h(SkeinProvider, { client }, board && h(Cards, { board, take: (one) => hook = one })),
    );
  const has = async (text: string) => {
    for (let i = 0; i < 50 && page.text !== text; i++) await passTime(time, 20);
    assertEquals(page.text, text);
  };
  const readers = () => server.topics.subscribers("stream:board:1").length;
  show("board:1");
  await has("[live  ]");
  show(null);
  await passTime(time, 4_000);
  assertEquals(readers(), 1);
  show("board:1");
  await has("[live  ]");
  server.network.down();
  await has("[lost  ]");
  const writing = hook.set("a", { title: "Tea" });
  await has("[lost aTea ]");
  show(null);
  await passTime(time, 60_000); // Far longer than the grace period.
  show("board:1");
  await has("[lost aTea ]");
  show(null);
  await passTime(time, 6_000);
  server.network.up();
  client.retryNow();
  await passTime(time, 1_000);
  assertEquals(await writing, 1);
  assertEquals(own.collection<Card>("cards").get("a"), { title: "Tea" });
  await passTime(time, 6_000);
  assertEquals(readers(), 0);
});

Deno.test("a burst of 1,000 messages causes few renders", async () => {
  await using server = testServer({
    authorize: () => true,
    session: { sendQueue: { maxMessages: 2_000 } },
  });
  await using client = server.connect();
  using page = new Page();
  const Count = probe(() => {
    const { messages, last } = useTopic("news", { keep: 1_000 });
    return `${messages.length} ${last?.data}`;
  });
  page.show(h(SkeinProvider, { client }, h(Count)));
  await until(() => server.topics.subscribers("news").length === 1);
  await page.has("0 undefined");
  const before = Count.renders;
  for (let i = 0; i < 1_000; i++) server.publish("news", i);
  await page.has("1000 999");
  const renders = Count.renders - before;
  console.log(`React ${version}: ${renders} renders for 1,000 messages`);
  // A frame lasts 16 ms; slow machines take some frames for the burst.
  assert(renders <= 20, `${renders} renders`);
});

Deno.test("functions of hooks keep their identity, and so do messages", async () => {
  await using server = testServer({ authorize: () => true });
  await using client = server.connect();
  using page = new Page();
  const renders: unknown[][] = [];
  let topic!: TopicState;
  const App = ({ n }: { n: number }) => {
    topic = useTopic("news");
    const room = usePresence("news");
    const call = useRequest("ask");
    const stream = useRequestStream("ask");
    const durable = useDurableStream(null);
    const rows = useCollection(null, "cards");
    const state = useLiveState(null);
    renders.push([
      ...[rows, rows.rows, rows.set, rows.update, rows.delete, state, state.transaction],
      ...[topic.publish, room.set, call.request, call.cancel],
      ...[stream.request, stream.cancel, durable.cancel],
    ]);
    return `${n} ${topic.messages.length}`;
  };
  const show = (n: number) => page.show(h(SkeinProvider, { client }, h(App, { n })));
  show(0);
  await until(() => topic?.status === "subscribed");
  server.publish("news", "x");
  await page.has("0 1");
  const { messages } = topic;
  const whole = topic;
  show(1);
  await page.has("1 1");
  assertStrictEquals(topic.messages, messages);
  assertStrictEquals(topic, whole);
  assert(renders.length > 3);
  for (const functions of renders) {
    functions.forEach((one, i) => assertStrictEquals(one, renders[0]![i]));
  }
});

Deno.test("a function of a hook without a target rejects, and names the call", async () => {
  await using server = testServer();
  await using client = server.connect();
  using page = new Page();
  type Call = () => Promise<unknown>;
  const calls: Call[] = [];
  const Idle = () => {
    const { publish } = useTopic(null);
    const { set } = usePresence(null);
    const { cancel } = useDurableStream(null);
    calls.splice(0, 3, () => publish("a"), () => set("a"), () => cancel());
    return "idle";
  };
  page.show(h(SkeinProvider, { client }, h(Idle)));
  await page.has("idle");
  const [publish, set, cancel] = calls as [Call, Call, Call];
  await assertRejects(publish, TypeError, "Cannot publish: the hook's topic is null");
  await assertRejects(set, TypeError, "Cannot set data: the hook's room is null");
  await assertRejects(cancel, TypeError, "Cannot cancel: the hook's id is null");
});

Deno.test("hooks without a provider, and a provider without a server, throw errors that say so", async () => {
  const other = createHooks();
  const messageOf = (element: ReactElement) => {
    try {
      return renderToString(element);
    } catch (error) {
      return (error as Error).message;
    }
  };
  const Topic = () => useTopic("a").status;
  const none = "There is no SkeinProvider of the same createHooks() above the component";
  assertEquals(messageOf(h(Topic)), none);
  assertEquals(messageOf(h(other.SkeinProvider, { url: "/" }, h(Topic))), none);
  assertMatch(
    messageOf(h(SkeinProvider, {}, h(Topic))),
    /needs a url or a client/,
  );
  const Bad = () => useTopic("a", { keep: 0 }).status;
  assertEquals(
    messageOf(h(SkeinProvider, { url: "/" }, h(Bad))),
    "Cannot create topic: keep must be a positive integer, received 0",
  );
  await Promise.resolve();
});

Deno.test(
  "createHooks() knows the types of a contract, and its client checks the data",
  async () => {
    const contract = defineContract({
      toClient: { "score:{game}": z.number() },
      requests: { sum: { input: z.array(z.number()), output: z.number() } },
      presence: { "score:{game}": z.object({ team: z.string() }) },
    });
    const { SkeinProvider, usePresence, useRequest, useTopic } = createHooks(contract);
    await using server = listen({
      contract,
      authorize: () => true,
      rooms: ["score:{game}"],
      authenticate: () => "ann",
      requests: { sum: ({ data }) => data.reduce((a, b) => a + b, 0) },
    });
    using page = new Page();
    const Game = ({ game }: { game: string }) => {
      const { last, publish } = useTopic(`score:${game}`, { keep: 1 });
      const { users } = usePresence(`score:${game}`, { data: { team: "red" } });
      const { data, request } = useRequest("sum");
      const onClick = () => {
        void publish(1.5);
        void request([1, 2]);
      };
      const teams: string[] = users.flatMap(({ data }) => data?.team ?? []);
      return h("button", { onClick }, `${last?.data.toFixed(2)} ${data?.toFixed(1)} ${teams}`);
    };
    page.show(h(SkeinProvider, { url: server.url }, h(Game, { game: "go" })));
    await page.has("undefined undefined red");
    page.click();
    await page.has("1.50 3.0 red");

    // Properties that a page may leave undefined, also under `exactOptionalPropertyTypes`.
    const none = { url: server.url, client: undefined, options: undefined, graceMs: undefined };
    assertEquals(renderToString(h(SkeinProvider, none, "page")), "page");
    const _keepsDefault = () => useTopic("score:go", { keep: undefined, last: undefined });

    // This is only compiled and never called, because each line is a type error.
    const _mistakes = () => {
      // @ts-expect-error The contract has no such topic.
      useTopic("news");
      // @ts-expect-error A text is not a number.
      void useTopic("score:go").publish("1");
      // @ts-expect-error The request takes numbers.
      void useRequest("sum").request("1");
      // @ts-expect-error The presence data has a team.
      usePresence("score:go", { data: { color: "red" } });
    };
  },
);

// From React 19.2.
const { Activity } = await import("react");
const hidesParts = { ignore: Activity === undefined };

/** A part of a page that is shown or hidden. */
function part(mode: "visible" | "hidden", children: ReactNode): ReactElement {
  return h(Activity, { mode, children });
}

Deno.test(
  "a hidden part of a page closes its client, and reconnects when shown again",
  hidesParts,
  async () => {
    await using server = listen({ authorize: () => true });
    using page = new Page();
    const Topic = () => useTopic("a").status;
    const show = (mode: "visible" | "hidden") =>
      page.show(part(mode, h(SkeinProvider, { url: server.url }, h("p", null, h(Topic)))));
    show("visible");
    await page.has("subscribed");
    show("hidden");
    await until(() => server.manager.count === 0);
    show("visible");
    await until(() => server.manager.count === 1 && server.topics.subscribers("a").length === 1);
    await page.has("subscribed");
  },
);

Deno.test("hiding a part of a page ends its responses", hidesParts, async () => {
  const asked = Promise.withResolvers<AbortSignal>();
  await using server = listen({
    requests: {
      async *count({ signal }) {
        asked.resolve(signal);
        yield "1";
        await new Promise((end) => signal.addEventListener("abort", end));
      },
    },
  });
  using page = new Page();
  const Count = () => {
    const { text, isPending, request } = useRequestStream("count");
    return h("button", { onClick: () => request() }, `${text} ${isPending}`);
  };
  const show = (mode: "visible" | "hidden") =>
    page.show(part(mode, h(SkeinProvider, { url: server.url }, h(Count))));
  show("visible");
  await page.has(" false");
  page.click();
  await page.has("1 true");
  show("hidden");
  await until(() => server.manager.count === 0);
  show("visible");
  await page.has("1 false");
});

Deno.test(
  "a hidden part of a page lists what waits for the server when it is shown again",
  hidesParts,
  async () => {
    await using server = testServer({ authorize: () => true });
    await using client = server.connect({ delivery: "at-least-once" });
    await client.whenConnected();
    using page = new Page();
    let publish!: TopicState["publish"];
    let isShown = false;
    const Waiting = () => {
      const { pending, ...chat } = useTopic("chat");
      publish = chat.publish;
      useEffect(() => {
        isShown = true;
        return () => void (isShown = false);
      }, []);
      return `[${pending.map(({ data }) => data).join()}]`;
    };
    const show = (mode: "visible" | "hidden") =>
      page.show(part(mode, h(SkeinProvider, { client }, h("p", null, h(Waiting)))));
    const turn = async (mode: "visible" | "hidden") => {
      show(mode);
      await until(() => isShown === (mode === "visible"));
      await turns();
    };
    await turn("visible");
    server.network.down();
    const published = publish("a");
    await page.has("[a]");
    await turn("hidden");
    await turn("visible");
    assertEquals(page.text, "[a]");
    await turn("hidden");
    server.network.up();
    await published;
    await turn("visible");
    await page.has("[]");
  },
);

Deno.test("a response that a hidden part of a page requests has an error", hidesParts, async () => {
  await using server = listen({
    requests: {
      async *count() {
        yield "1";
      },
    },
  });
  using page = new Page();
  let request!: () => void;
  const Count = () => {
    const { isPending, error, ...count } = useRequestStream("count");
    request = count.request;
    return `${isPending} ${error?.message}`;
  };
  const show = (mode: "visible" | "hidden") =>
    page.show(part(mode, h(SkeinProvider, { url: server.url }, h("p", null, h(Count)))));
  show("visible");
  await page.has("false undefined");
  await until(() => server.manager.count === 1);
  show("hidden");
  await until(() => server.manager.count === 0);
  request();
  show("visible");
  await page.has("false Cannot connect: the client is closed (0, by local)");
});

Deno.test(
  "a room that is shown again leaves the messages of its topic alone",
  hidesParts,
  async () => {
    await using server = testServer({
      authenticate: () => "ann",
      authorize: () => true,
      history: { "room:{name}": {} },
      rooms: ["room:{name}"],
    });
    await server.topics.append("room:a", "old");
    await using client = server.connect();
    using page = new Page();
    const Lines = () => useTopic("room:a", { last: 5 }).messages.map(({ data }) => data).join();
    const Users = () => ` ${usePresence("room:a").count}`;
    const show = (mode: "visible" | "hidden", hasLines: boolean) =>
      page.show(part(mode, h(SkeinProvider, { client }, hasLines && h(Lines), h(Users))));
    show("visible", true);
    await page.has("old 1");
    show("visible", false);
    await page.has(" 1");
    show("hidden", false);
    await until(() => server.topics.subscribers("room:a").length === 0);
    show("visible", false);
    await page.has(" 1");
    show("visible", true);
    await page.has("old 1");
  },
);

Deno.test(
  "a topic that was hidden for longer than the grace period resumes from its position, or reports a gap",
  hidesParts,
  async () => {
    await using server = testServer({ authorize: () => true, history: { kept: {} } });
    await using client = server.connect();
    using page = new Page();
    const Lines = ({ topic }: { topic: string }) => {
      const { messages, gap, status } = useTopic(topic, { last: 1 });
      const texts = messages.map(({ key, data }) => `${gap?.key === key ? "…" : ""}${key}${data}`);
      return `${texts.join()} ${gap?.reason ?? ""} ${status} `;
    };
    const show = (mode: "visible" | "hidden") => {
      const lines = ["kept", "plain"].map((topic) => h(Lines, { key: topic, topic }));
      page.show(h(SkeinProvider, { client, graceMs: 20 }, part(mode, lines)));
    };
    const say = async (data: string) => {
      await server.topics.append("kept", data);
      server.publish("plain", data);
    };
    await server.topics.append("kept", "a");
    await server.topics.append("kept", "b");
    show("visible");
    await page.has("0b  subscribed   subscribed ");
    await say("c");
    await page.has("0b,1c  subscribed 0c  subscribed ");
    show("hidden");
    await until(() => server.topics.subscribers("kept").length === 0);
    await until(() => server.topics.subscribers("plain").length === 0);
    await say("d");
    await say("e");
    show("visible");
    await until(() => server.topics.subscribers("plain").length === 1);
    await page.has("0b,1c,2d,3e  subscribed 0c no-history subscribed ");
    await say("f");
    await page.has("0b,1c,2d,3e,4f  subscribed 0c,…1f no-history subscribed ");
  },
);

Deno.test(
  "a durable stream that was hidden for longer than the grace period resumes after its newest item",
  hidesParts,
  async () => {
    const streams = durableStreams({ path: "/streams" });
    await using server = testServer({
      authorize: () => true,
      features: [streams],
    });
    await using stream = await streams.create<string>("s");
    await using client = server.connect();
    using page = new Page();
    const Text = () => {
      const { text, isPending, isDone } = useDurableStream("s");
      return `${text} ${isPending ? "…" : isDone}`;
    };
    const show = (mode: "visible" | "hidden") =>
      page.show(h(SkeinProvider, { client, graceMs: 20 }, part(mode, h(Text))));
    await stream.append("a");
    show("visible");
    await page.has("a …");
    for (const [append, expected] of [["b", "ab …"], ["", "ab true"], ["", "ab true"]] as const) {
      show("hidden");
      await until(() => server.topics.subscribers("stream:s").length === 0);
      await new Promise((end) => setTimeout(end, 40));
      if (append) await stream.append(append);
      else await stream.close();
      show("visible");
      await page.has(expected);
    }
  },
);

Deno.test("usePresence() leaves its room half a second after its last component, and hides a remount", async () => {
  using time = new FakeTime();
  await using server = testServer({ ...ROOMS, presence: { graceMs: 60_000 } });
  await using ann = server.connect({ token: "ann" });
  await using bob = server.connect({ token: "bob" });
  await using room = bob.subscribe("room:a");
  await room.ready;
  const notices: string[] = [];
  void (async () => {
    for await (const { data } of bob) {
      const { type, user } = data as { type: string; user?: string };
      notices.push(`${type} ${user}`);
    }
  })();
  using page = new Page();
  const Users = () => `${usePresence("room:a").count}`;
  const Topic = () => `${useTopic("room:a").status}`;
  for (const Part of [Users, Topic]) {
    const show = (key: string, isThere = true) =>
      page.show(
        h(StrictMode, null, h(SkeinProvider, { client: ann }, isThere && h(Part, { key }))),
      );
    show("one");
    await until(() => notices.includes("join ann"));
    show("none", false);
    await turns();
    show("two");
    await turns();
    show("none", false);
    await passTime(time, 490);
    assert(!notices.includes("leave ann"));
    await passTime(time, 20);
    await until(() => notices.includes("leave ann"));
    assertEquals(notices.splice(0).filter((one) => !one.startsWith("members")), [
      "join ann",
      "leave ann",
    ]);
  }
});

Deno.test(
  "a live state that was hidden for longer than the grace period shows its rows until it is read again",
  hidesParts,
  async () => {
    await using server = boards();
    await using own = await statesOf(server).open("board:1");
    const cards = own.collection<Card>("cards");
    await cards.set("a", { title: "Tea" });
    await using client = server.connect();
    using page = new Page();
    const seen = new Set<string>();
    const take = ({ status, rows }: CollectionState<Card>) =>
      void seen.add(`${status} ${[...rows.keys()].join()}`);
    const show = (mode: "visible" | "hidden") =>
      page.show(
        h(
          SkeinProvider,
          { client, graceMs: 20 },
          part(mode, h("p", null, h(Cards, { board: "board:1", take }))),
        ),
      );
    show("visible");
    await page.has("[live aTea ]");
    show("hidden");
    await until(() => server.topics.subscribers("stream:board:1").length === 0);
    await cards.set("b", { title: "Milk" });
    seen.clear();
    show("visible");
    await page.has("[live aTea,bMilk ]");
    assertEquals([...seen].filter((one) => one.startsWith("pending")), []);
    assert(seen.has("lost a"));
  },
);
