/** The manager of one server, whose sessions come and go in each way, beside a model. */
import { CloseCode } from "../../../../../errors.ts";
import { AUTHENTICATE_TIMEOUT_MS } from "../../../../../server/authentication.ts";
import type { Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, STEADY } from "../audit.ts";
import { auditFigures } from "./figures.ts";
import { Page } from "./page.ts";

/** Most sessions in all, of a user, and of an address. */
const [MAX_SESSIONS, MAX_OF_USER, MAX_OF_ADDRESS] = [6, 2, 3] as const;

/** Token of a session without a user. */
const GUEST = "guest";

/** Tokens of the pages. */
const TOKENS = ["ann", "ben", "eve", GUEST, GUEST] as const;

/** The machines, each of which has an address. */
const MACHINES = ["managers-a", "managers-b", "managers-c"] as const;

/** Steps of the audit. */
const STEPS = 36;

/** Time for an envelope and its answer, in milliseconds. */
const ROUND_MS = 60;

/** Close codes of the server; 0 stands for a normal close. */
const CODES = [0, 3_001, 4_900, CloseCode.tooMany] as const;

/** Most messages at once. */
const MESSAGES = 5;

/**
 * Time after which a handler that runs is an issue, and the distance of looks to that time, in
 * milliseconds: sessions tell the time by a tick of a second.
 */
const [SLOW_MS, CLEAR_MS] = [10_000, 1_300];

/** Longest user, in bytes. */
const MAX_USER_BYTES = 255;

/** Ways in which a session leaves the manager. */
const WAYS = ["page", "server", "machine", "removed"] as const;

/** A page in the model. */
interface Known {
  readonly token: string;
  readonly machine: string;
  readonly page: Page;
  readonly session: Session;
}

/** The server, its pages, and the model. */
class Managed {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #program: SimulatedServer<unknown>;
  /** The pages in the order of their sessions. */
  #known: Known[] = [];
  readonly #opened: Session[] = [];
  readonly #codes: Record<number, number> = {};
  readonly #refused = {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 0,
  };
  #created = 0;
  #closed = 0;
  #removed = 0;
  #peak = 0;
  #messages = 0;
  /** Promise for which handlers wait; `undefined` if none waits. */
  #held: Promise<void> | undefined;

  constructor(audit: Audit) {
    this.#audit = audit;
    this.#random = audit.random;
    this.#program = new SimulatedServer<unknown>(audit.network, audit.host("managed"), () => ({
      authenticate: ({ token }) => {
        if (token === "never") return new Promise(() => {});
        return token === GUEST ? {} : token;
      },
      limits: {
        maxSessions: MAX_SESSIONS,
        maxSessionsPerUser: MAX_OF_USER,
        maxSessionsPerAddress: MAX_OF_ADDRESS,
      },
      session: { closeTimeoutMs: ROUND_MS / 2 },
      onOpen: (session) => void this.#opened.push(session as unknown as Session),
      onMessage: () => this.#held,
      onError() {},
    }));
    for (const machine of MACHINES) audit.change(audit.host(machine), this.#program.host, STEADY);
  }

  /** Lets sessions come and go, and compares after each step. */
  async run(): Promise<void> {
    for (let step = 0; step < STEPS; step++) {
      const known = oneOf(this.#random, this.#known);
      const choice = this.#random();
      if (known === undefined || choice < 0.6) await this.#enter();
      else if (choice < 0.75) await this.#send(known);
      else await this.#leave(known, oneOf(this.#random, WAYS));
      this.#compare(`step ${step}`);
    }
    await this.#fill();
    await this.#auditIssues();
    await this.#auditDoor();
    await this.#closeAll();
    await this.#shutDown();
    await this.#program.server.close();
  }

  get #manager() {
    return this.#program.server.manager;
  }

  #open(token: string, machine: string): Page {
    return new Page(this.#audit, token, machine, this.#program);
  }

  /** Opens a page, which the model lets in or refuses. */
  async #enter(): Promise<void> {
    const token = oneOf<string>(this.#random, TOKENS);
    const machine = oneOf<string>(this.#random, MACHINES);
    const countOf = (key: "token" | "machine", value: string) =>
      this.#known.filter((known) => known[key] === value).length;
    // The user is known last.
    const limit = countOf("machine", machine) >= MAX_OF_ADDRESS
      ? "maxSessionsPerAddress"
      : this.#known.length >= MAX_SESSIONS
      ? "maxSessions"
      : token !== GUEST && countOf("token", token) >= MAX_OF_USER
      ? "maxSessionsPerUser"
      : undefined;
    this.#opened.length = 0;
    const page = this.#open(token, machine);
    await this.#audit.pause(ROUND_MS);
    const expected = limit === undefined ? "in" : CloseCode.tooMany;
    this.#expect(`entrance of ${token} (${limit ?? "free"})`, expected, page.code ?? "in");
    if (limit !== undefined) this.#refused[limit]++;
    const [session] = this.#opened;
    if (page.code !== undefined || session === undefined) return;
    this.#known.push({ token, machine, page, session });
    this.#created++;
    this.#peak = Math.max(this.#peak, this.#known.length);
  }

  async #send({ page }: Known): Promise<void> {
    for (let left = Math.ceil(MESSAGES * this.#random()); left > 0; left--) {
      page.send({ topic: "note", data: left });
      this.#messages++;
    }
    await this.#audit.pause(ROUND_MS);
  }

  /** Ends a session, or removes the session from the manager. */
  async #leave(known: Known, way: typeof WAYS[number]): Promise<void> {
    const { page, session } = known;
    const code = oneOf<number>(this.#random, CODES);
    this.#known = this.#known.filter((other) => other !== known);
    if (way === "removed") return await this.#remove(known);
    this.#closed++;
    if (way === "page") {
      page.close();
      this.#countCode(CloseCode.normal);
    } else if (way === "server") {
      void session.close({ code });
      this.#countCode(code);
    } else {
      // All other pages of the machine are lost as well.
      const others = this.#known.filter(({ machine }) => machine === known.machine);
      this.#known = this.#known.filter((other) => !others.includes(other));
      this.#closed += others.length;
      this.#audit.cut(this.#audit.host(known.machine));
      for (const _ of [known, ...others]) this.#countCode(CloseCode.abnormal);
    }
    await this.#audit.pause(ROUND_MS);
    if (way === "server") this.#expect("close code of a page", code || 1_000, page.code);
  }

  /** Removes a session, which is added again in some cases, open or closed. */
  async #remove(known: Known): Promise<void> {
    const { page, session } = known;
    this.#removed++;
    this.#expect("removed session", session.id, this.#manager.remove(session.id)?.id);
    this.#expect("session that is removed twice", undefined, this.#manager.remove(session.id));
    this.#expect("state of a removed session", "connected", session.state);
    this.#compare("removal");
    if (this.#random() < 0.5) return this.#addAgain(known);
    // The end of a removed session is not counted.
    page.close();
    await this.#audit.pause(ROUND_MS);
    if (this.#random() < 0.5) return;
    // A closed session that is added leaves at once.
    this.#addAgain(known);
    this.#known.pop();
    this.#closed++;
    this.#countCode(CloseCode.normal);
    await this.#audit.pause(ROUND_MS);
  }

  /** Adds a removed session, whose messages are not counted again. */
  #addAgain(known: Known): void {
    const id = this.#manager.add(known.session);
    this.#expect("id of a session that is added again", known.session.id, id);
    this.#created++;
    this.#known.push(known);
    this.#peak = Math.max(this.#peak, this.#known.length);
  }

  #countCode(code: number): void {
    this.#codes[code] = (this.#codes[code] ?? 0) + 1;
  }

  /** Compares what the manager tells with the model. */
  #compare(when: string): void {
    const manager = this.#manager;
    const known = this.#known;
    const ids = known.map(({ session }) => session.id);
    const idsOf = (sessions: readonly { readonly id: string }[]) => sessions.map(({ id }) => id);
    const expect: Expect = (what, ...values) => this.#expect(`${what} at ${when}`, ...values);
    expect("sessions", [ids.length, ids], [manager.count, idsOf(manager.all())]);
    expect("connected sessions", ids, idsOf(manager.byState("connected")));
    expect("closed sessions", [0, 0], [manager.byState("closed").length, manager.cleanup()]);
    for (const user of new Set(TOKENS)) {
      const own = user === GUEST ? [] : known.filter(({ token }) => token === user);
      const expected = idsOf(own.map(({ session }) => session));
      expect(`sessions of ${user}`, expected, idsOf(manager.sessionsOf(user)));
    }
    const found = known.map(({ token, session: { id, user } }) => [
      manager.get(id)?.id,
      token === GUEST ? idsOf(manager.sessionsOf(user)) : [id],
    ]);
    expect("sessions by id", ids.map((id) => [id, [id]]), found);
    expect("snapshots in pages", ids, this.#pages());
    const stats = manager.stats();
    const count = (key: "token" | "machine", not?: string) =>
      new Set(known.map((one) => one[key]).filter((name) => name !== not)).size;
    expect("statistics", {
      count: ids.length,
      states: { connecting: 0, connected: ids.length, draining: 0, closed: 0 },
      reserved: 0,
      created: this.#created,
      closed: this.#closed,
      removed: this.#removed,
      peak: this.#peak,
      users: count("token", GUEST),
      addresses: count("machine"),
      refused: this.#refused,
      codes: this.#codes,
      received: this.#messages,
    }, {
      count: stats.count,
      states: stats.states,
      reserved: stats.reserved,
      created: stats.created,
      closed: stats.closed,
      removed: stats.removed,
      peak: stats.peak,
      users: stats.users,
      addresses: stats.addresses,
      refused: stats.refused,
      codes: stats.closeCodes,
      received: stats.messages.received,
    });
  }

  /** Reads the ids of all snapshots, a page of a drawn length at a time. */
  #pages(): string[] {
    const limit = 1 + Math.floor(4 * this.#random());
    const ids: string[] = [];
    let after: number | undefined;
    do {
      const page = this.#manager.diagnostics({ limit, after });
      if (page.sessions.length > limit) ids.push(`${page.sessions.length} of ${limit}`);
      ids.push(...page.sessions.map(({ id }) => id));
      after = page.next;
    } while (after !== undefined && ids.length <= MAX_SESSIONS);
    return ids;
  }

  /** Opens pages until there are three sessions at least. */
  async #fill(): Promise<void> {
    for (let tries = 0; this.#known.length < 3 && tries < STEPS; tries++) await this.#enter();
    this.#compare("the last entrances");
  }

  /** Lets handlers of some sessions take long: each is an issue, once. */
  async #auditIssues(): Promise<void> {
    this.#expect("issues of idle sessions", [], this.#manager.issues());
    const held = Promise.withResolvers<void>();
    this.#held = held.promise;
    const slow = this.#known.filter((_, i) => i !== 1);
    for (const { page } of slow) page.send({ topic: "note", data: "slow" });
    this.#messages += slow.length;
    await this.#audit.pause(SLOW_MS - CLEAR_MS);
    this.#expect("issues of handlers that run", [], this.#manager.issues());
    await this.#audit.pause(2 * CLEAR_MS);
    const expected = slow.map(({ session }) => `${session.id} slow-handler`);
    for (let limit = 1; limit <= MAX_SESSIONS; limit++) {
      const issues = this.#manager.issues({ limit }).map(({ id, code }) => `${id} ${code}`);
      this.#expect(`at most ${limit} issues`, expected.slice(0, limit), issues);
    }
    this.#held = undefined;
    held.resolve();
    await this.#audit.pause(ROUND_MS);
    this.#expect("issues once the handlers are done", [], this.#manager.issues());
    this.#compare("the end of slow handlers");
  }

  /** Tries names of users up to the bound and beyond, and a token whose check takes too long. */
  async #auditDoor(): Promise<void> {
    for (const known of [...this.#known].slice(1)) await this.#leave(known, "page");
    const [machine] = MACHINES;
    const enter = async (token: string, waitMs: number) => {
      const page = this.#open(token, machine);
      await this.#audit.pause(waitMs);
      return page;
    };
    for (const extra of [0, 1]) {
      const page = await enter("u".repeat(MAX_USER_BYTES + extra), ROUND_MS);
      const right = extra === 0 ? "in" : CloseCode.forbidden;
      this.#expect(`user with ${extra} bytes too many`, right, page.code ?? "in");
      if (page.code === undefined) {
        page.close();
        this.#created++;
        this.#closed++;
        this.#peak = Math.max(this.#peak, this.#known.length + 1);
        this.#countCode(CloseCode.normal);
      }
      await this.#audit.pause(ROUND_MS);
    }
    const late = await enter("never", AUTHENTICATE_TIMEOUT_MS - ROUND_MS);
    const { reserved } = this.#manager.stats();
    this.#expect("place of a token whose check runs", 1, reserved);
    this.#expect("token whose check runs", undefined, late.code);
    await this.#audit.pause(2 * ROUND_MS);
    this.#expect("token whose check takes too long", CloseCode.draining, late.code);
    this.#compare("the last refusals");
  }

  /** Closes all sessions at once, and opens a page behind. */
  async #closeAll(): Promise<void> {
    await this.#fill();
    const { length } = this.#known;
    const code = 3_002;
    const waitMs = between(this.#random, ROUND_MS, 2 * ROUND_MS);
    const count = await this.#endAll(this.#manager.closeAll({ code }), { code, waitMs });
    this.#expect("sessions that are closed together", length, count);
    this.#compare("the end of all");
    this.#expect("sessions that are closed again", 0, await this.#manager.closeAll());
    await this.#enter();
    this.#compare("a session behind the end of all");
  }

  /** Closes all sessions for good, by either way: a page behind is refused. */
  async #shutDown(): Promise<void> {
    await this.#fill();
    const isDisposal = this.#random() < 0.5;
    const code = isDisposal || this.#random() < 0.5 ? CloseCode.draining : 3_003;
    const over = isDisposal
      ? this.#manager[Symbol.asyncDispose]()
      : this.#manager.shutdown(code === CloseCode.draining ? {} : { code });
    await this.#endAll<unknown>(over, { code, waitMs: ROUND_MS });
    const late = this.#open(GUEST, MACHINES[0]);
    await this.#audit.pause(ROUND_MS);
    const about = isDisposal ? "a disposal" : "a shutdown";
    this.#expect(`page behind ${about}`, CloseCode.draining, late.code);
    this.#refused.draining++;
    this.#compare(about);
  }

  /** Waits for the end of all sessions; each page has the code a time later. */
  async #endAll<T>(
    over: Promise<T>,
    { code, waitMs }: { code: number; waitMs: number },
  ): Promise<T | string> {
    const pages = this.#known.splice(0).map(({ page }) => page);
    this.#closed += pages.length;
    for (const _ of pages) this.#countCode(code);
    const outcome = await this.#audit.inTime(over, 1_000, "no end");
    await this.#audit.pause(waitMs);
    this.#expect(`pages behind ${code}`, pages.map(() => code), pages.map((page) => page.code));
    return outcome;
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("figures", what, expected, received);
  }
}

/**
 * Lets sessions come to one server, and leave in each way.
 *
 * @param audit The audit.
 */
export async function auditManagers(audit: Audit): Promise<void> {
  await Promise.all([new Managed(audit).run(), auditFigures(audit)]);
}
