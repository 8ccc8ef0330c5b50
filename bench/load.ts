/**
 * The load generator, which runs many clients in one process. The result is printed as one line of
 * JSON.
 *
 * ```sh
 * deno run -A bench/load.ts --port 9100 --pid 123 --mode fanout --dialect skein --sessions 200
 * ```
 *
 * The modes are `fanout`, `echo` and `connect`. Options of `fanout`:
 *
 * - `--window 64`: number of publications that the publisher has sent but not received back.
 *   `--window 1` waits for every subscriber.
 * - `--rate 400`: publications per second, instead of a window.
 * - `--publications 500`: publications to measure, after as many for the warm-up, instead of a time.
 * - `--topics 2`: spreads the subscribers over two topics; a third of them subscribe to both.
 * - `--ports 9101,9102`: spreads the subscribers over separate servers; only the publisher uses
 *   `--port`. `--pid` accepts several processes.
 *
 * With `--wire webtransport`, messages are sent over a WebTransport stream. `--hash` is the SHA-256
 * of the server's certificate; by default, it is fetched from a development server. Numbers in the
 * messages reveal lost, duplicate and reordered messages.
 *
 * @module
 */
import { RawSocket } from "../cli/load/socket.ts";
import { argument, numberArgument, portOf } from "./args.ts";
import { type Dialect, type DialectName, DIALECTS } from "./dialects.ts";
import { Histogram } from "./histogram.ts";
import { type LoadResult, memoryOf, Meter, nowUs, quantilesOf, sleep } from "./meter.ts";
import { usageOf } from "./processes.ts";
import { RawStream } from "./raw_stream.ts";
import { findTarget } from "./webtransport_target.ts";

/** Connections opened concurrently; more would measure the listener's backlog. */
const MAX_OPENING = 64;

/**
 * Sessions that `connect` opens and closes before the measurement: a server loads modules and
 * compiles code during its first sessions, and the number differs between servers.
 */
const WARM_UP_SESSIONS = 1_000;

/** Time for a server to release closed sessions, and for its memory to settle, in milliseconds. */
const SETTLING_MS = 2_000;

/** Silence after the last publication until missing messages count as lost, in milliseconds. */
const SILENCE_MS = 4_000;

/** A client on any transport. */
type Client = Pick<
  RawSocket,
  "abort" | "closed" | "isOver" | "onFrame" | "onRead" | "send" | "start"
>;

/** The settings of a run. */
export interface LoadOptions {
  /** Opens one client, before reading any data. */
  readonly open: (bufferBytes: number, index: number) => Promise<Client>;
  /** The processes of the servers, for CPU time; memory is measured for the first one. */
  readonly pids: readonly number[];
  /** The dialect of the server. */
  readonly dialect: Dialect;
  /** Number of subscribers, echoing clients, or idle sessions. */
  readonly sessions: number;
  /** Size of a message's data, in bytes. */
  readonly size: number;
  /**
   * Publications in flight; 1 waits for all subscribers, more wait for the publisher's own copies.
   */
  readonly window: number;
  /** Publications per second; 0 for as many as the window allows. */
  readonly rate: number;
  /** Number of topics, 1 or 2. */
  readonly topics: number;
  /** Publications to measure, and of the warm-up; 0 for a time. */
  readonly publications: number;
  /** Warm-up at the beginning, not measured. */
  readonly warmUpMs: number;
  /** Measured time. */
  readonly measureMs: number;
}

// A message is "~", the topic's number, 9 digits of sequence, 12 of microseconds, and padding.
const MARK = "~".charCodeAt(0);
const HEAD = 23;

function stamp(topic: number, sequence: number, size: number): string {
  const head = `~${topic}${String(sequence).padStart(9, "0")}${String(nowUs()).padStart(12, "0")}`;
  return head.padEnd(size, "x");
}

function digits(bytes: Uint8Array, from: number, to: number): number {
  let number = 0;
  for (let i = from; i < to; i++) number = number * 10 + bytes[i]! - 48;
  return number;
}

/** Calls back for each stamped message of a frame; a frame may contain several. */
function eachMessage(
  payload: Uint8Array,
  size: number,
  onMessage: (topic: number, sequence: number, sentUs: number) => void,
): void {
  let at = payload.indexOf(MARK);
  while (at >= 0 && at + HEAD <= payload.length) {
    onMessage(
      payload[at + 1]! - 48,
      digits(payload, at + 2, at + 11),
      digits(payload, at + 11, at + HEAD),
    );
    at = payload.indexOf(MARK, at + Math.max(size, HEAD));
  }
}

/** Chooses the clients' transport: WebSocket, or WebTransport with a development server. */
async function openerOf(
  args: readonly string[],
  portOf: (index: number) => number,
  { path, protocol }: Dialect,
): Promise<LoadOptions["open"]> {
  if (argument(args, "wire") !== "webtransport") {
    const protocols = protocol === undefined ? [] : [protocol];
    return (bufferBytes, index) =>
      RawSocket.open(`ws://127.0.0.1:${portOf(index)}${path}`, {
        protocols,
        bufferBytes,
        mask: false,
      });
  }
  const target = await findTarget(portOf(0), { path, hash: argument(args, "hash") });
  return () => RawStream.open(target, protocol === undefined ? {} : { protocol });
}

/** Opens a client and sends the dialect's opening texts. */
async function openClient(
  options: LoadOptions,
  bufferBytes: number,
  index: number,
): Promise<Client> {
  const { dialect } = options;
  const client = await options.open(bufferBytes, index);
  // The first reply may have arrived with the handshake, and is read immediately.
  let isStarted = false;
  for (const { send, wait } of dialect.opening) {
    const answer = waitFor(client, wait);
    if (!isStarted) client.start();
    isStarted = true;
    if (send !== undefined) client.send(send);
    await answer;
  }
  if (!isStarted) client.start();
  return client;
}

async function subscribe(client: Client, dialect: Dialect, topic: string): Promise<void> {
  const answer = waitFor(client, dialect.subscribed);
  client.send(dialect.subscribe(topic));
  await answer;
}

function waitFor(client: Client, part: string): Promise<void> {
  const decoder = new TextDecoder();
  return new Promise((resolve, reject) => {
    client.onFrame = (payload) => {
      if (decoder.decode(payload).includes(part)) resolve();
    };
    client.closed.then(({ code }) => reject(new Error(`Cannot open: closed with ${code}`)));
  });
}

/** Answers a dialect's pings; all other frames go to `onFrame`. */
function listen(client: Client, dialect: Dialect, onFrame: (payload: Uint8Array) => void): void {
  const { ping } = dialect;
  client.onFrame = ping === undefined ? onFrame : (payload) => {
    if (payload.length === 1 && payload[0] === ping[0].charCodeAt(0)) client.send(ping[1]);
    else onFrame(payload);
  };
}

async function openAll(
  count: number,
  open: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  await Promise.all(Array.from({ length: Math.min(count, MAX_OPENING) }, async () => {
    while (next < count) await open(next++);
  }));
}

/** The next expected number of one subscriber, by topic; -1 for a topic without subscription. */
type Expected = number[];

async function fanOut(options: LoadOptions): Promise<LoadResult> {
  const { dialect, sessions, size, window, rate, publications } = options;
  const topics = options.topics === 1 ? ["bench"] : ["bench:1", "bench:2"];
  const isOn = (index: number, topic: number) =>
    index === sessions || topics.length === 1 ||
    (topic === 0 ? index % 3 !== 2 : index % 3 !== 0);
  const clients: Client[] = [];
  const expected: Expected[] = [];
  const members = topics.map(() => 0);
  // The last client is the publisher, and subscribes to all topics.
  await openAll(sessions + 1, async (index) => {
    const client = clients[index] = await openClient(
      options,
      index === sessions ? 262_144 : 65_536,
      index,
    );
    const mine = expected[index] = topics.map((_, topic) => isOn(index, topic) ? 0 : -1);
    for (const [topic, name] of topics.entries()) {
      if (mine[topic]! < 0) continue;
      await subscribe(client, dialect, name);
      members[topic]!++;
    }
  });
  const publisher = clients[sessions]!;
  const histogram = new Histogram();
  const published = topics.map(() => 0);
  let count = 0;
  let due = 0;
  let delivered = 0;
  let measured = 0;
  let own = 0;
  let lost = 0;
  let disordered = 0;
  let closed = 0;
  let lastUs = nowUs();
  let readUs = 0;
  let measureFrom = Infinity;
  let isPublishing = true;

  const publish = () => {
    const topic = count++ % topics.length;
    due += members[topic]!;
    publisher.send(dialect.publish(topics[topic]!, stamp(topic, published[topic]!++, size)));
  };
  const pump = () => {
    if (rate > 0 || !isPublishing) return;
    if (window === 1) {
      if (delivered === due) publish();
    } else while (count - own < window) publish();
  };
  for (const [index, client] of clients.entries()) {
    const mine = expected[index]!;
    const onMessage = (topic: number, sequence: number, sentUs: number) => {
      const next = mine[topic]!;
      if (sequence === next) mine[topic] = next + 1;
      else if (sequence > next) {
        lost += sequence - next;
        mine[topic] = sequence + 1;
      } else disordered++;
      delivered++;
      if (client === publisher) own++;
      if (sentUs < measureFrom) return;
      measured++;
      // One clock reading for all messages of a read.
      if (readUs === 0) readUs = nowUs();
      histogram.add(readUs - sentUs);
    };
    listen(client, dialect, (payload) => eachMessage(payload, size, onMessage));
    client.onRead = () => {
      lastUs = readUs === 0 ? nowUs() : readUs;
      readUs = 0;
      if (client === publisher || window === 1) pump();
    };
    client.closed.then(() => closed++);
  }

  const pacing = rate > 0 ? pace(rate, publish, () => isPublishing) : undefined;
  pump();
  const pass = async (ms: number) => {
    if (publications === 0) return await sleep(ms);
    for (const end = count + publications; count < end && closed === 0;) await sleep(2);
  };
  await pass(options.warmUpMs);
  const meter = await Meter.begin(...options.pids);
  measureFrom = nowUs();
  await pass(options.measureMs);
  isPublishing = false;
  await pacing;
  // The tail is part of the work: the clock stops after all publications are delivered.
  const isBehind = () =>
    expected.some((mine, index) =>
      !clients[index]!.isOver &&
      mine.some((next, topic) => next >= 0 && next < published[topic]!)
    );
  let seen = -1;
  let seenAt = performance.now();
  while (isBehind() && performance.now() - seenAt < SILENCE_MS) {
    if (seen !== delivered) [seen, seenAt] = [delivered, performance.now()];
    await sleep(2);
  }
  const figures = await meter.end(measured, lastUs);
  for (const mine of expected) {
    for (const [topic, next] of mine.entries()) if (next >= 0) lost += published[topic]! - next;
  }
  const result = { ...figures, ...quantilesOf(histogram), lost, disordered, closed };
  for (const client of clients) client.abort();
  return result;
}

async function pace(rate: number, publish: () => void, goesOn: () => boolean): Promise<void> {
  const start = performance.now();
  for (let sent = 0; goesOn();) {
    const owed = (performance.now() - start) / 1_000 * rate;
    while (sent < owed) {
      publish();
      sent++;
    }
    await sleep(1);
  }
}

async function echo(options: LoadOptions): Promise<LoadResult> {
  const { dialect, sessions, size } = options;
  const clients: Client[] = [];
  const histogram = new Histogram();
  let isMeasuring = false;
  let isOn = true;
  let lost = 0;
  let closed = 0;
  await openAll(sessions, async (index) => {
    clients[index] = await openClient(options, 4_096, index);
  });
  for (const client of clients) {
    let sequence = 0;
    const ask = () => client.send(dialect.echo(stamp(0, ++sequence, size)));
    listen(client, dialect, (payload) =>
      eachMessage(payload, size, (_topic, answered, sentUs) => {
        if (answered !== sequence) lost++;
        if (isMeasuring) histogram.add(nowUs() - sentUs);
        if (isOn) ask();
      }));
    client.closed.then(() => closed++);
    ask();
  }
  await sleep(options.warmUpMs);
  isMeasuring = true;
  const meter = await Meter.begin(...options.pids);
  await sleep(options.measureMs);
  const figures = await meter.end(histogram.count);
  isMeasuring = isOn = false;
  const result = { ...figures, ...quantilesOf(histogram), lost, closed };
  for (const client of clients) client.abort();
  return result;
}

async function connect(options: LoadOptions): Promise<LoadResult> {
  const { sessions, pids } = options;
  const pid = pids[0]!;
  const clients: Client[] = [];
  let closed = 0;
  await openAll(WARM_UP_SESSIONS, async (index) => {
    clients[index] = await openClient(options, 2_048, index);
  });
  for (const client of clients.splice(0)) client.abort();
  await sleep(SETTLING_MS);
  const before = await usageOf(pid);
  const meter = await Meter.begin(...pids);
  await openAll(sessions, async (index) => {
    clients[index] = await openClient(options, 2_048, index);
  });
  const figures = await meter.end(sessions);
  for (const client of clients) {
    listen(client, options.dialect, () => {});
    client.closed.then(() => closed++);
  }
  await sleep(SETTLING_MS);
  const after = await usageOf(pid);
  const result = {
    ...figures,
    ...memoryOf(sessions, { before, after }),
    closed,
  };
  for (const client of clients) client.abort();
  return result;
}

const MODES = { fanout: fanOut, echo, connect };

if (import.meta.main) {
  const { args } = Deno;
  const mode = (argument(args, "mode") ?? "fanout") as keyof typeof MODES;
  const dialect = DIALECTS[(argument(args, "dialect") ?? "plain") as DialectName];
  if (MODES[mode] === undefined || dialect === undefined) {
    throw new TypeError(
      "Cannot run: --mode is fanout, echo or connect; --dialect plain, skein or socketio",
    );
  }
  const port = portOf(args);
  const sessions = numberArgument(args, "sessions", 200);
  const others = argument(args, "ports")?.split(",").map(Number);
  // The last client is the publisher of `fanout`.
  const portAt = (index: number) =>
    others === undefined || index === sessions ? port : others[index % others.length]!;
  const result = await MODES[mode]({
    open: await openerOf(args, portAt, dialect),
    pids: argument(args, "pid")?.split(",").map(Number) ?? [Deno.pid],
    dialect,
    sessions,
    size: Math.max(HEAD, numberArgument(args, "size", 128)),
    window: numberArgument(args, "window", 64),
    rate: numberArgument(args, "rate", 0),
    topics: numberArgument(args, "topics", 1),
    publications: numberArgument(args, "publications", 0),
    warmUpMs: numberArgument(args, "warm-up", 600),
    measureMs: numberArgument(args, "measure", 1_800),
  });
  // deno-lint-ignore no-console
  console.log(JSON.stringify(result));
  Deno.exit(0);
}
