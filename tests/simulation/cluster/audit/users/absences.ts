/** Users and addresses that use up a rate, leave, and come back: the node remembers what was taken. */
import type { Rate } from "../../../../../base/token_bucket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { type Outcome, Page } from "./page.ts";
import { UserNodes } from "./user_nodes.ts";

/** The user that comes back, and the one that comes and goes meanwhile. */
const [USER, OTHER] = ["ann", "ben"] as const;

/** Nodes beside each other, each with one rate. */
const NAMES = ["absences", "more-absences"] as const;

/** Units of rates, and their owners. */
const [UNITS, SCOPES] = [["messages", "bytes", "connections"], ["perUser", "perAddress"]] as const;

/** Ways in which a node counts: alone, with an engine, or with one that is away for a while. */
const WAYS = ["alone", "engine", "away", "away"] as const;

/** Least and largest burst of messages or attempts, and of bytes. */
const [FEW, BYTES] = [[1, 4], [200, 500]] as const;

/** Time of an empty bucket until there is one more token, or of bytes until there is a burst, in milliseconds. */
const TOKEN_MS = [1_500, 2_500] as const;

/** Bursts of bytes of one message, at least and at most. */
const BURSTS = [1.5, 3] as const;

/** Time for an envelope and its answer, and beside the end of a debt, in milliseconds. */
const [ROUND_MS, SLACK_MS] = [60, 400] as const;

/** Time after which a node asks an engine again that did not answer, in milliseconds. */
const AGAIN_MS = 1_000;

/** Times by which the clock of the node is set back or forward, in milliseconds. */
const JUMPS_MS = [-7_200_000, 3_600_000] as const;

/** Most visits of the other user. */
const VISITS = 3;

/** One node with one rate. */
class Absences {
  readonly #audit: Audit;
  readonly #random: () => number;
  /** Machines of the users. */
  readonly #machines: Readonly<Record<typeof USER | typeof OTHER, string>>;
  readonly #unit: typeof UNITS[number];
  readonly #rate: Required<Rate>;
  readonly #way: typeof WAYS[number];
  #about: string;
  readonly #nodes: UserNodes;

  constructor(audit: Audit, name: string) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf(name);
    this.#machines = { [USER]: `${name}-${USER}`, [OTHER]: `${name}-${OTHER}` };
    this.#unit = oneOf(random, UNITS);
    const scope = oneOf(random, SCOPES);
    this.#way = oneOf(random, WAYS);
    this.#about = `${this.#unit} ${scope}, counted ${this.#way}`;
    const [least, most] = this.#unit === "bytes" ? BYTES : FEW;
    const burst = Math.floor(between(random, least, most + 1));
    const tokens = this.#unit === "bytes" ? burst : 1;
    this.#rate = { perSecond: tokens * 1_000 / between(random, ...TOKEN_MS), burst };
    this.#nodes = new UserNodes(audit, name, {
      onMessage: (message) => message.reply(true),
      rates: { [scope]: { [this.#unit]: this.#rate }, maxRefusals: 1_000 },
    }, { canCount: this.#way !== "alone", count: 1 });
    const { host } = this.#nodes.all[0]!;
    for (const machine of Object.values(this.#machines)) {
      audit.change(audit.host(machine), host, STEADY);
    }
  }

  async run(): Promise<void> {
    const audit = this.#audit;
    const random = this.#random;
    await this.#nodes.ready();
    if (this.#way === "away") await this.#loseEngine();
    const takenMs = audit.nowMs;
    const owedMs = await this.#useUp();
    for (let left = Math.floor(VISITS * random()); left > 0; left--) await this.#visit();
    const refusedMs = takenMs + owedMs - SLACK_MS - audit.nowMs;
    await audit.pause(between(random, 0, Math.max(0, refusedMs)));
    if (audit.nowMs < takenMs + owedMs - SLACK_MS) {
      this.#expect("the next one behind an absence", ["too many"], await this.#take(1));
    }
    this.#nodes.engine.comeBack();
    const fullMs = 1_000 * this.#rate.burst / this.#rate.perSecond;
    await audit.pause(owedMs + fullMs + AGAIN_MS + SLACK_MS);
    await this.#visit();
    this.#expect("one behind a long absence", ["granted"], await this.#take(1));
    this.#nodes.all[0]!.host.jumpClock(between(random, ...JUMPS_MS));
    // A clock that is set back costs the time since the last count, which is this one.
    await this.#take(1);
    await audit.pause(fullMs + AGAIN_MS + SLACK_MS);
    this.#about = `${this.#about}, behind a clock that was set`;
    await this.#useUp();
    if (this.#unit !== "bytes") {
      this.#expect("the next one", ["too many"], await this.#take(1));
      await audit.pause(fullMs + SLACK_MS);
      this.#expect("one in time", ["granted"], await this.#take(1));
    }
    await this.#nodes.close();
  }

  /** Lets the node learn that the engine is away, by a count for the other user. */
  async #loseEngine(): Promise<void> {
    this.#nodes.engine.goAway();
    await this.#visit();
    await this.#audit.pause(ROUND_MS);
  }

  /** Takes a burst or more, and leaves; returns the time until there is room again. */
  async #useUp(): Promise<number> {
    const { perSecond, burst } = this.#rate;
    if (this.#unit === "bytes") {
      const bytes = Math.floor(burst * between(this.#random, ...BURSTS));
      this.#expect("a large message", ["granted"], await this.#take(1, bytes));
      return 1_000 * (bytes - burst) / perSecond;
    }
    const all = Array.from({ length: burst }, (): Outcome => "granted");
    this.#expect("a burst", all, await this.#take(burst));
    return 1_000 / perSecond;
  }

  /** Lets the other user come and go: nodes forget accounts when a user leaves. */
  async #visit(): Promise<void> {
    const page = this.#open(OTHER);
    await this.#audit.pause(ROUND_MS);
    if (this.#unit !== "connections" && page.isIn) page.ask({ topic: "ask" });
    await this.#audit.pause(ROUND_MS);
    page.close();
    await this.#audit.pause(ROUND_MS);
  }

  /** Opens a page and sends requests at once, or opens pages at once; then closes all. */
  async #take(times: number, chars = 0): Promise<Outcome[]> {
    const isAttempt = this.#unit === "connections";
    const pages = Array.from({ length: isAttempt ? times : 1 }, () => this.#open(USER));
    await this.#audit.pause(ROUND_MS);
    const outcomes = isAttempt
      ? pages.map(({ entrance }) => entrance)
      : await this.#ask(pages[0]!, times, chars);
    for (const page of pages) if (page.isIn) page.close();
    await this.#audit.pause(ROUND_MS);
    return outcomes;
  }

  #open(user: typeof USER | typeof OTHER): Page {
    return new Page(this.#audit, user, this.#machines[user], this.#nodes.all[0]!);
  }

  async #ask(page: Page, times: number, chars: number): Promise<Outcome[]> {
    const data = "x".repeat(chars);
    const ids = Array.from({ length: times }, () => page.ask({ topic: "ask", data }));
    await this.#audit.pause(ROUND_MS);
    return ids.map((id) => page.outcomeOf(id));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("limits", `${what}, ${this.#about}`, expected, received);
  }
}

/**
 * Uses up a rate, leaves, and comes back before and after the time for which the node remembers that.
 *
 * @param audit The audit.
 */
export async function auditAbsences(audit: Audit): Promise<void> {
  await Promise.all(NAMES.map((name) => new Absences(audit, name).run()));
}
