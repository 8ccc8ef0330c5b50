/**
 * Known keys of a server's options, to refuse mistyped ones. The compiler requires every key of
 * each type.
 */
import type { MetricsOptions } from "../telemetry/endpoint.ts";
import type { NodeOptions } from "./users.ts";
import type { WebTransportServeOptions } from "./webtransport_options.ts";
import type { AddressRates, RateLimitsOptions, SessionRates } from "../manager/rate_limits.ts";
import type { Rate } from "../manager/token_bucket.ts";
import type { RoomOptions } from "../pubsub/presence/rooms.ts";
import type { HeartbeatOptions } from "../session/heartbeat.ts";
import { checkKeys, type OptionKeys } from "../base/option_keys.ts";
import type { SendQueueOptions } from "../session/queue/send_queue.ts";
import type { ReceiveQueueOptions, SessionLimits } from "../session/settings.ts";
import type { FlowControlOptions } from "../transport/connection.ts";
import type { HistoryBounds } from "../pubsub/broker.ts";
import type { UnreadStreamLimits } from "../transport/quic/unread_streams.ts";

/** Keys of an object of options, and of the objects within. */
interface Known {
  /** The keys; any if undefined. */
  readonly keys?: object;
  /** Objects under some of the keys. */
  readonly nested?: Readonly<Record<string, Known>>;
  /** Objects under all of the keys. */
  readonly each?: Known;
}

const FLOW_CONTROL: OptionKeys<FlowControlOptions> = {
  automatic: true,
  maxData: true,
  maxStreamData: true,
  maxStreamsBidi: true,
  maxStreamsUni: true,
};

const RATE: OptionKeys<Rate> = { burst: true, perSecond: true };

const SESSION_RATES: OptionKeys<SessionRates> = {
  bytes: true,
  messages: true,
  subscriptions: true,
};

const SHARED_RATES: OptionKeys<AddressRates> = { ...SESSION_RATES, connections: true };

const RATES: OptionKeys<RateLimitsOptions> = {
  maxRefusals: true,
  perAddress: true,
  perSession: true,
  perUser: true,
  shared: true,
};

const SESSION: OptionKeys<SessionLimits> = {
  closeTimeoutMs: true,
  concurrency: true,
  handshakeTimeoutMs: true,
  heartbeat: true,
  maxInvalidMessages: true,
  maxMessageBytes: true,
  maxRequests: true,
  receiveQueue: true,
  requestTimeoutMs: true,
  sendQueue: true,
};

const SEND_QUEUE: OptionKeys<SendQueueOptions> = {
  maxBytes: true,
  maxMessages: true,
  policy: true,
};

const RECEIVE_QUEUE: OptionKeys<ReceiveQueueOptions> = { maxBytes: true, maxMessages: true };

const HEARTBEAT: OptionKeys<HeartbeatOptions> = { intervalMs: true, timeoutMs: true };

const HISTORY: OptionKeys<HistoryBounds> = { bytes: true, size: true, ttlMs: true };

const ROOM: OptionKeys<RoomOptions> = {
  gatherAbove: true,
  gatherMs: true,
  maxDataBytes: true,
  members: true,
};

const UNREAD_STREAMS: OptionKeys<UnreadStreamLimits> = {
  maxBytes: true,
  maxBytesPerAddress: true,
  maxBytesPerConnection: true,
  timeoutMs: true,
};

const NODE: OptionKeys<NodeOptions> = { goneAfterMs: true, heartbeatMs: true, name: true };

const METRICS: OptionKeys<MetricsOptions> = { allow: true, healthPath: true, path: true };

const WEB_TRANSPORT: OptionKeys<WebTransportServeOptions> = {
  cacheFolder: true,
  certificate: true,
  engine: true,
  flowControl: true,
  hostname: true,
  idleTimeoutMs: true,
  keepAliveIntervalMs: true,
  maxConnections: true,
  maxConnectionsPerAddress: true,
  maxHandshakes: true,
  maxSessionsPerConnection: true,
  maxStreams: true,
  names: true,
  port: true,
  wellKnown: true,
};

const NESTED: Readonly<Record<string, Known>> = {
  flowControl: { keys: FLOW_CONTROL },
  history: { each: { keys: HISTORY } },
  metrics: { keys: METRICS },
  node: { keys: NODE },
  rates: {
    keys: RATES,
    nested: {
      perAddress: { keys: SHARED_RATES, each: { keys: RATE } },
      perSession: { keys: SESSION_RATES, each: { keys: RATE } },
      perUser: { keys: SHARED_RATES, each: { keys: RATE } },
    },
  },
  rooms: { each: { keys: ROOM } },
  session: {
    keys: SESSION,
    nested: {
      heartbeat: { keys: HEARTBEAT },
      receiveQueue: { keys: RECEIVE_QUEUE },
      sendQueue: { keys: SEND_QUEUE },
    },
  },
  webTransport: {
    keys: WEB_TRANSPORT,
    nested: { flowControl: { keys: FLOW_CONTROL } },
  },
};

/**
 * Refuses options with an unknown key, at any depth.
 *
 * @param verb The operation, for the error message.
 * @param options The options as given by the application.
 * @param known Keys of the options, and of `limits`.
 * @throws {TypeError} If a key is unknown.
 */
export function checkServerOptions(
  verb: string,
  options: object,
  known: { readonly keys: object; readonly limits: object },
): void {
  const { keys, limits } = known;
  const ofLimits = { keys: limits, nested: { unreadStreams: { keys: UNREAD_STREAMS } } };
  check(options, { keys, nested: { ...NESTED, limits: ofLimits } }, `${verb}: options`);
}

function check(options: unknown, { keys, nested, each }: Known, place: string): void {
  if (typeof options !== "object" || options === null) return;
  if (keys !== undefined) checkKeys(options, keys, place);
  for (const [name, value] of Object.entries(options)) {
    if (nested !== undefined && Object.hasOwn(nested, name)) {
      check(value, nested[name]!, `${place}.${name}`);
    }
    if (each !== undefined) check(value, each, `${place}["${name}"]`);
  }
}
