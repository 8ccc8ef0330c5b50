/** Attempts of a client to come back: each wait is the documented one, and is waited for in full. */
import { pause } from "../../../../base/wait.ts";
import type { Client } from "../../../../client/client.ts";
import type { ClientStatus } from "../../../../client/client_options.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { type Audit, outcomeOf } from "./audit.ts";

/** Length of a session after which the waits begin anew, in milliseconds: rule 15.4. */
const STABLE_MS = 5_000;

/** Distance to that length, in milliseconds: a session is clearly shorter or clearly longer. */
const CLEAR_MS = 300;

/** Largest difference between a time and the documented one, in milliseconds. */
const EXACT_MS = 2;

/** Upper end of the first wait, in milliseconds. */
const FIRST_MS = 100;

/** Attempts of a client that gives up. */
const MAX_ATTEMPTS = 3;

/** Time of the server until the next start, in milliseconds. */
const AWAY_MS = 1_500;

/** Time of a handler that no request outlives, in milliseconds. */
const HOLD_MS = 60_000;

/** Close code after which a client comes back. */
const CODE = 3_000;

/** Longest drain, in milliseconds. */
const DRAIN_MS = 800;

/** Longest time of an attempt, in milliseconds. */
const DIAL_MS = 500;

/**
 * Ends the only server several times, and follows the attempts of clients with one and two URLs.
 *
 * @param audit The audit.
 */
export async function auditPacing(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("paced");
  const [program, other] = [host, audit.host("paced-other")].map((host) =>
    new SimulatedServer<unknown>(audit.network, host, () => ({
      requests: { hold: ({ signal }) => pause(host.runtime, HOLD_MS, signal) },
    }))
  ) as [SimulatedServer, SimulatedServer];
  const share = 0.1 + 0.9 * random();
  const maxMs = FIRST_MS * 2 ** (1 + 3 * random());
  const backoff = { firstDelayMs: FIRST_MS, maxDelayMs: maxMs };
  const urls = [[host], [host, audit.host("paced-nowhere")], [host, other.host]];
  const paces = urls.map((servers, i) => {
    const name = `paced-client-${i}`;
    const near = audit.host(name);
    Object.assign(near.runtime, { random: () => share });
    const pace = new Pace(audit, near, { share, maxMs, urls: servers.length });
    pace.follow(audit.connect(name, servers, {
      token: undefined,
      backoff,
      onGoAway: ({ retryAfterMs }) => pace.goesAway(retryAfterMs),
      onMessage() {},
    }));
    return pace;
  });
  const once = audit.connect("paced-once", audit.host("paced-nowhere"), {
    token: undefined,
    backoff: { ...backoff, maxAttempts: MAX_ATTEMPTS },
  });
  /** Lets clients lose their sessions on the node that stays. */
  const closeOther = () => {
    for (const session of other.server.manager.all()) void session.close({ code: CODE });
  };
  let waits = 0;
  once.status.observe(({ name }) => void (waits += Number(name === "reconnecting")));

  // One of three sessions is long enough for the waits to begin anew.
  const long = Math.floor(3 * random());
  void examineTime(audit, paces[0]!.client);
  const stays = [0, 1, 2].map((i) => i === long ? STABLE_MS + CLEAR_MS : CLEAR_MS);
  for (const stayMs of stays.slice(1)) {
    await connected();
    await audit.pause(stayMs);
    closeOther();
    host.kill();
    await audit.pause(AWAY_MS * (0.4 + 0.6 * random()));
    program.restart();
  }
  await connected();
  await audit.pause(stays[0]!);
  closeOther();
  await program.server.drain({ withinMs: Math.round(DRAIN_MS * (0.2 + 0.8 * random())) });
  host.kill();
  await audit.pause(DRAIN_MS + AWAY_MS);
  program.restart();
  await connected();

  for (const pace of paces) pace.examine();
  const expected = { status: "closed", waits: MAX_ATTEMPTS };
  const received = { status: once.status.current.name, waits };
  audit.examine("pacing", "client that gives up", expected, received);
  await Promise.all(paces.map(({ client }) => client.close()));
  await Promise.all([program, other].map(({ server }) => server.close()));

  async function connected(): Promise<void> {
    const withinMs = maxMs + 2 * DIAL_MS;
    for (const { client, name } of paces) {
      const isBack = await audit.until(() => client.isConnected, withinMs);
      audit.examine("pacing", `${name} once the server runs`, true, isBack);
    }
  }
}

/** A request that is sent again in each session still has one time in all. */
async function examineTime(audit: Audit, client: Client): Promise<void> {
  await audit.until(() => client.isConnected);
  const timeoutMs = Math.round(CLEAR_MS + AWAY_MS * (1 + audit.random()));
  const sinceMs = audit.nowMs;
  const outcome = await outcomeOf(client.request("hold", {}, { retry: true, timeoutMs }));
  const lateMs = Math.round(audit.nowMs - sinceMs - timeoutMs);
  const what = `request over several sessions, late by ${lateMs} ms`;
  audit.examine("pacing", what, ["TimeoutError", true], [outcome, Math.abs(lateMs) <= EXACT_MS]);
}

/** Options of the waits of one client. */
interface PaceTerms {
  /** Share of the upper end that is drawn. */
  readonly share: number;
  readonly maxMs: number;
  /** Number of URLs. */
  readonly urls: number;
}

/** Waits of one client, beside those of rules 7.10 and 15.4. */
class Pace {
  readonly name: string;
  client!: Client;
  readonly #host: Host;
  readonly #audit: Audit;
  readonly #terms: PaceTerms;
  readonly #wrong: string[] = [];
  /** Attempts since the last stable session. */
  #attempt = 0;
  /** URLs in a row that were tried without a stable session. */
  #failed = 0;
  /** Time of the next attempt that a server named; 0 without one. */
  #retryAt = 0;
  #connectedAt: number | undefined;
  #dueAt: number | undefined;

  constructor(audit: Audit, host: Host, terms: PaceTerms) {
    this.#audit = audit;
    this.#host = host;
    this.#terms = terms;
    this.name = `client with ${terms.urls} URLs`;
  }

  /** Follows the status of a client from the start. */
  follow(client: Client): void {
    this.client = client;
    client.status.observe((status) => this.#take(status));
  }

  /** Notes that the server named a time to come back. */
  goesAway(retryAfterMs: number): void {
    this.#retryAt = this.#now + retryAfterMs;
  }

  /** Examines all waits so far. */
  examine(): void {
    this.#audit.examine("pacing", `waits of a ${this.name}`, [], this.#wrong.slice(0, 3));
  }

  get #now(): number {
    return this.#host.runtime.now();
  }

  #take(status: ClientStatus): void {
    const now = this.#now;
    if (status.name === "connected") this.#connectedAt = now;
    else if (status.name === "reconnecting") {
      const expected = this.#next(now);
      this.#compare(`wait ${status.attempt}`, expected.delayMs, status.delayMs);
      this.#compare("number of the wait", expected.attempt, status.attempt);
      this.#dueAt = now + expected.delayMs;
    } else if (status.name === "connecting" && this.#dueAt !== undefined) {
      this.#compare("time of the attempt", 0, now - this.#dueAt);
    }
  }

  /** The wait that the documentation names. */
  #next(now: number): { readonly delayMs: number; readonly attempt: number } {
    const { share, maxMs, urls } = this.#terms;
    if (this.#connectedAt !== undefined && now - this.#connectedAt >= STABLE_MS) {
      this.#attempt = this.#failed = 0;
    }
    this.#connectedAt = undefined;
    const retryAt = this.#retryAt;
    this.#retryAt = 0;
    const hasOther = ++this.#failed < urls;
    if (!hasOther) this.#failed = 0;
    if (hasOther && retryAt === 0) return { delayMs: 0, attempt: this.#attempt };
    const delayMs = share * Math.min(maxMs, FIRST_MS * 2 ** this.#attempt);
    this.#attempt++;
    return {
      delayMs: retryAt === 0 ? delayMs : Math.max(0, retryAt - now),
      attempt: this.#attempt,
    };
  }

  #compare(what: string, expected: number, received: number): void {
    if (Math.abs(expected - received) <= EXACT_MS) return;
    const atMs = Math.round(this.#audit.nowMs);
    this.#wrong.push(`${what} at ${atMs}: ${Math.round(expected)}, not ${Math.round(received)} ms`);
  }
}
