/**
 * Examines the outbox of a client with at-least-once delivery, which empties when the server
 * acknowledges messages.
 */
import { nameOfError, type Tour } from "./tour.ts";

const OUTBOX = { maxMessages: 4, maxBytes: 2_000 } as const;

/** Sizes of the data, and the number of messages that fit. */
const CASES = [
  { what: "messages", data: "", fit: OUTBOX.maxMessages },
  { what: "bytes", data: "x".repeat(600), fit: 3 },
] as const;

/**
 * Maximum time until all messages are acknowledged, in milliseconds, after the store is ready. The
 * acknowledged numbers are stored first.
 */
const FLUSH_MS = 5_000;

/** Fills a guest's outbox while the node is unreachable, and then lets the messages pass. */
export async function visitOutbox(tour: Tour): Promise<void> {
  const node = tour.node(1);
  const host = tour.host("keeps");
  const client = tour.guest(host, "keeps", node, { delivery: "at-least-once", outbox: OUTBOX });
  tour.examine(
    "limits",
    "connection of a guest with an outbox",
    "connected",
    await tour.outcome(client),
  );
  for (const { what, data, fit } of CASES) {
    tour.network.change(host, node.host, { isBlocked: true });
    let sent = 0;
    let error = "none";
    try {
      for (; sent <= fit; sent++) client.send("page", data);
    } catch (thrown) {
      error = nameOfError(thrown);
    }
    // Messages that were passed to the session still count until the server has handled them.
    await tour.pause(200);
    const { messages } = client.outbox;
    tour.examine("limits", `${what} of an outbox`, [fit, fit, "QueueFullError"], [
      sent,
      messages,
      error,
    ]);
    tour.network.change(host, node.host, { isBlocked: false });
    const toMs = FLUSH_MS + tour.settings.firstRowMs;
    const flushed = client.flushed({ timeoutMs: toMs });
    await tour.settles("limits", `${what} that leave the outbox`, flushed, {
      as: "fulfilled",
      fromMs: 0,
      toMs,
    });
    tour.examine(
      "limits",
      `${what} of an outbox afterwards`,
      { messages: 0, bytes: 0 },
      client.outbox,
    );
  }
  await client.close();
}
