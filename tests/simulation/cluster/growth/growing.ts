/** Tells leaks apart from other growth in a program's memory. */
import type { Change } from "./heap.ts";

/**
 * Collections whose limit is larger than their size after some visits, identified by their newest
 * entry. They contain users with the time at which they were last seen, users seen at an address,
 * numbers of the messages of a user, handler failures, rows of a store in memory, facts of durable
 * streams, responses that were read to the end, keys of callers, secrets of HTTP connections, nodes
 * that said farewell, and traces of the simulation.
 */
const KEPT: readonly RegExp[] = [
  / => \d{13}$/,
  /^Set with [\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/,
  /^Array with \d{13}$/,
  /^Map with (seq|sessions|rate|api-result|handling|expired):/,
  /^Map with (\d+|api):\S+ => \d+$/,
  / => Log { id, kind, number, state, /,
  /^Map with answer:\S+ => [\d.]+$/,
  /^Map with [a-z]\d*\.(user|guest|at) .* => Promise { {2}}$/,
  /(=>|with) (Object { key, user, network, firstMs|Familiar(User|Network) {)/,
  /^Map with (user|guest) \S+ => Map { {2}}$/,
  /^Array with Object { (publication, bytes, at|frame, size, topic, )/,
  / => Object { identity, contentType, keyed }$/,
  /^Map with [\da-f-]{36}\.[\da-f-]{36} => [\w-]{22}$/,
  /^Array with (Array { 0, 1, 2, 3 }|Broadcast {|SendQueue {)/,
  /^Array with Object { (atMs|offset, atMs|events, atMs|term, uid|index, uid), /,
];

/** The last words in the names of counters, times and positions. */
const COUNTS = [
  "acknowledged|at|check|closed|created|dials|done|ended|failures|finished|handed|handled|head",
  "heard|id|inFlight|kept|last|life|limit|ms|n|next|now|number|opened|order|pings|posted|published|reads",
  "received|records|rejections|sent|sequence|start|stride|taken|tick|ticks|tokens|unused|used|uses",
  "version|written",
].join("|");

/** Names of counters of bytes and messages. */
const PASSED = /(bytes(Received|Sent)|(received|sent)(Bytes|Messages))$/i;

/**
 * Fields of the simulation, fields that hold a current value, and sizes of lists whose items are in a
 * `Map` too.
 */
const OTHERS =
  /^(FixedCircularBuffer|LinkedList|Liveness|PageWatch|Port\w+|Simulat\w+|StreamWriter|Visits)\.|^SharedBucket.#owed|^Holder.bytes|^TopicHistory.(#bytes|#producerBytes|counted)|^Log.(#overhead|#producerBytes|counted)|^ByteSum.#bytes|^Faults.(messages|protocolErrors)|^Window.#(count|since)|^Ledger.streamErrors|^ReceiveCredit.#lost|^ReceiveHalf.#size|^RecordScheduler.#flushBytes|^BrokerCounts.#awayUntil|^UnreadStreams.#connections/;

const COUNT = new RegExp(
  `[.#](${COUNTS})$|[a-z](${COUNTS.replaceAll(/\b[a-z]/g, (first) => first.toUpperCase())})$`,
);

/**
 * Returns true if a change indicates a memory leak.
 *
 * @param change A difference between two snapshots.
 * @param by Minimum growth.
 * @returns True for a collection with more entries, and for a number that has increased, unless it
 * is a counter or a time.
 */
export function hasGrown({ of, before, after }: Change, by: number): boolean {
  if (after < before + by) return false;
  return ![...KEPT, COUNT, PASSED, OTHERS].some((one) => one.test(of));
}
