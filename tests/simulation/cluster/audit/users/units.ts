/** Units of rates: each kind of envelope counts in its buckets of all scopes, beside a model of these. */
import type { Rate } from "../../../../../base/token_bucket.ts";
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";
import { Page } from "./page.ts";
import type { UserNode } from "./user_nodes.ts";

/** Token of a session without a user. */
const GUEST = "guest";

/** Tokens of the pages, and the machines, each of which has an address. */
const [TOKENS, MACHINES] = [["ann", "ben", GUEST], ["units-a", "units-b"]] as const;

/** Tokens a second: none comes back during the audit. */
const PER_SECOND = 0.01;

/** Least and largest burst of each unit. */
const BURSTS = {
  messages: [1, 14],
  bytes: [60, 1_500],
  publications: [1, 9],
  subscriptions: [1, 9],
} as const;

/** A unit. */
type Unit = keyof typeof BURSTS;

/** Scopes in the order in which the server asks these. */
const SCOPES = ["session", "user", "address"] as const;

/** A scope. */
type Scope = typeof SCOPES[number];

/** Shares of rates that are set, of these without a burst, and of these without a bound. */
const [SET, PLAIN, ENDLESS] = [0.5, 0.25, 0.1] as const;

/** Share of servers with the number of refusals of the documentation. */
const DEFAULT = 0.4;

/** Refusals in 10 s before a close by default, and the least and most that a server sets. */
const [MAX_REFUSALS, FEWEST, MOST_REFUSALS] = [100, 3, 40] as const;

/** Steps, and most envelopes of one step. */
const [STEPS, MOST] = [24, 7] as const;

/** Time for an envelope and its answer, in milliseconds. */
const ROUND_MS = 40;

/** Longest time until a waiting bucket tells its time, beside that of the model, in milliseconds. */
const AGE_MS = 12_000;

/** Most renewals of a token: fewer than rule 8.7 allows. */
const MOST_RENEWALS = 8;

/** Longest text within an envelope. */
const MOST_CHARS = 120;

/** A kind of envelope. */
interface Kind {
  readonly name: string;
  /** Units beside bytes. */
  readonly units: readonly Unit[];
  /** True if the server answers. */
  readonly isAsked: boolean;
  /** True if the server handles the envelope beyond a rate, too: rule 13.3. */
  readonly isAlways?: boolean;
  readonly make: (text: string, random: () => number) => object;
}

/** Draws one of a few topics. */
const topicOf = (random: () => number) => `topic-${Math.floor(5 * random())}`;

/** Kinds of envelopes between which a plan draws. */
const KINDS: readonly Kind[] = [
  {
    name: "message",
    units: ["messages"],
    isAsked: false,
    make: (data) => ({ topic: "note", data }),
  },
  {
    name: "request",
    units: ["messages"],
    isAsked: true,
    make: (data) => ({ topic: "note", data }),
  },
  {
    name: "publish",
    units: ["publications", "messages"],
    isAsked: true,
    make: (data, random) => ({ publish: topicOf(random), data }),
  },
  {
    name: "presence",
    units: ["messages"],
    isAsked: true,
    make: (data) => ({ presence: "room:1", data }),
  },
  {
    name: "subscribe",
    units: ["subscriptions"],
    isAsked: true,
    make: (_, random) => ({ subscribe: topicOf(random) }),
  },
  {
    name: "unsubscribe",
    units: ["subscriptions"],
    isAsked: true,
    isAlways: true,
    make: (_, random) => ({ unsubscribe: topicOf(random) }),
  },
  { name: "ping", units: ["messages"], isAsked: false, make: () => ({ ping: 1 }) },
  { name: "pong", units: [], isAsked: false, isAlways: true, make: () => ({ pong: 1 }) },
  {
    name: "cancel",
    units: [],
    isAsked: false,
    isAlways: true,
    make: () => ({ cancel: 9_000 }),
  },
  {
    name: "reply",
    units: [],
    isAsked: false,
    isAlways: true,
    make: (data) => ({ reply: 9_000, data }),
  },
];

/** Renewal of a token, in place of another kind. */
const RENEWAL: Kind = {
  name: "auth",
  units: ["messages"],
  isAsked: true,
  make: () => ({}),
};

/** Rates of a scope in the model; `undefined` without a bound. */
type ModelRates = Partial<Record<Unit, Required<Rate>>>;

/** Tokens of an account of the model. */
interface Account {
  readonly scope: Scope;
  readonly rates: ModelRates;
  readonly left: Record<Unit, number>;
}

/** A page, and the model of its session. */
interface OpenPage {
  readonly token: string;
  readonly machine: string;
  readonly page: Page;
  readonly accounts: readonly Account[];
  /** Publications that the server refuses together, until the page has read of the first one. */
  hold: { count: number; size: number; readonly isEarly: boolean } | undefined;
  /** True once a publication was refused: the next one comes before the time of that refusal. */
  isHasty: boolean;
  refusals: number;
  renewals: number;
  isOver: boolean;
}

/** An answer that the model expects. */
interface Expected {
  readonly id: number;
  readonly kind: string;
  /** Time until there is room; `undefined` if the request is handled. */
  readonly waitMs: number | undefined;
}

/** The server, its pages, and the model. */
class Units {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #rates: Record<Scope, ModelRates> = { session: {}, user: {}, address: {} };
  readonly #maxRefusals: number;
  readonly #program: SimulatedServer<unknown>;
  readonly #shared = new Map<string, Account>();
  readonly #refused = { session: 0, user: 0, address: 0 };
  #pages: OpenPage[] = [];
  #closed = 0;
  #handled = 0;
  #expectedHandled = 0;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    const perSession = this.#draw("session");
    const perUser = this.#draw("user");
    const perAddress = this.#draw("address");
    const isDefault = random() < DEFAULT;
    this.#maxRefusals = isDefault
      ? MAX_REFUSALS
      : Math.floor(between(random, FEWEST, MOST_REFUSALS));
    const rates = {
      perSession,
      perUser,
      perAddress,
      ...(!isDefault && { maxRefusals: this.#maxRefusals }),
    };
    this.#program = new SimulatedServer<unknown>(audit.network, audit.host("units"), () => ({
      allowTokenMessage: true,
      authenticate: ({ token }) => token === GUEST ? {} : token,
      authorize: () => true,
      rooms: ["room:{name}"],
      rates,
      onMessage: (message) => {
        if (message.isRequest) return message.reply(true);
        this.#handled++;
      },
      onError() {},
    }));
    for (const machine of MACHINES) audit.change(audit.host(machine), this.#program.host, STEADY);
  }

  /** Sends envelopes of all kinds from pages that come and go. */
  async run(): Promise<void> {
    const random = this.#random;
    for (let step = 0; step < STEPS; step++) {
      const one = oneOf(random, this.#pages);
      if (one === undefined || random() < 0.2) await this.#enter();
      else if (random() < 0.1) {
        this.#leave(one);
        await this.#audit.pause(ROUND_MS);
      } else {
        await this.#send(one, 1 + Math.floor(MOST * random()));
      }
    }
    await this.#insist();
    await this.#program.server.close();
  }

  /** Draws the rates of a scope. */
  #draw(scope: Scope): Partial<Record<Unit, Rate>> {
    const random = this.#random;
    const drawn: Partial<Record<Unit, Rate>> = {};
    for (const [unit, [least, most]] of Object.entries(BURSTS) as [Unit, readonly number[]][]) {
      if (random() > SET) continue;
      if (random() < ENDLESS) {
        drawn[unit] = random() < 0.5
          ? { perSecond: Infinity }
          : { perSecond: PER_SECOND, burst: Infinity };
        continue;
      }
      const burst = Math.floor(between(() => random() ** 2, least!, most! + 1));
      // A burst that is left out is one second's, and at least 1.
      const isPlain = unit !== "bytes" && random() < PLAIN;
      drawn[unit] = isPlain ? { perSecond: PER_SECOND } : { perSecond: PER_SECOND, burst };
      this.#rates[scope][unit] = { perSecond: PER_SECOND, burst: isPlain ? 1 : burst };
    }
    return drawn;
  }

  async #enter(): Promise<OpenPage> {
    const token = oneOf<string>(this.#random, TOKENS);
    const machine = oneOf<string>(this.#random, MACHINES);
    const page = new Page(this.#audit, token, machine, this.#program as unknown as UserNode);
    await this.#audit.pause(ROUND_MS);
    this.#expect(`entrance of ${token}`, true, page.isIn);
    const accounts = [
      this.#newAccount("session"),
      ...(token === GUEST ? [] : [this.#sharedAccount("user", token)]),
      this.#sharedAccount("address", machine),
    ];
    const one = {
      token,
      machine,
      page,
      accounts,
      hold: undefined,
      isHasty: false,
      refusals: 0,
      renewals: 0,
      isOver: false,
    };
    this.#pages.push(one);
    return one;
  }

  #leave(one: OpenPage): void {
    this.#pages = this.#pages.filter((other) => other !== one);
    one.page.close();
  }

  /** Sends some envelopes at once, and compares the answers, the counts and the end. */
  async #send(one: OpenPage, count: number): Promise<void> {
    const { page } = one;
    const random = this.#random;
    const asked: Expected[] = [];
    let pongs = 0;
    const names: string[] = [];
    page.forget();
    for (let left = count; left > 0 && !one.isOver; left--) {
      const isRenewal = one.token !== GUEST && one.renewals < MOST_RENEWALS && random() < 0.1;
      const kind = isRenewal ? RENEWAL : oneOf(random, KINDS);
      if (isRenewal) one.renewals++;
      // Some characters have several bytes, and one unit of UTF-16.
      const text = (random() < 0.3 ? "字" : "x").repeat(Math.floor(MOST_CHARS * random() ** 2));
      const envelope = isRenewal ? { auth: one.token } : kind.make(text, random);
      const size = kind.isAsked ? page.sizeOf(envelope) : JSON.stringify(envelope).length;
      const waitMs = this.#meter(one, kind, size);
      names.push(`${kind.name}${waitMs === undefined ? "" : "!"}`);
      const isHandled = !one.isOver && (waitMs === undefined || kind.isAlways === true);
      if (isHandled && kind.name === "message") this.#expectedHandled++;
      if (isHandled && kind.name === "ping") pongs++;
      if (!kind.isAsked) page.send(envelope);
      else {
        const id = page.ask(envelope);
        const expected = isHandled ? undefined : waitMs;
        if (!one.isOver) asked.push({ id, kind: kind.name, waitMs: expected });
      }
    }
    await this.#audit.pause(ROUND_MS);
    one.hold = undefined;
    const what = `of ${names.join(" ")} from ${one.token}`;
    const received = asked.map(({ id, kind, waitMs }) => {
      const answer = page.answerTo(id);
      // The answer to a renewal follows the decisions about all topics, up to a second later.
      if (answer === undefined && kind === RENEWAL.name) return `${kind} fine`;
      if (answer?.error === undefined) return `${kind} ${answer === undefined ? "lost" : "fine"}`;
      const { code, retryAfterMs = 0 } = answer.error;
      const isInTime = waitMs === undefined ||
        retryAfterMs <= waitMs && retryAfterMs >= waitMs - AGE_MS;
      return `${kind} ${code}${isInTime ? "" : ` in ${retryAfterMs} ms, not ${waitMs}`}`;
    });
    const expected = asked.map(({ kind, waitMs }) =>
      `${kind} ${waitMs === undefined ? "fine" : "too-many"}`
    );
    // Answers under way may be lost at a close.
    if (!one.isOver) this.#expect(`answers ${what}`, expected, received);
    const heard = page.heard.filter((envelope) => "pong" in envelope).length;
    if (!one.isOver) this.#expect(`pongs ${what}`, pongs, heard);
    this.#expect(`handled messages ${what}`, this.#expectedHandled, this.#handled);
    const { refused, closed } = this.#program.server.manager.stats().rates;
    this.#expect(`counted refusals ${what}`, [this.#refused, this.#closed], [refused, closed]);
    this.#expect(`end ${what}`, one.isOver ? CloseCode.tooMany : undefined, page.code);
    if (one.isOver) this.#pages = this.#pages.filter((other) => other !== one);
  }

  /** Sends until the refusals end the session, if a rate refuses messages. */
  async #insist(): Promise<void> {
    const one = this.#pages[0] ?? await this.#enter();
    const isLimited = one.accounts.some(({ rates: { messages } }) => messages !== undefined);
    if (!isLimited) return;
    for (let left = MAX_REFUSALS; left > 0 && !one.isOver; left -= MOST) {
      await this.#send(one, 2 * MOST);
    }
  }

  /**
   * Counts an envelope in the model.
   *
   * @returns The time until there is room, if the rates refuse the envelope.
   */
  #meter(one: OpenPage, { name, units }: Kind, size: number): number | undefined {
    const isPublication = name === "publish";
    let shortage = shortageOf(one, { units, count: 1, size });
    if (shortage === undefined && !(isPublication && one.hold)) {
      for (const { left } of one.accounts) {
        for (const unit of units) left[unit]--;
        left.bytes -= size;
      }
      return undefined;
    }
    if (isPublication) {
      const hold = one.hold ??= { count: 0, size: 0, isEarly: one.isHasty };
      hold.count++;
      hold.size += size;
      one.isHasty = true;
      shortage = shortageOf(one, { units, ...hold });
    }
    this.#refused[shortage!.scope]++;
    // Publications do not count before the page can know of a refusal.
    const isCounted = !isPublication || one.hold!.isEarly;
    if (isCounted && ++one.refusals > this.#maxRefusals) {
      one.isOver = true;
      this.#closed++;
    }
    return shortage!.waitMs;
  }

  #sharedAccount(scope: Scope, name: string): Account {
    const key = `${scope} ${name}`;
    const known = this.#shared.get(key) ?? this.#newAccount(scope);
    this.#shared.set(key, known);
    return known;
  }

  #newAccount(scope: Scope): Account {
    const rates = this.#rates[scope];
    const of = (unit: Unit) => rates[unit]?.burst ?? Infinity;
    const left = {
      messages: of("messages"),
      bytes: of("bytes"),
      publications: of("publications"),
      subscriptions: of("subscriptions"),
    };
    return { scope, rates, left };
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("limits", what, expected, received);
  }
}

/** The first account and unit without enough tokens, and the time until there are. */
function shortageOf(
  { accounts }: Pick<OpenPage, "accounts">,
  { units, count, size }: {
    readonly units: readonly Unit[];
    readonly count: number;
    readonly size: number;
  },
): { readonly scope: Scope; readonly waitMs: number } | undefined {
  for (const { scope, rates, left } of accounts) {
    for (const name of [...units, "bytes"] as const) {
      const rate = rates[name];
      if (rate === undefined) continue;
      const missing = Math.min(name === "bytes" ? size : count, rate.burst) - left[name];
      if (missing > 0) return { scope, waitMs: missing * 1_000 / rate.perSecond };
    }
  }
  return undefined;
}

/**
 * Sends envelopes of all kinds beyond rates of each unit and scope.
 *
 * @param audit The audit.
 */
export async function auditUnits(audit: Audit): Promise<void> {
  await new Units(audit, audit.chanceOf("units")).run();
}
