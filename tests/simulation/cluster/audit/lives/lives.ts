/** Lives of clients on two nodes: sessions end and move under calls, and nothing is lost or left. */
import { CloseCode } from "../../../../../errors.ts";
import type { Client } from "../../../../../client/client.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { auditLostAnswers } from "./lost_answers.ts";
import { connectTo, KEPT, Mover, NOTE, ROOMS, TALK, TOPICS } from "./mover.ts";
import { GUESTS, LivesNodes } from "./nodes.ts";
import { auditNumbers } from "./numbers.ts";
import { type Trouble, TROUBLES } from "./troubles.ts";
import { auditTurns } from "./turns.ts";

/** Number of clients. */
const MOVERS = 3;

/** Most rounds, and the time within which the last one begins, in milliseconds. */
const [ROUNDS, LAST_MS] = [5, 8_000];

/** Calls of each client in one round, and the longest time between two, in milliseconds. */
const [CALLS, BETWEEN_MS] = [5, 80];

/** Longest time until all is at rest after a round, in milliseconds. */
const REST_MS = 6_000;

/** Longest time until messages are handled, where each end of a session is known, in milliseconds. */
const HANDLED_MS = 900;

/** Share of rounds in which a node dies, and in which a node drains. */
const [DIES, DRAINS] = [0.12, 0.15];

/** Longest time of a node until the next start, in milliseconds. */
const AWAY_MS = 1_200;

/** Close after which a client comes back. */
const DRAINING = { code: CloseCode.draining } as const;

/** Longest drain, in milliseconds. */
const DRAIN_MS = 800;

/** Topic of a reader that falls behind, and the data of a publication: five are too many. */
const [LAGS, LARGE, LARGE_TEXT] = ["talk:lags", 5, "x".repeat(220_000)] as const;

/** Longest way of a publication to all clients, in milliseconds. */
const TRIP_MS = 1_500;

/** User whose program reads by loops, messages at once, and the most messages of one loop. */
const [LOOPS, NOTES, LOOP] = ["lives-loops", 3, 5] as const;

/** Client that repeats messages while the engine has no turn, and the most messages of one kind. */
const [REPEATS, MOST_SENT] = ["lives-repeats", 3] as const;

/** Ends of a session whose messages come again. */
const REPEAT_ENDS = ["a move", "a move", "a cut", "a cut that no node hears"] as const;

/** Longest pause between two steps of that client, and of the engine, in milliseconds. */
const [STEP_MS, PAUSED_MS] = [120, 900] as const;

/** Client that asks for the host of each connection, answers that lead nowhere, and the most of these. */
const [ROAMS, USELESS, MOST_USELESS] = ["lives-roams", ["nowhere", "no answer"], 2] as const;

/** Longest time of an answer, and a pause between two attempts that is longer, in milliseconds. */
const [TELL_MS, LONG_PAUSE_MS] = [80, 20_000] as const;

/** Longest time that a node tells a client to stay away, in milliseconds. */
const AFTER_MS = 400;

/** Time for a publication without subscribers, in milliseconds. */
const STRAY_MS = 60;

/**
 * Lets clients ask, send, publish, come and go while their sessions end and move, and others send
 * numbered messages to nodes whose engine goes away.
 *
 * @param audit The audit.
 */
export async function auditLives(audit: Audit): Promise<void> {
  await Promise.all([
    liveOn(audit),
    auditNumbers(audit),
    auditTurns(audit),
    auditLostAnswers(audit),
  ]);
}

/** Examines the clients and the nodes after each round of calls. */
async function liveOn(audit: Audit): Promise<void> {
  const nodes = new LivesNodes(audit);
  const { hosts } = nodes;
  const movers = Array.from({ length: MOVERS }, (_, i) => {
    const order = [...hosts, ...hosts].slice(i % hosts.length, i % hosts.length + hosts.length);
    return new Mover(audit, `lives-client${i}`, order);
  });
  const lives = new Lives(audit, nodes, movers);
  const startMs = audit.nowMs;
  await lives.rest("the start", REST_MS);
  for (let round = 0; round < ROUNDS && audit.nowMs < startMs + LAST_MS; round++) {
    await lives.pass();
    await lives.waver();
    await lives.probe();
  }
  await lives.cross();
  await lives.repeat();
  await lives.loop();
  await lives.roam();
  await lives.lag();
  await lives.close();
}

/** The clients and nodes of one audit. */
class Lives {
  readonly #audit: Audit;
  readonly #nodes: LivesNodes;
  readonly #movers: readonly Mover[];
  /** Troubles of the present round, in words. */
  #story = "";

  constructor(audit: Audit, nodes: LivesNodes, movers: readonly Mover[]) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#movers = movers;
  }

  /** Lets a round pass: calls of each client, and trouble at some time among these. */
  async pass(): Promise<void> {
    const { random } = this.#audit;
    const troubles = this.#movers.map(() => oneOf(random, TROUBLES));
    const which = random();
    const end = which < DIES ? "dies" : which < DIES + DRAINS ? "drains" : undefined;
    this.#story = [...troubles.map(({ name }) => name), end && `a node ${end}`]
      .filter(Boolean).join(", ");
    await Promise.all([
      end && this.#endNode(end === "drains"),
      ...this.#movers.map((mover, i) => this.#live(mover, troubles[i]!)),
    ]);
    await this.rest(this.#story, REST_MS);
    for (const [i, mover] of this.#movers.entries()) {
      const { missing, twice } = mover.takeNotes();
      const { isGapless } = troubles[i]!;
      // Two nodes that each have a session of the user both send a note.
      const isSpread = this.#nodes.spread.delete(mover.name);
      if (!isSpread) this.#expect(`notes twice at ${mover.name}`, [], twice);
      if (end !== undefined || !isGapless) continue;
      this.#expect(`notes that ${mover.name} lacks`, [], missing);
    }
    this.#examine();
    await this.#examineRooms();
  }

  /** Waits until no call is under way, and each client has one session. */
  async rest(story: string, withinMs: number): Promise<void> {
    this.#story = story;
    const isThere = () => this.#restless() === "none";
    await this.#audit.until(isThere, withinMs);
    this.#expect("what has no rest", "none", this.#restless());
  }

  /** Lets clients change their mind in quiet, where no later session mends what was left behind. */
  async waver(): Promise<void> {
    for (const mover of this.#movers) mover.waver();
    await this.#audit.pause(STRAY_MS);
    await this.rest("a change of mind", REST_MS);
    this.#examine();
  }

  /** Publishes once on each topic: subscribers alone get the publication, each once. */
  async probe(): Promise<void> {
    const audit = this.#audit;
    const probes = await Promise.all([KEPT, TALK, ...TOPICS].map(async (topic) => {
      const by = oneOf(audit.random, this.#movers);
      const echo = audit.random() < 0.5;
      return { topic, by, echo, id: await by.probe(topic, echo) };
    }));
    const wanted = this.#movers.flatMap((mover) =>
      probes.map(({ topic, by, echo, id }) => {
        const seat = mover.seats.get(topic);
        const times = seat !== undefined && (echo || by !== mover) ? 1 : 0;
        const count = () =>
          (seat?.got.filter((got) => got === id).length ?? 0) + Number(mover.strays.has(id));
        return { what: `${id} on ${topic} at ${mover.name}, echo ${echo}`, times, count };
      })
    );
    await audit.until(() => wanted.every(({ times, count }) => count() >= times), TRIP_MS);
    await audit.pause(STRAY_MS);
    for (const { what, times, count } of wanted) this.#expect(what, times, count());
  }

  /** Lets a client without token, topics and requests go to the other node and back. */
  async cross(): Promise<void> {
    const audit = this.#audit;
    const client = connectTo(audit, GUESTS, this.#nodes.hosts, {
      token: undefined,
      delivery: "at-least-once",
    });
    this.#story = "the end of a session without requests";
    const ends = [false, true];
    for (const isCut of audit.random() < 0.5 ? ends : ends.reverse()) {
      await this.#handlesSoon(client);
      const { session } = client;
      if (isCut) audit.cut(audit.host(GUESTS));
      else {
        for (const { manager } of this.#nodes.servers) {
          for (const session of manager.sessionsOf(GUESTS)) {
            void session.close(DRAINING);
          }
        }
      }
      await audit.until(() => client.isConnected && client.session !== session, TRIP_MS);
      await this.#handlesSoon(client);
    }
    await client.close();
  }

  /** Lets a client send messages again in a later session, while the node waits for the engine. */
  async repeat(): Promise<void> {
    const audit = this.#audit;
    const { random } = audit;
    const client = connectTo(audit, REPEATS, [oneOf(random, this.#nodes.hosts)], {
      delivery: "at-least-once",
      onMessage() {},
    });
    await audit.until(() => this.#serverOf(REPEATS, client) !== undefined, TRIP_MS);
    let sent = 0;
    const send = (most: number) => {
      for (let left = Math.round(most * random()); left > 0; left--) client.send("work", sent++);
    };
    if (random() < 0.3) send(MOST_SENT);
    await audit.pause(STEP_MS * random());
    const end = oneOf(random, REPEAT_ENDS);
    this.#story = `messages that are sent again, with an engine that pauses, by ${end}`;
    const pausing = this.#nodes.pauseEngine(PAUSED_MS * random());
    client.send("work", sent++);
    send(MOST_SENT);
    await audit.pause(STEP_MS * random());
    // The earlier session stays open for the answer, which comes behind the messages.
    const asking = outcomeOf(client.request("hold", { id: REPEATS, ms: STEP_MS * random() }));
    const moving = end === "a move" ? client.handOver() : undefined;
    if (end === "a cut") audit.cut(audit.host(REPEATS));
    if (end === "a cut that no node hears") audit.cut(audit.host(REPEATS), "server");
    await audit.pause(STEP_MS * random());
    send(MOST_SENT);
    await pausing;
    await Promise.all([moving, asking]);
    const handled = () => this.#nodes.messages.get(REPEATS) ?? [];
    await audit.until(() => client.outbox.messages === 0 && handled().length >= sent, REST_MS);
    await audit.pause(STEP_MS);
    this.#expect("messages", range(0, sent - 1).map(String), handled());
    await client.close();
  }

  /** Lets a program read all messages by one loop after the other, over moves and ends of sessions. */
  async loop(): Promise<void> {
    const audit = this.#audit;
    const client = connectTo(audit, LOOPS, this.#nodes.hosts, {});
    this.#story = "loops over a client";
    const got: unknown[] = [];
    const read = async () => {
      while (!client.status.isEnded) {
        let left = Math.ceil(LOOP * audit.random());
        for await (const { topic, data } of client) {
          if (topic === NOTE) got.push(data);
          if (--left === 0) break;
        }
        // Messages between two loops are kept for the next one.
        await audit.pause(STRAY_MS * audit.random());
      }
    };
    const reading = outcomeOf(read());
    let sent = 0;
    for (const isMove of [true, false, audit.random() < 0.5]) {
      await audit.until(() => this.#serverOf(LOOPS, client) !== undefined, TRIP_MS);
      const { session } = client;
      const server = this.#serverOf(LOOPS, client);
      const send = () => {
        for (let i = 0; i < NOTES; i++) server?.to(LOOPS).send(NOTE, sent++);
      };
      send();
      if (isMove) await client.handOver();
      else for (const own of server?.manager.sessionsOf(LOOPS) ?? []) void own.close(DRAINING);
      await audit.until(() => client.isConnected && client.session !== session, TRIP_MS);
      if (isMove) send();
    }
    await audit.until(() => got.length >= sent, TRIP_MS);
    this.#expect("messages of loops", range(0, sent - 1), got);
    await client.close();
    this.#expect("end of loops", "fulfilled", await reading);
  }

  /** Lets a client ask for the host of each connection, by a function whose answers may lead nowhere. */
  async roam(): Promise<void> {
    const audit = this.#audit;
    const { random } = audit;
    const { hosts, servers } = this.#nodes;
    const answers: typeof USELESS[number][] = [];
    let to = oneOf(random, hosts);
    // A client that is told another host connects there at once.
    const isOther = random() < 0.5;
    const askedMs: number[] = [];
    const pausesMs: number[] = [];
    const client = connectTo(audit, ROAMS, async () => {
      askedMs.push(audit.nowMs);
      await audit.pause(TELL_MS * random());
      const answer = answers.shift();
      if (answer === "no answer") throw new Error("The directory has no answer");
      return answer === "nowhere" ? audit.host(answer) : to;
    }, { ...(isOther && { backoff: { firstDelayMs: LONG_PAUSE_MS } }) });
    client.status.observe((status) => {
      if (status.name === "reconnecting") pausesMs.push(status.delayMs);
    });
    await audit.until(() => this.#serverOf(ROAMS, client) !== undefined, TRIP_MS);
    const { session } = client;
    if (isOther) to = hosts.find((host) => host !== to)!;
    else for (let left = MOST_USELESS; left > 0; left--) answers.push(oneOf(random, USELESS));
    const end = oneOf(random, ["a cut", "a close", "a goaway"]);
    this.#story = `${end}, with answers ${answers}${isOther ? "another host" : ""}`;
    askedMs.length = 0;
    const [far] = this.#serverOf(ROAMS, client)?.manager.sessionsOf(ROAMS) ?? [];
    const retryAfterMs = end === "a goaway" ? Math.ceil(AFTER_MS * random()) : 0;
    const retryAtMs = audit.nowMs + retryAfterMs;
    if (end === "a cut") audit.cut(audit.host(ROAMS));
    else if (end === "a close") void far?.close(DRAINING);
    else void far?.drain({ code: DRAINING.code, retryAfterMs });
    const isBack = () => client.isConnected && client.session !== session;
    await audit.until(isBack, isOther ? TRIP_MS : REST_MS);
    this.#expect("client that asks for its host", true, isBack());
    // The server chooses the first pause, and the client all others.
    const [firstMs = Infinity] = askedMs;
    this.#expect(`question ${firstMs - retryAtMs} ms later`, true, firstMs >= retryAtMs);
    this.#expect("attempts at once", [], pausesMs.slice(1).filter((ms) => ms === 0));
    const index = servers.indexOf(this.#serverOf(ROAMS, client)!);
    this.#expect("host of the client", to.name, hosts[index]?.name);
    await client.close();
  }

  /** Lets the reader of a topic fall behind: the subscription ends, and the session goes on. */
  async lag(): Promise<void> {
    const audit = this.#audit;
    const client = connectTo(audit, "lives-lags", this.#nodes.hosts, {});
    this.#story = "a reader that fell behind";
    const subscription = client.subscribe(LAGS);
    await audit.until(() => subscription.status.current === "subscribed");
    const { session } = client;
    for (let count = 0; count < LARGE; count++) {
      this.#nodes.servers[0]!.publish(LAGS, { text: LARGE_TEXT });
      await audit.pause(STRAY_MS);
    }
    await audit.until(() => subscription.isEnded);
    let count = 0;
    const read = async () => {
      for await (const _ of subscription) count++;
    };
    const outcome = await outcomeOf(read());
    const left = () =>
      this.#nodes.servers.reduce((sum, { topics }) => sum + topics.subscribers(LAGS).length, 0);
    await audit.until(() => left() === 0, TRIP_MS);
    this.#expect("messages before the end", [LARGE - 1, "QueueFullError"], [count, outcome]);
    this.#expect("subscribers on the nodes", 0, left());
    this.#expect("the session", session?.id, client.session?.id);
    await client.close();
  }

  /** Closes all, and examines that nothing is left. */
  async close(): Promise<void> {
    await Promise.all(this.#movers.map(({ client }) => client.close()));
    const left = () =>
      this.#nodes.servers.flatMap(({ manager, topics }) => [
        ...manager.all().map(({ user }) => `session of ${user}`),
        ...[...topics.list()].map(({ topic }) => topic),
      ]);
    await this.#audit.until(() => left().length === 0, REST_MS);
    this.#expect("what is left after the clients", [], left());
    await this.#nodes.close();
  }

  async #live(mover: Mover, trouble: Trouble): Promise<void> {
    const audit = this.#audit;
    const at = Math.floor(CALLS * audit.random());
    let running: void | Promise<void> = undefined;
    for (let call = 0; call < CALLS; call++) {
      if (call === at) {
        await mover.hurry();
        running = trouble.run(audit, mover, this.#nodes);
      }
      mover.act();
      this.#note(mover);
      await audit.pause(BETWEEN_MS * audit.random());
    }
    await running;
  }

  /** The server of the newest session of a client. */
  #serverOf(user: string, { session }: Client): LivesNodes["servers"][number] | undefined {
    return this.#nodes.servers.find(({ manager }) =>
      manager.sessionsOf(user).some(({ id }) => id === session?.id)
    );
  }

  /** Sends a note to the user of a client, on the node of the newest session. */
  #note(mover: Mover): void {
    const server = this.#serverOf(mover.name, mover.client);
    if (server === undefined) return;
    const id = mover.newId();
    mover.noted.push(id);
    server.to(mover.name).send(NOTE, id);
  }

  /** Compares members of rooms, and their data, with the subscriptions and calls of the clients. */
  async #examineRooms(): Promise<void> {
    if (this.#nodes.hasEnded) return;
    const shown = (members: readonly { readonly user: string; readonly data?: unknown }[]) =>
      members.map(({ user, data }) => JSON.stringify([user, data])).sort();
    for (const room of ROOMS) {
      const members = this.#movers.filter(({ seats }) => seats.has(room))
        .map(({ name, presence }) => ({ user: name, data: presence.get(room) }));
      const expected = shown(members);
      const received = () =>
        // A node without members of its own does not follow the room.
        this.#nodes.servers.filter(({ topics }) => topics.subscribers(room).length > 0)
          .map(({ rooms }) => shown(rooms.members(room)).join());
      const isTrue = () => received().every((text) => text === expected.join());
      await this.#audit.until(isTrue, TRIP_MS);
      for (const text of received()) this.#expect(`members of ${room}`, expected.join(), text);
    }
  }

  /** Sends a message; no node waits for a claim of another one. */
  async #handlesSoon(client: Client): Promise<void> {
    client.send("work", "");
    const isEmpty = await this.#audit.until(() => client.outbox.messages === 0, HANDLED_MS);
    this.#expect("message that is handled soon", true, isEmpty);
  }

  #endNode(isDrain: boolean): Promise<void> {
    const { random } = this.#audit;
    const index = Math.floor(random() * this.#nodes.hosts.length);
    const drainMs = isDrain ? 100 + Math.floor(DRAIN_MS * random()) : undefined;
    return this.#nodes.end(index, 100 + AWAY_MS * random(), drainMs);
  }

  /** The first part that is not at rest, in words. */
  #restless(): string {
    if (!this.#nodes.areUp) return "a node";
    const sessions = this.#nodes.servers.flatMap(({ manager }) => manager.all());
    if (sessions.length !== this.#movers.length) return `${sessions.length} sessions`;
    const movers = this.#movers;
    const mover = movers.find(({ isAtRest }) => !isAtRest);
    if (mover !== undefined) return mover.name;
    // A subscription counts as one during a move, also before the new session has the right.
    const seeker = movers.find(({ name, topics }) => `${topics}` !== `${this.#topicsOf(name)}`);
    if (seeker !== undefined) return `topics of ${seeker.name}`;
    const reader = movers.find((reader) => movers.some((by) => by.unreadBy(reader).length > 0));
    return reader === undefined ? "none" : `reader ${reader.name}`;
  }

  /** The topics of the sessions of a client, sorted. */
  #topicsOf(user: string): string[] {
    return this.#nodes.servers.flatMap(({ manager, topics }) =>
      manager.sessionsOf(user).flatMap((session) => topics.requestedBy(session))
    ).sort();
  }

  #examine(): void {
    const { servers, requests, messages, hasDied } = this.#nodes;
    const movers = this.#movers;
    for (const mover of movers) {
      this.#expect(`calls of ${mover.name}`, [], mover.examine(requests));
      this.#expect(`topics of ${mover.name}`, mover.topics, this.#topicsOf(mover.name));
      const handled = messages.get(mover.name) ?? [];
      const once = [...new Set(handled)];
      if (!hasDied) this.#expect(`messages of ${mover.name}, each once`, once, handled);
      if (mover.isReliable) this.#expect(`messages of ${mover.name}`, mover.sent, once);
      for (const reader of movers) {
        const lacking = mover.unreadBy(reader);
        this.#expect(`publications of ${mover.name} that ${reader.name} lacks`, [], lacking);
      }
      const talk = mover.seats.get(TALK)!.got;
      if (!hasDied) this.#expect(`talk at ${mover.name}, each once`, [...new Set(talk)], talk);
      const { got } = mover.seats.get(KEPT)!;
      const own = mover.published.filter(({ id, echo }) => !echo && got.includes(id));
      this.#expect(`echoes at ${mover.name}`, [], own.map(({ id }) => id));
    }
    for (const topic of [KEPT, TALK, ...TOPICS]) {
      const expected = movers.filter(({ seats }) => seats.has(topic)).length;
      const count = servers.reduce((sum, { topics }) => sum + topics.subscribers(topic).length, 0);
      this.#expect(`subscribers of ${topic}`, expected, count);
    }
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("lives", `${what} after ${this.#story}`, expected, received);
  }
}
