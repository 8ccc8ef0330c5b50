/**
 * Tests that what a page has written to a state is made once over real Redis, NATS and SQLite, if the
 * page ends without a notice and another one opens its store.
 */
import { assertEquals } from "@std/assert";
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import {
  contract,
  Fixture,
  keptOn,
  mutations,
  type Page,
  rowsOf,
} from "../../client/store/states/kept_fixture.ts";
import type { Broker, Contract } from "../../mod.ts";
import { until } from "../waiting.ts";
import { noTimers } from "./receiving.ts";
import { BROKERS } from "./stores.ts";

/** A store of a broker, which outlives the nodes. */
interface BrokerStore extends AsyncDisposable {
  kill(): Promise<void>;
  restart(): Promise<void>;
}

interface Started {
  readonly store: BrokerStore;
  readonly open: () => Broker | Promise<Broker>;
}

const STORES: { name: string; ignore: boolean; start: () => Promise<Started> }[] = [...BROKERS, {
  name: "SQLite",
  ignore: false,
  start: async () => {
    const folder = await Deno.makeTempDir();
    const store = {
      // The file is closed with its node.
      kill: () => Promise.resolve(),
      restart: () => Promise.resolve(),
      [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }),
    };
    return { store, open: () => SqliteBroker.open(`${folder}/skein.db`) };
  },
}];

/** A node with the state. */
async function nodeOn(broker: Broker) {
  const fixture = await Fixture.make({
    broker,
    contract: contract as unknown as Contract,
    states: { mutations } as never,
  });
  const stack = new AsyncDisposableStack();
  stack.use(broker);
  stack.use(fixture);
  return { fixture, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Opens a page at a node, whose store is on the disk of the first one. */
function open(node: Fixture, { disk }: Fixture): Promise<Page> {
  return node.page({
    store: keptOn(disk),
    contract: contract as never,
    state: { mutations: mutations as never },
  });
}

/** The writes of a page, by kind; `AFTER` has the rows that they make of `BEFORE`. */
const WRITES = {
  rows: ({ state }: Page) => {
    const items = state.collection("items");
    return [items.set("a", 2), items.delete("b"), items.insert("c", 3)];
  },
  mutations: ({ state }: Page) => [1, 2].map((by) => state.mutate.add!({ key: "a", by })),
};
const BEFORE = [["a", 1], ["b", 1]] as const;
const AFTER = {
  rows: [["a", 2], ["c", 3]],
  mutations: [["a", 4], ["b", 1]],
} satisfies Record<string, [string, number][]>;

/** Writes, and kills the page before a reply. */
async function writeAndDie(fixture: Fixture, kind: keyof typeof WRITES, isMade: boolean) {
  const page = await open(fixture, fixture);
  await until(() => page.state.status.current === "live");
  const freeze = () => fixture.cable.freeze();
  if (isMade) fixture.onWrite = freeze;
  else freeze();
  const writes = WRITES[kind](page);
  for (const writing of writes) writing.catch(() => {});
  await until(() => fixture.keptWrites === writes.length);
  const wanted = isMade ? AFTER[kind] : BEFORE;
  await until(() => JSON.stringify(rowsOf(fixture.list)) === JSON.stringify(wanted));
  fixture.onWrite = undefined;
  fixture.kill(page);
}

async function testWrites(
  { store, open: openBroker }: Started,
  { kind, isMade, isRestarted }: {
    readonly kind: keyof typeof WRITES;
    readonly isMade: boolean;
    readonly isRestarted: boolean;
  },
): Promise<void> {
  await using _store = store;
  await using stack = new AsyncDisposableStack();
  const first = stack.use(await nodeOn(await openBroker()));
  const node = first.fixture;
  for (const [key, value] of BEFORE) await node.list.collection("items").set(key, value);
  await writeAndDie(node, kind, isMade);
  const { version } = node.list;
  let last = node;
  if (isRestarted) {
    await store.kill();
    await first[Symbol.asyncDispose]();
    await store.restart();
    last = stack.use(await nodeOn(await openBroker())).fixture;
  }
  await using page = await open(last, node);
  await page.state.flush();
  await until(() => node.keptWrites === 0);
  assertEquals(rowsOf(last.list), AFTER[kind]);
  assertEquals(rowsOf(page.state), AFTER[kind]);
  if (isMade) assertEquals(last.list.version, version, "Nothing is written again");
  assertEquals({ dropped: page.store.dropped, errors: page.errors }, { dropped: [], errors: [] });
}

/** Writes at one node while the broker doesn't respond, and opens the next page at another one. */
async function testLimbo(
  { store, open: openBroker }: Awaited<ReturnType<(typeof BROKERS)[number]["start"]>>,
  { kind, isKilled }: { readonly kind: keyof typeof WRITES; readonly isKilled: boolean },
): Promise<void> {
  await using _store = store;
  await using near = await nodeOn(openBroker());
  await using far = await nodeOn(openBroker());
  const [one, two] = [near.fixture, far.fixture];
  for (const [key, value] of BEFORE) await one.list.collection("items").set(key, value);
  const { version } = one.list;
  const page = await open(one, one);
  await until(() => page.state.status.current === "live");
  // Nothing is sent before.
  await page.store.confirmed(page.client);
  const requested = Promise.withResolvers<void>();
  one.onWrite = () => requested.resolve();
  if (isKilled) await store.kill();
  else store.freeze();
  const writes = WRITES[kind](page);
  for (const writing of writes) writing.catch(() => {});
  await requested.promise;
  await until(() => one.keptWrites === writes.length);
  one.kill(page);
  await using next = await open(two, one);
  assertEquals(next.state.pendingWrites.current, writes.length);
  // The first node may make the writes now, late.
  if (isKilled) await store.restart();
  else store.thaw();
  await next.state.flush();
  const isShown = (state: Page["state"] | Fixture["list"]) =>
    JSON.stringify(rowsOf(state)) === JSON.stringify(AFTER[kind]);
  await until(() => [one.list, two.list, next.state].every(isShown));
  await until(() => one.keptWrites === 0);
  await two.list.collection("items").set("last", 1);
  assertEquals(two.list.version, version + writes.length + 1, "Each write is made once");
  assertEquals(next.store.dropped, []);
}

for (const { name, ignore, start } of BROKERS) {
  for (const kind of ["rows", "mutations"] as const) {
    for (const isKilled of [true, false]) {
      Deno.test({
        name: `A killed page's ${kind} are made once on another node while ${name} ${
          isKilled ? "is killed" : "hangs"
        }`,
        ignore,
        async fn() {
          await testLimbo(await start(), { kind, isKilled });
          await noTimers();
        },
      });
    }
  }
}

for (const { name, ignore, start } of STORES) {
  for (const kind of ["rows", "mutations"] as const) {
    for (const isMade of [true, false]) {
      for (const isRestarted of [false, true]) {
        Deno.test({
          name: `A killed page's ${kind}, ${
            isMade ? "made" : "not made"
          }, are made once on ${name}${isRestarted ? ", which is killed as well" : ""}`,
          ignore,
          async fn() {
            await testWrites(await start(), { kind, isMade, isRestarted });
            await noTimers();
          },
        });
      }
    }
  }
}
