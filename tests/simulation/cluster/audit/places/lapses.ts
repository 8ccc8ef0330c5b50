/** Numbered messages of clients that move while claims lapse, or while the store is away. */
import { pause } from "../../../../../base/wait.ts";
import { BrokerError } from "../../../../../errors.ts";
import type { Broker, BrokerStore } from "../../../../../pubsub/broker.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import { range } from "../history.ts";
import { brokerWithStore } from "../logs/broker_with_logs.ts";
import { ROUND_MS, Service, type ServiceNode } from "./service.ts";

/** Times of a handler, in milliseconds: within the claim of a node, beyond a renewal, and beyond both. */
const LONG_MS = [0, 700, 2_600, 4_800] as const;

/** Times of a handler, in milliseconds: some messages of several visits end within an acknowledgement. */
const SHORT_MS = [0, 0, 150, 600] as const;

/** Visits of a client that moves without a fault. */
const VISITS = 4;

/** Longest wait for an acknowledgement, in milliseconds: beyond a claim of 4 s, and a handler. */
const ACK_MS = 8_000;

/** Time between the acknowledgement of one node and the return to another, in milliseconds. */
const BACK_MS = 900;

/** Fewest and most clients that move while a node is frozen. */
const [FEWEST_MOVERS, MOST_MOVERS] = [2, 4];

/** Most clients of a node whose store goes away, and the range of outages. */
const [CLIENTS, OUTAGES] = [4, 2];

/** Times of a handler beside a store that is away, in milliseconds. */
const AWAY_MS = [0, 0, 0, 300, 1_200] as const;

/** Time between two looks at a store that does not answer yet, in milliseconds. */
const POLL_MS = 100;

/** Most messages of a client in an outage. */
const MOST_WORK = 3;

/** Longest time of each part of an outage, in milliseconds. */
const OUTAGE_MS = 1_800;

/** Longest time until a call of the store fails, of which one is drawn for each outage, in milliseconds. */
const FAILURES_MS = [0, 0, 300] as const;

/** Share of the failed calls of the store that have an effect all the same. */
const EFFECT_SHARE = 0.2;

/** Share of outages in which all sessions of the node end. */
const ALL_LEAVE_SHARE = 0.5;

/** Share of clients that lose their session in other outages. */
const LEAVE_SHARE = 0.5;

/** Share of outages in which clients come back before the store. */
const EARLY_SHARE = 0.4;

/** Share of outages in which clients come back behind the acknowledgements of the others. */
const LAST_SHARE = 0.8;

/** Longest time from the return of the store, or of the client, to an acknowledgement, in milliseconds. */
const STORED_MS = 2_500;

/** A message of the page. */
interface Work {
  /** Name of the client. */
  readonly client: string;
  readonly n: number;
  readonly ms: number;
}

/** Both nodes of a service. */
type TwoNodes = readonly [ServiceNode, ServiceNode];

/** A page with numbered messages, some of which are sent again. */
class NumberedPage {
  /** The newest acknowledged number. */
  acknowledged = -1;
  readonly #name: string;
  readonly #socket: SimulatedWebSocket;
  #isNamed = false;

  constructor(audit: Audit, node: ServiceNode, name: string) {
    this.#name = name;
    const url = new URL(`wss://${node.host.name}/?token=${name}`);
    this.#socket = audit.network.sockets(audit.host(name))(url, ["skein.1"]);
    this.#socket.onmessage = ({ data }) => {
      for (const { ack } of envelopesOf<{ readonly ack?: number }>(data)) {
        if (ack !== undefined) this.acknowledged = ack;
      }
    };
  }

  /** True once messages can be sent. */
  get isOpen(): boolean {
    return this.#socket.readyState === 1;
  }

  /** Sends messages with the numbers of the work. */
  send(...work: readonly Work[]): void {
    for (const data of work) {
      const name = this.#isNamed ? {} : { client: this.#name };
      this.#isNamed = true;
      this.#socket.send(JSON.stringify({ topic: "work", data, seq: data.n, ...name }));
    }
  }

  /** Closes the connection. */
  close(): void {
    this.#socket.close(1_000);
  }
}

/** A client, and the handled messages. */
class Mover {
  readonly audit: Audit;
  readonly random: () => number;
  /** All numbers, in order. */
  readonly sent: number[] = [];
  /** Numbers in the order of the handlers' starts. */
  readonly handled: number[] = [];
  readonly #name: string;
  readonly #pages: NumberedPage[] = [];
  #running = 0;
  #mostAtOnce = 0;
  #next: number;

  constructor(audit: Audit, name: string, random: () => number) {
    this.audit = audit;
    this.random = random;
    this.#name = name;
    this.#next = Math.floor(3 * random());
  }

  /** True while a message is handled. */
  get isHandling(): boolean {
    return this.#running > 0;
  }

  /** The machine. */
  get host(): Host {
    return this.audit.host(this.#name);
  }

  /** Handles a message at a node. */
  async handle({ host }: ServiceNode, { n, ms }: Work): Promise<void> {
    this.handled.push(n);
    this.#mostAtOnce = Math.max(this.#mostAtOnce, ++this.#running);
    if (ms > 0) await pause(host.runtime, ms);
    this.#running--;
  }

  /** Opens a page at a node. */
  async enter(node: ServiceNode): Promise<NumberedPage> {
    const page = new NumberedPage(this.audit, node, this.#name);
    this.#pages.push(page);
    await this.audit.until(() => page.isOpen);
    return page;
  }

  /** Makes messages with the next numbers. */
  work(count: number, ms: number): Work[] {
    return Array.from({ length: count }, () => {
      this.#next += 1 + Math.floor(2 * this.random());
      this.sent.push(this.#next);
      return { client: this.#name, n: this.#next, ms };
    });
  }

  /** Waits until all numbers are acknowledged. */
  async acknowledged(page: NumberedPage, what: string, withinMs = ACK_MS): Promise<void> {
    await this.audit.until(() => page.acknowledged >= this.#next, withinMs);
    this.audit.examine("places", `acknowledged number ${what}`, this.#next, page.acknowledged);
  }

  /** Examines that no two messages were handled at once. */
  examineAtOnce(): void {
    this.audit.examine("places", "handlers of a client at once", 1, this.#mostAtOnce);
  }

  /** Examines that each message was handled once, in order. */
  examineHandled(): void {
    this.audit.examine("places", `handled numbers of ${this.#name}`, this.sent, this.handled);
  }

  /** Closes all pages. */
  close(): void {
    for (const page of this.#pages) page.close();
  }
}

/** Tells whether a store can be written to. */
async function answers(store: BrokerStore): Promise<boolean> {
  try {
    await store.advance("lapses", 0, ACK_MS);
    return true;
  } catch (error) {
    if (error instanceof BrokerError) return false;
    throw error;
  }
}

/** Nodes with a store that may be away, and the clients. */
class Place {
  readonly audit: Audit;
  readonly nodes: TwoNodes;
  readonly #random: () => number;
  readonly #service: Service;
  readonly #movers = new Map<string, Mover>();
  #isAway = false;
  #failureMs = 0;

  constructor(audit: Audit, name: string, random: () => number) {
    const brokerOf = audit.engine.apart!(name);
    this.audit = audit;
    this.#random = random;
    this.#service = new Service(audit, name, {
      brokerOf: (host) => this.#brokerOf(host, brokerOf(host)),
      onMessage: (node, { data }) => {
        const work = data as Work;
        return this.#movers.get(work.client)!.handle(node, work);
      },
      server: { onError() {} },
    });
    this.nodes = [this.#service.start(), this.#service.start()];
  }

  /**
   * Waits for the nodes, and until the store answers both: a new store may have no leader yet, and a
   * node that cannot read numbers handles messages anyway.
   */
  async start(): Promise<void> {
    await Promise.all(this.nodes.map(async ({ server }) => {
      await server.nodes!.ready;
      while (!await answers(server.topics.broker.store!)) await this.audit.pause(POLL_MS);
    }));
  }

  /** Adds a client. */
  add(name: string): Mover {
    const mover = new Mover(this.audit, name, this.#random);
    this.#movers.set(name, mover);
    return mover;
  }

  /** Has all calls of the store fail, or ends that. */
  setAway(isAway: boolean): void {
    this.#isAway = isAway;
    this.#failureMs = oneOf(this.#random, FAILURES_MS);
  }

  /** Examines the handled messages, and closes all pages and nodes. */
  async close(): Promise<void> {
    for (const mover of this.#movers.values()) {
      mover.examineHandled();
      mover.close();
    }
    await this.#service.close();
  }

  #brokerOf({ runtime }: Host, broker: Broker): Broker {
    return brokerWithStore(broker, (_name, own) => async (...values) => {
      if (!this.#isAway) return await own(...values);
      const lateMs = this.#failureMs * this.#random();
      if (this.#random() < EFFECT_SHARE) await own(...values);
      if (lateMs > 0) await pause(runtime, lateMs);
      throw new BrokerError("Cannot call the store: the engine is away");
    });
  }
}

/** A client of a node whose store goes away. */
class Stayer {
  readonly mover: Mover;
  page: NumberedPage;
  /** Messages without an acknowledgement. */
  unknown: Work[] = [];

  constructor(mover: Mover, page: NumberedPage) {
    this.mover = mover;
    this.page = page;
  }

  /** Sends new messages. */
  send(count: number, ms: number): void {
    const work = this.mover.work(count, ms);
    this.unknown.push(...work);
    this.page.send(...work);
  }

  /** Loses the session, noticed by the node or not. */
  leave(random: () => number): void {
    if (random() < 0.6) this.page.close();
    else this.mover.audit.cut(this.mover.host, random() < 0.3);
  }

  /** Comes back, and repeats all messages without an acknowledgement. */
  async comeBack(node: ServiceNode): Promise<void> {
    const { acknowledged } = this.page;
    this.unknown = this.unknown.filter(({ n }) => n > acknowledged);
    this.page = await this.mover.enter(node);
    this.page.acknowledged = acknowledged;
    this.page.send(...this.unknown);
  }
}

/**
 * Sends numbered messages to two nodes in turn, and repeats the last ones: each is handled once, in
 * order. Beside that, messages are handled while the store is away, and acknowledged afterwards.
 *
 * @param audit The audit.
 */
export async function auditLapses(audit: Audit): Promise<void> {
  await Promise.all([auditMoves(audit), auditOutages(audit)]);
}

/** Moves clients between two nodes. */
async function auditMoves(audit: Audit): Promise<void> {
  const { random } = audit;
  const place = new Place(audit, "lapses", random);
  const isStroll = random() < 0.4;
  const count = isStroll ? 1 : Math.floor(between(random, FEWEST_MOVERS, MOST_MOVERS + 1));
  const movers = range(1, count).map((i) => place.add(`mover-${i}`));
  await place.start();
  if (isStroll) await stroll(movers[0]!, place.nodes);
  else await lapse(movers, place.nodes, { audit, random });
  await place.close();
}

/** Lets the store of a node go away and come back, while clients lose their sessions. */
async function auditOutages(audit: Audit): Promise<void> {
  const random = audit.chanceOf("outages");
  const place = new Place(audit, "outages", random);
  await place.start();
  const [node, other] = place.nodes;
  const count = 1 + Math.floor(CLIENTS * random());
  const movers = Array.from({ length: count }, (_, i) => place.add(`stayer-${i}`));
  const stayers = await Promise.all(
    movers.map(async (mover) => new Stayer(mover, await mover.enter(node))),
  );
  for (let left = 1 + Math.floor(OUTAGES * random()); left > 0; left--) {
    await passOutage(place, { node, stayers, random });
  }
  // The other node knows the stored numbers.
  for (const { mover, page } of stayers) {
    const last = mover.work(1, 0);
    page.send(...last);
    await mover.acknowledged(page, "behind outages");
    page.close();
    const away = await mover.enter(other);
    away.send(...last, ...mover.work(1, 0));
    await mover.acknowledged(away, "of the other node behind outages");
    mover.examineAtOnce();
  }
  await place.close();
}

/** Has messages handled during an outage: acknowledged once the store and the client are back. */
async function passOutage(
  place: Place,
  { node, stayers, random }: {
    readonly node: ServiceNode;
    readonly stayers: readonly Stayer[];
    readonly random: () => number;
  },
): Promise<void> {
  const { audit } = place;
  for (const stayer of stayers) {
    if (random() < 0.5) {
      stayer.send(1, 0);
      await stayer.mover.acknowledged(stayer.page, "before an outage");
    }
    stayer.unknown = [];
  }
  const known = stayers.map(({ page }) => page.acknowledged);
  place.setAway(true);
  const areAllAway = random() < ALL_LEAVE_SHARE;
  const waits = stayers.map(async (stayer) => {
    await audit.pause(OUTAGE_MS * random() / 2);
    const ms = oneOf(random, AWAY_MS);
    stayer.send(1 + Math.floor(MOST_WORK * random()), ms);
    if (random() < 0.8) await handlesAll(stayer);
    else await audit.pause(ms * random());
    await audit.pause(OUTAGE_MS * random());
  });
  await Promise.all(waits);
  const leaving = stayers.filter(() => areAllAway || random() < LEAVE_SHARE);
  for (const stayer of leaving) stayer.leave(random);
  const isEarly = random() < EARLY_SHARE;
  await audit.pause(isEarly ? OUTAGE_MS * random() : ROUND_MS);
  if (isEarly) { for (const stayer of leaving) await stayer.comeBack(node); }
  await audit.pause(OUTAGE_MS * random());
  for (const [i, { page }] of stayers.entries()) {
    audit.examine("places", "acknowledged number during an outage", known[i], page.acknowledged);
  }
  place.setAway(false);
  const withinMs = STORED_MS + MOST_WORK * Math.max(...AWAY_MS);
  // The return of one client must not be what others wait for.
  const present = stayers.filter((stayer) => isEarly || !leaving.includes(stayer));
  if (random() < LAST_SHARE) await areKnown(present);
  if (!isEarly) {
    await audit.pause(OUTAGE_MS * random());
    for (const stayer of leaving) await stayer.comeBack(node);
  }
  await areKnown(stayers);

  /** Expects acknowledgements of all messages of some clients. */
  async function areKnown(some: readonly Stayer[]): Promise<void> {
    for (const { mover, page } of some) {
      await mover.acknowledged(page, "behind an outage", withinMs);
    }
  }

  /** Waits until the messages of a client are handled. */
  async function handlesAll({ mover }: Stayer): Promise<void> {
    const isThere = () => !mover.isHandling && mover.handled.length === mover.sent.length;
    await audit.until(isThere);
    mover.examineHandled();
  }
}

/** Moves early or late, with a word or without, and repeats messages without an acknowledgement. */
async function stroll(mover: Mover, nodes: TwoNodes): Promise<void> {
  const { audit, random } = mover;
  let unknown: Work[] = [];
  for (let visit = 1; visit <= VISITS; visit++) {
    const page = await mover.enter(oneOf(random, nodes));
    const work = [...unknown, ...mover.work(1 + Math.floor(3 * random()), oneOf(random, SHORT_MS))];
    page.send(...work);
    if (visit === VISITS || random() < 0.4) await mover.acknowledged(page, `of visit ${visit}`);
    else await audit.pause(between(random, 0, BACK_MS));
    // The last acknowledgements may be lost.
    const known = work.filter(({ n }) => n <= page.acknowledged).length;
    unknown = work.slice(random() < 0.5 ? known : Math.floor(known * random()));
    if (random() < 0.6) page.close();
  }
  mover.examineAtOnce();
}

/** Moves while the first node may be frozen for longer than the claims of clients, and back. */
async function lapse(
  movers: readonly Mover[],
  [first, other]: TwoNodes,
  { audit, random }: Pick<Mover, "audit" | "random">,
): Promise<void> {
  const freezes = random() < 0.7;
  const begun = await Promise.all(movers.map(async (mover) => {
    const page = await mover.enter(first);
    page.send(...mover.work(1, oneOf(random, LONG_MS)));
    await audit.until(() => mover.handled.length > 0);
    return page;
  }));
  await audit.pause(between(random, 0, 400));
  if (freezes) first.host.freeze();
  // A page may be gone without a word.
  for (const page of freezes ? [] : begun) if (random() < 0.5) page.close();
  const works = await Promise.all(movers.map(async (mover) => {
    const away = await mover.enter(other);
    const work = mover.work(1 + Math.floor(3 * random()), 0);
    away.send(...work);
    await mover.acknowledged(away, "of the other node");
    if (random() < 0.7) away.close();
    return work;
  }));
  // The other node may release its claims before the first one renews.
  if (random() < 0.7) await audit.pause(between(random, 0, BACK_MS));
  if (freezes) first.host.thaw();
  await audit.pause(between(random, 0, BACK_MS));
  await Promise.all(movers.map(async (mover, i) => {
    const back = await mover.enter(first);
    const work = works[i]!;
    // The acknowledgements of the last messages were lost.
    back.send(...work.slice(Math.floor(random() * work.length)), ...mover.work(2, 0));
    await mover.acknowledged(back, "of the first node");
    // A frozen node cannot renew the claim of a message under way.
    if (!freezes) mover.examineAtOnce();
  }));
}
