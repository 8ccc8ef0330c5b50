import { assert, assertEquals, assertMatch } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { connect } from "../client.ts";
import { guest, type ServerUrl } from "../mod.ts";
import { passTime, type TestServer, testServer, turns } from "../testing/mod.ts";
import { listen } from "../tests/servers.ts";
import { soon, until } from "../tests/waiting.ts";
import "./recovery.ts"; // Loaded before fake time passes.
import type { Client } from "./client.ts";
import type { ClientOptions, Dialer } from "./client_options.ts";
import { connectBy } from "./connect.ts";
import { denoPlatform } from "./deno.ts";
import type { Tab } from "./guest.ts";

/** The storage of a browser's tab, which survives its pages. */
class FakeStorage {
  readonly items = new Map<string, string>();

  getItem(key: string): string | null {
    return this.items.get(key) ?? null;
  }

  removeItem(key: string): void {
    this.items.delete(key);
  }

  setItem(key: string, item: string): void {
    this.items.set(key, item);
  }
}

/** A server, and a tab of a browser that shows its pages. */
class Site implements AsyncDisposable {
  readonly server: TestServer<string | typeof guest> = testServer({
    authenticate: ({ token }) => token ?? guest,
    tokens: { inMessage: true },
    authorize: () => true,
    rooms: ["room:{name}"],
  });
  readonly storage = new FakeStorage();
  readonly #clients: Client[] = [];

  /** Opens a page of the site. */
  open(storage: Tab["sessionStorage"] = this.storage): FakePage {
    return new FakePage(this, storage);
  }

  /** Connects a client of a page. */
  connect(tab: Tab, options: ClientOptions = {}, url: ServerUrl = "ws://server/"): Client {
    const dial: Dialer = (url, { protocols }) => {
      const { pathname, search } = new URL(url);
      return this.server.open({ path: pathname + search, protocols });
    };
    const client = connectBy(() => ({ ...denoPlatform(dial), tab }), url, options);
    client.status.subscribe(() => {});
    this.#clients.push(client);
    return client;
  }

  /** Returns the user of a client's session on the server. */
  async userOf(client: Client): Promise<string> {
    const { id } = await soon(client.whenConnected());
    return this.server.manager.get(id)!.user;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.server[Symbol.asyncDispose]();
  }
}

/** One page of a tab, with its clients. */
class FakePage extends EventTarget implements Tab {
  readonly sessionStorage: Tab["sessionStorage"];
  readonly #site: Site;
  readonly #clients: Client[] = [];

  constructor(site: Site, storage: Tab["sessionStorage"]) {
    super();
    this.#site = site;
    this.sessionStorage = storage;
  }

  /** Connects a client of this page. */
  connect(options?: ClientOptions, url?: ServerUrl): Client {
    const client = this.#site.connect(this, options, url);
    this.#clients.push(client);
    return client;
  }

  /** Connects a client, and returns the user of its session on the server. */
  async user(options?: ClientOptions, url?: ServerUrl): Promise<string> {
    return await this.#site.userOf(this.connect(options, url));
  }

  /** Hides the page; its clients lose their sessions. */
  hide(): void {
    this.dispatchEvent(new Event("pagehide"));
    for (const client of this.#clients) {
      if (client.isConnected) this.#site.server.network.linkOf(client).disconnect();
    }
  }

  /** Hides the page, and loads it again. */
  async reload(): Promise<FakePage> {
    this.hide();
    const storage = this.sessionStorage as FakeStorage;
    const { items } = storage;
    const left = [...items];
    // The scripts of the old page no longer run, so these closes must have no effect.
    await Promise.all(this.#clients.map((client) => client.close()));
    items.clear();
    for (const [key, item] of left) items.set(key, item);
    return this.#site.open(storage);
  }
}

/** An event of a page that the browser restores from its cache, or loads. */
function shown(persisted: boolean): Event {
  return Object.assign(new Event("pageshow"), { persisted });
}

Deno.test("A guest of a page stays the same member of a room through reloads, without notices", async () => {
  using time = new FakeTime();
  await using site = new Site();
  const { server, storage } = site;
  const page = site.open();
  await using watcher = server.connect({ token: "ann" });
  const seen = new Set<string>();
  const sizes = new Set<number>();
  watcher.members("room:a").subscribe((members) => {
    sizes.add(members.size);
    for (const user of members.keys()) seen.add(user);
  });
  await until(() => seen.has("ann"));
  let current = page;
  const users = new Set<string>();
  for (let visits = 0; visits < 4; visits++) {
    const client = current.connect();
    users.add(await site.userOf(client));
    await client.subscribe("room:a").ready;
    assertEquals(storage.items.size, 0, "the storage has no secret in use");
    await passTime(time, 10_000);
    assertEquals(server.rooms.members("room:a").length, 2);
    current = await current.reload();
    assertEquals([...storage.items.keys()], ["skein guest ws://server/"]);
    assertMatch([...storage.items.values()][0]!, /^\.[\w-]{22}$/);
    await passTime(time, 1_000);
  }
  // The empty list is the one before the first notice.
  assertEquals([...seen, ...sizes], ["ann", ...users, 0, 1, 2]);
});

Deno.test("A copy of a tab, and a second client of a page, are other guests", async () => {
  await using site = new Site();
  const { storage } = site;
  const page = site.open();
  const first = await page.user();
  const again = await page.reload();
  assertEquals(await again.user(), first);
  // A browser copies the storage when it duplicates a tab, or opens a window from a page.
  const copied = Object.assign(new FakeStorage(), { items: new Map(storage.items) });
  const copy = site.open(copied);
  const second = await again.user();
  const other = await copy.user();
  assertEquals(new Set([first, second, other]).size, 3);
  // After that, the copy is a guest of its own.
  assertEquals(await (await copy.reload()).user(), other);
  const last = await again.reload();
  assertEquals(await last.user(), first);
  assert(![first, second, other].includes(await last.user()));
});

Deno.test("A page is a guest of its own on each server, at whatever query", async () => {
  await using site = new Site();
  const page = site.open();
  const urls: ServerUrl[] = ["ws://server/?room=1", "ws://other/", () => "ws://other/b"];
  const users = [];
  for (const url of urls) users.push(await page.user({}, url));
  assertEquals(new Set(users).size, 3);
  const again = await page.reload();
  const after = [await again.user({}, ["ws://server/?room=2", "ws://nobody/"])];
  for (const url of urls.slice(1)) after.push(await again.user({}, url));
  assertEquals(after, users);
});

Deno.test("Signing in removes the guest of a page", async () => {
  for (const isReloaded of [true, false]) {
    using time = new FakeTime();
    await using site = new Site();
    const { server, storage } = site;
    const page = site.open();
    const login: { token?: string } = {};
    const client = page.connect({ token: () => login.token });
    const first = await site.userOf(client);
    login.token = "ann";
    let signedIn = page;
    if (isReloaded) {
      signedIn = await page.reload();
      assertEquals(await signedIn.user(login), "ann");
    } else {
      server.network.disconnect();
      await passTime(time, 20_000);
      assertEquals(await site.userOf(client), "ann");
    }
    const later = await signedIn.reload();
    assertEquals(storage.items.size, 0);
    const next = await later.user();
    assert(next.startsWith("guest:") && next !== first);
  }
});

Deno.test("Client.forget() makes the next session another guest", async () => {
  await using site = new Site();
  const { storage } = site;
  const page = site.open();
  const users: string[] = [];
  let current = page;
  const ways: ((client: Client) => unknown)[] = [
    (client) => client.forget(),
    async (client) => {
      client.forget();
      client.forget();
      await client.handOver();
      assertEquals(await site.userOf(client), users.at(-1), "a move is no new session");
    },
    async (client) => {
      await client.close();
      client.forget();
    },
  ];
  for (const way of ways) {
    const client = current.connect();
    users.push(await site.userOf(client));
    await way(client);
    current = await current.reload();
    assertEquals(storage.items.size, 0);
  }
  users.push(await current.user());
  current = await current.reload();
  const early = current.connect();
  early.forget();
  users.push(await site.userOf(early));
  assertEquals(new Set(users).size, 5);
  // From then on, the new guest stays the same.
  current = await current.reload();
  assertEquals(await current.user(), users.at(-1));
});

Deno.test("Client.forget() makes a client on any platform another guest after a reconnect", async () => {
  using time = new FakeTime();
  await using site = new Site();
  const { server } = site;
  await using client = server.connect();
  const users = [await site.userOf(client)];
  for (const forgets of [false, true, false]) {
    if (forgets) client.forget();
    server.network.disconnect();
    await passTime(time, 20_000);
    users.push(await site.userOf(client));
  }
  assertEquals([users[0], users[2]], [users[1], users[3]]);
  assert(users[1] !== users[2]);
});

Deno.test("A page that is reloaded before it connects keeps its guest", async () => {
  using time = new FakeTime();
  await using site = new Site();
  const { server } = site;
  const page = site.open();
  const first = await page.user();
  let current = await page.reload();
  server.network.down();
  for (let tries = 0; tries < 3; tries++) {
    const client = current.connect();
    await passTime(time, 2_000);
    assertEquals(client.isConnected, false);
    current = await current.reload();
  }
  server.network.up();
  assertEquals(await current.user(), first);
});

Deno.test("A page that comes back from the browser's cache takes its guest back", async () => {
  using time = new FakeTime();
  await using site = new Site();
  const { server, storage } = site;
  const page = site.open();
  const client = page.connect();
  const second = page.connect();
  const users = [await site.userOf(client), await site.userOf(second)];
  // Another page of the tab is the same guest.
  page.hide();
  let other = site.open();
  assertEquals(await other.user(), users[0]);
  await other.reload();
  page.dispatchEvent(shown(true));
  assertEquals(storage.items.size, 0);
  server.network.disconnect();
  await passTime(time, 20_000);
  assertEquals([await site.userOf(client), await site.userOf(second)], users);
  // If the other page has forgotten the guest, this page has, too.
  page.hide();
  other = site.open();
  const forgetful = other.connect();
  assertEquals(await site.userOf(forgetful), users[0]);
  forgetful.forget();
  await other.reload();
  server.network.disconnect();
  page.dispatchEvent(shown(false));
  page.dispatchEvent(shown(true));
  await passTime(time, 40_000);
  assert(!users.includes(await site.userOf(client)));
  assertEquals(await site.userOf(second), users[1]);
});

Deno.test("A client that replaces a closed one in the same turn is the same guest", async () => {
  await using site = new Site();
  const page = site.open();
  const client = page.connect();
  const first = await site.userOf(client);
  const link = site.server.network.linkOf(client);
  link.stall(); // The close waits for the server.
  client.send("note", "x".repeat(100_000));
  const closing = client.close();
  assertEquals(await page.user(), first);
  link.disconnect();
  await closing;
  assertEquals(site.storage.items.size, 0, "the storage has no secret in use");
  assert(await page.user() !== first);
});

Deno.test("A page without usable storage connects, and is a new guest after a reload", async () => {
  const full = Object.assign(new FakeStorage(), {
    setItem() {
      throw new DOMException("Full", "QuotaExceededError");
    },
  });
  const odd = Object.assign(new FakeStorage(), { getItem: () => "#&token=eve" });
  for (const storage of [full, odd, null, "blocked"] as const) {
    await using site = new Site();
    const open = () => {
      const page = site.open(storage === "blocked" ? null : storage);
      if (storage !== "blocked") return page;
      return Object.defineProperty(page, "sessionStorage", {
        get() {
          throw new DOMException("Blocked", "SecurityError");
        },
      });
    };
    const page = open();
    const client = page.connect();
    const first = await site.userOf(client);
    page.dispatchEvent(new Event("pagehide"));
    await client.close();
    const second = await open().user();
    assert(second.startsWith("guest:") && second !== first);
  }
});

Deno.test("A page's client in Deno doesn't use the storage of the process", async () => {
  sessionStorage.clear();
  await using server = listen();
  {
    await using client = connect(server.url, { transports: ["websocket"] });
    await soon(client.whenConnected());
    globalThis.dispatchEvent(new Event("pagehide"));
    await turns();
  }
  assertEquals(sessionStorage.length, 0);
});
