/** Publications of a topic that come in another order: each is delivered once, in order, epoch by epoch. */
import type { Publication } from "../../../../../pubsub/broker.ts";
import { InOrder } from "../../../../../brokers/nats/topic_subscription.ts";
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Epochs of one topic, and the fewest and most publications of one. */
const [EPOCHS, COUNT] = [4, [2, 12]] as const;

/** Largest step between two offsets: other topics have the offsets between. */
const MAX_STEP = 3;

/** Time between two publications, the longest delay of one, and the longest time of a hold, in milliseconds. */
const [GAP_MS, DELAY_MS, HOLD_MS] = [4, 20, 50] as const;

/** Share of delayed publications, and of those that never come. */
const [DELAYED, LOST] = [0.4, 0.1] as const;

/** Share of epochs behind which the subscription is quiet until nothing is held. */
const QUIET = 0.5;

/** A delivery, with the time. */
interface Delivered {
  readonly name: string;
  readonly atMs: number;
}

/**
 * Lets publications of some epochs come in a drawn order, each epoch with offsets that begin anew.
 *
 * @param audit The audit.
 */
export async function auditOrders(audit: Audit): Promise<void> {
  const random = audit.chanceOf("orders");
  const { runtime } = audit.host("orders");
  const delivered: Delivered[] = [];
  const order = new InOrder(runtime, (publication) => {
    delivered.push({ name: nameOf(publication), atMs: audit.nowMs });
  });
  const expected: string[] = [];
  const latest = new Map<string, number>();
  for (let number = 0; number < EPOCHS; number++) {
    const all = publicationsOf(random, `epoch ${number}`);
    const arriving = all.filter((_, i) => i === 0 || random() >= LOST)
      .map((publication, i) => ({
        publication,
        // The first one of an epoch shows the epoch.
        atMs: i * GAP_MS + (i > 0 && random() < DELAYED ? DELAY_MS * random() : 0),
      }));
    expected.push(...arriving.map(({ publication }) => nameOf(publication)));
    let nowMs = 0;
    for (const { publication, atMs } of arriving.toSorted((a, b) => a.atMs - b.atMs)) {
      await audit.pause(Math.max(0, atMs - nowMs));
      nowMs = atMs;
      latest.set(nameOf(publication), audit.nowMs + HOLD_MS + 1);
      order.take(publication, 0);
    }
    if (random() < QUIET) await audit.pause(HOLD_MS + 1);
  }
  await audit.pause(HOLD_MS + 1);
  order.close();
  audit.examine("history", "publications in order", expected, delivered.map(({ name }) => name));
  const late = delivered.filter(({ name, atMs }) => atMs > latest.get(name)!);
  audit.examine("history", "publications that are held for too long", [], late);
  audit.examine(
    "history",
    "timers behind a subscription",
    0,
    await audit.timersOf(audit.host("orders")),
  );
}

/** Makes the publications of an epoch: each names the offset before it. */
function publicationsOf(random: () => number, epoch: string): Publication[] {
  let offset = 0;
  return Array.from({ length: Math.round(between(random, ...COUNT)) }, () => {
    const prev = offset;
    offset += 1 + Math.floor(MAX_STEP * random());
    return { topic: "orders", payload: "", position: { epoch, offset, prev } };
  });
}

function nameOf({ position }: Publication): string {
  return `${position!.offset} of ${position!.epoch}`;
}
