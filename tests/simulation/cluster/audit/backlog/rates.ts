/** Rates: publications, messages and subscriptions beyond these, of clients of each delivery. */
import { CloseCode, RequestError } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Client } from "../../../../../client/client.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range, read } from "../history.ts";
import { auditBeyondRates } from "./beyond_rates.ts";

/** Rate of messages and of subscriptions. */
const RATE = { perSecond: 4, burst: 5 } as const;

/** Messages beyond the burst. */
const BEYOND = 4;

/** Time for messages there and back, in milliseconds. */
const ROUND_MS = 200;

/** Refusals of one session that are no reason to close. */
const MAX_REFUSALS = 20;

/** Topics to which a client subscribes at once. */
const TOPICS = 9;

/**
 * Goes beyond the rates of servers, as clients and as pages.
 *
 * @param audit The audit.
 */
export async function auditRates(audit: Audit): Promise<void> {
  await Promise.all([auditClients(audit), auditBeyondRates(audit)]);
}

/** Goes beyond the rates of a server, as a client of either delivery. */
async function auditClients(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("rates");
  const handled: number[] = [];
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    authorize: () => true,
    rates: { perSession: { messages: RATE, subscriptions: RATE }, maxRefusals: MAX_REFUSALS },
    onMessage: ({ data }) => void handled.push(data as number),
  }));
  const isKept = random() < 0.7;
  const reader = audit.connect("rate-reader", host, { token: undefined, onMessage() {} });
  const client = audit.connect("rate-sender", host, {
    token: undefined,
    delivery: isKept ? "at-least-once" : "at-most-once",
    onMessage() {},
    onRefused() {},
    onError() {},
  });
  await audit.until(() => client.isConnected && reader.isConnected);
  const { got, subscription } = read(reader, "rated");
  await audit.until(() => subscription.status.current === "subscribed");
  // The bucket is full again.
  await audit.pause(2_000);
  const accepted = await publishMany(audit, client);
  await auditKept(audit, client, { handled, isKept });
  // The next session repeats nothing that was refused.
  audit.cut(audit.host("rate-sender"));
  await audit.until(() => !client.isConnected);
  await audit.until(() => client.isConnected);
  await audit.pause(2 * ROUND_MS);
  audit.examine("limits", "publications within a rate", accepted, got);
  await auditTopics(audit, client, () => server.manager.stats().rates.refused.session);
  await auditRefusals(audit, host);
  await Promise.all([client.close(), reader.close()]);
  await server.close();
}

/** Publishes beyond the rate; returns the numbers that were accepted. */
async function publishMany(audit: Audit, client: Client): Promise<readonly number[]> {
  const numbers = range(1, RATE.burst + BEYOND);
  const startMs = audit.nowMs;
  const waiting = await Promise.all(
    numbers.map((n) => outcomeOf(client.publish("rated", { n }, { timeoutMs: 3_000 }))),
  );
  audit.examine("limits", "publications that wait", numbers.map(() => "fulfilled"), waiting);
  const tookMs = audit.nowMs - startMs;
  const isEarly = tookMs < 1_000 * (BEYOND - 1) / RATE.perSecond;
  audit.examine("limits", `wait of ${tookMs} ms of publications`, false, isEarly);
  const accepted = await publishUntilRefused(audit, client, numbers.length + 1);
  audit.examine("limits", "outbox after refusals", 0, client.outbox.messages);
  return [...numbers, ...accepted];
}

/** Publishes beyond the rate in a session, which does not wait, and once more in time. */
async function publishUntilRefused(
  audit: Audit,
  { session }: Client,
  first: number,
): Promise<readonly number[]> {
  const numbers = range(first, first + RATE.burst);
  const errors: unknown[] = [];
  const outcomes = await Promise.all(numbers.map((n) => {
    const publishing = session!.publish("rated", { n }, { timeoutMs: 3_000 });
    publishing.catch((error) => errors.push(error));
    return outcomeOf(publishing);
  }));
  // The first refusal holds the others.
  const count = outcomes.findIndex((outcome) => outcome !== "fulfilled");
  const expected = numbers.map((_, i) => i < count ? "fulfilled" : "too-many");
  audit.examine("limits", "publications beyond a rate", expected, outcomes);
  const waits = errors.map((error) =>
    error instanceof RequestError ? error.failure.retryAfterMs ?? 0 : 0
  );
  const most = 1_000 * RATE.burst / RATE.perSecond;
  const areTimes = waits.every((ms) => ms > 0 && ms <= most);
  audit.examine("limits", `times of refusals: ${waits.join()} of ${most} ms`, true, areTimes);
  // A publication after the time of the refusal is accepted.
  await audit.pause(Math.max(0, ...waits));
  const next = first + numbers.length;
  const outcome = await outcomeOf(session!.publish("rated", { n: next }, { timeoutMs: 3_000 }));
  audit.examine("limits", "publication after the time of a refusal", "fulfilled", outcome);
  return [...numbers.slice(0, count), next];
}

/** Messages at least once wait for the rate, in order; others are refused. */
async function auditKept(
  audit: Audit,
  client: Client,
  { handled, isKept }: { readonly handled: readonly number[]; readonly isKept: boolean },
): Promise<void> {
  await audit.pause(1_000 * RATE.burst / RATE.perSecond);
  const numbers = range(1, RATE.burst + BEYOND);
  const startMs = audit.nowMs;
  for (const n of numbers) client.send("number", n);
  const withinMs = 1_000 * BEYOND / RATE.perSecond + ROUND_MS;
  const outcome = await outcomeOf(client.flushed({ timeoutMs: withinMs }));
  const tookMs = audit.nowMs - startMs;
  audit.examine("limits", "flush of messages beyond a rate", "fulfilled", outcome);
  await audit.pause(ROUND_MS);
  const expected = isKept ? numbers : numbers.slice(0, RATE.burst);
  audit.examine("limits", "messages beyond a rate", expected, handled);
  const isEarly = isKept && tookMs < 1_000 * (BEYOND - 1) / RATE.perSecond;
  audit.examine("limits", `wait of ${tookMs} ms for a rate`, false, isEarly);
}

/** Subscribes to more topics than the rate takes: the client asks again when there is room. */
async function auditTopics(
  audit: Audit,
  client: Client,
  refused: () => number,
): Promise<void> {
  const before = refused();
  const readings = range(1, TOPICS).map((i) => read(client, `many:${i}`));
  const isIn = () =>
    readings.every(({ subscription }) => subscription.status.current === "subscribed");
  const beyond = TOPICS - RATE.burst;
  const withinMs = 1_000 * beyond / RATE.perSecond + 10 * ROUND_MS;
  audit.examine("limits", "subscriptions beyond a rate", true, await audit.until(isIn, withinMs));
  const count = refused() - before;
  // Each is refused once, and asked for again no earlier than the server said.
  audit.examine(
    "limits",
    `${count} refusals of ${beyond} subscriptions`,
    true,
    count <= 2 * beyond,
  );
}

/** Sends so much beyond a rate that the session is closed: not before the last refusal. */
async function auditRefusals(audit: Audit, host: Host): Promise<void> {
  const client = audit.connect("rate-flood", host, {
    token: undefined,
    onRefused() {},
    onError() {},
  });
  await audit.until(() => client.isConnected);
  const session = client.session!;
  const codes: number[] = [];
  void session.closed.then(({ code }) => codes.push(code));
  for (let n = 0; n < RATE.burst + MAX_REFUSALS; n++) session.send("flood", n);
  await audit.pause(ROUND_MS / 4);
  audit.examine("limits", "close before the last refusal", [], codes);
  // Some tokens came back meanwhile.
  for (let n = 0; n < RATE.burst; n++) session.send("flood", n);
  await audit.pause(ROUND_MS);
  audit.examine("limits", "close beyond the refusals", [CloseCode.tooMany], codes);
  await client.close();
}
