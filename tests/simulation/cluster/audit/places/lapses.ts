/** Numbered messages of a client that moves while the claim of the earlier node lapses. */
import { pause } from "../../../../../base/wait.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import { Service, type ServiceNode } from "./service.ts";

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

/** A message of the page. */
interface Work {
  readonly n: number;
  readonly ms: number;
}

/** A page with numbered messages, some of which are sent again. */
class NumberedPage {
  /** The newest acknowledged number. */
  acknowledged = -1;
  readonly #socket: SimulatedWebSocket;
  #isNamed = false;

  constructor(audit: Audit, node: ServiceNode) {
    const url = new URL(`wss://${node.host.name}/?token=mover`);
    this.#socket = audit.network.sockets(audit.host("mover"))(url, ["skein.1"]);
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
      const name = this.#isNamed ? {} : { client: "mover" };
      this.#isNamed = true;
      this.#socket.send(JSON.stringify({ topic: "work", data, seq: data.n, ...name }));
    }
  }

  /** Closes the connection. */
  close(): void {
    this.#socket.close(1_000);
  }
}

/** The client, both nodes, and the handled messages. */
class Mover {
  readonly audit: Audit;
  readonly random: () => number;
  readonly service: Service;
  readonly nodes: readonly [ServiceNode, ServiceNode];
  /** All numbers, in order. */
  readonly sent: number[] = [];
  /** Numbers in the order of the handlers' starts. */
  readonly handled: number[] = [];
  readonly #pages: NumberedPage[] = [];
  #running = 0;
  #mostAtOnce = 0;
  #next: number;

  constructor(audit: Audit) {
    this.audit = audit;
    this.random = audit.random;
    this.#next = Math.floor(3 * this.random());
    this.service = new Service(audit, "lapses", {
      onMessage: async ({ host }, { data }) => {
        const { n, ms } = data as Work;
        this.handled.push(n);
        this.#mostAtOnce = Math.max(this.#mostAtOnce, ++this.#running);
        if (ms > 0) await pause(host.runtime, ms);
        this.#running--;
      },
    });
    this.nodes = [this.service.start(), this.service.start()];
  }

  /** Opens a page at a node. */
  async enter(node: ServiceNode): Promise<NumberedPage> {
    const page = new NumberedPage(this.audit, node);
    this.#pages.push(page);
    await this.audit.until(() => page.isOpen);
    return page;
  }

  /** Makes messages with the next numbers. */
  work(count: number, ms: number): Work[] {
    return Array.from({ length: count }, () => {
      this.#next += 1 + Math.floor(2 * this.random());
      this.sent.push(this.#next);
      return { n: this.#next, ms };
    });
  }

  /** Waits until all numbers are acknowledged. */
  async acknowledged(page: NumberedPage, what: string): Promise<void> {
    await this.audit.until(() => page.acknowledged >= this.#next, ACK_MS);
    this.audit.examine("places", `acknowledged number ${what}`, this.#next, page.acknowledged);
  }

  /** Examines that no two messages were handled at once. */
  examineAtOnce(): void {
    this.audit.examine("places", "handlers of a client at once", 1, this.#mostAtOnce);
  }

  /** Closes all pages and nodes. */
  async close(): Promise<void> {
    for (const page of this.#pages) page.close();
    await this.service.close();
  }
}

/**
 * Sends numbered messages to two nodes in turn, and repeats the last ones: each is handled once, in
 * order.
 *
 * @param audit The audit.
 */
export async function auditLapses(audit: Audit): Promise<void> {
  const mover = new Mover(audit);
  await Promise.all(mover.nodes.map(({ server }) => server.nodes!.ready));
  await (mover.random() < 0.5 ? stroll(mover) : lapse(mover));
  audit.examine("places", "handled numbers of a client that moves", mover.sent, mover.handled);
  await mover.close();
}

/** Moves early or late, with a word or without, and repeats messages without an acknowledgement. */
async function stroll(mover: Mover): Promise<void> {
  const { audit, random, nodes } = mover;
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

/** Moves while the first node may be frozen for longer than the claim of the client, and back. */
async function lapse(mover: Mover): Promise<void> {
  const { audit, random, handled, nodes: [first, other] } = mover;
  const before = await mover.enter(first);
  before.send(...mover.work(1, oneOf(random, LONG_MS)));
  await audit.until(() => handled.length > 0);
  await audit.pause(between(random, 0, 400));
  const freezes = random() < 0.6;
  if (freezes) first.host.freeze();
  // The page may be gone without a word.
  else if (random() < 0.5) before.close();
  const away = await mover.enter(other);
  const work = mover.work(1 + Math.floor(3 * random()), 0);
  away.send(...work);
  await mover.acknowledged(away, "of the other node");
  if (random() < 0.5) away.close();
  if (freezes) first.host.thaw();
  await audit.pause(between(random, 0, BACK_MS));
  const back = await mover.enter(first);
  // The acknowledgements of the last messages were lost.
  back.send(...work.slice(Math.floor(random() * work.length)), ...mover.work(2, 0));
  await mover.acknowledged(back, "of the first node");
  // A frozen node cannot renew the claim of a message under way.
  if (!freezes) mover.examineAtOnce();
}
