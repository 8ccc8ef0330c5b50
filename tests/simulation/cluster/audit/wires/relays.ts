/** Sessions over HTTP behind a balancer: requests reach any node, whose way to the session's node fails. */
import { CloseCode } from "../../../../../errors.ts";
import { FIRST_PIECE_MS } from "../../../../../transport/http/client.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Session } from "../../../../../session/session.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { BEAT_MS } from "../places/service.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import { auditForeignPages } from "./foreign_pages.ts";
import { auditByHand } from "./hand_frames.ts";

/** The users, each with one client. */
const USERS = ["relay-a", "relay-b", "relay-c"] as const;

/** Steps, and the time within which the last one begins, in milliseconds. */
const [STEPS, LAST_MS] = [4, 12_000];

/** Most messages of one talk in each direction. */
const MESSAGES = 6;

/** Lengths of texts, and one of which a request needs several messages between two nodes. */
const [LENGTHS, LARGE] = [[10, 10, 3_000, 3_000, 60_000], 200_000] as const;

/** Share of talks with a large text. */
const HAS_LARGE = 0.3;

/** Texts with ends of lines, which events over HTTP write in another form. */
const TEXTS = ["x", "a line\n", "a line\r\n", " é"] as const;

/** Rounds of requests while nothing fails, and the most requests of each client in one round. */
const [CALM_ROUNDS, CALM_REQUESTS] = [10, 3];

/** Longest time of an answer while nothing fails, in milliseconds. */
const CALM_MS = 1_200;

/** Longest time until a talk is over, in milliseconds: 503 names a second until the next request. */
const TALK_MS = 6_000;

/** Longest time of an engine or a node away, in milliseconds: less than one heartbeat. */
const AWAY_MS = 300;

/** Time of lost answers, in milliseconds. */
const SILENCE_MS = 400;

/** Silence after which a node is gone: two heartbeats without a sign are enough for a request. */
const GONE_MS = 20 * BEAT_MS;

/** Time after a kill in which requests fail and clients come back, in milliseconds. */
const NOTICED_MS = 2 * BEAT_MS + FIRST_PIECE_MS + 1_400;

/** Time in which the requests of a new session are under way, in milliseconds. */
const SETTLED_MS = 300;

/** Heartbeat of sessions, which ends none here: a client that asks no more is found without. */
const HEARTBEAT = { intervalMs: 600_000, timeoutMs: 900_000 } as const;

/** Numbers of nodes: of three, two may ask the third one at once. */
const NODES = [2, 3, 3] as const;

/** Speed of the clocks of nodes, so that their longest waits end within an audit. */
const SPEED = 10;

/** Time of 30 s behind the next sign of life, which comes every 15 s, in milliseconds. */
const LOST_MS = 45_000 / SPEED + 300;

/** Codes of a close after which a client comes back. */
const CODES = [CloseCode.draining, 3_001, 4_900] as const;

/** A message of either end. */
interface Note {
  readonly n: number;
  readonly text: string;
}

/** A client, and what came at both ends in the present talk. */
interface Relayed {
  readonly user: string;
  readonly host: Host;
  readonly client: Client;
  /** Messages to the client, with the number of each and a flag for a text that is not the one sent. */
  down: string[];
  /** Codes and reasons of the ends of sessions. */
  readonly ends: string[];
}

/** The nodes, the balancer, and the clients. */
class Relays {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  readonly front: Host;
  all: Relayed[];
  /** Messages to the nodes, by user. */
  readonly #up = new Map<string, string[]>();
  #texts = 0;

  constructor(audit: Audit) {
    this.audit = audit;
    this.random = audit.random;
    this.front = audit.host("relays-front");
    this.nodes = new UserNodes(audit, "relays", {
      node: { heartbeatMs: BEAT_MS * SPEED, goneAfterMs: GONE_MS * SPEED },
      session: { heartbeat: HEARTBEAT },
      requests: { echo: ({ data }) => data },
      onMessage: ({ data }, { user }) => {
        const heard = this.#up.get(user) ?? [];
        this.#up.set(user, heard);
        heard.push(shown(data));
      },
    }, { speed: SPEED, count: oneOf(this.random, NODES) });
    audit.network.front(this.front, this.nodes.all.map(({ host }) => host));
    this.all = USERS.map((user) => this.#connect(user));
  }

  /** The node and the session of a client. */
  homeOf(
    { client, user }: Relayed,
  ): { readonly node: UserNode; readonly session: Session } | undefined {
    for (const node of this.nodes.all) {
      if (!node.host.isAlive) continue;
      const session = node.server.manager.sessionsOf(user)
        .find(({ id }) => id === client.session?.id);
      if (session !== undefined) return { node, session };
    }
    return undefined;
  }

  /** Waits until each client has a session at a node. */
  async arrive(what: string, withinMs: number): Promise<void> {
    const areIn = () =>
      this.all.every((one) => one.client.isConnected && this.homeOf(one) !== undefined);
    await this.audit.until(areIn, withinMs);
    this.examine(`clients with a session ${what}`, true, areIn());
  }

  /** Lets both ends talk during a trouble that no session notices: all arrives once, in order. */
  async talk(what: string, trouble: () => Promise<void> | void): Promise<void> {
    const { audit, random } = this;
    const before = this.all.map(({ client }) => client.session?.id);
    this.#up.clear();
    for (const one of this.all) one.down.length = 0;
    const talking = this.all.map(async (one) => {
      const count = 1 + Math.floor(MESSAGES * random());
      const { session } = this.homeOf(one) ?? {};
      const asked: Promise<boolean>[] = [];
      const [up, down] = [random() < HAS_LARGE, random() < HAS_LARGE];
      for (let i = 1; i <= count; i++) {
        one.client.send("up", this.#note(i, up && i === 1));
        session?.send("down", this.#note(i, down && i === 1));
        if (random() < 0.5) asked.push(this.#echo(one));
        if (random() < 0.5) await audit.pause(between(random, 0, 40));
      }
      return { one, count, asked };
    });
    await audit.pause(between(random, 0, 60));
    await trouble();
    for (const { one, count, asked } of await Promise.all(talking)) {
      const up = () => this.#up.get(one.user) ?? [];
      await audit.until(() => up().length >= count && one.down.length >= count, TALK_MS);
      const expected = range(1, count).map((n) => `${n}`);
      this.examine(`messages to the node, ${what}`, expected, up());
      this.examine(`messages to the client, ${what}`, expected, one.down);
      this.examine(`answers, ${what}`, asked.map(() => true), await Promise.all(asked));
    }
    const after = this.all.map(({ client }) => client.session?.id);
    this.examine(`sessions, ${what}`, before, after);
  }

  /**
   * Lets clients ask once event streams were cut, as proxies cut these from time to time: each answer
   * comes soon, and streams that wait at one node do not touch requests at others.
   */
  async ask(): Promise<void> {
    const { audit, random } = this;
    const took: number[] = [];
    const askSome = async (one: Relayed) => {
      for (let left = Math.ceil(CALM_REQUESTS * random()); left > 0; left--) {
        await audit.pause(between(random, 0, 40));
        const beganMs = audit.nowMs;
        const isRight = await this.#echo(one);
        took.push(isRight ? Math.round(audit.nowMs - beganMs) : Infinity);
      }
    };
    for (let round = 0; round < CALM_ROUNDS; round++) {
      for (const { host } of this.all) if (random() < 0.6) audit.cut(host);
      await this.#hearAll();
      // The streams of some clients wait meanwhile.
      const some = this.all.filter(() => random() < 0.7);
      await Promise.all(some.map(askSome));
    }
    this.examine("late answers while no request fails", [], took.filter((ms) => ms > CALM_MS));
  }

  /** Ends the program of a client, without a word to the session. */
  vanish(one: Relayed): void {
    this.all = this.all.filter((other) => other !== one);
    one.host.kill();
  }

  /** Counts the sessions of all nodes. */
  get sessions(): number {
    return this.nodes.all.reduce((sum, { server }) => sum + server.manager.count, 0);
  }

  /** Counts the connections of all nodes. */
  get connections(): number {
    return this.nodes.all.reduce((sum, { server }) => sum + server.manager.stats().sockets.open, 0);
  }

  /** Examines a result. */
  examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("carriers", `${what}, behind a balancer`, expected, received);
  }

  /** Closes the clients and the nodes. */
  async close(): Promise<void> {
    await Promise.all(this.all.map(({ client }) => client.close()));
    await this.nodes.close();
  }

  /**
   * Waits until each client hears its node: an event ends the growing delays of a stream that was cut
   * several times.
   */
  async #hearAll(): Promise<void> {
    for (const one of this.all) {
      one.down.length = 0;
      this.homeOf(one)?.session.send("down", this.#note(1));
    }
    const deaf = () => this.all.filter(({ down }) => down.length === 0).map(({ user }) => user);
    await this.audit.until(() => deaf().length === 0, TALK_MS);
    this.examine("clients that do not hear their node after a cut", [], deaf());
  }

  #connect(user: string): Relayed {
    const one: Relayed = {
      user,
      host: this.audit.host(user),
      down: [],
      ends: [],
      client: this.audit.connect(user, this.front, {
        token: user,
        transports: ["http"],
        backoff: { firstDelayMs: 50, maxDelayMs: 200 },
        onMessage: ({ data }) => void one.down.push(shown(data)),
        onError() {},
      }),
    };
    one.client.status.observe((status) => {
      if (status.name !== "reconnecting") return;
      one.ends.push(`${status.cause.code} ${status.cause.reason}`);
    });
    return one;
  }

  #note(n: number, isLarge = false): Note {
    const length = isLarge ? LARGE : oneOf(this.random, LENGTHS);
    return { n, text: textOf(this.#texts++, length) };
  }

  async #echo({ client }: Relayed): Promise<boolean> {
    const note = this.#note(0);
    const answer = await client.request("echo", note, { timeoutMs: TALK_MS }).catch(() => {});
    return JSON.stringify(answer) === JSON.stringify(note);
  }
}

/** A text that begins with its number and length, so that a reader can check the text. */
function textOf(number: number, length: number): string {
  return `${number} ${length} `.padEnd(length, TEXTS[length < LARGE ? number % TEXTS.length : 0]);
}

/** The number of a message, with a mark if the text is not the one that was sent. */
function shown(data: unknown): string {
  const { n, text } = data as Note;
  const [number, length] = text.split(" ");
  return text === textOf(Number(number), Number(length)) ? `${n}` : `${n} changed`;
}

/** A step with an examination. */
type Step = (relays: Relays) => Promise<void>;

/** Connections that break, with answers on the way. */
const cut: Step = (relays) => {
  const { audit, random, front } = relays;
  const { host } = oneOf(random, relays.all);
  const isBlocked = random() < 0.5;
  return relays.talk(isBlocked ? "answers lost" : "connections cut", async () => {
    if (isBlocked) {
      audit.network.change(front, host, { isBlocked: true });
      await audit.pause(between(random, 10, SILENCE_MS));
    }
    audit.cut(host, random() < 0.5 ? "server" : false);
    if (isBlocked) audit.network.change(front, host, { isBlocked: false });
  });
};

/** The engine of the nodes is away for a moment. */
const pauseEngine: Step = (relays) => {
  const { audit, random, nodes: { engine } } = relays;
  return relays.talk("engine away", async () => {
    engine.goAway();
    await audit.pause(between(random, 10, AWAY_MS));
    engine.comeBack();
  });
};

/** A node is frozen for a moment. */
const pauseNode: Step = (relays) => {
  const { audit, random, nodes } = relays;
  const { host } = oneOf(random, nodes.all);
  return relays.talk("node frozen", async () => {
    host.freeze();
    await audit.pause(between(random, 10, AWAY_MS));
    host.thaw();
  });
};

/** The node of a session dies, or closes: the session goes on at another node. */
const leaveNode: Step = async (relays) => {
  const { audit, random } = relays;
  const one = oneOf(random, relays.all);
  const home = relays.homeOf(one);
  if (home === undefined) return relays.examine("node of a session", "one", "none");
  const { node } = home;
  const dies = random() < 0.6;
  await audit.pause(SETTLED_MS);
  if (!dies) await node.server.close();
  node.host.kill();
  const what = dies ? "after the death of a node" : "after the close of a node";
  await relays.arrive(what, NOTICED_MS);
  relays.examine(`node of the session ${what}`, false, relays.homeOf(one)?.node === node);
  await relays.talk(what, () => {});
  node.restart();
  await node.server.nodes!.ready;
  await audit.pause(2 * BEAT_MS);
};

/** The node closes a session while the client sends: the client learns code and reason. */
const closeSession: Step = async (relays) => {
  const { audit, random } = relays;
  await audit.pause(SETTLED_MS);
  const one = oneOf(random, relays.all);
  const home = relays.homeOf(one);
  if (home === undefined) return relays.examine("session to close", "one", "none");
  const [code, reason] = [oneOf(random, CODES), `enough ${random()}`];
  one.ends.length = 0;
  one.client.send("up", { n: 0, text: textOf(0, 10) });
  await audit.pause(between(random, 0, 20));
  void home.session.close({ code, reason });
  await audit.pause(between(random, 0, 20));
  if (one.client.isConnected) one.client.send("up", { n: 0, text: textOf(0, 10) });
  const { id } = home.session;
  await audit.until(() => one.client.isConnected && one.client.session?.id !== id, TALK_MS);
  relays.examine("end of a session by the node", [`${code} ${reason}`], one.ends);
  await relays.arrive("after a close", TALK_MS);
};

/** The steps between which a plan draws. */
const SOME: readonly Step[] = [
  cut,
  cut,
  pauseEngine,
  pauseNode,
  leaveNode,
  leaveNode,
  closeSession,
];

/**
 * Lets requests of sessions over HTTP reach any node, while nodes, engine and network fail.
 *
 * @param audit The audit.
 */
export async function auditRelays(audit: Audit): Promise<void> {
  await Promise.all([auditTroubles(audit), auditByHand(audit), auditForeignPages(audit)]);
}

/** Sessions of clients whose requests meet troubles. */
async function auditTroubles(audit: Audit): Promise<void> {
  const { random } = audit;
  const relays = new Relays(audit);
  await relays.nodes.ready();
  await relays.arrive("at first", TALK_MS);
  await relays.ask();
  const endMs = audit.nowMs + LAST_MS;
  for (let i = 0; i < STEPS && audit.nowMs < endMs; i++) await oneOf(random, SOME)(relays);
  await audit.pause(SETTLED_MS);
  relays.vanish(oneOf(random, relays.all));
  await audit.pause(LOST_MS);
  const { length } = relays.all;
  relays.examine("sessions after 30 s without a request", length, relays.sessions);
  relays.examine("connections after 30 s without a request", length, relays.connections);
  await relays.close();
}
