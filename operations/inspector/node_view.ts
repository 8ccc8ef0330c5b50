/** The state of one node, measured on request. */
import { BrokerEcho } from "./broker_echo.ts";
import {
  type BrokerView,
  compareRows,
  type ListName,
  type ListQuestion,
  type ListReply,
  type ListRow,
  MAX_ROWS,
  type NodeOverview,
  type Question,
  type QueueLevel,
  type RepliesByKind,
  type RoomReply,
  type RoomRow,
  type SessionReply,
  type SessionRow,
  type StreamRow,
  type TopicRow,
} from "./questions.ts";
import type { InspectedServer } from "../../server/server_core.ts";
import { clip, clipped, payloadText } from "./shown.ts";
import { Traffic, type TrafficReply } from "./traffic.ts";
import { internals, type Session } from "../../session/session.ts";
import { debugState, redactText } from "../../session/insight/diagnostics.ts";
import { issues, openStreams, queuesOf } from "../../session/insight/health.ts";
import { textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";

/** Maximum number of issues in a row; errors come first. */
const MAX_ISSUES = 3;

/** Maximum length of a user, topic or id in a row, in characters; peers choose these names. */
const MAX_NAME_LENGTH = 64;

/** Most topics, rooms and members in the details. */
const MAX_DETAILS = 200;

/** Time for which a response is reused for all pages, in milliseconds. */
const FRESH_MS = 400;

/** Most cached responses. */
const MAX_FRESH = 64;

/** Sessions that are measured per turn of the event loop. */
const CHUNK = 250;

/** Time without a query after which the node discards everything, in milliseconds. */
const IDLE_MS = 10_000;

/** Options of {@linkcode NodeView}. */
export interface NodeViewOptions {
  readonly runtime: Runtime;
  readonly showsPayloads: boolean;
  /** Receives errors that are not sent to any page. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** Issues of all sessions at one moment. */
interface Survey {
  readonly at: number;
  /** Rank by session, without sessions that have no issues. */
  readonly ranks: ReadonlyMap<Session, number>;
  readonly errors: number;
  readonly warnings: number;
}

/**
 * The state of one node.
 *
 * - **Off** by default: nothing is measured, stored or subscribed to until the first query. Measuring
 *   stops 10 s after the last one.
 * - **Shared:** one measurement serves all pages for 0.4 s.
 * - **Bounds:** lists are searched and sorted on the node, and have up to 100 rows. The node lets
 *   other work run after every 250 sessions.
 */
export class NodeView implements AsyncDisposable {
  readonly #server: InspectedServer;
  readonly #runtime: Runtime;
  readonly #showsPayloads: boolean;
  readonly #onError: (error: unknown) => void;
  readonly #traffic: Traffic;
  /** Responses by query, oldest first; at most `MAX_FRESH`. */
  readonly #fresh = new Map<string, { readonly at: number; readonly reply: Promise<unknown> }>();
  #survey: Promise<Survey> | undefined;
  #surveyedAt = -Infinity;
  /** Publications of each topic at the last measurement of rates. */
  #counts: { readonly at: number; readonly byTopic: Map<string, number> } | undefined;
  #rates = new Map<string, number>(); // Bounded by the topics.
  #echo: BrokerEcho | undefined;
  #askedAt = 0;
  #idle: Timer | undefined;
  #isClosed = false;

  constructor(server: InspectedServer, { runtime, showsPayloads, onError }: NodeViewOptions) {
    this.#server = server;
    this.#runtime = runtime;
    this.#showsPayloads = showsPayloads;
    this.#onError = onError;
    this.#traffic = new Traffic(runtime, showsPayloads);
  }

  /** Responds to a query. */
  replyTo<Q extends Question>(question: Q): Promise<RepliesByKind[Q["kind"]]> {
    const now = this.#askedAt = this.#runtime.monotonic();
    if (!this.#isClosed) this.#idle ??= this.#startIdle(IDLE_MS);
    // Each page has its own position in the traffic.
    if (question.kind === "traffic") {
      return this.#read(question) as Promise<RepliesByKind[Q["kind"]]>;
    }
    const key = JSON.stringify(question);
    const known = this.#fresh.get(key);
    if (known !== undefined && now - known.at < FRESH_MS) {
      return known.reply as Promise<RepliesByKind[Q["kind"]]>;
    }
    const reply = this.#read(question) as Promise<RepliesByKind[Q["kind"]]>;
    reply.catch(() => {}); // Each page awaits the response itself.
    this.#fresh.delete(key);
    this.#fresh.set(key, { at: now, reply });
    if (this.#fresh.size > MAX_FRESH) this.#fresh.delete(this.#fresh.keys().next().value!);
    return reply;
  }

  /** Ends all recordings and measurements. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#rest();
  }

  async #read(question: Question): Promise<unknown> {
    switch (question.kind) {
      case "overview":
        return await this.#overview();
      case "list":
        return await this.#list(question);
      case "session":
        return await this.#session(question.id);
      case "traffic":
        return this.#readTraffic(question.id, question.after);
      case "room":
        return this.#room(question.name);
    }
  }

  #startIdle(ms: number): Timer {
    return this.#runtime.setTimeout(() => {
      this.#idle = undefined;
      const leftMs = this.#askedAt + IDLE_MS - this.#runtime.monotonic();
      if (leftMs > 0) this.#idle = this.#startIdle(leftMs);
      else this.#rest().catch(this.#onError);
    }, ms);
  }

  async #rest(): Promise<void> {
    this.#runtime.clearTimeout(this.#idle);
    this.#idle = undefined;
    this.#fresh.clear();
    this.#survey = undefined;
    this.#counts = undefined;
    this.#rates.clear();
    this.#traffic[Symbol.dispose]();
    const echo = this.#echo;
    this.#echo = undefined;
    await echo?.[Symbol.asyncDispose]();
  }

  async #overview(): Promise<NodeOverview> {
    const { manager, topics, rooms, presence, httpStats, quotaStats, webTransportStats } =
      this.#server;
    const { ranks, errors, warnings } = await this.#takeSurvey();
    const { failedPublications, gaps, recovered } = topics.stats;
    return {
      at: this.#runtime.monotonic(),
      stats: manager.stats(),
      issues: { errors, warnings, sessions: ranks.size },
      roundTripMs: median(manager.all().flatMap(({ roundTripMs }) => roundTripMs ?? [])),
      topics: { count: topics.size, failedPublications, gaps, recovered },
      rooms: [...rooms.names()].length,
      online: presence.online().length,
      streams: this.#streamCounts(),
      broker: this.#broker(),
      http: httpStats,
      quotas: quotaStats,
      webTransport: webTransportStats,
    };
  }

  #streamCounts(): NodeOverview["streams"] {
    const all = this.#server.streams?.activity();
    if (all === undefined) return undefined;
    return {
      writers: all.filter(({ writer }) => writer !== undefined).length,
      readers: all.reduce((sum, { readers }) => sum + readers, 0),
      responses: all.filter(({ isResponse }) => isResponse).length,
    };
  }

  #broker(): BrokerView {
    const { broker } = this.#server.topics;
    const issues = [...broker.issues(), ...this.#server.nodes?.issues() ?? []];
    const status = broker.status.current;
    // A single server has no broker to wait for.
    if (this.#server.nodes !== undefined && !this.#isClosed) {
      this.#echo ??= new BrokerEcho(broker, this.#runtime);
      this.#echo.measure();
    }
    const isAway = status.name === "interrupted";
    const error = isAway && status.error !== undefined ? textOf(status.error) : undefined;
    return {
      name: broker.name,
      delivery: broker.delivery,
      state: status.name,
      since: isAway ? status.since : undefined,
      // The error of a client library may contain the URL with the password.
      error: error && clip(redactText(error)),
      issues: issues.slice(0, 16).map((issue) => clip(redactText(issue))),
      stats: broker.stats,
      latencyMs: this.#echo?.latencyMs,
      keeps: (["history", "store"] as const).filter((part) => broker[part] !== undefined),
    };
  }

  /** Finds the issues of all sessions, in steps. */
  #takeSurvey(): Promise<Survey> {
    const now = this.#runtime.monotonic();
    if (this.#survey !== undefined && now - this.#surveyedAt < FRESH_MS) return this.#survey;
    this.#surveyedAt = now;
    return this.#survey = this.#surveyAll(now);
  }

  async #surveyAll(at: number): Promise<Survey> {
    const ranks = new Map<Session, number>();
    let errors = 0;
    let warnings = 0;
    for await (const session of this.#sessions()) {
      const found = issues(session[internals]);
      if (found.length === 0) continue;
      const bad = found.filter(({ severity }) => severity === "error").length;
      errors += bad;
      warnings += found.length - bad;
      ranks.set(session, bad * 1_000 + found.length - bad);
    }
    return { at, ranks, errors, warnings };
  }

  /** Lists all sessions, with turns for other work in between. */
  async *#sessions(): AsyncGenerator<Session, void, undefined> {
    const all = this.#server.manager.all();
    for (const [i, session] of all.entries()) {
      if (i % CHUNK === CHUNK - 1) {
        await new Promise<void>((resolve) => this.#runtime.schedule(resolve));
      }
      yield session;
    }
  }

  async #list(question: ListQuestion): Promise<ListReply> {
    const publishers: Record<ListName, () => ListReply | Promise<ListReply>> = {
      sessions: () => this.#listSessions(question),
      topics: () => select(question, this.#topicRows(), ({ topic }) => topic),
      rooms: () => select(question, this.#roomRows(), ({ room }) => room),
      streams: () => select(question, this.#streamRows(), ({ id }) => id),
    };
    return await publishers[question.list]();
  }

  /** Sorts all sessions by one column, and reads the other columns only for the shown ones. */
  async #listSessions(question: ListQuestion): Promise<ListReply> {
    const { sort, words, onlyIssues } = question;
    const needsRanks = onlyIssues || sort === "rank";
    const ranks: Survey["ranks"] = needsRanks ? (await this.#takeSurvey()).ranks : new Map();
    const found: { readonly session: Session; readonly [column: string]: unknown }[] = [];
    let total = 0;
    for (const session of this.#server.manager.all()) {
      total++;
      if (onlyIssues && !ranks.has(session)) continue;
      if (words.length > 0) {
        const { user, id, transport, state, url } = session;
        const text = `${user} ${id} ${transport} ${state} ${redactText(url)}`.toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      found.push({ session, [sort]: valueOf(session, sort, ranks) });
    }
    found.sort(compareRows(question));
    const rows = found.slice(0, MAX_ROWS).map(({ session }) => this.#rowOf(session));
    return { rows, matched: found.length, total };
  }

  #rowOf(session: Session): SessionRow {
    const { id, user, transport, state, roundTripMs } = session;
    const core = session[internals];
    const { send, receive } = queuesOf(core);
    const found = issues(core);
    const received = levelOf(receive);
    const sent = send && levelOf(send);
    return {
      node: this.#server.nodes?.id ?? "",
      id,
      user: clip(user, MAX_NAME_LENGTH),
      transport,
      state,
      uptimeMs: uptimeOf(session),
      roundTripMs,
      received: core.receiving.stats.receivedMessages,
      sent: core.queue?.stats.sentMessages ?? 0,
      streams: openStreams(session),
      filled: Math.max(received.share, sent?.share ?? 0),
      receive: received,
      send: sent,
      rank: found.reduce((sum, { severity }) => sum + (severity === "error" ? 1_000 : 1), 0),
      issues: found.slice(0, MAX_ISSUES)
        .map(({ severity, message }) => ({ severity, message: clip(redactText(message)) })),
    };
  }

  #topicRows(): TopicRow[] {
    const rates = this.#takeRates();
    const rows: TopicRow[] = [];
    for (const { topic, subscribers, publications, position } of this.#server.topics.list()) {
      const perSecond = rates.get(topic) ?? 0;
      const offset = position?.offset;
      rows.push({ topic, subscribers, publications, perSecond, offset, nodes: 1 });
    }
    return rows;
  }

  /** Compares the counters of topics with their values about a second ago. */
  #takeRates(): ReadonlyMap<string, number> {
    const at = this.#runtime.monotonic();
    const before = this.#counts;
    if (before !== undefined && at - before.at < 2 * FRESH_MS) return this.#rates;
    const byTopic = new Map<string, number>();
    const rates = new Map<string, number>();
    for (const { topic, publications } of this.#server.topics.list()) {
      byTopic.set(topic, publications);
      const earlier = before?.byTopic.get(topic);
      if (earlier === undefined || publications <= earlier) continue;
      rates.set(topic, (publications - earlier) / ((at - before!.at) / 1_000));
    }
    this.#counts = { at, byTopic };
    return this.#rates = rates;
  }

  #roomRows(): RoomRow[] {
    const { rooms, presence, topics } = this.#server;
    return Array.from(rooms.names(), (room) => ({
      room,
      users: presence.count(room),
      sessions: topics.subscribers(room).length,
      nodes: 1,
    }));
  }

  #streamRows(): StreamRow[] {
    const { nodes } = this.#server;
    return (this.#server.streams?.activity() ?? []).map(({ id, readers, isResponse, writer }) => ({
      id,
      readers,
      writer: writer && (nodes === undefined ? "this server" : nodes.name || nodes.id),
      isResponse,
      offset: writer?.offset,
      waiting: writer?.waiting ?? 0,
      nodes: 1,
    }));
  }

  async #session(id: string): Promise<SessionReply> {
    const session = this.#server.manager.get(id);
    if (session === undefined) return {};
    const state = clipped(await debugState(session[internals]));
    const { topics, rooms } = this.#server;
    return {
      row: this.#rowOf(session),
      state,
      topics: topics.topicsOf(session).slice(0, MAX_DETAILS),
      rooms: rooms.roomsOf(session).slice(0, MAX_DETAILS),
    };
  }

  #readTraffic(id: string, after: number): TrafficReply {
    const session = this.#isClosed ? undefined : this.#server.manager.get(id);
    return this.#traffic.read(session, id, after);
  }

  #room(name: string): RoomReply {
    const members = this.#server.rooms.members(name);
    return {
      users: members.length,
      members: members.slice(0, MAX_DETAILS).map(({ user, connections, joinedAt, data }) => ({
        user: clip(user, MAX_NAME_LENGTH),
        connections,
        joinedAt,
        data: this.#showsPayloads && data !== undefined ? payloadText(data) : "",
      })),
    };
  }
}

/** Searches and sorts the rows of a list. */
function select<R extends ListRow>(
  question: ListQuestion,
  rows: readonly R[],
  nameOf: (row: R) => string,
): ListReply {
  const { words } = question;
  const found = rows.filter((row) => {
    const text = nameOf(row).toLowerCase();
    return words.every((word) => text.includes(word));
  });
  found.sort(compareRows(question));
  return { rows: found.slice(0, MAX_ROWS), matched: found.length, total: rows.length };
}

/** Reads the value by which a list of sessions is sorted. */
function valueOf(
  session: Session,
  column: string,
  ranks: ReadonlyMap<Session, number>,
): string | number | undefined {
  const core = session[internals];
  switch (column) {
    case "user":
    case "transport":
    case "state":
    case "roundTripMs":
      return session[column];
    case "uptimeMs":
      return uptimeOf(session);
    case "received":
      return core.receiving.stats.receivedMessages;
    case "sent":
      return core.queue?.stats.sentMessages;
    case "streams":
      return openStreams(session);
    case "filled": {
      const { send, receive } = queuesOf(core);
      return Math.max(levelOf(receive).share, send === undefined ? 0 : levelOf(send).share);
    }
    default:
      return ranks.get(session) ?? 0;
  }
}

function uptimeOf(session: Session): number {
  const { readyAt, settings: { runtime } } = session[internals];
  return readyAt === undefined ? 0 : Math.max(0, runtime.now() - readyAt);
}

function levelOf(
  { messages, maxMessages, bytes, maxBytes }: {
    readonly messages: number;
    readonly maxMessages: number;
    readonly bytes: number;
    readonly maxBytes: number;
  },
): QueueLevel {
  return { messages, maxMessages, share: Math.max(messages / maxMessages, bytes / maxBytes) };
}

function median(numbers: number[]): number | undefined {
  numbers.sort((a, b) => a - b);
  return numbers[numbers.length >> 1];
}
