/** Requests of a client over HTTP, repeated while the receiver is behind. */
import { FIRST_PIECE_MS } from "../../../../../transport/http/client.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { internals } from "../../../../../session/session.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { auditEventStreams } from "./event_streams.ts";

/** Room of the receive queue, of which half is filled before frames wait. */
const ROOM = 4;

/** Bytes of the receive queue, which all messages of a run exceed. */
const MAX_BYTES = 4_096;

/** Text that makes a message large. */
const PAD = "x".repeat(400);

/** Time for which a node keeps a request that waits for room: then the client asks again. */
const BUSY_MS = 10_000;

/**
 * Heartbeat of the server, to which the signs of life behind a full queue would be late. A client
 * that asks again and again after cuts is in time.
 */
const HEARTBEAT = { intervalMs: 4_000, timeoutMs: 8_000 } as const;

/** Events of a server, which are beyond the bytes that a client may leave unacknowledged. */
const [EVENTS, EVENT_BYTES] = [24, 30_000];

/** Time in which the server notices that a client is gone, in milliseconds. */
const NOTICED_MS = 2 * HEARTBEAT.timeoutMs;

/** Longest time of a request, in milliseconds: longer than a full queue. */
const REQUEST_MS = 60_000;

/** Messages of one round. */
const COUNT = 12;

/** Rounds of a run. */
const ROUNDS = 2;

/** Longest time of a round, in milliseconds. */
const ROUND_MS = 5_000;

/**
 * Sends messages and events over HTTP to slow ends.
 *
 * @param audit The audit.
 */
export async function auditPosts(audit: Audit): Promise<void> {
  await Promise.all([auditSlowHandler(audit), auditEventStreams(audit)]);
}

/** Sends messages over HTTP to a slow handler, while connections break. */
async function auditSlowHandler(audit: Audit): Promise<void> {
  const { random, network } = audit;
  const host = audit.host("posts");
  const got: number[] = [];
  let gate = Promise.withResolvers<void>();
  let handlerMs = 0;
  let running = 0;
  let mostRunning = 0;
  const handle = async ({ data }: { readonly data: unknown }) => {
    mostRunning = Math.max(mostRunning, ++running);
    await gate.promise;
    await audit.pause(handlerMs);
    running--;
    got.push((data as { readonly n: number }).n);
  };
  // Requests have a queue of their own in a program without a handler of messages.
  const isAsking = random() < 0.4;
  const { server } = new SimulatedServer<unknown>(network, host, () => ({
    session: { heartbeat: HEARTBEAT, receiveQueue: { maxMessages: ROOM, maxBytes: MAX_BYTES } },
    ...(isAsking ? { requests: { number: handle } } : { onMessage: handle }),
  }));
  const events: number[] = [];
  const client = audit.connect("poster", host, {
    token: undefined,
    transports: ["http"],
    onMessage: ({ data }) => void events.push((data as { readonly n: number }).n),
  });
  const failures: string[] = [];
  const post = (n: number) => {
    if (!isAsking) return client.send("number", { n, PAD });
    const asking = client.request("number", { n, PAD }, { timeoutMs: REQUEST_MS });
    void outcomeOf(asking).then((outcome) => {
      if (outcome !== "fulfilled") failures.push(outcome);
    });
  };
  const machine = audit.host("poster");
  const isPolling = random() < 0.3;
  if (isPolling) {
    // A client whose first events are late polls from then on.
    network.change(host, machine, { isBlocked: true });
    await audit.pause(FIRST_PIECE_MS + 200);
    network.change(host, machine, { isBlocked: false });
  }
  await audit.until(() => client.isConnected);
  const firstId = client.session?.id ?? "none";
  const isLong = random() < 0.4 && !isPolling;
  let count = 0;
  for (let round = 0; round < ROUNDS; round++) {
    gate = Promise.withResolvers();
    handlerMs = random() < 0.5 ? 0 : 20 + 100 * random();
    for (let i = 0; i < COUNT; i++) {
      post(++count);
      // Messages of one turn share a frame, and frames of one round trip share a request.
      await audit.pause(random() < 0.2 ? 30 : 1);
    }
    const cuts = 1 + Math.floor(3 * random());
    const isTold = random() < 0.5;
    for (let cut = 0; cut < cuts; cut++) {
      await audit.pause(30 + 600 * random());
      if (cut === cuts - 1 && random() < 0.5) gate.resolve();
      // The node goes on with a request of whose end the network says nothing.
      audit.cut(machine, isTold ? false : "server");
    }
    // The client waits to ask again for a second, in which the handler may go on.
    await audit.pause(1_000 * random() + (round === 0 && isLong ? BUSY_MS : 0));
    gate.resolve();
    await audit.until(() => got.length >= count, ROUND_MS);
    await audit.pause(2 * handlerMs);
    audit.examine(
      "carriers",
      `messages posted to a slow handler, ${cuts} cuts`,
      range(1, count),
      got,
    );
  }
  audit.examine("carriers", "handlers of posted messages at once", 1, mostRunning);
  // Pings wait behind a full queue: a client that waits for answers may move to another session.
  const id = isAsking ? client.session?.id ?? "none" : firstId;
  const remote = server.manager.all().find((session) => session.id === id);
  const text = "x".repeat(EVENT_BYTES);
  for (let n = 1; n <= EVENTS && remote; n++) {
    remote.send("event", { n, text });
    // A post that is under way tells of earlier events alone.
    if (random() < 0.7) post(++count);
    await audit.pause(5);
    if (random() < 0.1) audit.cut(machine);
  }
  await audit.until(() => events.length >= EVENTS, ROUND_MS);
  audit.examine(
    "carriers",
    "events over HTTP beyond the unacknowledged bytes",
    range(1, EVENTS),
    events,
  );
  await audit.until(() => got.length >= count, ROUND_MS);
  audit.examine("carriers", "messages posted beside events", range(1, count), got);
  await audit.until(() => client.session?.[internals].sending.openRequests === 0, ROUND_MS);
  audit.examine("carriers", "requests over HTTP that failed", [], failures);
  const buffered = () => remote?.connection.frames?.bufferedAmount;
  // A ping may be on its way.
  await audit.until(() => buffered() === 0, ROUND_MS);
  audit.examine("carriers", "bytes over HTTP that wait afterwards", 0, buffered());
  const lastId = client.session?.id ?? "none";
  audit.examine("carriers", "session of a slow handler over HTTP", id, lastId);
  if (isLong) {
    // The server still watches a client whose frames had to wait.
    machine.kill({ power: true });
    const isOver = await audit.until(() => server.manager.count === 0, NOTICED_MS);
    audit.examine("carriers", "end of a session over HTTP without a client", true, isOver);
  } else await client.close();
  await server.close();
}
