/** Questions to all nodes: each has the answers that came, and tells if a node is missing. */
import { pause } from "../../../../../base/wait.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Page } from "../users/page.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import { auditDeafness } from "./deafness.ts";
import { BEAT_MS, GONE_MS, KNOWN_MS } from "./service.ts";

/** Numbers of nodes of which one is drawn. */
const NODES = [2, 3, 3, 4] as const;

/** Rounds, and most questions at once. */
const [ROUNDS, QUESTIONS] = [3, 4] as const;

/** Time of a question, and longest work of a node, in milliseconds. */
const [ASK_MS, WORK_MS] = [700, 400] as const;

/** Work that outlasts each trouble, and the longest time of a question there, in milliseconds. */
const [LONG_MS, PATIENT_MS] = [9_000, 6_000] as const;

/** Time for messages under way, in milliseconds. */
const TRIP_MS = 60;

/** Time in which a node that starts hears of the others, in milliseconds (`Nodes`: 300 ms). */
const DISCOVERED_MS = 450;

/** Longest time of an engine that is away while a node starts, in milliseconds. */
const AWAY_MS = 2_500;

/** Most questions of one node at once (`Nodes`, Bounds), and the share of plans that reach these. */
const [MOST, FILLS] = [1_000, 0.25] as const;

/** The user with a session at the first node. */
const USER = "quinn";

/** Ways of a node to answer; only the first gives an answer in time. */
const WAYS = [
  "answers",
  "answers",
  "answers",
  "answers",
  "fails",
  "says too much",
  "waits",
] as const;

/** Troubles while a question waits for a node. */
const TROUBLES = ["closed", "killed", "frozen", "asker closed", "engine away"] as const;

/** A question: the way of each node by the name of the host. */
interface Question {
  readonly id: number;
  readonly ways: Readonly<Record<string, string>>;
  readonly workMs: number;
}

/** The nodes that ask each other. */
class Questions {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #nodes: UserNodes;
  #count = 0;
  /** Resolves at the end of all work under way. */
  #release = Promise.withResolvers<void>();

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.random;
    this.#nodes = new UserNodes(audit, "questions", {
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      onError() {},
    }, { count: oneOf(audit.random, NODES) });
  }

  /** Asks in calm, beyond the bound, and in trouble. */
  async run(): Promise<void> {
    await this.#nodes.ready();
    for (const node of this.#nodes.all) this.#handle(node);
    for (let round = 0; round < ROUNDS; round++) {
      const count = 1 + Math.floor(QUESTIONS * this.#random());
      await Promise.all(Array.from({ length: count }, () => this.#ask()));
    }
    if (this.#random() < FILLS) await this.#fill();
    await this.#startYoung();
    await this.#wait(oneOf(this.#random, TROUBLES));
    this.#release.resolve();
    await this.#nodes.close();
  }

  /** Answers the questions at a node in its present life. */
  #handle({ host, server }: UserNode): void {
    server.nodes!.handle("audit", async (data) => {
      const { id, ways, workMs } = data as Question;
      const way = ways[host.name] ?? "answers";
      await Promise.race([pause(host.runtime, workMs), this.#release.promise]);
      if (way === "waits") {
        await Promise.race([pause(host.runtime, LONG_MS), this.#release.promise]);
      }
      if (way === "fails") throw new Error("planned failure");
      return way === "says too much" ? 1n : [host.name, id];
    });
  }

  /** Asks a question, to which each node answers in its way. */
  async #ask(): Promise<void> {
    const random = this.#random;
    const { all } = this.#nodes;
    const asker = oneOf(random, all);
    const others = all.filter((node) => node !== asker);
    const ways: Record<string, string> = {};
    const isCalm = random() < 0.4;
    for (const { host } of others) ways[host.name] = isCalm ? "answers" : oneOf(random, WAYS);
    const data = { id: this.#count++, ways, workMs: WORK_MS * random() };
    const told = Object.values(ways);
    const answers = others.filter(({ host }) => ways[host.name] === "answers");
    const what = `a question while a node ${told.join(", another ")}`;
    await this.#examineAnswers(what, { asker, data, timeoutMs: ASK_MS }, {
      answers,
      isComplete: answers.length === others.length,
      withinMs: told.includes("waits") ? [ASK_MS, ASK_MS + TRIP_MS] : [0, data.workMs + TRIP_MS],
    });
  }

  /** Asks, and compares the answers and the time. */
  async #examineAnswers(
    what: string,
    { asker: { server }, data, timeoutMs }: {
      readonly asker: UserNode;
      readonly data: Question;
      readonly timeoutMs: number;
    },
    expected: {
      readonly answers: readonly UserNode[];
      readonly isComplete: boolean;
      readonly withinMs: readonly [number, number];
    },
  ): Promise<void> {
    const beganMs = this.#audit.nowMs;
    const asked = await server.nodes!.ask("audit", data, { timeoutMs });
    const tookMs = Math.round(this.#audit.nowMs - beganMs);
    const answers = expected.answers
      .map(({ host, server }) => [server.nodes!.id, host.name, data.id].join(" "))
      .toSorted();
    const received = asked.answers
      .map(({ node, data }) => [node, ...data as unknown[]].join(" "))
      .toSorted();
    this.#expect(`answers to ${what}`, answers, received);
    this.#expect(`complete answers to ${what}`, expected.isComplete, asked.isComplete);
    const [least, most] = expected.withinMs;
    const isInTime = tookMs >= Math.floor(least) && tookMs <= most;
    this.#expect(`${what} ends after ${least} to ${most} ms, not ${tookMs}`, true, isInTime);
  }

  /** Asks so many questions at once that one more is refused, at both ends. */
  async #fill(): Promise<void> {
    const [asker, other] = shuffled(this.#random, this.#nodes.all) as [UserNode, UserNode];
    // Work for earlier questions, which are over, counts until its end.
    await this.#endWork();
    const ways = { [other.host.name]: "waits" };
    const ask = () => ({ id: this.#count++, ways, workMs: 0 });
    const nodes = asker.server.nodes!;
    const asking = Array.from(
      { length: MOST },
      () => nodes.ask("audit", ask(), { timeoutMs: LONG_MS }),
    );
    await this.#audit.pause(TRIP_MS);
    const others = this.#nodes.all.filter((node) => node !== asker && node !== other);
    const beyond = { answers: [], isComplete: false };
    this.#expect("a question too many", beyond, await nodes.ask("audit", ask()));
    for (const third of others.slice(0, 1)) {
      const answers = this.#nodes.all.filter((node) => node !== third && node !== other);
      const parts = { asker: third, data: { ...ask(), ways: {} }, timeoutMs: ASK_MS };
      await this.#examineAnswers("a question to a node with too many", parts, {
        answers,
        isComplete: false,
        withinMs: [ASK_MS, ASK_MS + TRIP_MS],
      });
    }
    await this.#endWork();
    const answered = await Promise.all(asking);
    const incomplete = answered.filter(({ isComplete }) => !isComplete).length;
    this.#expect("questions without an answer within the bound", 0, incomplete);
    await this.#askAll(asker, "a question behind too many");
  }

  /** Ends all work under way. */
  async #endWork(): Promise<void> {
    this.#release.resolve();
    this.#release = Promise.withResolvers();
    await this.#audit.pause(TRIP_MS);
  }

  /** Asks all nodes, which answer at once. */
  async #askAll(asker: UserNode, what: string): Promise<void> {
    const answers = this.#nodes.all.filter((node) => node !== asker);
    const data = { id: this.#count++, ways: {}, workMs: 0 };
    await this.#examineAnswers(what, { asker, data, timeoutMs: ASK_MS }, {
      answers,
      isComplete: true,
      withinMs: [0, TRIP_MS],
    });
  }

  /** Starts a node while the engine is away, and asks the others at once. */
  async #startYoung(): Promise<void> {
    const random = this.#random;
    const audit = this.#audit;
    const { engine, all } = this.#nodes;
    const [home, young] = all as readonly [UserNode, UserNode];
    const page = new Page(audit, USER, "questions-page", home);
    await audit.until(() => page.isIn);
    engine.goAway();
    young.host.kill();
    young.restart();
    this.#handle(young);
    const awayMs = between(random, 0, AWAY_MS);
    await audit.pause(awayMs / 2 * random());
    const askedMs = audit.nowMs;
    const timeoutMs = Math.round(between(random, DISCOVERED_MS, AWAY_MS));
    // The engine is back early enough for the discovery, or too late for the question.
    const isLate = random() < 0.5;
    const backMs = isLate ? timeoutMs + DISCOVERED_MS : (timeoutMs - DISCOVERED_MS) * random();
    const data = { id: this.#count++, ways: {}, workMs: 0 };
    const others = all.filter((node) => node !== young);
    const asking = this.#examineAnswers(
      `a question of a new node, with the engine back ${isLate ? "late" : "in time"},`,
      { asker: young, data, timeoutMs },
      {
        answers: isLate ? [] : others,
        isComplete: !isLate,
        withinMs: isLate ? [timeoutMs, timeoutMs + TRIP_MS] : [backMs, timeoutMs],
      },
    );
    const listing = isLate && random() < 0.5 ? young.server.sessions(USER) : undefined;
    const ending = !isLate && random() < 0.5 ? young.server.disconnect(USER) : undefined;
    await audit.pause(backMs);
    if (listing !== undefined && audit.nowMs - askedMs > AWAY_MS) {
      this.#expect("sessions that a new node lists without the engine", 0, (await listing).length);
    }
    engine.comeBack();
    await asking;
    if (ending !== undefined) {
      const ended = { closed: 1, isComplete: true };
      this.#expect("sessions that a new node ends once the engine is back", ended, await ending);
    }
    // The others wait for the earlier life of the node until that is gone.
    await audit.pause(KNOWN_MS + BEAT_MS);
    await this.#askAll(young, "a question of a node that began without the engine");
    await this.#askAll(home, "a question to a node that began without the engine");
    page.close();
  }

  /** Asks while a node works for long, and lets a trouble end the wait. */
  async #wait(trouble: typeof TROUBLES[number]): Promise<void> {
    const audit = this.#audit;
    const { engine, all } = this.#nodes;
    const [asker, other] = shuffled(this.#random, all) as [UserNode, UserNode];
    const waits = { [other.host.name]: "waits" };
    const rest = all.filter((node) => node !== asker && node !== other);
    const isAway = trouble === "engine away";
    const isGone = trouble === "killed" || trouble === "frozen";
    const withinMs = isAway
      ? [PATIENT_MS, PATIENT_MS + TRIP_MS] as const
      : isGone
      ? [GONE_MS / 2, KNOWN_MS + 2 * TRIP_MS] as const
      : [0, 3 * TRIP_MS] as const;
    const asking = this.#examineAnswers(
      `a question with a trouble: ${trouble}`,
      {
        asker,
        data: { id: this.#count++, ways: waits, workMs: 0 },
        timeoutMs: PATIENT_MS,
      },
      { answers: rest, isComplete: !isAway && trouble !== "asker closed", withinMs },
    );
    await audit.pause(TRIP_MS);
    if (trouble === "closed") void other.server.close();
    if (trouble === "killed") other.host.kill({ power: true });
    if (trouble === "frozen") other.host.freeze();
    if (trouble === "asker closed") void asker.server.close();
    if (isAway) engine.goAway();
    await asking;
    if (trouble === "asker closed") {
      const beyond = { answers: [], isComplete: false };
      this.#expect("a question of a closed node", beyond, await asker.server.nodes!.ask("audit"));
    }
    if (isAway) engine.comeBack();
    if (other.host.isFrozen) other.host.thaw();
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("places", what, expected, received);
  }
}

/**
 * Asks all nodes at once, in calm and in trouble, and at the start of a node without the engine. Beside
 * that, nodes hear nothing for a while.
 *
 * @param audit The audit.
 */
export async function auditQuestions(audit: Audit): Promise<void> {
  await Promise.all([new Questions(audit).run(), auditDeafness(audit)]);
}
