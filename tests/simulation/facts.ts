/** Facts of a run, and the form of the invariants that judge these. */
import type { Client } from "../../client/client.ts";
import type { ClientStatus } from "../../client/client_options.ts";
import type { HistoryPosition, RecoveryReason } from "../../session/wire/recovery.ts";
import type { Server } from "../../server/server.ts";
import type { Subscription } from "../../client/subscription.ts";
import type { HistoryBounds } from "../../pubsub/broker.ts";
import type { Host } from "../../testing/simulation/host.ts";

/**
 * Facts by their kinds. The cluster tells each fact when it happens.
 *
 * - **Names:** each call of `connect` gives a client a new name, each life of a node too. Ids and
 *   names of subscriptions occur once in a run.
 * - **Hosts:** a fact has the host of the place where the fact happened, so that a person finds the place.
 */
export interface Facts {
  /** A fault or an operation began. */
  readonly faulted: {
    /** The part that fails: `link` for faults of the network between clients and nodes. */
    readonly scope: "client" | "node" | "engine" | "link";
    readonly kind: string;
    readonly target?: string;
    readonly peer?: string;
    readonly lastsMs?: number;
  };
  /** All faults are over. From now on the cluster may recover undisturbed. */
  readonly healed: Record<never, never>;
  /** The cluster had time to recover. From now on nothing may be lost, refused or closed. */
  readonly settled: Record<never, never>;
  /** A deploy begins, or ended: all nodes of the quiet cluster are drained, one after the other. */
  readonly deploy: { readonly isOver: boolean };
  /** The server of a client will close the session after a time. Told on the host of the client. */
  readonly goAway: { readonly retryAfterMs: number };
  /** A drain of a node ended. */
  readonly drained: { readonly closed: number; readonly cut: number };
  /**
   * The engine lost acknowledged writes, or restarted; on all topics without `topic`. After a loss that
   * leaves no trace the epoch stays: a reader that had none of the lost writes cannot learn of the loss.
   */
  readonly engineLost: {
    readonly why: string;
    readonly topic?: string;
    readonly leavesNoTrace?: boolean;
    /**
     * Time of the first lost write on a primary that is none any more, in milliseconds: nodes that had
     * found the next primary by then cannot learn of the loss.
     */
    readonly fromMs?: number;
  };
  /** All servers of the engine ended, and each connection of a node with them. */
  readonly engineEnded: Record<never, never>;
  /**
   * The servers of the engine begin to elect the first leader of a group, or a leader begins. Without
   * a leader, the engine does not answer.
   */
  readonly engineElects: { readonly group: string; readonly isOver: boolean };

  /** A program calls `publish`, before the call. The producer is a client or a life of a node. */
  readonly published: {
    readonly topic: string;
    readonly id: string;
    readonly producer: string;
    /** User of a client whose right to publish the server checks. */
    readonly user?: string;
    /** Session of the client at the call, if connected. */
    readonly session?: string;
    /** True if the client keeps the publication, and repeats it on the next session. */
    readonly isAtLeastOnce?: boolean;
    /** True if the producer may end the wait before others would, by a short time or a signal. */
    readonly givesUp?: boolean;
    /** Client that is left out; the producer itself with `except: "self"`. */
    readonly except?: string;
  };
  /** The promise of a publication resolved. The position is known to `append` alone. */
  readonly acknowledged: {
    readonly topic: string;
    readonly id: string;
    readonly position?: HistoryPosition;
  };
  /** The promise of a publication rejected, or the call threw. The engine may have the publication all the same. */
  readonly publishFailed: { readonly topic: string; readonly id: string; readonly error: unknown };

  /** A client calls `subscribe`. */
  readonly subscribing: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** Position to begin behind. */
    readonly since?: HistoryPosition;
    /** Number of newest publications to begin with. */
    readonly last?: number;
    /** User of the client. */
    readonly user?: string;
  };
  /** `ready` of a subscription resolved. */
  readonly subscribed: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** `Subscription.position` at that time. */
    readonly position?: HistoryPosition;
  };
  /** `unsubscribe` resolved, or the loop of the subscription ended or threw. */
  readonly unsubscribed: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** Error of the loop. */
    readonly error?: unknown;
  };
  /** The loop of a subscription yielded a publication. */
  readonly received: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    readonly id: string;
    /** `Subscription.position`, on a topic with a history. */
    readonly position?: HistoryPosition;
  };
  /** `onMessage` of a client got a publication for which no loop of the client runs. */
  readonly strayed: { readonly client: string; readonly topic: string; readonly id: string };
  /** `onRecovery` of a subscription was called. */
  readonly recovery: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    readonly recovered: boolean;
    readonly reason?: RecoveryReason;
    readonly position?: HistoryPosition;
  };
  /**
   * The rights of a user changed, and are in force: the server took the user off the topic, or answered
   * the renewal of the token.
   */
  readonly permission: {
    readonly user: string;
    readonly topic: string;
    readonly isAllowed: boolean;
  };

  /** A client sends a message without a reply. */
  readonly sent: {
    readonly client: string;
    readonly id: string;
    readonly isAtLeastOnce: boolean;
  };
  /** A handler of a node begins to handle a message of a client. */
  readonly handled: { readonly client: string; readonly id: string };
  /** A message left the outbox without being handled: the call threw, or was refused. */
  readonly sendFailed: { readonly client: string; readonly id: string; readonly error: unknown };
  /** `flushed()` of a client resolved: all messages that were sent before the call are handled. */
  readonly flushed: {
    readonly client: string;
    /** The last message before the call. */
    readonly upTo: string;
  };
  /** A request, of a client or a node; the data has the id, and the answer repeats the id. */
  readonly requestSent: {
    readonly requester: string;
    readonly id: string;
    /** True if the request is sent again in the next session after a loss. */
    readonly isResent?: boolean;
  };
  /** A handler began to handle a request. */
  readonly requestHandled: { readonly id: string };
  /** The answer came. */
  readonly requestAnswered: {
    readonly requester: string;
    readonly id: string;
    /** Id in the answer. */
    readonly answerTo: string;
  };
  /** A node sent a message to a user, on whichever node the user has sessions. */
  readonly sentToUser: { readonly user: string; readonly id: string };
  /** A client got such a message. */
  readonly receivedAsUser: { readonly client: string; readonly user: string; readonly id: string };

  /** A node accepted a session, or a client connected: `onOpen`. Told on the host of that end. */
  readonly sessionOpened: {
    readonly side: "node" | "client";
    readonly session: string;
    readonly user?: string;
  };
  /** `closed` of a session resolved. Told on the host of that end. */
  readonly sessionClosed: {
    readonly side: "node" | "client";
    readonly session: string;
    readonly user?: string;
    readonly code: number;
    readonly reason: string;
    readonly by: "local" | "remote" | "network";
  };
  /** The status of a client: the first one, and each change. */
  readonly clientStatus: {
    readonly client: string;
    readonly status: ClientStatus;
    /** True if the number of attempts has a bound. */
    readonly isBounded?: boolean;
  };
  /** The status of a subscription: the first one, and each change. */
  readonly subscriptionStatus: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    readonly status: Subscription["status"]["current"];
  };
  /** A handler of a node accepted a message within a rate, or the library refused one beyond. */
  readonly rated: {
    readonly scope: "session" | "user" | "address";
    /** The session, user or address. */
    readonly of: string;
    readonly isRefused: boolean;
  };

  /** The list of users of a room came, or was complete. */
  readonly members: {
    /** A subscription of a client, or a life of a node. */
    readonly observer: string;
    readonly room: string;
    readonly users: readonly string[];
  };
  /** A client calls `presence`; without data it takes the data back. */
  readonly presenceSet: { readonly client: string; readonly room: string; readonly data?: unknown };
  /** The call rejected: the data of the client in the room is unknown. */
  readonly presenceFailed: { readonly client: string; readonly room: string };
  /** A notice of presence. */
  readonly presence: {
    readonly observer: string;
    readonly room: string;
    readonly change: "joined" | "left" | "updated";
    readonly user: string;
  };

  /** An answer that streams was requested. */
  readonly answerBegan: {
    readonly answer: string;
    readonly client: string;
    /** Number of items that the handler yields in all. */
    readonly items: number;
    /** True for an answer that outlives its session. */
    readonly isKept?: boolean;
  };
  /** A loop got an item: the index, from 0. */
  readonly answerItem: { readonly answer: string; readonly reader: string; readonly index: number };
  /** The loop ended; with `error` if it threw, with `isLeft` if the program left the loop. */
  readonly answerEnded: {
    readonly answer: string;
    readonly reader: string;
    readonly error?: unknown;
    readonly isLeft?: boolean;
  };

  /** A writer appends records to a durable stream: `first` to `first + count - 1`, from 0. */
  readonly appending: {
    readonly stream: string;
    readonly first: number;
    readonly count: number;
    /** True if a producer over HTTP begins a new epoch: the stream has no number to compare. */
    readonly isNewEpoch?: boolean;
  };
  /** The append resolved. */
  readonly appended: { readonly stream: string; readonly first: number; readonly count: number };
  /** A writer over HTTP got an answer that no repetition changes, such as 409. */
  readonly appendRefused: { readonly stream: string; readonly status: number };
  /** The writer closed the stream; `records` in all, and the code for an end that is no success. */
  readonly streamClosed: {
    readonly stream: string;
    readonly records: number;
    readonly code?: string;
  };
  /** A reader, over a session or HTTP, begins behind a number of records. */
  readonly readBegan: { readonly stream: string; readonly reader: string; readonly after: number };
  /** A reader got a record: the index, from 0. */
  readonly readDurable: {
    readonly stream: string;
    readonly reader: string;
    readonly record: number;
  };
  /** The reading ended; without a code by the end of the stream, `isLeft` if the program left. */
  readonly readEnded: {
    readonly stream: string;
    readonly reader: string;
    readonly code?: string;
    readonly isLeft?: boolean;
  };

  /** An end writes an item to a stream of the session, before the call; the index from 0. */
  readonly streamSent: { readonly flow: string; readonly index: number };
  /** The writer of a flow closes its direction, behind this number of items. */
  readonly streamEnds: { readonly flow: string; readonly count: number };
  /** An end is about to abort a stream with a code, or to send an item that the schema refuses. */
  readonly streamBreaks: {
    readonly flow: string;
    readonly code: number;
    /** Host of that end. */
    readonly by: string;
    readonly isInvalid: boolean;
  };
  /** The reader of a flow got an item; whole if the content is that of the index. */
  readonly streamGot: { readonly flow: string; readonly index: number; readonly isWhole: boolean };
  /** The reader of a flow got the end. */
  readonly streamOver: { readonly flow: string };
  /** A flow failed at the end that tells. */
  readonly streamFailed: {
    readonly flow: string;
    readonly session: string;
    readonly error: unknown;
    readonly isReader?: boolean;
  };
  /** An end sends a datagram, before the call. A way is one direction of a session. */
  readonly datagramSent: { readonly way: string; readonly number: number };
  /** The other end got a datagram. */
  readonly datagramGot: {
    readonly way: string;
    readonly number: number;
    /** True on a wire whose datagrams all come, in order. */
    readonly isReliable: boolean;
  };

  /** A program waits for a promise of the library. */
  readonly waits: {
    readonly wait: number;
    /** Life of the host: the wait ends with the life. */
    readonly life: number;
    /** The promise, in words: "request 7". */
    readonly what: string;
    /** Time within which the promise settles, in milliseconds of the host's clock. */
    readonly withinMs: number;
  };
  /** The promise settled, either way. */
  readonly waited: { readonly wait: number };

  /** A part of the library was examined on the quiet cluster, where each outcome is known. */
  readonly examined: {
    readonly part:
      | "brokers"
      | "leaks"
      | "lives"
      | "limits"
      | "waits"
      | "heartbeat"
      | "presence"
      | "queues"
      | "nodes"
      | "pacing";
    /** The operation. */
    readonly what: string;
    /** The documented outcome. */
    readonly expected: string;
    readonly received: string;
  };

  /** An error or a rejection that no code handled. */
  readonly unhandled: { readonly error: unknown };
  /** The library reported an error to `onError` or the like. */
  readonly reported: { readonly error: unknown; readonly isExpected?: boolean };
}

/** Name of a kind of facts. */
export type FactKind = keyof Facts;

/** A fact of a kind, with the time and the host. */
export type Fact<K extends FactKind> = Facts[K] & {
  /** Virtual time, in milliseconds since the start. */
  readonly atMs: number;
  /** Name of the host; empty for the whole cluster. */
  readonly host: string;
};

/** A server of the cluster, alive at the time of the check. */
export interface LiveServer {
  /** The host. */
  readonly host: Host;
  /** The server. */
  readonly server: Pick<
    Server,
    "manager" | "topics" | "rooms" | "presence" | "nodes" | "webTransportStats" | "httpStats"
  >;
}

/** A client of the cluster, alive at the time of the check. */
export interface LiveClient {
  /** Name of the client. */
  readonly name: string;
  /** The host. */
  readonly host: Host;
  /** The client. */
  readonly client: Pick<Client, "outbox" | "session" | "status" | "isConnected">;
  /** User as which the servers know the client. */
  readonly user?: string;
  /** Ids of all open sessions, also of those from which the client moves; the newest by default. */
  readonly sessions?: ReadonlySet<string>;
  /** Subscriptions that the program holds, by name. */
  readonly subscriptions: ReadonlyMap<string, Pick<Subscription, "topic" | "status" | "isEnded">>;
  /** Ids of the durable streams that loops of the program read, by the name of the reader. */
  readonly readers: ReadonlyMap<string, string>;
}

/** Parts of the cluster that live, for checks of the state. */
export interface Cluster {
  /** Virtual time, in milliseconds since the start. */
  readonly nowMs: number;
  /** All hosts by name, such as `Simulation.hosts`. */
  readonly hosts: ReadonlyMap<string, Host>;
  /** Waiting events, such as timers: those of `EventLoop.pending()`. */
  pending(): Iterable<{
    readonly host: { readonly name: string } | undefined;
    readonly atMs: number;
  }>;
  /**
   * Tells whether bytes that some host sent long ago still arrive at a host, over a slow link.
   *
   * @param host The receiving host.
   * @returns True while such bytes are under way.
   */
  isBehind(host: Host): boolean;
  /** Servers on hosts that live; frozen ones too. */
  readonly servers: readonly LiveServer[];
  /** Clients on hosts that live; frozen ones too. */
  readonly clients: readonly LiveClient[];
}

/** Promises of the plan's options. */
export interface Terms {
  /** Bounds of the history of a topic; `undefined` without a history. */
  readonly historyOf: (topic: string) => HistoryBounds | undefined;
  /** True for a topic with presence. */
  readonly isRoom: (topic: string) => boolean;
  /** True if nodes share nothing: each has topics and histories of its own. */
  readonly isApart: boolean;
  /** `limits.maxSessionsPerUser`. */
  readonly maxSessionsPerUser: number;
  /** True if the limit of users holds on all nodes. */
  readonly hasSharedLimits: boolean;
  /** False if the engine may lose one of two changes at once, so that a place stays taken. */
  readonly hasExactPlaces: boolean;
  /** False if a transport may reset streams without a code, as the runtime's QUIC does. */
  readonly hasResetCodes: boolean;
  /** Rates of messages, where there are any. */
  readonly rates: Readonly<
    Partial<
      Record<"session" | "user" | "address", {
        readonly perSecond: number;
        readonly burst: number;
      }>
    >
  >;
  /** Bounds of the send queue of the servers' sessions. */
  readonly sendQueue: {
    readonly maxMessages: number;
    readonly maxBytes: number;
    /** False if the policy is to close a session whose queue is full. */
    readonly drops: boolean;
  };
  /** Heartbeat of sessions. */
  readonly heartbeat: { readonly intervalMs: number; readonly timeoutMs: number };
  /** Bounds of the outbox of clients. */
  readonly outbox: { readonly maxMessages: number; readonly maxBytes: number };
}

/** Takes what an invariant found. */
export interface Report {
  /**
   * Adds a finding.
   *
   * @param fact Time and host.
   * @param text Expected and received, for people.
   */
  (fact: { readonly atMs: number; readonly host?: string }, text: string): void;
}

/** The facts that an invariant follows, and checks of the cluster's state. */
export type Watch =
  & { readonly [K in FactKind]?: (fact: Fact<K>) => void }
  & {
    /** Checks the state while the run goes on. MUST be cheap: called at every step. */
    readonly step?: (cluster: Cluster) => void;
    /** Checks the state at the end: after `settled`, with probes sent and received. */
    readonly end?: (cluster: Cluster) => void;
    /** Checks that nothing is left, after clients, servers and brokers closed and time passed. */
    readonly closed?: (cluster: Cluster) => void;
  };

/** A promise of the library that holds at each moment of each run. */
export interface Invariant {
  /** Name, in words with hyphens. */
  readonly name: string;
  /** The promise, in one sentence. */
  readonly promise: string;
  /** Place where the library gives the promise, such as a rule of docs/protocol.md. */
  readonly source: string;
  /**
   * Begins to watch a run.
   *
   * @param report Takes findings.
   * @param terms See {@linkcode Terms}.
   * @returns The facts to follow.
   */
  readonly watch: (report: Report, terms: Terms) => Watch;
}
