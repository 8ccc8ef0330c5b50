/** The parts of durable streams on one server, loaded once a server needs these. */
import type { HttpGuardParts } from "../http/guard.ts";
import type { Broker } from "../../pubsub/broker.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { StreamLogs } from "../../pubsub/logs/stream_logs.ts";
import { validate } from "../../base/standard_schema.ts";
import { waitFor } from "../../base/wait.ts";
import { RequestError } from "../../errors.ts";
import type { Owner } from "../../base/owners.ts";
import type { Session } from "../../session/session.ts";
import type { SessionSettings } from "../../session/settings.ts";
import type { OriginRules } from "../../transport/origins.ts";
import { Answers, type ResumeAnswer } from "./answers.ts";
import { DurableFace } from "./face.ts";
import { NodeStreams } from "./node_streams.ts";
import { type AnswerLimits, boundsOf, type DurableStreamsOptions } from "./options.ts";
import { StreamSender } from "./stream_sender.ts";
import type { LoadedStreams } from "./streams.ts";

/** Options for {@linkcode loadParts}. */
export interface PartsOptions {
  readonly broker: Broker;
  /** The nodes of the broker, if the server has one. */
  readonly nodes: Nodes | undefined;
  /** Serves the streams over HTTP; absent for streams of sessions alone. */
  readonly http: DurableStreamsOptions | undefined;
  readonly origins: OriginRules;
  readonly face: HttpGuardParts;
  readonly maxMessageBytes: number;
  readonly answers: AnswerLimits;
  /** Tells whose places a session takes. */
  readonly ownerOf: (session: Session) => Owner;
  /** The handlers of requests, and the contract. */
  readonly settings: Pick<SessionSettings, "requestTimeoutMs" | "requests" | "router" | "runtime">;
}

/** The loaded parts, with those that the server calls itself. */
export interface DurableParts extends LoadedStreams {
  readonly face: DurableFace | undefined;
}

/**
 * Creates the durable streams of a server.
 *
 * @param options See {@linkcode PartsOptions}.
 * @returns The parts.
 */
export function loadParts(options: PartsOptions): DurableParts {
  const { broker, nodes, http, origins, face, maxMessageBytes, settings } = options;
  const resumeOf = resumesOf(settings);
  const { runtime, report } = face;
  const streams: StreamLogs = new StreamLogs({
    runtime,
    broker,
    bounds: boundsOf(http, options.answers.maxKept),
    quotas: face.quotas,
    onReadToEnd: (id) => answers.kept.noteRead(id),
    onError: (error) => report("The search for overdue durable streams", error),
    rescue: resumeOf && ((id) => answers.rescue(id)),
    onRead: (id) => answers.abandoned.read(id),
  });
  const node = new NodeStreams({ runtime, streams, maxMessageBytes });
  const sender = new StreamSender(streams, options.ownerOf);
  const answers = new Answers(options.answers, {
    runtime,
    quotas: face.quotas,
    broker,
    streams,
    node,
    nodes,
    resumeOf,
    report,
  });
  return {
    node,
    answers,
    face: http && new DurableFace(http, { ...face, logs: streams, origins, maxMessageBytes }),
    send: (reading) => sender.send(reading),
    async close() {
      await answers.close();
      await node.close();
      await streams.close();
    },
  };
}

/** Makes the search for the handlers that resume answers; `undefined` if no handler does. */
function resumesOf(
  { requests, router, runtime, requestTimeoutMs: timeoutMs }: PartsOptions["settings"],
): ((topic: string) => ResumeAnswer | undefined) | undefined {
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
