/** Rates of users and addresses, whose sessions come and go, beside a model of their buckets. */
import type { Rate } from "../../../../../base/token_bucket.ts";
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { auditDefaults } from "./defaults.ts";
import { Page } from "./page.ts";
import { auditUnits } from "./units.ts";
import { UserNodes } from "./user_nodes.ts";

/** The users, and the machines, each of which has an address. */
const [USERS, MACHINES] = [["ann", "ben"], ["accounts-a", "accounts-b"]] as const;

/** A machine that comes last. */
const OTHER_MACHINE = "accounts-c";

/** A token that no server accepts. */
const FORGED = "forged";

/** Steps of the audit with one node, and the time within which the last one begins, in milliseconds. */
const [STEPS, LAST_MS] = [22, 12_000];

/** Time for an envelope and its answer, in milliseconds. */
const ROUND_MS = 60;

/** Longest time between a step and its count at the server, in milliseconds. */
const LATE_MS = 20;

/** Most requests at once. */
const MOST = 6;

/** Longest data of a request, in characters. */
const MOST_CHARS = 150;

/** Longest pause, and the time in which all buckets are full again, in milliseconds. */
const [IDLE_MS, FULL_MS] = [1_500, 10_000];

/** Topic of the requests. */
const TOPIC = "ask";

/** Text of the answers. */
const ANSWER = "yes";

/** A bucket of the model. */
class ModelBucket {
  readonly rate: Required<Rate>;
  #tokens: number;
  #atMs = -Infinity;

  constructor(rate: Required<Rate>) {
    this.rate = rate;
    this.#tokens = rate.burst;
  }

  /** Tokens at a time. */
  at(ms: number): number {
    return Math.min(this.rate.burst, this.#filledAt(ms));
  }

  /**
   * True if an earlier or later count could have another result: of this one, or of a later one at the
   * same time if the bucket has just become full.
   */
  isNear(amount: number, ms: number): boolean {
    const isEarly = this.waitMs(amount, ms + LATE_MS) > 0;
    if (isEarly !== this.waitMs(amount, ms - LATE_MS) > 0) return true;
    const { perSecond, burst } = this.rate;
    return Math.abs(this.#filledAt(ms) - burst) <= LATE_MS * perSecond / 1_000;
  }

  /** Time until there are enough tokens, in milliseconds; 0 if there are enough. */
  waitMs(amount: number, ms: number): number {
    const missing = Math.min(amount, this.rate.burst) - this.at(ms);
    return Math.max(0, missing * 1_000 / this.rate.perSecond);
  }

  /** Takes tokens. */
  take(amount: number, ms: number): void {
    this.#tokens = this.at(ms) - amount;
    this.#atMs = ms;
  }

  /** Tokens at a time, if there were no bound. */
  #filledAt(ms: number): number {
    return this.#tokens + Math.max(0, ms - this.#atMs) * this.rate.perSecond / 1_000;
  }
}

/** Buckets of one rate, by name. */
class ModelBuckets {
  readonly rate: Required<Rate> | undefined;
  readonly #all = new Map<string, ModelBucket>();

  constructor(rate: Required<Rate> | undefined) {
    this.rate = rate;
  }

  /** The bucket of a name; `undefined` without a rate. */
  of(name: string): ModelBucket | undefined {
    if (this.rate === undefined) return undefined;
    let bucket = this.#all.get(name);
    if (bucket === undefined) this.#all.set(name, bucket = new ModelBucket(this.rate));
    return bucket;
  }
}

/** A page that is open. */
interface OpenPage {
  readonly user: string;
  readonly machine: string;
  readonly page: Page;
}

/** A need of tokens. */
interface Need {
  readonly bucket: ModelBucket | undefined;
  readonly amount: number;
}

/** A node with rates, the pages, and the model. */
class Accounts {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  pages: OpenPage[] = [];
  readonly #userConnections: ModelBuckets;
  readonly #addressConnections: ModelBuckets;
  readonly #userMessages: ModelBuckets;
  readonly #userBytes: ModelBuckets;
  readonly #addressMessages: ModelBuckets;
  #refusedConnections = 0;

  constructor(audit: Audit, random: () => number) {
    this.audit = audit;
    this.random = random;
    const drawn = (share: number, most: number) =>
      new ModelBuckets(
        random() < share
          ? { perSecond: between(random, 0.5, 2.5), burst: 1 + Math.floor(most * random()) }
          : undefined,
      );
    this.#userConnections = drawn(0.7, 3);
    this.#addressConnections = drawn(0.7, 4);
    this.#userMessages = drawn(0.6, 4);
    this.#addressMessages = drawn(0.3, 5);
    this.#userBytes = new ModelBuckets(
      random() < 0.5
        ? { perSecond: between(random, 100, 300), burst: Math.floor(between(random, 60, 250)) }
        : undefined,
    );
    this.nodes = new UserNodes(audit, "accounts", {
      authenticate: ({ token = FORGED }) => {
        if (token === FORGED) throw new AuthenticationError("Forged");
        return token;
      },
      allowTokenMessage: false,
      onMessage: (message) => message.reply(ANSWER),
      onError() {},
      rates: {
        perUser: rates(this.#userConnections, this.#userMessages, this.#userBytes),
        perAddress: rates(this.#addressConnections, this.#addressMessages),
      },
    });
    // Attempts are counted at known times.
    const { host } = this.nodes.all[0]!;
    for (const machine of [...MACHINES, OTHER_MACHINE].map((name) => audit.host(name))) {
      audit.change(machine, host, STEADY);
    }
  }

  /** Opens a page, with a token or a forged one. */
  async enter(user: string, machine: string): Promise<void> {
    const { audit } = this;
    const needs = [
      { bucket: this.#addressConnections.of(machine), amount: 1 },
      { bucket: user === FORGED ? undefined : this.#userConnections.of(user), amount: 1 },
    ];
    await this.#leaveEdges(needs);
    const ms = audit.nowMs;
    let expected: number | "in" = user === FORGED ? CloseCode.unauthenticated : "in";
    for (const { bucket } of needs) {
      if (bucket === undefined) continue;
      if (bucket.waitMs(1, ms) > 0) {
        expected = CloseCode.tooMany;
        this.#refusedConnections++;
        break;
      }
      bucket.take(1, ms);
    }
    const page = new Page(audit, user, machine, this.nodes.all[0]!);
    await audit.pause(ROUND_MS);
    this.#examine(`attempt of ${user}, ${this.pages.length} pages`, expected, page.code ?? "in");
    if (page.code !== undefined) return;
    if (this.random() < 0.5) this.pages.push({ user, machine, page });
    else page.close();
  }

  /** Sends some requests. */
  async ask({ user, machine, page }: OpenPage): Promise<void> {
    const { audit, random } = this;
    const data = "x".repeat(Math.floor(MOST_CHARS * random()));
    const needs = [
      { bucket: this.#userMessages.of(user), amount: 1 },
      { bucket: this.#userBytes.of(user), amount: page.sizeOf({ topic: TOPIC, data }) },
      { bucket: this.#addressMessages.of(machine), amount: 1 },
    ];
    const asked: { readonly id: number; readonly waitMs: number }[] = [];
    for (let i = Math.floor(MOST * random()); i >= 0; i--) {
      await this.#leaveEdges(needs);
      const ms = audit.nowMs;
      const waits = needs.map(({ bucket, amount }) => bucket?.waitMs(amount, ms) ?? 0);
      const waitMs = waits.find((wait) => wait > 0) ?? 0;
      if (waitMs === 0) { for (const { bucket, amount } of needs) bucket?.take(amount, ms); }
      asked.push({ id: page.ask({ topic: TOPIC, data }), waitMs });
    }
    await audit.pause(ROUND_MS);
    for (const { id, waitMs } of asked) {
      const { data, error } = page.answerTo(id) ?? {};
      const late = (error?.retryAfterMs ?? 0) - waitMs;
      const isInTime = Math.abs(late) <= 2 * LATE_MS;
      const received = error === undefined
        ? data
        : isInTime
        ? error.code
        : `${error.code}, ${Math.round(late)} ms late`;
      const expected = waitMs === 0 ? ANSWER : "too-many";
      this.#examine(`request of ${user} with ${this.pages.length} pages`, expected, received);
    }
  }

  /** Ends a page. */
  leave(one: OpenPage): void {
    this.pages = this.pages.filter((other) => other !== one);
    one.page.close();
  }

  /** Waits until all buckets are full, and examines the memory of the node. */
  async forget(): Promise<void> {
    for (const one of this.pages) this.leave(one);
    await this.audit.pause(FULL_MS);
    // Full accounts are forgotten when another one is left.
    await this.enter("eve", OTHER_MACHINE);
    for (const one of this.pages) this.leave(one);
    await this.audit.pause(ROUND_MS);
    const { remembered, refusedConnections } = this.nodes.all[0]!.server.manager.stats().rates;
    const most = [this.#userConnections, this.#userMessages, this.#userBytes].some(isLimited);
    const { user, address } = refusedConnections;
    this.#examine("attempts beyond a rate", this.#refusedConnections, user + address);
    this.#examine(`${remembered} accounts of full buckets`, true, remembered <= (most ? 2 : 1));
  }

  /** Lets time pass while the result of a need depends on some milliseconds. */
  async #leaveEdges(needs: readonly Need[]): Promise<void> {
    const isNear = ({ bucket, amount }: Need) => bucket?.isNear(amount, this.audit.nowMs);
    while (needs.some(isNear)) await this.audit.pause(LATE_MS);
  }

  #examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("limits", what, expected, received);
  }
}

function isLimited({ rate }: ModelBuckets): boolean {
  return rate !== undefined;
}

/**
 * Connects, sends and leaves beyond the rates of users and addresses.
 *
 * @param audit The audit.
 */
export async function auditAccounts(audit: Audit): Promise<void> {
  await Promise.all([auditBuckets(audit), auditUnits(audit), auditDefaults(audit)]);
}

/** Connects, sends and leaves beside a model of the buckets. */
async function auditBuckets(audit: Audit): Promise<void> {
  const { random } = audit;
  const accounts = new Accounts(audit, random);
  const endMs = audit.nowMs + LAST_MS;
  for (let i = 0; i < STEPS && audit.nowMs < endMs; i++) {
    const choice = random();
    const open = oneOf(random, accounts.pages);
    if (choice < 0.45 || open === undefined) {
      const user = random() < 0.15 ? FORGED : oneOf(random, USERS);
      await accounts.enter(user, oneOf(random, MACHINES));
    } else if (choice < 0.75) await accounts.ask(open);
    else if (choice < 0.9) accounts.leave(open);
    else await audit.pause(between(random, 0, IDLE_MS));
  }
  await accounts.forget();
  await accounts.nodes.close();
}

function rates(connections: ModelBuckets, messages: ModelBuckets, bytes?: ModelBuckets) {
  return {
    ...(connections.rate && { connections: connections.rate }),
    ...(messages.rate && { messages: messages.rate }),
    ...(bytes?.rate && { bytes: bytes.rate }),
  };
}
