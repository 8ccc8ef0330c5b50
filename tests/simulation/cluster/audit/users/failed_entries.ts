/** Entries that fail once the place of the user is claimed: nodes and engine give the place back. */
import { CloseCode } from "../../../../../errors.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";
import { Page } from "./page.ts";
import { type UserNode, UserNodes } from "./user_nodes.ts";

/** The user, and the machine of the pages. */
const [USER, MACHINE] = ["fay", "failed-page"] as const;

/** Ways in which entries fail; a drain is the last one of a node. */
const WAYS = ["malformed", "beyond", "malformed", "beyond", "drain"] as const;

/** Most entries at once beyond the places. */
const MOST_BEYOND = 3;

/** Time of a claim, and for an entry without, in milliseconds. */
const [CLAIM_MS, ROUND_MS] = [[40, 120], 80] as const;

/** Time in which places are given back, in milliseconds: a node that lost the engine asks again. */
const FREE_MS = 1_500;

/** Headers of an upgrade. */
const UPGRADE = {
  upgrade: "websocket",
  connection: "Upgrade",
  "sec-websocket-version": "13",
  "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
  "sec-websocket-protocol": "skein.1",
} as const;

/** Two nodes, and a user with few places on both together. */
class FailedEntries {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #max: number;
  readonly #nodes: UserNodes;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    this.#max = 1 + Math.floor(2 * random());
    this.#nodes = new UserNodes(audit, "failed", {
      limits: { maxSessionsPerUser: this.#max },
      session: { closeTimeoutMs: ROUND_MS },
      onRefusal() {},
      onError() {},
    });
    for (const { host } of this.#nodes.all) audit.change(audit.host(MACHINE), host, STEADY);
  }

  async run(): Promise<void> {
    await this.#nodes.ready();
    const rounds = WAYS.slice(2 * Math.floor(2 * this.#random()));
    for (const [round, way] of rounds.entries()) {
      // The second node goes on when the first one drains.
      const node = way === "drain" ? this.#nodes.all[0]! : oneOf(this.#random, this.#nodes.all);
      const expect: Expect = (what, ...values) =>
        this.#audit.examine("places", `${what} (${way}, round ${round})`, ...values);
      if (way === "malformed") await this.#sendMalformed(node, expect);
      if (way === "beyond") await this.#enterBeyond(node, expect);
      if (way === "drain") await this.#enterAtDrain(node, expect);
      await this.#audit.pause(FREE_MS);
      await this.#lookForPlaces(way === "drain" ? this.#nodes.all[1]! : node, expect);
    }
    await this.#nodes.close();
  }

  /** Upgrades that the host of the sockets cannot accept, as their connection has no socket. */
  async #sendMalformed({ host, server }: UserNode, expect: Expect): Promise<void> {
    const count = 1 + Math.floor(this.#max * this.#random());
    const url = `https://${host.name}/?token=${USER}`;
    const answers = Array.from(
      { length: count },
      () => server.fetch(new Request(url, { headers: UPGRADE })),
    );
    const statuses = (await Promise.all(answers)).map(({ status }) => status);
    expect("statuses of upgrades", Array.from({ length: count }, () => 400), statuses);
  }

  /** More entries at once than there are places, while the engine cannot count. */
  async #enterBeyond(node: UserNode, expect: Expect): Promise<void> {
    const { engine } = this.#nodes;
    const count = this.#max + 1 + Math.floor(MOST_BEYOND * this.#random());
    engine.goAway();
    engine.claimMs = between(this.#random, 0, CLAIM_MS[0]);
    const pages = this.#open(node, count);
    await this.#audit.pause(2 * ROUND_MS);
    const isEarly = this.#random() < 0.5;
    if (isEarly) engine.comeBack();
    const outcomes = pages.map(({ isIn, code }) => isIn ? "in" : code).toSorted();
    const expected = pages.map((_, n) => n < this.#max ? "in" : CloseCode.tooMany).toSorted();
    expect("entries beyond the places of a node that counts alone", expected, outcomes);
    for (const page of pages) if (page.isIn) page.close();
    await this.#audit.pause(ROUND_MS);
    engine.claimMs = 0;
    if (!isEarly) engine.comeBack();
  }

  /** Entries whose claim is under way when the node begins to drain. */
  async #enterAtDrain(node: UserNode, expect: Expect): Promise<void> {
    const { engine } = this.#nodes;
    engine.claimMs = between(this.#random, ...CLAIM_MS);
    const before = engine.claiming;
    const pages = this.#open(node, this.#max);
    await this.#audit.until(() => engine.claiming === before + this.#max);
    await node.server.manager.drain({ withinMs: ROUND_MS });
    await this.#audit.pause(engine.claimMs + ROUND_MS);
    engine.claimMs = 0;
    const codes = pages.map(({ code }) => code ?? "in");
    expect("entries at a drain", pages.map(() => CloseCode.draining), codes);
  }

  #open(node: UserNode, count: number): Page[] {
    return Array.from({ length: count }, () => new Page(this.#audit, USER, MACHINE, node));
  }

  /** Looks at the counts of nodes and engine, and takes all places. */
  async #lookForPlaces(node: UserNode, expect: Expect): Promise<void> {
    const { all, engine } = this.#nodes;
    expect("claimed places", 0, await engine.placesOf(USER));
    for (const { host, server } of all) {
      const { count, reserved, users, addresses, sockets } = server.manager.stats();
      const left = { count, reserved, users, addresses, sockets: sockets.open };
      const none = { count: 0, reserved: 0, users: 0, addresses: 0, sockets: 0 };
      expect(`counts of ${host.name}`, none, left);
    }
    const pages = this.#open(node, this.#max);
    await this.#audit.until(() => pages.every(({ isIn, code }) => isIn || code !== undefined));
    const entered = pages.map(({ isIn, code }) => isIn ? "in" : code);
    expect("entries behind failed ones", pages.map(() => "in"), entered);
    for (const page of pages) page.close();
    await this.#audit.until(() => all.every(({ server: { manager } }) => manager.count === 0));
    await this.#audit.pause(ROUND_MS);
    expect("places behind the last sessions", 0, await engine.placesOf(USER));
  }
}

/**
 * Lets entries fail behind their claim, and takes all places of the user afterwards.
 *
 * @param audit The audit.
 */
export async function auditFailedEntries(audit: Audit): Promise<void> {
  await new FailedEntries(audit, audit.chanceOf("failed entries")).run();
}
