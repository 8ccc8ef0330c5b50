/** Rates that two nodes count together: the sessions of a user have one rate on both. */
import type { Rate } from "../../../../../base/token_bucket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { auditAbsences } from "./absences.ts";
import { auditDebts } from "./debts.ts";
import { type Outcome, Page } from "./page.ts";
import { UserNodes } from "./user_nodes.ts";

/** The user. */
const USER = "ann";

/** Most rounds of debts, and the time within which the last one begins, in milliseconds. */
const [ROUNDS, LAST_MS] = [2, 5_000];

/** Time of requests beyond the rate, in milliseconds. */
const FLOOD_MS = 3_000;

/** Longest time of a count at the engine, in milliseconds: a node waits for 500 ms. */
const [COUNT_MS, WAIT_MS] = [300, 500];

/** Longest time of a count that no node waits for, in milliseconds. */
const LATE_MS = 2_500;

/** Time after which a node asks an engine again that did not answer, in milliseconds. */
const AGAIN_MS = 1_000;

/** Time by which clocks are set back, in milliseconds. */
const BACK_MS = 3_600_000;

/** Least and longest time of an engine that is away, in milliseconds. */
const [BRIEF_MS, AWAY_MS] = [50, 1_500];

/** Shortest and longest time between two requests of a page, in milliseconds. */
const [FROM_MS, TO_MS] = [60, 140];

/** Time for an answer, in which no bucket gets a whole token, in milliseconds. */
const ROUND_MS = 60;

/** Time between an end of a debt and the count at the engine, in milliseconds. */
const SLACK_MS = 150;

/** Questions to the engine about one debt, at most. */
const QUESTIONS = 3;

/** Troubles of the engine. */
const TROUBLES = ["none", "away", "away", "late"] as const;

/**
 * Has debts at two nodes at once, sends beyond a rate at both, and within the rate afterwards, while
 * the engine is away or late.
 *
 * @param audit The audit.
 */
export async function auditShares(audit: Audit): Promise<void> {
  await Promise.all([auditTwoNodes(audit), auditDebts(audit), auditAbsences(audit)]);
}

/** Has debts of two nodes beside each other. */
async function auditTwoNodes(audit: Audit): Promise<void> {
  const { random } = audit;
  const rate = { perSecond: between(random, 5, 8), burst: 3 + Math.floor(3 * random()) };
  const nodes = new UserNodes(audit, "shares", {
    onMessage: (message) => message.reply(true),
    rates: { perUser: { messages: rate, connections: rate }, maxRefusals: 1_000 },
  }, { canCount: true });
  await nodes.ready();
  const shares = new Shares(audit, nodes, rate);
  await shares.enter();
  const startMs = audit.nowMs;
  for (let round = 0; round < ROUNDS && audit.nowMs < startMs + LAST_MS; round++) {
    await shares.owe();
  }
  if (random() < 0.5) await shares.forgive();
  if (random() < 0.5) await shares.setBack();
  await shares.flood();
  for (const page of shares.pages) page.close();
  await nodes.close();
}

/** Takes tokens of a rate at a node. */
type Take = (node: number, times: number) => Promise<Outcome[]>;

/** A user at two nodes, with a page at each. */
class Shares {
  readonly pages: readonly Page[];
  readonly #audit: Audit;
  readonly #nodes: UserNodes;
  readonly #rate: Required<Rate>;
  /** Time in which an empty bucket becomes full. */
  readonly #fillMs: number;

  constructor(audit: Audit, nodes: UserNodes, rate: Required<Rate>) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#rate = rate;
    this.#fillMs = 1_000 * rate.burst / rate.perSecond;
    for (const [i, { host }] of nodes.all.entries()) {
      audit.change(audit.host(machineOf(i)), host, STEADY);
    }
    this.pages = nodes.all.map((node, i) => new Page(audit, USER, machineOf(i), node));
  }

  /** Waits for the pages. */
  async enter(): Promise<void> {
    await this.#audit.until(() => this.pages.every(({ isIn }) => isIn));
    await this.#audit.pause(2 * this.#fillMs);
  }

  /**
   * Takes a burst at the first node, and one more at the second: that node owes a burst, and lets
   * nothing through until the engine has the tokens, or is away.
   */
  async owe(): Promise<void> {
    const audit = this.#audit;
    const { random } = audit;
    const { engine } = this.#nodes;
    const take = random() < 0.7 ? this.#ask : this.#connect;
    const trouble = oneOf(random, TROUBLES);
    const about = (what: string) => `${what} of ${take === this.#ask ? "messages" : "connections"}`;
    const paidMs = await this.#borrow(take, about);
    engine.countMs = trouble === "late"
      ? between(random, WAIT_MS + SLACK_MS, LATE_MS)
      : between(random, 0, random() < 0.5 ? 0 : COUNT_MS);
    if (trouble === "away") engine.goAway();
    const { countMs } = engine;
    const settledMs = paidMs + (countMs > WAIT_MS ? WAIT_MS : QUESTIONS * countMs);
    if (trouble === "away" && random() < 0.5) await this.#countAlone(take, about("a debt"));
    if (trouble !== "none") {
      await audit.pause(between(random, BRIEF_MS, AWAY_MS));
      if (trouble === "away") engine.comeBack();
      engine.countMs = Math.min(countMs, COUNT_MS);
    }
    const leftMs = Math.max(settledMs - audit.nowMs, trouble === "away" ? WAIT_MS : 0);
    await audit.pause(leftMs + 2 * SLACK_MS);
    const behind = about(`behind a debt, with trouble ${trouble},`);
    this.#expect(`attempt ${behind}`, ["granted"], await take.call(this, 1, 1));
    // By then, a node that found the engine away has asked again.
    await audit.pause(AGAIN_MS + this.#fillMs);
    this.#expect(`later attempt ${behind}`, ["granted"], await take.call(this, 1, 1));
    engine.countMs = 0;
    // A count that no node waited for takes tokens nevertheless.
    await audit.pause(2 * this.#fillMs + (trouble === "late" ? countMs : 0));
    if (trouble === "none") return;
    await this.#borrow(take, (what) => about(`${what}, once the engine is back,`));
    await audit.pause(2 * this.#fillMs);
  }

  /** Takes a burst at each node, and looks at the debt; returns the time at which the debt is paid. */
  async #borrow(take: Take, about: (what: string) => string): Promise<number> {
    const audit = this.#audit;
    const { burst } = this.#rate;
    const paidMs = audit.nowMs + this.#fillMs;
    const most = { granted: burst, "too many": 1, none: 0 };
    this.#expect(about("a burst"), most, count(await take.call(this, 0, burst + 1)));
    this.#expect(
      about("a burst at another node"),
      most,
      count(await take.call(this, 1, burst + 1)),
    );
    await audit.pause(between(audit.random, 0, paidMs - SLACK_MS - audit.nowMs));
    this.#expect(about("a debt"), ["too many"], await take.call(this, 1, 1));
    return paidMs;
  }

  /** Lets a node with a debt learn by another rate that the engine is away: the node counts alone. */
  async #countAlone(take: Take, debt: string): Promise<void> {
    const audit = this.#audit;
    const other = take === this.#ask ? this.#connect : this.#ask;
    await other.call(this, 1, 1);
    await audit.pause(this.#nodes.engine.countMs + 1_000 / this.#rate.perSecond);
    this.#expect(`${debt} while the engine is away`, ["granted"], await take.call(this, 1, 1));
  }

  /**
   * Takes a burst at the second node soon after a count without an answer: the node counts alone, and
   * owes nothing that the first node would have to wait for.
   */
  async forgive(): Promise<void> {
    const audit = this.#audit;
    const { engine } = this.#nodes;
    const { burst } = this.#rate;
    engine.goAway();
    await this.#ask(1, 1);
    engine.comeBack();
    await audit.pause(this.#fillMs / burst);
    const most = Array.from({ length: burst }, () => "granted");
    this.#expect("a burst while a node counts alone", most, await this.#ask(1, burst));
    this.#expect("a burst at a node that counts with the engine", most, await this.#ask(0, burst));
    await audit.pause(this.#fillMs / burst);
    this.#expect("a request behind tokens that were forgiven", ["granted"], await this.#ask(0, 1));
    await audit.pause(AGAIN_MS + 2 * this.#fillMs);
  }

  /** Sets the clocks of the nodes back while the engine is away: once the engine is back, nodes ask again. */
  async setBack(): Promise<void> {
    const audit = this.#audit;
    const { engine, all } = this.#nodes;
    engine.goAway();
    for (const node of all.keys()) await this.#ask(node, 1);
    for (const { host } of all) host.jumpClock(-BACK_MS);
    engine.comeBack();
    // A clock that is set back costs the time since the last count, which is this one.
    for (const node of all.keys()) await this.#ask(node, 1);
    await audit.pause(2 * all.length * this.#fillMs);
    await this.#borrow(this.#ask, (what) => `${what} behind clocks that were set back`);
    await audit.pause(2 * this.#fillMs);
  }

  /** Sends beyond the rate at both nodes for a while, and then within the rate. */
  async flood(): Promise<void> {
    const audit = this.#audit;
    const { random } = audit;
    const { engine } = this.#nodes;
    const { perSecond, burst } = this.#rate;
    for (const page of this.pages) page.forget();
    engine.countMs = between(random, 0, COUNT_MS);
    const [share, endMs] = [between(random, 0, 1), audit.nowMs + FLOOD_MS];
    const isUnsteady = random() < 0.5;
    const failing = isUnsteady ? this.#fail(endMs) : undefined;
    await Promise.all(this.pages.map(async (page, i) => {
      // The second page may send less.
      const slower = i === 0 ? 1 : 1 + 2 * share;
      while (audit.nowMs < endMs) {
        page.ask({ topic: "flood" });
        await audit.pause(slower * between(random, FROM_MS, TO_MS));
      }
    }));
    await failing;
    await audit.pause(ROUND_MS);
    const granted = this.pages.reduce(
      (sum, { heard }) => sum + heard.filter(({ data }) => data === true).length,
      0,
    );
    const refilled = perSecond * (FLOOD_MS + ROUND_MS) / 1_000;
    const all = this.pages.length;
    // Each node lets through a burst, and one more before the counts of the others arrive. Where the
    // engine is away, each node counts alone.
    const most = isUnsteady ? all * (burst + refilled) : 2 * all * burst + refilled;
    const least = isUnsteady ? burst : perSecond * FLOOD_MS / 2_000;
    const what = `${granted} of ${perSecond} a second, and ${burst} at once, on both nodes`;
    this.#expect(`requests within a rate: ${what}`, true, granted >= least && granted <= most);
    engine.countMs = 0;
    await audit.pause(AGAIN_MS + WAIT_MS + 2 * all * this.#fillMs);
    for (const i of this.pages.keys()) {
      this.#expect("request behind a flood", ["granted"], await this.#ask(i, 1));
    }
  }

  /** Lets the engine go away and come back until a time. */
  async #fail(endMs: number): Promise<void> {
    const { random } = this.#audit;
    while (this.#audit.nowMs < endMs) {
      await this.#audit.pause(between(random, BRIEF_MS, AWAY_MS));
      this.#nodes.engine.goAway();
      await this.#audit.pause(between(random, BRIEF_MS, AWAY_MS));
      this.#nodes.engine.comeBack();
    }
  }

  /** Sends requests at once. */
  async #ask(node: number, times: number): Promise<Outcome[]> {
    const page = this.pages[node]!;
    const ids = Array.from({ length: times }, () => page.ask({ topic: "ask" }));
    await this.#audit.pause(ROUND_MS);
    return ids.map((id) => page.outcomeOf(id));
  }

  /** Opens pages at once, and closes those that are in. */
  async #connect(node: number, times: number): Promise<Outcome[]> {
    const pages = Array.from(
      { length: times },
      () => new Page(this.#audit, USER, machineOf(node), this.#nodes.all[node]!),
    );
    await this.#audit.pause(ROUND_MS);
    const outcomes = pages.map(({ entrance }) => entrance);
    for (const page of pages) if (page.isIn) page.close();
    return outcomes;
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("limits", what, expected, received);
  }
}

/** Name of the machine of a page. */
function machineOf(node: number): string {
  return `shares-page${node}`;
}

/** Counts outcomes. */
function count(outcomes: readonly Outcome[]): Record<Outcome, number> {
  const counts = { granted: 0, "too many": 0, none: 0 };
  for (const outcome of outcomes) counts[outcome]++;
  return counts;
}
