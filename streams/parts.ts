/** The durable streams of a server, for its application, its sessions and HTTP. */
import type { FeatureHost } from "../server/feature.ts";
import type { Topics, TopicSource } from "../pubsub/topics.ts";
import { StreamLogs } from "./logs/stream_logs.ts";
import type { Quotas } from "../base/quotas/shares.ts";
import { validate } from "../base/standard_schema.ts";
import { waitFor } from "../base/wait.ts";
import { RequestError } from "../errors.ts";
import { misfitOf } from "../session/contract.ts";
import { toRequestError } from "../session/sending.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Session } from "../session/session.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import { EPHEMERAL_PREFIX } from "../session/wire/rows.ts";
import { type ResumeResponse, StoredResponses } from "./responses/stored_responses.ts";
import { boundsOf, digest, type ResponseLimits, type StreamSettings } from "./options.ts";
import { ClientStreams } from "./http/client_streams.ts";
import { StreamFeed, StreamSender } from "./stream_sender.ts";
import { maxListBytes, StreamStore } from "./streams.ts";
import { EphemeralFeed } from "./state/ephemeral_feed.ts";
import { EphemeralStates } from "./state/ephemeral_rows.ts";
import { ChangeGate } from "./state/gate.ts";
import type { MutationRun } from "../session/mutations/mutations.ts";
import type {
  AllowedMutation,
  MutationSource,
  ServedMutations,
  StateMutations,
} from "./state/mutations.ts";
import type { MutationCaller } from "./state/mutation_marks.ts";
import type { SessionSource } from "./state/session_writes.ts";
import { ownQuota, RowQueue } from "./state/row_queue.ts";
import type { StateParts } from "./state/state.ts";
import { Migrations, type StateMigrations } from "./state/migrations.ts";
import { States } from "./state/states.ts";
import { type OnOpen, UnwrittenStates } from "./state/unwritten.ts";

/** The options that the features of this wing were given, once all of them are mounted. */
export interface StreamPartsOptions {
  readonly settings: StreamSettings;
  /** Limits of resumable responses. */
  readonly responses: ResponseLimits;
  /** The migrations of states; `undefined` if this server may not move rows. */
  readonly migrations: StateMigrations | undefined;
  /** Returns the rows of new states. */
  readonly onOpen: OnOpen | undefined;
  /** The mutations of states; `undefined` without any. */
  readonly mutations: ServedMutations | undefined;
}

/** The parts of durable streams on one server, which all features of this wing share. */
export class StreamParts {
  /** Writers, reads and cancellation, for the application. */
  readonly streams: StreamStore;
  /** Responses that outlive their connections. */
  readonly responses: StoredResponses;
  /** The streams in the broker. */
  readonly logs: StreamLogs;
  /** Checks the changes of states. */
  readonly gate: ChangeGate;
  /** The states of the application. */
  readonly states: States;
  readonly #migrations: Migrations;
  /** Counts the streams that clients create. */
  readonly clientStreams: ClientStreams;
  /** The states of the contract that are not stored. */
  readonly unwritten: UnwrittenStates;
  readonly #sender: StreamSender;
  readonly #state: StateParts;
  readonly #ephemeral: EphemeralStates;
  readonly #served: ServedMutations | undefined;
  readonly #quotas: Quotas;
  readonly #report: (what: string, error: unknown) => void;
  #mutations: StateMutations | undefined;
  /** The names of clients that have called mutations, and what they were made from. */
  readonly #callers = new WeakMap<
    Session,
    {
      readonly user: string | undefined;
      readonly name: string | undefined;
      readonly caller: MutationCaller;
    }
  >();

  constructor(host: FeatureHost, options: StreamPartsOptions) {
    const { settings: streams, responses: limits, onOpen } = options;
    const { runtime, nodes, topics: { broker }, core, contract } = host;
    const { settings, guardParts: { quotas } } = core;
    const { maxMessageBytes, requestTimeoutMs: timeoutMs } = settings;
    const report = (what: string, error: unknown) => host.report(what, error);
    this.#served = options.mutations;
    this.#quotas = quotas;
    this.#report = core.reportFailure;
    const resumeOf = resumesOf(runtime, settings);
    const bounds = boundsOf(streams, limits);
    const maxTransactionBytes = (id: string) => maxListBytes(id, maxMessageBytes);
    const migrations = this.#migrations = new Migrations({
      runtime,
      logs: () => this.logs,
      gate: () => this.gate,
      maxTransactionBytes,
      options: options.migrations,
      timeoutMs,
      report: core.reportFailure,
    });
    const logs: StreamLogs = this.logs = new StreamLogs({
      runtime,
      broker,
      bounds,
      forms: migrations,
      quotas,
      onReadToEnd: (id) => this.responses.retained.noteRead(id),
      onError: (error) => report("The search for overdue durable streams", error),
      onDamage: core.reportLoss,
      rescue: resumeOf && ((id) => this.responses.rescue(id)),
      onRead: (id) => this.responses.abandoned.read(id),
    });
    const { tail } = streams;
    this.streams = new StreamStore({
      runtime,
      streams: logs,
      tail,
      maxMessageBytes,
      createKeyed: (id, options) => unwritten.create(id, options),
      fitCopy: (id, source, rows) => gate.fitCopy(id, source, rows),
    });
    const gate = this.gate = new ChangeGate({
      runtime,
      quotas,
      contract,
      authorizeChange: core.authorizeChange,
      timeoutMs,
      rowsOf: (id, options) => this.states.rowsOf(id, options),
      expires: (id, row) => expires(logs, id, row),
      isNewer: (id) => migrations.isNewer(id),
      report: core.reportFault,
    });
    const updates = new RowQueue({
      runtime,
      quota: ownQuota(),
      timeoutMs,
      contendedCode: "unavailable",
    });
    const state = this.#state = { runtime, logs, gate, updates, maxTransactionBytes };
    const ephemeral = this.#ephemeral = new EphemeralStates({
      runtime,
      quotas,
      nodes,
      graceMs: core.graceMs,
      isUsed: gate.hasEphemeral,
      namesOf: (id) => gate.ephemeralOf(id),
    });
    const clients = this.clientStreams = new ClientStreams({ ...streams, runtime, streams: logs });
    quotas.add("durableStreams.maxStreams", clients);
    const unwritten = this.unwritten = new UnwrittenStates({
      ...state,
      logs,
      bounds,
      clients,
      tail,
      timeoutMs,
      onOpen,
      report: (error) => core.reportFailure("onOpen of liveState()", error),
    });
    this.states = new States({
      ...state,
      logs,
      ephemeral,
      unwritten,
      tail,
      report: core.reportLoss,
    });
    this.#sender = new StreamSender(logs, {
      accountOf: core.accountOf,
      kindsOf: (id) => gate.kindsOf(id),
      unwritten,
    });
    this.responses = new StoredResponses(limits, {
      runtime,
      quotas,
      broker,
      streams: logs,
      durableStreams: this.streams,
      charge: (account, cost, verb) => host.manager.charge(account, cost, verb),
      nodes,
      resumeOf,
      report: core.reportFailure,
    });
  }

  /** Creates the source of a topic `stream:<id>`, or of the ephemeral rows of a state. */
  source(topic: string, topics: Topics): TopicSource {
    return topic.startsWith(EPHEMERAL_PREFIX)
      ? new EphemeralFeed(topic, this.#ephemeral)
      : new StreamFeed(topic, topics, this.#sender);
  }

  /** Writes transactions of a client to a state. Its code loads with the first one. */
  async write(id: string, data: unknown, source: SessionSource): Promise<unknown> {
    const { writeRows } = await import("./state/session_writes.ts");
    const ephemeral = this.#ephemeral.get(id);
    const isAwaited = () => this.states.isAwaited(id);
    // The first view must not change between a decision and the write.
    using unwritten = this.unwritten.enter(id);
    const logs = {
      append: this.#appendOf(unwritten, source),
      read: this.logs.read.bind(this.logs),
    };
    return await writeRows(id, data, {
      ...this.#state,
      logs,
      ephemeral,
      source,
      isAwaited,
      recheck: () => this.logs.recheck(id),
    });
  }

  /** Runs mutations of a client on a state. Their code loads with the first one. */
  async mutate(
    id: string,
    data: unknown,
    source: SessionSource & MutationSource,
  ): Promise<unknown> {
    const { mutateRows } = await import("./state/session_mutations.ts");
    const mutations = await this.mutations();
    using unwritten = this.unwritten.enter(id);
    return await mutateRows(id, data, {
      runtime: this.#state.runtime,
      mutations,
      source,
      caller: await this.#callerOf(source),
      times: this.gate.times,
      append: this.#appendOf(unwritten, source),
      isAwaited: () => this.states.isAwaited(id),
      recheck: () => this.logs.recheck(id),
    });
  }

  /** Names the client of mutations. A session's digest is computed again if its user changes. */
  async #callerOf(
    { user, session }: Pick<SessionSource, "session" | "user">,
  ): Promise<MutationCaller> {
    const name = user ?? session.user;
    const known = this.#callers.get(session);
    if (known !== undefined && known.user === user && known.name === name) return known.caller;
    const digested = name === undefined ? undefined : await digest(this.#state.runtime, name);
    const caller = user === undefined ? { guest: digested } : { user: digested };
    this.#callers.set(session, { user, name, caller });
    return caller;
  }

  /**
   * Checks the input of a mutation over HTTP.
   *
   * @returns The input as its schema returns it.
   * @throws {RequestError} With the codes of `StateMutations.check`.
   */
  async checkMutation(id: string, run: MutationRun): Promise<unknown> {
    const mutations = await this.mutations();
    return await mutations.check(id, run, { time: this.gate.times.of() });
  }

  /**
   * Makes a mutation over HTTP, whose input and right were checked.
   *
   * @param id The id of the state.
   * @returns A version of the state that includes it, and whether it was made before.
   * @throws {RequestError} With the codes of `StateMutations.make`, and of rejected writes.
   */
  async makeMutation(
    id: string,
    call: Pick<AllowedMutation, "name" | "input" | "mark" | "source" | "spend">,
  ): Promise<{ readonly version: number; readonly isRepeated: boolean }> {
    const { versionOf } = await import("./state/session_mutations.ts");
    const mutations = await this.mutations();
    using unwritten = this.unwritten.enter(id);
    const append = this.#appendOf(unwritten, call.source);
    const made = await mutations.make(id, { ...call, append, time: this.gate.times.of() });
    const version = versionOf(id, made, {
      isAwaited: () => this.states.isAwaited(id),
      recheck: () => this.logs.recheck(id),
    });
    return { version, isRepeated: made.kind === "made" };
  }

  /**
   * Returns the mutations of this server's states. Their code loads with the first one.
   *
   * @throws {RequestError} With the code `unknown-mutation` if the server has none.
   */
  async mutations(): Promise<StateMutations> {
    const served = this.#served;
    if (served === undefined) throw noMutations();
    const { StateMutations } = await import("./state/mutations.ts");
    return this.#mutations ??= new StateMutations(served, {
      ...this.#state,
      logs: this.logs,
      quotas: this.#quotas,
      states: this.states,
      report: this.#report,
    });
  }

  /** Returns the append for a client, which creates a state of the contract that is not stored yet. */
  #appendOf(
    unwritten: ReturnType<UnwrittenStates["enter"]>,
    { account }: Pick<SessionSource, "account">,
  ): StreamLogs["append"] {
    if (unwritten === undefined) return this.logs.append.bind(this.logs);
    return (id, options) =>
      unwritten.append(options, { account, isAwaited: () => this.states.isAwaited(id) });
  }

  /**
   * Releases responses to other servers, ends the streams of all other writers of this server with
   * the error `writer-lost`, and ends all readers.
   */
  async close(): Promise<void> {
    this.#migrations.close();
    await this.responses.close();
    this.gate.close();
    this.#state.updates.close();
    this.unwritten.close();
    this.states.close();
    await this.streams.close();
    await this.logs.close();
  }
}

/** The error for a mutation on a server that has none. */
export function noMutations(): RequestError {
  return new RequestError(
    "unknown-mutation",
    "The server has no mutations: write liveState(contract, { mutations })",
  );
}

/** Reads from the broker whether this version of a row expires: the copies of states don't tell. */
async function expires(
  logs: StreamLogs,
  id: string,
  { name, version, identity }: {
    readonly name: string;
    readonly version: number;
    readonly identity: string | undefined;
  },
): Promise<boolean> {
  const page = await logs.namedRows(id, { rows: [name], maxBytes: 1 });
  // The first rows of a state that no one has written yet stay.
  if (page === undefined) return false;
  const { info, positions: [position] = [], expiries: [until = 0] = [] } = page;
  // If the row has changed, the write meets a conflict, and is decided again.
  return info.identity !== identity || position !== version - 1 || until > 0;
}

/** Creates the lookup of handlers that resume responses; `undefined` if there are none. */
function resumesOf(
  runtime: Runtime,
  { requests, router, requestTimeoutMs: timeoutMs }: Pick<
    SessionSettings,
    "requestTimeoutMs" | "requests" | "router"
  >,
): ((topic: string) => ResumeResponse | undefined) | undefined {
  if (!requests?.canResume) return undefined;
  return (topic) => {
    const match = router?.match(topic) ?? requests.match(topic);
    const resume = requests.resumeOf(match?.pattern);
    if (match === undefined || resume === undefined) return undefined;
    const { pattern, params } = match;
    return async ({ input, user }, progress) => {
      const schema = router?.match(topic)?.input;
      const checked =
        (async () =>
          schema ? await validate(schema, input) : { ok: true as const, value: input })();
      const what = `result from the schema of "${pattern}"`;
      const outcome = await waitFor(runtime, checked, { what, timeoutMs });
      if (!outcome.ok) throw toRequestError(misfitOf(topic, outcome));
      return resume({ topic, pattern, params, data: outcome.value, user }, progress);
    };
  };
}
