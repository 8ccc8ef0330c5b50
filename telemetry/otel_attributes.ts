/**
 * Attributes of sessions by the names of OpenTelemetry's semantic conventions; additions begin with
 * `skein.`.
 */
import type { Attributes } from "@opentelemetry/api";
import { RequestError } from "../errors.ts";
import { internals, type Session } from "../session/session.ts";
import type { UntypedMessage } from "../session/message.ts";
import type { HandshakeInfo } from "../session/settings.ts";

/** Protocols below the transports; a connection in memory has none below. */
const CARRIERS: Readonly<Record<string, string>> = { websocket: "tcp", webtransport: "quic" };

/** The value of the conventions for all values beyond a bound. */
export const OTHER = "_OTHER";

/** Names the transport of a session. */
export function transportAttributes(transport: string | undefined): Attributes {
  const carrier = CARRIERS[transport ?? ""];
  if (transport === undefined || carrier === undefined) return {};
  return { "network.transport": carrier, "network.protocol.name": transport };
}

/** Describes the target of a handshake. The query is left out: applications put secrets there. */
export function handshakeAttributes({ url, transport, address }: HandshakeInfo): Attributes {
  const asked = URL.parse(url);
  return {
    ...transportAttributes(transport),
    ...(asked === null ? {} : {
      "url.scheme": asked.protocol.slice(0, -1),
      "url.path": asked.pathname,
      "server.address": asked.hostname,
      ...(asked.port === "" ? {} : { "server.port": Number(asked.port) }),
    }),
    ...(address === undefined ? {} : { "client.address": address }),
  };
}

/** Finds the contract's pattern for a topic; the number of patterns is bounded. */
export function patternOf(session: Session, topic: string): string | undefined {
  // Requests are the same in both directions.
  return session[internals].settings.router?.match(topic)?.pattern;
}

/** Describes a request. */
export function requestAttributes(pattern: string | undefined): Attributes {
  return {
    "rpc.system.name": "skein",
    ...(pattern === undefined ? {} : { "rpc.method": pattern }),
  };
}

/** Describes a message under processing. */
export function messageAttributes({ isRequest, pattern }: UntypedMessage): Attributes {
  if (isRequest) return requestAttributes(pattern);
  return {
    "messaging.system": "skein",
    "messaging.operation.name": "process",
    ...(pattern === undefined ? {} : { "messaging.destination.template": pattern }),
  };
}

/** Describes an error in one short word, out of a small set. */
export function errorType(error: unknown, status?: number): string {
  if (status !== undefined) return String(status);
  if (error instanceof RequestError) return error.failure.code;
  return error instanceof Error ? error.name : OTHER;
}

/**
 * Passes a bounded number of distinct values. A peer can choose any value, and each one would be a
 * time series for ever.
 */
export class BoundedLabels {
  readonly #max: number;
  readonly #other: string;
  readonly #seen = new Set<string>(); // At most `#max`.

  /** Passes the first `max` values; `other` replaces all later ones. */
  constructor({ max, other }: { readonly max: number; readonly other: string }) {
    this.#max = max;
    this.#other = other;
  }

  /** Returns the value, or its replacement. */
  of(value: string): string {
    if (this.#seen.has(value)) return value;
    if (this.#seen.size >= this.#max) return this.#other;
    this.#seen.add(value);
    return value;
  }
}
