/** A reader that speaks the protocol over a WebSocket of its own, and holds the server to section 10. */
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../../../testing/simulation/network/network.ts";
import type { HistoryPosition } from "../../../../../session/wire/recovery.ts";
import { envelopesOf } from "../audit.ts";
import type { UnsteadyBroker } from "./unsteady_broker.ts";
import type { UnsteadyEngine } from "./unsteady_engine.ts";

/** Longest wait before the next connection, in milliseconds. */
const AGAIN_MS = 200;

/** The parts of an envelope of the server that a reader uses. */
export interface Envelope {
  readonly hello?: unknown;
  readonly ping?: number;
  readonly reply?: number;
  readonly error?: { readonly code: string };
  readonly data?: unknown;
  readonly topic?: string;
  readonly skip?: string;
  readonly gap?: string;
  readonly reason?: string;
  readonly epoch?: string;
  readonly offset?: number;
  readonly prev?: number;
  readonly tag?: string;
  readonly dropped?: number;
}

/** The place from which a reader asks for a topic. */
export interface Start {
  readonly since?: HistoryPosition | undefined;
  readonly last?: number | undefined;
}

/** A request for a topic, or to leave a topic, without an answer so far. */
interface Question extends Start {
  readonly isLeave: boolean;
  /** State of the history at the time of the question. */
  readonly head: number;
  readonly forgotten: number;
  readonly lives: number;
  readonly failures: number;
}

/** A question about no place. */
const NOTHING = { head: 0, forgotten: 0, lives: 0, failures: 0 } as const;

/** State of one topic. */
interface Following {
  /** True if the application wants the topic. */
  isWanted: boolean;
  /** True from an answer of the server to the answer about the leave. */
  isInForce: boolean;
  place: HistoryPosition | undefined;
  /** Unanswered requests by id, the oldest first. */
  readonly questions: Map<number, Question>;
  /** The question whose answer was `recovered: true`, until the first publication behind. */
  recovered: Question | undefined;
  /** True behind an answer or a gap without the engine: the place may be beyond the head. */
  isUnsure: boolean;
  /** Notices of an interruption. */
  interruptions: number;
  /** Text of the last publication. */
  text: string | undefined;
}

/** A node, as a reader uses one. */
export interface ReadNode {
  readonly host: Host;
  /** The broker of the present life. */
  readonly broker: UnsteadyBroker;
}

/** Collaborators of a {@linkcode WireReader}. */
export interface WireReaderOptions {
  readonly network: SimulatedNetwork;
  readonly host: Host;
  readonly engine: UnsteadyEngine;
  /** Picks the node of the next connection. */
  readonly pickNode: () => ReadNode;
  /** True for a topic with a history. */
  readonly hasHistory: (topic: string) => boolean;
  /** Takes a difference from the protocol. */
  readonly onDifference: (rule: string, expected: string, received: string) => void;
}

/**
 * Reads topics without any code of the client library.
 *
 * - No publication is missing between two that follow each other without a notice (10.6, 10.8, 10.13).
 * - After a second question only the second counts, and after a leave nothing comes (10.11, 10.12).
 * - Answers and reasons are true (10.7, 10.14), as far as the broker knows the truth.
 *
 * A reader whose connection ends comes back, and asks for the topics behind its places.
 */
export class WireReader {
  /** Name of the client. */
  readonly name: string;
  readonly #options: WireReaderOptions;
  readonly #topics = new Map<string, Following>();
  #socket: ReturnType<ReturnType<SimulatedNetwork["sockets"]>> | undefined;
  #isOpen = false;
  #isClosed = false;
  #next = 1;
  #node: ReadNode;

  /** Connects. */
  constructor(options: WireReaderOptions) {
    this.#options = options;
    this.name = options.host.name;
    this.#node = this.#connect();
  }

  /** The node of the connection, in the life at the begin of the session. */
  get node(): ReadNode {
    return this.#node;
  }

  /** The machine of the reader. */
  get host(): Host {
    return this.#options.host;
  }

  /** True once the session is open. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Topics that are wanted and in force, without an open question. */
  get quietTopics(): string[] {
    return [...this.#topics].filter(([, { isWanted, isInForce, questions }]) =>
      isWanted && isInForce && questions.size === 0
    ).map(([topic]) => topic);
  }

  /** True if each wanted topic is in force, and no question is open. */
  get isQuiet(): boolean {
    return this.#isOpen &&
      [...this.#topics.values()].every(({ isWanted, isInForce, questions }) =>
        questions.size === 0 && isWanted === isInForce
      );
  }

  /**
   * Tells the place in a topic.
   *
   * @param topic The topic.
   * @returns The last known place, also of a topic that was left.
   */
  placeOf(topic: string): HistoryPosition | undefined {
    return this.#topics.get(topic)?.place;
  }

  /**
   * Counts notices that the engine was away.
   *
   * @param topic A topic without a history.
   * @returns The number.
   */
  interruptionsOf(topic: string): number {
    return this.#topics.get(topic)?.interruptions ?? 0;
  }

  /**
   * Tells the text of the last publication.
   *
   * @param topic The topic.
   * @returns The text; undefined before the first publication with a text.
   */
  textOf(topic: string): string | undefined {
    return this.#topics.get(topic)?.text;
  }

  /**
   * Asks for a topic, or asks again; ignored while a question is open.
   *
   * @param topic The topic.
   * @param start The place.
   */
  ask(topic: string, start: Start = {}): void {
    const following = this.#following(topic);
    // A client must not ask again before the answer (10.10), unless the client left meanwhile.
    const [newest] = [...following.questions.values()].reverse();
    if (newest !== undefined && !newest.isLeave) return;
    following.isWanted = true;
    if (this.#isOpen) this.#ask(topic, following, start);
  }

  /**
   * Leaves a topic.
   *
   * @param topic The topic.
   */
  leave(topic: string): void {
    const following = this.#following(topic);
    if (!following.isWanted) return;
    following.isWanted = false;
    if (!this.#isOpen) return;
    const id = this.#next++;
    following.questions.set(id, { ...NOTHING, isLeave: true });
    this.#send({ unsubscribe: topic, id });
  }

  /**
   * Publishes, without an echo.
   *
   * @param topic The topic.
   */
  publish(topic: string): void {
    if (!this.#isOpen) return;
    const data = { by: this.name };
    this.#send({ publish: topic, data, id: this.#next++, echo: false, client: this.name });
  }

  /** Ends the connection; the reader comes back. */
  disconnect(): void {
    this.#socket?.close();
  }

  /** Ends the reader. */
  close(): void {
    this.#isClosed = true;
    this.#socket?.close();
  }

  #following(topic: string): Following {
    let following = this.#topics.get(topic);
    if (following === undefined) {
      this.#topics.set(
        topic,
        following = {
          isWanted: false,
          isInForce: false,
          place: undefined,
          questions: new Map(),
          recovered: undefined,
          isUnsure: false,
          interruptions: 0,
          text: undefined,
        },
      );
    }
    return following;
  }

  /** Connects to the next node. */
  #connect(): ReadNode {
    const { network, host, pickNode } = this.#options;
    const node = pickNode();
    const url = new URL(`wss://${node.host.name}/`);
    const socket = this.#socket = network.sockets(host)(url, ["skein.1"]);
    socket.onmessage = ({ data }) => {
      for (const envelope of envelopesOf<Envelope>(data)) this.#take(envelope);
    };
    socket.onclose = () => {
      this.#isOpen = false;
      for (const following of this.#topics.values()) {
        following.questions.clear();
        following.isInForce = false;
        following.recovered = undefined;
      }
      if (this.#isClosed) return;
      host.after(AGAIN_MS * host.runtime.random(), () => void (this.#node = this.#connect()));
    };
    return node;
  }

  #send(envelope: unknown): void {
    this.#socket!.send(JSON.stringify(envelope));
  }

  #ask(topic: string, { questions }: Following, { since, last }: Start): void {
    const { engine } = this.#options;
    const id = this.#next++;
    questions.set(id, {
      since,
      last,
      isLeave: false,
      head: engine.headOf(topic),
      forgotten: engine.forgottenOf(topic),
      lives: engine.lives,
      failures: this.#node.broker.failures,
    });
    this.#send({ subscribe: topic, id, since, last, client: this.name });
  }

  #expect(rule: string, expected: unknown, received: unknown): void {
    if (expected !== received) this.#options.onDifference(rule, `${expected}`, `${received}`);
  }

  #take(envelope: Envelope): void {
    const { hello, ping, reply, topic, skip, gap, dropped } = envelope;
    if (hello !== undefined) return this.#resume();
    if (ping !== undefined) return this.#send({ pong: ping });
    if (reply !== undefined) return this.#takeReply(reply, envelope);
    if (dropped !== undefined) return this.#expect("dropped messages", 0, dropped);
    if (gap !== undefined) return this.#takeGap(gap, envelope);
    const of = topic ?? skip;
    if (of !== undefined) this.#takePublication(of, envelope);
  }

  #resume(): void {
    this.#isOpen = true;
    const { host, broker } = this.#node;
    this.#node = { host, broker };
    for (const [topic, following] of this.#topics) {
      if (following.isWanted) this.#ask(topic, following, { since: following.place });
    }
  }

  #takeReply(reply: number, { error, data }: Envelope): void {
    for (const [topic, following] of this.#topics) {
      const question = following.questions.get(reply);
      if (question === undefined) continue;
      following.questions.delete(reply);
      if (error !== undefined) return this.#takeFailure(topic, following, error.code);
      following.recovered = undefined;
      following.isInForce = !question.isLeave;
      if (!question.isLeave && this.#options.hasHistory(topic)) {
        this.#begin(topic, question, data as Envelope & { readonly recovered?: boolean });
      }
      return;
    }
  }

  /** A refused question: only a newer request of the client replaces one. */
  #takeFailure(topic: string, { questions }: Following, code: string): void {
    this.#expect(`failure of a question about ${topic}`, "superseded", code);
    this.#expect(`newer requests for ${topic} at a superseded question`, true, questions.size > 0);
  }

  #begin(
    topic: string,
    question: Question,
    answer: Envelope & { readonly recovered?: boolean },
  ): void {
    const following = this.#following(topic);
    const { since, last } = question;
    const { epoch, offset = 0, tag, recovered, reason } = answer;
    const about = `of the answer to ${JSON.stringify({ since, last })} about ${topic}`;
    following.place = epoch === undefined
      ? undefined
      : { epoch, offset, ...(tag !== undefined && { tag }) };
    following.isUnsure = reason === "unavailable";
    this.#expect(`presence of "recovered" ${about}`, since !== undefined, recovered !== undefined);
    if (epoch === undefined) this.#expect(`reason ${about}`, "unavailable", reason);
    if (recovered) {
      this.#expect(`offset ${about}`, since!.offset, offset);
      this.#expect(`epoch ${about}`, since!.epoch, epoch);
      following.recovered = question;
    }
    if (reason === "unavailable") {
      const hasFailed = this.#node.broker.failures > question.failures;
      this.#expect(`failed reads since the question ${about}`, true, hasFailed);
      const isBack = since !== undefined && since.epoch === epoch && offset < since.offset;
      return this.#expect(`offset before that of the client ${about}`, false, isBack);
    }
    if (reason === "new-epoch") {
      return this.#expect(`truth of new-epoch ${about}`, true, since!.epoch !== epoch);
    }
    // A node may answer out of the life of the engine that has just ended.
    const { engine } = this.#options;
    if (question.lives !== engine.lives || epoch !== engine.epoch) return;
    this.#checkOffset(about, { topic, question, answer });
  }

  /** Holds the answer to a question to the state of the engine, which kept all publications meanwhile. */
  #checkOffset(
    about: string,
    { topic, question: { since, last, head, forgotten }, answer: { offset = 0, reason } }: {
      readonly topic: string;
      readonly question: Question;
      readonly answer: Envelope;
    },
  ): void {
    const { engine } = this.#options;
    const [nowHead, nowForgotten] = [engine.headOf(topic), engine.forgottenOf(topic)];
    if (offset > nowHead) this.#expect(`offset ${about}`, `at most ${nowHead}`, offset);
    if (reason === "too-old") {
      this.#expect(`truth of too-old ${about}`, true, since!.offset < nowForgotten);
    } else if (reason === "beyond-head") {
      this.#expect(`truth of beyond-head ${about}`, true, since!.offset > head);
    } else if (reason !== undefined) this.#expect(`reason ${about}`, undefined, reason);
    else if (since === undefined && last !== undefined) {
      const latest = Math.max(nowForgotten, nowHead - last, forgotten);
      this.#expect(`enough publications ${about}`, true, offset <= latest);
    }
  }

  #takeGap(topic: string, { reason = "", epoch, offset = 0, tag }: Envelope): void {
    const { engine, hasHistory } = this.#options;
    const { broker } = this.#node;
    const following = this.#following(topic);
    this.#expect(`subscription to ${topic} at a gap`, true, following.isInForce);
    if (!hasHistory(topic)) {
      this.#expect(`reason of a gap on ${topic}`, "interrupted", reason);
      following.interruptions++;
      return;
    }
    const { place, recovered, isUnsure } = following;
    const isBack = reason === "beyond-head";
    const isOther = place !== undefined && place.epoch !== epoch;
    if (isOther || reason === "new-epoch") {
      this.#expect(`reason of a gap to another epoch of ${topic}`, "new-epoch", reason);
      this.#expect(`other epoch behind a gap on ${topic}`, true, isOther);
      this.#expect(`lives of the engine before a gap on ${topic}`, true, engine.lives > 0);
    } else if (reason === "unavailable") {
      this.#expect(`failed reads before a gap on ${topic}`, true, broker.failures > 0);
    } else if (isBack) {
      this.#expect(`answer without the engine before beyond-head on ${topic}`, true, isUnsure);
    } else this.#expect(`reason of a gap on ${topic}`, "too-old", reason);
    if (reason === "too-old" && engine.lives === 0) {
      this.#expect(`truth of too-old on ${topic}`, true, offset <= engine.forgottenOf(topic));
    }
    // A node that missed publications may learn later that these are gone.
    const isWhole = broker.lostOf(topic) === 0 && recovered?.lives === engine.lives;
    if (recovered !== undefined && recovered.failures === broker.failures && isWhole) {
      const wasGone = place!.offset < recovered.forgotten;
      this.#expect(
        `recovered: true on ${topic}, behind ${place!.offset}, that was gone`,
        false,
        wasGone,
      );
    }
    if (place !== undefined && !isOther) {
      this.#expect(`direction of a gap on ${topic}`, isBack, offset < place.offset);
    }
    following.recovered = undefined;
    following.isUnsure = reason === "unavailable";
    following.place = { epoch: epoch!, offset, ...(tag !== undefined && { tag }) };
  }

  #takePublication(topic: string, { data, offset, prev, tag, skip }: Envelope): void {
    const following = this.#following(topic);
    const { place, isInForce } = following;
    this.#expect(`subscription to ${topic} at publication ${offset}`, true, isInForce);
    const { by, text } = Object(data) as { readonly by?: string; readonly text?: string };
    if (skip === undefined) this.#expect(`echo on ${topic}`, false, by === this.name);
    following.text = text;
    if (!isInForce || !this.#options.hasHistory(topic)) return;
    this.#expect(`place in ${topic} before publication ${offset}`, true, place !== undefined);
    if (place === undefined) return;
    const isNext = prev! <= place.offset && offset! > place.offset;
    this.#expect(
      `publication behind ${place.offset} of ${topic}`,
      "the next",
      isNext ? "the next" : offset,
    );
    following.recovered = undefined;
    following.isUnsure = false;
    following.place = { epoch: place.epoch, offset: offset!, ...(tag !== undefined && { tag }) };
  }
}
