/** Moves of a client whose outbox holds a backlog: section 11 of the protocol. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the user, the topic of messages, and that of publications. */
const [USER, WORK, TALK] = ["handed-backlogs", "work", "talk:handed-backlogs"] as const;

/** Transports of the client. */
const TRANSPORTS = ["websocket", "websocket", "websocket", "webtransport", "http"] as const;

/** Bursts of a run, and the least and most messages of one. */
const [ROUNDS, BURST] = [2, [20, 50]] as const;

/** Most messages in the send queue of a session, half of which may come from the outbox. */
const QUEUES = [4, 8, 32, 256] as const;

/** Share of publications among the messages. */
const PUBLISHED_SHARE = 0.15;

/** Longest data of a message, in characters: a connection is behind with some messages, or many. */
const TEXTS = [500, 8_000, 12_000, 12_000] as const;

/** Room for all messages of a burst. */
const OUTBOX = { maxMessages: 200, maxBytes: 2_000_000 } as const;

/** Bytes in a second of a way that holds up the session behind a move. */
const WAYS = [20_000, 20_000, 20_000, Infinity] as const;

/** Longest time of a packet, in milliseconds. */
const DELAY_MS = 30;

/** Longest times of a handler, in milliseconds: a session acknowledges a burst early or late. */
const HANDLERS_MS = [1, 60, 100] as const;

/** Longest time between a burst and the move, and of a narrow way behind the move, in milliseconds. */
const [BEFORE_MS, NARROW_MS] = [200, 2_000] as const;

/** Messages sent behind the move. */
const LATER = 3;

/** Share of moves behind which the client moves again, and behind which its connections are cut. */
const [AGAIN_SHARE, CUT_SHARE] = [0.15, 0.1] as const;

/** Longest time until a burst is acknowledged, in milliseconds. */
const REST_MS = 12_000;

/**
 * Moves a client while messages are on the way: the session before acknowledges messages that the
 * session behind the move has yet to send again.
 *
 * @param audit The audit.
 */
export async function auditHandedBacklogs(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host(`${USER}-server`), audit.host(USER)];
  const handled: number[] = [];
  let handlerMs = 0;
  const { server } = new SimulatedServer(audit.network, host, () => ({
    authorize: () => true,
    onMessage: async ({ data }) => {
      handled.push((data as { readonly n: number }).n);
      await audit.pause(between(random, 0, handlerMs));
    },
    onError() {},
  }));
  const maxMessages = oneOf(random, QUEUES);
  const client = audit.connect(USER, host, {
    token: undefined,
    transports: [oneOf(random, TRANSPORTS)],
    delivery: "at-least-once",
    outbox: OUTBOX,
    sendQueue: { maxMessages },
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onMessage() {},
    onError() {},
  });
  await audit.until(() => client.isConnected);
  for (let round = 0; round < ROUNDS; round++) {
    handled.length = 0;
    handlerMs = oneOf(random, HANDLERS_MS);
    const bytesPerSecond = oneOf(random, WAYS);
    const textLength = oneOf(random, TEXTS);
    let sent = 0;
    const outcomes: Promise<string>[] = [];
    const send = (count: number) => {
      for (let left = count; left > 0; left--) {
        const text = "x".repeat(textLength * random());
        if (random() < PUBLISHED_SHARE) outcomes.push(outcomeOf(client.publish(TALK, text)));
        else client.send(WORK, { n: sent++, text });
      }
    };
    const delayMs = between(random, 1, DELAY_MS);
    audit.change(host, machine, { delayMs });
    const burst = Math.floor(between(random, ...BURST));
    send(burst);
    await audit.pause(between(random, 0, BEFORE_MS));
    const { messages: waiting } = client.outbox;
    // The messages of the first session came at once; those that the next one repeats come slowly.
    audit.change(host, machine, { bytesPerSecond });
    await client.handOver();
    send(Math.floor((LATER + 1) * random()));
    await audit.pause(between(random, NARROW_MS / 4, NARROW_MS));
    if (random() < AGAIN_SHARE) await client.handOver();
    if (random() < CUT_SHARE) audit.cut(machine);
    audit.change(host, machine, { bytesPerSecond: Infinity });
    const about = (what: string) =>
      `${what} (${waiting} of ${burst} at a move, round ${round}, queue ${maxMessages})`;
    for (const what of ["flush behind a move", "flush of a message behind the backlog"]) {
      const flushed = await audit.inTime(outcomeOf(client.flushed()), REST_MS, "no end");
      audit.examine("lives", about(what), "fulfilled", flushed);
      if (flushed === "fulfilled") send(1);
    }
    await audit.until(() => client.outbox.messages === 0);
    const published = await audit.inTime(Promise.all(outcomes), REST_MS, ["no end"]);
    const due = outcomes.map(() => "fulfilled");
    audit.examine("lives", about("publications of a backlog"), due, published);
    audit.examine("lives", about("messages of a backlog"), range(0, sent - 1), handled);
    audit.examine("lives", about("outbox"), { messages: 0, bytes: 0 }, client.outbox);
  }
  await client.close();
  await server.close();
}
