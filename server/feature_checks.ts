/** Checks of what a feature adds to a server, and of what it reports about itself. */
import type { HttpMount, Mounted, QuicMount } from "./feature.ts";
import type { HttpStats, Measure } from "./metrics/measures.ts";
import { labelOf, prometheusName } from "./metrics/prometheus.ts";
import { implementing, listOf, PATH, wrongKind } from "../base/options/option_checks.ts";
import type { CheckOption, NumberCheck, OptionPlace } from "../base/options/options.ts";
import type { QuotaStats } from "../base/quotas/shares.ts";
import { HOOKS } from "../session/insight/hook_kinds.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";

export interface MountedFeature {
  readonly name: string;
  readonly added: Mounted;
}

const MOUNTED = implementing<Mounted>({
  close: "function",
  disconnected: "function",
  drain: "function",
  http: implementing<HttpMount>({
    fetch: "function",
    paths: listOf("string"),
    stats: "object",
    wants: "function",
    webTransport: "function",
  }, "fetch"),
  instrumentation: HOOKS,
  measures: "function",
  quic: implementing<QuicMount>(
    {
      accept: "function",
      protocols: listOf("string"),
    },
    "accept",
    "protocols",
  ),
  quotaStats: "function",
  responses: "object",
  started: "function",
  streams: "object",
  topics: "object",
  unsubscribed: "function",
});

/** Checks what `mount` returned; a feature without types may return anything. */
export function checkMounted(
  { name, added }: { readonly name: string; readonly added: unknown },
): void {
  if (typeof added !== "object" || added === null || added instanceof Promise) {
    throw new TypeError(
      `Cannot create server: mount() of ${name} must return an object, received ` +
        (added instanceof Promise ? "a promise" : String(added)),
    );
  }
  MOUNTED(added, { verb: `mount ${name}`, path: "additions" });
  const { http } = added as Mounted;
  if (http !== undefined && http.paths === undefined && http.wants === undefined) {
    throw new TypeError(
      `Cannot create server: http of ${name} has neither paths nor wants`,
    );
  }
}

/** Names of metrics, by the rules of OpenTelemetry. */
const METRIC = /^[a-zA-Z][\w./-]{0,254}$/;

/** Names of attributes. Prometheus uses the last part as the label. */
const ATTRIBUTE = /^(?:[\w-]+\.)*[a-zA-Z_][\w-]*$/;

/** Start of the names of this library's metrics, as Prometheus spells them. */
const RESERVED = "skein_";

const MEASURE = implementing<Measure>(
  {
    description: "string",
    kind: ["counter", "sum", "gauge"],
    name: "string",
    unit: "string",
    values: listOf("object"),
  },
  "name",
  "description",
  "unit",
  "kind",
  "values",
);

/** Check of a number. NaN and infinite numbers are valid metrics. */
const ANY_NUMBER: NumberCheck = Object.assign((value: unknown, place: OptionPlace) => {
  if (typeof value !== "number") throw wrongKind(value, "number", place);
}, { range: { min: -Infinity, max: Infinity } });

/** Numbers that a feature counts by a name, such as responses by status. */
const COUNTS: CheckOption = (value, place) => {
  for (const [name, count] of entriesOf(value, place)) {
    if (typeof count === "number") continue;
    throw wrongKind(count, "number", { ...place, path: `${place.path}["${name}"]` });
  }
};

const HTTP_STATS = implementing<HttpStats>(
  {
    active: ANY_NUMBER,
    limited: COUNTS,
    readers: COUNTS,
    responses: COUNTS,
  },
  "active",
  "responses",
);

const QUOTA_STATS = implementing<QuotaStats>(
  {
    max: ANY_NUMBER,
    rejected: COUNTS,
    taken: ANY_NUMBER,
  },
  "max",
  "rejected",
  "taken",
);

/**
 * Checks the counters of requests of a feature.
 *
 * @throws {TypeError} If a counter is missing or not a number.
 */
export function checkHttpStats(stats: HttpStats): void {
  HTTP_STATS(stats, { verb: "export metrics", path: "stats" });
}

/**
 * Checks the counters of a feature's limits.
 *
 * @throws {TypeError} If a counter is missing or not a number.
 */
export function checkQuotaStats(stats: Readonly<Record<string, QuotaStats>>): void {
  const place = { verb: "export metrics", path: "quotaStats" };
  for (const [name, one] of entriesOf(stats, place)) {
    QUOTA_STATS(one, { ...place, path: `quotaStats["${name}"]` });
  }
}

/**
 * Checks the metrics of a feature: a malformed one would break the scrape of all others.
 *
 * @param measures The metrics, which may come from code without types.
 * @param known Names of earlier features' metrics, as Prometheus spells them. Receives the new names
 * if all metrics are valid.
 * @throws {TypeError} If a metric is malformed, or its name is not unique.
 */
export function checkMeasures(measures: readonly Measure[], known: Set<string>): void {
  const verb = "export metrics";
  if (!Array.isArray(measures)) throw wrongKind(measures, "array", { verb, path: "measures" });
  const names = new Set<string>();
  for (const [i, measure] of measures.entries()) {
    const path = `measures[${i}]`;
    checkMeasure(measure, { verb, path });
    const name = prometheusName(measure);
    const rule = name.startsWith(RESERVED)
      ? 'not start with "skein."'
      : known.has(name) || names.has(name)
      ? "be unique on a server"
      : undefined;
    if (rule !== undefined) {
      const received = `"${measure.name}", which is ${name} in Prometheus`;
      throw new TypeError(`Cannot ${verb}: ${path}.name must ${rule}, received ${received}`);
    }
    names.add(name);
  }
  for (const name of names) known.add(name);
}

function checkMeasure(measure: Measure, place: OptionPlace): void {
  const { verb, path } = place;
  MEASURE(measure, place);
  if (!METRIC.test(measure.name)) {
    throw new TypeError(
      `Cannot ${verb}: ${path}.name must be a letter followed by up to 254 letters, digits, "_", ` +
        `".", "-" or "/", received "${measure.name}"`,
    );
  }
  for (const [i, { value, attributes = {} }] of measure.values.entries()) {
    const at = `${path}.values[${i}]`;
    ANY_NUMBER(value, { verb, path: `${at}.value` });
    const labels = new Set<string>();
    for (const [name, text] of entriesOf(attributes, { verb, path: `${at}.attributes` })) {
      const of = `${at}.attributes["${name}"]`;
      if (typeof text !== "string") throw wrongKind(text, "string", { verb, path: of });
      const label = labelOf(name);
      if (ATTRIBUTE.test(name) && !labels.has(label)) labels.add(label);
      else {
        throw new TypeError(
          `Cannot ${verb}: the last part of an attribute's name must be a label of its own, ` +
            `received ${of}`,
        );
      }
    }
  }
}

function entriesOf(value: unknown, place: OptionPlace): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrongKind(value, "object", place);
  }
  return Object.entries(value);
}

/** Checks that a feature claims nothing that another one has. */
export function checkClaims(
  { name, added }: MountedFeature,
  others: readonly MountedFeature[],
): void {
  const { http, topics, quic } = added;
  for (const path of http?.paths ?? []) {
    PATH(path, { verb: "create server", path: `the path of feature "${name}"` });
  }
  if (topics !== undefined && !topics.prefix.startsWith(STREAM_PREFIX)) {
    throw new TypeError(
      `Cannot create server: the topics of ${name} must start with "${STREAM_PREFIX}", received ` +
        `"${topics.prefix}"`,
    );
  }
  for (const { name: otherName, added: other } of others) {
    const path = http?.paths?.find((one) =>
      other.http?.paths?.some((known) => overlap(`${one}/`, `${known}/`))
    );
    if (path !== undefined) {
      throw new TypeError(
        `Cannot create server: the path of ${name} must not overlap one of ${otherName}, ` +
          `received ${path}`,
      );
    }
    const prefix = topics?.prefix;
    if (prefix !== undefined && other.topics && overlap(prefix, other.topics.prefix)) {
      throw new TypeError(
        `Cannot create server: the topics of ${name} must not be those of ${otherName}, ` +
          `received "${prefix}"`,
      );
    }
    if (added.responses !== undefined && other.responses !== undefined) {
      throw new TypeError(
        `Cannot create server: only one feature can store responses, received ${otherName} and ` +
          name,
      );
    }
    if (quic !== undefined && other.quic !== undefined) {
      throw new TypeError(
        "Cannot create server: only one feature can accept raw QUIC, received " +
          `${otherName} and ${name}`,
      );
    }
  }
}

function overlap(a: string, b: string): boolean {
  return a.startsWith(b) || b.startsWith(a);
}
