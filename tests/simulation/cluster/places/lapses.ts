/** Numbered messages of a client that moves while the claim of the earlier node lapses. */
import { pause } from "../../../../base/wait.ts";
import type { SimulatedWebSocket } from "../../../../testing/simulation/network/websocket.ts";
import type { Audit } from "../audit/audit.ts";
import { between, oneOf, Service, type ServiceNode } from "./service.ts";

/** Times of a handler, in milliseconds: within the claim of a node, and beyond a renewal. */
const HANDLER_MS = [0, 700, 2_600] as const;

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
      for (const line of `${data}`.split("\n")) {
        if (line === "") continue;
        const { ack } = JSON.parse(line) as { readonly ack?: number };
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

/**
 * Sends to one node, then to another one while the first may be frozen, then to the first again: each
 * message is handled once, in order, although the last ones of the other node are repeated.
 *
 * @param audit The audit.
 */
export async function auditLapses(audit: Audit): Promise<void> {
  const random = audit.chanceOf("lapses");
  const handled: number[] = [];
  const service = new Service(audit, "lapses", {
    onMessage: async ({ host }, { data }) => {
      const { n, ms } = data as Work;
      handled.push(n);
      if (ms > 0) await pause(host.runtime, ms);
    },
  });
  const [first, other] = [service.start(), service.start()];
  await Promise.all([first, other].map(({ server }) => server.nodes!.ready));
  let next = Math.floor(3 * random());
  const pages: NumberedPage[] = [];
  const enter = async (node: ServiceNode) => {
    const page = new NumberedPage(audit, node);
    pages.push(page);
    await audit.until(() => page.isOpen);
    return page;
  };
  const numbers = (count: number, ms = 0): Work[] =>
    Array.from({ length: count }, () => ({ n: next += 1 + Math.floor(2 * random()), ms }));
  const sent: number[] = [];
  const acked = async (page: NumberedPage, what: string) => {
    await audit.until(() => page.acknowledged >= next, ACK_MS);
    audit.examine("places", `acknowledged number ${what}`, next, page.acknowledged);
  };
  const send = (page: NumberedPage, work: readonly Work[]) => {
    sent.push(...work.map(({ n }) => n));
    page.send(...work);
  };

  const before = await enter(first);
  send(before, numbers(1, oneOf(random, HANDLER_MS)));
  await audit.until(() => handled.length > 0);
  await audit.pause(between(random, 0, 400));
  const freezes = random() < 0.7;
  if (freezes) first.host.freeze();
  // The page may be gone without a word.
  else if (random() < 0.5) before.close();
  const away = await enter(other);
  const work = numbers(1 + Math.floor(3 * random()));
  send(away, work);
  await acked(away, "of the other node");
  if (random() < 0.5) away.close();
  if (freezes) first.host.thaw();
  await audit.pause(between(random, 0, BACK_MS));
  const back = await enter(first);
  // The acknowledgements of the last messages were lost.
  back.send(...work.slice(Math.floor(random() * work.length)));
  send(back, numbers(2));
  await acked(back, "of the first node");
  audit.examine("places", "handled numbers of a client that moves", sent, handled);
  for (const page of pages) page.close();
  await service.close();
}
