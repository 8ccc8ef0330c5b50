/**
 * Tests the Yjs provider from the examples: documents converge despite failing networks, nodes and
 * clients.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { applyAwarenessUpdate, Awareness } from "npm:y-protocols@^1/awareness";
import * as Y from "npm:yjs@^13.6";
import { YjsProvider, type YjsProviderOptions } from "../../examples/adapters/yjs_client.ts";
import {
  YjsDocuments,
  type YjsDocumentsOptions,
  type YjsStore,
} from "../../examples/adapters/yjs_server.ts";
import { type Client, guest, type RequestError, type Session } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import { type TestServer, testServer } from "../../testing/mod.ts";
import { Random } from "../random.ts";
import { until } from "../waiting.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const QUICK = { backoff: { firstDelayMs: 5, maxDelayMs: 20 } };

/** An in-memory store that several nodes share. */
class MemoryStore implements YjsStore {
  readonly states = new Map<string, Uint8Array>();
  replaced = 0;

  load(name: string): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.states.get(name));
  }

  replace(name: string, change: (state: Uint8Array | undefined) => Uint8Array): void {
    this.states.set(name, change(this.states.get(name)));
    this.replaced++;
  }
}

/** The nodes of one service. */
class Site implements AsyncDisposable {
  readonly store = new MemoryStore();
  readonly nodes: {
    readonly server: TestServer<string | typeof guest>;
    readonly documents: YjsDocuments;
  }[] = [];
  readonly errors: unknown[] = [];
  readonly #broker = new MemoryBroker();
  readonly #options: Partial<YjsDocumentsOptions>;

  constructor(options: Partial<YjsDocumentsOptions> = {}, nodes = 1) {
    this.#options = options;
    for (let i = 0; i < nodes; i++) this.nodes.push(this.#node());
  }

  get server(): TestServer<string | typeof guest> {
    return this.nodes[0]!.server;
  }

  get documents(): YjsDocuments {
    return this.nodes[0]!.documents;
  }

  #node(): Site["nodes"][number] {
    const documents = new YjsDocuments({
      store: this.store,
      authorize: () => true,
      saveAfterMs: 20,
      onError: (error) => this.errors.push(error),
      ...this.#options,
    });
    const server = testServer({
      broker: this.#broker,
      history: documents.history,
      requests: documents.requests,
      authenticate: ({ token }) => token ?? guest,
      tokens: { inMessage: true },
      authorize: (session, topic, action) => documents.authorize(session, topic, action),
    });
    documents.attach(server);
    return { server, documents };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { documents } of this.nodes) await documents.flush();
    for (const { server } of this.nodes) await server[Symbol.asyncDispose]();
    await this.#broker.close();
  }
}

/** A page with a document. */
class Page implements AsyncDisposable {
  readonly doc = new Y.Doc();
  readonly provider: YjsProvider;
  readonly client: Client;
  readonly errors: unknown[] = [];
  readonly server: TestServer<string | typeof guest>;

  constructor(
    server: TestServer<string | typeof guest>,
    name = "a",
    options: Partial<YjsProviderOptions> = {},
    token?: string,
  ) {
    this.server = server;
    this.client = server.connect({ ...QUICK, ...(token !== undefined && { token }) });
    this.provider = this.open(name, this.doc, options);
  }

  open(name: string, doc: Y.Doc, options: Partial<YjsProviderOptions> = {}): YjsProvider {
    return new YjsProvider(this.client, {
      name,
      doc,
      onError: (error) => this.errors.push(error),
      ...options,
    });
  }

  get text(): Y.Text {
    return this.doc.getText();
  }

  cut(): void {
    if (this.client.session) this.server.network.linkOf(this.client).disconnect();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.provider.destroy();
    await this.client.close();
    this.doc.destroy();
  }
}

/** Waits until the pages' documents have equal states and no unsent changes. */
async function equal(pages: readonly Page[]): Promise<void> {
  await until(() => pages.every(({ provider }) => provider.isSaved));
  const same = () => pages.every(({ doc }) => stateOf(doc) === stateOf(pages[0]!.doc));
  await until(same);
}

function stateOf(doc: Y.Doc): string {
  const { ds, sv } = Y.snapshot(doc);
  const deleted = [...ds.clients].sort(([a], [b]) => a - b);
  const map = Object.entries(doc.getMap("m").toJSON()).sort();
  return JSON.stringify([doc.getText().toString(), map, [...sv].sort(), deleted]);
}

Deno.test("YjsProvider syncs documents, also for a client that joins later", async () => {
  await using site = new Site();
  await using ann = new Page(site.server);
  await using bob = new Page(site.server);
  await Promise.all([ann.doc.whenSynced, bob.doc.whenSynced]);
  ann.text.insert(0, "Hello");
  await until(() => bob.text.toString() === "Hello");
  bob.text.insert(5, " world");
  ann.text.delete(0, 1);
  ann.text.insert(0, "J");
  await equal([ann, bob]);
  await using eve = new Page(site.server);
  await eve.doc.whenSynced;
  assertEquals(eve.text.toString(), "Jello world");
  const history = await Array.fromAsync(site.server.topics.read("yjs:a"));
  await using other = new Page(site.server);
  await other.doc.whenSynced;
  await until(() => other.provider.isSaved);
  const after = await Array.fromAsync(site.server.topics.read("yjs:a"));
  assertEquals(after.length, history.length, "a new client has nothing to send");
  assertEquals((await site.documents.read("a")).getText().toString(), "Jello world");
});

slowTest(
  "YjsProvider syncs documents after random edits, lost connections and absences",
  async () => {
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      // With a history of only 16 updates, a client that was offline soon misses some.
      await using site = new Site({ historySize: 16, saveAfterMs: 1 }, 2);
      const pages: Page[] = [];
      for (let i = 0; i < 12; i++) pages.push(new Page(site.nodes[i % 2]!.server, `doc/${i % 3}`));
      for (let step = 0; step < 400; step++) {
        const { provider, doc, client } = random.pick(pages);
        const page = random.pick(pages);
        const text = doc.getText();
        switch (random.below(12)) {
          case 0:
            page.cut();
            break;
          case 1:
            text.delete(random.below(text.length + 1), 0);
            if (text.length > 4) text.delete(random.below(text.length - 4), 1 + random.below(4));
            break;
          case 2:
            doc.getMap("m").set(`k${random.below(5)}`, random.below(1_000));
            break;
          case 3:
            for (const { server } of site.nodes) if (random.below(8) === 0) server.network.down();
            break;
          case 4:
            for (const { server } of site.nodes) server.network.up();
            break;
          case 5:
            await new Promise((resolve) => setTimeout(resolve, random.below(8)));
            break;
          default:
            text.insert(random.below(text.length + 1), `${random.below(100)},`);
        }
        assert(!client.status.isEnded && provider.doc === doc);
      }
      for (const { server } of site.nodes) server.network.up();
      for (let name = 0; name < 3; name++) {
        const readers = pages.filter((_, i) => i % 3 === name);
        await equal(readers);
        await using late = new Page(site.server, `doc/${name}`);
        await late.doc.whenSynced;
        await equal([late, ...readers]);
        assertEquals(stateOf(await site.documents.read(`doc/${name}`)), stateOf(late.doc));
      }
      for (const page of pages) {
        assertEquals(page.errors, [], `seed ${seed}`);
        await page[Symbol.asyncDispose]();
      }
      assertEquals(site.errors, []);
    }
  },
);

Deno.test("YjsProvider merges edits of both sides after an absence longer than the history", async () => {
  await using site = new Site({ historySize: 5, saveAfterMs: 1 });
  await using ann = new Page(site.server);
  await using bob = new Page(site.server);
  await Promise.all([ann.doc.whenSynced, bob.doc.whenSynced]);
  ann.text.insert(0, "base ");
  await equal([ann, bob]);
  const link = site.server.network.linkOf(ann.client);
  site.server.network.down();
  link.disconnect();
  await bob.client.status.current;
  ann.text.insert(0, "ann ");
  site.server.network.up();
  await bob.client.whenConnected();
  for (let i = 0; i < 40; i++) {
    bob.text.insert(bob.text.length, `${i} `);
    await bob.provider.whenSaved();
  }
  await equal([ann, bob]);
  assert(bob.text.toString().startsWith("ann base 0 1 "));
  assert(site.store.replaced > 0);
});

Deno.test("YjsProvider sends a large update in pieces, and stores it before others request it", async () => {
  await using site = new Site();
  await using ann = new Page(site.server);
  await using bob = new Page(site.server);
  await Promise.all([ann.doc.whenSynced, bob.doc.whenSynced]);
  const large = "x".repeat(1_000_000);
  ann.text.insert(0, large);
  await equal([ann, bob]);
  assertEquals(bob.text.length, 1_000_000);
  const history = await Array.fromAsync(site.server.topics.read("yjs:a"));
  assertEquals(history.map(({ data }) => (data as Uint8Array).length), [0]);
  assert(site.store.states.get("a")!.length > 1_000_000);

  ann.text.insert(0, "x".repeat(9_000_000));
  await until(() => ann.errors.length > 0);
  assertEquals((ann.errors[0] as RequestError).failure.code, "too-large");
});

Deno.test("YjsProvider does not send received updates back", async () => {
  await using site = new Site();
  const pages = [0, 1, 2].map(() => new Page(site.server));
  await Promise.all(pages.map(({ doc }) => doc.whenSynced));
  for (let i = 0; i < 20; i++) {
    pages[i % 3]!.text.insert(0, `${i}`);
    await equal(pages);
  }
  const history = await Array.fromAsync(site.server.topics.read("yjs:a"));
  assertEquals(history.length, 20);
  pages[0]!.cut();
  await until(() => pages[0]!.provider.doc.isSynced && pages[0]!.client.isConnected);
  await equal(pages);
  assertEquals((await Array.fromAsync(site.server.topics.read("yjs:a"))).length, 20);
  for (const page of pages) await page[Symbol.asyncDispose]();
});

Deno.test("YjsDocuments keeps a history within its bounds, and all updates in the store", async () => {
  await using site = new Site({ saveAfterMs: 60_000 });
  await using ann = new Page(site.server);
  await ann.doc.whenSynced;
  for (let i = 0; i < 450; i++) {
    ann.text.insert(0, "x");
    await ann.provider.whenSaved();
  }
  assertEquals(site.store.replaced, 2, "each 200 updates");
  await site.documents.flush();
  const doc = new Y.Doc();
  Y.applyUpdate(doc, site.store.states.get("a")!);
  assertEquals(doc.getText().length, 450);
});

Deno.test("YjsDocuments recovers updates of a node that died before it stored them", async () => {
  await using site = new Site({ saveAfterMs: 20 });
  const dead = new YjsDocuments({ store: site.store, authorize: () => true, saveAfterMs: 1e9 });
  dead.attach(site.server);
  const doc = new Y.Doc();
  doc.getText().insert(0, "left behind");
  await dead.apply("a", Y.encodeStateAsUpdate(doc));
  assertEquals(site.store.replaced, 0);
  assertEquals((await site.documents.read("a")).getText().toString(), "left behind");
  await until(() => site.store.replaced > 0);
  await dead.flush();
});

Deno.test("YjsDocuments retries to store, and accepts edits meanwhile", async () => {
  await using site = new Site({ saveAfterMs: 1 });
  const { replace } = site.store;
  let failures = 0;
  site.store.replace = () => {
    failures++;
    throw new Error("The disk is full");
  };
  await using ann = new Page(site.server);
  await ann.doc.whenSynced;
  ann.text.insert(0, "kept");
  await ann.provider.whenSaved();
  await until(() => failures > 2);
  assertEquals(String(site.errors[0]), "Error: The disk is full");
  site.store.replace = replace;
  await until(() => site.store.states.has("a"));
});

Deno.test("YjsDocuments delays edits while the store is unavailable, and loses none", async () => {
  await using site = new Site({ saveAfterMs: 60_000 });
  const { replace } = site.store;
  site.store.replace = () => {
    throw new Error("The disk is full");
  };
  await using ann = new Page(site.server);
  await ann.doc.whenSynced;
  for (let i = 0; i < 200; i++) {
    ann.text.insert(0, "x");
    await ann.provider.whenSaved();
  }
  ann.text.insert(0, "y");
  const saving = ann.provider.whenSaved();
  await until(() => site.errors.length > 0);
  assertEquals([ann.provider.isSaved, ann.errors], [false, []]);
  site.store.replace = replace;
  await saving;
  assertEquals((await site.documents.read("a")).getText().length, 201);
});

Deno.test("YjsDocuments reports no error when the server closes before its pages", async () => {
  const site = new Site();
  const page = new Page(site.server);
  await page.doc.whenSynced;
  page.provider.awareness.setLocalStateField("user", "ann");
  page.text.insert(0, "kept");
  await page.provider.whenSaved();
  await site[Symbol.asyncDispose]();
  await until(() => !page.client.isConnected);
  assertEquals(site.errors, []);
  await page[Symbol.asyncDispose]();
});

Deno.test("YjsDocuments rejects edits and readers without permission, and invalid updates", async () => {
  await using site = new Site({
    authorize: ({ user }: Session, _name, action) =>
      user !== "eve" && (user === "ann" || action === "read"),
  });
  await using ann = new Page(site.server, "a", {}, "ann");
  await using bob = new Page(site.server, "a", {}, "bob");
  await using eve = new Page(site.server, "a", {}, "eve");
  await Promise.all([ann.doc.whenSynced, bob.doc.whenSynced]);
  bob.text.insert(0, "not allowed");
  await until(() => bob.errors.length > 0 && eve.errors.length > 0);
  for (const page of [bob, eve]) {
    assertEquals((page.errors[0] as RequestError).failure.code, "forbidden");
  }
  ann.text.insert(0, "allowed");
  await until(() => bob.text.toString().includes("not allowed") && bob.text.length === 18);
  assertEquals(ann.text.toString(), "allowed");

  const session = await ann.client.whenConnected();
  for (
    const [topic, data] of [
      ["yjs-update:a", new Uint8Array([3, 9, 9, 9])],
      ["yjs-update:a", new Uint8Array([2])],
      ["yjs-update:a", "text"],
      ["yjs-update:a", undefined],
      ["yjs-sync:a", new Uint8Array([255, 255])],
      ["yjs-awareness:a", new Uint8Array([0, 7])],
    ] as const
  ) {
    const error = await assertRejects(() => session.request(topic, data)) as RequestError;
    assertEquals(error.failure.code, "invalid", topic);
  }
  assertEquals(ann.errors, []);
});

Deno.test("YjsProvider shows the users present, and shows a vanished client again after it returns", async () => {
  await using site = new Site({}, 2);
  await using ann = new Page(site.nodes[0]!.server);
  ann.provider.awareness.setLocalStateField("user", "ann");
  await ann.doc.whenSynced;
  await using bob = new Page(site.nodes[1]!.server);
  bob.provider.awareness.setLocalStateField("user", "bob");
  const seenBy = ({ provider }: Page) =>
    [...provider.awareness.getStates().values()].map(({ user }) => user as string).sort().join();
  await until(() => seenBy(ann) === "ann,bob" && seenBy(bob) === "ann,bob");
  bob.provider.awareness.setLocalStateField("user", "robert");
  await until(() => seenBy(ann) === "ann,robert");

  // Bob reconnects: the end of the old session must not affect the new one.
  bob.cut();
  await until(() => bob.client.isConnected && seenBy(bob) === "ann,robert");
  await until(() => seenBy(ann) === "ann,robert");

  site.nodes[1]!.server.network.down();
  await until(() => seenBy(ann) === "ann");
  assertEquals(seenBy(bob), "robert");
  site.nodes[1]!.server.network.up();
  await until(() => seenBy(ann) === "ann,robert" && seenBy(bob) === "ann,robert");
  await bob.provider.destroy();
  await until(() => seenBy(ann) === "ann");
});

Deno.test("YjsProvider.destroy() releases everything", async () => {
  await using site = new Site();
  await using page = new Page(site.server);
  const doc = new Y.Doc();
  const awareness = new Awareness(doc);
  const others = new Awareness(new Y.Doc());
  const provider = page.open("b", doc, { awareness });
  await doc.whenSynced;
  awareness.setLocalState({ user: "ann" });
  const topics = () => site.server.topics.topicsOf([...site.server.manager.all()][0]!);
  assertEquals(topics().length, 4);
  await Promise.all([provider.destroy(), provider.destroy()]);
  await until(() => topics().length === 2);
  doc.getText().insert(0, "alone");
  assertEquals((await site.documents.read("b")).getText().length, 0);
  assertEquals([awareness.getLocalState(), awareness.getStates().size], [null, 0]);
  doc.destroy();
  others.destroy();
  applyAwarenessUpdate(others, new Uint8Array([0]), null);

  // Destroying a document also ends its provider.
  page.doc.destroy();
  await until(() => topics().length === 0);
});
