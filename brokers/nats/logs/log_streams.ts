/** The streams of logs: for each shard, one with all changes, and one with the next checks. */
import { abortable } from "@std/async/abortable";
import type { DirectMsgRequest, JetStreamManager, MsgRequest } from "@nats-io/jetstream";
import { headers, type MsgHdrs } from "@nats-io/nats-core";
import { BrokerError } from "../../../errors.ts";
import { textOf } from "../../../base/error_text.ts";
import { limitText, replyText } from "../limits.ts";
import {
  type LogKind,
  logKind,
  type OwnedKind,
  REQUEST_PREFIX,
  RESPONSE_PREFIX,
} from "../../../streams/logs/log_names.ts";
import type { RetainedLog, RetainedLogs } from "../../../streams/logs/rules.ts";
import {
  CARRIED_HEADER,
  DEFAULT_MAX_PAYLOAD,
  ID_HEADER,
  KEPT_HEADER,
  type LogNames,
  type NatsNames,
  parseAck,
  QUIET_HEADER,
  subjectPart,
} from "../format.ts";
import {
  codeOf,
  NOT_FOUND,
  openStream,
  readMessage,
  repeatedRead,
  settleLeader,
  streamConfig,
} from "../jetstream.ts";
import type { NatsLink } from "../link.ts";
import type { NatsSettings } from "../options.ts";
import { shardOf } from "../shards.ts";
import { countSubjects, pull, pullNewest, type Stored } from "../pull.ts";
import { decodeLog, type LogMessage } from "./format.ts";

/** Fraction of a message for its state. */
const STATE_SHARE = 1 / 4;

/** Bytes of a message for its headers. */
const HEADER_BYTES = 1_024;

/** Time for which a stream recognizes the ids of messages, in milliseconds. */
const DUPLICATE_WINDOW_MS = 10_000;

/** Interval at which shards that could not be opened are opened again, in milliseconds. */
const RETRY_MS = 5_000;

/** Maximum number of shards that are counted concurrently. */
const MAX_COUNTS = 4;

/** JetStream's error code for a message that has the same id as an in-flight message. */
const ID_UNDER_WAY = 10158;

/** Conditions of a change. */
export interface ChangeOptions {
  /** Sequence of the log's newest message; 0 without a message. */
  readonly after: number;
  /** Removes all earlier messages of the log together with the change. */
  readonly isReplacing: boolean;
  /** Keeps the change from being announced. */
  readonly isQuiet: boolean;
  /** The payload of the announcement; an empty one if absent. */
  readonly carried?: Uint8Array | undefined;
  /** The log's entry in the lists; absent for a removal and for a log that is not listed. */
  readonly kept?: RetainedLog | undefined;
}

/** A shard by its number, or by a log in it: the log's part of a subject. */
type ShardKey = number | string;

/** A shard whose streams exist. */
interface OpenShard {
  readonly manager: JetStreamManager;
  readonly names: LogNames;
}

/** A check as stored. */
type StoredCheck = Pick<Stored, "data" | "seq">;

/**
 * The streams of all shards, each opened when a log in it is used. Every method rejects with a
 * `BrokerError` on failure.
 */
export class LogStreams {
  readonly #problems = new Map<number, unknown>();
  #isRetrying = false;
  readonly #link: NatsLink;
  readonly #names: NatsNames;
  readonly #settings: NatsSettings;

  constructor(link: NatsLink, names: NatsNames, settings: NatsSettings) {
    this.#link = link;
    this.#names = names;
    this.#settings = settings;
  }

  /** The last error of each shard whose streams could not be opened. */
  get problems(): unknown[] {
    return [...this.#problems.values()];
  }

  /**
   * Identifies a period in which the streams of a shard are certainly the same. It changes after an
   * outage or a failure.
   */
  era(at: ShardKey): unknown {
    return this.#link.opened(openKey(this.#shardOf(at)));
  }

  /** Maximum size of the state in a message, in bytes. */
  get maxStateBytes(): number {
    return Math.floor(this.#maxPayload * STATE_SHARE) - HEADER_BYTES;
  }

  /** Maximum size of a message's encoded records, in bytes. */
  get maxRecordBytes(): number {
    return Math.floor(this.#maxPayload * (1 - STATE_SHARE));
  }

  get #maxPayload(): number {
    return this.#link.connection?.info?.max_payload ?? DEFAULT_MAX_PAYLOAD;
  }

  /** Waits for the server, and opens the streams of a shard. */
  async open(at: ShardKey, signal?: AbortSignal): Promise<void> {
    await this.#ask("open logs", at, () => Promise.resolve(), signal);
  }

  /** Waits for the server, and lists the numbers of all shards. */
  async shards(): Promise<number[]> {
    await this.open(0);
    return Array.from({ length: this.#count }, (_, shard) => shard);
  }

  /** Reads the newest message of a log. */
  async newest(part: string): Promise<LogMessage | undefined> {
    return await this.#get(part, (kept) => ({ last_by_subj: kept }));
  }

  /** Reads the newest message of a log from the leader of the stream. */
  async newestAtLeader(part: string): Promise<LogMessage | undefined> {
    return await this.#get(part, (kept) => ({ last_by_subj: kept }), true);
  }

  /** Reads the first message of a log at or after a sequence. */
  async next(part: string, seq: number): Promise<LogMessage | undefined> {
    return await this.#get(part, (kept) => ({ seq, next_by_subj: kept }));
  }

  /** Reads messages of a log at or after a sequence, oldest first. */
  async from(
    part: string,
    options: { readonly from: number; readonly count: number; readonly maxBytes: number },
  ): Promise<LogMessage[]> {
    const maxBytes = options.maxBytes + 2 * this.#maxPayload;
    const { messages } = await this.#ask("read a log", part, (manager, { stream, kept }) => {
      const subject = `${kept}.${part}`;
      return pull(this.#link, manager, { stream, subject, ...options, maxBytes });
    });
    return messages.map(({ seq, data }) => decodeLog(seq, data));
  }

  /**
   * Writes a message of a log.
   *
   * @returns The sequence; `undefined` if another change was first.
   */
  async write(
    part: string,
    message: Uint8Array,
    { after, isReplacing, isQuiet, carried, kept }: ChangeOptions,
  ): Promise<number | undefined> {
    const options = headers();
    options.set("Nats-Expected-Last-Subject-Sequence", String(after));
    // The leader of a replicated stream checks a message's sequence only before replicating it, so
    // two concurrent messages may both pass. Because they have the same id, only one of them is
    // stored.
    if (this.#settings.replicas > 1 && after > 0) options.set(ID_HEADER, `${part}:${after}`);
    if (isReplacing) options.set("Nats-Rollup", "sub");
    if (isQuiet) options.set(QUIET_HEADER, "1");
    if (carried !== undefined) options.set(CARRIED_HEADER, carried.toBase64());
    if (kept !== undefined) options.set(KEPT_HEADER, encodeHeader(kept));
    return await this.#publish("change a log", part, message, {
      headers: options,
      to: ({ stream, kept }) => [stream, `${kept}.${part}`],
    });
  }

  /** Removes a message of a log, or a check. A missing message is not an error. */
  async remove(at: ShardKey, seq: number, from: "stream" | "dueStream" = "stream"): Promise<void> {
    await this.#ask("remove a message", at, async ({ streams }, names) => {
      // If the message is already gone, the reply is an error, because another node was first.
      await streams.deleteMessage(names[from], seq, false).catch((error) => {
        if (!/no message found|sequence \d+ not found/.test(textOf(error))) throw error;
      });
    });
  }

  /** Removes all messages of a log, or those before a sequence. */
  async purge(part: string, seq?: number): Promise<void> {
    await this.#ask("remove messages", part, async ({ streams }, { stream, kept }) => {
      const filter = `${kept}.${part}`;
      await streams.purge(stream, seq === undefined ? { filter } : { filter, seq });
    });
  }

  /**
   * Counts the logs of one kind, or of all, including removed ones until their last message is
   * gone.
   */
  async count(kind?: Exclude<LogKind, "stream">): Promise<number> {
    const shards = await this.shards();
    let all = 0;
    // The first call creates the streams, each with an election.
    while (shards.length > 0) {
      const counts = shards.splice(0, MAX_COUNTS).map((shard) => this.#countIn(shard, kind));
      for (const count of await Promise.all(counts)) all += count;
    }
    return all;
  }

  async #countIn(shard: number, kind: Exclude<LogKind, "stream"> | undefined): Promise<number> {
    const count = () =>
      this.#ask("count logs", shard, async (manager, { stream, kept }) => {
        if (kind !== undefined) return await countSubjects(manager, stream, subjectsOf(kept, kind));
        return (await manager.streams.info(stream)).state.num_subjects ?? 0;
      });
    try {
      return await count();
    } catch (error) {
      // An operator has deleted the stream, which the next call creates again.
      if (codeOf((error as BrokerError).cause) !== NOT_FOUND) throw error;
      return await count();
    }
  }

  /** Lists the logs of a kind, shard by shard. The cursor of a page is valid for 10 s. */
  async list(
    kind: OwnedKind,
    { limit, after = "0" }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    const shards = await this.shards();
    let [, cursor] = after.split(/ (.*)/);
    for (const shard of shards.slice(parseInt(after, 10))) {
      const { logs, next } = await this.#listIn(shard, kind, { limit, after: cursor });
      if (next !== undefined) return { logs, next: `${shard} ${next}` };
      const isLast = shard === shards.length - 1;
      if (logs.length > 0) return { logs, next: isLast ? undefined : `${shard + 1}` };
      cursor = undefined;
    }
    return { logs: [] };
  }

  /** To list durable streams, reads all kinds, because no subject matches durable streams only. */
  async #listIn(
    shard: number,
    kind: OwnedKind,
    { limit, after }: { readonly limit: number; readonly after: string | undefined },
  ): Promise<RetainedLogs> {
    const { headers, next } = await this.#ask(
      "list logs",
      shard,
      (manager, { stream, kept }) =>
        pullNewest(this.#link, manager, {
          stream,
          subject: kind === "answer" ? subjectsOf(kept, kind) : `${kept}.>`,
          header: KEPT_HEADER,
          count: limit,
          after,
        }),
    );
    const logs = headers.flatMap(decodeHeader).filter(({ id }) => logKind(id) === kind);
    return { logs, next };
  }

  /** Writes a check of a log. */
  async writeCheck(kind: number, part: string, body: string): Promise<void> {
    await this.#publish("note the next check of a log", part, new TextEncoder().encode(body), {
      headers: headers(),
      to: ({ dueStream, due }) => [dueStream, `${due}.${kind}.${part}`],
    });
  }

  /** Newest sequence of the checks in a shard. */
  async newestCheck(shard: number): Promise<number> {
    return await this.#ask(
      "list logs",
      shard,
      async ({ streams }, { dueStream }) => (await streams.info(dueStream)).state.last_seq,
    );
  }

  /** Reads the first check of a class at or after a sequence. */
  async firstCheck(shard: number, kind: number, from: number): Promise<StoredCheck | undefined> {
    return await this.#ask("list logs", shard, async ({ direct }, { dueStream, due }) => {
      const query = { seq: Math.max(1, from), next_by_subj: `${due}.${kind}.>` };
      const read = () => direct.getMessage(dueStream, query);
      return await repeatedRead(this.#link.runtime, read) ?? undefined;
    });
  }

  /** Reads checks of a class at or after a sequence, oldest first. */
  async checks(
    shard: number,
    kind: number,
    { from, count }: { readonly from: number; readonly count: number },
  ): Promise<readonly StoredCheck[]> {
    return await this.#ask("list logs", shard, async (manager, { dueStream: stream, due }) => {
      const part = { stream, subject: `${due}.${kind}.>`, from, count, mayLack: true };
      return (await pull(this.#link, manager, part)).messages;
    });
  }

  async #get(
    part: string,
    query: (subject: string) => DirectMsgRequest & MsgRequest,
    isReplicated = this.#settings.replicas > 1,
  ): Promise<LogMessage | undefined> {
    const { runtime } = this.#link;
    const found = await this.#ask(
      "read a log",
      part,
      (manager, { stream, kept }) =>
        readMessage({ runtime, manager, isReplicated }, stream, query(`${kept}.${part}`)),
    );
    return found ? decodeLog(found.seq, found.data) : undefined;
  }

  async #publish(
    what: string,
    part: string,
    message: Uint8Array,
    { headers, to }: {
      readonly headers: MsgHdrs;
      readonly to: (names: LogNames) => readonly [stream: string, subject: string];
    },
  ): Promise<number | undefined> {
    return await this.#ask(what, part, async (_manager, names) => {
      const [stream, subject] = to(names);
      const ack = parseAck(await this.#link.request(subject, message, { headers }));
      const { life } = this.#link;
      if (ack.name === "stored") {
        life.accepted(stream);
        this.#link.rates.note(stream, "logs", ack.seq);
        return ack.isDuplicate ? undefined : ack.seq;
      }
      if (ack.name === "conflict" || ack.code === ID_UNDER_WAY) return undefined;
      if (ack.isLimit) life.refused(stream, ack.reply);
      throw new BrokerError(`Cannot ${what}: ${ack.reply}`);
    });
  }

  /** Calls JetStream. The call ends immediately when the connection is lost. */
  async #ask<T>(
    what: string,
    at: ShardKey,
    act: (manager: JetStreamManager, names: LogNames) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    let shard = 0;
    let opened: Promise<OpenShard> | undefined;
    let period: AbortSignal | undefined;
    try {
      await this.#link.reach(signal);
      // The number of shards is known once the first one is open.
      if (this.#link.mark.shards === undefined && at !== 0) await this.open(0, signal);
      shard = this.#shardOf(at);
      opened = this.#open(shard);
      period = this.#link.period;
      const acting = opened.then(async ({ manager, names }) => {
        await this.#link.followClock(manager, names.stream);
        return await act(manager, names);
      });
      return await (period ? abortable(acting, period) : acting);
    } catch (cause) {
      // The streams may be gone, so the next call creates them again.
      this.#link.reopen(openKey(shard), opened);
      signal?.throwIfAborted();
      const limit = limitText(cause);
      if (limit !== undefined) this.#link.life.refused(this.#namesOf(shard).stream, limit);
      if (cause instanceof BrokerError) throw cause;
      const text = period?.aborted ? "the connection was lost before the reply" : replyText(cause);
      throw new BrokerError(`Cannot ${what}: ${text}`, { cause });
    }
  }

  /** Opens a shard, unless it is open. */
  #open(shard: number): Promise<OpenShard> {
    return this.#link.once(openKey(shard), () => {
      const opening = this.#make(shard);
      // Opening the streams on an earlier connection may fail after a later attempt has succeeded.
      const isNewest = () => this.era(shard) === opening;
      opening.then(
        () => isNewest() && this.#problems.delete(shard),
        (problem) => {
          if (!isNewest()) return;
          this.#problems.set(shard, problem);
          void this.#retry();
        },
      );
      return opening;
    });
  }

  /** Opens shards again, because no one may use a log of them for a long time. */
  async #retry(): Promise<void> {
    if (this.#isRetrying) return;
    this.#isRetrying = true;
    while (this.#problems.size > 0 && await this.#link.whenUp()) {
      await this.#link.pause(RETRY_MS);
      for (const shard of [...this.#problems.keys()]) await this.open(shard).catch(() => {});
    }
    this.#isRetrying = false;
  }

  async #make(shard: number): Promise<OpenShard> {
    const manager = await this.#link.manager();
    const names = this.#namesOf(shard);
    const { stream, kept, changes, dueStream, due, turn } = names;
    const common = streamConfig(this.#settings);
    await Promise.all([
      openStream(manager, {
        ...common,
        name: stream,
        subjects: [`${kept}.>`],
        allow_rollup_hdrs: true,
        duplicate_window: DUPLICATE_WINDOW_MS * 1e6,
        republish: { src: `${kept}.>`, dest: `${changes}.>`, headers_only: true },
      }),
      openStream(manager, {
        ...common,
        name: dueStream,
        subjects: [`${due}.>`],
        max_msgs_per_subject: 1,
      }),
    ]);
    if (this.#settings.replicas > 1) {
      const settle = (name: string) => settleLeader(this.#link, name, turn);
      await Promise.all([stream, dueStream].map(settle));
    }
    return { manager, names };
  }

  /** The number of shards, which is certain once one of them is open. */
  get #count(): number {
    return this.#link.mark.shards?.logs ?? 1;
  }

  #shardOf(at: ShardKey): number {
    return typeof at === "number" ? at : shardOf(at, this.#count);
  }

  #namesOf(shard: number): LogNames {
    return this.#names.logs(shard, this.#count);
  }
}

/** Name of an open shard at the link. */
function openKey(shard: number): string {
  return `logs ${shard}`;
}

function subjectsOf(kept: string, kind: Exclude<LogKind, "stream">): string {
  const prefix = kind === "answer" ? RESPONSE_PREFIX : REQUEST_PREFIX;
  return `${kept}.${subjectPart(`${prefix}x`).slice(0, -1)}>`;
}

/** Encodes a log as a header: JSON in ASCII. */
function encodeHeader(log: RetainedLog): string {
  return JSON.stringify(log).replace(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * Parses a log's header. Returns nothing if the log was removed or another program wrote the
 * header.
 */
function decodeHeader(header: string): RetainedLog[] {
  try {
    const log = JSON.parse(header);
    return typeof log?.id === "string" ? [log] : [];
  } catch {
    return [];
  }
}
