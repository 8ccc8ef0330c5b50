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
 * Reads the metrics of a server with the features that have metrics.
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
 * @param block The block.
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

/** Writes the help of the command, or of one of its subcommands, as a code block. */
export async function helpText({ argument }: Block): Promise<string> {
  const context = fakeContext();
  await main(["help", ...argument === "" ? [] : [argument]], context);
  return `\`\`\`text\n${context.out}\`\`\``;
}
