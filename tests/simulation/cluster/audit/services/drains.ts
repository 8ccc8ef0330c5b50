/** A drain of a node under sessions and requests: health, refusals, moves and the report. */
import type { Client } from "../../../../../client/client.ts";
import type { Session } from "../../../../../session/session.ts";
import { between } from "../../chance.ts";
import { brokersInMemory } from "../../node_ports.ts";
import { type Audit, hearAll } from "../audit.ts";
import { range } from "../history.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { API, ask } from "./backend.ts";
import { auditCutDrain } from "./cut_drains.ts";
import { auditSessionDrains } from "./session_drains.ts";

/** Clients of the node that drains, which has room for as many sessions. */
const CLIENTS = 4;

/** Time between two publications, in milliseconds. */
const PUBLISH_MS = 60;

/** Least and longest time of a drain, in milliseconds. */
const [SHORT_MS, LONG_MS] = [800, 2_500];

/** Time behind a drain in which clients and the report are there, in milliseconds. */
const SLACK_MS = 1_500;

/** Most requests of each end of a session, and handlers of one session at once. */
const [REQUESTS, CONCURRENCY] = [3, 8] as const;

/** Topic with a history. */
const TOPIC = "log:deploy";

/**
 * Drains a node while clients listen and wait for answers, and cuts drains of other servers.
 *
 * @param audit The audit.
 */
export async function auditDrains(audit: Audit): Promise<void> {
  await Promise.all([auditWholeDrain(audit), auditCutDrain(audit), auditSessionDrains(audit)]);
}

/** Drains one of two nodes while clients listen and wait for answers. */
async function auditWholeDrain(audit: Audit): Promise<void> {
  const wait = answerLate(audit);
  const service = new Service(audit, "drains", {
    brokerOf: brokersInMemory(audit.simulation, audit.host("drains-engine")),
    server: {
      history: { "log:{name}": {} },
      limits: { maxSessions: CLIENTS },
      api: { path: API, authorize: () => true },
      metrics: { allow: "everybody" },
      session: { concurrency: CONCURRENCY },
      requests: { wait },
      onError() {},
    },
  });
  const drain = new Drain(audit, service);
  await drain.run();
  await service.close();
}

/** Makes a handler that answers with the data, after as many milliseconds. */
function answerLate(audit: Audit): (request: { readonly data: unknown }) => Promise<unknown> {
  return async ({ data }) => {
    await audit.pause(Number(data));
    return data;
  };
}

/** A client of the drain, with the numbers that came. */
interface Listener {
  readonly client: Client;
  readonly got: number[];
}

/** One drain. */
class Drain {
  readonly #audit: Audit;
  readonly #service: Service;
  readonly #random: () => number;
  readonly #near: ServiceNode;
  readonly #far: ServiceNode;
  #published = 0;

  constructor(audit: Audit, service: Service) {
    this.#audit = audit;
    this.#service = service;
    this.#random = audit.random;
    [this.#near, this.#far] = [service.start(), service.start()];
  }

  /** Drains the near node. */
  async run(): Promise<void> {
    const { manager } = this.#near.server;
    await this.#expectHealth("before sessions", 200, { status: "ok", sessions: 0 });
    const listeners = await this.#enter();
    const sessions = manager.count;
    this.#expect("sessions before a drain", CLIENTS, sessions);
    await this.#expectHealth("of a full node", 503, { status: "full", sessions });
    const withinMs = Math.round(between(this.#random, SHORT_MS, LONG_MS));
    // Most requests end in time; one ends long behind the drain.
    const [early, late] = [withinMs / 2, 3 * withinMs];
    const answered = this.#requestAll(listeners, early);
    const hasLate = this.#random() < 0.5;
    const unanswered = hasLate ? this.#request(listeners[1]!.client, late) : undefined;
    await this.#audit.pause(ROUND_MS / 3);
    const publishing = this.#publish(withinMs + ROUND_MS);
    const beganMs = this.#audit.nowMs;
    const tookMs = () => this.#audit.nowMs - beganMs;
    const drained = this.#near.server.drain({ withinMs, reason: "A new version" });
    const again = this.#near.server.drain({ withinMs });
    await this.#expectHealth("of a node that drains", 503, { status: "draining", sessions });
    const newcomer = this.#service.enter("newcomer", this.#near);
    await this.#audit.pause(withinMs / 3);
    this.#expect("new session at a node that drains", false, newcomer.isConnected);
    await newcomer.close();
    await this.#audit.until(() => manager.count === (hasLate ? 1 : 0), withinMs);
    const goneMs = tookMs();
    const isSpread = goneMs <= 0.8 * withinMs + early + ROUND_MS;
    this.#expect("sessions leave within 80 % of the time", true, isSpread || [goneMs, withinMs]);
    const failed = (await answered).filter((outcome) => outcome !== "answered");
    this.#expect("requests without an answer in time", [], failed);
    const { closed, cut } = await drained;
    const isInTime = tookMs() <= withinMs + SLACK_MS;
    this.#expect("end of a drain", true, isInTime || [tookMs(), withinMs]);
    this.#expect(
      "report of a drain",
      { closed: CLIENTS - (hasLate ? 1 : 0), cut: hasLate ? 1 : 0 },
      { closed, cut },
    );
    await again;
    if (unanswered !== undefined) {
      this.#expect("answer behind the drain", "failed", await unanswered);
    }
    await publishing;
    const isThere = () =>
      listeners.every(({ client, got }) => client.isConnected && got.length >= this.#published);
    await this.#audit.until(isThere, SLACK_MS + 2 * LONG_MS);
    await this.#audit.pause(ROUND_MS);
    const all = range(0, this.#published - 1);
    for (const { client, got } of listeners) {
      this.#expect("publications over a drain", all, got);
      this.#expect("client behind a drain", true, client.isConnected);
      await client.close();
    }
    // The hardened engine waits for the end of the connection below.
    await this.#audit.until(() => this.#far.server.manager.count === 0, ROUND_MS);
    this.#expect("sessions elsewhere in the end", 0, this.#far.server.manager.count);
  }

  /** Connects clients to the near node, with the far one behind. */
  async #enter(): Promise<Listener[]> {
    const hosts = [this.#near.host, this.#far.host];
    const listeners = Array.from({ length: CLIENTS }, (_, i): Listener => {
      const got: number[] = [];
      const client = this.#audit.connect(`drains-${i}`, hosts, {
        concurrency: CONCURRENCY,
        requests: { wait: answerLate(this.#audit) } as never,
        onMessage() {},
        onRefused() {},
      });
      const subscription = client.subscribe(TOPIC);
      void hearAll(subscription, ({ data }) => got.push(Number(data)));
      subscription.ready.catch(() => {});
      return { client, got };
    });
    await Promise.all(listeners.map(({ client }) => this.#audit.until(() => client.isConnected)));
    await this.#audit.pause(ROUND_MS);
    return listeners;
  }

  /** Publishes for a while, by both nodes. */
  async #publish(forMs: number): Promise<void> {
    for (const endMs = this.#audit.nowMs + forMs; this.#audit.nowMs < endMs;) {
      await this.#far.server.topics.append(TOPIC, this.#published++);
      await this.#audit.pause(PUBLISH_MS);
    }
  }

  /** Sends requests from both ends of all sessions, each with an answer within a time. */
  #requestAll(listeners: readonly Listener[], withinMs: number): Promise<readonly string[]> {
    const ends = listeners.flatMap(({ client }) => {
      const far = this.#near.server.manager.all().find(({ id }) => id === client.session?.id);
      return [client, far as Session];
    });
    return Promise.all(ends.flatMap((end) =>
      Array.from(
        { length: Math.floor((REQUESTS + 1) * this.#random()) },
        () => this.#request(end, between(this.#random, 0, withinMs)),
      )
    ));
  }

  #request(end: Pick<Session, "request">, ms: number): Promise<string> {
    return end.request("wait", ms).then(
      (data) => data === ms ? "answered" : `${data}`,
      () => "failed",
    );
  }

  /** Health by the API and for load balancers. */
  async #expectHealth(what: string, status: number, health: unknown): Promise<void> {
    for (const question of [{ path: "/health" }, { outside: "/healthz" }]) {
      const answer = await ask(this.#near, question);
      this.#expect(`health ${what}`, [status, health], [answer.status, answer.body]);
    }
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}
