/** Bursts of changes in one room: of what comes and goes within an interval, the net effect counts. */
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Page } from "./page.ts";
import { RoomReader } from "./room_reader.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** Kinds of rooms: changes that are gathered, and a list. */
const KINDS = ["crowd", "crowd", "crowd", "list"] as const;

/** Users, those of a heavy room, and bursts. */
const [USERS, HEAVY_USERS, BURSTS] = [5, 22, 6];

/** Share of rooms whose data exceeds the bytes of one interval, and the bytes of data there. */
const [HEAVY, HEAVY_BYTES] = [0.25, 4_000] as const;

/** Most operations of a user in one burst, and the share of users who take part. */
const [OPERATIONS, ACTIVE] = [4, 0.7] as const;

/** Share of bursts behind which a user has a second page with data. */
const PAIRS = 0.4;

/** Ways in which the data of a second page ends: the data of the first one stands again. */
const PAIR_ENDS = ["unset", "leave", "close"] as const;

/** Graces of a user without sessions, and time for which changes are gathered, in milliseconds. */
const [GRACES_MS, GATHER_MS] = [[0, 0, 0, 400], 200] as const;

/** Share of bursts without pauses, and the longest pause of the others, in milliseconds. */
const [AT_ONCE, GAP_MS] = [0.6, 150] as const;

/** Time until the list of a new room has come, or all who enter are known, in milliseconds. */
const SETTLED_MS = 1_600;

/** Time until all notices of a burst have come, without the grace, in milliseconds. */
const REST_MS = 2 * GATHER_MS + 400;

/** A page of a user. */
interface Member {
  readonly user: string;
  readonly node: UserNode;
  page: Page;
  reader: RoomReader;
  data: string | undefined;
}

/** Changes that a member makes in a burst. */
const CHANGES = ["toggle", "toggle", "toggle", "set", "set", "unset", "unset", "reopen"] as const;

/** The nodes and the members of one room. */
class Bursts {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #graceMs: number;
  readonly #isHeavy: boolean;
  readonly #room: string;
  readonly #nodes: UserNodes;
  readonly #watchers: Member[] = [];
  readonly #members: Member[] = [];
  /** A second page of a member, which sets data later than the first one. */
  #second: Member | undefined;
  #pages = 0;
  #newest = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.random;
    this.#graceMs = oneOf(random, GRACES_MS);
    this.#isHeavy = random() < HEAVY;
    this.#room = this.#isHeavy ? "crowd:a" : `${oneOf(random, KINDS)}:a`;
    this.#nodes = new UserNodes(audit, "bursts", {
      presenceGraceMs: this.#graceMs,
      rooms: {
        "list:{name}": {},
        "crowd:{name}": {
          gatherAbove: Math.floor(4 * random()),
          gatherMs: GATHER_MS,
          maxDataBytes: 4_096,
        },
      },
    });
  }

  async run(): Promise<void> {
    const random = this.#random;
    const nodes = this.#nodes.all;
    await this.#nodes.ready();
    for (const [i, node] of nodes.entries()) {
      this.#watchers.push(await this.#open(`watcher-${i}`, node));
    }
    for (let i = 0; i < (this.#isHeavy ? HEAVY_USERS : USERS); i++) {
      this.#members.push(await this.#open(`user-${i}`, oneOf(random, nodes)));
    }
    for (const watcher of this.#watchers) this.#toggle(watcher);
    await this.#audit.pause(SETTLED_MS);
    for (const member of this.#members) {
      if (this.#isHeavy || random() < 0.7) this.#set(member);
      if (this.#isHeavy || random() < 0.7) this.#toggle(member);
    }
    await this.#audit.pause(SETTLED_MS + this.#graceMs);
    this.#look("at the beginning");
    for (let burst = 0; burst < (this.#isHeavy ? 2 : BURSTS); burst++) {
      await this.#burst(burst === 0);
      await this.#audit.pause(REST_MS + this.#graceMs);
      this.#look(`behind burst ${burst}`);
      if (random() < PAIRS) await this.#pair(oneOf(random, this.#members));
    }
    for (const { page } of [...this.#watchers, ...this.#members]) page.close();
    await this.#nodes.close();
  }

  async #burst(isFirst: boolean): Promise<void> {
    const random = this.#random;
    const isAtOnce = random() < AT_ONCE;
    // The first burst of a heavy room has more data than one interval may carry.
    if (this.#isHeavy && isFirst) return this.#members.forEach((member) => this.#set(member));
    const active = shuffled(random, this.#members).filter(() => random() < ACTIVE);
    await Promise.all(active.map(async (member) => {
      for (let left = 1 + Math.floor(OPERATIONS * random()); left > 0; left--) {
        await this.#change(member, oneOf(random, CHANGES));
        if (!isAtOnce) await this.#audit.pause(between(random, 0, GAP_MS));
      }
    }));
  }

  /** Opens a second page of a user, whose data stands until that page gives it up. */
  async #pair({ user, node }: Member): Promise<void> {
    const random = this.#random;
    const second = this.#second = await this.#open(
      user,
      random() < 0.6 ? node : oneOf(random, this.#nodes.all),
    );
    this.#set(second);
    this.#toggle(second);
    await this.#audit.pause(REST_MS + this.#graceMs);
    this.#look("with a second page");
    const end = oneOf(random, PAIR_ENDS);
    if (end === "unset") await this.#change(second, "unset");
    if (end === "leave") this.#toggle(second);
    if (end === "close") {
      second.page.close();
      this.#second = undefined;
    }
    await this.#audit.pause(REST_MS + this.#graceMs);
    this.#look(`behind the data of a second page (${end})`);
    if (end === "close") return;
    second.page.close();
    this.#second = undefined;
    await this.#audit.pause(REST_MS + this.#graceMs);
  }

  async #change(member: Member, change: typeof CHANGES[number]): Promise<void> {
    switch (change) {
      case "toggle":
        return this.#toggle(member);
      case "set":
        return this.#set(member);
      case "unset":
        member.data = undefined;
        return void member.page.ask({ presence: this.#room });
      case "reopen": {
        // The data of a page ends with the page.
        const { isIn } = member.reader;
        this.#examineReader(member, "at the end of a page");
        member.page.close();
        Object.assign(member, await this.#open(member.user, member.node));
        if (this.#random() < 0.3) this.#set(member);
        if (isIn) this.#toggle(member);
      }
    }
  }

  async #open(user: string, node: UserNode): Promise<Member> {
    const page = new Page(this.#audit, user, `bursts-${this.#pages++}`, node);
    await this.#audit.until(() => page.isIn);
    return { user, node, page, reader: new RoomReader(this.#room), data: undefined };
  }

  #set(member: Member): void {
    member.data = `${++this.#newest}`.padEnd(this.#isHeavy ? HEAVY_BYTES : 0, "x");
    member.page.ask({ presence: this.#room, data: member.data });
  }

  #toggle({ page, reader }: Member): void {
    if (reader.isIn) return reader.leave(page.ask({ unsubscribe: this.#room }));
    reader.enter();
    page.ask({ subscribe: this.#room });
  }

  /** Lets a page read what came, and examines the faults. */
  #examineReader({ user, page, reader }: Member, what: string): void {
    for (const heard of page.heard) reader.hear(heard);
    page.heard.length = 0;
    this.#examine(`notices for ${user} ${what}`, [], reader.faults.splice(0));
  }

  /** Examines what each page and each node knows, at rest. */
  #look(what: string): void {
    const all = [...this.#watchers, ...this.#members, ...this.#second ? [this.#second] : []];
    const users = new Map<string, string | undefined>();
    for (const { user, reader, data } of all) {
      // The second page comes last, as its data is newer.
      if (reader.isIn) users.set(user, data ?? users.get(user));
    }
    const members = [...users].map(([user, data]) => shown({ user, data }))
      .toSorted(([a], [b]) => a < b ? -1 : 1);
    for (const one of all) {
      this.#examineReader(one, what);
      const { user, reader, page } = one;
      this.#examine(`requests of ${user} without an answer ${what}`, [], page.forget());
      if (!reader.isIn) continue;
      const known = (reader.known ?? []) as [string, unknown][];
      const read = known.map(([user, data]) => shown({ user, data }));
      this.#examine(`members for ${user} ${what}`, members, read);
    }
    for (const { host, server } of this.#nodes.all) {
      const known = server.rooms.members(this.#room)
        .map(shown)
        .toSorted(([a], [b]) => a < b ? -1 : 1);
      this.#examine(`members at ${host.name} ${what}`, members, known);
    }
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    const about = `${this.#room}${this.#isHeavy ? " with much data" : ""}: ${what}`;
    this.#audit.examine("presence", about, expected, received);
  }
}

/** Names a user with the data, without the part that only makes data long. */
function shown({ user, data }: { readonly user: string; readonly data?: unknown }) {
  return [user, `${data ?? "none"}`.replace(/x+$/, "")] as const;
}

/**
 * Lets users come, go, and change their data many times within the interval of gathered changes.
 *
 * @param audit The audit.
 */
export async function auditBursts(audit: Audit): Promise<void> {
  await new Bursts(audit).run();
}
