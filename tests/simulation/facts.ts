/** Facts of a run, and the interface of the invariants that check them. */
import type { Client } from "../../client/client.ts";
import type { ClientStatus } from "../../client/client_options.ts";
import type { HistoryPosition, RecoveryReason } from "../../session/wire/recovery.ts";
import type { Server } from "../../server/server.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import type { HistoryBounds } from "../../pubsub/broker.ts";
import type { Host } from "../simulator/host.ts";

/**
 * Facts by kind. The cluster reports each fact when it happens.
 *
 * - **Names:** each call to `connect` creates a client with a new name, and each life of a node has
 *   a new name too. Ids and names of subscriptions are unique in a run.
 * - **Hosts:** a fact names the host on which it happened, to help with debugging.
 */
export interface Facts {
  /** A fault or an operation has started. */
  readonly faulted: {
    /** The part that fails. Faults of the network between clients and nodes affect `link`. */
    readonly scope: "client" | "node" | "broker" | "link";
    readonly kind: string;
    readonly target?: string;
    readonly peer?: string;
    readonly lastsMs?: number;
  };
  /** All faults are over. From now on, the cluster can recover undisturbed. */
  readonly healed: Record<never, never>;
  /** The cluster had time to recover. From now on, nothing may be lost, rejected or closed. */
  readonly settled: Record<never, never>;
  /** A deploy has started or ended. It drains all nodes of the quiet cluster, one after another. */
  readonly deploy: { readonly isOver: boolean };
  /**
   * The client's server will close the session after a time. This fact is reported on the client's
   * host.
   */
  readonly goAway: { readonly retryAfterMs: number };
  /** The drain of a node has ended. */
  readonly drained: { readonly closed: number; readonly cut: number };
  /**
   * The broker has lost acknowledged writes, or has restarted. Without `topic`, this affects all
   * topics. After a loss without a trace, the epoch stays the same, and a reader that had received
   * none of the lost writes cannot notice the loss.
   */
  readonly brokerLost: {
    readonly why: string;
    readonly topic?: string;
    readonly leavesNoTrace?: boolean;
    /**
     * Time of the first lost write on a former primary, in milliseconds. Nodes that had found the
     * next primary by then cannot notice the loss.
     */
    readonly fromMs?: number;
  };
  /** All servers of the broker have ended, and all connections of nodes to them. */
  readonly brokerEnded: Record<never, never>;
  /**
   * The broker's servers have started or finished electing the first leader of a group. Without a
   * leader, the broker does not respond.
   */
  readonly brokerElects: { readonly group: string; readonly isOver: boolean };

  /** A program is about to call `publish`. The producer is a client or one life of a node. */
  readonly published: {
    readonly topic: string;
    readonly id: string;
    readonly producer: string;
    /** User of the client. The server checks the user's right to publish. */
    readonly user?: string;
    /** The client's session at the time of the call, if it is connected. */
    readonly session?: string;
    /** True if the client stores the publication and resends it in the next session. */
    readonly isAtLeastOnce?: boolean;
    /** True if the producer may stop waiting early because of a short timeout or a signal. */
    readonly givesUp?: boolean;
    /** The excluded client. With `except: "self"`, it is the producer itself. */
    readonly except?: string;
  };
  /** The promise of a publication resolved. Only `append` returns the position. */
  readonly acknowledged: {
    readonly topic: string;
    readonly id: string;
    readonly position?: HistoryPosition;
  };
  /**
   * The promise of a publication was rejected, or the call threw. The broker may have stored the
   * publication anyway.
   */
  readonly publishFailed: { readonly topic: string; readonly id: string; readonly error: unknown };

  /** A client calls `subscribe`. */
  readonly subscribing: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** Position to start after. */
    readonly since?: HistoryPosition;
    /** Number of newest publications to start with. */
    readonly last?: number;
    /** User of the client. */
    readonly user?: string;
  };
  /** `ready` of a subscription resolved. */
  readonly subscribed: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** The value of `Subscription.position` at that time. */
    readonly position?: HistoryPosition;
  };
  /** `unsubscribe` resolved, or the subscription's loop ended or threw an error. */
  readonly unsubscribed: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    /** The error that the loop threw. */
    readonly error?: unknown;
  };
  /** The loop of a subscription yielded a publication. */
  readonly received: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    readonly id: string;
    /** The value of `Subscription.position`, on a topic with a history. */
    readonly position?: HistoryPosition;
  };
  /** A client's `onMessage` received a publication for which the client runs no loop. */
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
   * A user's rights have changed and taken effect. The server removed the user from the topic, or
   * replied to the token renewal.
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
  /** A node's handler starts to handle a client's message. */
  readonly handled: { readonly client: string; readonly id: string };
  /**
   * A message left the outbox without being handled, because the call threw or the message was
   * rejected.
   */
  readonly sendFailed: { readonly client: string; readonly id: string; readonly error: unknown };
  /** A client's `flushed()` resolved. All messages sent before the call must have been handled. */
  readonly flushed: {
    readonly client: string;
    /** The last message before the call. */
    readonly upTo: string;
  };
  /** A request from a client or a node. The data contains the id, and the reply repeats it. */
  readonly requestSent: {
    readonly requester: string;
    readonly id: string;
    /** True if the request is resent in the next session after a loss. */
    readonly isResent?: boolean;
  };
  /** A handler started to handle a request. */
  readonly requestHandled: { readonly id: string };
  /** The reply arrived. */
  readonly requestReplied: {
    readonly requester: string;
    readonly id: string;
    /** Id in the reply. */
    readonly answerTo: string;
  };
  /** A node sent a message to a user, on whichever node the user has sessions. */
  readonly sentToUser: { readonly user: string; readonly id: string };
  /** A client received a message to its user. */
  readonly receivedAsUser: { readonly client: string; readonly user: string; readonly id: string };

  /**
   * A node accepted a session or a client connected, according to `onOpen`. This fact is reported
   * on the host of that end.
   */
  readonly sessionOpened: {
    readonly side: "node" | "client";
    readonly session: string;
    readonly user?: string;
  };
  /** `closed` of a session resolved. This fact is reported on the host of that end. */
  readonly sessionClosed: {
    readonly side: "node" | "client";
    readonly session: string;
    readonly user?: string;
    readonly code: number;
    readonly reason: string;
    readonly by: "local" | "remote" | "network";
  };
  /** The status of a client. Its first status and each change are reported. */
  readonly clientStatus: {
    readonly client: string;
    readonly status: ClientStatus;
    /** True if the number of attempts is limited. */
    readonly isBounded?: boolean;
  };
  /** The status of a subscription. Its first status and each change are reported. */
  readonly subscriptionStatus: {
    readonly client: string;
    readonly subscription: string;
    readonly topic: string;
    readonly status: Subscription["status"]["current"];
  };
  /**
   * A node's handler accepted a message within a rate, or the library rejected a message above it.
   */
  readonly rated: {
    readonly scope: "session" | "user" | "address";
    /** The session, user or address to which the rate applies. */
    readonly of: string;
    readonly isRejected: boolean;
  };

  /** The list of a room's users arrived, or was completed. */
  readonly members: {
    /** A subscription of a client, or a life of a node. */
    readonly observer: string;
    readonly room: string;
    readonly users: readonly string[];
  };
  /** A client calls `presence`. Without data, the call removes the client's data. */
  readonly presenceSet: { readonly client: string; readonly room: string; readonly data?: unknown };
  /** The call to `presence` was rejected, so the client's data in the room is unknown. */
  readonly presenceFailed: { readonly client: string; readonly room: string };
  /** A notice of presence. */
  readonly presence: {
    readonly observer: string;
    readonly room: string;
    readonly change: "joined" | "left" | "updated";
    readonly user: string;
  };

  /** A streaming response was requested. */
  readonly responseBegan: {
    readonly response: string;
    readonly client: string;
    /** Total number of items that the handler yields. */
    readonly items: number;
    /** True for a response that survives its session. */
    readonly isKept?: boolean;
  };
  /** A loop received an item. Its index starts at 0. */
  readonly responseItem: {
    readonly response: string;
    readonly reader: string;
    readonly index: number;
  };
  /** The loop ended. `error` is set if it threw, and `isLeft` if the program left the loop. */
  readonly responseEnded: {
    readonly response: string;
    readonly reader: string;
    readonly error?: unknown;
    readonly isLeft?: boolean;
  };

  /**
   * A writer appends the records `first` to `first + count - 1` to a durable stream. Records are
   * numbered from 0.
   */
  readonly appending: {
    readonly stream: string;
    readonly first: number;
    readonly count: number;
    /**
     * True if a producer over HTTP starts a new epoch, so that the stream has no number to compare.
     */
    readonly isNewEpoch?: boolean;
  };
  /** The append resolved. */
  readonly appended: { readonly stream: string; readonly first: number; readonly count: number };
  /** A writer over HTTP received a final response, such as 409. */
  readonly appendRejected: { readonly stream: string; readonly status: number };
  /**
   * The writer closed the stream. `records` is the total, and `code` is set if the stream did not
   * end successfully.
   */
  readonly streamClosed: {
    readonly stream: string;
    readonly records: number;
    readonly code?: string;
  };
  /** A reader over a session or HTTP starts after a number of records. */
  readonly readBegan: { readonly stream: string; readonly reader: string; readonly after: number };
  /** A reader received a record. Its index starts at 0. */
  readonly readDurable: {
    readonly stream: string;
    readonly reader: string;
    readonly record: number;
  };
  /**
   * The reader stopped. There is no code at the end of the stream, and `isLeft` is set if the
   * program left.
   */
  readonly readEnded: {
    readonly stream: string;
    readonly reader: string;
    readonly code?: string;
    readonly isLeft?: boolean;
  };

  /** An end is about to write an item to a stream of the session. Its index starts at 0. */
  readonly streamSent: { readonly flow: string; readonly index: number };
  /** The writer of a flow closes its direction after this number of items. */
  readonly streamEnds: { readonly flow: string; readonly count: number };
  /** An end is about to abort a stream with a code, or to send an item that the schema rejects. */
  readonly streamBreaks: {
    readonly flow: string;
    readonly code: number;
    /** Host of that end. */
    readonly by: string;
    readonly isInvalid: boolean;
  };
  /** The reader of a flow received an item. It is whole if the content matches the index. */
  readonly streamGot: { readonly flow: string; readonly index: number; readonly isWhole: boolean };
  /** The reader of a flow received the end of the stream. */
  readonly streamOver: { readonly flow: string };
  /** A flow failed at the reporting end. */
  readonly streamFailed: {
    readonly flow: string;
    readonly session: string;
    readonly error: unknown;
    readonly isReader?: boolean;
  };
  /** An end is about to send a datagram. `way` is one direction of a session. */
  readonly datagramSent: { readonly way: string; readonly number: number };
  /** The other side received a datagram. */
  readonly datagramGot: {
    readonly way: string;
    readonly number: number;
    /** True on a transport whose datagrams all arrive, in order. */
    readonly isReliable: boolean;
  };

  /** A program waits for a promise of the library. */
  readonly waits: {
    readonly wait: number;
    /** Life of the host. The wait ends when this life ends. */
    readonly life: number;
    /** A description of the promise, such as "request 7". */
    readonly what: string;
    /** Time within which the promise must settle, in milliseconds on the host's clock. */
    readonly withinMs: number;
  };
  /** The promise settled, either way. */
  readonly waited: { readonly wait: number };

  /**
   * A part of the library was examined on the quiet cluster, where the expected outcome is known.
   */
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

  /** An error or a promise rejection that no code handled. */
  readonly unhandled: { readonly error: unknown };
  /** The library reported an error, for example to `onError`. */
  readonly reported: { readonly error: unknown; readonly isExpected?: boolean };
}

export type FactKind = keyof Facts;

/** A fact of one kind, with its time and host. */
export type Fact<K extends FactKind> = Facts[K] & {
  /** Virtual time, in milliseconds since the start. */
  readonly atMs: number;
  /** Name of the host. It is empty for the whole cluster. */
  readonly host: string;
};

/** A server of the cluster, alive at the time of the check. */
export interface LiveServer {
  readonly host: Host;
  readonly server: Pick<
    Server,
    | "manager"
    | "topics"
    | "measures"
    | "rooms"
    | "presence"
    | "nodes"
    | "webTransportStats"
    | "httpStats"
  >;
}

/** A client of the cluster, alive at the time of the check. */
export interface LiveClient {
  /** Name of the client. */
  readonly name: string;
  readonly host: Host;
  readonly client: Pick<Client, "outbox" | "session" | "status" | "isConnected">;
  /** User of the client, according to the servers. */
  readonly user?: string;
  /**
   * Ids of all open sessions, including those from which the client is moving. By default, this is
   * only the newest session.
   */
  readonly sessions?: ReadonlySet<string>;
  /** Subscriptions that the program holds, by name. */
  readonly subscriptions: ReadonlyMap<string, Pick<Subscription, "topic" | "status" | "isEnded">>;
  /** Ids of the durable streams that loops of the program read, by the name of the reader. */
  readonly readers: ReadonlyMap<string, string>;
}

/** Live parts of the cluster, for checks of the state. */
export interface Cluster {
  /** Virtual time, in milliseconds since the start. */
  readonly nowMs: number;
  /** All hosts by name, as in `Simulation.hosts`. */
  readonly hosts: ReadonlyMap<string, Host>;
  /** Waiting events, such as timers, as in `EventLoop.pending()`. */
  pending(): Iterable<{
    readonly host: { readonly name: string } | undefined;
    readonly atMs: number;
  }>;
  /**
   * Returns true if bytes that some host sent long ago are still arriving at a host, over a slow
   * link.
   *
   * @param host The receiving host.
   * @returns True while such bytes are in flight.
   */
  isBehind(host: Host): boolean;
  /** Servers on live hosts, including frozen hosts. */
  readonly servers: readonly LiveServer[];
  /** Clients on live hosts, including frozen hosts. */
  readonly clients: readonly LiveClient[];
}

/** Guarantees that follow from the plan's options. */
export interface Terms {
  /** Returns the limits of a topic's history, or `undefined` without a history. */
  readonly historyOf: (topic: string) => HistoryBounds | undefined;
  /** Returns true for a topic with presence. */
  readonly isRoom: (topic: string) => boolean;
  /** True if nodes share nothing. Each node then has its own topics and histories. */
  readonly isApart: boolean;
  /** The value of `limits.maxSessionsPerUser`. */
  readonly maxSessionsPerUser: number;
  /** True if the limit per user applies to all nodes together. */
  readonly hasSharedLimits: boolean;
  /** False if the broker may lose one of two concurrent changes, so that a slot stays in use. */
  readonly hasExactPlaces: boolean;
  /** False if a transport may reset streams without a code, as the runtime's QUIC does. */
  readonly hasResetCodes: boolean;
  /** Rates of messages, if there are any. */
  readonly rates: Readonly<
    Partial<
      Record<"session" | "user" | "address", {
        readonly perSecond: number;
        readonly burst: number;
      }>
    >
  >;
  /** Limits of the send queue of the servers' sessions. */
  readonly sendQueue: {
    readonly maxMessages: number;
    readonly maxBytes: number;
    /** False if the policy closes a session whose queue is full. */
    readonly drops: boolean;
  };
  /** Heartbeat of sessions. */
  readonly heartbeat: { readonly intervalMs: number; readonly timeoutMs: number };
  /** Limits of the clients' outbox. */
  readonly outbox: { readonly maxMessages: number; readonly maxBytes: number };
}

/** Receives the findings of an invariant. */
export interface Report {
  /**
   * Adds a finding.
   *
   * @param fact Time and host.
   * @param text Expected and received, for readers.
   */
  (fact: { readonly atMs: number; readonly host?: string }, text: string): void;
}

/** The facts that an invariant follows, and checks of the cluster's state. */
export type Watch =
  & { readonly [K in FactKind]?: (fact: Fact<K>) => void }
  & {
    /** Checks the state during the run. This MUST be cheap, because it is called at every step. */
    readonly step?: (cluster: Cluster) => void;
    /** Checks the state at the end, after `settled` and after probes were sent and received. */
    readonly end?: (cluster: Cluster) => void;
    /**
     * Checks that nothing is left after clients, servers and brokers have closed and some time has
     * passed.
     */
    readonly closed?: (cluster: Cluster) => void;
  };

/** A guarantee of the library that holds at each moment of each run. */
export interface Invariant {
  /** The name, as words joined by hyphens. */
  readonly name: string;
  /** The guarantee, in one sentence. */
  readonly promise: string;
  /** Source of the guarantee, such as a rule in docs/protocol.md. */
  readonly source: string;
  /**
   * Starts watching a run.
   *
   * @param report Receives findings.
   * @param terms See {@linkcode Terms}.
   * @returns Functions that follow facts and check the state.
   */
  readonly watch: (report: Report, terms: Terms) => Watch;
}
