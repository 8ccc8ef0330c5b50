/** Parts of a server that are created from several of its options. */
import { publisherKeyOf } from "./accounts.ts";
import { Admission } from "./admission/admission.ts";
import { GivingWay } from "./admission/giving_way.ts";
import type { UserClaims } from "./admission/user_limit.ts";
import { numberStores, sharedCounts, userClaims } from "./broker_services.ts";
import { ClientRequests, type ClientRequestsParts } from "./requests/client_requests.ts";
import { PublishHook, type PublishHookParts } from "./requests/on_publish.ts";
import type { OnPublish } from "./requests/requested_publications.ts";
import type { RenewedHandler } from "./requests/renewals.ts";
import type { Authorize } from "./requests/rights.ts";
import type { ServerCore } from "./server_core.ts";
import type { ServerOptions } from "./server_options.ts";
import { sharedOptionsOf } from "./shared_options.ts";
import { makePresence, type PresenceParts } from "./users.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import { tellFault } from "../base/decision.ts";
import type { Quotas } from "../base/quotas/shares.ts";
import type { Runtime } from "../base/runtime.ts";
import { DEFAULT_MAX_SESSIONS } from "../manager/limits.ts";
import { DEFAULT_PUBLICATIONS, defaultSubscriptions } from "../manager/rate_limits.ts";
import { SessionManager } from "../manager/session_manager.ts";
import { Agreement } from "../pubsub/nodes/agreement.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import { Topics } from "../pubsub/topics.ts";
import { RequestService } from "../session/serving/requests.ts";
import { internals } from "../session/session.ts";
import { report, type SessionSettings } from "../session/settings/settings.ts";
import type { UnreadStreams } from "../transport/quic/unread_streams.ts";
import type { WebSocketEngine } from "../transport/websocket/server.ts";

/** Options of a server that do not depend on the types of its contract and its values. */
type PlainOptions<K extends keyof ServerOptions> = Pick<ServerOptions, K>;

/** Creates the manager of a server's sessions, with the default rates of a server. */
export function managerOf(
  { limits = {}, rates, broker }: PlainOptions<"broker" | "limits" | "rates">,
  { runtime, quotas, unreadStreams }: {
    readonly runtime: Runtime;
    readonly quotas: Quotas;
    readonly unreadStreams: UnreadStreams;
  },
): SessionManager {
  const { maxTopicsPerSession, unreadStreams: _streams, ...managerLimits } = limits;
  const perSession = {
    ...rates?.perSession,
    publications: rates?.perSession?.publications ?? DEFAULT_PUBLICATIONS,
    subscriptions: rates?.perSession?.subscriptions ?? defaultSubscriptions(maxTopicsPerSession),
  };
  return new SessionManager({
    ...managerLimits,
    runtime,
    parts: { quotas, unreadStreams },
    rates: { ...rates, shared: rates?.shared ?? sharedCounts(broker), perSession },
  });
}

/** Creates the topics of a server's sessions. */
export function topicsOf(
  { broker, history, limits = {} }: PlainOptions<"broker" | "history" | "limits">,
  settings: SessionSettings,
): Topics {
  const { runtime, maxMessageBytes } = settings;
  const { maxTopicsPerSession } = limits;
  return new Topics({ runtime, settings, maxMessageBytes, broker, history, maxTopicsPerSession });
}

/** Kind of the message that requests a node's reports of shares again. */
const REPEAT = "shares:repeat";

/** Creates the nodes, the presence and the rooms of a server. The nodes exchange the quotas. */
export function presenceOf(
  options: PlainOptions<"broker" | "contract" | "limits" | "node" | "presence" | "rooms">,
  { runtime, console, topics, manager, quotas }: {
    readonly runtime: Runtime;
    readonly console: ConsoleReport;
    readonly topics: Topics;
    readonly manager: SessionManager;
    readonly quotas: Quotas;
  },
): PresenceParts {
  const { broker, node, presence = {}, rooms = [] } = options;
  const isShared = broker !== undefined;
  // Before the nodes exist, so that their first heartbeat has the digest.
  const shared = isShared ? sharedOptionsOf(options, topics) : undefined;
  const parts = makePresence({ runtime, topics, isShared, node, presence, rooms });
  const { nodes } = parts;
  nodes?.handle(REPEAT, () => quotas.repeatReport());
  nodes?.carry({
    // The clients of a draining server move to other nodes, which then count them.
    report: (maxBytes) => quotas.report({ maxBytes, isClosing: manager.isDraining }),
    receive: (node, report) => {
      if (quotas.receiveReport(node, report)) nodes.tell(node, REPEAT, undefined);
    },
  });
  if (nodes !== undefined && shared !== undefined) {
    topics.agree(
      new Agreement({
        nodes,
        options: shared,
        topics,
        onIssue: (issue) => console.tell("node-options", issue),
      }),
    );
  }
  return parts;
}

/** The admission of a server, with its parts that the server closes. */
export interface AdmissionOf {
  readonly admission: Admission<unknown>;
  readonly claims: UserClaims | undefined;
  readonly givingWay: GivingWay;
}

/** Creates the admission of a server. */
export function admissionOf(
  options: ServerOptions,
  { settings, manager, nodes, topics, console, accept }: {
    readonly settings: SessionSettings;
    readonly manager: SessionManager;
    readonly nodes: Nodes | undefined;
    readonly topics: Topics;
    readonly console: ConsoleReport;
    readonly accept: WebSocketEngine | undefined;
  },
): AdmissionOf {
  const { runtime } = settings;
  const claims = userClaims(nodes, options.limits ?? {});
  const givingWay = new GivingWay({
    runtime,
    manager,
    nodes: claims && nodes,
    released: async (user) => await claims?.released(user),
  });
  const { decisions } = topics;
  const parts = { manager, claims, decisions, givingWay, console, accept };
  return { admission: new Admission(options, settings, parts), claims, givingWay };
}

/** Creates the function that reports that the application could not decide about a request. */
export function faultReporter(
  { onError }: PlainOptions<"onError">,
  console: ConsoleReport,
): ServerCore["reportFault"] {
  return (fault, session) => {
    const isReported = session !== undefined && onError !== undefined;
    tellFault(console, fault, { isReported });
    if (session !== undefined) report(session[internals].settings, fault.cause, session);
  };
}

/** Creates what decides about publications by `onPublish`; `undefined` without this option. */
export function publishHookOf(
  { onPublish, limits = {} }: PlainOptions<"onPublish" | "limits">,
  { settings, ...parts }:
    & Omit<PublishHookParts, "maxSessions" | "requestTimeoutMs">
    & { readonly settings: SessionSettings },
): PublishHook | undefined {
  if (onPublish === undefined) return undefined;
  return new PublishHook(onPublish as OnPublish, {
    ...parts,
    maxSessions: limits.maxSessions ?? DEFAULT_MAX_SESSIONS,
    requestTimeoutMs: settings.requestTimeoutMs,
  });
}

/**
 * Creates the services of a server's sessions.
 *
 * @param hasHistory True if any topic has a history, or if there are durable streams.
 */
export function servicesOf(
  options: ServerOptions,
  { hasHistory, ...parts }: Omit<ClientRequestsParts, "producers" | "sequences"> & {
    readonly hasHistory: boolean;
  },
): RequestService {
  const { broker, includePublisher = false, tokens = {} } = options;
  const { runtime, topics } = parts;
  const isShared = broker !== undefined;
  const { sequences, producers } = numberStores({
    runtime,
    broker: topics.broker,
    isShared,
    ownerOf: (session) => publisherKeyOf(parts.accountOf(session)),
  });
  const requests = new ClientRequests({
    authorize: options.authorize as Authorize | undefined,
    onRenewed: tokens.onRenewed as RenewedHandler | undefined,
    includePublisher,
    maxTokenBytes: tokens.maxBytes,
    isSilent: options.onError !== undefined,
    hasHistory,
  }, { ...parts, sequences, producers });
  return new RequestService(runtime, requests);
}
