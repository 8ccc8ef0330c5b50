/** Directories of nodes: after losses of any kind, each node knows the entries of all others. */
import { Directory } from "../../../../../pubsub/nodes/directory.ts";
import type {
  DirectoryChange,
  DirectoryScope,
} from "../../../../../pubsub/nodes/directory_scope.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "./service.ts";

/** Numbers of nodes of which one is drawn. */
const NODES = [2, 3, 3, 4] as const;

/** Numbers of scopes of which one is drawn: those of one check, or of two. */
const SCOPES = [3, 3, 230] as const;

/** Scopes in one check (`Directory`, Eventual consistency). */
const CHECKED = 200;

/** Keys of each node, rounds, and changes of a node in one round. */
const [KEYS, ROUNDS, CHANGES] = [6, 3, 8] as const;

/** Time between checks, and for which changes are gathered, in milliseconds. */
const [CHECK_MS, BATCH_MS] = [300, 40] as const;

/** Longest time of a new scope without entries, in milliseconds: the default. */
const OPEN_MS = 1_000;

/** Time for which a change counts as under way, in milliseconds (`Directory`). */
const UNDER_WAY_MS = 1_000;

/** Time for messages under way, in milliseconds. */
const ROUND_MS = 150;

/** Share of messages that get lost in the middle of a round. */
const LOST = 0.4;

/** Troubles of a round; `last lost` is the loss of all changes until the nodes are quiet. */
const TROUBLES = [
  "none",
  "last lost",
  "last lost",
  "some lost",
  "engine away",
  "node frozen",
  "node gone",
  "node restarted",
] as const;

/** An open scope of a node, with the entries as of the changes that the listener heard. */
interface Opened {
  readonly scope: DirectoryScope<number>;
  /** Own entries. */
  readonly own: Map<string, number>;
  /** Entries of other nodes, by node and key. */
  readonly heard: Map<string, number>;
}

/** A node with a directory. */
class Member {
  readonly node: UserNode;
  readonly #gone: ReadonlySet<string>;
  directory: Directory<number>;
  readonly opened: Map<string, Opened> = new Map();
  /** Changes that do not fit the ones before. */
  readonly faults: string[] = [];

  constructor(node: UserNode, gone: ReadonlySet<string>) {
    this.node = node;
    this.#gone = gone;
    this.directory = this.#start();
  }

  get id(): string {
    return this.node.server.nodes!.id;
  }

  /** Opens a scope. */
  open(name: string): Opened {
    const heard = new Map<string, number>();
    const scope = this.directory.open(name, (change) => this.#hear(name, heard, change));
    const opened = { scope, heard, own: new Map<string, number>() };
    this.opened.set(name, opened);
    return opened;
  }

  /** Closes a scope. */
  close(name: string): void {
    this.opened.get(name)?.scope[Symbol.dispose]();
    this.opened.delete(name);
  }

  /** Starts anew, with the same scopes and no entries. */
  restart(): void {
    this.node.host.kill({ power: true });
    this.node.restart();
    this.directory = this.#start();
    for (const name of [...this.opened.keys()]) this.open(name);
  }

  #start(): Directory<number> {
    const read = (value: unknown) => typeof value === "number" ? value : undefined;
    const nodes = this.node.server.nodes!;
    return new Directory({ nodes, name: "audit", read, batchMs: BATCH_MS, checkMs: CHECK_MS });
  }

  #hear(name: string, heard: Map<string, number>, change: DirectoryChange<number>): void {
    const { node, key, value, isSwept } = change;
    const entry = `${node}/${key}`;
    const about = `${key} in ${name}`;
    if (value === undefined && !heard.has(entry)) this.faults.push(`deletion of unknown ${about}`);
    if (value !== undefined && heard.get(entry) === value) this.faults.push(`${about} again`);
    // Only a node that is silent or gone may be swept.
    if (isSwept && !this.#gone.has(node)) this.faults.push(`${about} swept`);
    if (value === undefined) heard.delete(entry);
    else heard.set(entry, value);
  }
}

/** The nodes, and the scopes. */
class Directories {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #nodes: UserNodes;
  readonly #members: readonly Member[];
  readonly #scopes: readonly string[];
  /** Ids of nodes that were silent for so long that others may count these as gone. */
  readonly #gone = new Set<string>();
  #newest = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.random;
    const count = oneOf(random, NODES);
    this.#scopes = Array.from({ length: oneOf(random, SCOPES) }, (_, i) => `scope-${i}`);
    this.#nodes = new UserNodes(
      audit,
      "directories",
      { node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS } },
      { count },
    );
    this.#members = this.#nodes.all.map((node) => new Member(node, this.#gone));
  }

  /** Opens scopes at all nodes, and lets rounds pass. */
  async run(): Promise<void> {
    await this.#nodes.ready();
    for (const name of this.#scopes) {
      for (const member of this.#members) {
        if (this.#isFew || member === this.#members[0] || member === this.#members.at(-1)) {
          member.open(name);
        }
      }
    }
    await this.#audit.pause(OPEN_MS);
    for (let round = 0; round < ROUNDS; round++) {
      await this.#pass();
      await this.#openLate();
    }
    for (const { directory } of this.#members) directory[Symbol.dispose]();
    await this.#nodes.close();
  }

  get #isFew(): boolean {
    return this.#scopes.length <= CHECKED;
  }

  /** Lets all nodes change entries, in trouble, and compares at rest. */
  async #pass(): Promise<void> {
    const random = this.#random;
    const audit = this.#audit;
    const { engine } = this.#nodes;
    const trouble = oneOf(random, TROUBLES);
    const victim = oneOf(random, this.#members);
    this.#changeAll();
    await audit.pause(oneOf(random, [0, BATCH_MS, ROUND_MS]) * random());
    if (trouble === "last lost") engine.lostShare = 1;
    if (trouble === "some lost") engine.lostShare = LOST;
    if (trouble === "engine away") engine.goAway();
    if (trouble === "node frozen" || trouble === "node gone") victim.node.host.freeze();
    if (trouble === "node gone") this.#gone.add(victim.id);
    if (trouble === "node restarted") {
      this.#gone.add(victim.id);
      victim.restart();
    }
    this.#changeAll(victim.node.host.isFrozen ? victim : undefined);
    await audit.pause(ROUND_MS);
    if (trouble === "node gone") await audit.pause(KNOWN_MS);
    else if (victim.node.host.isFrozen) await audit.pause(between(random, 0, BEAT_MS));
    if (victim.node.host.isFrozen) victim.node.host.thaw();
    engine.lostShare = 0;
    if (trouble === "engine away") engine.comeBack();
    // A new node and the others have to meet; each check is of one node, and of some scopes.
    if (trouble !== "none") await audit.pause(this.#checkedMs + 2 * BEAT_MS);
    await audit.pause(2 * ROUND_MS);
    this.#look(`behind changes, with trouble: ${trouble}`);
    if (!trouble.startsWith("node")) return;
    this.#gone.delete(victim.id);
  }

  /** Closes a scope at one node and opens the scope again: the entries are there at once. */
  async #openLate(): Promise<void> {
    const audit = this.#audit;
    const member = oneOf(this.#random, this.#members);
    if (member.opened.size === 0) return;
    const name = oneOf(this.#random, [...member.opened.keys()]);
    member.close(name);
    await audit.pause(ROUND_MS);
    this.#look("behind the end of a scope");
    const { scope } = member.open(name);
    const beganMs = audit.nowMs;
    await audit.until(() => scope.isReady);
    const isInTime = audit.nowMs - beganMs < OPEN_MS / 2;
    this.#examine("entries of a new scope before the longest wait", true, isInTime);
    this.#look("at the beginning of a scope");
  }

  /** Time in which checks find each loss, in milliseconds. */
  get #checkedMs(): number {
    const perNode = Math.ceil(this.#scopes.length / CHECKED);
    return UNDER_WAY_MS + (1 + (this.#members.length - 1) * perNode) * CHECK_MS;
  }

  #changeAll(but?: Member): void {
    for (const member of this.#members) if (member !== but) this.#change(member);
  }

  /** Sets and deletes some entries of a node. */
  #change({ opened }: Member): void {
    const random = this.#random;
    const names = [...opened.keys()];
    if (names.length === 0) return;
    for (let left = CHANGES; left > 0; left--) {
      const { scope, own } = opened.get(oneOf(random, names))!;
      const key = `key-${Math.floor(KEYS * random())}`;
      if (random() < 0.35) {
        scope.delete(key);
        own.delete(key);
      } else {
        scope.set(key, ++this.#newest);
        own.set(key, this.#newest);
      }
    }
  }

  /** Compares what each node knows with the entries of all nodes. */
  #look(what: string): void {
    for (const [i, { opened, faults }] of this.#members.entries()) {
      const differences: string[] = [];
      for (const [name, { scope, heard }] of opened) {
        const all = this.#members.flatMap(({ id, opened }) =>
          [...opened.get(name)?.own ?? []].map(([key, value]) => `${id}/${key}=${value}`)
        );
        const known = [...scope.entries()].map(({ node, key, value }) => `${node}/${key}=${value}`);
        const told = [...heard].map(([entry, value]) => `${entry}=${value}`);
        const own = `${this.#members[i]!.id}/`;
        const others = all.filter((entry) => !entry.startsWith(own));
        if (!isSame(all, known)) differences.push(`entries of ${name}`);
        if (!isSame(others, told)) differences.push(`changes of ${name}`);
      }
      this.#examine(`differences at node ${i} of ${this.#members.length} ${what}`, [], differences);
      this.#examine(`changes that do not fit at node ${i} ${what}`, [], faults.splice(0));
    }
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("places", what, expected, received);
  }
}

/** Tells if two lists have the same elements. */
function isSame(some: readonly string[], others: readonly string[]): boolean {
  return some.length === others.length && new Set([...some, ...others]).size === some.length;
}

/**
 * Changes directories of several nodes while messages get lost and nodes come and go.
 *
 * @param audit The audit.
 */
export async function auditDirectories(audit: Audit): Promise<void> {
  await new Directories(audit).run();
}
