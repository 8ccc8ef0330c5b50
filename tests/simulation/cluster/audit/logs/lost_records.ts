/** Logs on a Redis that loses confirmed changes: a node that heard of these gives the log a new identity. */
import type { LogInfo } from "../../../../../pubsub/logs/log.ts";
import { logTopic } from "../../../../../pubsub/logs/rules.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf } from "../../chance.ts";
import type { RedisServers } from "../../engine.ts";
import type { Audit } from "../audit.ts";
import { LogMachine, PLENTY } from "./machine.ts";
import {
  type LogCall,
  makeCall,
  type ModelLog,
  type ModelState,
  outcomesOf,
  readAll,
  textOf,
} from "../../../../../pubsub/logs/log_model.ts";

/** Logs, losses one after the other, and calls before a loss, that are lost, and behind. */
const [LOGS, LOSSES, CALLS] = [["a", "b", "c"], 2, { before: 6, lost: 8, behind: 22 }] as const;

/** Time of a replica that never applies later changes, and of one that applies these, in milliseconds. */
const [LAG_MS, APPLIED_MS] = [3_600_000, 100];

/** Longest time until the old primary hears of the new one, in milliseconds. */
const DEMOTED_MS = 300;

/** Longest time until brokers are connected again, and until an announcement arrives, in milliseconds. */
const [BACK_MS, TURN_MS] = [8_000, 1_000];

/** Most calls until a node reaches the new primary, and the time between two, in milliseconds. */
const [LOOKS, LOOK_MS] = [40, 50];

/** Names of identities that the model gives, until the engine shows these. */
const RENEWED = "renewed";

/** The newest state of a log that a node heard of. */
interface Heard {
  readonly identity: string;
  readonly tail: number;
  readonly isEnded: boolean;
}

/** A node, with the states that its broker heard of, and the announcements by log. */
interface Node {
  readonly machine: LogMachine;
  readonly heard: Map<string, Heard>;
  readonly announced: Map<string, number>;
}

/**
 * Fails over to a replica without the newest changes of some logs, and compares all calls of two nodes
 * with a model that knows the changes that are left, and those of which each node heard.
 *
 * @param audit The audit.
 */
export async function auditLostRecords(audit: Audit): Promise<void> {
  const { startRedis } = audit.engine;
  if (startRedis === undefined) return;
  const names = ["lost-records-redis0", "lost-records-redis1"] as const;
  const servers = await startRedis([audit.host(names[0]), audit.host(names[1])]);
  const brokerOf = servers.broker.bind(servers);
  await LogMachine.use(audit, ["lost-records-near", "lost-records-far"], async (machines) => {
    await new LostRecords(audit, servers, machines).run();
  }, brokerOf);
  for (const { host } of servers.redis.servers) host.kill();
}

/** The logs, and the nodes that call these. */
class LostRecords {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #redis: RedisServers["redis"];
  readonly #nodes: readonly Node[];
  readonly #states = new Map<string, ModelState>();
  /** Name of each identity in the model. */
  readonly #names = new Map<string, string>();
  #count = 0;
  #isWrong = false;

  constructor(audit: Audit, { redis }: RedisServers, machines: readonly LogMachine[]) {
    this.#audit = audit;
    this.#random = audit.chanceOf("lost records");
    this.#redis = redis;
    this.#nodes = machines.map((machine) => ({
      machine,
      heard: new Map(),
      announced: new Map(),
    }));
  }

  async run(): Promise<void> {
    await Promise.all(this.#nodes.map((node) => this.#listen(node)));
    for (let left = LOSSES; left > 0 && !this.#isWrong; left--) {
      await this.#callSome(CALLS.before);
      await this.#lose();
      await this.#callSome(CALLS.behind);
    }
    for (const node of this.#nodes) {
      for (const id of LOGS) await this.#call(node, id, readAll());
    }
  }

  async #listen({ machine, announced }: Node): Promise<void> {
    await Promise.all(LOGS.map(async (id) => {
      const hear = () => void announced.set(id, (announced.get(id) ?? 0) + 1);
      await machine.run(() => machine.broker.subscribe(logTopic(id), hear).ready);
    }));
  }

  /** Changes the logs, then fails over to a replica that has none of these changes. */
  async #lose(): Promise<void> {
    const replica = this.#redis.servers.find(({ isReplica }) => isReplica)!;
    await this.#audit.pause(APPLIED_MS);
    replica.lag(LAG_MS);
    const kept = new Map(this.#states);
    // In some runs a single node hears of the changes.
    const isOne = this.#random() < 0.4;
    await this.#callSome(CALLS.lost, isOne ? [oneOf(this.#random, this.#nodes)] : this.#nodes);
    const demoteAfterMs = between(this.#random, 0, DEMOTED_MS);
    const old = this.#redis.primary;
    const isKilled = this.#random() < 0.5;
    if (isKilled) old.host.kill();
    this.#redis.failOver({ demoteAfterMs });
    replica.lag(0);
    await this.#audit.pause(DEMOTED_MS);
    if (isKilled) this.#redis.restart();
    for (const [id, state] of kept) this.#states.set(id, state);
    for (const id of LOGS) if (!kept.has(id)) this.#states.delete(id);
    await this.#meet(old.host);
  }

  /** Waits until all nodes have left the old primary, and reach the new one. */
  async #meet(old: Host): Promise<void> {
    const hosts = this.#nodes.map(({ machine: { host } }) => host);
    const isLeft = () =>
      !this.#audit.network.links.some(({ client, server }) =>
        server === old && hosts.includes(client)
      );
    await this.#audit.until(isLeft, BACK_MS);
    await Promise.all(this.#nodes.map(async ({ machine }) => {
      const { broker } = machine;
      // A node that has not heard of the end of a connection yet fails here.
      const probe = () => machine.run(() => makeCall(machine.logs, "probe", readAll()));
      for (let left = LOOKS; left > 0; left--) {
        await this.#audit.until(() => broker.status.current.name === "connected", BACK_MS);
        const isThere = await probe().then(() => true, () => false);
        if (isThere && broker.status.current.name === "connected") return;
        await this.#audit.pause(LOOK_MS);
      }
    }));
  }

  async #callSome(calls: number, nodes: readonly Node[] = this.#nodes): Promise<void> {
    for (let left = calls; left > 0 && !this.#isWrong; left--) {
      const id = oneOf(this.#random, LOGS);
      await this.#call(oneOf(this.#random, nodes), id, this.#draw(id));
    }
  }

  /** Makes a call, and compares the result with the model. */
  async #call(node: Node, id: string, operation: LogCall): Promise<void> {
    const { machine, heard, announced } = node;
    const before = this.#states.get(id);
    const known = heard.get(id);
    const isLost = before !== undefined && known?.identity === before.identity &&
      (endOf(before) < known.tail || known.isEnded && before.end === undefined);
    const state = isLost ? { ...before, identity: `${RENEWED}${++this.#count}` } : before;
    const announcements = announced.get(id) ?? 0;
    const at = { fromMs: this.#audit.nowMs, toMs: this.#audit.nowMs };
    const result = await machine.run(() => makeCall(machine.logs, id, operation))
      .catch((error) => `${error}`);
    const outcome = outcomesOf(state, this.#named(operation), at)[0]!;
    const { next } = outcome;
    this.#states.set(id, next);
    if (next === undefined) heard.delete(id);
    else heard.set(id, heardOf(next, known));
    const about = `${operation.kind} of ${id} at ${machine.host.name}, which heard ${
      textOf(known ?? "nothing")
    } of ${textOf(before ?? "none")}`;
    const received = this.#withNames(result, state?.identity);
    this.#expect(about, textOf(outcome.result), textOf(received));
    if (!isLost) return;
    await this.#audit.until(() => (announced.get(id) ?? 0) > announcements, TURN_MS);
    const isTold = (announced.get(id) ?? 0) > announcements;
    this.#expect(`announcement of the new identity of ${id}`, true, isTold);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#isWrong ||= expected !== received;
    this.#audit.examine(
      "durable",
      `a Redis without the newest changes: ${what}`,
      expected,
      received,
    );
  }

  /** Writes a result with the names of the model; the first sight of an identity tells what it stands for. */
  #withNames(result: unknown, name: string | undefined): unknown {
    const { info } = Object(result) as { readonly info?: LogInfo };
    if (info === undefined) return result;
    const { identity } = info;
    const isOpen = name?.startsWith(RENEWED) && ![...this.#names.values()].includes(name);
    if (isOpen && !this.#names.has(identity)) this.#names.set(identity, name!);
    return {
      ...Object(result),
      info: { ...info, identity: this.#names.get(identity) ?? identity },
    };
  }

  /** Writes an operation with the names of the model. */
  #named(operation: LogCall): LogCall {
    const nameOf = (identity: string) => this.#names.get(identity) ?? identity;
    if (operation.kind === "retain") {
      const { options } = operation;
      return { ...operation, options: { ...options, identity: nameOf(options.identity) } };
    }
    if (operation.kind !== "append" || operation.options.identity === undefined) return operation;
    const { options } = operation;
    return { ...operation, options: { ...options, identity: nameOf(options.identity!) } };
  }

  /** The identity of a log that nodes know, as the engine shows it. */
  #identityOf(id: string): string {
    const known = [this.#states, ...this.#nodes.map(({ heard }) => heard)]
      .flatMap((all) => all.get(id)?.identity ?? []);
    const name = oneOf(this.#random, [...known, "another0"]);
    const shownAs = [...this.#names].find(([, known]) => known === name)?.[0];
    return shownAs ?? (name.startsWith(RENEWED) ? "another0" : name);
  }

  #draw(id: string): LogCall {
    const random = this.#random;
    const state = this.#states.get(id);
    const number = ++this.#count;
    const identity = `log${`${number}`.padStart(5, "0")}`;
    const records = Array.from(
      { length: 1 + Math.floor(2 * random()) },
      (_, i) => `${number}/${i}`,
    );
    const creation: LogCall = {
      kind: "create",
      options: {
        config: { contentType: "text/plain" },
        identity,
        records: random() < 0.5 ? records : [],
        maxLogs: PLENTY.maxStreams,
      },
    };
    if (state === undefined && random() < 0.7) return creation;
    const draw = random();
    if (draw < 0.3) return readAll({ after: Math.max(0, endOf(state) - Math.floor(3 * random())) });
    if (draw < 0.36) return creation;
    if (draw < 0.4) return { kind: "delete", ifExpired: random() < 0.4 };
    if (draw < 0.46) {
      const options = { identity: this.#identityOf(id), maxForks: 1 };
      return { kind: "retain", fork: "fork1", options };
    }
    if (draw < 0.5) return { kind: "release", fork: "fork1" };
    const isBare = random() < 0.2;
    const producer = { id: "p", epoch: 0, seq: (state?.producers.get("p")?.[1] ?? -1) + 1 };
    return {
      kind: "append",
      options: {
        records: isBare ? [] : records,
        maxBytes: PLENTY.maxStreamBytes,
        ...(random() < 0.5 && { identity: this.#identityOf(id) }),
        ...(random() < 0.3 && { producer }),
        ...(random() < 0.1 && { end: {} }),
        ...(isBare && { cancel: "enough" }),
      },
    };
  }
}

/** Position behind the newest record. */
function endOf(state: ModelState): number {
  return state === undefined ? 0 : state.start + state.records.length;
}

/** The newest state of a log, as a node remembers. */
function heardOf(state: ModelLog, before: Heard | undefined): Heard {
  const known = before?.identity === state.identity ? before : { tail: 0, isEnded: false };
  return {
    identity: state.identity,
    tail: Math.max(known.tail, endOf(state)),
    isEnded: known.isEnded || state.end !== undefined,
  };
}
