/** The counters of a server in the Prometheus text format. */
import {
  type HttpFaceStats,
  managerMeasures,
  type Measure,
  serverMeasures,
  sessionMeasures,
  topicMeasures,
  type WebTransportStats,
} from "./measures.ts";
import type { QuotaStats } from "../../base/shares.ts";
import type { SessionManager } from "../../manager/mod.ts";
import type { Topics } from "../../pubsub/mod.ts";

/** Content type of {@linkcode prometheusText}. */
export const PROMETHEUS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Suffixes of Prometheus names for OpenTelemetry units; a unit in braces has no suffix. */
const UNITS: Readonly<Record<string, string>> = { By: "_bytes", s: "_seconds" };

/**
 * Formats the counters of a server in the Prometheus text format, version 0.0.4. Each call reads
 * every session, so call it once per scrape, not per message.
 *
 * @example In an HTTP server of your own
 * ```ts
 * import { createServer } from "@skein/skein";
 * import { PROMETHEUS_CONTENT_TYPE, prometheusText } from "@skein/skein/server";
 * import { assertStringIncludes } from "@std/assert";
 *
 * await using server = createServer();
 * const answer = () =>
 *   new Response(prometheusText(server), {
 *     headers: { "content-type": PROMETHEUS_CONTENT_TYPE },
 *   });
 * assertStringIncludes(await answer().text(), 'skein_sessions{state="connected"} 0\n');
 * ```
 *
 * @param server A server, or an object with a manager. `topics` adds the counters of topics and
 * their broker, `webTransportStats` adds QUIC handshakes, `httpStats` adds HTTP requests, and
 * `quotaStats` adds limits.
 * @returns The text.
 */
export function prometheusText(
  server: {
    readonly manager: Pick<SessionManager, "stats">;
    readonly topics?: Pick<Topics, "broker" | "stats"> | undefined;
    readonly webTransportStats?: WebTransportStats | undefined;
    readonly httpStats?: Readonly<Record<string, HttpFaceStats>> | undefined;
    readonly quotaStats?: Readonly<Record<string, QuotaStats>> | undefined;
  },
): string {
  return measuresOf(server).map(exposition).join("");
}

/** A server whose counters are read. */
export type MeasuredServer = Parameters<typeof prometheusText>[0];

/** Reads all metrics of a server. */
export function measuresOf(
  { manager, topics, webTransportStats, httpStats, quotaStats }: MeasuredServer,
): Measure[] {
  const stats = manager.stats();
  const ofTopics = topics === undefined ? [] : topicMeasures(topics);
  return [
    ...sessionMeasures(stats),
    ...managerMeasures(stats),
    ...ofTopics,
    ...serverMeasures({ webTransportStats, httpStats, quotaStats }),
  ];
}

/** Formats one metric. */
export function exposition({ name, description, unit, kind, values }: Measure): string {
  const full = name.replaceAll(".", "_").replace(/_size$/, "") + (UNITS[unit] ?? "") +
    (kind === "counter" ? "_total" : "");
  const lines = values.map(({ value, attributes = {} }) =>
    `${full}${labelsOf(attributes)} ${value}\n`
  );
  return `# HELP ${full} ${escapeHelp(description)}\n# TYPE ${full} ${
    kind === "counter" ? "counter" : "gauge"
  }\n${lines.join("")}`;
}

/**
 * Formats labels, with the last part of the attribute name as the label; it is unique within a
 * metric.
 */
function labelsOf(attributes: Readonly<Record<string, string>>): string {
  const labels = Object.entries(attributes).map(([key, value]) =>
    `${key.slice(key.lastIndexOf(".") + 1)}="${escapeLabel(value)}"`
  );
  return labels.length === 0 ? "" : `{${labels.join(",")}}`;
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
