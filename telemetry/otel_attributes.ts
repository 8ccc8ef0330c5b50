/**
 * What telemetry says of a session, by the names of OpenTelemetry's semantic
 * conventions; what those have no name for begins with `skein.`.
 *
 * @module
 */
import type { Attributes } from "@opentelemetry/api";
import { RequestError } from "../errors.ts";
import type { HandshakeInfo } from "../session/insight/instrumentation.ts";
import { coreOf, type Session } from "../session/session.ts";
import type { UntypedMessage } from "../session/message.ts";

/** What carries the sessions of a transport; nothing carries one in memory. */
const CARRIERS: Readonly<Record<string, string>> = { websocket: "tcp", webtransport: "quic" };

/** What the conventions put where there would be too many values. */
export const OTHER = "_OTHER";

/** Names the transport of a session. */
export function transportAttributes(transport: string | undefined): Attributes {
  const carrier = CARRIERS[transport ?? ""];
  if (transport === undefined || carrier === undefined) return {};
  return { "network.transport": carrier, "network.protocol.name": transport };
}

/** Says where a handshake goes. The query is left out: applications put secrets there. */
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

/** The contract's pattern for what is asked: of patterns there are few. */
export function patternOf(session: Session, topic: string): string | undefined {
  // Requests are the same for both ends.
  return coreOf(session).settings.router?.match(topic)?.pattern;
}

/** Names what one end asks the other. */
export function requestAttributes(pattern: string | undefined): Attributes {
  return {
    "rpc.system.name": "skein",
    ...(pattern === undefined ? {} : { "rpc.method": pattern }),
  };
}

/** Names a message that is handled. */
export function messageAttributes({ isRequest, pattern }: UntypedMessage): Attributes {
  if (isRequest) return requestAttributes(pattern);
  return {
    "messaging.system": "skein",
    "messaging.operation.name": "process",
    ...(pattern === undefined ? {} : { "messaging.destination.template": pattern }),
  };
}

/** A short word for an error, of which there are few. */
export function errorType(error: unknown, status?: number): string {
  if (status !== undefined) return String(status);
  if (error instanceof RequestError) return error.failure.code;
  return error instanceof Error ? error.name : OTHER;
}

/** Tells values apart up to a bound: of what peers choose, each would be a series of its own for ever. */
export class Few {
  readonly #max: number;
  readonly #other: string;
  readonly #seen = new Set<string>(); // At most `#max`.

  /** Tells so many apart; `other` stands for all that come later. */
  constructor({ max, other }: { readonly max: number; readonly other: string }) {
    this.#max = max;
    this.#other = other;
  }

  /** The value, or what stands for it. */
  of(value: string): string {
    if (this.#seen.has(value)) return value;
    if (this.#seen.size >= this.#max) return this.#other;
    this.#seen.add(value);
    return value;
  }
}
