/** Bounds that are filled, drained and filled again: the account of each is exact in every round. */
import type { Client } from "../../../../../client/client.ts";
import { QueueFullError, RequestError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Requests of one session at once, at the end that answers. */
const MAX_REQUESTS = 4;

/** Rounds, each of which fills a bound. */
const ROUNDS = 5;

/** Publications of one round: those of all rounds exceed the ones that may be on the way at once. */
const PUBLICATIONS = 12;

/** Bounds of an outbox. */
const OUTBOX = { maxMessages: 16, maxBytes: 6_000 } as const;

/** Most bytes of a message that a server takes. */
const MAX_MESSAGE_BYTES = 2_048;

/** Bytes of a record, records of one round, and records of more bytes than may wait. */
const [RECORD_BYTES, RECORDS, RECORDS_BEYOND] = [200_000, 12, 60] as const;

/** Most messages at once, and time in which a token comes back to the rate, in milliseconds. */
const [BURST, TOKEN_MS] = [6, 250] as const;

/** Time for messages there and back, in milliseconds. */
const ROUND_MS = 100;

/** Longest time of a step, in milliseconds. */
const STEP_MS = 4_000;

/** Ways in which a request ends, and the outcome of each. */
const ENDS = {
  answer: "fulfilled",
  fail: "failed",
  signal: "AbortError: Enough",
  time: "TimeoutError",
  stream: "fulfilled",
  leave: "fulfilled",
} as const;

/** A way in which a request ends. */
type End = keyof typeof ENDS;

/** Gate of the handlers: the requests of one round are answered once the promise resolves. */
interface Gate {
  open: PromiseWithResolvers<void>;
}

/**
 * Fills the bounds of a session, of an outbox and of a rate, again and again.
 *
 * @param audit The audit.
 */
export async function auditRefills(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("refills");
  const gate: Gate = { open: Promise.withResolvers() };
  const requests = handlersOf(gate);
  const handled: number[] = [];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    authorize: (_session, topic) => topic !== "closed",
    session: {
      maxRequests: MAX_REQUESTS,
      maxMessageBytes: MAX_MESSAGE_BYTES,
      maxInvalidMessages: 1_000,
      concurrency: 2 * MAX_REQUESTS,
    },
    requests,
    onMessage: ({ data }) => void handled.push((data as { readonly n: number }).n),
    onError() {},
  }));
  // Either end reaches the bound first.
  const isOwn = random() < 0.5;
  const client = audit.connect("refiller", host, {
    token: undefined,
    maxRequests: isOwn ? MAX_REQUESTS : 2 * MAX_REQUESTS,
    concurrency: 2 * MAX_REQUESTS,
    maxInvalidMessages: 1_000,
    delivery: random() < 0.7 ? "at-least-once" : "at-most-once",
    outbox: OUTBOX,
    backoff: { firstDelayMs: 10, maxDelayMs: 50 },
    requests: requests as never,
    onMessage() {},
    onError() {},
  });
  const { near, far } = await audit.meet(client, server);
  await auditPublications(audit, client);
  for (let round = 0; round < ROUNDS; round++) {
    await auditRequests(audit, near, { gate, refusal: isOwn ? "QueueFullError" : "too-many" });
    if (isOwn) await auditRequests(audit, far, { gate, refusal: "QueueFullError" });
  }
  audit.examine("limits", "session of many requests", "connected", near.state);
  for (let round = 0; round < ROUNDS; round++) await auditOutbox(audit, client, handled);
  await client.close();
  await server.close();
  await auditRate(audit);
  if (random() < 0.6) await auditWriter(audit);
}

/** Makes handlers that wait for a gate. */
function handlersOf(gate: Gate) {
  return {
    async hold({ data }: { readonly data: unknown }) {
      await gate.open.promise;
      if (data === "fail") throw new RequestError("failed", "As planned");
      return data;
    },
    async *items({ data }: { readonly data: unknown }) {
      try {
        yield 0;
        await gate.open.promise;
        yield 1;
      } finally {
        // The handler of an answer that the peer left may fail as well.
        if (data === "leave") fail();
      }
    },
  };
}

/** Publications that are answered give their places back. */
async function auditPublications(audit: Audit, client: Client): Promise<void> {
  for (let n = 0; n < ROUNDS * PUBLICATIONS; n += MAX_REQUESTS) {
    const outcomes = range(1, MAX_REQUESTS).map((i) => {
      const isClosed = i === 1 && audit.random() < 0.2;
      const publishing = client.publish(isClosed ? "closed" : "open", { n }, {
        timeoutMs: STEP_MS,
      });
      return { expected: isClosed ? "forbidden" : "fulfilled", outcome: outcomeOf(publishing) };
    });
    const received = await Promise.all(outcomes.map(({ outcome }) => outcome));
    const what = `publications from the ${n}th on`;
    audit.examine("limits", what, outcomes.map(({ expected }) => expected), received);
    const { messages, bytes } = client.outbox;
    audit.examine("limits", `outbox after ${what}`, [0, 0], [messages, bytes]);
  }
}

/** Fills the requests of one end, goes one beyond, and ends all in many ways. */
async function auditRequests(
  audit: Audit,
  asker: AnySession,
  { gate, refusal }: { readonly gate: Gate; readonly refusal: string },
): Promise<void> {
  const { random } = audit;
  gate.open = Promise.withResolvers();
  // Each round has an answer that its reader leaves: its place comes back by the longest way.
  const others = range(2, MAX_REQUESTS).map(() => oneOf(random, Object.keys(ENDS) as End[]));
  const ends: readonly End[] = ["leave", ...others];
  const stop = new AbortController();
  const leaves: (() => void)[] = [];
  // Requests that cannot be sent take no place.
  const pad = "x".repeat(2 * MAX_MESSAGE_BYTES);
  const large = await Promise.all([
    outcomeOf(asker.request("hold", pad)),
    outcomeOf(Promise.try(() => firstOf(asker, pad))),
  ]);
  const tooLarge = ["RangeError", "RangeError"];
  audit.examine("limits", "requests that are too large", tooLarge, large);
  const outcomes = ends.map((end) => {
    if (end !== "stream" && end !== "leave") {
      return outcomeOf(asker.request("hold", end, {
        ...(end === "signal" && { signal: stop.signal }),
        ...(end === "time" && { timeoutMs: 2 * ROUND_MS }),
      }));
    }
    const answer = asker.requestStream("items", end);
    const iterator = answer[Symbol.asyncIterator]();
    const read = async () => {
      for (let isDone = false; !isDone;) isDone = (await iterator.next()).done === true;
    };
    if (end === "leave") leaves.push(() => void iterator.return?.());
    return outcomeOf(read());
  });
  await audit.pause(ROUND_MS);
  const beyond = outcomeOf(asker.request("hold", "beyond", { timeoutMs: STEP_MS }));
  const isStream = random() < 0.3;
  const beyondStream = isStream ? outcomeOf(firstOf(asker, "beyond")) : undefined;
  const what = `of ${ends}, refused as ${refusal}`;
  audit.examine("limits", `request beyond those ${what}`, refusal, await beyond);
  if (beyondStream) {
    const outcome = await audit.inTime(beyondStream, STEP_MS, "no end");
    audit.examine("limits", `answer in parts beyond those ${what}`, refusal, outcome);
  }
  stop.abort(new DOMException("Enough", "AbortError"));
  for (const leave of leaves) leave();
  await audit.pause(2 * ROUND_MS);
  gate.open.resolve();
  const received = await audit.inTime(Promise.all(outcomes), STEP_MS, "no end");
  audit.examine("limits", `outcomes ${what}`, ends.map((end) => ENDS[end]), received);
  await audit.pause(ROUND_MS);
}

/** Fails as a handler whose end fails. */
function fail(): never {
  throw new Error("As planned");
}

/** Takes the first item of an answer in parts. */
async function firstOf(asker: AnySession, data: string): Promise<void> {
  for await (const _item of asker.requestStream("items", data)) break;
}

/** Fills an outbox while the client is away, goes one beyond, and lets all arrive. */
async function auditOutbox(audit: Audit, client: Client, handled: number[]): Promise<void> {
  const { random } = audit;
  const [machine, host] = [audit.host("refiller"), audit.host("refills")];
  handled.length = 0;
  audit.block(machine, host);
  audit.cut(machine);
  await audit.until(() => !client.isConnected, STEP_MS);
  const pad = "x".repeat(oneOf(random, [0, 200, 700, 1_900]));
  const large = "x".repeat(MAX_MESSAGE_BYTES);
  const expected: number[] = [];
  let [count, bytes] = [0, 0];
  let outcome = "fulfilled";
  for (let n = 1; outcome === "fulfilled" && n <= 2 * OUTBOX.maxMessages; n++) {
    // The server takes no large message, and each leaves the outbox all the same.
    const isLarge = random() < 0.1;
    const data = { n, pad: isLarge ? large : random() < 0.8 ? pad : "" };
    const size = JSON.stringify({ topic: "kept", data }).length;
    const isFull = count >= OUTBOX.maxMessages || bytes + size > OUTBOX.maxBytes;
    outcome = await outcomeOf(Promise.try(() => client.send("kept", data)));
    const right = isFull ? QueueFullError.name : "fulfilled";
    audit.examine("limits", `message ${n} to an outbox with ${bytes} bytes`, right, outcome);
    if (isFull) break;
    if (!isLarge) expected.push(n);
    count++;
    bytes += size;
  }
  const full = client.outbox;
  const fullAs = [count, bytes];
  audit.examine("limits", "outbox that is full", fullAs, [full.messages, full.bytes]);
  audit.block(machine, host, false);
  await audit.until(() => client.isConnected, STEP_MS);
  await audit.until(() => handled.length >= expected.length, STEP_MS);
  const flushed = await outcomeOf(client.flushed({ timeoutMs: STEP_MS }));
  audit.examine("limits", "flush of an outbox that was full", "fulfilled", flushed);
  audit.examine("limits", "messages of an outbox that was full", expected, handled);
  const { messages, bytes: left } = client.outbox;
  audit.examine("limits", "outbox that was full", [0, 0], [messages, left]);
}

/** Empties a bucket again and again: as many messages pass as tokens came back. */
async function auditRate(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("bucket");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    authorize: () => true,
    rates: {
      perSession: { messages: { perSecond: 1_000 / TOKEN_MS, burst: BURST } },
      maxRefusals: 1_000,
    },
  }));
  const client = audit.connect("emptier", host, { token: undefined, onRefused() {} });
  await audit.until(() => client.isConnected);
  let left = BURST;
  for (let round = 0; round < 2 * ROUNDS; round++) {
    // Two more than the tokens: the refused ones take none.
    const numbers = range(1, left + 2);
    const waits: number[] = [];
    const outcomes = await Promise.all(numbers.map((n) => {
      // A session publishes without a wait for the rate.
      const publishing = client.session!.publish("bucket", { n }, { timeoutMs: STEP_MS });
      publishing.catch((error) => {
        if (error instanceof RequestError) waits.push(error.failure.retryAfterMs ?? 0);
      });
      return outcomeOf(publishing);
    }));
    const expected = numbers.map((n) => n <= left ? "fulfilled" : "too-many");
    audit.examine("limits", `publications beyond ${left} tokens`, expected, outcomes);
    left = 1 + Math.floor((BURST - 1) * random());
    // The first refusal names the time of the first token.
    await audit.pause((waits[0] ?? 0) + TOKEN_MS * (left - 1));
  }
  await client.close();
  await server.close();
}

/** Appends many times the bytes that may wait for the engine, no more than fit at once. */
async function auditWriter(audit: Audit): Promise<void> {
  const { server } = new SimulatedServer<unknown>(audit.network, audit.host("writer"), () => ({
    durableStreams: { path: "/streams" },
  }));
  const writer = await server.durableStreams.create<string>("refilled");
  const record = "x".repeat(RECORD_BYTES);
  const append = () => outcomeOf(Promise.try(() => writer.append(record)));
  for (let round = 0; round < ROUNDS; round++) {
    const appending = Promise.all(range(1, RECORDS).map(append));
    const outcomes = await audit.inTime(appending, STEP_MS, "nothing in time");
    const expected = range(1, RECORDS).map(() => "fulfilled");
    audit.examine("durable", `appends of round ${round}`, expected, outcomes);
    const ready = await audit.inTime(outcomeOf(writer.ready), STEP_MS, "nothing in time");
    audit.examine("durable", `writer ready after round ${round}`, "fulfilled", ready);
  }
  const outcomes = await Promise.all(range(1, RECORDS_BEYOND).map(append));
  const isFull = outcomes.includes(QueueFullError.name);
  audit.examine("durable", "appends beyond the bytes that wait", true, isFull);
  await writer.close();
  await server.close();
}
