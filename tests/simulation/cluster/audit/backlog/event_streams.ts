/** Events over HTTP, acknowledged by posts that are slow, held up, or as many as the events. */
import { FIRST_PIECE_MS } from "../../../../../transport/http/client.ts";
import { MAX_UNACKNOWLEDGED_BYTES } from "../../../../../transport/http/server.ts";
import type { Client } from "../../../../../client/client.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, shuffled } from "../../chance.ts";
import { type Audit, type BothEnds, STEADY } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the server and of the client. */
const NAME = "event-streams";

/** Least and most bytes of an event, and bytes of all events of a round. */
const [EVENT_BYTES, ROUND_BYTES] = [[20_000, 60_000], 1.6 * MAX_UNACKNOWLEDGED_BYTES] as const;

/** Messages that wait at the server: a post with more waits for room. */
const ROOM = 4;

/** Longest time until all of a round is taken, and until the ends are at rest, in milliseconds. */
const [ROUND_MS, REST_MS] = [4_000, 1_500] as const;

/** Heartbeat that neither repeats nor ends anything here. */
const HEARTBEAT = { intervalMs: 600_000, timeoutMs: 900_000 } as const;

/** Rounds, in an order that is drawn. */
const ROUNDS = ["answered one by one", "beside a slow post", "whose posts are held up"] as const;

/** A client over HTTP, and its server. */
interface Parts extends BothEnds {
  readonly audit: Audit;
  readonly client: Client;
  readonly machine: Host;
  readonly host: Host;
  /** Bytes of each event that the client got, in order. */
  readonly got: number[];
  /** Numbers of the messages that the server got. */
  readonly posted: number[];
  /** Keeps the handler of messages waiting. */
  readonly gate: { open: Promise<void> | undefined };
  /** Bytes of an event. */
  readonly bytes: number;
}

/**
 * Sends more events than a client may leave unacknowledged, round after round.
 *
 * @param audit The audit.
 */
export async function auditEventStreams(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const [host, machine] = [audit.host(`${NAME}-server`), audit.host(NAME)];
  const [got, posted]: [number[], number[]] = [[], []];
  const gate: Parts["gate"] = { open: undefined };
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { heartbeat: HEARTBEAT, receiveQueue: { maxMessages: ROOM } },
    onMessage: async ({ data }) => {
      posted.push(data as number);
      await gate.open;
    },
  }));
  audit.change(host, machine, STEADY);
  const isPolling = random() < 0.3;
  if (isPolling) audit.network.change(host, machine, { isBlocked: true });
  const client = audit.connect(NAME, host, {
    token: undefined,
    transports: ["http"],
    onMessage: ({ data }) => void got.push((data as { readonly n: number }).n),
  });
  if (isPolling) {
    // A client whose first events are late polls from then on.
    await audit.pause(FIRST_PIECE_MS + 200);
    audit.network.change(host, machine, { isBlocked: false });
  }
  const ends = await audit.meet(client, server);
  const bytes = Math.round(between(random, ...EVENT_BYTES));
  const parts = { ...ends, audit, client, machine, host, got, posted, gate, bytes };
  for (const round of shuffled(random, ROUNDS)) {
    if (round === "answered one by one") await converse(parts);
    else if (round === "beside a slow post") await streamBesidePost(parts);
    else await streamUnanswered(parts);
    await examineRound(parts, round, isPolling ? "polls" : "a stream");
  }
  audit.examine("carriers", "session of long event streams", ends.near.id, client.session?.id);
  await client.close();
  await server.close();
}

/** Sends events, each of which the client answers before the next one. */
async function converse(parts: Parts): Promise<void> {
  const { audit, client, got } = parts;
  const text = "x".repeat(parts.bytes);
  for (let n = 1; n * parts.bytes < ROUND_BYTES; n++) {
    parts.far.send("event", { n, text });
    await audit.until(() => got.length >= n, REST_MS);
    client.send("answer", n);
    await audit.pause(10);
  }
}

/** Sends events while a post waits for room at the server, and tells of none of these. */
async function streamBesidePost(parts: Parts): Promise<void> {
  const { audit, client, gate } = parts;
  const { promise, resolve } = Promise.withResolvers<void>();
  gate.open = promise;
  for (let n = 1; n <= ROOM; n++) {
    client.send("answer", n);
    await audit.pause(10);
  }
  await stream(parts);
  await audit.pause(REST_MS / 3);
  gate.open = undefined;
  resolve();
}

/** Sends events while no post arrives: the server sends as many as may be unacknowledged. */
async function streamUnanswered(parts: Parts): Promise<void> {
  const { audit, host, machine, bytes, got } = parts;
  audit.network.change(machine, host, { isBlocked: true });
  await stream(parts);
  await audit.pause(REST_MS / 3);
  const most = MAX_UNACKNOWLEDGED_BYTES + 2 * bytes;
  const what = `bytes of ${got.length} events without an acknowledgment`;
  audit.examine("carriers", `${what} within the bound`, true, got.length * bytes <= most);
  audit.network.change(machine, host, { isBlocked: false });
}

/** Sends more events than may be unacknowledged. */
async function stream({ audit, far, bytes }: Parts): Promise<void> {
  const text = "x".repeat(bytes);
  for (let n = 1; n * bytes < ROUND_BYTES; n++) {
    far.send("event", { n, text });
    await audit.pause(3);
  }
}

/** Expects all events of a round, and nothing that waits behind these. */
async function examineRound(parts: Parts, round: string, way: string): Promise<void> {
  const { audit, far, got, posted, client } = parts;
  const expected = range(1, Math.ceil(ROUND_BYTES / parts.bytes) - 1);
  await audit.until(() => got.length >= expected.length, ROUND_MS);
  const about = (what: string) => `${what} ${round}, over ${way}`;
  audit.examine("carriers", about("events"), expected, got.splice(0));
  const waiting = () => far.connection.frames?.bufferedAmount;
  await audit.until(() => waiting() === 0, REST_MS);
  audit.examine("carriers", about("bytes that wait behind events"), 0, waiting());
  const answers = { [ROUNDS[0]]: expected, [ROUNDS[1]]: range(1, ROOM) }[round] ?? [];
  await audit.until(() => posted.length >= answers.length, REST_MS);
  audit.examine("carriers", about("answers to events"), answers, posted.splice(0));
  const left = client.session?.connection.frames?.bufferedAmount;
  audit.examine("carriers", about("bytes of a client behind events"), 0, left);
}
