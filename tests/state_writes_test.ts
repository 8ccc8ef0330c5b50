/** Tests the writes of clients to live state that wait, are refused, or depend on a condition. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  type Client,
  type ClientState,
  type ClientStateOptions,
  connect,
  type ConnectOptions,
  type Contract,
  defineContract,
  guest,
  type RequestedChange,
  RequestError,
  type Server,
  SessionClosedError,
  TimeoutError,
} from "../mod.ts";
import { liveState, type State } from "../streams/mod.ts";
import { z } from "zod";
import { captureConsole } from "./console_lines.ts";
import { Cable } from "./networks/cable.ts";
import { listen } from "./servers.ts";
import { until } from "./waiting.ts";

const contract = defineContract({
  state: { "list:{id}": { items: z.object({ title: z.string().min(1) }), notes: z.string() } },
});

interface FixtureOptions {
  readonly contract?: Contract | undefined;
  /** The contract of the client; by default, that of the server. */
  readonly own?: Contract | undefined;
  readonly authorizeChange?: ((change: RequestedChange) => boolean | Promise<boolean>) | undefined;
  readonly server?: object | undefined;
  readonly client?: ConnectOptions | undefined;
}

/** A server with the state `list:1`, and a client whose connection a test can cut. */
class Fixture implements AsyncDisposable {
  readonly server: Server;
  readonly cable: Cable;
  readonly client: Client;
  readonly list: State;
  readonly #port: number;
  /** The changes that the server decided about, as `key=value`. */
  readonly asked: string[];

  private constructor(
    server: Server,
    list: State,
    { asked, options }: { readonly asked: string[]; readonly options: FixtureOptions },
  ) {
    this.server = server;
    this.list = list;
    this.asked = asked;
    this.#port = Number(new URL(server.url).port);
    this.cable = new Cable(this.#port);
    this.client = this.connect(options);
    this.client.status.subscribe(() => {}); // Keeps the client from printing that it reconnects.
  }

  static async make(options: FixtureOptions = {}): Promise<Fixture> {
    const states = liveState(options.contract);
    const asked: string[] = [];
    const server: Server = listen({
      webTransport: false,
      contract: options.contract,
      features: [states],
      authorize: () => true,
      authorizeChange: (change: RequestedChange) => {
        asked.push(`${change.key}=${JSON.stringify(change.value)}`);
        return options.authorizeChange?.(change) ?? true;
      },
      ...options.server,
    });
    return new Fixture(server, await states.open("list:1") as unknown as State, { asked, options });
  }

  /** Connects another client, through the cable. */
  connect({ contract, own = contract, client }: FixtureOptions = {}): Client {
    return connect(this.cable.url, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 1, maxDelayMs: 5 },
      contract: own,
      ...client,
    }) as Client;
  }

  async open(options?: ClientStateOptions): Promise<ClientState> {
    const state = await this.client.state("list:1", options);
    await state.ready;
    return state;
  }

  /** Cuts the connection, and lets no other one through. */
  async offline(state: ClientState): Promise<void> {
    this.cable.port = 1;
    this.cable.cut();
    await until(() => state.status.current === "lost");
  }

  online(): void {
    this.cable.port = this.#port;
    this.client.retryNow();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    await this.cable[Symbol.asyncDispose]();
    await this.list[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}

/** Describes how each write settles. */
function outcomes(writes: readonly Promise<number>[]): Promise<string[]> {
  return Promise.all(writes.map((write) =>
    write.then(
      () => "stored",
      (error) => error instanceof RequestError ? error.failure.code : String(error),
    )
  ));
}

/** Returns the lines that are printed during a function. */
async function printed(run: () => void | Promise<void>): Promise<string[]> {
  using captured = captureConsole();
  await run();
  return captured.lines;
}

Deno.test("ClientState keeps the last value that fits the schema while it sends a newer one", async () => {
  await using at = await Fixture.make({ contract });
  await at.list.collection("items").set("1", { title: "Buy" });
  using state = await at.open();
  const items = state.collection<{ title: string }>("items");
  await at.offline(state);
  const writing = ["Buy m", "Buy milk", "", ""].map((title) => items.set("1", { title }));
  assertEquals([items.get("1"), state.pendingWrites.current], [{ title: "" }, 1]);
  at.online();
  assertEquals(await outcomes(writing), ["stored", "stored", "invalid", "invalid"]);
  assertEquals([items.get("1"), at.list.collection("items").get("1")], [
    { title: "Buy milk" },
    { title: "Buy milk" },
  ]);
  assertEquals(at.asked, ['1={"title":"Buy milk"}']);
});

Deno.test("ClientState drops an earlier value once a newer one is stored", async () => {
  await using at = await Fixture.make({ contract });
  using state = await at.open();
  const items = state.collection<{ title: string }>("items");
  await at.offline(state);
  const writing = ["Tea", "", "Milk", "Rice"].map((title) => items.set("1", { title }));
  at.online();
  assertEquals(await outcomes(writing), ["stored", "stored", "stored", "stored"]);
  assertEquals([at.asked, at.list.version], [['1={"title":"Rice"}'], 1]);
});

const UNCHECKED = {
  "no schema": undefined,
  "an asynchronous schema": z.string().refine(() => Promise.resolve(false)),
  "a schema that throws": z.string().refine(() => {
    throw new Error("Not now");
  }),
};

for (const [what, schema] of Object.entries(UNCHECKED)) {
  Deno.test(`ClientState keeps the value before the newest one with ${what}`, async () => {
    await using at = await Fixture.make({
      own: schema && defineContract({ state: { "list:{id}": { notes: schema } } }),
      authorizeChange: ({ value }) => value !== "no",
    });
    using state = await at.open();
    const notes = state.collection<string>("notes");
    await at.offline(state);
    const writing = ["a", "b", "no"].map((text) => notes.set("1", text));
    writing.push(...["a", "no", "no"].map((text) => notes.set("2", text)));
    at.online();
    const [of1, of2] = [["stored", "stored"], Array.from({ length: 4 }, () => "forbidden")];
    assertEquals(await outcomes(writing), [...of1, ...of2]);
    assertEquals([notes.get("1"), notes.has("2"), state.pendingWrites.current], ["b", false, 0]);
  });
}

Deno.test("ClientState sends an earlier value before any later write of the row", async () => {
  await using at = await Fixture.make({
    authorizeChange: ({ action, value }) => action === "delete" || value !== "no",
  });
  using state = await at.open();
  const notes = state.collection<string>("notes");
  await at.offline(state);
  const writing = [
    notes.set("1", "a"),
    notes.set("1", "no"),
    notes.update("1", (text) => `${text}!`),
    notes.set("2", "x"),
    notes.delete("2"),
    notes.delete("2"),
    notes.set("2", "y"),
  ];
  assertEquals([notes.get("1"), notes.get("2"), state.pendingWrites.current], ["no!", "y", 5]);
  at.online();
  assertEquals(await outcomes(writing), [
    "stored",
    "forbidden",
    ...Array.from({ length: 5 }, () => "stored"),
  ]);
  const of = (key: string) => at.asked.filter((one) => one.startsWith(key));
  assertEquals(of("1"), ['1="no"', '1="a"', '1="a!"']);
  assertEquals(of("2"), ['2="x"', "2=undefined", '2="y"']);
  assertEquals([notes.get("1"), notes.get("2")], ["a!", "y"]);
});

Deno.test("ClientState keeps a change although its deletion is refused", async () => {
  await using at = await Fixture.make({ authorizeChange: ({ action }) => action !== "delete" });
  await at.list.collection("notes").set("1", "Call");
  using state = await at.open();
  const notes = state.collection<string>("notes");
  const writing = [notes.set("1", "Call Ann"), notes.delete("1")];
  assertEquals(notes.has("1"), false);
  assertEquals(await outcomes(writing), ["stored", "forbidden"]);
  assertEquals(notes.get("1"), "Call Ann");
});

Deno.test("ClientState keeps two values of each row, in whatever order rows are written", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const notes = state.collection<number>("notes");
  await at.offline(state);
  const writing: Promise<number>[] = [];
  for (let i = 1; i <= 2_000; i++) for (const key of ["a", "b"]) writing.push(notes.set(key, i));
  assertEquals(state.pendingWrites.current, 2);
  at.online();
  assertEquals(new Set(await outcomes(writing)), new Set(["stored"]));
  assertEquals([at.asked, at.list.version], [["a=2000", "b=2000"], 2]);
});

Deno.test("ClientState asks onConflict about an earlier value, as about the newest", async () => {
  await using at = await Fixture.make();
  await at.list.collection("notes").set("1", "old");
  const asked: unknown[] = [];
  using state = await at.open({
    onConflict({ mine, theirs }) {
      asked.push([mine, theirs]);
      return mine === "b" ? "theirs" : "mine";
    },
  });
  const notes = state.collection<string>("notes");
  await at.offline(state);
  const writing = ["a", "b"].map((text) => notes.set("1", text));
  await at.list.collection("notes").set("1", "new");
  at.online();
  assertEquals(await outcomes(writing), ["stored", "conflict"]);
  assertEquals([asked, notes.get("1")], [[["b", "new"], ["a", "new"]], "a"]);
});

Deno.test("ClientState sends an earlier value after a lost reply, unless the newest was stored", async () => {
  for (const isStored of [true, false]) {
    let refuses = false;
    const held = Promise.withResolvers<void>();
    await using at = await Fixture.make({
      authorizeChange: async ({ value }) => {
        if (value !== "b" || refuses) return value !== "b";
        at.cable.freeze();
        if (!isStored) await held.promise;
        return true;
      },
    });
    using state = await at.open();
    const notes = state.collection<string>("notes");
    const writing = ["a", "b"].map((text) => notes.set("1", text));
    const settled = outcomes(writing);
    await until(() => at.asked.length === 1 && (!isStored || at.list.version === 1));
    refuses = true;
    at.cable.cut();
    held.resolve();
    at.client.retryNow();
    if (isStored) assertEquals(await settled, ["stored", "stored"]);
    else assertEquals((await settled)[0], "stored");
    assertEquals(at.list.collection("notes").get("1"), notes.get("1"));
  }
});

Deno.test("ClientState rejects both values of a row when it is closed", async () => {
  await using at = await Fixture.make();
  const state = await at.open();
  await at.offline(state);
  const notes = state.collection<string>("notes");
  const writing = ["a", "b", "c"].map((text) => notes.set("1", text));
  await printed(() => state[Symbol.dispose]());
  for (const write of writing) await assertRejects(() => write, Error, "was closed");
});

Deno.test("ClientCollection.insert() writes a row only if there is none", async () => {
  await using at = await Fixture.make();
  await using other = at.connect();
  using state = await at.open();
  using theirs = await other.state("list:1") as ClientState;
  await theirs.ready;
  const [notes, others] = [state.collection<string>("notes"), theirs.collection<string>("notes")];
  // Of several writers, one wins.
  const racing = [notes.insert("1", "a"), others.insert("1", "b")];
  assertEquals((await outcomes(racing)).toSorted(), ["conflict", "stored"]);
  const { message } = await assertRejects(() => notes.insert("1", "c"), RequestError);
  assertEquals(message, 'Cannot write state: the row "1" of "notes" already exists');
  // Own writes that wait count.
  await at.offline(state);
  const writing = [notes.insert("2", "a"), notes.set("2", "b"), notes.delete("2")];
  await assertRejects(() => notes.insert("1", "a"), RequestError, "already exists");
  writing.push(notes.insert("2", "c"));
  assertEquals(notes.get("2"), "c");
  // Others may insert the row first.
  writing.push(notes.insert("4", "mine"));
  await at.list.collection("notes").set("4", "theirs");
  at.online();
  assertEquals(await outcomes(writing), ["stored", "stored", "stored", "stored", "conflict"]);
  assertEquals([notes.get("2"), notes.get("4")], ["c", "theirs"]);
  // A row that others deleted may be inserted again.
  await at.list.collection("notes").delete("4");
  await until(() => !notes.has("4"));
  await notes.insert("4", "again");
  assertEquals(at.list.collection("notes").get("4"), "again");
});

Deno.test("ClientCollection.set() and delete() with expect need a row of this version", async () => {
  await using at = await Fixture.make();
  using state = await at.open({ onConflict: () => "mine" });
  const notes = state.collection<string>("notes");
  const first = await notes.set("1", "a", { expect: 0 });
  assertEquals(notes.versionOf("1"), first);
  const second = await notes.set("1", "b", { expect: first });
  const { message } = await assertRejects(
    () => notes.set("1", "c", { expect: first }),
    RequestError,
  );
  assertEquals(
    message,
    `Cannot write state: the row "1" of "notes" no longer has the version ${first}`,
  );
  assertEquals(await outcomes([notes.delete("1", { expect: first })]), ["conflict"]);
  // An unsent write with a condition is neither replaced, nor asked about.
  await at.offline(state);
  const writing = [notes.set("1", "d", { expect: second }), notes.set("1", "e")];
  const third = await at.list.collection("notes").set("1", "theirs");
  writing.push(notes.delete("2", { expect: 0 }));
  at.online();
  assertEquals(await outcomes(writing), ["conflict", "stored", "stored"]);
  assertEquals(await outcomes([notes.delete("1", { expect: third })]), ["conflict"]);
  await notes.delete("1", { expect: notes.versionOf("1") });
  assertEquals([notes.versionOf("1"), at.list.collection("notes").has("1")], [0, false]);
  for (const expect of [-1, 1.5, Infinity]) {
    await assertRejects(() => notes.set("1", "a", { expect }), RangeError, "expect must be");
  }
});

Deno.test("ClientCollection.insert() settles once if its reply is lost", async () => {
  let freezes = true;
  await using at = await Fixture.make({
    authorizeChange: () => {
      if (freezes) at.cable.freeze();
      freezes = false;
      return true;
    },
  });
  using state = await at.open();
  const notes = state.collection<string>("notes");
  const inserting = notes.insert("1", "a");
  await until(() => at.list.version === 1);
  at.cable.cut();
  at.client.retryNow();
  assertEquals([await inserting, at.list.version], [1, 1]);
});

Deno.test("ClientState.flush() waits for the writes made before, stored or rejected", async () => {
  const flushed = Promise.withResolvers<boolean>();
  await using at = await Fixture.make({
    authorizeChange: ({ value }) => value === "late" ? flushed.promise : value !== "no",
  });
  using state = await at.open();
  await state.flush();
  const notes = state.collection<string>("notes");
  await at.offline(state);
  const writing = outcomes([notes.set("1", "a"), notes.set("2", "no")]);
  const flushing = state.flush();
  const later = notes.update("1", () => "late");
  const reason = new Error("Enough");
  const signal = AbortSignal.abort(reason);
  assertEquals(await state.flush({ signal }).catch((error) => error), reason);
  await assertRejects(() => state.flush({ timeoutMs: 1 }), TimeoutError, "all writes");
  at.online();
  await flushing;
  assertEquals([await writing, state.pendingWrites.current], [["stored", "forbidden"], 1]);
  flushed.resolve(true);
  assertEquals(await later, at.list.version);
});

Deno.test("ClientState.pendingWrites is a feed of the number of writes", async () => {
  await using at = await Fixture.make();
  const state = await at.open();
  const counts: number[] = [];
  using _following = state.pendingWrites.subscribe((count) => void counts.push(count));
  const notes = state.collection<string>("notes");
  await at.offline(state);
  const writing = [notes.set("1", "a"), notes.set("1", "b"), notes.set("2", "a")];
  assertEquals(counts, [0, 1, 2]);
  at.online();
  await Promise.all(writing);
  assertEquals(counts, [0, 1, 2, 1, 0]);
  state[Symbol.dispose]();
  assertEquals([state.pendingWrites.isEnded, state.pendingWrites.current], [true, 0]);
});

Deno.test("ClientState lets a callback of pendingWrites write", async () => {
  await using at = await Fixture.make();
  using state = await at.open();
  const notes = state.collection<string>("notes");
  let more: Promise<number> | undefined;
  using _following = state.pendingWrites.subscribe((count) => {
    if (count === 0 && notes.has("1")) more ??= notes.set("2", "more");
  });
  await notes.set("1", "a");
  await more;
  assertEquals([...at.list.collection("notes").keys()], ["1", "2"]);
});

Deno.test("ClientState waits for its writes with await using, at most closeTimeoutMs", async () => {
  let writing: Promise<string[]>;
  await using patient = await Fixture.make({ client: { closeTimeoutMs: 60_000 } });
  const lines = await printed(async () => {
    await using state = await patient.open();
    writing = outcomes([state.collection("notes").set("1", "a")]);
  });
  assertEquals([await writing!, lines], [["stored"], []]);
  await using at = await Fixture.make({ client: { closeTimeoutMs: 50 } });
  let late: Promise<string[]> | undefined;
  const more = await printed(async () => {
    await using state = await at.open();
    const notes = state.collection<string>("notes");
    await at.offline(state);
    writing = outcomes([notes.set("1", "b"), notes.set("2", "b")]);
    late = new Promise((resolve) => {
      queueMicrotask(() => queueMicrotask(() => resolve(outcomes([notes.set("3", "b")]))));
    });
  });
  const closed = 'SessionClosedError: The state "list:1" was closed';
  assertEquals([await writing!, await late], [[closed, closed], [closed]]);
  assertEquals(more, [
    'Skein: The state "list:1" was closed while 2 writes waited for the server; ' +
    'wait with flush() or "await using"',
  ]);
});

Deno.test("ClientState says at once how many writes a dispose has dropped", async () => {
  await using at = await Fixture.make();
  let writing: Promise<string[]>;
  const lines = await printed(async () => {
    using state = await at.open();
    await at.offline(state);
    writing = outcomes([state.collection("notes").set("1", "a")]);
  });
  assertEquals(lines.length, 1);
  assertStringIncludes(lines[0]!, '"list:1" was closed while 1 write waited');
  assertEquals(await writing!, ['SessionClosedError: The state "list:1" was closed']);
});

Deno.test("Two handles of a state in a client share rows, and end on their own", async () => {
  await using at = await Fixture.make();
  await at.list.collection("notes").set("1", "a");
  const [one, two] = [await at.open(), await at.open({ onConflict: () => "theirs" })];
  const [notes, others] = [one.collection<string>("notes"), two.collection<string>("notes")];
  const seen: (string | undefined)[] = [];
  const following = others.subscribe((rows) => void seen.push(rows.get("1")));
  const writing = notes.set("1", "b");
  assertEquals([others.get("1"), two.pendingWrites.current, one.pendingWrites.current], [
    "b",
    0,
    1,
  ]);
  await writing;
  assertEquals([seen, others.get("1") === notes.get("1")], [["a", "b"], true]);
  // Each handle has its own writes, which are not merged, and its own onConflict.
  await at.offline(one);
  const both = outcomes([notes.set("1", "one"), others.set("1", "two"), others.set("2", "two")]);
  await at.list.collection("notes").set("1", "theirs");
  at.online();
  await one.flush();
  await two.flush();
  assertEquals(await both, ["stored", "stored", "stored"]);
  await at.offline(one);
  const dropped = outcomes([notes.set("3", "one")]);
  const kept = outcomes([others.set("3", "two")]);
  const ending = Array.fromAsync(notes);
  const changes = Array.fromAsync(one.changes());
  const lines = await printed(() => one[Symbol.dispose]());
  assertEquals([lines.length, await dropped], [1, [
    'SessionClosedError: The state "list:1" was closed',
  ]]);
  await Promise.all([ending, changes]);
  assertEquals([one.status.current, two.status.current, others.get("3")], ["ended", "lost", "two"]);
  await assertRejects(() => notes.set("4", "late"), SessionClosedError);
  at.online();
  assertEquals(await kept, ["stored"]);
  await until(() => two.status.current === "live");
  await at.list.collection("notes").set("1", "on");
  await until(() => others.get("1") === "on");
  following();
  two[Symbol.dispose]();
  // The last handle has ended the subscription. The next one reads the rows anew.
  using three = await at.open();
  assertEquals(three.collection("notes").get("1"), "on");
});

Deno.test("A handle of a state ends with its own ephemeral rows only", async () => {
  const cursors = { schema: z.object({ x: z.number() }), ephemeral: true };
  await using at = await Fixture.make({
    contract: defineContract({ state: { "list:{id}": { cursors } } }),
  });
  const [one, two] = [await at.open(), await at.open()];
  await one.collection("cursors").set("a", { x: 1 });
  await two.collection("cursors").set("b", { x: 1 });
  const own = at.list.collection("cursors");
  await until(() => own.size === 2);
  one[Symbol.dispose]();
  await until(() => own.size === 1 && two.collection("cursors").size === 1);
  assertEquals(two.collection("cursors").get("b"), { x: 1 });
  two[Symbol.dispose]();
  await until(() => own.size === 0);
});

/** A server that knows users by their tokens, and a client whose token a test can change. */
async function signedIn(first: string | null): Promise<{
  readonly at: Fixture;
  readonly authors: string[];
  /** Changes the token. Resolves when the client has asked for it in an attempt to connect. */
  signIn(token: string | null): Promise<void>;
}> {
  let token = first;
  let asked = first;
  const authors: string[] = [];
  const cursors = { schema: z.object({ x: z.number() }), ephemeral: true };
  const at = await Fixture.make({
    contract: defineContract({ state: { "list:{id}": { notes: z.string(), cursors } } }),
    authorizeChange: ({ user, key, value }) => {
      authors.push(`${user ?? "guest"} ${key} ${JSON.stringify(value)}`);
      return true;
    },
    server: {
      authenticate: ({ token }: { readonly token?: string }) => token ?? guest,
      tokens: { inMessage: true },
      presence: { graceMs: 100 },
    },
    client: { token: () => asked = token },
  });
  const signIn = async (next: string | null) => {
    token = next;
    await until(() => asked === next);
  };
  return { at, authors, signIn };
}

Deno.test("ClientState sends no write as another user than it was made as", async () => {
  const { at, authors, signIn } = await signedIn("ann");
  await using _ = at;
  using state = await at.open();
  const notes = state.collection<string>("notes");
  const cursors = state.collection("cursors");
  await notes.set("1", "online");
  await cursors.set("ann", { x: 1 });
  // The same user returns.
  await at.offline(state);
  const kept = outcomes([notes.set("1", "kept"), cursors.set("ann", { x: 2 })]);
  at.online();
  assertEquals(await kept, ["stored", "stored"]);
  // Another one returns.
  await at.offline(state);
  const dropped = outcomes([
    notes.set("1", "dropped"),
    notes.update("1", (text) => `${text}!`),
    notes.set("2", "a"),
    notes.set("2", "b"),
    cursors.set("ann", { x: 3 }),
  ]);
  await signIn("bob");
  at.online();
  assertEquals(new Set(await dropped), new Set(["other-user"]));
  assertEquals([notes.get("1"), notes.has("2"), state.pendingWrites.current], ["kept", false, 0]);
  await notes.set("3", "of bob");
  await until(() => !cursors.has("ann"));
  assertEquals(authors, [
    'ann 1 "online"',
    'ann ann {"x":1}',
    'ann 1 "kept"',
    'ann ann {"x":2}',
    'bob 3 "of bob"',
  ]);
});

Deno.test("ClientState keeps the writes of a guest who stays the same, and drops them at a sign-in", async () => {
  const { at, authors, signIn } = await signedIn(null);
  await using _ = at;
  // Before its first session, the client is no other user.
  const state = await at.client.state("list:1");
  const notes = state.collection<string>("notes");
  assertEquals(await outcomes([notes.set("1", "first")]), ["stored"]);
  await state.ready;
  await at.offline(state);
  const kept = outcomes([notes.set("1", "kept")]);
  at.online();
  assertEquals(await kept, ["stored"]);
  await at.offline(state);
  const dropped = outcomes([notes.set("1", "dropped")]);
  await signIn("ann");
  at.online();
  assertEquals(await dropped, ["other-user"]);
  assertEquals(authors, ['guest 1 "first"', 'guest 1 "kept"']);
  state[Symbol.dispose]();
});

Deno.test("ClientState divides ephemeral rows among messages that the server accepts", async () => {
  const notes = { schema: z.string(), ephemeral: true };
  await using at = await Fixture.make({
    contract: defineContract({ state: { "list:{id}": { notes } } }),
    server: { session: { maxMessageBytes: 4_096 } },
  });
  using state = await at.open();
  const rows = state.collection<string>("notes");
  const writing = Array.from({ length: 10 }, (_, i) => rows.set(`${i}`, "x".repeat(1_000)));
  assertEquals(new Set(await outcomes(writing)), new Set(["stored"]));
  assertEquals(await outcomes([rows.set("a", "x".repeat(4_090))]), ["too-large"]);
  assertEquals([rows.has("a"), at.list.collection("notes").size], [false, 10]);
});
