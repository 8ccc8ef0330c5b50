/** Directories of nodes. Each node knows the entries of all other nodes after any kind of loss. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Directory } from "../../pubsub/nodes/directory.ts";
import type { DirectoryChange, DirectoryScope } from "../../pubsub/nodes/directory_scope.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Host } from "../simulator/mod.ts";
import type { Drawn } from "./draw.ts";
import { BEAT_MS, KNOWN_MS, meet, startNodes } from "./nodes.ts";
import { FailingStore } from "./failing_store.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/**
 * Interval between checks, time during which changes are batched, and maximum time that a change is
 * in flight, in milliseconds.
 */
const [CHECK_MS, BATCH_MS, ON_WAY_MS] = [300, 40, 1_000] as const;

/**
 * Maximum number of scopes per check, and maximum time that a new scope waits for entries, in
 * milliseconds.
 */
const [CHECKED, OPEN_MS] = [200, 1_000] as const;

/** Time within which changes arrive, in milliseconds. */
const ROUND_MS = 150;

const FAULTS = [
  "none",
  "all messages lost",
  "some messages lost",
  "broker away",
  "node frozen",
  "node frozen until it is gone",
  "node restarted",
] as const;

/** A change of an entry. Without a value, the entry is deleted. */
const change = fc.record({
  node: fc.nat(3),
  scope: fc.nat(229),
  key: fc.constantFrom("a", "b", "c", "d"),
  isSet: fc.constantFrom(true, true, false),
});

const changes = fc.array(change, { maxLength: 16, size: "max" });

/** A scope that a node has open. */
interface Opened {
  readonly scope: DirectoryScope<number>;
  /** This node's entries. */
  readonly own: Map<string, number>;
  /** Entries of other nodes, according to the changes. */
  readonly told: Map<string, number>;
}

/** A node with a directory. */
class Member {
  readonly #store: FailingStore;
  /** Nodes that others may consider gone. */
  readonly #gone: ReadonlySet<string>;
  nodes: Nodes;
  directory: Directory<number>;
  readonly opened: Map<string, Opened> = new Map();

  constructor(nodes: Nodes, readonly host: Host, { store, gone }: {
    readonly store: FailingStore;
    readonly gone: ReadonlySet<string>;
  }) {
    this.#store = store;
    this.#gone = gone;
    this.nodes = nodes;
    this.directory = this.#start();
  }

  open(name: string): Opened {
    const told = new Map<string, number>();
    const scope = this.directory.open(name, (change) => this.#hear(told, change));
    const opened = { scope, told, own: new Map<string, number>() };
    this.opened.set(name, opened);
    return opened;
  }

  close(name: string): void {
    this.opened.get(name)?.scope[Symbol.dispose]();
    this.opened.delete(name);
  }

  /** Restarts the process, with the same scopes and no entries. */
  restart(world: World): void {
    this.host.kill({ power: true });
    this.host.start();
    [{ nodes: this.nodes }] = startNodes(
      world,
      [this.host],
      (host) => this.#store.broker(host),
    ) as [Member];
    this.directory = this.#start();
    for (const name of [...this.opened.keys()]) this.open(name);
  }

  #start(): Directory<number> {
    const read = (value: unknown) => typeof value === "number" ? value : undefined;
    const times = { batchMs: BATCH_MS, checkMs: CHECK_MS, openMs: OPEN_MS };
    return new Directory({ nodes: this.nodes, name: "test", read, ...times });
  }

  #hear(told: Map<string, number>, change: DirectoryChange<number>): void {
    const { node, key, value, isSwept } = change;
    const entry = `${node} ${key}`;
    const what = JSON.stringify(change);
    if (value === undefined) assert(told.delete(entry), `a deletion of no entry: ${what}`);
    else {
      assert(told.get(entry) !== value, `the same again: ${what}`);
      told.set(entry, value);
    }
    assert(!isSwept || this.#gone.has(node), `a node that is there counts as gone: ${what}`);
  }
}

property("each node knows the entries of all nodes soon after any loss", {
  cases: fc.record({
    nodeCount: fc.integer({ min: 2, max: 4 }),
    /** If there are more scopes than fit into a check, the scopes take turns. */
    scopeCount: fc.constantFrom(2, 3, 230),
    /** Maximum delay of messages. Delayed messages may be reordered. */
    delayMs: fc.constantFrom(0, 0, 60),
    rounds: fc.array(
      fc.record({
        before: changes,
        fault: fc.constantFrom(...FAULTS),
        victim: fc.nat(3),
        meanwhile: changes,
        /** A scope that a node closes and reopens. */
        reopened: fc.option(fc.record({ node: fc.nat(3), scope: fc.nat(229) })),
      }),
      { maxLength: 3, size: "max" },
    ),
  }),
  async check(world, { nodeCount, scopeCount, delayMs, rounds }) {
    const store = new FailingStore(world);
    store.delayMs = delayMs;
    const gone = new Set<string>();
    const all = await meet(world, startNodes(world, nodeCount, (host) => store.broker(host)));
    const members = all.map(({ nodes, host }) => new Member(nodes, host, { store, gone }));
    world.onEnd(() => {
      for (const { directory } of members) directory[Symbol.dispose]();
    });
    const names = Array.from({ length: scopeCount }, (_, i) => `scope-${i}`);
    for (const name of names) for (const member of members) member.open(name);
    await world.pause(OPEN_MS);
    let newest = 0;
    const apply = (
      changes: readonly (Drawn<typeof change>)[],
      except?: Member,
    ) => {
      for (const { node, scope: number, key, isSet } of changes) {
        const member = members[node % nodeCount]!;
        if (member === except) continue;
        const { scope, own } = member.opened.get(names[number % scopeCount]!)!;
        if (isSet) {
          scope.set(key, ++newest);
          own.set(key, newest);
        } else {
          scope.delete(key);
          own.delete(key);
        }
      }
    };
    const turns = 1 + (nodeCount - 1) * Math.ceil(scopeCount / CHECKED);
    for (const { before, fault, victim: index, meanwhile, reopened } of rounds) {
      const victim = members[index % nodeCount]!;
      const isFrozen = fault.startsWith("node frozen");
      apply(before);
      if (fault === "all messages lost") store.lostShare = 1;
      if (fault === "some messages lost") store.lostShare = 0.4;
      if (fault === "broker away") store.goAway();
      if (isFrozen) victim.host.freeze();
      if (fault === "node frozen until it is gone" || fault === "node restarted") {
        gone.add(victim.nodes.id);
      }
      if (fault === "node restarted") victim.restart(world);
      apply(meanwhile, isFrozen ? victim : undefined);
      await world.pause(ROUND_MS);
      if (fault === "node frozen until it is gone") await world.pause(KNOWN_MS);
      victim.host.thaw();
      store.lostShare = 0;
      if (fault === "broker away") store.comeBack();
      if (fault !== "none") {
        await world.pause(ON_WAY_MS + turns * CHECK_MS + 2 * BEAT_MS);
        if (fault === "node restarted") await world.pause(KNOWN_MS);
      }
      await world.pause(2 * ROUND_MS);
      assertViews(members);
      gone.clear();
      if (reopened === null) continue;
      const member = members[reopened.node % nodeCount]!;
      const name = names[reopened.scope % scopeCount]!;
      member.close(name);
      await world.pause(ROUND_MS);
      assertViews(members);
      const { scope } = member.open(name);
      await world.until("the entries of a new scope", () => scope.isReady, OPEN_MS / 2);
      assertViews(members);
    }
  },
});

/**
 * Compares the entries that each node knows, and the changes that it reported, with the entries of
 * all nodes.
 */
function assertViews(members: readonly Member[]): void {
  for (const { opened, nodes: { id: ownId } } of members) {
    for (const [name, { scope, told }] of opened) {
      const all = members.flatMap(({ nodes: { id }, opened }) =>
        Array.from(opened.get(name)?.own ?? [], ([key, value]) => `${id} ${key} ${value}`)
      );
      const known = Array.from(scope.entries(), (one) => `${one.node} ${one.key} ${one.value}`);
      assertEquals(known.toSorted(), all.toSorted(), `entries of ${name}`);
      const others = all.filter((entry) => !entry.startsWith(ownId));
      const heard = Array.from(told, ([entry, value]) => `${entry} ${value}`);
      assertEquals(heard.toSorted(), others.toSorted(), `changes of ${name}`);
    }
  }
}
