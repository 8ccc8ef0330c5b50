/** The counters of a server in the Prometheus text format. */
import type { Measure } from "./measures.ts";

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
 * const respond = () =>
 *   new Response(prometheusText(server), {
 *     headers: { "content-type": PROMETHEUS_CONTENT_TYPE },
 *   });
 * assertStringIncludes(await respond().text(), 'skein_sessions{state="connected"} 0\n');
 * ```
 *
 * @param server A server. Its features add their own metrics.
 * @returns The body of a response with {@linkcode PROMETHEUS_CONTENT_TYPE}.
 */
export function prometheusText(
  server: {
    /** Reads all metrics. */
    measures(): readonly Measure[];
  },
): string {
  return server.measures().map(exposition).join("");
}

/** Returns the name of a metric in the Prometheus text format. */
export function prometheusName({ name, unit, kind }: Omit<Measure, "values">): string {
  return name.replaceAll(/\W/g, "_").replace(/_size$/, "") +
    (Object.hasOwn(UNITS, unit) ? UNITS[unit] : "") + (kind === "counter" ? "_total" : "");
}

/** Formats one metric. */
export function exposition(measure: Measure): string {
  const { description, kind, values } = measure;
  const full = prometheusName(measure);
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
    `${labelOf(key)}="${escapeLabel(value)}"`
  );
  return labels.length === 0 ? "" : `{${labels.join(",")}}`;
}

/** Returns the label that stands for an attribute. */
export function labelOf(attribute: string): string {
  return attribute.slice(attribute.lastIndexOf(".") + 1).replaceAll(/\W/g, "_");
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
