/** Queries of one inspector to all nodes of the broker. */
import {
  compareRows,
  type ListQuestion,
  type ListReply,
  type ListRow,
  MAX_ROWS,
  type Question,
  readQuestion,
  type RepliesByKind,
  type RoomReply,
} from "./questions.ts";
import type { NodeView } from "./node_view.ts";
import { NodeCallError, NodeCalls } from "../../pubsub/nodes/node_calls.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { TimeoutError } from "../../errors.ts";

const NAME = "inspect";

/** Longest wait for the response of another node, in milliseconds. */
const REPLY_MS = 1_500;

/**
 * Wait for a node whose last response was late, in milliseconds, so that it does not delay the
 * others.
 */
const LATE_MS = 250;

/** Maximum number of nodes that are queried; the others are only counted. */
const MAX_NODES = 100;

/** A node, as pages see it. */
export interface NodeFacts {
  readonly id: string;
  /** Display name of the node. */
  readonly name: string;
  /** True for the node that serves the page. */
  readonly isSelf: boolean;
}

/** The response of one node, or the reason why there is none. */
export type NodeReply<A> =
  & { readonly node: NodeFacts }
  & ({ readonly reply: A } | { readonly failure: string });

/** Queries this node and the others. */
export class Cluster implements AsyncDisposable {
  readonly #view: NodeView;
  readonly #nodes: Nodes | undefined;
  readonly #calls: NodeCalls | undefined;
  /** Nodes whose last response was late; bounded by the nodes. */
  readonly #late = new Set<string>();

  /**
   * Starts to respond to queries of other nodes.
   *
   * @param nodes The nodes; `undefined` for a server without a broker.
   * @param onError Receives errors that occur when responding to other nodes. MUST NOT throw.
   */
  constructor(view: NodeView, nodes: Nodes | undefined, onError: (error: unknown) => void) {
    this.#view = view;
    this.#nodes = nodes;
    this.#calls = nodes && new NodeCalls({
      nodes,
      name: NAME,
      onError,
      respond: async (data) => {
        const question = readQuestion(JSON.parse(decoder.decode(data)));
        if (question === undefined) throw new TypeError("Cannot respond: unknown question");
        return encoder.encode(JSON.stringify(await view.replyTo(question)));
      },
    });
  }

  /** Resolves once other nodes can query this node. Never rejects. */
  get ready(): Promise<void> {
    return this.#calls?.ready ?? Promise.resolve();
  }

  /** Queries all nodes, this one first. */
  async all<Q extends Question>(question: Q): Promise<NodeReply<RepliesByKind[Q["kind"]]>[]> {
    const nodes = this.#list();
    return await Promise.all(nodes.map((node) => this.#ask(node, question)));
  }

  /** Queries one node. */
  async one<Q extends Question>(
    id: string,
    question: Q,
  ): Promise<NodeReply<RepliesByKind[Q["kind"]]>> {
    const node = this.#list().find((known) => known.id === id) ??
      { id, name: "", isSelf: false };
    return await this.#ask(node, question);
  }

  /** Lists the nodes, without those beyond the limit. */
  #list(): NodeFacts[] {
    const { id = "", name = "" } = this.#nodes ?? {};
    const others = this.#nodes?.others().slice(0, MAX_NODES - 1) ?? [];
    return [
      { id, name, isSelf: true },
      ...others.map((node) => ({
        id: node.id,
        name: node.name,
        isSelf: false,
      })),
    ];
  }

  async #ask<Q extends Question>(
    node: NodeFacts,
    question: Q,
  ): Promise<NodeReply<RepliesByKind[Q["kind"]]>> {
    if (node.isSelf) return { node, reply: await this.#view.replyTo(question) };
    const { id } = node;
    try {
      if (this.#calls === undefined) {
        throw new NodeCallError("gone", "this server has no other nodes");
      }
      const timeoutMs = this.#late.has(id) ? LATE_MS : REPLY_MS;
      const reply = await this.#calls.call(id, encoder.encode(JSON.stringify(question)), {
        timeoutMs,
      });
      this.#late.delete(id);
      return { node, reply: JSON.parse(decoder.decode(reply)) };
    } catch (error) {
      const failure = failureCode(error);
      if (failure === undefined) throw error;
      if (failure === "late") this.#late.add(id);
      for (const late of this.#late) if (!this.#nodes?.has(late)) this.#late.delete(late);
      return { node, failure };
    }
  }

  /** Ends all queries. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#calls?.[Symbol.asyncDispose]();
  }
}

/** Returns the reason for pages; `undefined` for an error of this node. */
function failureCode(error: unknown): string | undefined {
  if (error instanceof NodeCallError) return error.code;
  return error instanceof TimeoutError ? "late" : undefined;
}

/** Merges the lists of all nodes: sessions are concatenated, everything else is merged by name. */
export function mergeLists(
  question: ListQuestion,
  replies: readonly NodeReply<ListReply>[],
): ListReply {
  const lists = replies.flatMap((one) => "reply" in one ? [one.reply] : []);
  const sum = (pick: (list: ListReply) => number) =>
    lists.reduce((total, list) => total + pick(list), 0);
  const all = lists.flatMap(({ rows }) => rows);
  if (question.list === "sessions" || lists.length === 1) {
    const rows = all.sort(compareRows(question)).slice(0, MAX_ROWS);
    return { rows, matched: sum(({ matched }) => matched), total: sum(({ total }) => total) };
  }
  const merged = new Map<string, ListRow>();
  for (const row of all) {
    const name = rowName(row);
    const before = merged.get(name);
    merged.set(name, before === undefined ? row : mergeRows(before, row));
  }
  const rows = [...merged.values()].sort(compareRows(question)).slice(0, MAX_ROWS);
  // Several nodes may have the same names, and each node reports its own, so the largest number is
  // a lower bound.
  const most = (pick: (list: ListReply) => number) => Math.max(merged.size, ...lists.map(pick));
  return { rows, matched: most(({ matched }) => matched), total: most(({ total }) => total) };
}

function rowName(row: ListRow): string {
  return "topic" in row ? row.topic : "room" in row ? row.room : row.id;
}

/** Merges the rows of two nodes. */
function mergeRows(a: ListRow, b: ListRow): ListRow {
  const nodes = "nodes" in a && "nodes" in b ? a.nodes + b.nodes : 1;
  // Each node with subscribers receives every publication.
  if ("topic" in a && "topic" in b) {
    return {
      topic: a.topic,
      subscribers: a.subscribers + b.subscribers,
      publications: Math.max(a.publications, b.publications),
      perSecond: Math.max(a.perSecond, b.perSecond),
      offset: a.offset === undefined ? b.offset : Math.max(a.offset, b.offset ?? 0),
      nodes,
    };
  }
  // Each node knows the users of all.
  if ("room" in a && "room" in b) {
    const users = Math.max(a.users, b.users);
    return { room: a.room, users, sessions: a.sessions + b.sessions, nodes };
  }
  if ("readers" in a && "readers" in b) {
    return {
      id: a.id,
      readers: a.readers + b.readers,
      writer: a.writer ?? b.writer,
      isResponse: a.isResponse || b.isResponse,
      offset: a.offset ?? b.offset,
      waiting: a.waiting + b.waiting,
      nodes,
    };
  }
  return a;
}

/**
 * Selects the longest list of members, because a node without the room may have no members to
 * report.
 */
export function mergeRooms(replies: readonly NodeReply<RoomReply>[]): RoomReply {
  let best: RoomReply = { users: 0, members: [] };
  for (const one of replies) {
    if ("reply" in one && one.reply.users > best.users) best = one.reply;
  }
  return best;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();
