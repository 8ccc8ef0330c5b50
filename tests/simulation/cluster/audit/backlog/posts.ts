/** Requests of a client over HTTP, repeated while the receiver is behind. */
import { FIRST_PIECE_MS } from "../../../../../transport/http/client.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";
import { range } from "../history.ts";

/** Room of the receive queue, of which half is filled before frames wait. */
const ROOM = 4;

/** Bytes of the receive queue, which all messages of a run exceed. */
const MAX_BYTES = 4_096;

/** Text that makes a message large. */
const PAD = "x".repeat(400);

/** Time for which a node keeps a request that waits for room: then the client asks again. */
const BUSY_MS = 10_000;

/** Events of a server, which are beyond the bytes that a client may leave unacknowledged. */
const [EVENTS, EVENT_BYTES] = [12, 30_000];

/** Messages of one round. */
const COUNT = 12;

/** Rounds of a run. */
const ROUNDS = 2;

/** Longest time of a round, in milliseconds. */
const ROUND_MS = 5_000;

/**
 * Sends messages over HTTP to a slow handler, while connections break.
 *
 * @param audit The audit.
 */
export async function auditPosts(audit: Audit): Promise<void> {
  const { random, network } = audit;
  const host = audit.host("posts");
  const got: number[] = [];
  let gate = Promise.withResolvers<void>();
  let handlerMs = 0;
  let running = 0;
  let mostRunning = 0;
  const { server } = new SimulatedServer<unknown>(network, host, () => ({
    session: { receiveQueue: { maxMessages: ROOM, maxBytes: MAX_BYTES } },
    async onMessage({ data }) {
      mostRunning = Math.max(mostRunning, ++running);
      await gate.promise;
      await audit.pause(handlerMs);
      running--;
      got.push((data as { readonly n: number }).n);
    },
  }));
  const events: number[] = [];
  const client = audit.connect("poster", host, {
    token: undefined,
    transports: ["http"],
    onMessage: ({ data }) => void events.push((data as { readonly n: number }).n),
  });
  const machine = audit.host("poster");
  const isPolling = random() < 0.3;
  if (isPolling) {
    // A client whose first events are late polls from then on.
    network.change(host, machine, { isBlocked: true });
    await audit.pause(FIRST_PIECE_MS + 200);
    network.change(host, machine, { isBlocked: false });
  }
  await audit.until(() => client.isConnected);
  const { session } = client;
  const isLong = random() < 0.4 && !isPolling;
  let count = 0;
  for (let round = 0; round < ROUNDS; round++) {
    gate = Promise.withResolvers();
    handlerMs = random() < 0.5 ? 0 : 20 + 100 * random();
    for (let i = 0; i < COUNT; i++) {
      client.send("number", { n: ++count, PAD });
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
    await audit.pause(round === 0 && isLong ? BUSY_MS + 500 : 1_000 * random());
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
  const [remote] = server.manager.all();
  const text = "x".repeat(EVENT_BYTES);
  for (let n = 1; n <= EVENTS && remote; n++) {
    remote.send("event", { n, text });
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
  const buffered = remote?.connection.frames?.bufferedAmount;
  audit.examine("carriers", "bytes over HTTP that wait afterwards", 0, buffered);
  const id = client.session?.id ?? "none";
  audit.examine("carriers", "session of a slow handler over HTTP", session?.id ?? "none", id);
  await client.close();
  await server.close();
}
