/** Debts above one burst at nodes that share rates: each is paid in time, and refuses nothing behind. */
import type { Rate } from "../../../../../base/token_bucket.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, STEADY } from "../audit.ts";
import { Page } from "./page.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** The user of one session, and the machines of the pages. */
const [USER, MACHINE] = ["dora", "debts-page"] as const;

/** Large messages, one behind the other is paid. */
const MESSAGES = 2;

/** Bytes of a burst, bursts a second, and bursts of one message: the least and the most. */
const [BURST_BYTES, BURSTS_PER_SECOND, BURSTS] = [[300, 600], [1, 3], [1.3, 3.6]] as const;

/** Bytes of a message that only asks if there is room, at most. */
const SMALL_BYTES = 60;

/** Messages a second, burst, and time of a sender at the full rate, in milliseconds. */
const [PER_SECOND, BURST, SENDS_MS] = [[15, 25], [3, 5], 900] as const;

/** Shortest and longest time of a count at an engine that is slow, and answers in time, in milliseconds. */
const COUNT_MS = [200, 420] as const;

/** Time for an answer, and that of a question to the engine with the shortest pause, in milliseconds. */
const [ROUND_MS, QUESTION_MS] = [100, 150];

/** Time between the end of a debt and the count at the engine, in milliseconds. */
const SLACK_MS = 600;

/** Scopes of rates that nodes share. */
const SCOPES = ["perUser", "perAddress"] as const;

/** Asks at a page, and tells the outcomes. */
class Asker {
  readonly #audit: Audit;
  readonly #page: Page;

  constructor(audit: Audit, machine: string, node: Pick<UserNode, "host">) {
    this.#audit = audit;
    audit.change(audit.host(machine), node.host as UserNode["host"], STEADY);
    this.#page = new Page(audit, USER, machine, node);
  }

  /** Waits until the page is in. */
  async enter(): Promise<void> {
    await this.#audit.until(() => this.#page.isIn);
  }

  /** Sends a request of some characters; one without is small. */
  ask(chars = 0): number {
    return this.#page.ask({ topic: "ask", data: "x".repeat(chars) });
  }

  /** Tells the outcome of a request some time later. */
  outcomeOf(id: number): string {
    const { data, error } = this.#page.answerTo(id) ?? {};
    return data === true ? "granted" : error?.code ?? "none";
  }

  /** Expects the outcome of a request. */
  async expect(what: string, expected: string, chars = 0): Promise<void> {
    const id = this.ask(chars);
    await this.#audit.until(() => this.outcomeOf(id) !== "none");
    this.#audit.examine("limits", what, expected, this.outcomeOf(id));
  }

  close(): void {
    this.#page.close();
  }
}

/** Sends messages with more bytes than a burst, on the engine of the cluster if there is one. */
async function sendLarge(audit: Audit, random: () => number): Promise<void> {
  const burst = Math.floor(between(random, ...BURST_BYTES));
  const rate: Required<Rate> = { perSecond: burst * between(random, ...BURSTS_PER_SECOND), burst };
  const scope = SCOPES[random() < 0.5 ? 0 : 1]!;
  const hosts = [audit.host("debts-a"), audit.host("debts-b")];
  const brokerOf = audit.engine.apart?.("debts") ??
    brokersInMemory(audit.simulation, audit.host("debts-engine"));
  const nodes = hosts.map((host) =>
    new SimulatedServer<string>(audit.network, host, (life) => ({
      broker: brokerOf(life),
      allowTokenMessage: true,
      authenticate: ({ token = "nobody" }) => token,
      onMessage: (message) => message.reply(true),
      rates: { [scope]: { bytes: rate }, maxRefusals: 1_000 },
    }))
  );
  await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
  const [one, other] = nodes.map((node) => new Asker(audit, MACHINE, node)) as [Asker, Asker];
  await Promise.all([one.enter(), other.enter()]);
  for (let n = 0; n < MESSAGES; n++) {
    const bytes = Math.floor(burst * between(random, ...BURSTS));
    const about = `a message of ${(bytes / burst).toFixed(1)} bursts, ${scope},`;
    await one.expect(about, "granted", bytes);
    const sentMs = audit.nowMs;
    const owedMs = 1_000 * (bytes - burst) / rate.perSecond;
    await audit.pause(between(random, 0, owedMs / 2));
    if (audit.nowMs - sentMs < owedMs - ROUND_MS) {
      await one.expect(`a request before ${about} is paid`, "too-many");
    }
    const paidMs = owedMs + 1_000 * SMALL_BYTES / rate.perSecond + SLACK_MS;
    await audit.pause(sentMs + paidMs - audit.nowMs);
    await one.expect(`a request behind ${about}`, "granted");
    await audit.pause(1_000 * burst / rate.perSecond + SLACK_MS);
    await other.expect(`a request at another node behind ${about}`, "granted");
    await audit.pause(1_000 * burst / rate.perSecond + SLACK_MS);
  }
  for (const asker of [one, other]) asker.close();
  for (const { server } of nodes) {
    await server.close();
    await server.topics.broker.close();
  }
}

/** Sends at the full rate while the engine answers slowly. */
async function sendAtFullRate(audit: Audit, random: () => number): Promise<void> {
  const perSecond = between(random, ...PER_SECOND);
  const burst = Math.floor(between(random, BURST[0], BURST[1] + 1));
  const scope = SCOPES[random() < 0.5 ? 0 : 1]!;
  const nodes = new UserNodes(audit, "debtors", {
    onMessage: (message) => message.reply(true),
    rates: { [scope]: { messages: { perSecond, burst } }, maxRefusals: 1_000 },
  }, { canCount: true });
  await nodes.ready();
  const asker = new Asker(audit, `${MACHINE}-fast`, nodes.all[0]!);
  await asker.enter();
  await audit.pause(1_000 * burst / perSecond);
  nodes.engine.countMs = between(random, ...COUNT_MS);
  const ids: number[] = [];
  const endMs = audit.nowMs + SENDS_MS;
  for (let n = 0; n < burst; n++) ids.push(asker.ask());
  while (audit.nowMs < endMs) {
    // A little slower than the rate: the own bucket of the node has room.
    await audit.pause(1.1 * 1_000 / perSecond);
    ids.push(asker.ask());
  }
  await audit.pause(nodes.engine.countMs + ROUND_MS);
  nodes.engine.countMs = 0;
  const fillMs = 1_000 * burst / perSecond;
  await audit.pause((ids.length / burst + 2) * (QUESTION_MS + fillMs));
  for (let n = 0; n < 2; n++) {
    await asker.expect(`request ${n} behind ${ids.length} at the full rate, ${scope}`, "granted");
    await audit.pause(2 * fillMs);
  }
  asker.close();
  await nodes.close();
}

/**
 * Has debts above one burst: by messages with many bytes, and by a sender at the full rate beside an
 * engine that is slow.
 *
 * @param audit The audit.
 */
export async function auditDebts(audit: Audit): Promise<void> {
  const random = audit.chanceOf("debts");
  await Promise.all([
    sendLarge(audit, random),
    sendAtFullRate(audit, audit.chanceOf("full rate")),
  ]);
}
