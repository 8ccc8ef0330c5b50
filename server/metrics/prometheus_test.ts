import { assertEquals } from "@std/assert";
import { measuresOf } from "./measures.ts";
import { prometheusText } from "./prometheus.ts";
import { createServer } from "../server.ts";

Deno.test("prometheusText() contains each given value", async () => {
  await using server = createServer({ history: { news: {} } });
  await server.topics.append("news", 1);
  const { manager, topics } = server;
  const { stats } = topics.broker;
  const broker = {
    status: { current: { name: "interrupted", since: 0 } },
    stats: { ...stats, waiting: 3, interruptions: 1 },
  } as const;
  const handshakes = { pending: 3, ignored: 4, replaced: 5, tooSlow: 6 };
  const rejected = { server: 0, address: 0, user: 0, session: 0 };
  const odd = 'a"b\\c\nd';
  const counted = {
    manager: { stats: () => ({ ...manager.stats(), rejected: { [odd]: 1 } as never }) },
    topics: { stats: topics.stats, broker: broker as never },
    webTransportStats: { isListening: true, handshakes },
    quotaStats: { rooms: { taken: 3, max: Infinity, rejected } },
  };
  const lines = prometheusText({ measures: () => measuresOf(counted) }).split("\n");
  const cases: [name: string, labels: Record<string, string>, value: number | undefined][] = [
    ["quic_handshakes", {}, 3],
    ["quic_handshakes_dropped_total", { reason: "ignored" }, 4],
    ["quic_handshakes_dropped_total", { reason: "replaced" }, 5],
    ["quic_handshakes_dropped_total", { reason: "tooSlow" }, 6],
    ["quota_taken", { quota: "rooms" }, 3],
    // If a resource is unlimited, there is no metric for its maximum.
    ["quota_max", { quota: "rooms" }, undefined],
    // The broker is unreachable.
    ["broker_connected", {}, 0],
    ["broker_waiting", {}, 3],
    ["broker_interruptions_total", {}, 1],
    ["broker_published_total", {}, 1],
    ["history_failed_total", {}, 0],
    ["history_gaps_total", {}, 0],
    ["sessions_rejected_total", { reason: odd }, 1],
  ];
  for (const [name, labels, value] of cases) {
    const pairs = Object.entries(labels).map(([label, text]) =>
      `${label}="${text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"')}"`
    );
    const start = `skein_${name}${pairs.length === 0 ? "" : `{${pairs}}`} `;
    const found = lines.find((line) => line.startsWith(start));
    assertEquals(found, value === undefined ? undefined : `${start}${value}`, name);
  }
});
