/** Answers whose node leaves, or is lost: another node goes on, and places come back everywhere. */
import { pause } from "../../../../../base/wait.ts";
import { requestLog } from "../../../../../pubsub/logs/rules.ts";
import { Answers, RESUME_LEASE_MS } from "../../../../../server/durable/answers.ts";
import type { NodeStreams } from "../../../../../server/durable/node_streams.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { LogMachine } from "./machine.ts";

/** Topic of the answers. */
const TOPIC = "count";

/** Fewest items of an answer, and the range of numbers; time between two, in milliseconds. */
const [ITEMS, ITEMS_RANGE, ITEM_MS] = [4, 8, 200];

/** Longest time between two searches for lost answers, in milliseconds. */
const SEARCH_MS = 2_000;

/** Time for the calls of an engine, in milliseconds. */
const SLACK_MS = 2_500;

/** Most answers of a node, at least, and the range. */
const [PLACES, PLACES_RANGE] = [2, 2];

/** Time for which answers are kept, in milliseconds. */
const KEEP_MS = 60_000;

/** Time for which nodes that cannot go on leave an answer to others, in milliseconds. */
const SPARE_MS = 20_000;

/** Share of audits in which nodes that cannot go on leave an answer to others. */
const SPARE_SHARE = 0.3;

/** Time between two items of an answer with several nodes, in milliseconds. */
const RARE_MS = 1_500;

/** Longest pause of the first takeovers of an answer, in milliseconds. */
const TAKEOVER_MS = 2_000;

/** Machines of nodes that have one answer in turn, and of a node that never has it. */
type FourMachines = readonly [LogMachine, LogMachine, LogMachine, LogMachine];

/** A node with answers. */
class AnswerNode {
  readonly machine: LogMachine;
  readonly node: NodeStreams;
  readonly answers: Answers;
  /** Answers of this node whose generator has begun and not ended, by name. */
  readonly generators: string[] = [];
  readonly #close: () => Promise<void>;
  readonly #isLost: (id: string) => Promise<boolean>;

  constructor(
    machine: LogMachine,
    places: number,
    { resumes = true }: { readonly resumes?: boolean } = {},
  ) {
    const { runtime } = machine.host;
    const { streams, node } = machine.streams({ rescue: (id) => this.answers.rescue(id) });
    this.machine = machine;
    this.node = node;
    const limits = { maxRunning: places, maxRunningPerUser: places - 1, keepMs: KEEP_MS };
    this.answers = new Answers(limits, {
      runtime,
      broker: machine.broker,
      streams,
      node,
      resumeOf: (topic) =>
        topic === TOPIC && resumes
          ? ({ input }, { count }) => this.#count(input as Input, count)
          : undefined,
      report() {},
    });
    this.#isLost = async (id) => (await streams.info(requestLog(id))).kind === "missing";
    this.#close = async () => {
      await this.answers.close();
      await node.close();
      await streams.close();
    };
  }

  /** Asks for an answer; returns the id of the stream. */
  begin(
    name: string,
    items: number,
    { user = name, everyMs = ITEM_MS }: {
      readonly user?: string | undefined;
      readonly everyMs?: number;
    } = {},
  ): Promise<string> {
    const input = { name, items, everyMs };
    return this.machine.run(() =>
      this.answers.begin({
        topic: TOPIC,
        input,
        user,
        owner: user,
        name,
        answer: () => this.#count(input, 0),
      })
    );
  }

  /** Reads an answer to the end. */
  async read(id: string): Promise<string> {
    const items: number[] = [];
    const outcome = await outcomeOf(this.machine.run(async () => {
      for await (const { data } of this.node.follow<number>(id)) items.push(data);
    }));
    return `${items} ${outcome}`;
  }

  /** Tells whether the engine has forgotten the request of an answer. */
  forgot(id: string): Promise<boolean> {
    return this.machine.run(() => this.#isLost(id));
  }

  close(): Promise<void> {
    return this.machine.run(this.#close);
  }

  async *#count({ name, items, everyMs }: Input, from: number): AsyncGenerator<number> {
    this.generators.push(name);
    try {
      for (let index = from; index < items; index++) {
        await pause(this.machine.host.runtime, everyMs);
        yield index;
      }
    } finally {
      this.generators.splice(this.generators.indexOf(name), 1);
    }
  }
}

/** Request of an answer. */
interface Input {
  readonly name: string;
  readonly items: number;
  readonly everyMs: number;
}

/**
 * Lets nodes with answers go: other nodes go on, at once or as soon as there is one that can.
 *
 * @param audit The audit.
 */
export async function auditTakeovers(audit: Audit): Promise<void> {
  await (audit.random() < SPARE_SHARE ? auditSpared : auditLeaving)(audit);
}

/** Lets a node with all its answers go, and fills the places of the others afterwards. */
async function auditLeaving(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("durable", `${what} of answers`, expected, received);
  const places = PLACES + Math.floor(PLACES_RANGE * random());
  const names = ["answers-leaving", "answers-near", "answers-far"];
  await LogMachine.use(audit, names, async (machines) => {
    const [leaving, near, far] = machines.map((machine) => new AnswerNode(machine, places));
    const items = ITEMS + Math.floor(ITEMS_RANGE * random());
    const all = range(0, items - 1);
    const nameOf = (number: number) => `audited-answer-${number}`.padEnd(24, "x");

    // The same name on two nodes at once, then as many as there are places.
    const twice = await Promise.all([leaving!, far!].map((node) => node.begin(nameOf(0), items)));
    expect("streams", 1, new Set(twice).size);
    await audit.pause(ITEM_MS / 2);
    const began = [leaving!, far!].map(({ generators }) => generators.length);
    expect("generators of one name", 1, began[0]! + began[1]!);
    const ids = [twice[0]!];
    while (leaving!.answers.running < places) {
      ids.push(await leaving!.begin(nameOf(ids.length), items));
    }
    const running = [...leaving!.generators];
    const oneMore = await outcomeOf(leaving!.begin(nameOf(98), items));
    // An answer that ended meanwhile, beside a slow engine, gave its place back.
    const isFull = running.every((name) => leaving!.generators.includes(name));
    if (isFull) expect("one more than places", "too-many", oneMore);
    const reads = ids.map((id) => near!.read(id));

    await audit.pause(3 * ITEM_MS * random());
    const isLost = random() < 0.4;
    if (isLost) leaving!.machine.end();
    else await leaving!.close();
    const withinMs = (isLost ? RESUME_LEASE_MS + SEARCH_MS : 0) + items * ITEM_MS + SLACK_MS;
    const got = await audit.inTime(Promise.all(reads), withinMs, "no end in time");
    expect("items", ids.map(() => `${all} fulfilled`), got);

    await audit.until(() => near!.answers.running + far!.answers.running === 0, SLACK_MS);
    for (const node of [near!, far!]) {
      expect("generators that run at the end", [], node.generators);
      // A second time, as cancelled answers give their places back, too.
      for (const round of ["first", "second"]) await fill(node, round);
    }
    await Promise.all([near!, far!].map((node) => node.close()));

    /** Takes all places of a node, and cancels the answers. */
    async function fill(node: AnswerNode, round: string): Promise<void> {
      const { name } = node.machine.host;
      const user = `user of ${name}`.slice(-24);
      const begun = (number: number, of?: string) =>
        node.begin(`${nameOf(number)}-${name.slice(-4)}-${round}`, 1_000, { user: of });
      const filled: string[] = [];
      for (let i = 0; i < places; i++) {
        const id = await begun(i, i < places - 1 ? user : undefined).catch((error) => `${error}`);
        filled.push(id);
        if (i !== places - 2) continue;
        const beyond = await outcomeOf(begun(97, user));
        expect("one more than places of a user", "too-many", beyond);
      }
      expect(`places of ${name} that are free`, places, node.answers.running);
      expect("one more than places", "too-many", await outcomeOf(begun(98)));
      const reading = filled.map((id) => node.read(id));
      await audit.pause(ITEM_MS * 1.5);
      await Promise.all(filled.map((id) => node.machine.run(() => node.node.cancel(id, "enough"))));
      const ended = await audit.inTime(Promise.all(reading), SLACK_MS, undefined);
      const codes = ended?.map((text) => text.slice(text.indexOf(" ") + 1));
      expect("ends of cancelled ones", filled.map(() => "cancelled"), codes ?? "none in time");
      await audit.until(() => node.generators.length === 0, SLACK_MS);
      expect("generators behind a cancellation", [], node.generators);
      await audit.pause(ITEM_MS);
      const forgotten = await Promise.all(filled.map((id) => node.forgot(id)));
      expect("requests that are forgotten", filled.map(() => true), forgotten);
    }
  });
}

/** A node that cannot go on leaves an answer to others for a time of its own after each loss. */
async function auditSpared(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect = (what: string, expected: unknown, received: unknown) =>
    audit.examine("durable", `${what} of an answer`, expected, received);
  const names = ["spared-first", "spared-idle", "spared-second", "spared-third"];
  await LogMachine.use(audit, names, async (machines) => {
    const [onFirst, onIdle, onSecond, onThird] = machines as FourMachines;
    const first = new AnswerNode(onFirst, PLACES);
    const idle = new AnswerNode(onIdle, PLACES, { resumes: false });
    const begun = { everyMs: RARE_MS };
    const id = await first.begin("audited-answer-spared-1", 1_000, begun);
    const isReleased = random() < 0.5;
    const isGivenUp = random() < 0.3;
    const reading = idle.read(id);
    await audit.pause(2 * RARE_MS * random());
    if (isReleased) await first.close();
    onFirst.end();
    let lostMs = audit.nowMs;
    const lapseMs = isReleased ? 0 : RESUME_LEASE_MS;
    if (isGivenUp) {
      const earlyMs = lapseMs / 3 + SPARE_MS - SLACK_MS;
      const lateMs = lapseMs + SPARE_MS + 2 * SEARCH_MS + SLACK_MS;
      const text = await audit.inTime(reading, lateMs, "no end in time");
      expect("end without a node that can go on", "writer-lost", text.split(" ").at(-1));
      const silentMs = Math.round(audit.nowMs - lostMs);
      expect(`end after ${silentMs} of ${earlyMs} ms`, true, silentMs >= earlyMs);
      await audit.pause(ITEM_MS);
      expect("request that is forgotten", true, await idle.forgot(id));
      return await idle.close();
    }
    await audit.pause(lapseMs + 2 * SEARCH_MS * random());
    const second = new AnswerNode(onSecond, PLACES);
    await goesOn(second, lostMs + lapseMs);
    // Longer than any node leaves the answer to others, were it still the first loss.
    await audit.pause(SPARE_MS - RESUME_LEASE_MS);
    expect("runs on the second node", 1, second.answers.running);
    onSecond.end();
    lostMs = audit.nowMs;
    await audit.pause(RESUME_LEASE_MS + 2 * SEARCH_MS * random());
    const third = new AnswerNode(onThird, PLACES);
    await goesOn(third, lostMs + RESUME_LEASE_MS);
    await third.machine.run(() => third.node.cancel(id, "enough"));
    const text = await audit.inTime(reading, SLACK_MS, "no end in time");
    const [items, outcome] = text.split(" ");
    const counted = items!.split(",").map(Number);
    expect("items", range(0, counted.length - 1), counted);
    expect("end", "cancelled", outcome);
    await Promise.all([idle, third].map((node) => node.close()));
  });

  /** Expects that a node takes the answer over. */
  async function goesOn(node: AnswerNode, fromMs: number): Promise<void> {
    const withinMs = Math.max(0, fromMs - audit.nowMs) + SEARCH_MS + TAKEOVER_MS + SLACK_MS;
    await audit.until(() => node.generators.length > 0, withinMs);
    expect(`takeovers by ${node.machine.host.name}`, 1, node.generators.length);
  }
}
