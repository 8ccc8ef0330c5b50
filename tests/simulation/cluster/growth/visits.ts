/** Users of two nodes. Some come, use all services and leave, and some stay. */
import type { Client } from "../../../../client/client.ts";
import type { TransportName } from "../../../../transport/race/options.ts";
import { simulatedClient } from "../../../simulator/programs.ts";
import { type Examiner, outcomeOf, readAll } from "./examiner.ts";
import { Backend } from "./backend.ts";
import { Entrances } from "./entrances.ts";
import { fail } from "./failures.ts";
import { BROKER, KEPT_ROOM, KEPT_TOPIC, type Node, RATE, RESIDENT, startNodes } from "./nodes.ts";
import { askNodes, askTwice, callNodes, inspect } from "./services.ts";
import { askForStreams, writeStreams } from "./streams.ts";
import { read, ROUND_MS, Waits } from "./waits.ts";

/** Time after a visit until all retention times have ended, in milliseconds. */
const KEPT_MS = 60_000;

/** Maximum duration of a visit, in milliseconds. */
export const VISIT_MS = KEPT_MS + 30_000;

/** Time until a client has returned, in milliseconds. */
const BACK_MS = 5_000;

/** Transports of the users. */
const TRANSPORTS: readonly TransportName[] = ["websocket", "webtransport", "http"];

/** Names of guests that move to another session. */
const MOVING = /-0-/;

/**
 * Time for which the store does not respond, in milliseconds. Nodes wait for replies for a shorter
 * time.
 */
const STALL_MS = 3_500;

interface User {
  readonly name: string;
  /** Name of the machine. */
  readonly machine: string;
  readonly client: Client;
}

/** Two nodes and their users. */
export class Visits {
  readonly #examiner: Examiner;
  readonly #nodes: readonly [Node, Node];
  /** A node that dies after each visit and restarts. */
  readonly #mortal: Node;
  readonly #residents: readonly User[];
  readonly #backend: Backend;
  readonly #entrances: Entrances;
  /** Room notices that the staying users receive, by user. */
  readonly #notices: ReadonlyMap<string, string[]>;
  /** The outcomes of the first visit. */
  readonly #outcomes = new Map<string, readonly string[]>();
  /**
   * True if the mortal node drains before it dies, and true if the store stalls while guests
   * leave.
   */
  readonly #isDrained: boolean;
  readonly #isStalled: boolean;
  #count = 0;

  /** Starts the nodes, and the users that stay. */
  constructor(examiner: Examiner) {
    this.#examiner = examiner;
    const [one, other, mortal] = startNodes(examiner);
    this.#nodes = [one, other];
    this.#mortal = mortal;
    const random = examiner.chance();
    this.#isDrained = random() < 0.5;
    this.#isStalled = random() < 0.5;
    this.#backend = new Backend(examiner);
    this.#entrances = new Entrances(examiner, this.#nodes, mortal);
    this.#residents = TRANSPORTS.map((transport, i) =>
      this.#enter(`${RESIDENT}-${transport}`, `${RESIDENT}-${transport}`, transport, i % 2)
    );
    this.#notices = new Map(this.#residents.map(({ name, client }) => [name, attend(client)]));
  }

  /** Makes users come, use all services and leave, and then lets time pass. */
  async next(): Promise<void> {
    const examiner = this.#examiner;
    const name = `v${this.#count++}`;
    if (!this.#mortal.host.isAlive) this.#mortal.restart();
    const nodes = [...this.#nodes, this.#mortal];
    await Promise.all(nodes.map(({ server }) => server.nodes?.ready));
    const guests = TRANSPORTS.flatMap((transport) =>
      [0, 1].map((node) => {
        const machine = `${transport}-${node}`;
        return this.#enter(`${machine}-${name}`, machine, transport, node);
      })
    );
    guests.push(this.#enter(`mortal-${name}`, "mortal", "websocket", 2));
    const users = [...this.#residents, ...guests];
    await examiner.until(() => users.every(({ client }) => client.isConnected));
    await Promise.all(users.map((user) => outcomeOf(this.#use(user, name))));
    await outcomeOf(this.#serve(guests[0]!, name));
    this.#lookAround("with guests", name);
    await outcomeOf(this.#fail(name));
    for (const [i, { machine, name }] of guests.entries()) {
      if (i % 3 === 0) examiner.cut(examiner.host(`growth-${machine}`));
      if (i % 3 === 1) void this.#nodes[0].server.disconnect(name);
    }
    if (this.#isDrained) void this.#mortal.server.drain({ withinMs: 2 * BACK_MS });
    if (this.#isStalled) await this.#stall(name);
    await examiner.pause(BACK_MS);
    // These nodes wait for the node that is dying.
    const [{ server }] = this.#nodes;
    const calls = [
      server.sessions(name),
      server.disconnect(name),
      server.disconnect(`mortal-${name}`),
    ];
    await examiner.pause(1);
    this.#mortal.host.kill();
    await Promise.all(calls.map((call) => outcomeOf(call)));
    await Promise.all(guests.map(({ client }) => client.close()));
    await examiner.pause(KEPT_MS);
    this.#lookAround("after guests", name);
    for (const [user, notices] of this.#notices) {
      const all = notices.splice(0).map(without(name)).toSorted();
      // At the first visit the staying users join themselves.
      if (this.#count > 1) this.#compare(`notices of ${user}`, all);
    }
  }

  /** Closes all clients and nodes. */
  async close(): Promise<void> {
    await Promise.all(this.#residents.map(({ client }) => client.close()));
    await Promise.all(this.#nodes.map(({ server }) => server.close()));
  }

  #enter(name: string, machine: string, transport: TransportName, node: number): User {
    const hosts = [...this.#nodes, this.#mortal].map(({ host }) => host);
    const client = simulatedClient(
      this.#examiner.network,
      this.#examiner.host(`growth-${machine}`),
      // Users of the first node move to another node when a session ends.
      node === 0 ? hosts.slice(0, 2) : hosts.slice(node),
      {
        token: () => name,
        transports: [transport],
        ...(transport !== "webtransport" && { delivery: "at-least-once" }),
      },
    );
    return { name, machine, client };
  }

  /**
   * Makes a user subscribe, publish, send requests, and read responses, some of them to the end.
   */
  async #use({ name: user, machine, client }: User, visit: string): Promise<void> {
    const isResident = user.startsWith(RESIDENT);
    if (!isResident) attend(client);
    const topics = [`free:${visit}`, KEPT_TOPIC, `room:${visit}`, `denied:${visit}`, `own:${user}`];
    const subscriptions = topics.map((topic) => client.subscribe(topic, { onRecovery() {} }));
    const got = topics.map(() => 0);
    for (const [i, items] of subscriptions.entries()) void readAll(items, () => got[i]!++);
    await Promise.all(subscriptions.map(({ ready }) => outcomeOf(ready)));
    const waits = new Waits();
    const leave = new AbortController();
    const { signal } = leave;
    waits.add(client.presence(`room:${visit}`, { user }));
    for (const topic of topics) {
      waits.add(client.publish(topic, user), client.publish(topic, user, { except: "self" }));
    }
    client.send("back");
    client.send("throw");
    waits.add(client.request("echo", 1), client.request("fails"), client.request("none"));
    waits.add(client.request("hold", 0, { signal }), client.request("hold", 0, { timeoutMs: 100 }));
    const kept = (length: number) =>
      client.requestStream("keep", length, { id: `growth-${visit}-${user}-${length}` });
    waits.add(read(client.requestStream("count", 5)), read(client.requestStream("count", 9), 3));
    waits.add(read(kept(5)), read(kept(15), 3), stream(client));
    await this.#examiner.pause(ROUND_MS);
    leave.abort();
    for (let n = 0; n < RATE; n++) client.send("back", n);
    const outcomes = await waits.over();
    outcomes.push(await outcomeOf(client.flushed({ timeoutMs: BACK_MS })));
    outcomes.push(`own ${got.at(-1)}`, `denied ${got.at(-2)}`);
    this.#compare(`calls of ${machine}`, outcomes);
    for (const [i, subscription] of subscriptions.entries()) {
      if (isResident || i === 0) await outcomeOf(subscription.unsubscribe());
    }
    if (isResident) await outcomeOf(client.presence(`room:${visit}`, undefined));
    else if (MOVING.test(user)) await outcomeOf(client.handOver());
  }

  /** Uses all services of both nodes. */
  async #serve(user: User, name: string): Promise<void> {
    const visit = { examiner: this.#examiner, nodes: this.#nodes, backend: this.#backend, name };
    this.#compare("calls of the nodes", await askNodes(visit, user));
    const statuses = await askForStreams(this.#backend, this.#nodes, name);
    this.#compare("requests for streams", statuses);
  }

  /** Makes calls of the staying users fail, and connects peers that are not admitted. */
  async #fail(name: string): Promise<void> {
    const visit = { examiner: this.#examiner, nodes: this.#nodes, backend: this.#backend, name };
    await Promise.all([
      ...this.#residents.map(({ client }) => fail(this.#examiner, client, name)),
      writeStreams(this.#nodes, name),
      askTwice(visit),
      inspect(visit),
      callNodes(visit, this.#mortal),
      this.#entrances.run(name),
    ].map(outcomeOf));
  }

  /** Makes calls of all kinds wait for the store. */
  async #stall(name: string): Promise<void> {
    const examiner = this.#examiner;
    const visit = { examiner, nodes: this.#nodes, backend: this.#backend, name: `${name}-stalled` };
    const store = examiner.host(BROKER);
    store.freeze();
    const calls = [
      fail(examiner, this.#residents[0]!.client, visit.name),
      writeStreams(this.#nodes, visit.name),
      askTwice(visit),
      callNodes(visit, this.#mortal),
    ].map(outcomeOf);
    await examiner.pause(STALL_MS);
    store.thaw();
    await examiner.inTime(Promise.all(calls), BACK_MS, []);
  }

  /** Compares the members of the room at each node. */
  #lookAround(when: string, visit: string): void {
    for (const { server, host } of this.#nodes) {
      const members = server.rooms.members(KEPT_ROOM).map(({ user, connections, data }) =>
        without(visit)(`${user} ${connections} ${JSON.stringify(data)}`)
      );
      this.#compare(`members ${when} on ${host.name}`, members.toSorted());
    }
  }

  /** Compares the outcomes with the first visit's outcomes. */
  #compare(what: string, outcomes: readonly string[]): void {
    const first = this.#outcomes.get(what) ?? outcomes;
    this.#outcomes.set(what, first);
    this.#examiner.examine("lives", `${what} at a later visit`, first, outcomes);
  }
}

/** Enters the room with data, and collects the notices about other members. */
function attend(client: Client): string[] {
  const got: string[] = [];
  void readAll(client, ({ topic, data }) => {
    if (topic !== `presence:${KEPT_ROOM}`) return;
    const { type, user } = data as { readonly type: string; readonly user?: string };
    // The data arrives with the join or, a little later, in an update.
    if (user !== undefined && type !== "update") got.push(`${type} ${user}`);
  });
  void readAll(client.subscribe(KEPT_ROOM), () => {});
  void outcomeOf(client.presence(KEPT_ROOM, { is: "there" }));
  return got;
}

/** Removes the name of a visit from a text. */
function without(visit: string): (text: string) => string {
  return (text) => text.replaceAll(`-${visit}`, "");
}

/** If the transport supports streams, sends bytes on a stream and reads the echo. */
async function stream({ session }: Client): Promise<void> {
  if (!session?.connection.capabilities.streams) return;
  const { readable, writable } = await session.createBidirectionalStream();
  const writer = writable.getWriter();
  await writer.write(new Uint8Array(100));
  await writer.close();
  await read(readable);
}
