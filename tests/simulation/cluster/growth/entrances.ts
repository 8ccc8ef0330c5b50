/**
 * Connections that fail: they are rejected, have no token, exceed a limit, are cut at some time, or
 * break later.
 */
import type { SimulatedWebSocket } from "../../../simulator/network/websocket.ts";
import { type Examiner, outcomeOf } from "./examiner.ts";
import { HttpConnectionByHand, noteBody } from "./http_by_hand.ts";
import { MAX_SESSIONS, type Node, REJECTED, UNDECIDED } from "./nodes.ts";
import { ROUND_MS, Waits } from "./waits.ts";

/**
 * Times at which an upgrade is cut: while the request is in flight, before the server decides, and
 * just after it has decided.
 */
const CUTS_MS = [3, 20, 60] as const;

/** Headers of an upgrade request that has no socket. */
const UPGRADE = {
  upgrade: "websocket",
  connection: "Upgrade",
  "sec-websocket-version": "13",
  "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
  "sec-websocket-protocol": "skein.1",
} as const;

/** Address of raw connections. */
const ADDRESS = "192.0.2.77";

/** Connects peers that are not admitted or do not stay. */
export class Entrances {
  readonly #examiner: Examiner;
  readonly #nodes: readonly [Node, Node];
  readonly #mortal: Node;

  /**
   * Creates the peers without connecting them.
   *
   * @param nodes Two nodes.
   * @param mortal A node that dies soon, with connections that the other nodes know about.
   */
  constructor(examiner: Examiner, nodes: readonly [Node, Node], mortal: Node) {
    this.#examiner = examiner;
    this.#nodes = nodes;
    this.#mortal = mortal;
  }

  /**
   * Connects all peers.
   *
   * @param visit Name of the visit.
   */
  async run(visit: string): Promise<void> {
    const [one, other] = this.#nodes;
    const waits = new Waits();
    const sockets = [
      this.#open(one, `${REJECTED}${visit}`),
      this.#open(other, `${UNDECIDED}${visit}`),
      // The first frame would contain the token.
      this.#open(one, undefined, ["skein.1", "skein.auth"]),
      this.#open(other, visit, ["skein.0"]),
    ];
    for (const node of this.#nodes) {
      const own = `crowd-${visit}-${node.host.name}`;
      for (let page = 0; page <= MAX_SESSIONS; page++) sockets.push(this.#open(node, own));
      waits.add(this.#upgradeWithoutSocket(node, visit));
    }
    waits.add(this.#breakHttp(one, other, visit), this.#breakHttp(this.#mortal, one, visit));
    for (const afterMs of CUTS_MS) waits.add(this.#cutUpgrade(afterMs, visit));
    await this.#examiner.pause(2 * ROUND_MS);
    const [crowded] = sockets.slice(-1);
    for (const frame of ["{", `{"id":1,"request":7}`, `{"topic":"back","data":`]) {
      crowded!.send(frame);
    }
    await waits.over();
    for (const socket of sockets) socket.close(1_000);
  }

  #open(
    { host }: Node,
    token?: string,
    protocols: readonly string[] = ["skein.1"],
    machine = "entrance",
  ): SimulatedWebSocket {
    const url = new URL(`wss://${host.name}/`);
    if (token !== undefined) url.searchParams.set("token", token);
    return this.#examiner.network.sockets(this.#examiner.host(`growth-${machine}`))(url, protocols);
  }

  /** Cuts the link to the node during the handshake. */
  async #cutUpgrade(afterMs: number, visit: string): Promise<void> {
    const machine = `cut-${afterMs}`;
    for (const node of this.#nodes) {
      const socket = this.#open(node, `${machine}-${visit}`, ["skein.1"], machine);
      await this.#examiner.pause(afterMs);
      this.#examiner.cut(this.#examiner.host(`growth-${machine}`));
      socket.close(1_000);
    }
  }

  #upgradeWithoutSocket({ host, server }: Node, visit: string): Promise<string> {
    const request = new Request(`https://${host.name}/?token=${visit}`, { headers: UPGRADE });
    return outcomeOf(
      new Promise<Response>((resolve, reject) => {
        host.after(0, () => void Promise.resolve(server.fetch(request)).then(resolve, reject));
      }).then((response) => response.body?.cancel()),
    );
  }

  /** Opens connections over HTTP that all fail. */
  async #breakHttp(home: Node, away: Node, visit: string): Promise<void> {
    const user = `hand-${visit}-${home.host.name}`;
    const open = () => HttpConnectionByHand.open(home, user, ADDRESS);
    const [broken, lost] = [await open(), await open()];
    const waits = new Waits();
    const add = (asking: Promise<Response>) => waits.add(asking.then(({ body }) => body?.cancel()));
    add(broken.poll(away));
    add(broken.poll(home));
    add(broken.post(away, 1, noteBody(1)));
    add(broken.post(home, 3, noteBody(3)));
    add(broken.ask(away, { secret: "wrong", headers: { "skein-poll": "1" } }));
    for (const node of [home, away]) {
      for (let slow = 0; slow < 3; slow++) {
        const body = new ReadableStream<Uint8Array>({
          start: (controller) => controller.enqueue(noteBody(2).slice(0, 4)),
        });
        add(broken.post(node, 2, body));
      }
    }
    await this.#examiner.pause(ROUND_MS);
    add(lost.post(away, 1, noteBody(1)));
    add(lost.ask(away, { headers: { "last-event-id": "0" } }));
    add(broken.post(away, 2, Uint8Array.of(9, 7, 1)));
    await this.#examiner.inTime(waits.over(), 2 * ROUND_MS, []);
    const third = await open();
    await third.ask(away, { method: "DELETE" }).then(({ body }) => body?.cancel());
  }
}
