/** Calls of a node whose parts come one by one, up to the bytes that a node gathers, and their ends. */
import { NodeCallError, NodeCalls } from "../../../../../pubsub/nodes/node_calls.ts";
import { joinHead, parseCallMessage } from "../../../../../pubsub/nodes/call_messages.ts";
import { INTERNAL_PREFIX } from "../../../../../pubsub/broker.ts";
import { shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import type { UserNode } from "../users/user_nodes.ts";

/** Bytes of all incomplete calls at a node, and the bytes of one that leave no more space (`NodeCalls`). */
const [MOST_BYTES, LARGE_BYTES] = [67_108_864, 16_777_216];

/** Time of a call, and of one that is late at once, in milliseconds. */
const [CALL_MS, SHORT_MS] = [20_000, 300];

/** Longest time for messages under way, in milliseconds. */
const ARRIVES_MS = 1_500;

/** Ways in which an incomplete call ends, with the answer. */
const ENDS = [
  { end: "abort", answer: undefined },
  { end: "time", answer: undefined },
  { end: "wrong part", answer: "failed" },
  { end: "wrong size", answer: "failed" },
  { end: "last part", answer: "reply" },
] as const;

/** Heads of messages that lack a field of their type or have a wrong one, which are ignored. */
const MALFORMED: readonly object[] = [
  { type: "call", part: 0, size: 1 },
  { type: "call", part: 0, size: 1, timeoutMs: "20" },
  { type: "call", part: 0, size: 1, timeoutMs: null },
  { type: "call", part: 0, size: 1, timeoutMs: -1 },
  { type: "call", part: 0, timeoutMs: CALL_MS },
  { type: "call", size: 1, timeoutMs: CALL_MS },
  { type: "call", part: 1, size: 1, timeoutMs: CALL_MS },
  { type: "call", part: 0, size: 1, timeoutMs: CALL_MS, id: "one" },
  { type: "call", part: 0, size: 1, timeoutMs: CALL_MS, node: "" },
  { type: "reply", part: 0 },
  { type: "reply", part: 0, size: 1 },
  { type: "refusal", code: "other" },
  { type: "question" },
];

/** Bytes of a reply by hand, which come in two parts. */
const REPLY_BYTES = 10;

/**
 * Parts of a reply by hand, before the right ones: the outcome of the call, and the number of messages
 * that the caller ignores. The right parts come once such a call failed, and are ignored too.
 */
const REPLIES = [
  { before: [], outcome: REPLY_BYTES, ignored: 0 },
  { before: [{ part: 0 }, { part: 0 }], outcome: REPLY_BYTES, ignored: 0 },
  { before: [{ part: 0, node: "other" }], outcome: REPLY_BYTES, ignored: 1 },
  { before: [{ part: "0" }], outcome: REPLY_BYTES, ignored: 1 },
  { before: [{ part: 1 }], outcome: "failed", ignored: 3 },
  { before: [{ part: 0 }, { part: 2 }], outcome: "failed", ignored: 3 },
  { before: [{ part: 0 }, { part: 1, size: REPLY_BYTES + 1 }], outcome: "failed", ignored: 3 },
  { before: [{ part: 0, size: LARGE_BYTES + 1 }], outcome: "failed", ignored: 3 },
  { before: [{ type: "refusal", code: "failed" }], outcome: "failed", ignored: 2 },
  { before: [{ type: "refusal", code: "busy" }], outcome: "busy", ignored: 2 },
] as const;

/** Name of the service of these calls. */
const NAME = "half";

/** The nodes, and the calls of the answering one. */
interface HalfCallsParts {
  readonly from: UserNode;
  readonly to: UserNode;
  readonly calls: NodeCalls;
}

/** Sends parts of calls by hand. */
class HalfCalls {
  readonly #audit: Audit;
  readonly #parts: HalfCallsParts;
  /** Types or codes of the answers, by number of the call. */
  readonly #answers = new Map<number, string>();
  /** Number of the newest call of the other node, which is answered by hand. */
  #asked = Promise.withResolvers<number>();
  #count = 0;

  constructor(audit: Audit, parts: HalfCallsParts) {
    this.#audit = audit;
    this.#parts = parts;
  }

  async run(): Promise<void> {
    const { from, calls } = this.#parts;
    const { broker, id } = from.server.nodes!;
    const subscription = broker.subscribe(`${INTERNAL_PREFIX}call:${NAME}:${id}`, ({ payload }) => {
      const message = parseCallMessage(payload);
      if (message?.type === "call") this.#asked.resolve(message.id);
      const answer = message?.type === "refusal" ? message.code : message?.type;
      if (answer !== undefined) this.#answers.set(message!.id, answer);
    });
    await subscription.ready;
    for (const { end, answer } of shuffled(this.#audit.random, ENDS)) {
      const size = 2 + Math.floor(1_000 * this.#audit.random());
      const call = await this.#begin(size, end === "time" ? SHORT_MS : CALL_MS);
      this.#end(call, size, end);
      await this.#until(`an incomplete call that ends by ${end}`, 0);
      await this.#examineAnswer(call, `a call that ends by ${end}`, answer);
    }
    await this.#exceed();
    for (const head of shuffled(this.#audit.random, MALFORMED)) await this.#confuse(head);
    for (const reply of shuffled(this.#audit.random, REPLIES)) await this.#answer(reply);
    await this.#fill();
    await subscription[Symbol.asyncDispose]();
    this.#expect("answered calls behind incomplete ones", 0, calls.answering);
  }

  /** Makes calls of the most bytes, and of more bytes than the answering node takes. */
  async #exceed(): Promise<void> {
    const most = await this.#begin(LARGE_BYTES, CALL_MS);
    this.#end(most, LARGE_BYTES, "abort");
    await this.#until("a call of the most bytes", 0);
    const beyond = this.#call(LARGE_BYTES + 1, CALL_MS);
    await this.#examineAnswer(beyond, "a call of too many bytes", "failed");
    this.#expect("bytes behind a call of too many bytes", 0, this.#parts.calls.gatheredBytes);
  }

  /** Sends a malformed message, which is ignored and counted. */
  async #confuse(head: object): Promise<void> {
    const { calls } = this.#parts;
    const before = calls.ignored;
    const id = ++this.#count;
    this.#send({ id, ...head }, 1);
    const what = `malformed message ${JSON.stringify(head)}`;
    await this.#audit.until(() => calls.ignored > before, ARRIVES_MS);
    this.#expect(`ignored messages behind a ${what}`, 1, calls.ignored - before);
    this.#expect(`calls behind a ${what}`, [0, 0], [calls.answering, calls.gatheredBytes]);
  }

  /** Answers a call of the other node by hand. */
  async #answer({ before, outcome, ignored }: typeof REPLIES[number]): Promise<void> {
    const { calls, from } = this.#parts;
    const ignoredBefore = calls.ignored;
    this.#asked = Promise.withResolvers();
    const calling = calls.call(from.server.nodes!.id, new Uint8Array(1), { timeoutMs: CALL_MS })
      .then((data) => data.length, codeOf);
    const reply = { type: "reply", id: await this.#asked.promise, size: REPLY_BYTES };
    for (const head of before) this.#send({ ...reply, ...head }, REPLY_BYTES / 2);
    // The caller forgets a call that failed, so that the right parts belong to no call.
    if (typeof outcome === "string") await calling;
    for (const part of [0, 1]) this.#send({ ...reply, part }, REPLY_BYTES / 2);
    const what = `a call with the answers ${JSON.stringify([...before, "reply"])}`;
    this.#expect(`outcome of ${what}`, outcome, await calling);
    await this.#audit.until(() => calls.ignored - ignoredBefore >= ignored, ARRIVES_MS);
    this.#expect(`ignored answers to ${what}`, ignored, calls.ignored - ignoredBefore);
  }

  /** Fills the bytes of a node twice: a call more is refused, unless it has one part. */
  async #fill(): Promise<void> {
    const fit = MOST_BYTES / LARGE_BYTES;
    for (let round = 0; round < 2; round++) {
      const all: number[] = [];
      for (let n = 0; n < fit; n++) all.push(await this.#begin(LARGE_BYTES, CALL_MS));
      const beyond = this.#call(2, CALL_MS);
      await this.#examineAnswer(beyond, "a call beyond the bytes of a node", "busy");
      const whole = this.#call(1, CALL_MS);
      await this.#examineAnswer(whole, "a call of one part beyond the bytes of a node", "reply");
      for (const call of all) this.#end(call, LARGE_BYTES, "abort");
      await this.#until("all incomplete calls", 0);
    }
  }

  /** Begins a call of some bytes, of which only the first byte comes. */
  async #begin(size: number, timeoutMs: number): Promise<number> {
    const before = this.#parts.calls.gatheredBytes;
    const call = this.#call(size, timeoutMs);
    await this.#until("the first part of a call", before + size);
    return call;
  }

  #call(size: number, timeoutMs: number): number {
    const id = ++this.#count;
    this.#send({ type: "call", id, timeoutMs, part: 0, size }, 1);
    return id;
  }

  #end(id: number, size: number, end: typeof ENDS[number]["end"]): void {
    const part = { type: "call", id, timeoutMs: CALL_MS, part: 1, size };
    if (end === "abort") this.#send({ type: "abort", id }, 0);
    if (end === "wrong part") this.#send({ ...part, part: 2 }, 1);
    if (end === "wrong size") this.#send({ ...part, size: size + 1 }, 1);
    if (end === "last part") this.#send(part, size - 1);
  }

  #send(head: object, bytes: number): void {
    const { from, to } = this.#parts;
    const { broker, id } = from.server.nodes!;
    const topic = `${INTERNAL_PREFIX}call:${NAME}:${to.server.nodes!.id}`;
    broker.publish({ topic, payload: joinHead({ node: id, ...head }, new Uint8Array(bytes)) });
  }

  async #until(what: string, bytes: number): Promise<void> {
    const { calls } = this.#parts;
    await this.#audit.until(() => calls.gatheredBytes === bytes, ARRIVES_MS);
    this.#expect(`bytes behind ${what}`, bytes, calls.gatheredBytes);
  }

  async #examineAnswer(call: number, what: string, expected: string | undefined): Promise<void> {
    const isDone = () => expected !== undefined && this.#answers.has(call);
    await this.#audit.until(isDone, expected === undefined ? 0 : ARRIVES_MS);
    this.#expect(`answer to ${what}`, expected, this.#answers.get(call));
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("places", what, expected, received);
  }
}

/**
 * Names the failure of a call.
 *
 * @param error The error.
 * @returns The code, or the class of another error.
 */
export function codeOf(error: unknown): string {
  return error instanceof NodeCallError ? error.code : (error as Error).constructor.name;
}

/**
 * Makes calls whose parts come one by one, and examines the bytes that the answering node gathers.
 *
 * @param audit The audit.
 * @param from The node that calls.
 * @param to The node that answers.
 */
export async function makeHalfCalls(audit: Audit, from: UserNode, to: UserNode): Promise<void> {
  const calls = new NodeCalls({
    nodes: to.server.nodes!,
    name: NAME,
    maxBytes: LARGE_BYTES,
    onError() {},
    answer: () => new Uint8Array(),
  });
  await calls.ready;
  await new HalfCalls(audit, { from, to, calls }).run();
  await calls[Symbol.asyncDispose]();
}
