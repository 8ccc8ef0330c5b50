/** Returns: readers whose replays wait while the history goes on, is cut, or is lost. */
import { HIGH_WATER_MARK } from "../../../../../session/queue/turn.ts";
import type { HistoryPosition } from "../../../../../session/wire/recovery.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";
import { range } from "../history.ts";
import { HeldBroker } from "./held_broker.ts";
import { auditOldPages } from "./old_pages.ts";
import { isAnswer, textOf, WaitingReader } from "./waiting_reader.ts";

/** Topics that take all turns of replays: a node reads or replays as many pages at once. */
const TURNS = 64;

/** Bounds of the readers who come back, and of the publications before. */
const [READERS, BEFORE] = [[2, 5], [4, 24]] as const;

/** Characters of a publication before: many in a page, some, and more than a node has in memory. */
const SIZES = [10, 4_000, 20_000, 45_000] as const;

/** Numbers and characters of publications meanwhile: few, and more bytes than a node has in memory. */
const BURSTS = [[1, 10], [3, 10], [3, 200_000], [14, 45_000], [4, 150_000]] as const;

/** A burst of more publications than a node has in memory, and the share of these. */
const [MANY, MANY_SHARE] = [[520, 10], 0.04] as const;

/** Share of audits in which the history keeps all publications, and of these with a loss. */
const [KEPT_SHARE, LOSS_SHARE] = [0.7, 0.5];

/** Share of readers whose way is closed, of waits for a turn, and for a read. */
const [BLOCKED_SHARE, TURN_SHARE, HELD_SHARE] = [0.5, 0.5, 0.3];

/** Longest time between two bursts, and until all publications have arrived, in milliseconds. */
const [GAP_MS, ARRIVES_MS] = [300, 5_000];

/** Time in which a reader without trouble takes a long publication, or four short ones, in milliseconds. */
const TAKEN_MS = 6;

/** Longest time of a question that the engine does not answer, in milliseconds. */
const UNANSWERED_MS = 20_000;

/** Bytes of a history that size alone bounds. */
const BYTES = 1 << 26;

/** The topic of all readers. */
const TOPIC = "busy";

/** Names of the topics that take all turns. */
const TURN_TOPICS: readonly string[] = range(1, TURNS).map((i) => `turn:${i}`);

/** A reader, with the place of the question. */
interface Return {
  readonly reader: WaitingReader;
  readonly since: number;
}

/**
 * Lets readers come back to histories on nodes of their own.
 *
 * @param audit The audit.
 */
export async function auditReturns(audit: Audit): Promise<void> {
  await Promise.all([new Returns(audit).run(), comeAhead(audit), auditOldPages(audit)]);
}

/** Readers, who wait for a turn, for a page of the engine, or for their way. */
class Returns {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #broker: HeldBroker;
  readonly #program: SimulatedServer;
  readonly #size: number;
  readonly #maxMessages: number;
  readonly #keepsAll: boolean;
  /** Publications before the readers come. */
  readonly #before: number;
  readonly #isLost: boolean;
  readonly #text: string;
  /** Positions by life of the engine. */
  readonly #lives: HistoryPosition[][] = [[]];

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.random;
    const host = audit.host("returns");
    const broker = this.#broker = new HeldBroker(host.runtime);
    this.#before = this.#draw(...BEFORE);
    this.#keepsAll = random() < KEPT_SHARE;
    this.#isLost = this.#keepsAll && random() < LOSS_SHARE;
    this.#size = this.#keepsAll ? 10_000 : this.#before + this.#draw(0, 8);
    this.#text = "x".repeat(oneOf(random, SIZES));
    const maxMessages = this.#maxMessages = this.#draw(8, 24);
    this.#program = new SimulatedServer(audit.network, host, () => ({
      authorize: () => true,
      broker,
      history: { [TOPIC]: { size: this.#size, bytes: BYTES }, "turn:{name}": {} },
      session: { sendQueue: { maxMessages } },
    }));
  }

  async run(): Promise<void> {
    const { server } = this.#program;
    const follower = await this.#connect("follower");
    follower.ask(TOPIC);
    await this.#audit.until(() => follower.heard(TOPIC).some(isAnswer));
    for (let i = 0; i < this.#before; i++) {
      await this.#publish(this.#text);
      await this.#audit.pause(TAKEN_MS);
    }
    const waiter = this.#random() < TURN_SHARE ? await this.#takeTurns() : undefined;
    const isHeld = this.#random() < HELD_SHARE;
    if (isHeld) this.#broker.hold(TOPIC);
    const returns: Return[] = [];
    for (let i = this.#draw(...READERS); i > 0; i--) returns.push(await this.#comeBack(i));
    await this.#audit.pause(GAP_MS * this.#random());
    await this.#goOn();
    if (waiter !== undefined) { for (const topic of TURN_TOPICS) this.#broker.release(topic); }
    if (this.#random() < 0.5) await this.#audit.pause(GAP_MS * this.#random());
    if (isHeld) this.#broker.release(TOPIC);
    if (this.#random() < 0.5) await this.#audit.pause(GAP_MS * this.#random());
    for (const { reader } of returns) this.#setWay(reader, false);
    const readers = [follower, ...returns.map(({ reader }) => reader)];
    await this.#arrive(readers);
    const head = this.#lives.at(-1)!.length;
    for (let left = this.#draw(1, 4); left > 0; left--) await this.#publish("");
    await this.#arrive(readers);
    this.#compare(follower, { since: undefined, head });
    for (const { reader, since } of returns) this.#compare(reader, { since, head });
    const { waitingPages, waitingBytes } = server.topics.stats;
    this.#expect("pages that wait at the end", [0, 0], [waitingPages, waitingBytes]);
    this.#expect("ends of sessions", [], readers.flatMap(({ ends }) => ends));
    for (const reader of [...readers, waiter]) reader?.close();
    await this.#audit.until(() => server.topics.size === 0);
    this.#expect("bytes behind the last reader", 0, server.topics.stats.tailBytes);
    await server.close();
  }

  /** Draws a whole number from one up to below another. */
  #draw(from: number, below: number): number {
    return Math.floor(between(this.#random, from, below));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("history", `returns: ${what}`, expected, received);
  }

  async #connect(name: string): Promise<WaitingReader> {
    const { network } = this.#audit;
    const host = this.#audit.host(`returns-${name}`);
    // Readers without trouble take all publications as these come.
    this.#audit.change(this.#program.host, host, STEADY);
    const reader = new WaitingReader(network, { host, node: this.#program.host });
    await this.#audit.until(() => reader.isOpen);
    return reader;
  }

  /** Publishes the next number of the present life of the engine. */
  async #publish(text: string): Promise<void> {
    const life = this.#lives.length - 1;
    const positions = this.#lives[life]!;
    const n = `${life}:${positions.length + 1}`;
    const { position } = await this.#program.server.topics.append(TOPIC, { n, text });
    positions.push(position!);
  }

  /** Lets all turns of replays wait for the engine. */
  async #takeTurns(): Promise<WaitingReader> {
    const waiter = await this.#connect("waiter");
    for (const topic of TURN_TOPICS) waiter.ask(topic);
    await this.#audit.until(() => TURN_TOPICS.every((topic) => waiter.heard(topic).some(isAnswer)));
    for (const topic of TURN_TOPICS) {
      this.#broker.hold(topic);
      waiter.ask(topic, { last: 5 });
    }
    await this.#audit.until(() => this.#broker.underWay === TURNS);
    this.#expect("reads of replays at once", TURNS, this.#broker.underWay);
    return waiter;
  }

  /** Lets a reader come back, whose way may be closed before the whole replay has passed. */
  async #comeBack(i: number): Promise<Return> {
    const reader = await this.#connect(`reader-${i}`);
    const { server } = this.#program;
    const [positions] = this.#lives;
    const isBlocked = this.#random() < BLOCKED_SHARE;
    // A reader who misses nothing follows live at once.
    const since = this.#draw(1, this.#before + (isBlocked ? 0 : 1));
    if (isBlocked) {
      this.#setWay(reader, true);
      // A way that takes all of the replay would let the reader follow live, with no room for that.
      const beyondPage = this.#before - since - (this.#maxMessages >> 1);
      const isEnough = beyondPage * this.#text.length > HIGH_WATER_MARK;
      const fill = HIGH_WATER_MARK * (isEnough ? 0.9 * this.#random() : 1.1);
      reader.ask("fill");
      await this.#audit.until(() => server.topics.subscribers("fill").length > 0);
      server.publish("fill", "x".repeat(fill));
      await this.#audit.pause(1);
      for (const session of server.topics.subscribers("fill")) {
        server.topics.unsubscribe(session, "fill");
      }
    }
    reader.ask(TOPIC, { since: positions![since - 1]! });
    return { reader, since };
  }

  #setWay({ host }: WaitingReader, isBlocked: boolean): void {
    this.#audit.network.change(this.#program.host, host, { isBlocked });
  }

  /** Publishes while readers wait; the engine may lose all publications in between. */
  async #goOn(): Promise<void> {
    const bursts = this.#draw(1, 4);
    const lostAt = this.#isLost ? this.#draw(0, bursts) : bursts;
    for (let i = 0; i < bursts; i++) {
      if (i === lostAt) {
        this.#broker.lose();
        this.#lives.push([]);
        if (this.#random() < 0.5) this.#broker.interrupt(TOPIC);
      }
      // Of a history with a small bound, a node would miss publications that nobody keeps.
      const isMissed = this.#keepsAll && this.#random() < 0.2;
      if (isMissed) this.#broker.deaf.add(TOPIC);
      const [count, size] = this.#random() < MANY_SHARE ? MANY : oneOf(this.#random, BURSTS);
      const text = "x".repeat(size);
      for (let n = 0; n < count; n++) {
        await this.#publish(text);
        if (size > 10 || n % 4 === 3) await this.#audit.pause(TAKEN_MS);
      }
      this.#broker.deaf.delete(TOPIC);
      await this.#audit.pause(GAP_MS * this.#random());
    }
  }

  /** Waits until each reader has the newest publication. */
  async #arrive(readers: readonly WaitingReader[]): Promise<void> {
    const life = this.#lives.length - 1;
    const newest = `${life}:${this.#lives[life]!.length}`;
    // The node learns of a publication that is missing by the next one, or by a look at the engine.
    this.#broker.interrupt(TOPIC);
    await this.#audit.until(
      () => readers.every((reader) => reader.heard(TOPIC).map(textOf).at(-1) === newest),
      ARRIVES_MS,
    );
  }

  /** Compares all that a reader heard: `head` publications of the last life came before the live ones. */
  #compare(
    reader: WaitingReader,
    { since, head }: { readonly since: number | undefined; readonly head: number },
  ): void {
    const received = reader.heard(TOPIC).map(textOf);
    const [old, fresh] = this.#lives.map(({ length }) => length) as [number, number?];
    const last = (life: number, from: number) =>
      range(from + 1, life === 0 ? old : fresh!).map((n) => `${life}:${n}`);
    const answer = received[0] ?? "none";
    const first = since ?? 0;
    const about = `${reader.host.name} from ${since ?? "now"} on, ${
      this.#keepsAll ? "all" : this.#size
    } of ${old} kept, ${fresh ?? "none"} behind a loss`;
    const forgotten = Math.max(0, head - this.#size);
    const reason = fresh !== undefined ? "new-epoch" : first < forgotten ? "too-old" : "none";
    const [kind, why, offset = ""] = answer.split(" ");
    if (kind === "answer" && why === reason) {
      // The question waited: the engine lost or forgot the publications before the answer.
      const life = this.#lives.length - 1;
      return this.#expect(about, [answer, ...last(life, Number(offset))], received);
    }
    const expected = [since === undefined ? "answer - 0" : `answer recovered ${since}`];
    const isOther = (one: string, i: number) => one !== `0:${first + i}`;
    const end = received.slice(1).findIndex((one, i) => isOther(one, i + 1));
    const place = first + (end < 0 ? received.length - 1 : end);
    if (fresh !== undefined) {
      expected.push(...last(0, first).slice(0, place - first), "gap new-epoch 0", ...last(1, 0));
      return this.#expect(about, expected, received);
    }
    const isCut = place < forgotten && received[1 + place - first] === `gap too-old ${forgotten}`;
    if (isCut) {
      expected.push(...last(0, first).slice(0, place - first), `gap too-old ${forgotten}`);
      expected.push(...last(0, forgotten));
    } else expected.push(...last(0, first));
    this.#expect(about, expected, received);
  }
}

/** Readers ahead of their node while the engine does not answer: the place is examined later. */
async function comeAhead(audit: Audit): Promise<void> {
  const random = audit.chanceOf("ahead");
  const host = audit.host("ahead");
  const broker = new HeldBroker(host.runtime);
  const { server } = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    broker,
    history: { [TOPIC]: {} },
  }));
  const draw = (below: number) => Math.floor(below * random());
  const readers: WaitingReader[] = [];
  const connect = async () => {
    const parts = { host: audit.host(`ahead-${readers.length}`), node: host };
    const reader = new WaitingReader(audit.network, parts);
    readers.push(reader);
    await audit.until(() => reader.isOpen);
    return reader;
  };
  let count = 0;
  let epoch = "";
  const publish = async (times: number) => {
    for (; times > 0; times--) {
      const { position } = await server.topics.append(TOPIC, { n: `0:${++count}` });
      epoch = position!.epoch;
    }
  };
  const follower = await connect();
  follower.ask(TOPIC);
  await audit.until(() => follower.heard(TOPIC).some(isAnswer));
  await publish(1 + draw(5));
  await audit.pause(10);
  const known = count;
  broker.failing.set(TOPIC, Infinity);
  broker.deaf.add(TOPIC);
  await publish(draw(4));
  broker.deaf.clear();
  const places = range(1, 1 + draw(3)).map(() => known + 1 + draw(5));
  for (const offset of places) (await connect()).ask(TOPIC, { since: { epoch, offset } });
  const returned = readers.slice(1);
  await audit.until(
    () => returned.every((reader) => reader.heard(TOPIC).some(isAnswer)),
    UNANSWERED_MS,
  );
  broker.failing.delete(TOPIC);
  if (random() < 0.5) await publish(1);
  else broker.interrupt(TOPIC);
  const head = count;
  await audit.pause(1_000);
  await publish(2);
  await audit.until(
    () => readers.every((reader) => reader.heard(TOPIC).map(textOf).at(-1) === `0:${count}`),
    ARRIVES_MS,
  );
  const behind = (offset: number) => range(offset + 1, count).map((n) => `0:${n}`);
  const expect: Expect = (what, ...outcome) =>
    audit.examine("history", `${what}, head ${head}, ${known} known before`, ...outcome);
  expect(
    "a reader of a node behind",
    ["answer - 0", ...behind(0)],
    follower.heard(TOPIC).map(textOf),
  );
  for (const [i, reader] of returned.entries()) {
    const offset = places[i]!;
    const gap = offset > head ? [`gap beyond-head ${head}`] : [];
    const expected = [`answer unavailable ${offset}`, ...gap, ...behind(Math.min(offset, head))];
    expect(`a reader ahead at ${offset}`, expected, reader.heard(TOPIC).map(textOf));
  }
  for (const reader of readers) reader.close();
  await server.close();
}
