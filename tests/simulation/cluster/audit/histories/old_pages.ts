/** Old pages: readers from places that a node has to read, while the history goes on or begins anew. */
import type { HistoryPosition } from "../../../../../session/wire/recovery.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { LOOK_MS } from "../../examination.ts";
import type { Audit } from "../audit.ts";
import { range } from "../history.ts";
import { HeldBroker } from "./held_broker.ts";
import { isAnswer, textOf, WaitingReader } from "./waiting_reader.ts";

/** The topic of all readers. */
const TOPIC = "paged";

/** Length of a publication: a node has seven of these in memory. */
const LONG = "x".repeat(70_000);

/** Fewest and most publications before the readers come, and those of these that no node has in memory. */
const [BEFORE, READ] = [[10, 15], [1, 3]] as const;

/** Fewest and most readers, and most publications while their pages are under way. */
const [READERS, MEANWHILE] = [[2, 5], 4] as const;

/** Events while the pages are under way. */
const EVENTS = ["nothing", "publications", "loss", "loss", "loss under the same epoch"] as const;

/** Places of readers. */
const STARTS = ["since", "since", "since with a wrong tag", "last", "since and last"] as const;

/** Longest time until all publications have arrived, in milliseconds. */
const ARRIVES_MS = 4_000;

/** A question, with the reader. */
interface Return {
  readonly reader: WaitingReader;
  readonly kind: typeof STARTS[number];
  readonly offset: number;
  readonly last: number;
}

/**
 * Lets readers come back to a node that has to read their pages.
 *
 * @param audit The audit.
 */
export async function auditOldPages(audit: Audit): Promise<void> {
  await new OldPages(audit).run();
}

/** A node, and the publications by life of the engine. */
class OldPages {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #broker: HeldBroker;
  readonly #program: SimulatedServer;
  readonly #lives: HistoryPosition[][] = [[]];
  /** Number of publications before the readers come. */
  readonly #before: number;

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.chanceOf("old-pages");
    this.#before = this.#draw(...BEFORE);
    const host = audit.host("old-pages");
    const broker = this.#broker = new HeldBroker(host.runtime);
    this.#program = new SimulatedServer(audit.network, host, () => ({
      authorize: () => true,
      broker,
      history: { [TOPIC]: { size: 1_000, bytes: 1 << 26 } },
    }));
  }

  async run(): Promise<void> {
    const broker = this.#broker;
    const follower = await this.#connect("follower");
    follower.ask(TOPIC);
    await this.#audit.until(() => follower.heard(TOPIC).some(isAnswer));
    await this.#publish(this.#before, LONG);
    broker.hold(TOPIC);
    const returns: Return[] = [];
    for (let i = this.#draw(...READERS); i > 0; i--) returns.push(await this.#comeBack(i));
    const { topics } = this.#program.server;
    await this.#audit.until(() => topics.subscribers(TOPIC).length > returns.length);
    await this.#audit.pause(LOOK_MS);
    const release = broker.passLater(TOPIC);
    const event = oneOf(this.#random, EVENTS);
    await this.#pass(event, follower);
    const known = this.#lives.at(-1)!.length;
    release();
    const areAnswered = () => returns.every(({ reader }) => reader.heard(TOPIC).some(isAnswer));
    await this.#audit.until(areAnswered, ARRIVES_MS);
    await this.#publish(this.#draw(1, 3));
    const readers = [follower, ...returns.map(({ reader }) => reader)];
    await this.#arrive(readers);
    const all = this.#lives.map((life, n) => range(1, life.length).map((i) => `${n}:${i}`));
    this.#expect(
      `a follower (${event})`,
      ["answer - 0", ...all[0]!, ...all.slice(1).flatMap((life) => ["gap new-epoch 0", ...life])],
      follower.heard(TOPIC).map(textOf),
    );
    for (const { reader, kind, offset, last } of returns) {
      const isAnew = this.#lives.length > 1;
      const hasSince = kind !== "last";
      const isWrong = isAnew || kind === "since with a wrong tag";
      const why = hasSince ? isWrong ? "new-epoch" : "recovered" : "-";
      // The newest ones are those at the time of the read.
      const head = isAnew ? known : this.#before;
      const newest = kind.endsWith("last") ? Math.max(0, head - last) : known;
      const at = hasSince && !isWrong ? offset : newest;
      this.#expect(
        `a reader with ${kind} from ${offset}, ${last} (${event}, ${this.#before} before)`,
        [`answer ${why} ${at}`, ...all.at(-1)!.slice(at)],
        reader.heard(TOPIC).map(textOf),
      );
      this.#expect(`ends of a reader (${event})`, [], reader.ends);
    }
    const { waitingPages, waitingBytes } = topics.stats;
    this.#expect(`pages that wait (${event})`, [0, 0, 0], [
      waitingPages,
      waitingBytes,
      broker.underWay,
    ]);
    for (const reader of readers) reader.close();
    await this.#program.server.close();
  }

  /** Draws a whole number from one up to below another. */
  #draw(from: number, below: number): number {
    return Math.floor(between(this.#random, from, below));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `old pages: ${what}`, expected, received);
  }

  async #connect(name: string): Promise<WaitingReader> {
    const parts = { host: this.#audit.host(`old-pages-${name}`), node: this.#program.host };
    const reader = new WaitingReader(this.#audit.network, parts);
    await this.#audit.until(() => reader.isOpen);
    return reader;
  }

  async #publish(count: number, text = ""): Promise<void> {
    const life = this.#lives.length - 1;
    const positions = this.#lives[life]!;
    for (; count > 0; count--) {
      const n = `${life}:${positions.length + 1}`;
      const { position } = await this.#program.server.topics.append(TOPIC, { n, text });
      positions.push(position!);
      // A reader takes a long publication in this time.
      if (text !== "") await this.#audit.pause(6);
    }
  }

  /** Lets a reader ask for a place of which a part has to be read. */
  async #comeBack(i: number): Promise<Return> {
    const reader = await this.#connect(`reader-${i}`);
    const kind = oneOf(this.#random, STARTS);
    const offset = this.#draw(...READ);
    const last = this.#draw(this.#before - READ[1] + 1, this.#before + 3);
    const { tag, ...place } = this.#lives[0]![offset - 1]!;
    const isTagged = kind === "since with a wrong tag" || this.#random() < 0.5;
    const since = { ...place, ...(isTagged && { tag: kind.endsWith("tag") ? "wrong" : tag! }) };
    reader.ask(TOPIC, {
      ...(kind !== "last" && { since }),
      ...(kind.endsWith("last") && { last }),
    });
    return { reader, kind, offset, last };
  }

  /** Lets the history go on, or begin anew, of which the node learns at once. */
  async #pass(event: typeof EVENTS[number], follower: WaitingReader): Promise<void> {
    if (event === "nothing") return;
    if (event === "publications") return await this.#publish(this.#draw(1, MEANWHILE + 1));
    const isSame = event === "loss under the same epoch";
    this.#broker.lose(isSame ? this.#lives[0]![0]!.epoch : undefined);
    this.#lives.push([]);
    // A history shows that it is another one by another publication at an offset that the node has.
    this.#broker.deaf.add(TOPIC);
    await this.#publish(this.#draw(0, MEANWHILE + 1) + (isSame ? this.#before : 0));
    this.#broker.deaf.delete(TOPIC);
    this.#broker.interrupt(TOPIC);
    await this.#arrive([follower]);
  }

  /** Waits until each reader has the newest publication, or the news of another history. */
  async #arrive(readers: readonly WaitingReader[]): Promise<void> {
    const life = this.#lives.length - 1;
    const count = this.#lives[life]!.length;
    const newest = count === 0 ? "gap new-epoch 0" : `${life}:${count}`;
    await this.#audit.until(
      () => readers.every((reader) => reader.heard(TOPIC).map(textOf).at(-1) === newest),
      ARRIVES_MS,
    );
  }
}
