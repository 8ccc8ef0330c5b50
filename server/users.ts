/**
 * Handles users with sessions on several nodes: sends messages to their sessions, lists them, and
 * closes them.
 */
import { MAX_USER_BYTES } from "./admission/authentication.ts";
import { checkType } from "../base/error_text.ts";
import { QueueFullError } from "../errors.ts";
import type { Runtime } from "../base/runtime.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import { type BrokerSubscription, INTERNAL_PREFIX, type Publication } from "../pubsub/broker.ts";
import { type Decisions, DISCONNECTED } from "../pubsub/decisions.ts";
import { Nodes, type NodesOptions } from "../pubsub/nodes/nodes.ts";
import { Presence, type PresenceOptions } from "../pubsub/presence/presence.ts";
import { type RoomOptions, Rooms } from "../pubsub/presence/rooms.ts";
import type { Topics } from "../pubsub/topics.ts";
import type { Contract } from "../session/contract.ts";
import { type EncodedMessage, framed } from "../session/wire/encode.ts";
import { sessionsAfter } from "../session/lineage.ts";
import { internals, type Session } from "../session/session.ts";
import { exceedsBytes } from "../session/wire/utf8.ts";
import { checkCloseInfo } from "../transport/close_info.ts";
import type { SessionCloseOptions } from "../session/types.ts";

/** Most sessions that one node lists for one user. */
const MAX_LISTED = 1_000;

/** Longest wait for responses of other nodes, in milliseconds. */
const REPLY_MS = 2_000;

/**
 * Longest wait for other nodes to close sessions, in milliseconds. The sessions' queues are flushed
 * first.
 */
const CLOSED_MS = 10_000;

/**
 * A session of a user, on any node.
 *
 * @typeParam S Type of the session.
 */
export interface SessionInfo<S = Session<unknown, Contract, "server">> {
  /** Id of the session. */
  readonly id: string;
  /** Id of the session's node; empty if there is only one node. */
  readonly node: string;
  /** User of the session. */
  readonly user: string;
  /** Network address of the peer, where known. */
  readonly address?: string | undefined;
  /** The transport: `webtransport`, `websocket`, `http`, `memory`. */
  readonly transport: string;
  /** Time of creation, in milliseconds since the Unix epoch. */
  readonly connectedAt: number;
  /** The session itself, on this node only. */
  readonly session?: S | undefined;
}

/** Parts of the server that a {@linkcode Users} uses. */
export interface UsersOptions {
  /** The nodes; `undefined` if there is only one. */
  readonly nodes: Nodes | undefined;
  /** The sessions of this node. */
  readonly manager: SessionManager;
  /** The decisions of this node, which a disconnect revokes. */
  readonly decisions: Decisions;
  /** Called when the sessions of a user on this node are closed. */
  readonly disconnected: (user: string) => void;
}

interface FollowedUser {
  readonly subscription: BrokerSubscription;
  sessions: number;
}

/**
 * Reaches users on all nodes.
 *
 * Messages to a user are published on that user's topic, to which every node with a session of the
 * user subscribes. Nodes need not know to which nodes users are connected, and nodes without a
 * session of the user receive nothing. Calls that list or close sessions are rare, so they query
 * every node. A session without a user is known only to its own node.
 */
export class Users {
  readonly #nodes: Nodes | undefined;
  readonly #manager: SessionManager;
  readonly #decisions: Decisions;
  readonly #disconnected: (user: string) => void;
  // Bounded by the sessions of this node.
  readonly #followed = new Map<string, FollowedUser>();
  readonly #handlers: Disposable[];
  readonly #onEnd = (session: Session) => this.#ended(session.user);

  /** Registers the handlers of requests from other nodes. */
  constructor({ nodes, manager, decisions, disconnected }: UsersOptions) {
    this.#nodes = nodes;
    this.#manager = manager;
    this.#decisions = decisions;
    this.#disconnected = disconnected;
    this.#handlers = nodes === undefined ? [] : [
      nodes.handle(
        "sessions",
        (user) => this.#list(String(user)).map(({ session: _, ...info }) => info),
      ),
      nodes.handle("disconnect", (asked) => this.#disconnectAsked(asked)),
      nodes.handle("disconnect-session", (asked) => this.#disconnectSessionAsked(asked)),
    ];
  }

  /** Subscribes to the topic of a session's user. */
  opened(session: Session): void {
    const nodes = this.#nodes;
    const { user } = session[internals];
    if (nodes === undefined || user === undefined || session.isClosed) return;
    let followed = this.#followed.get(user);
    if (followed === undefined) {
      // A closed broker carries no messages, but the session still works on this node.
      if (nodes.broker.status.current.name === "closed") return;
      const subscription = nodes.broker.subscribe(
        topicOf(user),
        (publication) => this.#receive(user, publication),
      );
      followed = { subscription, sessions: 0 };
      this.#followed.set(user, followed);
    }
    followed.sessions++;
    session[internals].whenEnded(this.#onEnd);
  }

  /**
   * Sends to all sessions of a user.
   *
   * @returns Number of sessions on this node that received the message.
   */
  send(user: string, message: EncodedMessage): number {
    checkType("send", "user", user, "string");
    // No session has a longer user, and the broker may reject a topic that long.
    if (exceedsBytes(user, MAX_USER_BYTES)) return 0;
    const nodes = this.#nodes;
    // A new node does not know yet whether there are others.
    if (nodes !== undefined && (nodes.size > 0 || !nodes.isReady)) {
      const payload = withTopic(message);
      nodes.broker.publish({ topic: topicOf(user), payload, except: nodes.id });
    }
    return this.#push(user, message);
  }

  /** Lists the sessions of a user, on all nodes that respond. */
  async sessions(user: string): Promise<SessionInfo[]> {
    checkType("list sessions", "user", user, "string");
    const local = this.#list(user);
    if (this.#nodes === undefined) return local;
    const { replies } = await this.#nodes.ask("sessions", user, { timeoutMs: REPLY_MS });
    const remote = replies.flatMap(({ node, data }) =>
      Array.isArray(data) ? data.flatMap((one) => readInfo(one, node) ?? []) : []
    );
    return [...local, ...remote];
  }

  /** Closes the sessions of a user, and revokes the user's decisions, on all nodes that respond. */
  async disconnect(
    user: string,
    options: SessionCloseOptions,
  ): Promise<{ closed: number; isComplete: boolean }> {
    checkType("disconnect", "user", user, "string");
    checkClose(options);
    return await this.#closeEverywhere(this.#close(user, options), "disconnect", { user, options });
  }

  /**
   * Closes a session, on its node.
   *
   * @returns The number of closed sessions, 0 or 1, and whether all nodes responded. If the session
   * is on this node, other nodes are not queried.
   */
  async disconnectSession(
    id: string,
    options: SessionCloseOptions,
  ): Promise<{ closed: number; isComplete: boolean }> {
    checkClose(options);
    const closed = await this.#closeSession(id, options);
    if (closed > 0) return { closed, isComplete: true };
    return await this.#closeEverywhere(closed, "disconnect-session", { id, options });
  }

  /** Asks the other nodes to close sessions, too, and adds up the numbers of closed sessions. */
  async #closeEverywhere(
    closing: number | Promise<number>,
    kind: string,
    asked: unknown,
  ): Promise<{ closed: number; isComplete: boolean }> {
    const [closed, { replies, isComplete }] = await Promise.all([
      closing,
      this.#nodes?.ask(kind, asked, { timeoutMs: CLOSED_MS }) ?? { replies: [], isComplete: true },
    ]);
    const sum = replies.reduce((sum, { data }) => sum + (typeof data === "number" ? data : 0), 0);
    return { closed: closed + sum, isComplete };
  }

  /** Ends all subscriptions and handlers. */
  close(): void {
    for (const handler of this.#handlers) handler[Symbol.dispose]();
    for (const { subscription } of this.#followed.values()) {
      void subscription[Symbol.asyncDispose]();
    }
    this.#followed.clear();
  }

  #ended(user: string): void {
    const followed = this.#followed.get(user);
    if (followed === undefined || --followed.sessions > 0) return;
    this.#followed.delete(user);
    void followed.subscription[Symbol.asyncDispose]();
  }

  #receive(user: string, { payload, except }: Publication): void {
    // This node's own messages have already reached its sessions.
    if (except === this.#nodes!.id) return;
    const message = unwrap(payload);
    if (message !== undefined) this.#push(user, message);
  }

  #push(user: string, message: EncodedMessage): number {
    let count = 0;
    for (const session of this.#manager.sessionsOf(user)) {
      const core = session[internals];
      if (!core.isReady || hasMovedOn(session)) continue;
      try {
        core.sending.push(message, false);
        count++;
      } catch (error) {
        // This session could not keep up and was closed; continue with the other sessions.
        if (!(error instanceof QueueFullError)) throw error;
      }
    }
    return count;
  }

  #list(user: string): SessionInfo[] {
    const node = this.#nodes?.id ?? "";
    return this.#manager.sessionsOf(user).slice(0, MAX_LISTED).map((session) => {
      const { id, address, transport } = session;
      const { createdAt: connectedAt } = session[internals];
      const known = address === undefined ? {} : { address };
      return {
        id,
        node,
        user: session.user,
        ...known,
        transport,
        connectedAt,
        session: session as Session<unknown, Contract, "server">,
      };
    });
  }

  async #disconnectAsked(asked: unknown): Promise<number> {
    const { user, options } = asked as { user: string; options: SessionCloseOptions };
    return await this.#close(String(user), { ...options });
  }

  async #disconnectSessionAsked(asked: unknown): Promise<number> {
    const { id, options } = asked as { id: string; options: SessionCloseOptions };
    return await this.#closeSession(String(id), { ...options });
  }

  async #closeSession(id: string, options: SessionCloseOptions): Promise<number> {
    const session = this.#manager.get(id);
    if (session === undefined) return 0;
    this.#decisions.revoke(session, DISCONNECTED);
    await session.close(options);
    return 1;
  }

  async #close(user: string, options: SessionCloseOptions): Promise<number> {
    const sessions = this.#manager.sessionsOf(user);
    this.#decisions.disconnect(user, options);
    for (const session of sessions) this.#decisions.revoke(session, DISCONNECTED);
    this.#disconnected(user);
    await Promise.all(sessions.map((session) => session.close(options)));
    return sessions.length;
  }
}

/** Name of a node among others, and the timing of its heartbeat. */
export type NodeOptions = Omit<NodesOptions, "broker" | "onError" | "runtime">;

/** Patterns of topics that are rooms; as an object, with options for each pattern. */
export type RoomPatterns = readonly string[] | Readonly<Record<string, RoomOptions>>;

/** The parts of a server's presence. */
export interface PresenceParts {
  /** Present only if the option `broker` is given, because other nodes may share that broker. */
  readonly nodes: Nodes | undefined;
  readonly presence: Presence;
  readonly rooms: Rooms;
}

/** Options of {@linkcode makePresence}. */
export interface PresencePartsOptions {
  readonly runtime: Runtime;
  readonly topics: Topics;
  /** `true` if other nodes may share the topics' broker. */
  readonly isShared: boolean;
  readonly node: NodeOptions | undefined;
  readonly presence: Omit<PresenceOptions, "nodes" | "runtime">;
  readonly rooms: RoomPatterns;
}

/**
 * Creates nodes, presence and rooms. If an option is invalid, the parts created so far are closed.
 */
export function makePresence(options: PresencePartsOptions): PresenceParts {
  const { runtime, topics, isShared, node, rooms } = options;
  const patterns = Array.isArray(rooms) ? {} : rooms as Readonly<Record<string, RoomOptions>>;
  const nodes = isShared ? new Nodes({ ...node, runtime, broker: topics.broker }) : undefined;
  let presence: Presence | undefined;
  try {
    presence = new Presence({ ...options.presence, runtime, nodes });
    return { nodes, presence, rooms: new Rooms({ runtime, topics, presence, patterns }) };
  } catch (error) {
    presence?.[Symbol.dispose]();
    void nodes?.close();
    throw error;
  }
}

function checkClose({ code = 0, reason = "" }: SessionCloseOptions): void {
  checkCloseInfo({ closeCode: code, reason });
}

function topicOf(user: string): string {
  return `${INTERNAL_PREFIX}user:${user}`;
}

function readInfo(value: unknown, node: string): Omit<SessionInfo, "session"> | undefined {
  const { id, user, address, transport, connectedAt } = (value ?? {}) as Record<string, unknown>;
  const isFine = typeof id === "string" && typeof user === "string" &&
    typeof transport === "string" && typeof connectedAt === "number";
  if (!isFine) return undefined;
  const known = typeof address === "string" ? { address } : {};
  return { id, node, user, ...known, transport, connectedAt };
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * Prefixes a message with its topic, which the receiver's queue uses to choose messages to drop.
 */
function withTopic({ frame, topic }: EncodedMessage): string | Uint8Array {
  if (typeof frame === "string") return `${JSON.stringify(topic)}\n${frame}`;
  const name = encoder.encode(topic);
  const wrapped = new Uint8Array(1 + name.length + frame.length);
  // A topic has at most 255 bytes.
  wrapped[0] = name.length;
  wrapped.set(name, 1);
  wrapped.set(frame, 1 + name.length);
  return wrapped;
}

/** Splits a message from its topic; `undefined` if malformed. */
function unwrap(payload: string | Uint8Array): EncodedMessage | undefined {
  if (typeof payload !== "string") {
    const end = 1 + (payload[0] ?? 0);
    if (end >= payload.length) return undefined;
    return framed(payload.slice(end), decoder.decode(payload.subarray(1, end)));
  }
  const end = payload.indexOf("\n");
  try {
    const topic: unknown = JSON.parse(payload.slice(0, end));
    return typeof topic === "string" ? framed(payload.slice(end + 1), topic) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * True if the client has moved, maybe in several steps, to a session that receives its messages.
 */
function hasMovedOn(session: Session): boolean {
  return sessionsAfter(session).some(({ isReady }) => isReady);
}
