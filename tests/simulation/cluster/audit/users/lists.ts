/** Members with much data, whom another node learns in several parts, some of which get lost. */
import type { PresenceEvent } from "../../../../../pubsub/presence/types.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { BEAT_MS, GONE_MS } from "../places/service.ts";
import { floodRooms, makeFlood } from "./floods.ts";
import { Page } from "./page.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** The room, whose members get numbers alone. */
const ROOM = "many:fair";

/** Fewest and most users. */
const [FEWEST, MOST] = [16, 23];

/** Characters of data: all users together need one part or several. */
const SIZES = [600, 3_000, 4_000] as const;

/** Largest data, in bytes. */
const MAX_DATA_BYTES = 4_096;

/** Rounds, and the bursts of one round. */
const [ROUNDS, BURSTS] = [3, 4];

/** Share of the users that a burst changes, at most. */
const CHANGED = 0.8;

/** Longest pause between two bursts, in milliseconds: within a batch of changes, or beyond. */
const PAUSES_MS = [0, 30, 120] as const;

/** Share of the messages among the nodes that get lost in some rounds. */
const LOST = 0.35;

/** Share of these rounds in which all messages behind the last burst get lost, for a time in milliseconds. */
const [LAST_LOST, LAST_LOST_MS] = [0.5, 150] as const;

/** Longest way of messages among the nodes, in milliseconds: those of a topic overtake others. */
const WAYS_MS = [0, 60, 200] as const;

/** Graces of a user without sessions, of which one is drawn, in milliseconds. */
const GRACES_MS = [0, 200] as const;

/** Time for changes under way, in milliseconds. */
const ROUND_MS = 700;

/** Time in which checks among the nodes find each loss, in milliseconds. */
const CHECKED_MS = 5_500;

/** Share of runs in which all users set much data at once. */
const FLOODS = 0.85;

/** Time within which the last round begins, in milliseconds. */
const LAST_MS = 11_000;

/** A user with one session. */
interface Visitor {
  readonly user: string;
  readonly page: Page;
  isIn: boolean;
  /** Number of the data, also while the user is not in the room. */
  data: number | undefined;
}

/** The members of one node, as of the first list and of the changes that the node told since. */
class Replica implements Disposable {
  /** The data by user; `undefined` before the first list. */
  members: Map<string, unknown> | undefined;
  /** Changes that do not fit the ones before. */
  readonly faults: string[] = [];
  readonly #held: readonly Disposable[];

  constructor({ server: { presence } }: UserNode) {
    const following = presence.follow(ROOM);
    this.#held = [following, presence.subscribe((event) => this.#hear(event))];
    // Members of other nodes that are there before are in the first list.
    void following.ready.then(() => {
      this.members = new Map(presence.members(ROOM).map(({ user, data }) => [user, data]));
    });
  }

  /** Ends the following. */
  [Symbol.dispose](): void {
    for (const held of this.#held) held[Symbol.dispose]();
  }

  #hear({ topic, type, user, ...event }: PresenceEvent): void {
    const { members } = this;
    if (topic !== ROOM || members === undefined) return;
    if (members.has(user) === (type === "join")) this.faults.push(`${type} of ${user}`);
    if (type === "leave") members.delete(user);
    else members.set(user, "data" in event ? event.data : undefined);
  }
}

/** The nodes, the users at one node, and the node that follows the room. */
class Lists {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  readonly #home: UserNode;
  readonly #follower: UserNode;
  readonly #size: number;
  readonly #graceMs: number;
  readonly #visitors: Visitor[] = [];
  /** The members at the other node, while that node follows the room. */
  #replica: Replica | undefined;
  #newest = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    const random = this.random = audit.random;
    this.#size = oneOf(random, SIZES);
    this.#graceMs = oneOf(random, GRACES_MS);
    this.nodes = new UserNodes(audit, "lists", {
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      presenceGraceMs: this.#graceMs,
      rooms: {
        "many:{name}": { members: "count", maxDataBytes: MAX_DATA_BYTES },
        ...floodRooms(random, MAX_DATA_BYTES),
      },
    });
    this.nodes.engine.wayMs = oneOf(random, WAYS_MS);
    const [one, other] = this.nodes.all as readonly [UserNode, UserNode];
    [this.#home, this.#follower] = random() < 0.5 ? [one, other] : [other, one];
  }

  /** Opens the pages of all users. */
  async open(): Promise<void> {
    const count = Math.floor(between(this.random, FEWEST, MOST));
    for (let i = 0; i < count; i++) {
      const user = `fair-${i}`;
      const page = new Page(this.audit, user, "lists-pages", this.#home);
      this.#visitors.push({ user, page, isIn: false, data: undefined });
    }
    await this.audit.until(() => this.#visitors.every(({ page }) => page.isIn));
  }

  /** Lets the other node follow the room from now on. */
  follow(): void {
    this.#replica?.[Symbol.dispose]();
    this.#replica = new Replica(this.#follower);
  }

  /** Lets users enter and leave, and set data, within one turn. */
  burst(): void {
    const share = CHANGED * this.random();
    for (const visitor of this.#visitors) {
      const choice = this.random();
      if (choice >= share) continue;
      const { page } = visitor;
      const which = this.random();
      if (which < 0.25) page.ask(this.#toggle(visitor));
      else if (which < 0.35) {
        visitor.data = undefined;
        page.ask({ presence: ROOM });
      } else {
        visitor.data = ++this.#newest;
        page.ask({ presence: ROOM, data: this.#dataOf(visitor) });
        if (!visitor.isIn) page.ask(this.#toggle(visitor));
      }
    }
  }

  /** Lets a round pass: bursts, while the other node begins to follow, is away or starts anew. */
  async pass(round: number): Promise<void> {
    const { audit, random, nodes: { engine } } = this;
    const follower = this.#follower;
    const loses = random() < 0.4;
    const way = oneOf(
      random,
      ["as before", "late", "restart", "frozen", "gone", "engine away"] as const,
    );
    const at = Math.floor(BURSTS * random());
    for (let burst = 0; burst < BURSTS; burst++) {
      engine.lostShare = loses ? LOST : 0;
      if (burst === at) {
        if (way === "late") this.follow();
        else if (way === "restart") {
          follower.host.kill({ power: true });
          follower.restart();
          this.follow();
        } else if (way === "frozen") follower.host.freeze();
        else if (way === "gone") {
          // The other node is alone then, and comes back to one that knew the earlier members.
          follower.host.freeze();
          await audit.pause(GONE_MS + BEAT_MS);
        } else if (way === "engine away") engine.goAway();
      }
      if (this.#replica === undefined && !follower.host.isFrozen) this.follow();
      const isLast = burst === BURSTS - 1 && loses && random() < LAST_LOST;
      if (isLast) engine.lostShare = 1;
      this.burst();
      await audit.pause(isLast ? LAST_LOST_MS : oneOf(random, PAUSES_MS) * random());
    }
    if (follower.host.isFrozen) {
      follower.host.thaw();
      if (this.#replica === undefined) this.follow();
    }
    if (way === "engine away") engine.comeBack();
    engine.lostShare = 0;
    const story = `in round ${round}, ${way}${loses ? ", with losses" : ""}`;
    await audit.pause(ROUND_MS + this.#graceMs);
    // The new node has to hear of the other one, and each check is of one node.
    if (loses || way === "restart" || way === "gone") await audit.pause(CHECKED_MS);
    this.#look(story);
  }

  /** Lets all users set much data in another room. */
  flood(): Promise<void> {
    return makeFlood(this.audit, this.#visitors);
  }

  /** Closes all. */
  async close(): Promise<void> {
    for (const { page } of this.#visitors) page.close();
    await this.audit.pause(ROUND_MS + this.#graceMs);
    this.#examine("members behind the last session", [], this.#membersAt(this.#follower));
    await this.nodes.close();
  }

  /** Compares the members that both nodes know with the model. */
  #look(story: string): void {
    const members = this.#visitors.filter(({ isIn }) => isIn)
      .map((visitor) => [visitor.user, 1, this.#shown(this.#dataOf(visitor))]);
    for (const node of this.nodes.all) {
      const where = `${node === this.#home ? "own" : "other"} node ${story}`;
      this.#examine(`members at the ${where}`, members.toSorted(), this.#membersAt(node));
    }
    const { faults = [], members: known = [] } = this.#replica ?? {};
    this.#examine(`changes that do not fit ${story}`, [], faults.splice(0));
    const told = [...known].map(([user, data]) => [user, 1, this.#shown(data)]);
    this.#examine(`members as of the changes ${story}`, members.toSorted(), told.toSorted());
    const unanswered = this.#visitors.flatMap(({ page }) => page.forget());
    this.#examine(`requests without an answer ${story}`, [], unanswered);
  }

  #membersAt({ server }: UserNode): unknown[] {
    return server.presence.members(ROOM)
      .map(({ user, connections, data }) => [user, connections, this.#shown(data)])
      .toSorted();
  }

  #toggle(visitor: Visitor): object {
    visitor.isIn = !visitor.isIn;
    return visitor.isIn ? { subscribe: ROOM } : { unsubscribe: ROOM };
  }

  #dataOf({ data }: Visitor): string | undefined {
    return data === undefined ? undefined : `${data} `.padEnd(this.#size, "x");
  }

  /** The number of the data, and the size. */
  #shown(data: unknown): string {
    return data === undefined ? "none" : `${data}`.replace(/x+$/, (filling) => `${filling.length}`);
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("presence", what, expected, received);
  }
}

/**
 * Lets many users of one node change at once, and examines what the other node knows.
 *
 * @param audit The audit.
 */
export async function auditLists(audit: Audit): Promise<void> {
  const lists = new Lists(audit);
  await lists.nodes.ready();
  await lists.open();
  const endMs = audit.nowMs + LAST_MS;
  if (lists.random() < 0.5) lists.follow();
  for (let round = 0; round < ROUNDS && audit.nowMs < endMs; round++) await lists.pass(round);
  if (lists.random() < FLOODS) await lists.flood();
  await lists.close();
}
