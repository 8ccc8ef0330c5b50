/**
 * Queries that a page sends to the nodes, and their responses: plain objects that can be sent as
 * JSON.
 */
import type { TrafficReply } from "./traffic.ts";
import type { QuotaStats } from "../../base/quotas/shares.ts";
import type { HttpStats, WebTransportStats } from "../../server/metrics/measures.ts";
import type { ManagerStats } from "../../manager/stats.ts";
import type { BrokerStats } from "../../pubsub/broker.ts";
import type { HistoryBounds } from "../../pubsub/broker.ts";
import type { SessionDebugState } from "../../session/insight/diagnostics.ts";

/** Maximum number of rows in a list; a search finds the others. */
export const MAX_ROWS = 100;

/** Most characters of a search. */
export const MAX_QUERY_LENGTH = 256;

/** The lists, and the columns by which each can be sorted; the first column is the default. */
export const LISTS = {
  sessions: [
    "rank",
    "user",
    "transport",
    "state",
    "uptimeMs",
    "roundTripMs",
    "received",
    "sent",
    "streams",
    "filled",
  ],
  topics: ["subscribers", "topic", "perSecond", "publications", "offset"],
  rooms: ["users", "room", "sessions"],
  streams: ["readers", "id", "waiting"],
} as const;

export type ListName = keyof typeof LISTS;

/** A query for a list. */
export interface ListQuestion {
  readonly kind: "list";
  readonly list: ListName;
  /** Words that each row must contain, in lower case. */
  readonly words: readonly string[];
  readonly sort: string;
  readonly isAscending: boolean;
  /** Only sessions with issues. */
  readonly onlyIssues: boolean;
}

/** A query to one node. */
export type Question =
  | { readonly kind: "overview" }
  | ListQuestion
  | { readonly kind: "session"; readonly id: string }
  | { readonly kind: "traffic"; readonly id: string; readonly after: number }
  | { readonly kind: "room"; readonly name: string };

/** Fill level of a queue. */
export interface QueueLevel {
  readonly messages: number;
  readonly maxMessages: number;
  /** Used share of messages or bytes, whichever is larger. */
  readonly share: number;
}

/** One session in the list. */
export interface SessionRow {
  readonly node: string;
  readonly id: string;
  readonly user: string;
  readonly transport: string;
  readonly state: string;
  readonly uptimeMs: number;
  readonly roundTripMs: number | undefined;
  readonly received: number;
  readonly sent: number;
  readonly streams: number;
  readonly filled: number;
  readonly receive: QueueLevel;
  readonly send: QueueLevel | undefined;
  /** 0 if there are no issues; each error counts as 1,000. */
  readonly rank: number;
  readonly issues: readonly { readonly severity: string; readonly message: string }[];
}

/** One topic with subscribers. */
export interface TopicRow {
  readonly topic: string;
  readonly subscribers: number;
  /** Publications delivered by this node so far. */
  readonly publications: number;
  /** Publications in the last second. */
  readonly perSecond: number;
  /** Newest offset; `undefined` if the topic has no history. */
  readonly offset: number | undefined;
  /** Nodes with subscribers. */
  readonly nodes: number;
}

/** One room with members. */
export interface RoomRow {
  readonly room: string;
  readonly users: number;
  readonly sessions: number;
  readonly nodes: number;
}

/** One durable stream with a writer or readers. */
export interface StreamRow {
  readonly id: string;
  readonly readers: number;
  /** Name of the node whose writer is open; `undefined` if there is no writer. */
  readonly writer: string | undefined;
  readonly isResponse: boolean;
  readonly offset: string | undefined;
  /** Records that wait for the broker. */
  readonly waiting: number;
  readonly nodes: number;
}

/** A row of any list. */
export type ListRow = SessionRow | TopicRow | RoomRow | StreamRow;

/** A list of one node, or of all. */
export interface ListReply {
  readonly rows: readonly ListRow[];
  /** Number of matching rows. */
  readonly matched: number;
  /** Total number of rows. */
  readonly total: number;
}

/** The state of the broker, as seen by one node. */
export interface BrokerView {
  readonly name: string;
  readonly delivery: string;
  readonly state: string;
  readonly since: number | undefined;
  readonly error: string | undefined;
  readonly issues: readonly string[];
  readonly stats: BrokerStats;
  /**
   * Round-trip time of a publication from this node through the broker; `undefined` until it is
   * known.
   */
  readonly latencyMs: number | undefined;
  readonly keeps: readonly ("history" | "store")[];
}

/** The measurements of one node. */
export interface NodeOverview {
  /** Time of the measurement on the node's monotonic clock, for computing rates. */
  readonly at: number;
  readonly stats: ManagerStats;
  readonly issues: {
    readonly errors: number;
    readonly warnings: number;
    readonly sessions: number;
  };
  /** Median of all sessions. */
  readonly roundTripMs: number | undefined;
  readonly topics: {
    readonly count: number;
    readonly failedPublications: number;
    readonly gaps: number;
    readonly recovered: number;
  };
  readonly rooms: number;
  /** Online users that the node knows. */
  readonly online: number;
  readonly streams:
    | { readonly writers: number; readonly readers: number; readonly responses: number }
    | undefined;
  readonly broker: BrokerView;
  readonly http: Readonly<Record<string, HttpStats>>;
  /** Limits that clients share, by name. */
  readonly quotas: Readonly<Record<string, QuotaStats>>;
  readonly webTransport: WebTransportStats | undefined;
}

/** Details of one session; `state` is missing once the session has closed. */
export interface SessionReply {
  readonly row?: SessionRow | undefined;
  readonly state?: SessionDebugState | undefined;
  readonly topics?: readonly string[] | undefined;
  readonly rooms?: readonly string[] | undefined;
}

/** Members of a room. */
export interface RoomReply {
  readonly users: number;
  readonly members: readonly {
    readonly user: string;
    readonly connections: number;
    readonly joinedAt: number;
    readonly data: string;
  }[];
}

/** The history of a topic in the broker. */
export interface HistoryReply {
  readonly bounds: HistoryBounds;
  readonly epoch: string;
  readonly head: number;
  readonly oldest: number | undefined;
  readonly messages: number;
  readonly bytes: number;
  /** True if there are more publications than were read. */
  readonly isPartial: boolean;
  readonly newest: readonly { readonly offset: number; readonly text: string }[];
}

/** The response to each kind of query. */
export interface RepliesByKind {
  readonly overview: NodeOverview;
  readonly list: ListReply;
  readonly session: SessionReply;
  readonly traffic: TrafficReply;
  readonly room: RoomReply;
}

/**
 * Parses a query of another node.
 *
 * @returns The query; `undefined` if this version does not support it.
 */
export function readQuestion(value: unknown): Question | undefined {
  const { kind, id, after, name, list, words, sort, isAscending, onlyIssues } = Object(value);
  switch (kind) {
    case "overview":
      return { kind };
    case "session":
      return isText(id) ? { kind, id } : undefined;
    case "traffic":
      return isText(id) && Number.isSafeInteger(after) && after >= 0
        ? { kind, id, after }
        : undefined;
    case "room":
      return isText(name) ? { kind, name } : undefined;
    case "list": {
      if (!Object.hasOwn(LISTS, list) || !Array.isArray(words) || !words.every(isText)) {
        return undefined;
      }
      const columns: readonly string[] = LISTS[list as ListName];
      return {
        kind,
        list,
        words,
        sort: columns.includes(sort) ? sort : columns[0]!,
        isAscending: isAscending === true,
        onlyIssues: onlyIssues === true,
      };
    }
    default:
      return undefined;
  }
}

/** Sorts rows by a column; rows without a value come last. */
export function compareRows(
  { sort, isAscending }: Pick<ListQuestion, "sort" | "isAscending">,
): (a: object, b: object) => number {
  const sign = isAscending ? 1 : -1;
  return (a, b) => {
    const one = (a as Record<string, unknown>)[sort];
    const other = (b as Record<string, unknown>)[sort];
    if (one === other) return 0;
    if (one === undefined || one === null) return 1;
    if (other === undefined || other === null) return -1;
    return one < other ? -sign : sign;
  };
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.length <= 2 * MAX_QUERY_LENGTH;
}
