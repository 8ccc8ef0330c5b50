/**
 * Many clients, many faults, and a program that checks: every client has every message once, in
 * order, or was told of a gap with a reason that is true. A seed makes a failure show again.
 */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { HistoryPosition, SubscribeAnswer } from "../session/wire/recovery.ts";
import { turns } from "../tests/waiting.ts";
import { Random } from "../tests/random.ts";
import { Client, type Line } from "./_clients_test.ts";
import { ScriptedEngine } from "./_scripted_broker_test.ts";
import { fail, type FaultyBroker } from "../tests/faulty_broker.ts";
import { Topics } from "./topics.ts";

const STEPS = 400;
const CLIENTS = 12;
const KEPT = 60;

/** Publications. */
interface Published {
  readonly data: unknown;
  readonly prev: number;
  readonly except: string | undefined;
}

/** The true state, for any report to a client. */
class Truth {
  readonly #epochs = new Map<string, Map<number, Published>>();
  /** The newest offset that was let go of. */
  readonly trimmed = new Map<string, number>();
  readonly engine: ScriptedEngine;

  constructor(engine: ScriptedEngine) {
    this.engine = engine;
    this.note();
  }

  /** Records the present content of the engine. */
  note(): void {
    const { epoch, kept } = this.engine;
    const all = this.#epochs.get(epoch) ?? new Map();
    this.#epochs.set(epoch, all);
    for (const { payload, position, except } of kept) {
      const { data } = JSON.parse(payload as string);
      all.set(position!.offset, { data, prev: position!.prev, except });
    }
  }

  trim(count: number): void {
    const { engine } = this;
    engine.trim(count);
    const oldest = engine.kept[0]?.position?.prev ?? engine.head;
    this.trimmed.set(engine.epoch, oldest);
  }

  beginEpoch(lost: number): void {
    const { engine } = this;
    const oldest = this.trimmed.get(engine.epoch) ?? 0;
    engine.beginEpoch(`e${this.#epochs.size + 1}`, lost);
    this.trimmed.set(engine.epoch, oldest);
    this.note();
  }

  at(epoch: string, offset: number): Published | undefined {
    return this.#epochs.get(epoch)?.get(offset);
  }
}

/** A server. */
class Node {
  readonly broker: FaultyBroker;
  readonly topics: Topics;
  readonly #random: Random;
  isAway = false;
  /** Reads that failed, which alone make `unavailable` true. */
  failures = 0;
  isHealed = false;

  constructor(engine: ScriptedEngine, random: Random) {
    this.#random = random;
    this.broker = engine.node();
    this.topics = new Topics({ broker: this.broker, history: { t: { size: 1_000_000 } } });
    this.broker.onDelivery = (one, deliver) => {
      if (this.isHealed) return deliver(one);
      if (this.isAway || random.below(12) === 0) return;
      for (let copies = random.below(10) === 0 ? 2 : 1; copies > 0; copies--) {
        if (random.below(3) > 0) deliver(one);
        else setTimeout(() => deliver(one), random.below(300));
      }
    };
    this.broker.make("history.read", async (run, call) => {
      if (await this.#fails("before")) return await fail(run, call);
      const page = await run();
      return await this.#fails("after") ? await fail(run, call) : page;
    });
  }

  comeBack(): void {
    this.isAway = false;
    this.broker.interrupt();
  }

  /** Takes the time of one way to the engine or back, on which a read may fail. */
  async #fails(at: "before" | "after"): Promise<boolean> {
    if (this.isHealed) return false;
    if (this.#random.below(2) === 0) {
      await new Promise((resolve) => setTimeout(resolve, this.#random.below(80)));
    }
    if (!this.isAway && this.#random.below(at === "before" ? 8 : 50) > 0) return false;
    this.failures++;
    return true;
  }
}

/** A client that reconnects, to any server. */
class Reader {
  readonly #truth: Truth;
  readonly #name: string;
  node: Node | undefined;
  client: Client | undefined;
  place: HistoryPosition | undefined;
  counts = { messages: 0, recovered: 0, refused: 0, gaps: 0 };
  #asked: { since?: HistoryPosition | undefined; last?: number | undefined } = {};
  #seen = 0;

  constructor(truth: Truth, name: string) {
    this.#truth = truth;
    this.#name = name;
  }

  connect(node: Node, last: number | undefined): void {
    this.node = node;
    this.client = new Client(node.topics.turn, { sendQueue: { maxMessages: 40 } });
    this.#seen = 0;
    this.#ask(last);
  }

  /** Subscribes again, on the same connection. */
  resync(): void {
    // A request in flight is of the subscription before, and so is its answer.
    const isQuiet = this.#seen > 0 && this.client?.lines.length === this.#seen;
    if (this.place !== undefined && isQuiet) this.#ask(undefined);
  }

  #ask(last: number | undefined): void {
    this.#asked = { since: this.place, last };
    this.client!.subscribe(this.node!.topics, "t", this.#asked);
  }

  async disconnect(): Promise<void> {
    this.check();
    await this.client?.[Symbol.asyncDispose]();
    this.client = undefined;
  }

  /** Reads the messages. */
  check(): void {
    const lines = this.client?.lines ?? [];
    for (; this.#seen < lines.length; this.#seen++) {
      const line = lines[this.#seen]!;
      if (line.topic === "answer") this.#onAnswer(line.data as SubscribeAnswer);
      else if (line.gap !== undefined) this.#onGap(line);
      else this.#onMessage(line);
    }
  }

  #onAnswer(answer: SubscribeAnswer): void {
    // The next request was sent already, and this is not its answer.
    if (answer.isSuperseded) return;
    const { since, last } = this.#asked;
    const { epoch, offset, head, recovered, reason } = answer;
    const told = `${this.#name}: ${JSON.stringify({ since, last, answer, place: this.place })}`;
    assertEquals(recovered === undefined, since === undefined, told);
    if (recovered === true) {
      this.counts.recovered++;
      assertEquals({ epoch, offset }, since as unknown, told);
    }
    if (reason !== undefined) {
      this.counts.refused++;
      this.#checkReason({ reason, epoch, offset: head }, since, told);
    }
    if (epoch === undefined || offset === undefined) return void (this.place = undefined);
    assert(head! >= offset, told);
    this.place = { epoch, offset };
  }

  #onGap(line: Line): void {
    this.counts.gaps++;
    const { epoch, offset } = line as { epoch: string; offset: number };
    const told = `${this.#name}: ${JSON.stringify({ line, place: this.place })}`;
    this.#checkReason(line, this.place, told);
    assert(epoch !== this.place?.epoch || offset > this.place.offset, told);
    this.place = { epoch, offset };
  }

  #checkReason(told: Line, from: HistoryPosition | undefined, text: string): void {
    const { reason, epoch, offset } = told as { reason: string; epoch: string; offset: number };
    switch (reason) {
      case "new-epoch":
        return assert(epoch !== from!.epoch, text);
      case "too-old":
        assertEquals(epoch, from!.epoch, text);
        return assert(this.#truth.trimmed.get(epoch)! > from!.offset, text);
      case "beyond-head":
        assertEquals(epoch, from!.epoch, text);
        return assert(from!.offset > offset, text);
      case "unavailable":
        return assert(this.node!.failures > 0, text);
      default:
        throw new Error(text);
    }
  }

  #onMessage(line: Line): void {
    this.counts.messages++;
    const { place } = this;
    const told = `${this.#name}: ${JSON.stringify({ line, place })}`;
    assert(place !== undefined, told);
    if (line.prev as number > place.offset && this.client!.session.isClosed) {
      // Cut off in the middle of a turn. A publication out of order makes a client return.
      this.#seen = Infinity;
      return;
    }
    const truth = this.#truth.at(place.epoch, line.offset as number)!;
    const isExcepted = truth.except === this.client!.session.id;
    assertEquals(line.skip, isExcepted ? "t" : undefined, told);
    assertEquals([line.data, line.prev], [isExcepted ? undefined : truth.data, truth.prev], told);
    // Not before the client's position, a repeat; not behind, a hole.
    assertEquals(line.prev, place.offset, told);
    this.place = { epoch: place.epoch, offset: line.offset as number };
  }
}

async function run(seed: number): Promise<Record<string, number>> {
  using time = new FakeTime();
  const random = new Random(seed);
  const engine = new ScriptedEngine();
  engine.step = 1 + random.below(3);
  const truth = new Truth(engine);
  const nodes = [new Node(engine, random), new Node(engine, random)];
  const readers = Array.from({ length: CLIENTS }, (_, i) => new Reader(truth, `${seed}/${i}`));
  let next = 0;

  async function step(): Promise<void> {
    const reader = random.pick(readers);
    const node = random.pick(nodes);
    const dice = random.below(100);
    if (dice < 50) {
      for (let i = random.below(random.below(10) === 0 ? 80 : 5); i >= 0; i--) {
        const { client } = random.below(4) === 0 ? random.pick(readers) : {};
        engine.publish(next++, client?.session.id);
      }
      truth.note();
      if (engine.kept.length > KEPT * 2) truth.trim(KEPT);
    } else if (dice < 70) {
      if (reader.client === undefined) {
        reader.connect(node, random.below(2) === 0 ? undefined : random.below(100));
      } else if (reader.client.session.isClosed || random.below(2) === 0) await reader.disconnect();
    } else if (dice < 75) reader.resync();
    else if (dice < 82) reader.client?.pair.link.stall("to-client");
    else if (dice < 92) reader.client?.pair.link.resume("to-client");
    else if (dice < 94) node.isAway = true;
    else if (dice < 98) node.comeBack();
    else if (dice < 99) truth.beginEpoch(random.below(6));
    else truth.trim(random.below(10));
    await time.tickAsync(random.below(random.below(20) === 0 ? 5_000 : 60));
    await turns(1 + random.below(3));
    for (const one of readers) one.check();
  }

  for (let i = 0; i < STEPS; i++) await step();

  // All faults heal; then every client must have every publication.
  for (const node of nodes) {
    node.isHealed = true;
    node.comeBack();
  }
  for (const reader of readers) {
    reader.client?.pair.link.resume("to-client");
    if (reader.client?.session.isClosed) await reader.disconnect();
    if (reader.client === undefined) reader.connect(random.pick(nodes), undefined);
  }
  for (let i = 0; i < 40; i++) {
    await time.tickAsync(1_000);
    await turns();
    for (const reader of readers) {
      reader.check();
      if (!reader.client!.session.isClosed) continue;
      await reader.disconnect();
      reader.connect(random.pick(nodes), undefined);
    }
  }
  const sums: Record<string, number> = { published: next };
  for (const reader of readers) {
    assertEquals(reader.place, { epoch: engine.epoch, offset: engine.head });
    for (const [name, count] of Object.entries(reader.counts)) {
      sums[name] = (sums[name] ?? 0) + count;
    }
    await reader.disconnect();
  }
  for (const node of nodes) await node.topics[Symbol.asyncDispose]();
  await turns();
  return sums;
}

Deno.test("clients of topics with a history have every message once and in order, or are told why not", async () => {
  const seeds = Deno.env.get("SKEIN_SEED");
  for (const seed of seeds === undefined ? [1, 2, 3, 4] : seeds.split(",").map(Number)) {
    const sums = await run(seed);
    // There were faults, and some of them healed unseen.
    for (const [what, count] of Object.entries(sums)) assert(count > 0, `${seed}: no ${what}`);
  }
});
