/** Messages and publications that wait for a server which takes smaller ones than the client. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, hearAll, outcomeOf } from "../audit.ts";

/** Most bytes of a message for the server. */
const MAX_BYTES = 2_048;

/** Messages that wait: more than the publications that a client has on the way at once. */
const WAITING = 45;

/** Share of messages that are too large. */
const LARGE_SHARE = 0.2;

/** Most sessions that are cut, and the longest time of such a session, in milliseconds. */
const [MOST_CUTS, CUT_MS] = [3, 12] as const;

/** Longest time until all are taken, in milliseconds. */
const STEP_MS = 3_000;

/** Time for a message there and back, in milliseconds. */
const ROUND_MS = 100;

/** Topic of messages, and that of publications. */
const [MESSAGES, TALK] = ["note", "talk"] as const;

/**
 * Fills an outbox with text and bytes of any size before the first session.
 *
 * @param audit The audit.
 */
export async function auditOutboxes(audit: Audit): Promise<void> {
  const random = audit.chanceOf("outboxes");
  const host = audit.host("outboxes");
  const taken: Record<string, string[]> = { [MESSAGES]: [], [TALK]: [] };
  const take = ({ topic, data }: { readonly topic: string; readonly data: unknown }) =>
    void taken[topic]?.push(shown(data));
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    authorize: () => true,
    session: { maxMessageBytes: MAX_BYTES },
    onMessage: take,
    onError() {},
  }));
  const hearer = audit.connect("hears", host, { token: undefined, onMessage() {} });
  const subscription = hearer.subscribe(TALK);
  void hearAll(subscription, take);
  await subscription.ready;
  const start = Promise.withResolvers<void>();
  const refused: string[] = [];
  const delivery = oneOf(random, ["at-least-once", "at-least-once", "at-most-once"] as const);
  const client = audit.connect("waits", host, {
    token: undefined,
    connectAfter: start.promise,
    delivery,
    backoff: { firstDelayMs: 20, maxDelayMs: 100 },
    onMessage() {},
    onRefused: ({ failure }) => void refused.push(failure.code),
  });
  const expected: Record<string, string[]> = { [MESSAGES]: [], [TALK]: [] };
  const outcomes: Promise<string>[] = [];
  const expectedOutcomes: string[] = [];
  let large = 0;
  for (let n = 0; n < WAITING; n++) {
    const isLarge = random() < LARGE_SHARE;
    const size = isLarge ? MAX_BYTES : Math.floor(300 * random());
    const data = random() < 0.5
      ? Uint8Array.of(n, ...new Uint8Array(size))
      : { n, text: "x".repeat(size) };
    // Without the guarantee, only messages wait in the outbox.
    const topic = delivery === "at-most-once" ? MESSAGES : oneOf(random, [MESSAGES, TALK, TALK]);
    if (topic === MESSAGES) client.send(topic, data);
    else {
      outcomes.push(
        outcomeOf(client.publish(topic, data, { except: random() < 0.5 ? undefined : "self" })),
      );
      expectedOutcomes.push(isLarge ? "too-large" : "fulfilled");
    }
    if (isLarge) large++;
    else expected[topic]!.push(shown(data));
  }
  const expect: Expect = (what, ...outcome) =>
    audit.examine("limits", `${what} of an outbox, ${delivery}`, ...outcome);
  expect("messages before a session", WAITING, client.outbox.messages);
  start.resolve();
  // A session that ends with messages on the way leaves these to the next one, and no others.
  const cuts = delivery === "at-least-once" ? Math.floor((MOST_CUTS + 1) * random()) : 0;
  for (let cut = 0; cut < cuts; cut++) {
    await audit.until(() => client.isConnected);
    await audit.pause(between(random, 0, CUT_MS));
    audit.cut(audit.host("waits"));
  }
  const flushed = await audit.inTime(outcomeOf(client.flushed()), STEP_MS, "no end");
  expect("flush", "fulfilled", flushed);
  const settled = await audit.inTime(Promise.all(outcomes), STEP_MS, ["no end"]);
  expect("publications", expectedOutcomes, settled);
  await audit.pause(ROUND_MS);
  expect("messages at the server", expected[MESSAGES], taken[MESSAGES]);
  expect("publications at a subscriber", expected[TALK], taken[TALK]);
  const refusals = Array.from({ length: large }, () => "too-large");
  expect("refusals", refusals, refused);
  expect("rest", [0, 0], [client.outbox.messages, client.outbox.bytes]);
  await Promise.all([client.close(), hearer.close()]);
  await server.close();
}

/** Shows the number of a message, with its type and size. */
function shown(data: unknown): string {
  if (data instanceof Uint8Array) return `${data[0]}: ${data.length - 1} bytes`;
  const { n, text } = data as { readonly n: number; readonly text: string };
  return `${n}: ${text.length} characters`;
}
