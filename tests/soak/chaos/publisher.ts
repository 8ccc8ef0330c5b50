/**
 * Publishes on all topics of the chaos test and records the acknowledged messages. `publisher.ts
 * <name> node <broker's url> <messages per second>` publishes as a node, and `publisher.ts <name>
 * client <server's url> <messages per second>` publishes as a client. The process prints `{}` at
 * the first message. The command `stop` stops publishing and prints the published messages.
 *
 * @module
 */
import { connect } from "../../../mod.ts";
import { Topics } from "../../../pubsub/mod.ts";
import { TextLineStream } from "../processes/lines.ts";
import { sleep } from "../processes/processes.ts";
import { brokerFor, HISTORY, PATTERN, TOPICS } from "./broker.ts";
import { type Published, TIMES_STEP } from "./log.ts";

/** A node or a client that publishes. */
interface Publisher extends AsyncDisposable {
  /** Resolves once the broker has stored the publication. */
  publish(topic: string, data: unknown): Promise<unknown>;
}

/** The most publications in flight. The publisher waits when it reaches this limit. */
const MAX_UNCONFIRMED = 1_000;

const [name, kind, url, perSecond] = Deno.args;
const publisher = kind === "node" ? asNode(url!) : await asClient(url!);
const log = Array.from({ length: TOPICS }, (_, i) => ({
  publisher: name!,
  topic: `chaos:${i}`,
  last: 0,
  unsure: [] as number[],
  times: [] as number[],
}));
let isStopped = false;
const unanswered = new Set<Promise<void>>();
const publishing = publishAll();
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) if (line === "stop") break;
isStopped = true;
await publishing;
await Promise.all(unanswered);
say(log satisfies Published[]);
await publisher[Symbol.asyncDispose]();
Deno.exit(0);

async function publishAll(): Promise<void> {
  const begin = performance.now();
  for (let sent = 0; !isStopped;) {
    const owed = (performance.now() - begin) / 1_000 * Number(perSecond);
    while (sent < owed && unanswered.size < MAX_UNCONFIRMED) publishOne(log[sent++ % TOPICS]!);
    await sleep(5);
  }
}

function publishOne(entry: typeof log[number]): void {
  const number = ++entry.last;
  const one = publisher.publish(entry.topic, { p: name, n: number }).then(
    () => {
      if (number % TIMES_STEP === 1) entry.times.push(Date.now());
    },
    (error: unknown) => {
      entry.unsure.push(number);
      // deno-lint-ignore no-console
      if (entry.unsure.length === 1) console.error(`${name} ${entry.topic} ${number}: ${error}`);
    },
  ).finally(() => unanswered.delete(one));
  unanswered.add(one);
}

function asNode(url: string): Publisher {
  const broker = brokerFor(url);
  const topics = new Topics({ broker, history: { [PATTERN]: HISTORY } });
  return {
    publish: (topic, data) => topics.append(topic, data),
    [Symbol.asyncDispose]: async () => {
      await topics[Symbol.asyncDispose]();
      await broker.close();
    },
  };
}

async function asClient(url: string): Promise<Publisher> {
  const client = connect(url, {
    transports: ["websocket"],
    delivery: "at-least-once",
    outbox: { maxMessages: MAX_UNCONFIRMED, maxBytes: 1_048_576 },
    backoff: { firstDelayMs: 100, maxDelayMs: 2_000 },
  });
  await client.whenConnected();
  return {
    publish: (topic, data) => client.publish(topic, data),
    [Symbol.asyncDispose]: () => client.close(),
  };
}

function say(line: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(line));
}
