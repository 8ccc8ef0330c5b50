/** Pages that follow many sessions: a session is recorded while questions come, and not beyond. */
import { internals } from "../../../../../session/session.ts";
import { Inspector } from "../../../../../server/inspector/inspector.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { Page } from "../users/page.ts";
import type { List, Traffic } from "./inspections.ts";

/** Sessions of the server, and the most that are recorded at once. */
const [SESSIONS, MOST] = [11, 8] as const;

/** Steps of a run, and the time in which these begin, in milliseconds. */
const [STEPS, RUN_MS] = [30, 28_000] as const;

/** Time behind the last question in which a recording is there, and from which on it is over, in milliseconds. */
const [KEPT_MS, OVER_MS] = [9_900, 15_100] as const;

/** Longest time between two steps while a page asks, and least and most without a page, in milliseconds. */
const [STEP_MS, ALONE_MS] = [3_000, [16_000, 20_000]] as const;

/** Time for a message to the server, in milliseconds. */
const TRIP_MS = 50;

/** Share of steps in which a session ends. */
const ENDS_SHARE = 0.05;

/** Topic of all messages. */
const TOPIC = "note";

/** Name of the machine of all pages, and beginning of the names of others. */
const NAME = "recordings";

/** A session that pages may follow. */
interface Followed {
  readonly name: string;
  readonly page: Page;
  readonly id: string;
  /** True if the session has a tap. */
  readonly isTapped: () => boolean;
  /** Time of the last question that had an answer; `undefined` without a recording. */
  askedMs: number | undefined;
  /** Messages since the recording began. */
  sent: number;
  isOver: boolean;
}

/**
 * Follows sessions, more than may be followed, and leaves them one by one.
 *
 * @param audit The audit.
 */
export async function auditRecordings(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const host = audit.host(`${NAME}-server`);
  const node = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token,
    userOf: (user) => user,
    onMessage() {},
  }));
  const { server } = node;
  const inspector = new Inspector(server as never, { authorize: () => true }, {
    runtime: host.runtime,
  });
  const ask = async <T>(name: string, params: Readonly<Record<string, string>>): Promise<T> => {
    const url = `https://${host.name}/inspector/data/${name}?${new URLSearchParams(params)}`;
    const request = new Request(url, { headers: { "skein-inspector": "1" } });
    return await (await inspector.fetch(request)).json();
  };
  const pages = Array.from({ length: SESSIONS }, (_, i) => {
    const name = `${NAME}-${i}`;
    return { name, page: new Page(audit, name, NAME, node) };
  });
  await audit.until(() => pages.every(({ page }) => page.isIn));
  const all = pages.map(({ name, page }): Followed => {
    const [session] = server.manager.sessionsOf(name);
    const { id, [internals]: core } = session!;
    const isTapped = () => core.tap !== undefined;
    return { name, page, id, isTapped, askedMs: undefined, sent: 0, isOver: false };
  });
  const { rows } = await ask<List>("sessions", {});
  const recordings = new Recordings(
    audit,
    all,
    (id) => ask<Traffic>("traffic", { node: `${rows[0]?.["node"]}`, id, after: "0" }),
  );
  const untilMs = audit.nowMs + RUN_MS;
  for (let step = 0; step < STEPS && audit.nowMs < untilMs; step++) {
    // Some sessions are followed for long, and others are left at once.
    const one = oneOf(random, random() < 0.5 ? all.slice(0, MOST / 2) : all);
    const drawn = random();
    if (drawn < ENDS_SHARE) recordings.end(one);
    else if (drawn < 0.3) { for (const other of all) recordings.send(other); }
    else if (drawn < 0.4) {
      for (const other of shuffled(random, all)) await recordings.read(other);
    } else await recordings.read(one);
    const isAlone = random() < 0.04;
    await audit.pause(isAlone ? between(random, ...ALONE_MS) : between(random, TRIP_MS, STEP_MS));
    recordings.compare(`behind step ${step}`);
    // The list keeps the inspector on, also while no session is followed.
    if (!isAlone) await ask<List>("sessions", {});
  }
  await inspector[Symbol.asyncDispose]();
  for (const one of all) one.askedMs = undefined;
  recordings.compare("behind the end of the inspector");
  for (const { page } of pages) page.close();
  await server.close();
}

/** The sessions, as pages know these. */
class Recordings {
  readonly #audit: Audit;
  readonly #all: readonly Followed[];
  readonly #ask: (id: string) => Promise<Traffic>;

  constructor(audit: Audit, all: readonly Followed[], ask: (id: string) => Promise<Traffic>) {
    this.#audit = audit;
    this.#all = all;
    this.#ask = ask;
  }

  /** Ends a session. */
  end(one: Followed): void {
    one.page.close();
    one.isOver = true;
  }

  /** Sends a message of a session. */
  send(one: Followed): void {
    if (one.isOver) return;
    one.page.send({ topic: TOPIC, data: one.sent });
    one.sent++;
  }

  /** Reads the envelopes of a session from the begin of the recording. */
  async read(one: Followed): Promise<void> {
    const before = this.#phaseOf(one);
    const others = this.#all.filter((other) => other !== one).map((other) => this.#phaseOf(other));
    const sure = others.filter((phase) => phase === "recorded").length;
    const most = others.filter((phase) => phase !== "none").length;
    const { answer: { state, entries } } = await this.#ask(one.id);
    const due: string[] = [];
    if (before !== "none") due.push(one.isOver ? "closed" : "following");
    if (before !== "recorded" && one.isOver) due.push("unknown");
    else if (before !== "recorded") {
      if (sure < MOST) due.push("following");
      if (most >= MOST) due.push("busy");
    }
    const isDue = due.includes(state);
    const about = `${before}, beside ${sure} to ${most} others`;
    this.#expect(`state of a session that is ${about}`, due[0], isDue ? due[0] : state);
    const isRecorded = state === "following" || state === "closed";
    one.askedMs = isRecorded ? this.#audit.nowMs : undefined;
    const count = entries.filter(({ topic }) => topic === TOPIC).length;
    if (before === "recorded") this.#expect("messages of a recording", one.sent, count);
    if (before === "none") this.#expect("messages of a new recording", 0, count);
    one.sent = count;
  }

  /** Compares the taps of all sessions. */
  compare(when: string): void {
    for (const one of this.#all) {
      const phase = this.#phaseOf(one);
      if (one.isOver || phase === "unsure") continue;
      this.#expect(`tap of a session ${when}`, phase === "recorded", one.isTapped());
    }
  }

  #phaseOf(one: Followed): "none" | "recorded" | "unsure" {
    if (one.askedMs === undefined) return "none";
    const ageMs = this.#audit.nowMs - one.askedMs;
    if (ageMs < KEPT_MS) return "recorded";
    if (ageMs < OVER_MS) return "unsure";
    one.askedMs = undefined;
    return "none";
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("leaks", `${what}, in an inspector`, expected, received);
  }
}
