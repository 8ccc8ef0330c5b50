/** A client of the audit of lives: calls of the program, and the outcomes. */
import { pause } from "../../../../../base/wait.ts";
import type { Client } from "../../../../../client/client.ts";
import type { ConnectOptions } from "../../../../../client/connect.ts";
import type { Subscription } from "../../../../../client/subscription.ts";
import { CloseCode } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { oneOf } from "../../chance.ts";
import type { ServerHosts } from "../../examination.ts";
import type { Audit } from "../audit.ts";
import { outcomeOf } from "../audit.ts";

/** Topic with a history, to which each client is subscribed all the time. */
export const KEPT = "kept:all";

/** Topic without a history, to which each client is subscribed all the time. */
export const TALK = "talk:all";

/** Topics to which a client subscribes for a while: with a history, without, and rooms. */
export const TOPICS = ["kept:some", "talk:some", "room:one", "room:two"] as const;

/** The rooms of these. */
export const ROOMS = TOPICS.filter((topic) => topic.startsWith("room:"));

/** Topic of the first message of a node in each session. */
export const WELCOME = "welcome";

/** Topic of messages of a node to a user. */
export const NOTE = "note";

/** Share of first messages upon which a program changes its subscriptions. */
const CHANGES = 0.5;

/** Most steps of promises between a call and the change of mind. */
const MAX_STEPS = 12;

/** Transports of clients, most of which have WebSocket alone. */
const TRANSPORTS = [
  ["websocket"],
  ["websocket"],
  ["http"],
  ["webtransport"],
] as const;

/** Share of clients with at-least-once delivery. */
const RELIABLE = 0.65;

/** Duration of a token, in milliseconds: the half is longer than any silence of the audit. */
const TOKEN_MS = 8_000;

/** Waits between attempts: short, so that a client is back soon after a node. */
const BACKOFF = { firstDelayMs: 100, maxDelayMs: 400 } as const;

/** Longest time of an attempt to connect, in milliseconds. */
const DIAL_MS = 1_500;

/** Longest time of a reader with a message, in milliseconds. */
const READ_MS = 40;

/** Most messages and publications on the way at a move or a fault, and just after. */
const ON_THE_WAY = 4;

/** Large messages at once, and the data of each: more than the buffer of a connection. */
const [HEAP, FILL] = [5, "x".repeat(20_000)] as const;

/** Longest time between these and a fault, in milliseconds. */
const BEFORE_MS = 25;

/** Longest time of the handler of a request, in milliseconds. */
const HOLD_MS = 300;

/** A subscription, with the ids that the loop got. */
interface Seat {
  readonly subscription: Subscription;
  readonly got: string[];
}

/** A publication of this client on {@linkcode KEPT}. */
interface Published {
  readonly id: string;
  readonly echo: boolean;
  isAcknowledged: boolean;
}

/**
 * Connects a client with a token that ends soon.
 *
 * @param audit The audit.
 * @param name Name of the machine and user.
 * @param servers Hosts of the nodes.
 * @param options Options of `connect()`.
 * @returns The client.
 */
export function connectTo(
  audit: Audit,
  name: string,
  servers: ServerHosts,
  options: ConnectOptions,
): Client {
  const { runtime } = audit.host(name);
  return audit.connect(name, servers, {
    token: () => `${name} ${runtime.now() + TOKEN_MS}`,
    backoff: BACKOFF,
    connectTimeoutMs: DIAL_MS,
    onError() {},
    ...options,
  });
}

/** A client of the audit of lives. */
export class Mover {
  /** Name of the client and user. */
  readonly name: string;
  /** The machine. */
  readonly host: Host;
  /** The client. */
  readonly client: Client;
  /** True if messages and publications are kept until acknowledged. */
  readonly isReliable: boolean;
  /** Live subscriptions, by topic. */
  readonly seats: Map<string, Seat> = new Map();
  /** Messages in the order of the calls. */
  readonly sent: string[] = [];
  /** Publications on the topic that all clients read. */
  readonly published: Published[] = [];
  /** Data of the presence of this client, by room. */
  readonly presence: Map<string, unknown> = new Map();
  /** Ids of notes that the nodes sent to the user in the present round. */
  readonly noted: string[] = [];
  /** Publications that came to no subscription. */
  readonly strays: Set<string> = new Set();
  /** Outcomes that no documentation allows. */
  readonly wrong: string[] = [];
  readonly #audit: Audit;
  /** Notes that came in the present round. */
  readonly #notes: string[] = [];
  readonly #requested: { readonly id: string; readonly retry: boolean; outcome: string }[] = [];
  /** True for a program that takes its time with each message. */
  readonly #isSlow: boolean;
  #waiting = 0;
  #next = 0;

  /** Connects the client. */
  constructor(audit: Audit, name: string, servers: readonly Host[]) {
    const { random } = audit;
    this.#audit = audit;
    this.name = name;
    this.host = audit.host(name);
    this.isReliable = random() < RELIABLE;
    this.#isSlow = random() < 0.5;
    this.client = connectTo(audit, name, servers, {
      delivery: this.isReliable ? "at-least-once" : "at-most-once",
      transports: oneOf(random, TRANSPORTS),
      onMessage: ({ topic, data }) => {
        if (topic === WELCOME) this.#settleIn();
        else if (topic === NOTE) this.#notes.push(`${data}`);
        else this.strays.add(`${Object(data).id}`);
      },
      // The nodes take all that the program sends.
      onRefused: ({ message }) => this.wrong.push(`refused: ${message}`),
    });
    this.client.status.observe((status) => {
      if (status.name !== "reconnecting") return;
      const { code, by } = status.cause;
      // Each token is renewed in time.
      if (code === CloseCode.unauthenticated) this.wrong.push(`closed ${code} by ${by}`);
    });
    this.#subscribe(KEPT);
    this.#subscribe(TALK);
  }

  /** True if no call is under way, nothing waits, and all subscriptions are in force. */
  get isAtRest(): boolean {
    return this.#waiting === 0 && this.client.isConnected && this.client.outbox.messages === 0 &&
      this.seats.values().every(({ subscription }) => subscription.status.current === "subscribed");
  }

  /** The topics of the live subscriptions, sorted. */
  get topics(): string[] {
    return [...this.seats.keys()].sort();
  }

  /** Acknowledged publications on {@linkcode KEPT} that another client, or this one, has not read. */
  unreadBy(reader: Mover): string[] {
    const { got } = reader.seats.get(KEPT)!;
    return this.published
      .filter(({ echo, isAcknowledged }) => isAcknowledged && (echo || reader !== this))
      .flatMap(({ id }) => got.includes(id) ? [] : [id]);
  }

  /** Makes the next id of this client. */
  newId(): string {
    return `${this.name}.${this.#next++}`;
  }

  /** Makes one call of a program, drawn by chance. */
  act(): void {
    const random = this.#audit.random();
    const pick = this.#audit.random();
    if (random < 0.2) this.ask(pick < 0.5, HOLD_MS * this.#audit.random());
    else if (random < 0.3) this.send();
    else if (random < 0.4) this.#publish(pick < 0.5);
    else if (random < 0.45) this.#present(ROOMS[Math.floor(pick * ROOMS.length)]!);
    else if (random < 0.65) this.#toggle(TOPICS[Math.floor(pick * TOPICS.length)]!);
    else this.waver();
  }

  /**
   * Publishes on a topic at rest.
   *
   * @param topic The topic.
   * @param echo False to leave out this client.
   * @returns The id, once the server has the publication.
   */
  async probe(topic: string, echo: boolean): Promise<string> {
    const id = this.newId();
    await this.#settles(
      `publication ${id}`,
      this.client.publish(topic, { id }, { except: echo ? undefined : "self" }),
      "fulfilled",
    );
    return id;
  }

  /** Compares all calls so far with the requests that the nodes handled. */
  examine(requests: ReadonlyMap<string, number>): string[] {
    for (const { id, retry, outcome } of this.#requested.splice(0)) {
      const times = requests.get(id) ?? 0;
      const isDone = outcome === "fulfilled";
      const isKnown = isDone || !retry && outcome === "SessionClosedError";
      const isTrue = isDone ? times > 0 : true;
      const isOnce = retry || times <= 1;
      if (isKnown && isTrue && isOnce) continue;
      this.wrong.push(
        `request ${id}${retry ? " (retry)" : ""}: ${outcome}, handled ${times} times`,
      );
    }
    return this.wrong.splice(0);
  }

  /**
   * Sends a request.
   *
   * @param retry True to repeat the request after a loss.
   * @param ms Time of the handler.
   */
  ask(retry: boolean, ms: number): void {
    const request = { id: this.newId(), retry, outcome: "pending" };
    this.#requested.push(request);
    const data = { id: request.id, ms };
    this.#waiting++;
    void outcomeOf(this.client.request("hold", data, { retry })).then((outcome) => {
      request.outcome = outcome;
      this.#waiting--;
    });
  }

  /**
   * Moves to another session, with messages on the way, and goes on at once.
   *
   * @returns True if the client moved.
   */
  async move(): Promise<boolean> {
    this.#burst();
    const isMoved = await this.client.handOver();
    // The earlier session is still open, and may not have handled all.
    this.#burst();
    return isMoved;
  }

  /** Sends and publishes shortly before a fault. */
  async hurry(): Promise<void> {
    this.#burst();
    await this.#audit.pause(BEFORE_MS * this.#audit.random());
  }

  /** Begins a session: some programs subscribe, or leave, at the first message. */
  #settleIn(): void {
    const random = this.#audit.random();
    if (random >= CHANGES) return;
    this.#toggle(TOPICS[Math.floor(random / CHANGES * TOPICS.length)]!);
  }

  /** Takes the notes of a round: of those that were sent, the missing ones, and those that came twice. */
  takeNotes(): { readonly missing: string[]; readonly twice: string[] } {
    const notes = this.#notes.splice(0);
    const missing = this.noted.splice(0).filter((id) => !notes.includes(id));
    return { missing, twice: notes.filter((id, i) => notes.indexOf(id) !== i) };
  }

  /** Sets data in a room, or takes the data back. */
  #present(room: string): void {
    const data = this.presence.has(room) ? undefined : { is: this.newId() };
    if (data === undefined) this.presence.delete(room);
    else this.presence.set(room, data);
    void this.#settles(`presence in ${room}`, this.client.presence(room, data), "fulfilled");
  }

  /**
   * Sends a numbered message.
   *
   * @param fill Data behind the id.
   */
  send(fill: string = ""): void {
    const id = this.newId();
    this.sent.push(id);
    this.client.send("work", `${id} ${fill}`);
  }

  /** Sends more than the buffer of a connection holds, and goes on behind that. */
  async heap(): Promise<void> {
    for (let left = HEAP; left > 0; left--) {
      this.send(FILL);
      await this.hurry();
    }
  }

  #burst(): void {
    const { random } = this.#audit;
    for (let left = Math.round(ON_THE_WAY * random()); left > 0; left--) {
      if (random() < 0.6) this.send();
      else this.#publish(random() < 0.5);
    }
  }

  #publish(echo: boolean): void {
    const published: Published = { id: this.newId(), echo, isAcknowledged: false };
    const topic = this.#audit.random() < 0.5 ? KEPT : TALK;
    // Publications without a history may miss a reader that is away.
    if (topic === KEPT) this.published.push(published);
    const data = { id: published.id };
    this.#waiting++;
    void outcomeOf(this.client.publish(topic, data, { except: echo ? undefined : "self" })).then(
      (outcome) => {
        published.isAcknowledged = outcome === "fulfilled";
        if (this.isReliable && outcome !== "fulfilled") {
          this.wrong.push(`publication ${published.id}: ${outcome}`);
        }
        this.#waiting--;
      },
    );
  }

  #toggle(topic: string): void {
    const seat = this.seats.get(topic);
    if (seat === undefined) return this.#subscribe(topic);
    this.seats.delete(topic);
    void this.#settles(`end of ${topic}`, seat.subscription.unsubscribe(), "fulfilled");
  }

  /** Subscribes or leaves, and changes the mind soon after. */
  waver(): void {
    const topic = oneOf(this.#audit.random, TOPICS);
    this.#toggle(topic);
    void this.#toggleSoon(topic);
  }

  /** Changes the mind of the program, some steps of promises later. */
  async #toggleSoon(topic: string): Promise<void> {
    for (let left = Math.floor(MAX_STEPS * this.#audit.random()); left > 0; left--) {
      await Promise.resolve();
    }
    this.#toggle(topic);
  }

  #subscribe(topic: string): void {
    const subscription = this.client.subscribe(topic, {
      onRecovery: ({ recovered, reason }) => {
        if (!recovered && topic.startsWith("kept:")) this.wrong.push(`gap in ${topic}: ${reason}`);
      },
    });
    const seat: Seat = { subscription, got: [] };
    this.seats.set(topic, seat);
    void this.#read(topic, seat);
  }

  async #read(topic: string, { subscription, got }: Seat): Promise<void> {
    try {
      for await (const { data } of subscription) {
        const { id } = data as { readonly id: string };
        if (topic.startsWith("kept:") && got.includes(id)) {
          this.wrong.push(`${id} twice on ${topic}`);
        }
        got.push(id);
        const { position } = subscription;
        if (this.#isSlow) await pause(this.host.runtime, READ_MS * this.#audit.random());
        if (subscription.position === position) continue;
        this.wrong.push(`position of ${topic} beyond ${id}, which the loop has`);
      }
    } catch (error) {
      this.wrong.push(`loop over ${topic}: ${error}`);
    }
  }

  async #settles(what: string, promise: Promise<unknown>, expected: string): Promise<void> {
    this.#waiting++;
    const outcome = await outcomeOf(promise);
    this.#waiting--;
    if (outcome !== expected) this.wrong.push(`${what}: ${outcome}`);
  }
}
