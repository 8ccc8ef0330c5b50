/** Operations at the level of the NATS protocol, and a client that runs them against any server. */
import { deadline } from "@std/async/deadline";
import { seededRandom } from "../../transport/memory/path.ts";

/** The longest wait for a reply, in milliseconds. */
const PATIENCE_MS = 40_000;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export interface Wire {
  send(bytes: Uint8Array): void;
  /** Called with received bytes. */
  onBytes: ((bytes: Uint8Array) => void) | undefined;
}

/** A message that a client received. */
export interface Heard {
  readonly subject: string;
  readonly sid: string;
  readonly reply: string;
  readonly headers: string;
  readonly body: string;
}

/** A message to send, and the condition that ends the wait for replies. */
export interface Operation {
  readonly subject: string;
  readonly headers?: string;
  readonly body?: string;
  /** True if the message requests no reply. */
  readonly isSilent?: boolean;
  /** True if no reply is expected because the stream or the consumer is missing. */
  readonly isUnanswered?: boolean;
  /**
   * The maximum number of messages of a pull. The pull ends after that many messages, or with a
   * status.
   */
  readonly batch?: number;
  /** Commands to send before the message, such as subscriptions. */
  readonly before?: string;
}

/** A client that speaks the protocol, and records each message. */
export class Probe {
  readonly #wire: Wire;
  readonly #waiting: { isDone: () => boolean; resolve: () => void }[] = [];
  #heard: Heard[] = [];
  #errors: string[] = [];
  #pongs = 0;
  #asked = 0;
  #rest = new Uint8Array();
  #number = 0;
  /** Ends the wait for a reply to the running operation. */
  giveUp: () => void = () => {};

  constructor(wire: Wire) {
    this.#wire = wire;
    wire.onBytes = (bytes) => this.#take(bytes);
  }

  /** Sends the greeting. */
  async greet(): Promise<void> {
    this.#write(
      `CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\n`,
    );
    this.#write("SUB answers.* answers\r\nSUB live.> live\r\n");
    await this.#flushed();
  }

  /** Runs an operation; returns everything received, in order. */
  async run(operation: Operation): Promise<readonly (Heard | string)[]> {
    const { subject, headers = "", body = "", isSilent = false, batch, before = "" } = operation;
    let isDone = operation.isUnanswered ?? false;
    this.giveUp = () => {
      isDone = true;
      this.#wake();
    };
    const reply = `answers.${this.#number++}`;
    const [head, data] = [encoder.encode(headers), encoder.encode(body)];
    const address = isSilent ? subject : `${subject} ${reply}`;
    this.#write(before);
    if (head.length > 0) {
      this.#write(`HPUB ${address} ${head.length} ${head.length + data.length}\r\n`);
    } else this.#write(`PUB ${address} ${data.length}\r\n`);
    this.#wire.send(head);
    this.#wire.send(data);
    this.#write("\r\n");
    if (!isSilent) {
      await this.#until(() => {
        // Pulled messages arrive on the inbox, but carry the subject of the stream.
        if (isDone) return true;
        const answers = this.#heard.filter(({ sid }) => sid === "answers");
        if (batch === undefined) return answers.length > 0;
        return answers.length >= batch || answers.some(({ headers }) => isStatus(headers));
      });
    }
    await this.#flushed();
    const all = [...this.#heard, ...this.#errors];
    this.#heard = [];
    this.#errors = [];
    return all;
  }

  #write(text: string): void {
    if (text !== "") this.#wire.send(encoder.encode(text));
  }

  async #flushed(): Promise<void> {
    this.#asked++;
    this.#write("PING\r\n");
    await this.#until(() => this.#pongs >= this.#asked);
  }

  #until(isDone: () => boolean): Promise<void> {
    if (isDone()) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ isDone, resolve });
    return promise;
  }

  #take(bytes: Uint8Array): void {
    const all = new Uint8Array(this.#rest.length + bytes.length);
    all.set(this.#rest);
    all.set(bytes, this.#rest.length);
    let at = 0;
    for (;;) {
      const end = all.indexOf(13, at);
      if (end === -1 || end + 1 >= all.length) break;
      const line = decoder.decode(all.subarray(at, end));
      const [verb = "", ...words] = line.split(" ");
      let next = end + 2;
      if (verb === "MSG" || verb === "HMSG") {
        const bytes = Number(words.pop());
        const headBytes = verb === "HMSG" ? Number(words.pop()) : 0;
        const [subject = "", sid = "", reply = ""] = words;
        if (next + bytes + 2 > all.length) break;
        const headers = decoder.decode(all.subarray(next, next + headBytes));
        const body = decoder.decode(all.subarray(next + headBytes, next + bytes));
        this.#heard.push({ subject, sid, reply, headers, body });
        next += bytes + 2;
      } else if (verb === "PONG") this.#pongs++;
      else if (verb === "PING") this.#write("PONG\r\n");
      else if (verb === "-ERR") this.#errors.push(line);
      at = next;
    }
    this.#rest = all.slice(at);
    this.#wake();
  }

  #wake(): void {
    for (const waiting of this.#waiting.splice(0)) {
      if (waiting.isDone()) waiting.resolve();
      else this.#waiting.push(waiting);
    }
  }
}

/** A TCP connection. */
export class TcpWire implements Wire, AsyncDisposable {
  readonly #connection: Deno.TcpConn;
  readonly #reading: Promise<void>;
  #sending: Promise<unknown> = Promise.resolve();
  onBytes: ((bytes: Uint8Array) => void) | undefined = undefined;

  private constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
    this.#reading = this.#read();
  }

  static async open(port: number): Promise<TcpWire> {
    const connection = await Deno.connect({ hostname: "127.0.0.1", port });
    connection.setNoDelay(true);
    return new TcpWire(connection);
  }

  send(bytes: Uint8Array): void {
    this.#sending = this.#sending.then(async () => {
      for (let at = 0; at < bytes.length;) at += await this.#connection.write(bytes.subarray(at));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sending;
    this.#connection.close();
    await this.#reading;
  }

  async #read(): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await this.#connection.read(buffer); n !== null;) {
        this.onBytes?.(buffer.slice(0, n));
        n = await this.#connection.read(buffer);
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted)) {
        throw error;
      }
    }
  }
}

/** Waits in real time for a server's result. */
export async function patiently<T>(promise: Promise<T>): Promise<T> {
  return await deadline(promise, PATIENCE_MS);
}

function isStatus(headers: string): boolean {
  return /^NATS\/1\.0 \d/.test(headers);
}

/**
 * The field with the number of messages that wait for a consumer. If messages were removed from the
 * middle of a stream, version 2.9.10 sometimes counts one too many.
 */
const MISCOUNTED = "num_pending";

/** Generates random operations, some of which name consumers from earlier replies. */
export class Operations {
  readonly #random: () => number;
  readonly #consumers: [stream: string, consumer: string][] = [];
  #ids = 0;

  constructor(seed: number) {
    this.#random = seededRandom(seed);
  }

  /** Records the consumer names in a reply. */
  heard(operation: Operation, answers: readonly (Heard | string)[]): void {
    if (!operation.subject.startsWith("$JS.API.CONSUMER.CREATE.")) return;
    for (const answer of answers) {
      if (typeof answer === "string" || answer.sid !== "answers" || answer.body === "") continue;
      const { stream_name: stream, name } = JSON.parse(answer.body);
      if (name === undefined) continue;
      this.#consumers.push([stream, name]);
      if (this.#consumers.length > 8) this.#consumers.shift();
    }
  }

  next(): Operation {
    const draw = this.#random();
    if (draw < 0.06) return this.#create();
    if (draw < 0.42) return this.#publish();
    if (draw < 0.5) return this.#get();
    if (draw < 0.6) return this.#getDirectly();
    if (draw < 0.66) return this.#request("STREAM.INFO", "");
    if (draw < 0.71) {
      return this.#request("STREAM.MSG.DELETE", { seq: this.#seq(), no_erase: true });
    }
    if (draw < 0.73) return this.#purge();
    if (draw < 0.74) return this.#request("STREAM.DELETE", "");
    if (draw < 0.82) return this.#consume();
    if (draw < 0.94) return this.#pull();
    if (draw < 0.96) return this.#deleteConsumer();
    return this.#core();
  }

  #one<T>(values: readonly T[]): T {
    return values[Math.floor(this.#random() * values.length)]!;
  }

  #below(most: number): number {
    return Math.floor(this.#random() * most);
  }

  #stream(): string {
    return this.#one(["a", "a", "b", "b", "c", "d", "e", "none"]);
  }

  #subject(): string {
    return `${this.#one(["a", "a", "a", "b", "b", "c", "d", "e"])}.${this.#one(["x", "y", "z.1"])}`;
  }

  #seq(): number {
    return 1 + this.#below(40);
  }

  #request(operation: string, body: unknown, stream = this.#stream()): Operation {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return { subject: `$JS.API.${operation}.${stream}`, body: text };
  }

  #create(): Operation {
    const name = this.#stream();
    const common = { name, subjects: [`${name}.>`], num_replicas: 1, allow_direct: true };
    const config = this.#one([
      {
        ...common,
        max_msgs_per_subject: 5,
        republish: { src: `${name}.>`, dest: `live.${name}.>` },
      },
      {
        ...common,
        max_msgs_per_subject: 5,
        republish: { src: `${name}.>`, dest: `live.${name}.>` },
      },
      {
        ...common,
        storage: "memory",
        allow_rollup_hdrs: true,
        republish: { src: `${name}.>`, dest: `live.${name}.>`, headers_only: true },
      },
      { ...common, max_msgs: 12, max_bytes: 2_000 },
      { ...common, max_msgs: 6, discard: "new", max_msg_size: 100 },
      { ...common, max_msgs_per_subject: 2, discard: "new", discard_new_per_subject: true },
      { ...common, max_msgs_per_subject: 1, discard: "new", allow_rollup_hdrs: true },
      { ...common, deny_delete: true, deny_purge: true, duplicate_window: 60e9 },
      { ...common, allow_direct: false, storage: "memory", max_bytes: 1_500, discard: "new" },
      { ...common, subjects: ["a.>", "b.x"] },
      { ...common, subjects: [`${name}.>`, `${name}.x`] },
      { ...common, max_age: 1e6 },
      { ...common, duplicate_window: 1e6 },
      { ...common, max_age: 60e9, duplicate_window: 120e9 },
      { ...common, num_replicas: 3 },
      { ...common, allow_rollup_hdrs: true, deny_purge: true },
      { ...common, name: "other" },
      { ...common, discard_new_per_subject: true },
      { ...common, republish: { src: "q.>", dest: "live.>" } },
    ]);
    return this.#request("STREAM.CREATE", config, name);
  }

  #publish(): Operation {
    const headers: string[] = [];
    const add = (share: number, name: string, value: unknown) => {
      if (this.#random() < share) headers.push(`${name}: ${value}\r\n`);
    };
    const isNew = this.#random() < 0.7;
    add(0.35, "Nats-Msg-Id", isNew ? `id${this.#ids++}` : `id${this.#below(this.#ids + 1)}`);
    add(0.15, "Nats-Expected-Last-Subject-Sequence", this.#below(25));
    add(0.05, "Nats-Expected-Last-Sequence", this.#below(25));
    add(0.02, "Nats-Expected-Last-Sequence", Number.MAX_SAFE_INTEGER);
    add(0.04, "Nats-Expected-Stream", this.#stream());
    add(0.03, "Nats-Expected-Last-Msg-Id", `id${this.#below(this.#ids + 1)}`);
    add(0.06, "Nats-Rollup", this.#one(["sub", "sub", "all"]));
    add(0.1, "Other", "value é");
    const block = headers.length === 0 ? "" : `NATS/1.0\r\n${headers.join("")}\r\n`;
    const body = "x".repeat(this.#one([0, 1, 10, 40, 90, 200]));
    return { subject: this.#subject(), body, headers: block };
  }

  #query(): unknown {
    return this.#one<unknown>([
      { seq: this.#seq() },
      { seq: this.#seq() },
      { last_by_subj: this.#subject() },
      { last_by_subj: "a.*" },
      { last_by_subj: ">" },
      { seq: this.#seq(), next_by_subj: this.#subject() },
      { seq: this.#seq(), next_by_subj: "*.x" },
      { next_by_subj: "b.>" },
      { seq: 3, last_by_subj: "a.x" },
      { last_by_subj: "a.x", next_by_subj: "a.x" },
      {},
      "",
      "{",
    ]);
  }

  #get(): Operation {
    return this.#request("STREAM.MSG.GET", this.#query());
  }

  #getDirectly(): Operation {
    if (this.#random() < 0.5) return this.#request("DIRECT.GET", this.#query());
    const stream = this.#stream();
    return { subject: `$JS.API.DIRECT.GET.${stream}.${this.#one(["a.x", "b.y", "c.z.1", "a.*"])}` };
  }

  #purge(): Operation {
    return this.#request(
      "STREAM.PURGE",
      this.#one<unknown>([
        "",
        { filter: this.#subject() },
        { filter: "*.x", keep: 1 },
        { filter: this.#subject(), seq: this.#seq() },
        { keep: 2 },
        { seq: this.#seq() },
        { keep: 1, seq: 5 },
      ]),
    );
  }

  #consume(): Operation {
    const stream = this.#stream();
    const config = {
      ack_policy: "none",
      deliver_policy: "by_start_sequence",
      opt_start_seq: this.#seq(),
      filter_subject: this.#one([`${stream}.x`, `${stream}.y`, `${stream}.>`]),
      headers_only: this.#random() < 0.3,
      inactive_threshold: 600e9,
      mem_storage: true,
      num_replicas: 1,
    };
    const body = {
      stream_name: this.#random() < 0.95 ? stream : "other",
      config,
      action: "create",
    };
    return this.#request("CONSUMER.CREATE", body, stream);
  }

  #pull(): Operation {
    const [stream, consumer] = this.#one(this.#consumers) ?? ["a", "missing"];
    const batch = 1 + this.#below(6);
    const body = {
      batch,
      no_wait: true,
      ...(this.#random() < 0.3 && { max_bytes: this.#one([10, 150, 400, 2_000]) }),
    };
    const subject = `$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer}`;
    return { subject, body: JSON.stringify(body), batch };
  }

  #deleteConsumer(): Operation {
    const [stream, consumer] = this.#one(this.#consumers) ?? ["a", "missing"];
    return { subject: `$JS.API.CONSUMER.DELETE.${stream}.${consumer}` };
  }

  #core(): Operation {
    return this.#one<Operation>([
      { subject: "nobody.listens" },
      { subject: "live.hello", body: "plain", isSilent: true },
      { subject: "live.hello", body: "plain", headers: "NATS/1.0\r\nA: b\r\n\r\n", isSilent: true },
      { subject: "wild.one.two", body: "w", isSilent: true, before: "SUB wild.*.two wild\r\n" },
      { subject: "wild.two", body: "w", isSilent: true, before: "UNSUB wild\r\n" },
      {
        subject: "once.x",
        body: "o",
        isSilent: true,
        before: "SUB once.> once\r\nUNSUB once 1\r\n",
      },
      { subject: "group.x", body: "g", isSilent: true, before: "SUB group.x g g1\r\nUNSUB g1\r\n" },
      { subject: "pair", body: "p", isSilent: true, before: "SUB pair q p1\r\nUNSUB p1 1\r\n" },
    ]);
  }
}

/**
 * Removes everything from a reply that depends on the clock or on chance.
 *
 * @param answer A reply that a client received.
 * @param names The consumer names to compare, keyed by the names on the server.
 * @returns The remaining reply.
 */
export function comparable(answer: Heard | string, names: Map<string, string>): unknown {
  if (typeof answer === "string") return answer;
  const { subject, sid, reply, headers, body } = answer;
  const tokens = reply.split(".");
  // Removes the time of the message and the number of pending messages.
  if (reply.startsWith("$JS.ACK.")) tokens.splice(7, 2);
  const ack = tokens.map((token) => names.get(token) ?? token).join(".");
  return {
    subject,
    sid,
    ack,
    headers: headers.replace(/Nats-Time-Stamp: [^\r]*/, "Nats-Time-Stamp: some"),
    body: body.startsWith("{") ? plain(JSON.parse(body), names) : body,
  };
}

function plain(value: unknown, names: Map<string, string>): unknown {
  if (typeof value === "string") return names.get(value) ?? value;
  if (Array.isArray(value)) return value.map((one) => plain(one, names));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([key]) => key !== MISCOUNTED).map(
    ([key, inner]): [string, unknown] => {
      const isTime = ["created", "first_ts", "last_ts", "time", "last_active"].includes(key);
      return [key, isTime && inner !== "0001-01-01T00:00:00Z" ? "some" : plain(inner, names)];
    },
  );
  return Object.fromEntries(entries.sort(([a], [b]) => a < b ? -1 : 1));
}
