/** The durable streams of a server, for its application, sessions and HTTP face. */
import type { Broker } from "../../pubsub/broker.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Topics, TopicSource } from "../../pubsub/topics.ts";
import { StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { validate } from "../../base/standard_schema.ts";
import { waitFor } from "../../base/wait.ts";
import { RequestError } from "../../errors.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quotas } from "../../base/quotas/shares.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { DecisionFault } from "../../base/decision.ts";
import type { Contract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import type { SessionSettings } from "../../session/settings/settings.ts";
import { EPHEMERAL_PREFIX } from "../../session/wire/rows.ts";
import { type ResumeResponse, StoredResponses } from "./stored_responses.ts";
import { boundsOf, type DurableStreamsOptions, type ResponseLimits, tailOf } from "./options.ts";
import { StreamFeed, StreamSender } from "./stream_sender.ts";
import { DurableStreams, maxRecordBytes } from "./streams.ts";
import { EphemeralFeed } from "../state/ephemeral_feed.ts";
import { EphemeralStates } from "../state/ephemeral_rows.ts";
import { type AuthorizeChange, ChangeGate } from "../state/gate.ts";
import type { SessionSource } from "../state/session_writes.ts";
import type { StateParts } from "../state/state.ts";
import { States } from "../state/states.ts";

/** Options for {@linkcode DurableParts}. */
export interface DurablePartsOptions {
  readonly runtime: Runtime;
  readonly quotas: Quotas;
  readonly broker: Broker;
  /** The nodes of the broker, if the server has one. */
  readonly nodes: Nodes | undefined;
  /** Limits of the streams; absent if only responses are stored as streams. */
  readonly bounds: DurableStreamsOptions | undefined;
  readonly maxMessageBytes: number;
  readonly responses: ResponseLimits;
  /** Returns the account of a session, for quotas. */
  readonly accountOf: (session: Session) => Account;
  /** The handlers of requests, and the contract. */
  readonly settings: Pick<SessionSettings, "requestTimeoutMs" | "requests" | "router">;
  /** Decides about the changes of states that clients request. */
  readonly authorizeChange: AuthorizeChange | undefined;
  /** The contract, with the schemas of states. */
  readonly contract: Contract | undefined;
  /** Time for which the ephemeral rows of a lost session stay, in milliseconds. */
  readonly graceMs: number;
  /** Reports an error that is not sent to any client. */
  readonly report: (what: string, error: unknown) => void;
  /** Reports that `authorizeChange` failed. */
  readonly reportFault: (fault: DecisionFault, session: Session | undefined) => void;
}

/** The parts of durable streams on one server. */
export class DurableParts {
  /** Writers, reads and cancellation, for the application. */
  readonly streams: DurableStreams;
  /** Responses that outlive their connections. */
  readonly responses: StoredResponses;
  /** The streams in the broker. */
  readonly logs: StreamLogs;
  /** Checks the changes of states. */
  readonly gate: ChangeGate;
  /** The states of the application. */
  readonly states: States;
  readonly #sender: StreamSender;
  readonly #state: StateParts;
  readonly #ephemeral: EphemeralStates;

  constructor(options: DurablePartsOptions) {
    const { runtime, quotas, broker, nodes, bounds, maxMessageBytes, report } = options;
    const resumeOf = resumesOf(runtime, options.settings);
    const logs: StreamLogs = this.logs = new StreamLogs({
      runtime,
      broker,
      bounds: boundsOf(bounds, options.responses.maxRetained),
      quotas,
      onReadToEnd: (id) => this.responses.retained.noteRead(id),
      onError: (error) => report("The search for overdue durable streams", error),
      rescue: resumeOf && ((id) => this.responses.rescue(id)),
      onRead: (id) => this.responses.abandoned.read(id),
    });
    const tail = tailOf(bounds ?? {});
    this.streams = new DurableStreams({ runtime, streams: logs, tail, maxMessageBytes });
    const maxTransactionBytes = (id: string) => maxRecordBytes(id, maxMessageBytes);
    const { requestTimeoutMs: timeoutMs } = options.settings;
    const gate = this.gate = new ChangeGate({
      runtime,
      contract: options.contract,
      authorizeChange: options.authorizeChange,
      timeoutMs,
      rowsOf: (id, account, gone) => this.states.rowsOf(id, account, gone),
      report: options.reportFault,
    });
    const state = this.#state = { runtime, logs, gate, maxTransactionBytes };
    const ephemeral = this.#ephemeral = new EphemeralStates({
      runtime,
      quotas,
      nodes,
      graceMs: options.graceMs,
      isUsed: gate.hasEphemeral,
      namesOf: (id) => gate.ephemeralOf(id),
    });
    this.states = new States({ ...state, quotas, ephemeral, tail, readTimeoutMs: timeoutMs });
    this.#sender = new StreamSender(logs, {
      accountOf: options.accountOf,
      ephemeralOf: (id) => ephemeral.namesOf(id),
    });
    this.responses = new StoredResponses(options.responses, {
      runtime,
      quotas,
      broker,
      streams: logs,
      durableStreams: this.streams,
      nodes,
      resumeOf,
      report,
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
    const { writeRows } = await import("../state/session_writes.ts");
    const ephemeral = this.#ephemeral.get(id);
    return await writeRows(id, data, { ...this.#state, ephemeral, source });
  }

  /**
   * Releases responses to other servers, ends the streams of all other writers of this server with
   * the error `writer-lost`, and ends all readers.
   */
  async close(): Promise<void> {
    await this.responses.close();
    this.states.close();
    await this.streams.close();
    await this.logs.close();
  }
}

/** Creates the lookup of handlers that resume responses; `undefined` if there are none. */
function resumesOf(
  runtime: Runtime,
  { requests, router, requestTimeoutMs: timeoutMs }: DurablePartsOptions["settings"],
): ((topic: string) => ResumeResponse | undefined) | undefined {
  if (!requests?.canResume) return undefined;
  return (topic) => {
    const match = router?.match(topic) ?? requests.match(topic);
    const resume = requests.resumeOf(match?.pattern);
    if (match === undefined || resume === undefined) return undefined;
    const { pattern, params } = match;
    return async ({ input }, progress) => {
      const schema = router?.match(topic)?.input;
      const checked =
        (async () =>
          schema ? await validate(schema, input) : { ok: true as const, value: input })();
      const what = `the schema of "${pattern}"`;
      const outcome = await waitFor(runtime, checked, { what, timeoutMs });
      if (!outcome.ok) throw new RequestError("invalid", outcome.message, { path: outcome.path });
      return resume({ topic, pattern, params, data: outcome.value }, progress);
    };
  };
}
