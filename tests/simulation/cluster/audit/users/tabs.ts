/** Sessions of users on two nodes: each gets each message once, and takes one place. */
import { CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { type UserNode, type UserNodeOptions, UserNodes } from "./user_nodes.ts";

/** The users. */
const USERS = ["ann", "ben"] as const;

/** A user. */
type User = typeof USERS[number];

/** Topic of the messages to users. */
const NOTE = "note";

/** Share of the messages to users that are bytes. */
const BYTES = 0.3;

/** Most steps, and the time within which the last one begins, in milliseconds. */
const [STEPS, LAST_MS] = [7, 9_000];

/** Time for messages under way between clients, nodes and the engine, in milliseconds. */
const ROUND_MS = 250;

/** Time until a session from which a client moved is over, in milliseconds. */
const MOVED_MS = 1_200;

/** Longest time of an authentication, while a session ends from which the client moves, in milliseconds. */
const AUTHENTICATE_MS = 250;

/** Longest pause between two messages of a node during a step, in milliseconds. */
const GAP_MS = 24;

/** Longest time of an engine away, in milliseconds. */
const AWAY_MS = 800;

/** Time of a claim at a slow engine, in milliseconds: longer than a node waits. */
const SLOW_MS = 2_600;

/** Text that fills a queue, and the most of these. */
const [FILL, MOST_FILLS] = ["x".repeat(8_192), 60];

/** Most bytes that wait for a session. */
const QUEUE_BYTES = 65_536;

/** Share of audits with an engine that is away before all sessions. */
const EARLY = 0.4;

/** Share of audits in which sessions also stay for longer than a claim without renewals, beside others. */
const LONG = 0.7;

/** Speed of the clocks of nodes and engine during a long stay. */
const SPEED = 20;

/** Time of the longest claim without renewals, and between two renewals, at that speed, in milliseconds. */
const [CLAIM_MS, RENEW_MS] = [6_000, 2_000] as const;

/** Most changes during a long stay. */
const CHANGES = 5;

/** Time of a claim during a slow renewal, in milliseconds of the engine: less than a node waits. */
const LATE_MS = 1_600;

/** A session of a user, as the user sees it: a tab of a browser. */
interface Tab {
  readonly user: User;
  readonly host: Host;
  readonly client: Client;
  readonly node: UserNode;
  /** Messages since the last look. */
  readonly got: string[];
}

/** The text of a message, which may have come as bytes. */
function textOf(data: unknown): string {
  return data instanceof Uint8Array ? new TextDecoder().decode(data) : `${data}`;
}

/** A message to a user. */
interface Sent {
  readonly user: User;
  readonly text: string;
}

/** The users, the nodes, and the tabs that are open. */
class Tabs {
  readonly audit: Audit;
  readonly random: () => number;
  readonly nodes: UserNodes;
  readonly max: number;
  readonly #name: string;
  /** The tabs that are open. */
  all: Tab[] = [];
  /** Time of an authentication, in milliseconds. */
  authenticateMs = 0;
  #clients = 0;
  #notes = 0;

  constructor(audit: Audit, name: string, random: () => number, speed = 1) {
    this.audit = audit;
    this.random = random;
    this.max = 2 + Math.floor(2 * this.random());
    this.#name = name;
    const options: UserNodeOptions = {
      limits: { maxSessionsPerUser: this.max },
      authenticate: async ({ token = "nobody" }) => {
        if (this.authenticateMs > 0) await audit.pause(this.authenticateMs);
        return token;
      },
      session: { sendQueue: { maxBytes: QUEUE_BYTES, policy: "close" } },
    };
    this.nodes = new UserNodes(audit, name, options, { speed });
  }

  /** The tabs of a user, or those on a node. */
  of(user: User, on?: UserNode): Tab[] {
    return this.all.filter((tab) => tab.user === user && (on === undefined || tab.node === on));
  }

  /** Picks a node: mostly the first one, as tabs of one user on one node have most in common. */
  node(): UserNode {
    return this.random() < 0.5 ? this.nodes.all[0]! : oneOf(this.random, this.nodes.all);
  }

  /** Opens a tab, which does not count yet. */
  open(user: User, node: UserNode): Tab {
    const name = `${this.#name}-${this.#clients++}`;
    const got: string[] = [];
    const client = this.audit.connect(name, node.host, {
      token: user,
      onMessage: ({ topic, data }) => void (topic === NOTE && got.push(textOf(data))),
      onRefused() {},
    });
    return { user, host: this.audit.host(name), client, node, got };
  }

  /** Sends a message of a node to a user. */
  send(user: User, node: UserNode): { readonly sent: Sent; readonly count: number } {
    const text = `${node.host.name} ${this.#notes++}`;
    const data = this.random() < BYTES ? new TextEncoder().encode(text) : text;
    return { sent: { user, text }, count: node.server.to(user).send(NOTE, data) };
  }

  /** Tries to take one more place of a user: there is one below the limit. */
  async tryPlace(user: User, what: string): Promise<void> {
    const node = oneOf(this.random, this.nodes.all);
    const taken = this.of(user).length;
    const expected = taken < this.max ? "connected" : "refused";
    const received = await this.audit.tryToEnter(this.open(user, node).client);
    const place = `session beside ${taken} of ${this.max} behind ${what}`;
    this.examine(`${place} at ${node.host.name}`, expected, received);
    await this.audit.pause(ROUND_MS);
  }

  /** Sends from both nodes all the time, until a step is over; calm tabs get each message once. */
  async during(what: string, step: () => Promise<void>, busy: readonly Tab[]): Promise<void> {
    const { audit, random } = this;
    const before = [...this.all];
    const sent: Sent[] = [];
    let isOver = false;
    const chatting = this.nodes.all.map(async (node) => {
      while (!isOver) {
        for (const user of USERS) sent.push(this.send(user, node).sent);
        await audit.pause(between(random, 2, GAP_MS));
      }
    });
    await step();
    isOver = true;
    await Promise.all(chatting);
    await audit.pause(ROUND_MS);
    for (const tab of new Set([...before, ...this.all])) {
      const got = tab.got.splice(0);
      const isCalm = before.includes(tab) && !busy.includes(tab);
      const texts = sent.flatMap(({ user, text }) => user === tab.user ? text : []);
      // Messages on their way to a session that begins or ends may be lost.
      const expected = isCalm ? texts : texts.filter((text) => got.includes(text));
      this.examine(`messages to ${tab.user} during ${what}`, expected.toSorted(), got.toSorted());
    }
  }

  /** Sends from each node, and examines the lists and the counts of all nodes. */
  async look(what: string): Promise<void> {
    const { audit, random } = this;
    const nodes = this.nodes.all;
    const sent = USERS.flatMap((user) =>
      nodes.map((node) => {
        const { sent, count } = this.send(user, node);
        const known = this.of(user, node).length;
        this.examine(`sessions of ${user} at ${node.host.name} behind ${what}`, known, count);
        return sent;
      })
    );
    await audit.pause(ROUND_MS);
    for (const { user, got } of this.all) {
      const expected = sent.flatMap((one) => one.user === user ? one.text : []);
      this.examine(
        `messages to ${user} behind ${what}`,
        expected.toSorted(),
        got.splice(0).toSorted(),
      );
    }
    for (const user of USERS) {
      const places = await this.nodes.engine.placesOf(user);
      this.examine(`places of ${user} behind ${what}`, this.of(user).length, places);
    }
    const [user, asked] = [oneOf(random, USERS), oneOf(random, nodes)];
    const infos = await asked.server.sessions(user);
    const places = (ids: readonly string[]) =>
      nodes.map(({ server }) => ids.filter((id) => id === server.nodes!.id).length);
    this.examine(
      `sessions of ${user} listed behind ${what}`,
      places(this.of(user).map(({ node }) => node.server.nodes!.id)),
      places(infos.map(({ node }) => node)),
    );
    for (const node of nodes) {
      const own = this.all.filter((tab) => tab.node === node);
      const users = new Set(own.map(({ user }) => user)).size;
      const { count, reserved, users: counted, addresses } = node.server.manager.stats();
      this.examine(
        `counts of ${node.host.name} behind ${what}`,
        { count: own.length, reserved: 0, users, addresses: own.length },
        { count, reserved, users: counted, addresses },
      );
    }
  }

  /** Examines a result. */
  examine(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("places", what, expected, received);
  }

  /** Closes all clients and nodes. */
  async close(): Promise<void> {
    await Promise.all(this.all.map(({ client }) => client.close()));
    await this.nodes.close();
  }
}

/** A step of a user. */
type Step = (tabs: Tabs, user: User) => Promise<void>;

/** Another tab. */
const enter: Step = async (tabs, user) => {
  if (tabs.of(user).length === tabs.max) return;
  await tabs.during("a beginning", async () => {
    const tab = tabs.open(user, tabs.node());
    await tabs.audit.until(() => tab.client.isConnected);
    tabs.all.push(tab);
  }, []);
  await tabs.look("a beginning");
};

/** The end of a tab. */
const leave: Step = async (tabs, user) => {
  const tab = oneOf(tabs.random, tabs.of(user));
  if (tab === undefined) return;
  await tabs.during("an end", async () => {
    tabs.all = tabs.all.filter((other) => other !== tab);
    await tab.client.close();
  }, [tab]);
  await tabs.look("an end");
};

/** A client that moves to another session on the node. */
const move: Step = async (tabs, user) => {
  const tab = oneOf(tabs.random, tabs.of(user));
  if (tab === undefined) return;
  await tabs.during("a handover", async () => {
    const isMoved = await tab.client.handOver();
    tabs.examine(`move of a client, ${tabs.of(user).length} of ${tabs.max}`, true, isMoved);
  }, []);
  await tabs.audit.pause(MOVED_MS);
  await tabs.look("a handover");
};

/** A client that moves while the earlier session ends, which frees the place of that session. */
const stumble: Step = async (tabs, user) => {
  const { random, audit } = tabs;
  const tab = oneOf(random, tabs.of(user));
  if (tab === undefined) return;
  const { client, host } = tab;
  const before = audit.network.links.filter((link) => link.client === host);
  tabs.authenticateMs = between(random, 0, AUTHENTICATE_MS);
  await tabs.during("a handover from a session that ends", async () => {
    const moving = client.handOver();
    await audit.pause(between(random, 0, AUTHENTICATE_MS));
    // The client may not hear of the end.
    const silent = random() < 0.7 ? "client" : false;
    for (const link of before) link.disconnect({ silent });
    await moving;
    await audit.until(() => client.isConnected);
  }, [tab]);
  tabs.authenticateMs = 0;
  await audit.pause(MOVED_MS);
  await tabs.look("a handover from a session that ends");
};

/** A connection that breaks: the client comes back. */
const cut: Step = async (tabs, user) => {
  const tab = oneOf(tabs.random, tabs.of(user));
  if (tab === undefined) return;
  await tabs.during("a loss", async () => {
    const { client } = tab;
    tabs.audit.cut(tab.host);
    await tabs.audit.until(() => !client.isConnected);
    await tabs.audit.until(() => client.isConnected);
  }, [tab]);
  await tabs.look("a loss");
};

/** A node that ends one of its sessions, or all sessions of the user on all nodes. */
const expel: Step = async (tabs, user) => {
  const { random, nodes, audit } = tabs;
  const [mine, node] = [tabs.of(user), oneOf(random, nodes.all)];
  const end = { code: CloseCode.forbidden, reason: "expelled" };
  const session = oneOf(random, node.server.manager.sessionsOf(user));
  const isOne = session !== undefined && random() < 0.5;
  await tabs.during("an expulsion", async () => {
    const closed = isOne ? 1 : mine.length;
    if (isOne) await session.close(end);
    else {
      const ended = await node.server.disconnect(user, end);
      tabs.examine("sessions that a node ended", { closed, isComplete: true }, ended);
    }
    await audit.pause(ROUND_MS);
    const left = tabs.all.filter(({ client }) => client.isConnected);
    tabs.examine("sessions behind an expulsion", tabs.all.length - closed, left.length);
    tabs.all = left;
  }, mine);
  await tabs.look("an expulsion");
};

/** A tab that falls behind until its queue is full: the others get each message. */
const clog: Step = async (tabs, user) => {
  const { audit, random } = tabs;
  const isBeside = ({ node }: Tab) => tabs.of(user, node).length > 1;
  // The oldest of several on one node, if there are such.
  const tab = tabs.of(user).find(isBeside) ?? oneOf(random, tabs.of(user));
  if (tab === undefined) return;
  audit.block(tab.host, tab.node.host);
  const others = tabs.all.filter((other) => other !== tab);
  const before = tab.node.server.manager.count;
  const texts: string[] = [];
  for (let i = 0; i < MOST_FILLS && tab.node.server.manager.count === before; i++) {
    const text = `${i} ${FILL}`;
    texts.push(text);
    oneOf(random, tabs.nodes.all).server.to(user).send(NOTE, text);
    await audit.pause(10);
  }
  await audit.pause(ROUND_MS);
  const hasEnded = tab.node.server.manager.count < before;
  tabs.examine("end of a session that falls behind", true, hasEnded);
  for (const other of others) {
    const expected = other.user === user ? texts.length : 0;
    tabs.examine("messages beside a session that falls behind", expected, new Set(other.got).size);
    tabs.examine("repetitions of these", expected, other.got.splice(0).length);
  }
  audit.block(tab.host, tab.node.host, false);
  tabs.all = others;
  await tab.client.close();
  await audit.pause(ROUND_MS);
  await tabs.look("the end of a session that fell behind");
};

/** An engine that is away for a while or slow, and may come back without the claims. */
const restart: Step = async (tabs, user) => {
  const { random, nodes: { engine }, audit } = tabs;
  const isSlow = random() < 0.3;
  if (isSlow) engine.claimMs = SLOW_MS;
  else engine.goAway();
  if (random() < 0.6 && tabs.of(user).length < tabs.max) {
    const tab = tabs.open(user, oneOf(random, tabs.nodes.all));
    const isIn = await audit.until(() => tab.client.isConnected, SLOW_MS);
    tabs.examine("session without an answer of the engine", true, isIn);
    tabs.all.push(tab);
    if (isSlow) await audit.pause(SLOW_MS);
  }
  await audit.pause(between(random, 0, AWAY_MS));
  engine.claimMs = 0;
  const forgets = random() < 0.7;
  if (forgets) engine.forget();
  engine.comeBack();
  await audit.pause(ROUND_MS);
  for (const { got } of tabs.all) got.length = 0;
  await tabs.look("a restart of the engine");
  await tabs.tryPlace(user, forgets ? "the loss of all claims" : "a restart of the engine");
};

/** The steps between which a plan draws. */
const SOME: readonly Step[] = [enter, enter, leave, move, stumble, stumble, cut, expel, clog, clog];

/**
 * Opens, moves and ends sessions of users on two nodes, with messages from both, and beside these
 * sessions that stay for long.
 *
 * @param audit The audit.
 */
export async function auditTabs(audit: Audit): Promise<void> {
  const random = audit.chanceOf("long");
  const parts = [pass(new Tabs(audit, "tabs", audit.random))];
  if (random() < LONG) parts.push(stay(new Tabs(audit, "long", random, SPEED)));
  await Promise.all(parts);
}

/** Passes through some steps, and a restart of the engine. */
async function pass(tabs: Tabs): Promise<void> {
  const { audit, random, nodes } = tabs;
  await nodes.ready();
  if (random() < EARLY) {
    // The nodes hear of an engine that is back while there are no claims.
    nodes.engine.goAway();
    await audit.pause(between(random, 0, AWAY_MS));
    nodes.engine.comeBack();
  }
  const endMs = audit.nowMs + LAST_MS;
  for (let i = 0; i < tabs.max; i++) await enter(tabs, USERS[0]);
  for (let i = 0; i < STEPS && audit.nowMs < endMs; i++) {
    const user = random() < 0.8 ? USERS[0] : USERS[1];
    await oneOf(random, SOME)(tabs, user);
    if (random() < 0.3) await tabs.tryPlace(user, "a step");
  }
  await (random() < 0.5 ? enter : leave)(tabs, USERS[0]);
  await restart(tabs, USERS[0]);
  await tabs.close();
}

/** All tabs on one node end, or all but one. */
function leaveNode(left: 0 | 1): Step {
  return async (tabs) => {
    const count = (node: UserNode) => tabs.all.filter((tab) => tab.node === node).length;
    const [first, second] = tabs.nodes.all;
    const fullest = count(second!) > count(first!) ? second! : first!;
    const node = left === 0 ? tabs.node() : fullest;
    const gone = tabs.all.filter((tab) => tab.node === node).slice(left);
    tabs.all = tabs.all.filter((tab) => !gone.includes(tab));
    for (const { client } of gone) await client.close();
    await tabs.audit.pause(ROUND_MS);
    await tabs.look(`the end of all sessions of a node but ${left}`);
  };
}

/** A node ends a session while the place of that session is renewed. */
const leaveLate: Step = async (tabs, user) => {
  const { random, audit, nodes: { engine } } = tabs;
  const tab = oneOf(random, tabs.of(user));
  if (tab === undefined) return;
  engine.claimMs = LATE_MS;
  await audit.until(() => engine.claiming > 0, 2 * RENEW_MS);
  tabs.all = tabs.all.filter((other) => other !== tab);
  const { session } = tab.client;
  const own = tab.node.server.manager.all().find(({ id }) => id === session?.id);
  await own?.close();
  await audit.pause(ROUND_MS);
  engine.claimMs = 0;
  await tabs.look("an end during a renewal");
};

/** A tab that begins while the engine is away, which makes the claim of that tab later. */
const enterLate: Step = async (tabs, user) => {
  const { audit, random, nodes: { engine } } = tabs;
  if (tabs.of(user).length === tabs.max) return;
  engine.goAway();
  const tab = tabs.open(user, tabs.node());
  const isIn = await audit.until(() => tab.client.isConnected, SLOW_MS);
  tabs.examine("session without an answer of the engine", true, isIn);
  tabs.all.push(tab);
  await audit.pause(between(random, 0, ROUND_MS));
  engine.comeBack();
  for (const { got } of tabs.all) got.length = 0;
};

/** The changes of a long stay between which a plan draws. */
const LONG_STEPS: readonly Step[] = [
  enter,
  leave,
  leaveLate,
  leaveLate,
  enterLate,
  move,
  leaveNode(0),
  leaveNode(0),
];

/** Lets tabs begin, end and move, then stay for longer than a claim without renewals. */
async function stay(tabs: Tabs): Promise<void> {
  const { audit, random, max } = tabs;
  await tabs.nodes.ready();
  for (let i = 0; i < max; i++) await enter(tabs, USERS[0]);
  for (let left = Math.ceil(CHANGES * random()); left > 0; left--) {
    await audit.pause(RENEW_MS * random());
    await oneOf(random, LONG_STEPS)(tabs, random() < 0.7 ? USERS[0] : USERS[1]);
  }
  // Without a change from here on, no begin of a session starts the renewals again.
  if (random() < 0.6) { while (tabs.of(USERS[0]).length < max) await enter(tabs, USERS[0]); }
  if (random() < 0.5) await leaveNode(1)(tabs, USERS[0]);
  await audit.pause(CLAIM_MS + RENEW_MS * random());
  await tabs.look("a long time");
  for (const user of USERS) await tabs.tryPlace(user, "a long time");
  await tabs.close();
}
