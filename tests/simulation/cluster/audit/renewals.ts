/** Tokens that end, and providers of tokens that fail: sessions come back, each with a fresh token. */
import type { Client } from "../../../../client/client.ts";
import type { Subscription } from "../../../../client/subscription.ts";
import { AuthenticationError, CloseCode, RequestError } from "../../../../errors.ts";
import { pause } from "../../../../base/wait.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../chance.ts";
import { type Audit, hearAll } from "./audit.ts";
import { range } from "./history.ts";
import { auditRights } from "./rights.ts";

/** Shortest and longest duration of a token, in milliseconds. */
const [LEAST_MS, MOST_MS] = [1_000, 1_600];

/** Time of the watch over all clients, in milliseconds. */
const WATCH_MS = 6_000;

/** Longest time of a provider, and of the check of a token, in milliseconds. */
const [PROVIDER_MS, CHECK_MS] = [60, 120];

/**
 * Longest times of a hook, of which one is drawn, in milliseconds. A renewal may wait for the hooks of
 * the renewal before and of a request, and has less than half of the shortest token for all.
 */
const HOOKS_MS = [0, 60, 120];

/** Time between two publications, in milliseconds. */
const PUBLISH_MS = 150;

/** Time for an end and for messages under way, in milliseconds. */
const SLACK_MS = 150;

/** Longest time until all clients are back and have read all, in milliseconds. */
const BACK_MS = 4_000;

/** Waits between attempts. */
const BACKOFF = { firstDelayMs: 100, maxDelayMs: 300 } as const;

/** Topic with a history, to which each client is subscribed. */
const KEPT = "kept:renewals";

/** Topic to which the client with good tokens may be subscribed until a token without that right. */
const RIGHT = "right";

/** Answers of `authorize` about that topic from that token on. */
const VERDICTS = ["grants", "denies", "refuses", "fails"] as const;

/** Failure of a provider. */
const AWAY = "The provider of tokens is away";

/** Identity behind a token. */
interface Identity {
  readonly user: string;
  readonly endsAt: number;
  /** Number of tokens of the user before. */
  readonly number: number;
}

/** A client by what happens to its renewals. */
interface Kind {
  readonly name: string;
  /** The second token, in place of a good one; the other tokens are good. */
  readonly second?: (good: string) => string | undefined | Promise<string | undefined>;
  /** True if the session ends with its token. */
  readonly ends?: boolean;
  /** True for a machine that is away for longer than a token lasts. */
  readonly isAway?: boolean;
}

/** All kinds. */
const KINDS: readonly Kind[] = [
  { name: "good" },
  { name: "away", isAway: true },
  {
    name: "failing",
    second() {
      throw new AuthenticationError(AWAY);
    },
    ends: true,
  },
  { name: "refused", second: (good) => `${good} not`, ends: true },
  { name: "other", second: (good) => `not-${good}`, ends: true },
  { name: "mute", second: () => undefined, ends: true },
];

/**
 * Watches clients whose tokens are renewed, refused, or not there in time.
 *
 * @param audit The audit.
 */
export async function auditRenewals(audit: Audit): Promise<void> {
  await Promise.all([watchTokens(audit), auditRights(audit)]);
}

async function watchTokens(audit: Audit): Promise<void> {
  const watch = new Watch(audit);
  await watch.start();
  await watch.pass();
  await watch.close();
}

/** A server, and a client of each kind. */
class Watch {
  readonly #audit: Audit;
  readonly #program: SimulatedServer<Identity>;
  readonly #guests: readonly Guest[];
  readonly #random: () => number;
  /** Tokens that the server saw, and times of ends at 4401. */
  readonly #seen: string[] = [];
  readonly #ends: { readonly user: string; readonly lateMs: number }[] = [];
  readonly #renewed: string[] = [];
  readonly #verdict: typeof VERDICTS[number];
  /** Number of the first token without the right. */
  readonly #deniedFrom: number;
  /** Longest time of a hook, in milliseconds. */
  readonly #hookMs: number;
  #published = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.random;
    this.#verdict = oneOf(this.#random, VERDICTS);
    this.#deniedFrom = oneOf(this.#random, [1, 2]);
    this.#hookMs = oneOf(this.#random, HOOKS_MS);
    const tokenMs = Math.round(between(this.#random, LEAST_MS, MOST_MS));
    this.#program = new SimulatedServer<Identity>(audit.network, audit.host("renews"), () => ({
      allowTokenMessage: true,
      authenticate: async ({ token = "" }) => {
        if (this.#seen.includes(token)) this.#expect("token that comes again", "none", token);
        this.#seen.push(token);
        await pause(this.#program.host.runtime, CHECK_MS * this.#random());
        const [user = "", endsAt, number, refused] = token.split(" ");
        if (refused !== undefined) throw new AuthenticationError("Not this token");
        return { user, endsAt: Number(endsAt), number: Number(number) };
      },
      userOf: ({ user }) => user,
      expiresAt: ({ endsAt }) => endsAt,
      authorize: async ({ value }, topic) => {
        // Requests take turns: the first token could end before its renewal is read.
        if (topic === KEPT || value.number > 0) await this.#hook();
        return topic === KEPT || this.#mayRead(value);
      },
      history: { "kept:{name}": {} },
      onRenewed: async ({ user, value }, before) => {
        const isLater = value.endsAt > (before as Identity).endsAt;
        this.#renewed.push(`${user} ${isLater && value.user === user}`);
        await this.#hook();
      },
      onClose: ({ user, value: { endsAt } }, { code }) => {
        if (code !== CloseCode.unauthenticated) return;
        this.#ends.push({ user, lateMs: this.#program.host.runtime.now() - endsAt });
      },
      onError() {},
      onRefusal() {},
    }));
    this.#guests = KINDS.map((kind) => new Guest(audit, kind, this.#program.host, tokenMs));
  }

  /** Waits for the first session of each client. */
  async start(): Promise<void> {
    const areThere = () =>
      this.#guests.every(({ subscription }) => subscription.status.current === "subscribed");
    await this.#audit.until(areThere, BACK_MS);
    this.#expect("subscriptions of clients with a first token", true, areThere());
  }

  /** Publishes while tokens end, then compares. */
  async pass(): Promise<void> {
    const audit = this.#audit;
    const endMs = audit.nowMs + WATCH_MS;
    const away = this.#beAway();
    while (audit.nowMs < endMs) {
      this.#program.server.publish(KEPT, this.#published++);
      await audit.pause(PUBLISH_MS);
    }
    await away;
    const all = range(0, this.#published - 1).join();
    await audit.until(
      () => this.#guests.every(({ client, got }) => client.isConnected && got.join() === all),
      BACK_MS,
    );
    for (const guest of this.#guests) {
      const { kind, client, got, causes } = guest;
      const of = `of the client whose tokens are ${kind.name}`;
      this.#expect(`status ${of}`, "connected", client.status.current.name);
      this.#expect(`publications ${of}`, all, got.join());
      const ends = this.#ends.filter(({ user }) => user === guest.user);
      const lost = kind.ends ? [CloseCode.unauthenticated] : [];
      if (!kind.isAway) {
        this.#expect(`ends of tokens ${of}`, lost.length, ends.length);
        this.#expect(`causes of losses ${of}`, lost, causes);
      }
      for (const { lateMs } of ends) {
        const isInTime = lateMs >= 0 && lateMs <= SLACK_MS;
        this.#expect(`end of a token ${of}, ${Math.round(lateMs)} ms late`, true, isInTime);
      }
      const renewals = this.#renewed.filter((text) => text.startsWith(`${guest.user} `));
      if (guest.right !== undefined) {
        const isIn = this.#verdict === "grants";
        const about = `topic whose right ${this.#verdict} from token ${this.#deniedFrom} on`;
        const { length } = this.#program.server.topics.subscribers(RIGHT);
        this.#expect(`subscribers of a ${about}`, isIn ? 1 : 0, length);
        this.#expect(
          `client in a ${about}`,
          // An error is no answer: the client asks again.
          isIn ? "subscribed" : this.#verdict === "fails" ? "lost" : "ended",
          guest.right.status.current,
        );
      }
      const isRenewed = renewals.length > 0 && renewals.every((text) => text.endsWith("true"));
      this.#expect(`renewals ${of}, ${renewals.length}`, true, isRenewed);
    }
  }

  /** Takes the time of a hook, in which the session has the new token already. */
  async #hook(): Promise<void> {
    await pause(this.#program.host.runtime, this.#hookMs * this.#random());
  }

  /** Decides about the topic of a right. */
  #mayRead({ number }: Identity): boolean {
    if (number < this.#deniedFrom || this.#verdict === "grants") return true;
    if (this.#verdict === "refuses") throw new RequestError("forbidden", "No longer");
    if (this.#verdict === "fails") throw new Error("The rights are unknown");
    return false;
  }

  /** Closes all. */
  async close(): Promise<void> {
    await Promise.all(this.#guests.map(({ client }) => client.close()));
    await this.#program.server.close();
  }

  /** Keeps a machine away from the server for longer than a token lasts, once after a renewal. */
  async #beAway(): Promise<void> {
    const audit = this.#audit;
    const guest = this.#guests.find(({ kind }) => kind.isAway)!;
    const isRenewed = () => this.#renewed.some((text) => text.startsWith(`${guest.user} `));
    await audit.until(isRenewed, MOST_MS + BACK_MS);
    audit.block(guest.host, this.#program.host);
    if (this.#random() < 0.5) audit.cut(guest.host);
    await audit.pause(MOST_MS + 2 * SLACK_MS);
    audit.cut(guest.host);
    audit.block(guest.host, this.#program.host, false);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("expiry", what, expected, received);
  }
}

/** A client of one kind. */
class Guest {
  readonly kind: Kind;
  readonly user: string;
  readonly host: Audit["nodes"][number]["host"];
  readonly client: Client;
  readonly subscription: Subscription;
  /** The subscription of a client with good tokens whose right may end. */
  readonly right: Subscription | undefined;
  /** Publications in the order in which these came. */
  readonly got: unknown[] = [];
  /** Codes of the ends of sessions. */
  readonly causes: number[] = [];
  #tokens = 0;

  constructor(audit: Audit, kind: Kind, server: Guest["host"], tokenMs: number) {
    this.kind = kind;
    this.user = `renews-${kind.name}`;
    this.host = audit.host(this.user);
    const { runtime } = this.host;
    const random = audit.chanceOf(this.user);
    this.client = audit.connect(this.user, server, {
      backoff: BACKOFF,
      connectTimeoutMs: LEAST_MS,
      token: async () => {
        const number = this.#tokens++;
        await pause(runtime, PROVIDER_MS * random());
        const good = `${this.user} ${runtime.now() + tokenMs} ${number}`;
        return number === 1 && kind.second !== undefined ? await kind.second(good) : good;
      },
      onError() {},
    });
    this.subscription = this.client.subscribe(KEPT);
    this.right = kind.name === "good" ? this.client.subscribe(RIGHT) : undefined;
    if (this.right !== undefined) void hearAll(this.right, () => {});
    this.client.status.observe((status) => {
      if (status.name === "reconnecting") this.causes.push(status.cause.code);
    });
    void hearAll(this.subscription, ({ data }) => this.got.push(data));
  }
}
