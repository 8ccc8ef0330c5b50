/**
 * The events of presence on several nodes: exactly one node is responsible for each join and each
 * leave.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Presence } from "../../pubsub/presence/presence.ts";
import type {
  ListedMember,
  PresenceChange,
  PresenceFeedEvent,
} from "../../pubsub/presence/types.ts";
import { Session } from "../../session/session.ts";
import { sessionSettings } from "../../session/mod.ts";
import { memoryPair } from "../../transport/mod.ts";
import { FailingStore } from "./failing_store.ts";
import { type BareNode, GONE_MS, KNOWN_MS, meet, startNodes } from "./nodes.ts";
import { atSeed, property } from "./property.ts";
import type { World } from "./world.ts";

const [GRACE_MS, NODES, USERS] = [1_500, 3, 24] as const;

/** Time after which the nodes agree: a death is known, and the users of the dead node have left. */
const QUIET_MS = KNOWN_MS + GRACE_MS + 3_000;

/** A room that all nodes track. */
const ROOM = "room:a";

/** A room that only the nodes of its users track. */
const SMALL = "room:b";

/** An action of a user. */
const action = fc.record({
  waitMs: fc.integer({ min: 0, max: 3_000 }),
  node: fc.nat(NODES - 1),
  what: fc.constantFrom("enter", "enter", "leave", "leave for good", "move", "close all"),
});

/** The end of a node, which another one replaces. */
const kill = fc.record({
  waitMs: fc.integer({ min: 1_000, max: 12_000 }),
  node: fc.nat(NODES - 1),
  how: fc.constantFrom("kill", "close"),
});

interface Tab {
  readonly session: Session;
  readonly node: WatchedNode;
}

/** A node and its events. */
class WatchedNode {
  readonly presence: Presence;
  readonly events: PresenceFeedEvent[] = [];
  readonly ended: Promise<void>;
  isClosing = false;

  constructor(
    readonly node: BareNode,
    tell: (change: PresenceChange) => void,
    private readonly world: World,
  ) {
    const { nodes, host } = node;
    this.presence = new Presence({ nodes, graceMs: GRACE_MS, runtime: host.runtime });
    world.onEnd(() => this.presence[Symbol.dispose]());
    this.presence.follow(ROOM);
    this.ended = this.#read(tell);
  }

  get isAlive(): boolean {
    return !this.isClosing && this.node.host.isAlive;
  }

  async #read(tell: (change: PresenceChange) => void): Promise<void> {
    for await (const event of this.presence.events()) {
      if (!this.node.host.isAlive) return;
      this.events.push(event);
      if (event.kind !== "present" && event.kind !== "unknown" && event.isResponsible) tell(event);
    }
  }

  open(user: string): Tab {
    const { runtime } = this.node.host;
    const settings = sessionSettings({ side: "server", runtime });
    const session = new Session(memoryPair({ runtime }).server, settings, { user });
    this.world.onEnd(() => session.close());
    this.presence.enter(session, ROOM);
    this.presence.enter(session, SMALL);
    return { session, node: this };
  }
}

/** Checks that a reader receives each stay's join or listing, and then its leave, except repeats. */
function checkOrder(events: readonly PresenceFeedEvent[]): void {
  const present = new Set<string>();
  const keyOf = ({ topic, user, joinedAt }: ListedMember) => `${topic} ${user} ${joinedAt}`;
  for (const [i, event] of events.entries()) {
    const what = () => `event ${i}: ${JSON.stringify(events.slice(0, i + 1), undefined, 1)}`;
    if (event.kind === "unknown" && event.reason === "untracked") {
      for (const key of present) if (key.startsWith(`${event.topic} `)) present.delete(key);
    }
    if (event.kind === "update" || event.kind === "unknown") continue;
    const members = event.kind === "present" ? event.members : [{ ...event, connections: 0 }];
    for (const key of members.map(keyOf)) {
      const isRepeat = event.kind !== "present" && event.isRepeat;
      assert(isRepeat || present.has(key) === (event.kind === "leave"), what());
      if (event.kind === "leave") present.delete(key);
      else present.add(key);
    }
  }
}

/** Checks that each stay of a user has one join, and all stays but the last one a leave. */
function checkStays(user: string, changes: readonly PresenceChange[], isHere: boolean): void {
  const told = changes.map(({ kind, id, isRepeat }) => `${kind} ${id} ${isRepeat}`);
  const what = [user, ...told].join("\n");
  const ids = changes.filter(({ isRepeat }) => !isRepeat).map(({ id }) => id);
  assertEquals(ids.length, new Set(ids).size, what);
  const unique = [...new Map(changes.map((change) => [change.id, change])).values()];
  const stays = [...Map.groupBy(unique, ({ joinedAt }) => joinedAt)].toSorted(([a], [b]) => a - b);
  for (const [n, [, ofStay]] of stays.entries()) {
    const isOpen = isHere && n === stays.length - 1;
    assertEquals(ofStay.map(({ kind }) => kind), isOpen ? ["join"] : ["join", "leave"], what);
  }
  assert(!isHere || stays.length > 0, what);
}

const cases = fc.record({
  users: fc.array(fc.array(action, { maxLength: 8 }), { minLength: 1, maxLength: USERS }),
  kills: fc.array(kill, { maxLength: 3 }),
  frozen: fc.option(fc.nat(NODES - 1), { nil: undefined }),
});

type Case = typeof cases extends fc.Arbitrary<infer T> ? T : never;

property("each join and each leave is told to exactly one node, whatever the nodes do", {
  cases,
  regressions: {
    "a node that starts while no node leads, because the leader is dead": atSeed<Case>(1556699772, {
      "users": [[
        { "waitMs": 0, "node": 0, "what": "enter" },
        { "waitMs": 0, "node": 0, "what": "close all" },
        { "waitMs": 108, "node": 0, "what": "close all" },
        { "waitMs": 1392, "node": 0, "what": "enter" },
      ], []],
      "kills": [{ "waitMs": 1000, "node": 2, "how": "kill" }, {
        "waitMs": 9683,
        "node": 1,
        "how": "close",
      }, { "waitMs": 9006, "node": 0, "how": "close" }],
      "frozen": undefined,
    }),
    "a dead node's room, which a node that never knew it begins to track": atSeed<Case>(785967744, {
      users: [
        [
          { waitMs: 2132, node: 0, what: "enter" },
          { waitMs: 316, node: 1, what: "enter" },
        ],
        [{ waitMs: 0, node: 1, what: "enter" }],
        [
          { waitMs: 2101, node: 1, what: "close all" },
          { waitMs: 1416, node: 2, what: "move" },
          { waitMs: 1020, node: 2, what: "close all" },
        ],
      ],
      kills: [
        { waitMs: 1291, node: 1, how: "kill" },
        { waitMs: 9424, node: 1, how: "kill" },
        { waitMs: 10_426, node: 0, how: "close" },
      ],
      frozen: 1,
    }),
    "a user that moves to a node that begins to track the room": atSeed<Case>(671275147, {
      users: [[
        { waitMs: 0, node: 0, what: "enter" },
        { waitMs: 892, node: 0, what: "enter" },
        { waitMs: 212, node: 1, what: "enter" },
      ]],
      kills: [{ waitMs: 1154, node: 0, how: "kill" }],
      frozen: undefined,
    }),
    "a stay that only such a node knows": atSeed<Case>(1623798040, {
      "users": [[
        { "waitMs": 0, "node": 0, "what": "enter" },
        { "waitMs": 426, "node": 0, "what": "leave for good" },
        { "waitMs": 408, "node": 0, "what": "enter" },
        { "waitMs": 1858, "node": 0, "what": "enter" },
        { "waitMs": 365, "node": 0, "what": "enter" },
        { "waitMs": 2486, "node": 0, "what": "enter" },
      ], []],
      "kills": [{ "waitMs": 1255, "node": 1, "how": "kill" }, {
        "waitMs": 1976,
        "node": 0,
        "how": "close",
      }, { "waitMs": 8001, "node": 2, "how": "close" }],
      "frozen": 1,
    }),
    "a join that a closing node told before the others received it": {
      users: [[{ waitMs: 950, node: 0, what: "enter" }], []],
      kills: [{ waitMs: 1000, node: 0, how: "close" }],
      frozen: undefined,
    },
  },
  async check(world, { users, kills, frozen }) {
    const store = new FailingStore(world);
    const told = new Map<string, PresenceChange[]>();
    const tell = (change: PresenceChange) => {
      const key = `${change.topic} ${change.user}`;
      const changes = told.get(key) ?? [];
      told.set(key, changes);
      changes.push(change);
    };
    const start = async (count: number, first: number): Promise<WatchedNode[]> => {
      const hosts = Array.from({ length: count }, (_, i) => world.host(`node-${first + i}`));
      const bare = startNodes(world, hosts, (host) => store.broker(host));
      const started = bare.map((node) => new WatchedNode(node, tell, world));
      await Promise.all(bare.map(({ nodes }) => nodes.ready));
      const hasBegun = () => started.every(({ events }) => events.length > 0);
      await world.until("readers that have begun", hasBegun);
      return started;
    };
    const nodes = await start(NODES, 0);
    await meet(world, nodes.map(({ node }) => node));
    await world.pause(1_000);

    const past: WatchedNode[] = [];
    const tabs = users.map((): Tab[] => []);
    const alive = (number: number): WatchedNode | undefined =>
      nodes.slice(number).concat(nodes).find(({ isAlive }) => isAlive);
    const lives = users.map(async (actions, i) => {
      const [user, own] = [`user-${i}`, tabs[i]!];
      for (const { waitMs, node: number, what } of actions) {
        await world.pause(waitMs);
        const node = alive(number);
        if (node === undefined) continue;
        const closed = what === "close all"
          ? own.splice(0)
          : what === "enter"
          ? []
          : own.splice(0, 1);
        for (const { session, node } of closed) {
          if (what === "leave for good") {
            for (const room of [ROOM, SMALL]) node.presence.leave(session, room, { isFinal: true });
          }
          void session.close();
        }
        if (what === "enter" || what === "move") own.push(node.open(user));
      }
    });
    const ends = async () => {
      for (const [i, { waitMs, node: number, how }] of kills.entries()) {
        await world.pause(waitMs);
        const victim = nodes[number]!;
        past.push(victim);
        for (const own of tabs) {
          own.splice(0, Infinity, ...own.filter(({ node }) => node !== victim));
        }
        if (how === "kill") victim.node.host.kill({ power: true });
        else {
          victim.isClosing = true;
          victim.presence[Symbol.dispose]();
          await victim.ended;
          await victim.node.nodes.close();
          await victim.node.nodes.broker.close();
          victim.node.host.kill();
        }
        await world.pause(GONE_MS / 2);
        nodes.splice(number, 1, ...await start(1, NODES + i));
      }
    };
    await Promise.all([...lives, ends()]);
    await world.pause(QUIET_MS);
    if (frozen !== undefined) {
      nodes[frozen]!.node.host.freeze();
      await world.pause(QUIET_MS);
      nodes[frozen]!.node.host.thaw();
      await world.pause(QUIET_MS);
    }

    const all = [...nodes, ...past].flatMap(({ events }) => events);
    const isUnknown = all.some((event) =>
      event.kind === "unknown" && event.topic === SMALL && event.isResponsible
    );
    for (const [i, own] of tabs.entries()) {
      for (const room of isUnknown ? [ROOM] : [ROOM, SMALL]) {
        const user = `${room} user-${i}`;
        checkStays(user, told.get(user) ?? [], own.length > 0);
      }
    }
    for (const node of [...nodes, ...past]) checkOrder(node.events);
    const lists = nodes.map(({ presence }) => presence.members(ROOM).map(({ user }) => user));
    for (const list of lists) assertEquals(list.toSorted(), lists[0]!.toSorted());
    assert(nodes.every(({ events }) => events[0]?.kind === "present"));
  },
});
