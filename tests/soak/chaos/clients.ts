/**
 * Clients of the chaos test. Usage: `clients.ts <name> <server's url> <clients> <topics of each>`.
 * In the URL, each client replaces `*` with its name and `#` with a number from 1 to 8. Clients
 * start in groups. The process prints `{}` when all of them are subscribed. It reads commands from
 * standard input: `state` prints the state of the clients, `recoveries` prints the times at which
 * subscriptions recovered, `lacking <publisher's last numbers>` prints the number of missing
 * messages, and `read` prints all received messages.
 *
 * @module
 */
import { type Client, connect } from "../../../mod.ts";
import { Lateness } from "../processes/lateness.ts";
import { TextLineStream } from "../processes/lines.ts";
import { TOPICS } from "./broker.ts";
import { Recorder } from "./log.ts";

/** The last number of each publisher, by topic. */
export type LastNumbers = Readonly<Record<string, Readonly<Record<string, number>>>>;

export interface ClientsState {
  /** Number of connected clients. */
  readonly connected: number;
  /** Number of active subscriptions. */
  readonly subscribed: number;
  /** Sessions that started. */
  readonly sessions: number;
  /** Interruptions after which all messages were recovered. */
  readonly recovered: number;
  /** Interruptions after which messages were not recovered. */
  readonly failed: number;
  /** Longest timer delay of the process since the last report, in milliseconds. */
  readonly lateMs: number;
}

/** Number of clients that start at the same time. Starting in groups avoids a connection storm. */
const GROUP = 250;

/**
 * Numbers that replace `#` in the URL, so that clients use several loopback addresses. With
 * thousands of connections to one address and port, Linux takes long to find a free port. Clients
 * on many machines would not cause this.
 */
const ADDRESSES = 8;

const [name, url, count, topicsEach] = Deno.args;
const lateness = new Lateness();
const recorders = new Map<string, { readonly topic: string; readonly recorder: Recorder }>();
let [sessions, recovered, failed] = [0, 0, 0];
const failures: string[] = [];
const recoveries: number[] = []; // In milliseconds since the Unix epoch.
const clients: Client[] = [];
const subscriptions: ReturnType<typeof subscribeAll> = [];
while (clients.length < Number(count)) {
  const group = Array.from(
    { length: Math.min(GROUP, Number(count) - clients.length) },
    (_, i) => begin(clients.length + i),
  );
  clients.push(...group);
  const first = clients.length - group.length;
  const began = group.flatMap((client, i) => subscribeAll(client, first + i));
  subscriptions.push(...began);
  await Promise.all(began.map(({ ready }) => ready));
}
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) {
  const [command, argument] = line.split(" ");
  if (command === "state") say(state());
  else if (command === "recoveries") say(recoveries);
  else if (command === "lacking") say(lacking(JSON.parse(argument!)));
  else if (command === "read") {
    say({ failures, received: [...recorders.values()].map(({ recorder }) => recorder.read()) });
  }
}
Deno.exit(0);

function begin(index: number): Client {
  const own = url!.replace("*", `${name}-${index}`).replace("#", `${1 + index % ADDRESSES}`);
  return connect(own, {
    transports: ["websocket"],
    backoff: { firstDelayMs: 200, maxDelayMs: 3_000 },
  });
}

function subscribeAll(client: Client, index: number) {
  void (async () => {
    for await (const { name } of client.status) if (name === "connected") sessions++;
  })();
  return Array.from({ length: Number(topicsEach) }, (_, i) => {
    const topic = `chaos:${(index + i * 7) % TOPICS}`;
    const id = `${name}-${index}`;
    const recorder = new Recorder(id, topic, Date.now());
    recorders.set(`${id} ${topic}`, { topic, recorder });
    const subscription = client.subscribe(topic, {
      // The first message that arrives must be followed by all others.
      since: undefined,
      last: 1_000_000,
      onRecovery: (recovery) => {
        recoveries.push(Date.now());
        if (recovery.recovered) recovered++;
        else {
          failed++;
          recorder.gap(recovery.reason!, Date.now());
        }
      },
    });
    void (async () => {
      try {
        for await (const { data } of subscription) {
          const { p, n } = data as { p: string; n: number };
          recorder.message(p, n, subscription.position, Date.now());
        }
        failures.push(`${id} ${topic} ended`);
      } catch (error) {
        failures.push(`${id} ${topic}: ${error}`);
      }
    })();
    return subscription;
  });
}

function state(): ClientsState {
  return {
    connected: clients.filter(({ isConnected }) => isConnected).length,
    subscribed: subscriptions.filter(({ status }) => status.current === "subscribed").length,
    sessions,
    recovered,
    failed,
    lateMs: lateness.take(),
  };
}

function lacking(last: LastNumbers): number {
  let sum = 0;
  for (const { topic, recorder } of recorders.values()) {
    for (const [publisher, number] of Object.entries(last[topic] ?? {})) {
      sum += Math.max(0, number - recorder.last(publisher));
    }
  }
  return sum;
}

function say(line: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(line));
}
