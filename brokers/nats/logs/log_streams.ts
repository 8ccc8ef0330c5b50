/** The two streams of a shard of logs: one with all changes, and one with the next checks. */
import { abortable } from "@std/async/abortable";
import type { JetStreamManager } from "@nats-io/jetstream";
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
import { openStream, readMessage, repeatedRead, settleLeader, streamConfig } from "../jetstream.ts";
import type { NatsLink } from "../link.ts";
import type { NatsSettings } from "../options.ts";
import { countSubjects, pull, pullNewest } from "../pull.ts";
import { decodeLog, type LogMessage } from "./format.ts";

/** Fraction of a message for its state. */
const STATE_SHARE = 1 / 4;

/** Bytes of a message for its headers. */
const HEADER_BYTES = 1_024;

/** Time for which a stream recognizes the ids of messages, in milliseconds. */
const DUPLICATE_WINDOW_MS = 10_000;

/** Pause before the streams are opened again, in milliseconds. */
const RETRY_MS = 5_000;

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

/** The streams of one shard of logs. Every method rejects with a `BrokerError` on failure. */
export class LogStreams {
  /** The last error when opening the streams; `undefined` once they are open. */
  problem: unknown;
  readonly #link: NatsLink;
  readonly #names: NatsNames;
  readonly #settings: NatsSettings;
  readonly #shard: number;
  #isRetrying = false;

  constructor(link: NatsLink, names: NatsNames, settings: NatsSettings, shard: number) {
    this.#link = link;
    this.#names = names;
    this.#settings = settings;
    this.#shard = shard;
  }

  /** Names of the streams and subjects. */
  get names(): LogNames {
    return this.#names.logs(this.#shard, this.#link.shards?.logs);
  }

  /**
   * Identifies a period in which the streams are certainly the same. It changes after an outage or
   * a failure.
   */
  get era(): unknown {
    return this.#link.opened(this.#key);
  }

  /** Name of the open streams at the link, before the number of shards is known. */
  get #key(): string {
    return `logs ${this.#shard}`;
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

  /** Waits for the server, and opens the streams. */
  async open(signal?: AbortSignal): Promise<void> {
    await this.#ask("open logs", () => Promise.resolve(), signal);
  }

  /** Reads the newest message of a log. */
  async newest(part: string): Promise<LogMessage | undefined> {
    return await this.#get({ last_by_subj: `${this.names.kept}.${part}` });
  }

  /** Reads the newest message of a log from the leader of the stream. */
  async newestAtLeader(part: string): Promise<LogMessage | undefined> {
    return await this.#get({ last_by_subj: `${this.names.kept}.${part}` }, true);
  }

  /** Reads the first message of a log at or after a sequence. */
  async next(part: string, seq: number): Promise<LogMessage | undefined> {
    return await this.#get({ seq, next_by_subj: `${this.names.kept}.${part}` });
  }

  /** Reads messages of a log at or after a sequence, oldest first. */
  async from(
    part: string,
    options: { readonly from: number; readonly count: number; readonly maxBytes: number },
  ): Promise<LogMessage[]> {
    const subject = `${this.names.kept}.${part}`;
    const maxBytes = options.maxBytes + 2 * this.#maxPayload;
    const { stream } = this.names;
    const { messages } = await this.#ask(
      "read a log",
      (manager) => pull(this.#link, manager, { stream, subject, ...options, maxBytes }),
    );
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
    return await this.#publish("change a log", `${this.names.kept}.${part}`, message, options);
  }

  /** Removes the message at a sequence. A missing message is not an error. */
  async remove(seq: number, stream: string = this.names.stream): Promise<void> {
    await this.#ask("remove a message", async ({ streams }) => {
      // If the message is already gone, the reply is an error, because another node was first.
      await streams.deleteMessage(stream, seq, false).catch((error) => {
        if (!/no message found|sequence \d+ not found/.test(textOf(error))) throw error;
      });
    });
  }

  /** Removes all messages of a log, or those before a sequence. */
  async purge(part: string, seq?: number): Promise<void> {
    const filter = `${this.names.kept}.${part}`;
    await this.#ask("remove messages", async ({ streams }) => {
      await streams.purge(this.names.stream, seq === undefined ? { filter } : { filter, seq });
    });
  }

  /**
   * Counts the logs of one kind, or of all, including removed ones until their last message is
   * gone.
   */
  async count(kind?: Exclude<LogKind, "stream">): Promise<number> {
    const { stream } = this.names;
    return await this.#ask("count logs", async (manager) => {
      if (kind !== undefined) return await countSubjects(manager, stream, this.#subjects(kind));
      return (await manager.streams.info(stream)).state.num_subjects ?? 0;
    });
  }

  /**
   * Lists the logs of a kind. The cursor of a page is valid for 10 s. To list durable streams, this
   * reads the logs of all kinds, because no subject matches durable streams only.
   */
  async list(
    kind: OwnedKind,
    { limit, after }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<RetainedLogs> {
    const { headers, next } = await this.#ask(
      "list logs",
      (manager) =>
        pullNewest(this.#link, manager, {
          stream: this.names.stream,
          subject: kind === "answer" ? this.#subjects(kind) : `${this.names.kept}.>`,
          header: KEPT_HEADER,
          count: limit,
          after,
        }),
    );
    const logs = headers.flatMap(decodeHeader).filter(({ id }) => logKind(id) === kind);
    return { logs, next };
  }

  #subjects(kind: Exclude<LogKind, "stream">): string {
    const prefix = kind === "answer" ? RESPONSE_PREFIX : REQUEST_PREFIX;
    return `${this.names.kept}.${subjectPart(`${prefix}x`).slice(0, -1)}>`;
  }

  /** Writes a check of a log. */
  async writeCheck(subject: string, body: string): Promise<void> {
    const message = new TextEncoder().encode(body);
    await this.#publish(
      "note the next check of a log",
      `${this.names.due}.${subject}`,
      message,
      headers(),
    );
  }

  /** Newest sequence of the stream of checks. */
  async newestCheck(): Promise<number> {
    return await this.#ask(
      "list logs",
      async ({ streams }) => (await streams.info(this.names.dueStream)).state.last_seq,
    );
  }

  /** Reads the first check of a class at or after a sequence. */
  async firstCheck(
    prefix: string,
    from: number,
  ): Promise<{ readonly seq: number; readonly data: Uint8Array } | undefined> {
    return await this.#ask("list logs", async ({ direct }) => {
      const subject = `${this.names.due}.${prefix}.>`;
      const query = { seq: Math.max(1, from), next_by_subj: subject };
      const read = () => direct.getMessage(this.names.dueStream, query);
      return await repeatedRead(this.#link.runtime, read) ?? undefined;
    });
  }

  /** Reads checks of a class at or after a sequence, oldest first. */
  async checks(
    prefix: string,
    from: number,
    count: number,
  ): Promise<readonly { readonly seq: number; readonly data: Uint8Array }[]> {
    return await this.#ask("list logs", async (manager) => {
      const subject = `${this.names.due}.${prefix}.>`;
      const stream = this.names.dueStream;
      const part = { stream, subject, from, count, mayLack: true };
      return (await pull(this.#link, manager, part)).messages;
    });
  }

  async #get(
    query:
      | { readonly last_by_subj: string }
      | { readonly seq: number; readonly next_by_subj: string },
    isReplicated = this.#settings.replicas > 1,
  ): Promise<LogMessage | undefined> {
    const { stream } = this.names;
    const { runtime } = this.#link;
    const found = await this.#ask(
      "read a log",
      (manager) => readMessage({ runtime, manager, isReplicated }, stream, query),
    );
    return found ? decodeLog(found.seq, found.data) : undefined;
  }

  async #publish(
    what: string,
    subject: string,
    message: Uint8Array,
    headers: MsgHdrs,
  ): Promise<number | undefined> {
    return await this.#ask(what, async () => {
      const ack = parseAck(await this.#link.request(subject, message, { headers }));
      const { life } = this.#link;
      const { stream, due, dueStream } = this.names;
      const target = subject.startsWith(`${due}.`) ? dueStream : stream;
      if (ack.name === "stored") {
        life.accepted(target);
        if (target === stream) this.#link.stored(stream, "logs", ack.seq);
        return ack.isDuplicate ? undefined : ack.seq;
      }
      if (ack.name === "conflict" || ack.code === ID_UNDER_WAY) return undefined;
      if (ack.isLimit) life.refused(target, ack.reply);
      throw new BrokerError(`Cannot ${what}: ${ack.reply}`);
    });
  }

  /** Calls JetStream. The call ends immediately when the connection is lost. */
  async #ask<T>(
    what: string,
    act: (manager: JetStreamManager) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    let opened: Promise<JetStreamManager> | undefined;
    let period: AbortSignal | undefined;
    try {
      await this.#link.reach(signal);
      opened = this.#link.once(this.#key, () => this.#open());
      period = this.#link.period;
      const acting = opened.then(async (manager) => {
        await this.#link.followClock(manager, this.names.stream);
        return await act(manager);
      });
      return await (period ? abortable(acting, period) : acting);
    } catch (cause) {
      // The streams may be gone, so the next call creates them again.
      this.#link.reopen(this.#key, opened);
      signal?.throwIfAborted();
      const limit = limitText(cause);
      if (limit !== undefined) this.#link.life.refused(this.names.stream, limit);
      if (cause instanceof BrokerError) throw cause;
      const text = period?.aborted ? "the connection was lost before the reply" : replyText(cause);
      throw new BrokerError(`Cannot ${what}: ${text}`, { cause });
    }
  }

  #open(): Promise<JetStreamManager> {
    const opening = this.#make();
    // Opening the streams on an earlier connection may fail after a later attempt has succeeded.
    const note = (problem: unknown) => {
      if (this.era !== opening) return;
      this.problem = problem;
      if (problem !== undefined) void this.#retry();
    };
    opening.then(() => note(undefined), note);
    return opening;
  }

  /** Opens the streams again, because nobody may use a log of this shard for a long time. */
  async #retry(): Promise<void> {
    if (this.#isRetrying) return;
    this.#isRetrying = true;
    while (this.problem !== undefined && await this.#link.whenUp()) {
      await this.#link.pause(RETRY_MS);
      await this.open().catch(() => {});
    }
    this.#isRetrying = false;
  }

  async #make(): Promise<JetStreamManager> {
    const manager = await this.#link.manager();
    const { stream, kept, changes, dueStream, due, turn } = this.names;
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
    return manager;
  }
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
