/** Streams and datagrams that are unread when their session ends: readers get these, then the end. */
import { z } from "zod";
import { CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { BidirectionalStream } from "../../../../../transport/connection.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";

/** Ways in which a session ends. */
const WAYS = [
  "client closes",
  "client closes",
  "server closes",
  "server closes",
  "both close",
  "reset",
  "reset",
] as const;

/** Lists of items of the peer, at each end. */
const KINDS = ["datagrams", "bidirectional", "unidirectional"] as const;

/** Kinds without items at either end: an end may first ask for a list after the end of the session. */
const IDLE: readonly (readonly typeof KINDS[number][])[] = [[], [], [], ["datagrams"], KINDS];

/** Most items of a list, and of a burst beside these. */
const [ITEMS, BURST] = [6, 300];

/** Calls for items at once: more than items. */
const CALLS = 2 * ITEMS + 2;

/** Datagrams of a burst in a row, and the time between two rows, in milliseconds. */
const [ROW, ROW_MS] = [50, 20];

/** Most datagrams that an end holds, by docs/protocol.md 18.7. */
const HELD = 256;

/** Longest time between two items of a slow reader, in milliseconds. */
const SLOW_MS = 30;

/** Time for items under way, and between packets that were sent at once, in milliseconds. */
const [TRIP_MS, SPREAD_MS] = [80, 25];

/** Longest time until all items have arrived, and until all readers are done, in milliseconds. */
const STEP_MS = 3_000;

/** Message of a datagram with the number of the item, and the bytes of the type. */
const [TYPE, TYPE_BYTES] = [1, 2];

/** An end of a session. */
type Side = "client" | "server";

/** An item: a datagram, or a stream whose bytes are those of a datagram. */
type Item = Uint8Array | ReadableStream<Uint8Array> | BidirectionalStream;

/** A reader of all items of a list. */
type Reader = (items: ReadableStream<Item>, list: List) => Promise<void>;

/** Readers by name. */
const READERS: Readonly<Record<string, Reader>> = {
  loop: readByLoop,
  "reader of the stream": readByReader,
  "two loops": readByTwoLoops,
  "loop behind others": readBehindOthers,
  "calls ahead of the items": readAhead,
};

/** An item that a reader took. */
interface Taken {
  readonly number: Promise<number>;
  readonly atMs: number;
}

/** Items of one kind at one end. */
interface List {
  readonly side: Side;
  readonly kind: typeof KINDS[number];
  /** True where datagrams come in order, and all of them. */
  readonly isReliable: boolean;
  readonly reader: string;
  /** True for a reader that begins after the end of the session. */
  readonly isLate: boolean;
  /** Number of items after which the first of two loops is left. */
  readonly first: number;
  /** Items of the peer that have time to arrive, and items just before the end. */
  readonly counts: readonly [number, number];
  readonly taken: Taken[];
  /** Time of a read that gives up, and of a reader behind it that reads nothing, in milliseconds. */
  readonly idleMs: readonly [number, number];
  readonly pause: (ms: number) => Promise<void>;
  /** Notes an item, and lets a slow reader pause. */
  readonly take: (item: Item | number) => Promise<void>;
}

/** One end of the session. */
interface End {
  readonly side: Side;
  readonly session: AnySession;
  readonly lists: readonly List[];
  /** Settled when the session of the end is over. */
  readonly over: Promise<void>;
  endedMs: number;
  /** True for a loop over the streams of both directions, ahead of the readers of each. */
  readonly isMerged: boolean;
  /** Reads the datagrams as typed messages. */
  readonly isTyped: boolean;
}

/**
 * Ends a session whose ends have streams and datagrams of each other that are unread.
 *
 * @param audit The audit.
 */
export async function auditUnread(audit: Audit): Promise<void> {
  const random = audit.chanceOf("unread");
  const way = oneOf(random, WAYS);
  const transport = oneOf(random, ["websocket", "websocket", "webtransport"] as const);
  const about = `at the end (${way}, ${transport})`;
  const [host, machine] = [audit.host("unread"), audit.host("unreader")];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({}));
  const client = audit.connect("unreader", host, { token: undefined, transports: [transport] });
  const { near, far } = await audit.meet(client, server);
  const plan = { random, idle: oneOf(random, IDLE) };
  const ends = [endOf(audit, "client", near, plan), endOf(audit, "server", far, plan)] as const;
  const reading = ends.flatMap((end) => begin(audit, end));
  await audit.pause(TRIP_MS * random());
  await Promise.all(ends.map(({ lists }, i) => sendAll(audit, ends[1 - i]!.session, lists, 0)));
  const areThere = () =>
    ends.every((end) => end.lists.every((list) => arrivedOf(end, list) >= list.counts[0]));
  audit.examine("flows", `arrival of items ${about}`, true, await audit.until(areThere, STEP_MS));
  // The bytes of a stream may come later than the stream.
  await audit.pause(random() < 0.5 ? TRIP_MS : between(random, SPREAD_MS, TRIP_MS));
  await Promise.all(ends.map(({ lists }, i) => sendAll(audit, ends[1 - i]!.session, lists, 1)));
  if (way === "reset") audit.cut(machine);
  if (way !== "reset" && way !== "server closes") void near.close({ code: CloseCode.normal });
  if (way !== "reset" && way !== "client closes") void far.close({ code: CloseCode.normal });
  await audit.inTime(Promise.all(ends.map(({ over }) => over)), STEP_MS, undefined);
  const outcomes = await Promise.all(
    reading.map((done) => audit.inTime(done, STEP_MS, "no end")),
  );
  for (const end of ends) {
    for (const list of end.lists) {
      await examineList(audit, {
        end,
        list,
        about,
        isBroken: way === "reset",
        outcome: outcomes.shift()!,
      });
    }
    const unread = end.session.connection.inspect?.unreadStreams ?? 0;
    audit.examine("flows", `unread streams of the ${end.side} ${about}`, 0, unread);
  }
  await client.close();
  await server.close();
}

/** Draws of one run. */
interface Plan {
  readonly random: () => number;
  /** Kinds without items. */
  readonly idle: readonly List["kind"][];
}

function endOf(audit: Audit, side: Side, session: AnySession, plan: Plan): End {
  const { random } = plan;
  const { capabilities } = session.connection;
  const isReliable = capabilities.datagrams === "reliable";
  const end: End = {
    side,
    session,
    lists: KINDS.map((kind) => listOf(audit, { side, kind, isReliable }, plan)),
    over: Promise.allSettled([session.connection.closed, session.closed]).then(() => {
      end.endedMs = audit.nowMs;
    }),
    endedMs: Infinity,
    isMerged: random() < 0.3,
    isTyped: random() < 0.4,
  };
  return end;
}

function listOf(
  audit: Audit,
  { side, kind, isReliable }: Pick<List, "side" | "kind" | "isReliable">,
  { random, idle }: Plan,
): List {
  const isLate = random() < 0.4;
  const isBurst = kind === "datagrams" && isLate && isReliable && random() < 0.4;
  const pauseMs = !isBurst && random() < 0.6 ? SLOW_MS * random() : 0;
  const counts = [
    Math.floor(between(random, 0, ITEMS + 1)) + (isBurst ? BURST : 0),
    random() < 0.3 ? Math.floor(between(random, 0, ITEMS)) : 0,
  ] as const;
  const taken: Taken[] = [];
  return {
    side,
    kind,
    isReliable,
    reader: oneOf(random, Object.keys(READERS)),
    isLate,
    first: Math.floor(between(random, 1, ITEMS)),
    counts: idle.includes(kind) ? [0, 0] : counts,
    taken,
    idleMs: [TRIP_MS * random(), 4 * TRIP_MS * random()],
    pause: (ms) => audit.pause(ms),
    take: async (item) => {
      taken.push({ number: audit.inTime(numberOf(item), STEP_MS, NaN), atMs: audit.nowMs });
      if (pauseMs > 0) await audit.pause(pauseMs);
    },
  };
}

/** Begins the readers of one end, or plans these for the time after the end. */
function begin(audit: Audit, { session, lists, over, isMerged, isTyped }: End): Promise<string>[] {
  const merged = isMerged ? readBoth(session, lists) : undefined;
  return lists.map(async (list) => {
    const { kind, reader, isLate } = list;
    if (kind === "datagrams" && isTyped) return await outcomeOf(readTyped(session, list, over));
    if (kind !== "datagrams" && merged !== undefined) {
      const outcome = await outcomeOf(merged);
      if (outcome !== "fulfilled") return `${outcome} of the loop over both directions`;
    }
    if (isLate) {
      await over;
      await audit.pause(SLOW_MS);
    }
    return await outcomeOf(READERS[reader]!(itemsOf(session, kind), list));
  });
}

/** Takes the stream of a list. */
function itemsOf({ connection }: AnySession, kind: List["kind"]): ReadableStream<Item> {
  switch (kind) {
    case "datagrams":
      return connection.datagrams.readable;
    case "bidirectional":
      return connection.incomingBidirectionalStreams;
    case "unidirectional":
      return connection.incomingUnidirectionalStreams;
  }
}

/** Sends the items of lists at the other end: those ahead, or those just before the end. */
async function sendAll(
  audit: Audit,
  session: AnySession,
  lists: readonly List[],
  part: 0 | 1,
): Promise<void> {
  for (const { kind, counts } of lists) {
    const last = counts[0] + part * counts[1];
    for (let number = 1 + part * counts[0]; number <= last; number++) {
      const bytes = new TextEncoder().encode(`\0\u0001${number}`);
      if (kind === "datagrams") {
        session.sendDatagram(bytes).catch(() => {});
        if (number % ROW === 0) await audit.pause(ROW_MS);
        continue;
      }
      const writable = kind === "unidirectional"
        ? await session.createUnidirectionalStream()
        : (await session.createBidirectionalStream()).writable;
      const writer = writable.getWriter();
      writer.closed.catch(() => {});
      writer.write(bytes).catch(() => {});
      writer.close().catch(() => {});
    }
  }
}

/** Number of an item, which no other item of the list has. */
async function numberOf(item: Item | number): Promise<number> {
  if (typeof item === "number") return item;
  if (item instanceof Uint8Array) return Number(new TextDecoder().decode(item.slice(TYPE_BYTES)));
  try {
    const readable = "readable" in item ? item.readable : item;
    return await numberOf(await new Response(readable).bytes());
  } catch {
    return NaN;
  }
}

/** Number of items of a list that came, by the counters of the connection. */
function arrivedOf({ session }: End, { kind }: List): number {
  const { counters } = session.connection.inspect ?? {};
  switch (kind) {
    case "datagrams":
      return counters?.datagramsReceived ?? 0;
    case "bidirectional":
      return counters?.remoteBidirectionalOpened ?? 0;
    case "unidirectional":
      return counters?.remoteUnidirectionalOpened ?? 0;
  }
}

/** Examines the items that a reader took, and the end of the reader. */
async function examineList(
  audit: Audit,
  { end, list, about, isBroken, outcome }: {
    readonly end: End;
    readonly list: List;
    readonly about: string;
    readonly isBroken: boolean;
    readonly outcome: string;
  },
): Promise<void> {
  const { kind, side, reader, isLate, isReliable, counts, taken } = list;
  const isTyped = kind === "datagrams" && end.isTyped;
  const isMerged = kind !== "datagrams" && end.isMerged;
  const how = isTyped ? "typed loop" : isMerged ? `${reader} behind a loop over both` : reader;
  const what = `of the ${side}'s ${kind} by ${isLate ? "a late" : "an early"} ${how} ${about}`;
  // Typed messages have all datagrams, and end without an error.
  const isCut = isBroken && !isTyped;
  audit.examine("flows", `outcome ${what}`, isCut ? "ConnectionError" : "fulfilled", outcome);
  const arrived = arrivedOf(end, list);
  const first = kind === "datagrams" && isLate ? Math.max(1, arrived - HELD + 1) : 1;
  const numbers = await Promise.all(taken.map(async ({ number }, i) => {
    const received = await number;
    // The bytes of a stream may miss the end of the connection, also those of the stream that a loop
    // over both directions has in hand.
    const mayMiss = isBroken || isMerged || first + i > counts[0];
    return Number.isNaN(received) && mayMiss ? first + i : received;
  }));
  const expected = range(first, isCut ? first + taken.length - 1 : arrived);
  if (kind !== "datagrams" || isReliable) {
    audit.examine("flows", `items ${what}`, expected, numbers);
  } else {
    // Datagrams overtake each other, and those just before the end may be lost.
    const settled = isCut ? [] : range(1, counts[0]);
    const distinct = new Set(numbers);
    audit.examine("flows", `items ${what}`, [], settled.filter((n) => !distinct.has(n)));
    audit.examine("flows", `number of items ${what}`, expected.length, distinct.size);
  }
  // A read that gave up may have left an item ahead of the queue, and a loop over both directions has
  // one in hand.
  const mayBeAhead = reader === "loop behind others";
  const most = [mayBeAhead, isMerged].filter(Boolean).length;
  // Calls ahead of a slow reader got their items before the break.
  if (isCut && reader !== "calls ahead of the items") {
    const after = taken.filter(({ atMs }) => atMs > end.endedMs).length;
    audit.examine("flows", `items after the break ${what}`, true, after <= most);
  }
  if (kind !== "datagrams" || isTyped || isCut && mayBeAhead) return;
  const { datagramsDropped = 0 } = end.session.connection.inspect?.counters ?? {};
  audit.examine("flows", `lost items ${what}`, arrived - taken.length, datagramsDropped);
}

async function readByLoop(items: ReadableStream<Item>, { take }: List): Promise<void> {
  for await (const item of items) await take(item);
}

async function readByReader(items: ReadableStream<Item>, { take }: List): Promise<void> {
  const reader = items.getReader();
  for (let next; !(next = await reader.read()).done;) await take(next.value);
}

/** Leaves a loop without an end of the items, and goes on in another loop. */
async function readByTwoLoops(items: ReadableStream<Item>, list: List): Promise<void> {
  let left = list.first;
  for await (const item of items.values({ preventCancel: true })) {
    await list.take(item);
    if (--left === 0) break;
  }
  // A loop that met the end keeps the stream.
  if (left === 0) await readByLoop(items, list);
}

/** Gives a read up, then holds the stream without a read: an item may wait in the stream itself. */
async function readBehindOthers(items: ReadableStream<Item>, list: List): Promise<void> {
  const reader = items.getReader();
  const read = reader.read().then(({ value }) => value, () => undefined);
  await list.pause(list.idleMs[0]);
  reader.releaseLock();
  const item = await read;
  const idle = items.getReader();
  if (item !== undefined) await list.take(item);
  await list.pause(list.idleMs[1]);
  idle.releaseLock();
  await readByLoop(items, list);
}

/** Asks for all items at once, and then for more. */
async function readAhead(items: ReadableStream<Item>, { take }: List): Promise<void> {
  const iterator = items.values();
  const calls = Array.from({ length: CALLS }, () => iterator.next());
  for (const call of calls) call.catch(() => {});
  while (true) {
    const next = await (calls.shift() ?? iterator.next());
    if (next.done) break;
    await take(next.value);
  }
  for (const call of [...calls, iterator.next()]) {
    if (!(await call).done) throw new TypeError("Expected the end after the end");
  }
}

/** Reads streams of both directions until the session is over. */
async function readBoth(session: AnySession, lists: readonly List[]): Promise<void> {
  for await (const stream of session.incomingStreams()) {
    const { direction, readable } = stream;
    await lists.find(({ kind }) => kind === direction)!.take(readable);
  }
}

/** Reads datagrams as typed messages. */
async function readTyped(session: AnySession, list: List, over: Promise<void>): Promise<void> {
  const messages = await session.structuredDatagrams({ registry: { [TYPE]: z.int() } });
  if (list.isLate) await over;
  for await (const { data } of messages) await list.take(data as number);
}
