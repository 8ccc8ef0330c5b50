/** An answer of more bytes than may go ahead of the reader, in text of all widths and in bytes. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";

/** Most bytes ahead of the reader, by docs/protocol.md 25.5. */
const MOST_AHEAD = 1_048_576;

/** Bytes of an item: fewer items than the credit in number have all bytes that may go ahead. */
const ITEM_BYTES = [40_000, 200_000] as const;

/** Bytes of the whole answer: more than go ahead, as the reader counts as well as the producer. */
const ALL_BYTES = 1_500_000;

/** Most bytes of the head of an item. */
const HEAD_BYTES = 100;

/** Characters of one to four bytes, the last one of two units; and plain bytes. */
const FORMS = ["x", "é", "語", "語", "語", "🧶", "bytes"] as const;

/** Pauses of the loop after each item, in milliseconds. */
const PAUSES_MS = [0, 0, 30] as const;

/** Time of all items that go ahead, on each transport, in milliseconds. */
const AHEAD_MS = 2_000;

/** Time for an item beyond those, in milliseconds. */
const BEYOND_MS = 100;

/** Longest time of an answer without an end, in milliseconds. */
const ANSWER_MS = 10_000;

/**
 * Reads one large answer, by a loop that begins late: the producer stops at the bound, and goes on as
 * the loop takes items.
 *
 * @param audit The audit.
 */
export async function auditLargeAnswer(audit: Audit): Promise<void> {
  const random = audit.chanceOf("large");
  const form = oneOf(random, FORMS);
  const transport = oneOf(random, ["websocket", "webtransport", "http"] as const);
  const itemBytes = Math.floor(between(random, ...ITEM_BYTES));
  const slowMs = oneOf(random, PAUSES_MS);
  const count = Math.ceil(ALL_BYTES / itemBytes);
  const item = itemOf(form, itemBytes);
  let made = 0;
  async function* items() {
    while (made < count) {
      made++;
      yield item;
    }
  }
  const host = audit.host("large-answers");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    onError() {},
    requests: { items },
  }));
  const client = audit.connect("large-asker", host, { token: undefined, transports: [transport] });
  await audit.until(() => client.isConnected);
  const least = Math.floor(MOST_AHEAD / (itemBytes + HEAD_BYTES));
  const most = Math.ceil(MOST_AHEAD / itemBytes);
  const about = `of ${count} times ${itemBytes} bytes (${form}, ${transport}, ${slowMs} ms)`;
  let taken = 0;
  let wrong = 0;
  const read = async () => {
    for await (const received of client.requestStream("items")) {
      if (taken++ === 0) {
        await audit.until(() => made >= least, AHEAD_MS);
        await audit.pause(BEYOND_MS);
        const isBounded = made >= least && made <= most;
        audit.examine("queues", `${made} items before the loop ${about}`, true, isBounded);
      }
      if (!isSame(item, received)) wrong++;
      const ahead = made - taken;
      audit.examine("queues", `${ahead} items ahead ${about}`, true, ahead <= most);
      if (slowMs > 0) await audit.pause(slowMs);
    }
  };
  const outcome = await audit.inTime(outcomeOf(read()), ANSWER_MS, "no end");
  audit.examine("queues", `large answer ${about}`, ["fulfilled", count, 0], [
    outcome,
    taken,
    wrong,
  ]);
  await client.close();
  await server.close();
}

function itemOf(form: typeof FORMS[number], bytes: number): string | Uint8Array {
  if (form === "bytes") return new Uint8Array(bytes).fill(7);
  return form.repeat(bytes / new TextEncoder().encode(form).length);
}

function isSame(item: string | Uint8Array, received: unknown): boolean {
  if (typeof item === "string") return item === received;
  return received instanceof Uint8Array && received.length === item.length &&
    received.every((byte, i) => byte === item[i]);
}
