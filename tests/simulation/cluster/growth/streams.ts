/** Durable streams with writers on both nodes, requests of all kinds, and readers that leave. */
import { outcomeOf } from "./examiner.ts";
import type { Backend, Question } from "./backend.ts";
import { MAX_APPEND_BYTES, type Node, STREAMS } from "./nodes.ts";
import { read, ROUND_MS, Waits } from "./waits.ts";
import { streamsOf } from "../../../stream_features.ts";

/**
 * Time after which a stream expires, in seconds. It expires after the visit and before the next
 * visit.
 */
const LIFE_S = "20";

/** Headers of requests that create a stream. */
const FACTS = { "content-type": "application/json", "stream-ttl": LIFE_S } as const;

/** Maximum wait for an expected response, in milliseconds. Packets may be randomly slow. */
const ANSWER_MS = 1_150;

/** Number of readers of one kind, which is one more than an address may have. */
const READERS = 4;

/**
 * Makes writers open, lose, abort and end streams.
 *
 * @param nodes Two nodes.
 * @param visit Name of the visit.
 */
export async function writeStreams(
  [one, other]: readonly [Node, Node],
  visit: string,
): Promise<void> {
  const [near, far] = [streamsOf(one.server), streamsOf(other.server)];
  const options = { ttlMs: 1_000 * Number(LIFE_S) };
  const [id, given, aborted, fork] = ["kept", "given", "aborted", "fork"].map((name) =>
    `${name}-${visit}`
  ) as [string, string, string, string];
  const waits = new Waits();
  const leave = new AbortController();
  const { signal } = leave;
  const writer = await near.create(id, options);
  for (
    const { follow } of [near, far].map((streams) => ({ follow: streams.follow.bind(streams) }))
  ) {
    waits.add(read(follow(id, { signal })), read(follow(id)), read(follow(id), 1));
  }
  waits.add(
    near.create(id, options),
    far.open(id),
    far.open(`none-${visit}`),
    read(near.read(given)),
  );
  waits.add(writer.append(1), writer.append("x".repeat(100_000)), writer.append(2));
  waits.add(far.cancel(id, "enough"), read(near.follow(`none-${visit}`)));
  const moved = await near.create(given, options);
  await moved.append(1);
  await moved.release();
  waits.add(moved.append(2));
  const next = await far.open(given);
  await next.append(2);
  const ended = await far.create(aborted, options);
  waits.add(ended.append(1), ended.abort("planned"), ended.append(2), read(near.follow(aborted)));
  const forked = await far.create(fork, { ...options, fork: { source: given } });
  waits.add(near.delete(given), read(near.follow(fork), 1), next.append(3), next.close());
  await outcomeOf(forked.append(1));
  leave.abort();
  waits.add(forked.release(), far.delete(fork), writer.close(), writer.append(3), ended.close());
  await waits.over();
}

/**
 * Sends requests for streams, many of which are rejected, and reads streams in all ways.
 *
 * @param nodes Two nodes.
 * @param visit Name of the visit.
 * @returns The statuses of the responses, in order.
 */
export async function askForStreams(
  backend: Backend,
  [one, other]: readonly [Node, Node],
  visit: string,
): Promise<string[]> {
  const statuses: string[] = [];
  const [id, fork] = [`web-${visit}`, `web-fork-${visit}`];
  const path = (name: string, query = "") => `${STREAMS}/${name}${query}`;
  const ask = async (
    node: Node,
    name: string,
    question: Question & { readonly query?: string },
  ) => {
    const { query, ...init } = question;
    statuses.push(await backend.ask(node, path(name, query), { leaveMs: ANSWER_MS, ...init }));
  };
  const producer = (epoch: number, seq: number) => ({
    "producer-id": "growth",
    "producer-epoch": `${epoch}`,
    "producer-seq": `${seq}`,
  });
  const put = { method: "PUT", headers: FACTS };
  await ask(one, id, { ...put, json: [0] });
  const waits = new Waits();
  for (const node of [one, other]) {
    for (let reader = 0; reader < READERS; reader++) {
      const leaveMs = reader * ROUND_MS / 2;
      waits.add(backend.ask(node, path(id, "?offset=-1&live=sse"), { leaveMs }));
      waits.add(backend.ask(node, path(id, "?offset=now&live=long-poll"), { leaveMs }));
    }
  }
  await ask(other, id, { ...put, headers: { ...FACTS, "content-type": "text/plain" } });
  await ask(one, id, { json: 1, headers: producer(1, 0) });
  await ask(other, id, { json: 1, headers: producer(1, 0) });
  await ask(one, id, { json: 1, headers: producer(1, 5) });
  await ask(other, id, { json: 1, headers: producer(0, 0) });
  await ask(one, id, { json: 2, headers: { "stream-seq": "5" } });
  await ask(other, id, { json: 2, headers: { "stream-seq": "5" } });
  await ask(one, id, { json: "x".repeat(MAX_APPEND_BYTES) });
  await ask(other, id, { body: "{", headers: { "content-type": "application/json" } });
  await ask(one, id, { body: "text", headers: { "content-type": "text/plain" } });
  await ask(one, id, {
    body: endless(),
    headers: { "content-type": "application/json" },
    leaveMs: ROUND_MS,
  });
  for (const offset of ["-1", "now", "7_7", "nothing"]) {
    await ask(one, id, { query: `?offset=${offset}` });
  }
  await ask(one, fork, {
    ...put,
    json: [],
    headers: { ...FACTS, "stream-forked-from": path(id) },
  });
  await ask(one, `of-${fork}`, {
    ...put,
    json: [],
    headers: { ...FACTS, "stream-forked-from": path(`none-${visit}`) },
  });
  await ask(other, id, { method: "DELETE" });
  await ask(other, id, { query: "?offset=-1" });
  // Until the next heartbeat, readers that left the first node may still be counted, so the server
  // may reject these two.
  for (const query of ["?offset=-1&live=sse", "?offset=-1&live=long-poll"]) {
    waits.add(backend.ask(other, path(id, query), { leaveMs: ANSWER_MS }));
  }
  await ask(one, id, { json: 3 });
  await ask(one, fork, { body: "enough", query: "?action=cancel" });
  await ask(one, fork, { json: 3, headers: { "stream-closed": "true" } });
  await ask(other, fork, { json: 4 });
  await ask(other, fork, { method: "DELETE" });
  await ask(other, fork, { method: "DELETE" });
  await waits.over();
  return statuses;
}

/** An endless body. */
function endless(): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({ start: (controller) => controller.enqueue(Uint8Array.of(0x5b)) });
}
