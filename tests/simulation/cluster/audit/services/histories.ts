/** Histories over the HTTP API that time or bytes bound: a gap is told, whatever is left behind it. */
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import type { ServiceNode } from "../places/service.ts";
import { type Answer, ask, outcomeOf } from "./backend.ts";

/** Time to live of a publication of `brief:`, in milliseconds. */
const TTL_MS = 1_200;

/** Longest time until each reader finds the publications expired, and between two looks, in milliseconds. */
const [EXPIRED_MS, LOOK_MS] = [8_000, 100];

/** Bytes of `light:`, and characters of a publication there. */
const [LIGHT_BYTES, CHARACTERS] = [1_000, 230];

/** Fewest publications of a topic, and the range of numbers. */
const [LEAST, RANGE] = [3, 3];

/** Publications of a page that has all. */
const PLENTY = 100;

/** Histories of the topics. */
export const PAGED_HISTORIES = {
  "brief:{name}": { size: PLENTY, ttlMs: TTL_MS },
  "light:{name}": { size: PLENTY, bytes: LIGHT_BYTES },
} as const;

/** Place of a publication. */
interface Place {
  readonly offset: number;
  readonly prev: number;
}

/** Body of an answer. */
interface Page {
  readonly epoch: string;
  readonly head: number;
  readonly hasMore: boolean;
  readonly publications: readonly (Place & { readonly data?: unknown })[];
}

/**
 * Reads histories behind all of their positions, before and behind the loss of publications.
 *
 * @param audit The audit.
 * @param nodes Nodes with {@linkcode PAGED_HISTORIES}.
 */
export async function auditPages(audit: Audit, nodes: readonly ServiceNode[]): Promise<void> {
  const random = audit.chanceOf("pages");
  await Promise.all([
    new PagedTopic(audit, { nodes, random, topic: "brief:orders" }).fade(),
    new PagedTopic(audit, { nodes, random, topic: "light:orders" }).outgrow(),
  ]);
}

/** A topic, with the places of all publications. */
class PagedTopic {
  readonly #audit: Audit;
  readonly #nodes: readonly ServiceNode[];
  readonly #random: () => number;
  readonly #topic: string;
  readonly #places: Place[] = [];
  #epoch = "none";

  constructor(audit: Audit, { nodes, random, topic }: {
    readonly nodes: readonly ServiceNode[];
    readonly random: () => number;
    readonly topic: string;
  }) {
    this.#audit = audit;
    this.#nodes = nodes;
    this.#random = random;
    this.#topic = topic;
  }

  /** All publications expire, then a newer one is kept. */
  async fade(): Promise<void> {
    await this.#publishSome();
    for (const node of this.#nodes) await this.#expire(node);
    await this.#compare([]);
    await this.#publish();
    const { publications } = await this.#newest();
    // The new one expires too, beside a slow engine.
    if (publications.length === 1) await this.#compareOnce(publications);
  }

  /** Publications beyond the bytes of the history. */
  async outgrow(): Promise<void> {
    await this.#publishSome();
    await this.#publishSome();
    const { publications } = await this.#newest();
    const bytes = publications.length * CHARACTERS;
    const isBounded = bytes <= LIGHT_BYTES && bytes > 0;
    this.#expect(`${bytes} bytes, more than none and within the bound`, true, isBounded);
    await this.#compare(publications);
  }

  /** Waits until a node has no publication. */
  async #expire(node: ServiceNode): Promise<void> {
    const endMs = this.#audit.nowMs + EXPIRED_MS;
    let page = await this.#newest(node);
    while (page.publications.length > 0 && this.#audit.nowMs < endMs) {
      await this.#audit.pause(LOOK_MS);
      page = await this.#newest(node);
    }
    this.#expect("publications behind their time", 0, page.publications.length);
    this.#expect("head behind expired publications", this.#places.at(-1)!.offset, page.head);
  }

  /** Reads behind each position. */
  async #compare(kept: readonly Place[]): Promise<void> {
    const first = { offset: this.#places[0]!.prev };
    for (const { offset } of [first, ...this.#places]) await this.#readBehind(offset, kept);
  }

  /** Reads behind drawn positions, before a time to live is over. */
  async #compareOnce(kept: readonly Place[]): Promise<void> {
    const [older, last] = this.#places.slice(-3).map(({ offset }) => offset);
    const beganMs = this.#audit.nowMs;
    const answers = [await this.#read(older!), await this.#read(last!)];
    // A page that came late may be without the publication.
    if (this.#audit.nowMs - beganMs > TTL_MS / 4) return;
    this.#expectAnswer(older!, kept, answers[0]!);
    this.#expectAnswer(last!, kept, answers[1]!);
  }

  async #readBehind(after: number, kept: readonly Place[]): Promise<void> {
    this.#expectAnswer(after, kept, await this.#read(after));
    const limit = 1 + Math.floor(2 * this.#random());
    const got: number[] = [];
    let [at, hasMore] = [after, true];
    while (hasMore && got.length < this.#places.length) {
      const answer = await this.#read(at, limit);
      const page = pageOf(answer);
      if (answer.status !== 200 || page.publications.length > limit) break;
      got.push(...page.publications.map(({ offset }) => offset));
      hasMore = page.hasMore;
      if (at === got.at(-1)) break;
      at = got.at(-1) ?? at;
    }
    // Short pages may have older publications, which an engine has beyond the bound.
    const all = this.#places.filter(({ offset }) => offset > after).map(({ offset }) => offset);
    const rest = this.#restOf(after, kept) ?? all.slice(0, got.length);
    this.#expect(`pages of ${limit} behind ${after}`, rest, got);
  }

  /** The offsets behind a position; `undefined` if one is missing. */
  #restOf(after: number, kept: readonly Place[]): readonly number[] | undefined {
    const rest = this.#places.filter(({ offset }) => offset > after).map(({ offset }) => offset);
    const isKept = rest.every((one) => kept.some(({ offset }) => offset === one));
    return isKept ? rest : undefined;
  }

  #expectAnswer(after: number, kept: readonly Place[], answer: Answer): void {
    const rest = this.#restOf(after, kept);
    const what = `publications behind ${after}`;
    if (rest === undefined) return this.#expect(what, "410 too-old", outcomeOf(answer));
    const { epoch, head, hasMore, publications } = pageOf(answer);
    const expected = [this.#epoch, this.#places.at(-1)!.offset, false, rest];
    const received = [epoch, head, hasMore, publications.map(({ offset }) => offset)];
    this.#expect(what, expected, answer.status === 200 ? received : outcomeOf(answer));
  }

  async #publishSome(): Promise<void> {
    for (let left = LEAST + Math.floor(RANGE * this.#random()); left > 0; left--) {
      await this.#publish();
    }
  }

  async #publish(): Promise<void> {
    const path = `/topics/${encodeURIComponent(this.#topic)}/publications`;
    const json = { data: "x".repeat(CHARACTERS) };
    const { body } = await ask(oneOf(this.#random, this.#nodes), { path, json });
    const { epoch, offset } = (Object(body) as { readonly position?: Place & { epoch: string } })
      .position ?? { epoch: "none", offset: -1 };
    if (this.#places.length === 0) this.#epoch = epoch;
    this.#expect("epoch of a publication", this.#epoch, epoch);
    const last = this.#places.at(-1)?.offset;
    // An engine that has evicted keys cannot tell that none was before the first one.
    const prev = last ?? pageOf(await this.#ask("limit=1")).publications[0]?.prev ?? 0;
    this.#places.push({ offset, prev });
  }

  async #newest(node?: ServiceNode): Promise<Page> {
    const answer = await this.#ask(`limit=${PLENTY}`, node);
    this.#expect("newest publications", "200", outcomeOf(answer));
    const page = pageOf(answer);
    const offsets = page.publications.map(({ offset }) => offset);
    const all = this.#places.map(({ offset }) => offset);
    const newest = offsets.length === 0 ? [] : all.slice(-offsets.length);
    this.#expect("newest publications without a gap", newest, offsets);
    return page;
  }

  #read(after: number, limit: number = PLENTY): Promise<Answer> {
    return this.#ask(`limit=${limit}&epoch=${this.#epoch}&after=${after}`);
  }

  #ask(query: string, node: ServiceNode = oneOf(this.#random, this.#nodes)): Promise<Answer> {
    return ask(node, { path: `/topics/${encodeURIComponent(this.#topic)}/history?${query}` });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", `${what} of ${this.#topic}`, expected, received);
  }
}

function pageOf({ body }: Answer): Page {
  return { epoch: "none", head: -1, hasMore: false, publications: [], ...Object(body) };
}
