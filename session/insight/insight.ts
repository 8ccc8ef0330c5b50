/** Diagnostics and other session features that load on first use. */
import type { Inside } from "../receiving.ts";
import { internals } from "../core.ts";
import type { CheckingSession } from "../streams/structured_format.ts";
import type { Registry } from "../streams/registry.ts";
import * as incoming from "../streams/incoming_streams.ts";
import * as streams from "../streams/structured.ts";
import * as datagrams from "../streams/structured_datagrams.ts";
import type {
  StructuredDatagramsOptions,
  StructuredStreamOptions,
} from "../streams/structured_options.ts";
import { type InsightCalls, NAMES } from "./calls.ts";
import * as health from "./health.ts";
import * as pings from "./ping.ts";

export { debugState, diagnostics, summary } from "./diagnostics.ts";
export { issues, tellSlow } from "./health.ts";
export { grantCredit, sendDatagram } from "../streams/incoming_streams.ts";
export { tellLoss } from "./losses.ts";

type CheckedSession = CheckingSession & { readonly [internals]: Inside };

function check(core: Inside, call: keyof InsightCalls, options: unknown): void {
  core.settings.checkOptions(call, options, NAMES[call]);
}

/** Implements `monitorHealth` of a session. */
export function monitorHealth(
  core: Inside,
  options: InsightCalls["monitor health"],
): AsyncGenerator<health.SessionHealth, void, undefined> {
  check(core, "monitor health", options);
  return health.monitorHealth(core, options);
}

/** Implements `ping` of a session. */
export async function ping(core: Inside, options: InsightCalls["ping"]): Promise<number> {
  check(core, "ping", options);
  return await pings.ping(core, options);
}

/** Implements `incomingStreams` of a session. */
export function incomingStreams(
  core: Inside,
  options: InsightCalls["read streams"],
): AsyncGenerator<incoming.IncomingStream, void, undefined> {
  check(core, "read streams", options);
  return incoming.incomingStreams(core, options);
}

/** Implements `grantStreamsCredit` of a session. */
export function grantStreamsCredit(
  core: Inside,
  maxStreams: number,
  options: InsightCalls["grant credit"],
): void {
  check(core, "grant credit", options);
  incoming.grantCredit(core, options.direction, maxStreams);
}

/** Implements `structuredStream` of a session. */
export async function structuredStream<R extends Registry>(
  session: CheckedSession,
  options: StructuredStreamOptions<R>,
): Promise<streams.StructuredStream<R>> {
  check(session[internals], "create structured stream", options);
  return await streams.structuredStream(session, options);
}

/** Implements `structuredDatagrams` of a session. */
export function structuredDatagrams<R extends Registry>(
  session: CheckedSession,
  options: StructuredDatagramsOptions<R>,
): datagrams.StructuredDatagrams<R> {
  check(session[internals], "create structured datagrams", options);
  return datagrams.structuredDatagrams(session, options);
}
