/**
 * Client calls that end early because they are rejected, abandoned, cancelled, too large, or exceed
 * a limit.
 */
import type { Client } from "../../../../client/client.ts";
import { type Examiner, outcomeOf, readAll } from "./examiner.ts";
import { KEPT_TOPIC, MAX_REQUESTS } from "./nodes.ts";
import { read, ROUND_MS, Waits } from "./waits.ts";

/** A position that does not exist in any history. */
const NOWHERE = { epoch: "none", offset: 7 } as const;

/**
 * Makes a client start all kinds of calls and abandon most of them.
 *
 * @param visit Name of the visit.
 */
export async function fail(examiner: Examiner, client: Client, visit: string): Promise<void> {
  const waits = new Waits();
  const leave = new AbortController();
  const { signal } = leave;
  leaveTopics(client, waits, visit);
  const room = `room:${visit}`;
  waits.add(
    client.presence(room, "x".repeat(1_000)),
    client.presence(`free:${visit}`, 1),
    client.presence(`room:slow-${visit}`, 1, { signal }),
    client.presence(room, 1),
    client.presence(room, undefined),
    client.publish(`denied:${visit}`, 1, { except: "self" }),
    client.publish(`broken:${visit}`, 1),
    client.publish(`slow:${visit}`, 1, { signal }),
    client.publish(`slow:${visit}`, 2, { timeoutMs: 20 }),
    client.publish(KEPT_TOPIC, 3, { timeoutMs: 1 }),
    Promise.try(() => client.publish(KEPT_TOPIC, "x".repeat(100_000))),
  );
  waits.add(
    read(client.requestStream("breaks", 2)),
    read(client.requestStream("keep-breaks", 2, { id: `growth-answer-${visit}-breaks` })),
    read(client.requestStream("count", 40, { signal })),
    read(client.requestStream("count", 40, { window: 1 }), 2),
    read(client.requestStream("count", 40, { itemTimeoutMs: 5 })),
    read(client.requestStream("none", 1)),
    read(client.requestStream("keep", 20, { id: `growth-answer-${visit}-left`, signal })),
    read(client.requestStream("keep", 3, { id: `growth-answer-${visit}-none`, after: "nothing" })),
    read(client.durableStream(`none-${visit}`)),
    read(client.durableStream(`kept-${visit}`, { signal })),
    read(client.durableStream(`kept-${visit}`), 1),
  );
  await examiner.pause(ROUND_MS);
  for (let left = MAX_REQUESTS + 4; left > 0; left--) {
    waits.add(Promise.try(() => client.request("hold", 0, { signal })));
  }
  const { session } = client;
  if (session !== undefined) {
    waits.add(
      read(session.monitorHealth({ intervalMs: 20, signal })),
      Promise.try(() => session.sendDatagram(new Uint8Array(10))),
      Promise.try(() => session.sendDatagram(new Uint8Array(100_000))),
      session.authenticate("another", { signal }),
      session.ping({ timeoutMs: 1 }),
      breakStreams(client),
    );
  }
  await examiner.pause(ROUND_MS);
  leave.abort();
  // The client keeps the data after its wait has ended.
  for (const slow of [`room:slow-${visit}`, room]) waits.add(client.presence(slow, undefined));
  await examiner.inTime(waits.over(), 4 * ROUND_MS, []);
}

/** Subscribes to topics, and unsubscribes before or after the reply. */
function leaveTopics(client: Client, waits: Waits, visit: string): void {
  const names = [KEPT_TOPIC, "free", "slow", "denied", "broken", "room", "room:slow"];
  for (const [i, name] of names.entries()) {
    const topic = name === KEPT_TOPIC ? name : `${name}:fails-${visit}`;
    const ways = [{ since: NOWHERE }, { last: 3 }, {}];
    for (const options of name === KEPT_TOPIC ? ways : ways.slice(i % 3, i % 3 + 1)) {
      const subscription = client.subscribe(topic, { ...options, onRecovery() {} });
      void readAll(subscription, () => {});
      waits.add(subscription.ready);
      if (name !== "denied") waits.add(subscription.unsubscribe());
    }
  }
}

/** Opens streams that one of the ends resets, if the transport supports streams. */
async function breakStreams({ session }: Client): Promise<void> {
  if (!session?.connection.capabilities.streams) return;
  for (const way of ["abort", "cancel", "both", "rejected"] as const) {
    const { readable, writable } = await session.createBidirectionalStream();
    const writer = writable.getWriter();
    await outcomeOf(writer.write(new TextEncoder().encode(way)));
    if (way !== "abort") await outcomeOf(readable.cancel());
    if (way !== "cancel") await outcomeOf(writer.abort());
    else await outcomeOf(writer.close());
    await outcomeOf(readable.cancel());
  }
  const only = await session.createUnidirectionalStream();
  await outcomeOf(only.abort());
}
