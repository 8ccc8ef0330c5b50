/** A reader that speaks the protocol by hand, and notes all that comes about each topic. */
import type { HistoryPosition } from "../../../../../session/wire/recovery.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../../../testing/simulation/network/network.ts";
import { envelopesOf } from "../audit.ts";
import type { Envelope } from "./wire_reader.ts";

/** Connects once, and notes answers, publications and gaps in their order. */
export class WaitingReader {
  /** The machine of the reader. */
  readonly host: Host;
  /** True between the begin and the end of the session. */
  isOpen = false;
  /** Ends of the session that the reader did not ask for. */
  readonly ends: string[] = [];
  readonly #socket: ReturnType<ReturnType<SimulatedNetwork["sockets"]>>;
  readonly #heard = new Map<string, Envelope[]>();
  /** Topics of the questions, by id. */
  readonly #questions: string[] = [];

  /**
   * Connects.
   *
   * @param network The network.
   * @param parts The machines of the reader and of the node.
   */
  constructor(
    network: SimulatedNetwork,
    { host, node }: { readonly host: Host; readonly node: Host },
  ) {
    this.host = host;
    const socket = this.#socket = network.sockets(host)(new URL(`wss://${node.name}/`), [
      "skein.1",
    ]);
    socket.onmessage = ({ data }) => envelopesOf<Envelope>(data).forEach((one) => this.#take(one));
    socket.onclose = ({ code, reason }) => {
      if (this.isOpen) this.ends.push(`${code} ${reason}`);
      this.isOpen = false;
    };
  }

  /**
   * Asks for a topic.
   *
   * @param topic The topic.
   * @param start The place.
   */
  ask(
    topic: string,
    start: { readonly since?: HistoryPosition; readonly last?: number } = {},
  ): void {
    const id = this.#questions.push(topic);
    this.#socket.send(JSON.stringify({ subscribe: topic, id, ...start }));
  }

  /**
   * Lists what came about a topic.
   *
   * @param topic The topic.
   * @returns The envelopes, the oldest first.
   */
  heard(topic: string): readonly Envelope[] {
    return this.#heard.get(topic) ?? [];
  }

  /** Ends the session. */
  close(): void {
    this.isOpen = false;
    this.#socket.close();
  }

  #take(envelope: Envelope): void {
    const { hello, ping, reply, topic, gap } = envelope;
    if (hello !== undefined) this.isOpen = true;
    if (ping !== undefined) this.#socket.send(JSON.stringify({ pong: ping }));
    const about = reply === undefined ? topic ?? gap : this.#questions[reply - 1];
    if (about === undefined) return;
    const heard = this.#heard.get(about);
    if (heard === undefined) this.#heard.set(about, [envelope]);
    else heard.push(envelope);
  }
}

/**
 * Tells an answer.
 *
 * @param envelope An envelope.
 * @returns True for an answer.
 */
export function isAnswer({ reply }: Envelope): boolean {
  return reply !== undefined;
}

/**
 * Shows an envelope in few words.
 *
 * @param envelope An answer, a gap, or a publication whose data has the number `n`.
 * @returns The words.
 */
export function textOf({ reply, error, data, gap, reason, offset, dropped }: Envelope): string {
  if (error !== undefined) return `failure ${error.code}`;
  if (gap !== undefined) return `gap ${reason} ${offset}`;
  if (dropped !== undefined) return `dropped ${dropped}`;
  const content = Object(data) as Envelope & { readonly n?: string; readonly recovered?: boolean };
  if (reply === undefined) return `${content.n}`;
  const outcome = content.recovered ? "recovered" : content.reason ?? "-";
  return `answer ${outcome} ${content.offset}`;
}
