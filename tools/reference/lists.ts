/**
 * Writes the tables of metrics, close codes and entries, and the help of the command.
 *
 * @module
 */
import { main } from "../../cli/skein.ts";
import { CloseCode } from "../../errors.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { metrics } from "../../operations/mod.ts";
import { serve } from "../../server.ts";
import { fakeContext } from "../../tests/cli_context.ts";
import { streamFeatures } from "../../tests/stream_features.ts";
import config from "../../deno.json" with { type: "json" };
import SIZES from "../sizes.json" with { type: "json" };
import { type Block, tableOf } from "./blocks.ts";
import type { Declarations } from "./declarations.ts";

/** A metric as a server reports it. */
export interface Metric {
  readonly name: string;
  readonly kind: string;
  readonly labels: readonly string[];
  readonly meaning: string;
}

/**
 * Starts a server with every feature that reports metrics, and reads its metrics.
 *
 * @returns The metrics, in the order in which the server reports them.
 */
export async function servedMetrics(): Promise<Metric[]> {
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    features: [metrics(), httpApi({ path: "/api" }), ...streamFeatures({ path: "/streams" })],
  });
  const url = server.url.replace("ws:", "http:");
  // HTTP endpoints have metrics after their first request.
  for (const path of ["api/health", "streams/none"]) await (await fetch(url + path)).text();
  const text = await (await fetch(`${url}metrics`)).text();
  const found = /^# HELP (\w+) (.*)\n# TYPE \w+ (\w+)\n((?!#)[^]*?)(?=^#|(?![^]))/gm;
  return [...text.matchAll(found)].map(([, name, meaning, kind, lines]) => ({
    name: name!,
    kind: kind!,
    labels: [...new Set([...lines!.matchAll(/[{,](\w+)="/g)].map(([, label]) => label!))],
    meaning: meaning!,
  }));
}

/**
 * Selects the metrics of a block. `*` at the end of a row stands for any characters.
 *
 * @param all All metrics.
 * @returns The metrics in the order of the rows.
 */
export function metricsOf<T extends Pick<Metric, "name">>({ rows }: Block, all: readonly T[]): T[] {
  return rows.flatMap(({ name }) => {
    const found = all.filter((metric) =>
      name.endsWith("*") ? metric.name.startsWith(name.slice(0, -1)) : metric.name === name
    );
    if (found.length > 0) return found;
    throw new TypeError(`Cannot write table: metrics must exist, received ${name}`);
  });
}

/** Writes the table of a block about metrics. */
export function metricsTable(block: Block, all: readonly Metric[]): string {
  return tableOf([
    ["metric", "kind", "labels", "meaning"],
    ...metricsOf(block, all).map(({ name, kind, labels, meaning }) => [
      `\`${name}\``,
      kind,
      labels.map((label) => `\`${label}\``).join(", "),
      meaning,
    ]),
  ]);
}

/** Writes the table of close codes. */
export function closeCodesTable(declarations: Declarations): string {
  const codes: Readonly<Record<string, number>> = CloseCode;
  return tableOf([
    ["code", "name in `CloseCode`", "cause, and the reaction of a client"],
    ...declarations.constantsOf("CloseCode")
      .map(({ name, summary }) => [String(codes[name] || 1000), `\`${name}\``, summary]),
  ]);
}

/** Writes the table of the package's entries. */
export function entriesTable(declarations: Declarations): string {
  return tableOf([
    ["entry", "contents"],
    ...Object.entries(config.exports).map(([entry, file]) => [
      `\`${config.name}${entry.slice(1)}\``,
      declarations.moduleSummary(file),
    ]),
  ]);
}

/** The code of each size, and the time when a page loads it. */
const LOADS: Readonly<Record<keyof typeof SIZES, readonly [code: string, loads: string]>> = {
  page: ["messages, requests, topics, presence, WebSocket", "with the page"],
  client: ["the same, with contracts and all other exports", "with the page"],
  mutation: ["the first row, with the functions of mutations", "with the page"],
  react: ["the hooks of `/react`", "in addition, with the page"],
  chunk_webtransport: ["WebTransport", "before the first connection"],
  session: ["the first row and WebTransport", "before the first session over WebTransport"],
  chunk_recovery: [
    "recovery of topics, readers of durable streams",
    "once connected, or before with subscriptions",
  ],
  chunk_responses: ["streaming responses", "on the first one, or if there are request handlers"],
  chunk_state: ["live state", "on the first one"],
  mutationState: [
    "a page with the functions of mutations, and live state",
    "until the first state",
  ],
  chunk_streams: ["streams and datagrams on a WebSocket", "when the first one opens"],
  chunk_insight: ["diagnostics and health", "on the first call"],
  chunk_http: ["HTTP as the last transport", "after all other transports have failed"],
  parts: ["all exports, and all that loads late", "in a page that uses everything"],
  file: ["the same in one file", "with a page without code splitting"],
  slim: ["`/client/slim` with `webSocket()`", "with the page, in one file"],
  slimFeatures: ["the same with `responses()` and `insight()`", "with the page, in one file"],
  slimStates: ["the same with `states()`", "with the page, in one file"],
};

/** Writes the table of what pages load. */
export function sizesTable(): string {
  return tableOf([
    ["code", "loads", "at most, KiB (gzip)"],
    ...Object.entries(LOADS).map(([name, words]) => [
      ...words,
      String(SIZES[name as keyof typeof SIZES]),
    ]),
  ]);
}

/** Writes the help of the command, or of one of its subcommands, as a code block. */
export async function helpText({ argument }: Block): Promise<string> {
  const context = fakeContext();
  await main(["help", ...argument === "" ? [] : [argument]], context);
  return `\`\`\`text\n${context.out}\`\`\``;
}
