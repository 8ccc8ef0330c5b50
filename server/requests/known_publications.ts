/** Decisions of `onPublish` about publications that clients number, on this node and on others. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Slot } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { RequestFailure } from "../../errors.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Session } from "../../session/session.ts";

/**
 * Time for which decisions are remembered after the last publication of their client, in
 * milliseconds. Clients repeat a publication for 90 seconds, and then wait 30 seconds for the reply.
 */
export const REMEMBERED_MS = 120_000;

/**
 * Number of decided publications of a client that are remembered, the newest. A client has at most
 * 32 publications without a reply, in each of the two sessions between which it moves.
 */
export const MAX_REMEMBERED = 64;

/**
 * Clients that are remembered in addition to one for each session. A client needs a session of its
 * own, and these have shares and rates.
 */
export const MAX_FORMER_CLIENTS = 10_000;

/**
 * Number of publications of a session about which other nodes are asked. A client that comes from
 * another node repeats at most 32, and a question costs a message of each node.
 */
export const MAX_ASKED = 32;

/** Concurrent questions to other nodes, a quarter of what a node can ask about everything. */
export const MAX_ASKING = 250;

/** The kind of these questions. */
const KIND = "publication";

/** A decision, as JSON except for the bytes of binary data. */
export type PublishOutcome =
  /** It may go out with this data. */
  | { readonly data: unknown }
  /** It was rejected. */
  | { readonly failure: RequestFailure }
  /** It went out. */
  | { readonly isPublished: true };

/** A publication that went out. It needs no other memory, because most have. */
export const PUBLISHED = "published";

/** Names a publication that a client has numbered. */
export interface PublicationKey {
  /** The key of the client, unique across all nodes. */
  readonly producer: string;
  /** The id of the publication. */
  readonly id: string;
}

/** The publications of one client by their ids, in the order of their first attempts. */
type Publications = Map<string, KnownPublication | typeof PUBLISHED>;

/** A publication that has been decided, or is being decided. */
export class KnownPublication {
  /** The decision; rejects if there is none. */
  readonly outcome: Promise<PublishOutcome>;
  /** True once it is decided. */
  isDecided = false;
  /** True once it went out. */
  isPublished = false;
  readonly #id: string;
  /** Contains this publication as long as it is remembered. */
  readonly #all: Publications;
  #slot: Slot | undefined;

  /** Remembers a publication of a client. */
  constructor(id: string, all: Publications, outcome: Promise<PublishOutcome>) {
    this.outcome = outcome;
    this.#id = id;
    this.#all = all;
    all.set(id, this);
    outcome.then(() => this.isDecided = true, () => this.forget());
  }

  /** Remembers only that it went out. */
  published(): void {
    this.isPublished = true;
    if (this.#isRemembered) this.#all.set(this.#id, PUBLISHED);
    this.#release();
  }

  /**
   * Keeps a rejection, or data that did not go out, because the client may repeat the publication
   * with other data. If there is no room, the decision is forgotten.
   *
   * @param take Takes a slot for the bytes; returns `undefined` if there is no room.
   */
  keep(take: () => Slot | undefined): void {
    if (!this.#isRemembered || this.#slot !== undefined) return;
    this.#slot = take();
    if (this.#slot === undefined) this.forget();
  }

  /** Forgets the decision. Idempotent. */
  forget(): void {
    if (this.#isRemembered) this.#all.delete(this.#id);
    this.#release();
  }

  get #isRemembered(): boolean {
    return this.#all.get(this.#id) === this;
  }

  #release(): void {
    this.#slot?.[Symbol.dispose]();
    this.#slot = undefined;
  }
}

interface KnownClient {
  readonly producer: string;
  readonly publications: Publications;
}

/**
 * Remembers decisions about numbered publications, so that a repetition gets the first decision.
 *
 * - **Nodes:** a repetition of a publication that this node doesn't know is a question to the others.
 * - **Bounds:** the newest {@linkcode MAX_REMEMBERED} of each client, until its last publication is
 *   two minutes old. One client for each session of the server is remembered and
 *   {@linkcode MAX_FORMER_CLIENTS} more; then the client that has published nothing for the longest
 *   time is forgotten.
 */
export class KnownPublications implements Disposable {
  readonly #maxClients: number;
  readonly #nodes: Nodes | undefined;
  readonly #handler: Disposable | undefined;
  readonly #clients = new Map<string, KnownClient>();
  readonly #idle: Deadlines<KnownClient>;
  /** Number of questions about the publications of each session. */
  readonly #asked = new WeakMap<Session, number>();
  /** Ids of the publications about which other nodes are being asked. */
  readonly #asking = new Set<string>();

  /**
   * @param runtime Clocks and timers.
   * @param maxSessions Maximum number of sessions of the server.
   * @param nodes The nodes; `undefined` if there is only one.
   */
  constructor(
    runtime: Runtime,
    { maxSessions, nodes }: {
      readonly maxSessions: number;
      readonly nodes?: Nodes | undefined;
    },
  ) {
    this.#maxClients = maxSessions + MAX_FORMER_CLIENTS;
    this.#idle = new Deadlines(runtime, REMEMBERED_MS, (client) => this.#forget(client));
    this.#nodes = nodes;
    this.#handler = nodes?.handle(KIND, (key) => this.#tell(key as Question));
  }

  /** Number of remembered clients. */
  get size(): number {
    return this.#clients.size;
  }

  /**
   * Returns a publication, or that it went out.
   *
   * @param decide Decides about it; called only at the first attempt, and again after a failure.
   */
  get(
    { producer, id }: PublicationKey,
    decide: () => Promise<PublishOutcome>,
  ): KnownPublication | typeof PUBLISHED {
    const { publications } = this.#clientOf(producer);
    const known = publications.get(id);
    if (known !== undefined) return known;
    const added = new KnownPublication(id, publications, decide());
    prune(publications);
    return added;
  }

  /**
   * Asks the other nodes for their decision about a publication that was repeated.
   *
   * @param session The session that repeated it.
   * @returns The decision; `undefined` if no node knows it, or if there are too many questions.
   */
  async ask(
    key: PublicationKey,
    { session, timeoutMs }: { readonly session: Session; readonly timeoutMs: number },
  ): Promise<PublishOutcome | undefined> {
    const nodes = this.#nodes;
    const asked = this.#asked.get(session) ?? 0;
    if (nodes === undefined || nodes.size === 0) return undefined;
    if (asked >= MAX_ASKED || this.#asking.size >= MAX_ASKING) return undefined;
    this.#asked.set(session, asked + 1);
    this.#asking.add(key.id);
    try {
      // Living nodes reply immediately. One that has died would delay each publication.
      const first = await nodes.ask(KIND, key);
      if (!first.isComplete) this.#asked.set(session, MAX_ASKED);
      const told = toldBy(first);
      if (told === undefined || !("isDeciding" in told)) return told;
      const second = toldBy(await nodes.ask(KIND, { ...key, waits: true }, { timeoutMs }));
      return second && "isDeciding" in second ? undefined : second;
    } finally {
      this.#asking.delete(key.id);
    }
  }

  /** Forgets everything, and stops the timer. */
  [Symbol.dispose](): void {
    this.#handler?.[Symbol.dispose]();
    this.#idle.clear();
    for (const client of [...this.#clients.values()]) this.#forget(client);
  }

  /** Replies to another node. */
  async #tell({ producer, id, waits = false }: Question): Promise<Reply> {
    const known = this.#clients.get(producer)?.publications.get(id);
    // Two nodes that ask each other would wait for each other.
    if (known === undefined || this.#asking.has(id)) return null;
    if (known === PUBLISHED) return { isPublished: true };
    if (!known.isDecided && !waits) return { isDeciding: true };
    // Without a decision, the other node may decide.
    const outcome = await known.outcome.catch(() => null);
    const { data } = outcome as { readonly data?: unknown } ?? {};
    return data instanceof Uint8Array ? { base64: data.toBase64() } : outcome;
  }

  #clientOf(producer: string): KnownClient {
    const client = this.#clients.get(producer) ?? { producer, publications: new Map() };
    // The clients are in the order of their last publications.
    this.#clients.delete(producer);
    this.#clients.set(producer, client);
    this.#idle.add(client);
    if (this.#clients.size > this.#maxClients) {
      const [[, oldest]] = this.#clients as unknown as [[string, KnownClient]];
      this.#idle.delete(oldest);
      this.#forget(oldest);
    }
    return client;
  }

  #forget({ producer, publications }: KnownClient): void {
    this.#clients.delete(producer);
    for (const known of publications.values()) if (known !== PUBLISHED) known.forget();
  }
}

/** A question about a publication. */
interface Question extends PublicationKey {
  /** True if the reply waits for a decision that is being made. */
  readonly waits?: boolean;
}

/** A reply; `null` if the node knows of no decision. */
type Reply =
  | PublishOutcome
  | { readonly isDeciding: true }
  /** The outcome with binary data. */
  | { readonly base64: string }
  | null;

/** Finds the reply of the node that knows a publication. */
function toldBy(
  { replies }: Awaited<ReturnType<Nodes["ask"]>>,
): PublishOutcome | { readonly isDeciding: true } | undefined {
  const told = replies.map(({ data }) => data as Reply).find((one) => one !== null);
  return told && "base64" in told ? { data: Uint8Array.fromBase64(told.base64) } : told;
}

/** Forgets the oldest publications that are decided, if there are too many. */
function prune(publications: Publications): void {
  if (publications.size <= MAX_REMEMBERED) return;
  for (const [id, known] of publications) {
    if (known === PUBLISHED) publications.delete(id);
    else if (known.isDecided) known.forget();
    if (publications.size <= MAX_REMEMBERED) return;
  }
}
