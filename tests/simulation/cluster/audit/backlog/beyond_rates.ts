/** Pages beyond their rates: notices and answers, the window of refusals, and renewals of tokens. */
import { CloseCode, RequestError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between } from "../../chance.ts";
import { type Audit, type Expect, outcomeOf, STEADY } from "../audit.ts";
import { Page } from "../users/page.ts";

/** Time for an envelope and its answer, in milliseconds. */
const ROUND_MS = 40;

/** Rates of one session, so low that the audit knows what fits. */
const [MESSAGES, SUBSCRIPTIONS] = [
  { perSecond: 0.5, burst: 3 },
  { perSecond: 0.2, burst: 2 },
] as const;

/** Time in which a message comes back to an empty rate, in milliseconds. */
const TOKEN_MS = 1_000 / MESSAGES.perSecond;

/** Refusals within a window that do not end a session. */
const MAX_REFUSALS = 8;

/** Least time between two notices, and the window in which refusals are counted, in milliseconds. */
const [NOTICE_MS, WINDOW_MS] = [1_000, 10_000] as const;

/** Largest difference between a time and the documented one, in milliseconds. */
const SLACK_MS = 20;

/** Renewals of a session at once, and time until one more, in milliseconds: rule 8.7. */
const [RENEWALS, RENEWAL_MS] = [16, 1_000] as const;

/**
 * Sends more than rates allow, as pages do, and renews a token too often.
 *
 * @param audit The audit.
 */
export async function auditBeyondRates(audit: Audit): Promise<void> {
  await Promise.all([new Beyond(audit).run(), auditRenewals(audit)]);
}

/** A notice of refused envelopes without a number. */
interface Notice {
  readonly atMs: number;
  readonly count: number;
  readonly waitMs: number;
}

/** A page beyond its rates, and the server. */
class Beyond {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #expect: Expect;
  readonly #program: SimulatedServer<string>;
  readonly #page: Page;
  /** Notices of the present window. */
  readonly #notices: Notice[] = [];
  /** Messages that the server handled. */
  #handled = 0;
  /** Refusals that the server has to count. */
  #refusals = 0;

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.chanceOf("notices");
    this.#expect = (...outcome) => audit.examine("limits", ...outcome);
    const host = audit.host("beyond-rates");
    this.#program = new SimulatedServer<string>(audit.network, host, () => ({
      authenticate: ({ token = "" }) => token,
      authorize: () => true,
      rates: {
        perSession: { messages: MESSAGES, subscriptions: SUBSCRIPTIONS },
        maxRefusals: MAX_REFUSALS,
      },
      onMessage: () => void this.#handled++,
    }));
    audit.change(audit.host("beyond-page"), host, STEADY);
    this.#page = new Page(audit, "ann", "beyond-page", this.#program);
  }

  /** Fills two windows with refusals, and a third one beyond the bound. */
  async run(): Promise<void> {
    await this.#audit.until(() => this.#page.isIn);
    await this.#fillWindow("(window 1)");
    await auditAlways(this.#audit, this.#page, this.#expect);
    this.#refusals = this.#counted.refused.session;
    await this.#hear(WINDOW_MS + SLACK_MS);
    await this.#fillWindow("(window 2)");
    await this.#hear(WINDOW_MS + SLACK_MS);
    await this.#overfillWindow();
    await this.#audit.pause(NOTICE_MS);
    await this.#program.server.close();
  }

  get #counted() {
    return this.#program.server.manager.stats().rates;
  }

  #send(data: unknown): void {
    this.#page.send({ topic: "note", data });
  }

  /** Lets time pass, and notes the notices with their times. */
  async #hear(ms: number): Promise<void> {
    const audit = this.#audit;
    for (const endMs = audit.nowMs + ms; audit.nowMs < endMs;) {
      await audit.pause(Math.min(5, endMs - audit.nowMs));
      for (const { reply, error } of this.#page.heard) {
        if (reply !== null || error === undefined) continue;
        const count = Number(/\d+/.exec(error.message)?.[0]);
        this.#notices.push({ atMs: audit.nowMs, count, waitMs: error.retryAfterMs ?? 0 });
      }
      this.#page.forget();
    }
  }

  /** Sends some messages and a request beyond the rate, as many as a page may in one window. */
  async #fillWindow(about: string): Promise<void> {
    const expect: Expect = (what, ...values) => this.#expect(`${what} ${about}`, ...values);
    const audit = this.#audit;
    const notices = this.#notices;
    notices.length = 0;
    const before = this.#handled;
    for (let n = 0; n < MESSAGES.burst; n++) this.#send(n);
    await this.#hear(ROUND_MS);
    expect("messages within a rate", MESSAGES.burst, this.#handled - before);
    // A notice tells of the first refusal at once, and another one of the others a second later.
    const others = 1 + Math.floor((MAX_REFUSALS - 5) * this.#random());
    const firstMs = audit.nowMs;
    this.#send("beyond");
    await this.#hear(ROUND_MS);
    expect("notices at once", [1], notices.map(({ count }) => count));
    const { waitMs = 0 } = notices[0] ?? {};
    expect(`wait of ${waitMs} ms in a notice`, true, waitMs > TOKEN_MS / 2 && waitMs <= TOKEN_MS);
    for (let n = 0; n < others; n++) {
      this.#send(n);
      await this.#hear(between(this.#random, 0, ROUND_MS));
    }
    await this.#hear(NOTICE_MS + SLACK_MS - (audit.nowMs - firstMs));
    expect("counts of notices", [1, others], notices.map(({ count }) => count));
    const apartMs = (notices[1]?.atMs ?? 0) - (notices[0]?.atMs ?? 0);
    expect(`notices ${apartMs} ms apart`, true, Math.abs(apartMs - NOTICE_MS) <= SLACK_MS);
    await this.#askBeyond(firstMs, expect);
    await this.#hear(2 * NOTICE_MS);
    expect("notices behind the last refusal", 2, notices.length);
    expect("messages beyond a rate", MESSAGES.burst, this.#handled - before);
    this.#refusals += 2 + others;
    expect("counted refusals", this.#refusals, this.#counted.refused.session);
    expect(`page with ${2 + others} refusals`, undefined, this.#page.code);
  }

  /** Sends a request beyond the rate, which is answered, and in no notice. */
  async #askBeyond(firstMs: number, expect: Expect): Promise<void> {
    const id = this.#page.ask({ topic: "note", data: "asked" });
    await this.#audit.pause(ROUND_MS);
    const { error } = this.#page.answerTo(id) ?? {};
    expect("request beyond a rate", "too-many", error?.code);
    const sinceMs = this.#audit.nowMs - firstMs + ROUND_MS;
    const lateMs = (error?.retryAfterMs ?? 0) - (TOKEN_MS - sinceMs);
    expect(
      `wait of a request, ${Math.round(lateMs)} ms beside the rate`,
      true,
      Math.abs(lateMs) <= 3 * ROUND_MS,
    );
    this.#page.forget();
  }

  /** Sends as many messages beyond the rate as fit in a window, and one more. */
  async #overfillWindow(): Promise<void> {
    for (let n = 0; n < MESSAGES.burst + MAX_REFUSALS; n++) this.#send(n);
    await this.#audit.pause(ROUND_MS);
    this.#expect("page with as many refusals as fit", undefined, this.#page.code);
    this.#send("more");
    await this.#audit.pause(ROUND_MS);
    this.#expect("page with one refusal more", CloseCode.tooMany, this.#page.code);
    const { closed, refused: { session } } = this.#counted;
    const right = [this.#refusals + MAX_REFUSALS + 1, 1];
    this.#expect("counts of refusals and closes", right, [session, closed]);
  }
}

/** Subscribes beyond a rate, then leaves a topic: rule 13.3 allows that always. */
async function auditAlways(
  audit: Audit,
  page: Page,
  expect: Expect,
): Promise<void> {
  const { burst } = SUBSCRIPTIONS;
  const topics = Array.from({ length: burst + 1 }, (_, i) => `beyond:${i}`);
  const ids = topics.map((topic) => page.ask({ subscribe: topic }));
  await audit.pause(ROUND_MS);
  const codeOf = (id: number) => {
    const answer = page.answerTo(id);
    return answer === undefined ? "no answer" : answer.error?.code ?? "fine";
  };
  const outcomes = [...Array(burst).fill("fine"), "too-many"];
  expect("subscriptions beyond a rate of a page", outcomes, ids.map(codeOf));
  const left = page.ask({ unsubscribe: topics[0] });
  await audit.pause(ROUND_MS);
  expect("end of a subscription beyond the rate", "fine", codeOf(left));
}

/** Renews a token as often as allowed, and once more. */
async function auditRenewals(audit: Audit): Promise<void> {
  const random = audit.chanceOf("renewals");
  const expect: Expect = (...outcome) => audit.examine("limits", ...outcome);
  const host = audit.host("renewing");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token.split(" ")[0]!,
  }));
  audit.change(audit.host("renewing-page"), host, STEADY);
  const client = audit.connect("renewing-page", host, { token: "ann 0" });
  await audit.until(() => client.isConnected);
  const session = client.session!;
  let refusal: RequestError | undefined;
  const renew = (token: string) =>
    outcomeOf(
      session.authenticate(token).catch((error) => {
        if (error instanceof RequestError) refusal = error;
        throw error;
      }),
    );
  // The token of another user counts as well.
  const other = Math.floor(RENEWALS * random());
  const tokens = Array.from(
    { length: RENEWALS + 1 },
    (_, i) => `${i === other ? "ben" : "ann"} ${i}`,
  );
  const outcomes: string[] = [];
  for (const token of tokens) outcomes.push(await renew(token));
  const expected = tokens.map((_, i) =>
    i === RENEWALS ? "too-many" : i === other ? "forbidden" : "fulfilled"
  );
  expect("renewals of a session at once", expected, outcomes);
  const waitMs = refusal?.failure.retryAfterMs ?? 0;
  expect(
    `wait of ${waitMs} ms of a renewal`,
    true,
    waitMs > RENEWAL_MS / 4 && waitMs <= RENEWAL_MS,
  );
  await audit.pause(Math.max(0, waitMs - ROUND_MS / 2 - SLACK_MS));
  expect("renewal shortly before its time", "too-many", await renew("ann early"));
  await audit.pause(ROUND_MS / 2 + 2 * SLACK_MS);
  expect("renewal in time", "fulfilled", await renew("ann again"));
  expect("renewal behind that", "too-many", await renew("ann too"));
  expect("user of the session", "ann", server.manager.all()[0]?.user);
  expect("session whose renewals are refused", true, client.session === session);
  await client.close();
  await server.close();
}
