/** A raw reader of topics that checks the server against section 10 of the protocol. */
import { assert, assertEquals } from "@std/assert";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { Host } from "../simulator/mod.ts";
import type { World } from "./world.ts";

/** Maximum wait before the next connection, in milliseconds. */
const AGAIN_MS = 200;

/** The start of a subscription. */
export interface Start {
  readonly since?: HistoryPosition | undefined;
  readonly last?: number | undefined;
}

/** A publication as the store stored it. */
export interface Taken {
  readonly epoch: string;
  readonly offset: number;
  readonly tag: string | undefined;
  readonly atMs: number;
}

/** The state of the store. Replies are checked against it. */
export interface Truth {
  /** Number of times that the store lost all publications. */
  readonly losses: number;
  /** Number of failed reads of histories since the last state without faults. */
  readonly failures: number;
  /** Topics whose publications a node has missed. */
  readonly missed: ReadonlySet<string>;
  /** Epoch of the current histories, if known. */
  readonly epoch: string | undefined;
  /** Returns a publication by the number in its data. */
  taken(n: number): Taken | undefined;
  /** Returns the newest offset of a topic. */
  headOf(topic: string): number;
  /** Returns the newest offset that a topic no longer keeps. */
  forgottenOf(topic: string): number;
}

/** The parts of a {@linkcode TopicReader}. */
export interface TopicReaderOptions {
  readonly name: string;
  readonly truth: Truth;
  /** Picks the node of the next connection. */
  readonly pick: () => Host;
  readonly hasHistory: (topic: string) => boolean;
}

/** The parts of an envelope that a reader uses. */
interface Envelope extends Partial<HistoryPosition> {
  readonly hello?: unknown;
  readonly ping?: number;
  readonly reply?: number;
  readonly error?: { readonly code: string };
  readonly data?: unknown;
  readonly topic?: string;
  readonly skip?: string;
  readonly gap?: string;
  readonly reason?: string;
  readonly prev?: number;
  readonly dropped?: number;
}

/** The data of a reply. */
interface Reply extends Envelope {
  readonly recovered?: boolean;
}

/** A pending request, with the state of the store when it was sent. */
interface Question extends Start {
  readonly isLeave: boolean;
  readonly head: number;
  readonly forgotten: number;
  readonly losses: number;
}

/** State of one topic. */
class Following {
  /** True if the reader wants the topic. */
  isWanted = false;
  /** True between the server's replies to the subscribe and to the unsubscribe. */
  isInForce = false;
  place: HistoryPosition | undefined;
  /** Pending requests by id. The oldest comes first. */
  readonly questions = new Map<number, Question>();
  /** The request whose reply was `recovered: true`, until the next publication. */
  recovered: Question | undefined;
  /** True after a reply that didn't use the store. The place may then be beyond the head. */
  isUnsure = false;
  /** Number of notices of interruptions. */
  interruptions = 0;
  /** Number of the last publication. */
  newest = 0;
}

/** Reads topics. Reconnects when a connection ends, and continues after the last positions. */
export class TopicReader {
  /** The machine. */
  readonly host: Host;
  /** The machine of the node. */
  node: Host;
  /**
   * Time until which the server may end the session, for example because the connection is blocked.
   */
  mayEndUntilMs = 0;
  readonly #world: World;
  readonly #options: TopicReaderOptions;
  readonly #topics = new Map<string, Following>();
  #socket: WebSocket | undefined;
  #isOpen = false;
  #isClosed = false;
  #isAsked = false;
  #next = 1;

  /** Connects. */
  constructor(world: World, options: TopicReaderOptions) {
    this.#world = world;
    this.#options = options;
    this.host = world.host(options.name);
    this.node = this.#connect();
  }

  /** Returns the state of a topic. */
  of(topic: string): Following {
    let following = this.#topics.get(topic);
    if (following === undefined) this.#topics.set(topic, following = new Following());
    return following;
  }

  /** Returns true if the topic is live and no request is pending. */
  follows(topic: string): boolean {
    const { isWanted, isInForce, questions } = this.of(topic);
    return this.#isOpen && isWanted && isInForce && questions.size === 0;
  }

  /** Returns true if each wanted topic is live and no request is pending. */
  get isQuiet(): boolean {
    return this.#isOpen &&
      [...this.#topics.values()].every(({ isWanted, isInForce, questions }) =>
        questions.size === 0 && isWanted === isInForce
      );
  }

  /** Subscribes, or subscribes again. Ignored while a request is pending. */
  ask(topic: string, start: Start = {}): void {
    const following = this.of(topic);
    const newest = [...following.questions.values()].at(-1);
    if (newest !== undefined && !newest.isLeave) return;
    following.isWanted = true;
    if (this.#isOpen) this.#ask(topic, start);
  }

  /** Unsubscribes. */
  leave(topic: string): void {
    const following = this.of(topic);
    if (!following.isWanted) return;
    following.isWanted = false;
    if (!this.#isOpen) return;
    const id = this.#next++;
    following.questions.set(id, { ...this.#stateOf(topic), isLeave: true });
    this.#send({ unsubscribe: topic, id });
  }

  /** Publishes without an echo. */
  publish(topic: string, n: number): void {
    if (!this.#isOpen) return;
    const { name } = this.host;
    this.#send({
      publish: topic,
      data: { n, by: name },
      id: this.#next++,
      echo: false,
      client: name,
    });
  }

  /** Ends the connection. The server may not notice. */
  disconnect(isSilent: boolean): void {
    this.#isAsked = true;
    if (isSilent) this.#world.cut(this.host, "server");
    else this.#socket?.close();
  }

  /** Ends the reader. */
  close(): void {
    this.#isClosed = this.#isAsked = true;
    this.#socket?.close();
  }

  #connect(): Host {
    const node = this.#options.pick();
    this.#isAsked = false;
    const url = new URL(`wss://${node.name}/`);
    const socket = this.#world.network.sockets(this.host)(url, ["skein.1"]);
    this.#socket = socket as unknown as WebSocket;
    socket.onmessage = ({ data }) => {
      for (const line of `${data}`.split("\n")) this.#take(JSON.parse(line));
    };
    socket.onclose = ({ code, reason }) => {
      const mayEnd = this.#isAsked || !this.#isOpen || this.#world.nowMs < this.mayEndUntilMs;
      assert(mayEnd, `a session ended: ${code} ${reason}`);
      this.#isOpen = false;
      for (const following of this.#topics.values()) {
        following.questions.clear();
        following.isInForce = false;
        following.recovered = undefined;
      }
      if (this.#isClosed) return;
      const { host } = this;
      host.after(AGAIN_MS * host.runtime.random(), () => void (this.node = this.#connect()));
    };
    return node;
  }

  #send(envelope: unknown): void {
    this.#socket!.send(JSON.stringify(envelope));
  }

  #stateOf(topic: string): Omit<Question, "isLeave"> {
    const { truth } = this.#options;
    const { losses } = truth;
    return { head: truth.headOf(topic), forgotten: truth.forgottenOf(topic), losses };
  }

  #ask(topic: string, { since, last }: Start): void {
    const id = this.#next++;
    this.of(topic).questions.set(id, { ...this.#stateOf(topic), since, last, isLeave: false });
    this.#send({ subscribe: topic, id, since, last, client: this.host.name });
  }

  #take(envelope: Envelope): void {
    const { hello, ping, reply, topic, skip, gap, dropped } = envelope;
    if (hello !== undefined) return this.#resume();
    if (ping !== undefined) return this.#send({ pong: ping });
    if (reply !== undefined) return this.#takeReply(reply, envelope);
    if (gap !== undefined) return this.#takeGap(gap, envelope);
    assertEquals(dropped, undefined);
    if (topic !== undefined || skip !== undefined) {
      this.#takePublication((topic ?? skip)!, envelope);
    }
  }

  #resume(): void {
    this.#isOpen = true;
    for (const [topic, { isWanted, place }] of this.#topics) {
      if (isWanted) this.#ask(topic, { since: place });
    }
  }

  #takeReply(reply: number, { error, data }: Envelope): void {
    for (const [topic, following] of this.#topics) {
      const question = following.questions.get(reply);
      if (question === undefined) continue;
      following.questions.delete(reply);
      if (error !== undefined) {
        // Only a newer request from the client supersedes one.
        assertEquals(error.code, "superseded");
        return assert(following.questions.size > 0, "a newer request");
      }
      following.recovered = undefined;
      following.isInForce = !question.isLeave;
      if (!question.isLeave && this.#options.hasHistory(topic)) {
        this.#begin(topic, question, data as Reply);
      }
    }
  }

  /** Adopts the position of a reply after checking its parts (10.7, 10.14). */
  #begin(topic: string, question: Question, reply: Reply): void {
    const { truth } = this.#options;
    const following = this.of(topic);
    const { since, last } = question;
    const { epoch, offset = 0, tag, recovered, reason } = reply;
    const about = `the reply ${JSON.stringify(reply)} to ${JSON.stringify({ since, last })}`;
    following.place = epoch === undefined ? undefined : { epoch, offset, ...(tag && { tag }) };
    following.isUnsure = reason === "unavailable";
    following.recovered = recovered ? question : undefined;
    assertEquals(recovered !== undefined, since !== undefined, about);
    if (epoch === undefined) assertEquals(reason, "unavailable", about);
    if (recovered) assertEquals([epoch, offset], [since!.epoch, since!.offset], about);
    if (reason === "unavailable") {
      assert(truth.failures > 0, `no read failed: ${about}`);
      return assert(since?.epoch !== epoch || offset >= (since?.offset ?? 0), `back: ${about}`);
    }
    if (reason === "new-epoch") {
      return assert(since!.epoch !== epoch || since!.tag === "wrong", `same epoch: ${about}`);
    }
    // A node may still reply with data from the store's previous life.
    if (question.losses !== truth.losses || epoch !== truth.epoch) return;
    const [head, forgotten] = [truth.headOf(topic), truth.forgottenOf(topic)];
    assert(offset <= head, `beyond ${head}: ${about}`);
    if (since?.tag === "wrong") assert(since.offset <= forgotten, `another publication: ${about}`);
    if (reason === "too-old") {
      assert(since!.offset < forgotten, `kept after ${forgotten}: ${about}`);
    } else if (reason === "beyond-head") assert(since!.offset > question.head, `known: ${about}`);
    else assertEquals(reason, undefined, about);
    if (since === undefined && last !== undefined) {
      const latest = Math.max(forgotten, head - last, question.forgotten);
      assert(offset <= latest, `too few, must start at ${latest}: ${about}`);
    }
  }

  #takeGap(topic: string, { reason = "", epoch, offset = 0, tag }: Envelope): void {
    const { truth, hasHistory } = this.#options;
    const following = this.of(topic);
    const { place, recovered, isUnsure } = following;
    const about = `the gap ${reason} to ${epoch} ${offset} of ${topic}, from ${place?.offset}`;
    assert(following.isInForce, about);
    if (!hasHistory(topic)) {
      assertEquals(reason, "interrupted");
      following.interruptions++;
      return;
    }
    const isOther = place !== undefined && place.epoch !== epoch;
    assertEquals(reason === "new-epoch", isOther, about);
    if (isOther) assert(truth.losses > 0, `no loss: ${about}`);
    else if (reason === "unavailable") assert(truth.failures > 0, `no read failed: ${about}`);
    else if (reason === "beyond-head") assert(isUnsure, `known place: ${about}`);
    else assertEquals(reason, "too-old", about);
    if (reason === "too-old" && truth.losses === 0) {
      assert(
        offset <= truth.forgottenOf(topic),
        `kept after ${truth.forgottenOf(topic)}: ${about}`,
      );
    }
    // A node that has missed nothing knows what is gone before it promises the rest.
    if (recovered?.losses === truth.losses && truth.failures === 0 && !truth.missed.has(topic)) {
      assert(place!.offset >= recovered.forgotten, `gone before the reply: ${about}`);
    }
    if (place !== undefined && !isOther) {
      assertEquals(offset < place.offset, reason === "beyond-head", `direction: ${about}`);
    }
    following.recovered = undefined;
    following.isUnsure = reason === "unavailable";
    following.place = { epoch: epoch!, offset, ...(tag && { tag }) };
  }

  /**
   * Accepts a publication if none is missing between it and the reader's place (10.6, 10.8, 10.13).
   */
  #takePublication(topic: string, { data, offset = 0, prev = 0, tag, skip }: Envelope): void {
    const following = this.of(topic);
    const { place, isInForce } = following;
    const { n = 0, by } = Object(data) as { readonly n?: number; readonly by?: string };
    const about = `publication ${n || "skipped"} at ${offset} after ${prev} of ${topic}`;
    assert(isInForce, `not subscribed: ${about}`);
    if (skip === undefined) {
      assert(by !== this.host.name, `echo: ${about}`);
      following.newest = n;
    }
    if (!this.#options.hasHistory(topic)) return;
    assert(place !== undefined, `no place: ${about}`);
    assert(prev <= place.offset && offset > place.offset, `at ${place.offset}: ${about}`);
    const taken = this.#options.truth.taken(n);
    if (skip === undefined) {
      assertEquals([place.epoch, offset], [taken?.epoch, taken?.offset], about);
    }
    following.recovered = undefined;
    following.isUnsure = false;
    following.place = { epoch: place.epoch, offset, ...(tag && { tag }) };
  }
}
