/**
 * Compares the model of Redis with the installed server: the same commands and scripts must get the
 * same replies.
 */
import { assert, assertEquals } from "@std/assert";
import { Redis } from "ioredis";
import { Buffer } from "node:buffer";
import { platformRuntime } from "../../base/runtime.ts";
import { isCluster, openClient } from "../../brokers/redis/connections.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { SimulatedNetwork, SimulatedRedis, Simulation } from "../simulator/mod.ts";
import type { SimulatedRedisClient } from "../simulator/redis/client.ts";
import { seededRandom } from "../../transport/memory/path.ts";
import { until } from "../waiting.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

const OPERATIONS = 2_500;

const HOUR_MS = 3_600_000;

/** A time that no test reaches, in milliseconds. */
const FAR_MS = 4_000_000_000_000;

type Arg = string | number | Buffer;

/** A command, or a script with the number of its keys first. */
interface Operation {
  readonly name: string;
  readonly isScript: boolean;
  readonly args: readonly Arg[];
  /** The topic, log or key. Long numbers are compared relative to its first number. */
  readonly subject: string;
}

/** The part of a client that a comparison uses. */
interface Caller {
  run(operation: Operation): Promise<unknown>;
}

/** Returns the scripts of a broker by name, as the broker defines them. */
async function scriptsOf(
  redis: SimulatedRedis,
  { simulation }: { readonly simulation: Simulation },
): Promise<Map<string, { lua: string; numberOfKeys?: number }>> {
  const scripts = new Map<string, { lua: string; numberOfKeys?: number }>();
  const host = simulation.host("scripts");
  const client = redis.client(host) as SimulatedRedisClient;
  const { runtime } = host;
  const broker = new RedisBroker({
    client: {
      isCluster: false,
      duplicate(): SimulatedRedisClient {
        const copy = client.duplicate();
        const define = copy.defineCommand.bind(copy);
        copy.defineCommand = (name, definition) => {
          scripts.set(name, definition);
          define(name, definition);
        };
        return copy;
      },
    },
  }, { runtime });
  // The scripts of logs are defined with the first call.
  const listed = broker.logs.list("stream", { limit: 1 }).catch(() => {});
  await until(() => scripts.has("skeinLogRead"));
  const closed = broker.close();
  await simulation.run(10_000);
  await Promise.all([listed, closed]);
  return scripts;
}

function callerOf(client: object): Caller {
  return {
    run({ name, args, isScript }) {
      const target = client as Record<string, (...args: readonly Arg[]) => Promise<unknown>>;
      return isScript ? target[`${name}Buffer`]!(...args) : target.call!(name, ...args);
    },
  };
}

/**
 * Converts replies to a form that depends neither on the clock nor on the name of the server's
 * history.
 */
class Normal {
  readonly #bases = new Map<string, number>();
  readonly #names = new Map<string, string>();

  /** Replaces a name that only this server uses with a common one. */
  rename(name: string, common: string): void {
    this.#names.set(name, common);
  }

  async of({ name, subject }: Operation, reply: Promise<unknown>): Promise<unknown> {
    const value = await reply.catch((error: Error) => `error ${error.message}`);
    if (name === "PTTL" && Number(value) > 0) return Math.round(Number(value) / HOUR_MS);
    if (name === "skeinTake" && !`${value}`.startsWith("error")) {
      return Math.round(Number(`${value}`) / 100_000);
    }
    const plain = this.#plain(value, subject);
    // Claims made in the same millisecond have no defined order.
    return name === "skeinClaims" && Array.isArray(plain) ? plain.sort() : plain;
  }

  #plain(value: unknown, subject: string): unknown {
    if (Array.isArray(value)) return value.map((each) => this.#plain(each, subject));
    if (value instanceof Uint8Array) {
      return this.#text(Buffer.from(value).toString("latin1"), subject);
    }
    return typeof value === "string" ? this.#text(value, subject) : value;
  }

  #text(text: string, subject: string): string {
    for (const [name, common] of this.#names) text = text.replaceAll(name, common);
    // Times in milliseconds depend on the speed of the test; offsets count from the first one.
    return text.replace(/\b1\d{12}\b/g, "time").replace(/\b[2-9]\d{12}\b/g, (digits) => {
      const base = this.#bases.get(subject) ?? Number(digits);
      this.#bases.set(subject, base);
      return `base+${Number(digits) - base}`;
    });
  }
}

/** Members of a joined transaction in addition to its changes. */
const NO_RECORDS = { count: 0, bytes: 0, maxBytes: 1_000_000 };

const KEYS = ["a", "b", "hash", "set", "zset", "stream", "string"].map((name) => `k:${name}`);

/**
 * Commands with arguments: `k` stands for a key, `#` for a number, `%` for a text, `~` for a
 * position, `@` for a time in the past or the far future.
 */
const COMMANDS: readonly string[] = [
  ..."GET k|SET k %|SET k % PX @|SET k % PX|APPEND k %|STRLEN k|DEL k k|UNLINK k|EXISTS k k".split(
    "|",
  ),
  ..."PEXPIRE k @|PEXPIREAT k @|PTTL k|HGET k %|HSET k % %|HSET k % % %|HMGET k % %|HLEN k|HGETALL k|HDEL k % %"
    .split(
      "|",
    ),
  ..."SADD k % %|SREM k % %|SCARD k|ZADD k # %|ZADD k # % # %|ZADD k % %|ZREM k %|ZCARD k".split(
    "|",
  ),
  ..."ZSCORE k %|ZRANGEBYSCORE k # #|ZRANGEBYSCORE k ( #|ZRANGEBYSCORE k -inf +inf".split("|"),
  ..."ZRANGEBYSCORE k -inf inf WITHSCORES LIMIT # #|ZRANGEBYSCORE k -inf # LIMIT #".split("|"),
  ..."ZREMRANGEBYSCORE k -inf #|ZREMRANGEBYSCORE k % #|XADD k ~ f %|XADD k ~ f|XADD k ~ f % g"
    .split(
      "|",
    ),
  ..."XLEN k|XRANGE k ~ ~|XRANGE k - +|XRANGE k ~ + COUNT #|XRANGE k (~ +|XRANGE k - (~".split("|"),
  ..."XREVRANGE k ~ -|XREVRANGE k + ~ COUNT #|XREVRANGE k + -|XTRIM k MINID ~|XTRIM k MINID = ~"
    .split(
      "|",
    ),
  ..."PING|PING hello there you|ECHO|GET|HSET k|XADD k 1-1|SELECT 0|PUBLISH % %|UNSUBSCRIBE".split(
    "|",
  ),
];

const NUMBERS = [0, 1, 2, 3, 7, -1, 100, 1.5, 0.1, -0, 1e15, 12345678901234, 1e21, 3_600_000];

const TIMES = [0, -1, HOUR_MS, FAR_MS, 1.5, 1e21, 9e18, "x"];

const TEXTS = ["", "x", "yy", "é", "1", "2.5", "-inf", "nan", "f", "\n", "{b}", "long".repeat(500)];

const POSITIONS = ["1", "2-0", "3-1", "5-0", "5-9", "0-0", "17", "x", "1-x", "9007199254740991-1"];

/**
 * Generates random operations: every command and every script, with arguments that include edge
 * cases.
 */
class Draws {
  readonly #random: () => number;
  readonly #scripts: readonly string[];
  #position = 1;
  #number = 0;

  constructor(seed: number, scripts: Iterable<string>) {
    this.#random = seededRandom(seed);
    this.#scripts = [...scripts];
  }

  next(): Operation {
    return this.#random() < 0.5 ? this.#command() : this.#script(this.#one(this.#scripts));
  }

  #one<T>(list: readonly T[]): T {
    return list[Math.floor(this.#random() * list.length)]!;
  }

  #command(): Operation {
    const [name, ...shapes] = this.#one(COMMANDS).split(" ");
    const args = shapes.map((shape) => {
      if (shape === "k") return this.#one(KEYS);
      if (shape === "#") {
        const number = `${this.#one(NUMBERS)}`;
        return this.#random() < 0.1 ? `(${number}` : number;
      }
      if (shape === "@") return `${this.#one(TIMES)}`;
      if (shape === "%") return this.#one(TEXTS);
      if (shape !== "~" && shape !== "(~") return shape;
      const next = this.#random() < 0.5 ? `${this.#position++}-${this.#one([0, 1, 5])}` : undefined;
      return shape.replace("~", next ?? this.#one(POSITIONS));
    });
    return { name: name!, isScript: false, args, subject: "" };
  }

  #script(name: string): Operation {
    const operation = (subject: string, ...args: readonly Arg[]) => {
      return { name, isScript: true, args, subject };
    };
    switch (name) {
      case "skeinAppend":
      case "skeinRead": {
        const topic = this.#one(["t1", "t2", "t3"]);
        const heard = this.#one([["", ""], ["", ""], ["", ""], ["epoch000", 0], ["epoch000", 3]]);
        const size = this.#one([0, 1, 5, 50]);
        const opening: Arg[] = [
          "epoch000",
          HOUR_MS,
          size,
          this.#one([0, 100, 100_000]),
          HOUR_MS,
          0,
        ];
        const keys = [`m:{${topic}}`, `s:{${topic}}`];
        const begin = [...opening, ...heard];
        if (name === "skeinRead") {
          const after = this.#one(["", "", 0, 1, 3, 10]);
          return operation(
            topic,
            ...[2, ...keys, ...begin, after, after === "" ? this.#one(["", 0, 2, 100]) : ""],
            ...[this.#one([0, 1, 5, 100]), this.#one([0, 10, 100_000])],
          );
        }
        const count = this.#one([1, 1, 2, 40]);
        // A node's number, two producers' numbers, and texts.
        const remembered = [`n:{${topic}}`, `p1:{${topic}}`, `p2:{${topic}}`, `k:{${topic}}`];
        const items = Array.from({ length: count }, () => {
          const [kind, place] = this.#one([["n", 4], ["p", 5], ["p", 6], ["t", 7]] as const);
          return [
            kind,
            place,
            this.#random() < 0.8 ? this.#number++ : this.#one([0, 3, this.#number]),
            frameOf(this.#one(TEXTS), this.#one(["", "\0abcdef", "me\0abcdef"])),
          ];
        });
        const all = [...keys, `c:{${topic}}`, ...remembered];
        return operation(topic, all.length, ...all, ...begin, "PUBLISH", HOUR_MS, ...items.flat());
      }
      case "skeinAdvance":
        return operation("row", this.#one(["row1", "k:set"]), this.#one(NUMBERS), HOUR_MS);
      case "skeinNewest":
        return operation("row", this.#one(["row1", "k:set", "k:text"]));
      case "skeinClaim":
        return operation("", "claims", this.#one(TEXTS), this.#one([0, 2, 3]), HOUR_MS);
      case "skeinClaims":
        return operation("", this.#one(["claims", "k:hash"]));
      case "skeinTake":
        return operation("", "tokens", this.#one([0.5, 1, 3]), 0.001, this.#one([1, 10]));
      case "skeinLogOverdue":
        return operation("", "index", "index-2", "index-3", 10);
      default:
        return this.#log(name);
    }
  }

  #log(name: string): Operation {
    const id = this.#one(["/one", "/two", "/three"]);
    const keys = ["state", "records", "newest", "producers", "forks"].map((kind) => `${kind}${id}`);
    const rowKeys = ["rows", "order", "gone", "due"].map((kind) => `${kind}${id}`);
    const all = [...keys, "index", "announcements", ...rowKeys];
    const shape = this.#one(["none", "small", "many", "large"]);
    const records = shape === "none" ? [] : Array.from(
      { length: shape === "many" ? 5 : 1 },
      () => shape === "large" ? "x".repeat(5_000) : this.#one(TEXTS),
    );
    const bytes = records.reduce((sum, record) => sum + Buffer.byteLength(record), 0);
    const end = this.#random() < 0.05 ? { ended: '{"reason":"done"}' } : {};
    const producer = this.#random() < 0.3
      ? { id: "/p", epoch: this.#one([0, 1]), seq: this.#one([0, 1, 2]), number: "0 1 /p" }
      : undefined;
    const holder = this.#one(["/h1", "/h1", "/h2"]);
    const writer = this.#random() < 0.2
      ? { holder, ttlMs: HOUR_MS, takes: this.#random() < 0.2 }
      : undefined;
    const heard = this.#random() < 0.05
      ? { heard: { identity: "identity", tail: 10_000, isEnded: false }, renewed: "renewed0" }
      : {};
    const asks: Record<string, object> = {
      skeinLogCreate: {
        ...{ identity: "identity", first: this.#one([0, 0, 5]), ...this.#keyed() },
        ...(this.#random() < 0.3 ? { ttlMs: HOUR_MS } : {}),
        ...(this.#random() < 0.3 ? { expiresAt: FAR_MS } : {}),
        ...{ ...end, writer, maxLogs: this.#one([1, 3, 100]), elsewhere: this.#one([0, 0, 1]) },
      },
      skeinLogAppend: {
        ...{ identity: this.#one(["identity", "identity", undefined, "other"]), ...end, producer },
        sequence: this.#one([undefined, undefined, "0061", "0062", "00"]),
        ...{ writer, ifWriterLost: this.#random() < 0.05 ? true : undefined },
        cancelled: this.#random() < 0.05 ? '"enough"' : undefined,
        maxBytes: this.#one([400, 1_000_000]),
        keep: this.#one([undefined, { records: 3, bytes: 1_000_000 }, {
          records: 100,
          bytes: 9_000,
        }]),
        ...(shape === "none" ? this.#transaction() : {}),
      },
      skeinLogRead: {
        after: this.#one([0, 1, 3, 10, 1_000]),
        maxRecords: this.#one([0, 1, 10, 1_000]),
        maxBytes: this.#one([0, 100, 1_000_000]),
        renews: this.#random() < 0.5,
        tail: this.#one([undefined, true]),
      },
      skeinLogDelete: { ifExpired: this.#random() < 0.8 },
      skeinLogRetain: {
        fork: this.#one(["/f1", "/f2"]),
        identity: "identity",
        maxForks: this.#one([1, 2]),
      },
      skeinLogRelease: { fork: this.#one(["/f1", "/f2"]) },
    };
    const joined = name === "skeinLogAppend" && shape === "none" && this.#random() < 0.2
      ? { joined: Array.from({ length: 3 }, () => ({ ...this.#transaction(), ...NO_RECORDS })) }
      : {};
    const ask = {
      ...{ ...asks[name], ...heard, ...joined },
      ...{ id, publish: "PUBLISH", count: records.length, bytes },
    };
    const isWrite = name === "skeinLogCreate" || name === "skeinLogAppend";
    const chunks = isWrite && records.length > 0 ? [`${records.length}`, chunkOf(records)] : [];
    const args = [all.length, ...all, JSON.stringify(ask), ...chunks];
    return { name, isScript: true, args, subject: id };
  }

  /** Settings of a new log. */
  #keyed(): object {
    if (this.#random() < 0.4) return { config: '{"contentType":"é"}' };
    const keyed = { records: this.#one([1, 1_000]), ms: this.#one([0, HOUR_MS]), bytes: 9_000 };
    const rowStats = { count: 0, deletions: 0, bytes: 0, forgotten: 0 };
    return { config: JSON.stringify({ contentType: "é", keyed }), rowStats };
  }

  /** Changes of rows. A time to live of 0 or less passes at once. */
  #transaction(): object {
    const changes = Array.from({ length: this.#one([0, 1, 1, 3]) }, () => ({
      row: JSON.stringify(["t", this.#one(["a", "b", "é", '"'])]),
      operation: this.#one(["set", "set", "update", "delete"]),
      text: ["{", "é}"],
      ...(this.#random() < 0.2 ? { expect: this.#one([0, 1, 2, 7]) } : {}),
      ...(this.#random() < 0.2 ? { ttlMs: this.#one([-HOUR_MS, HOUR_MS]) } : {}),
    }));
    const deletionMs = this.#one([0, HOUR_MS]);
    const rowBounds = { rows: this.#one([2, 100]), deletions: this.#one([1, 100]), deletionMs };
    return { changes, rowBounds, ...(this.#random() < 0.3 ? { expiresRows: true } : {}) };
  }
}

function frameOf(payload: string, except: string): Buffer {
  const body = Buffer.concat([Buffer.from(except), Buffer.from(payload)]);
  const head = Buffer.alloc(7);
  head.writeUInt32BE(body.length + 3, 0);
  head.writeUInt16BE(Buffer.byteLength(except), 5);
  return Buffer.concat([head, body]);
}

function chunkOf(records: readonly string[]): Buffer {
  return Buffer.concat(records.map((record) => {
    const bytes = Buffer.from(record);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(bytes.length * 2);
    return Buffer.concat([head, bytes]);
  }));
}

for (const seed of [2, 4]) {
  Deno.test({
    name: `SimulatedRedis replies to ${OPERATIONS} operations like Redis (seed ${seed})`,
    ignore: isRedisMissing,
    fn: () => compare(seed),
  });
}

async function compare(seed: number): Promise<void> {
  await using server = await RedisServer.start();
  const simulation = new Simulation({ seed });
  const network = new SimulatedNetwork(simulation, { delayMs: 0.1, jitterMs: 0 });
  const host = simulation.host("redis");
  host.jumpClock(Date.now() - host.runtime.now());
  const model = await SimulatedRedis.create({ simulation, network, hosts: [host] });
  const scripts = await scriptsOf(model, { simulation });
  assertEquals(scripts.size, 15);
  const program = simulation.host("program");
  const real = new Redis(server.url);
  await using _end = { [Symbol.asyncDispose]: async () => void await real.quit() };
  const simulated = model.client(program) as SimulatedRedisClient;
  const clients = [real, simulated].map((client) => {
    for (const [name, script] of scripts) client.defineCommand(name, script);
    return { call: callerOf(client), normal: new Normal() };
  });
  const idOf = (info: string) => /master_replid:(\w{8})/.exec(info)![1]!;
  const info = simulated.info("replication");
  await simulation.run(10);
  clients[0]!.normal.rename(idOf(await real.info("replication")), "replid");
  clients[1]!.normal.rename(idOf(await info), "replid");
  const draws = new Draws(seed, [...scripts.keys()].sort());
  const kinds = new Set<string>();
  for (let i = 0; i < OPERATIONS; i++) {
    const operation = draws.next();
    const [one, other] = clients.map(({ call, normal }) =>
      normal.of(operation, call.run(operation))
    );
    await simulation.run(1);
    const [expected, received] = [await one, await other];
    const isRejected = `${received}`.startsWith("error ERR the model of Redis does not have");
    if (isRejected && operation.name === "ECHO") continue;
    assertEquals(
      received,
      expected,
      `operation ${i}: ${operation.name} ${operation.args.map(String).join(" ").slice(0, 600)}`,
    );
    const answer = Array.isArray(received) ? received[0] : typeof received;
    kinds.add(operation.isScript ? `${operation.name} ${answer}`.slice(0, 60) : operation.name);
  }
  // Checks that the operations also produce successful script results, not only rejections.
  for (
    const kind of [
      "skeinLogAppend appended",
      "skeinLogRead page",
      "skeinLogRead rows",
      "skeinLogAppend conflict",
      "skeinLogDelete removed",
    ]
  ) {
    assert(kinds.has(kind), `${kind} in ${[...kinds].join(", ")}`);
  }
  const keys = (await real.keys("*")).sort();
  assertEquals(
    [...model.primary.keys].sort(),
    keys.map((key) => Buffer.from(key).toString("latin1")),
  );
}

/** A client with the options of brokers, and a server that stops and restarts. */
interface Stage {
  readonly client: Redis;
  until(condition: () => boolean): Promise<unknown>;
  freeze(): void;
  kill(): Promise<void> | void;
  start(): Promise<void> | void;
  flushScripts(): Promise<unknown> | void;
}

/** Plays one story; returns everything that the client reports. */
async function story(stage: Stage): Promise<string[]> {
  const seen: string[] = [];
  const watch = (name: string, client: Redis) => {
    for (const event of ["connecting", "connect", "ready", "close", "reconnecting", "end"]) {
      client.on(event, () => seen.push(`${name} ${event}`));
    }
    // Node reports a broken connection only if bytes were in flight.
    client.on("error", ({ message }: Error) => {
      if (!message.includes("ECONNRESET")) seen.push(`${name} ${message.replace(/ [\w.:]*$/, "")}`);
    });
  };
  const settle = async (name: string, call: () => Promise<unknown>) => {
    let isOver = false;
    const result = call().then(
      (value) => Array.isArray(value) ? value.join() : String(value),
      (error: Error) => `${error.name}: ${error.message}`,
    ).then((text) => {
      seen.push(`${name}: ${text}`);
      isOver = true;
    });
    await stage.until(() => isOver);
    await result;
  };
  const { client } = stage;
  watch("client", client);
  await settle("early", () => client.get("a"));
  await stage.until(() => client.status === "ready");
  client.defineCommand("twice", { lua: "return { KEYS[1], ARGV[1] * 2 }", numberOfKeys: 1 });
  const twice = (client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)
    .twice!
    .bind(client);
  await settle("script", () => twice("a", 21));
  await stage.flushScripts();
  await settle("script that Redis forgot", () => twice("a", 4));
  await settle("write", () => client.call("SET", "a", "text"));
  await settle("wrong type", () => client.zcard("a"));
  await settle("script with a mistake", () => twice("a", "x"));
  await settle("unknown section", () => client.info("nonsense"));

  const subscriber = client.duplicate();
  watch("subscriber", subscriber);
  const messages: string[] = [];
  subscriber.on("messageBuffer", (channel, message) => messages.push(`${channel} ${message}`));
  await stage.until(() => subscriber.status === "ready");
  await settle("subscribe", () => subscriber.subscribe("c1", "c2", "c1"));
  await settle("publish", () => client.publish("c2", Buffer.from([104, 195, 169])));
  await stage.until(() => messages.length > 0);
  seen.push(...messages);
  await settle("ping of a subscriber", () => subscriber.ping());
  await settle("command of a subscriber", () => subscriber.get("a"));
  await settle("unsubscribe", () => subscriber.unsubscribe("c1", "c9"));
  await settle("leave the last", () => subscriber.unsubscribe("c2"));
  await settle("command of a former subscriber", () => subscriber.get("a"));
  subscriber.disconnect();
  await stage.until(() => subscriber.status === "end");
  await settle("command after the end", () => subscriber.get("a"));

  client.disconnect(true);
  await stage.until(() => client.status !== "ready");
  await settle("command meanwhile", () => client.get("a"));
  await stage.until(() => client.status === "ready");
  stage.freeze();
  const waiting = settle("command under way", () => client.get("a"));
  await stage.kill();
  await waiting;
  await stage.until(() => seen.filter((text) => text.includes("ECONNREFUSED")).length >= 2);
  await stage.start();
  await stage.until(() => client.status === "ready");
  await settle("command afterwards", () => client.get("a"));
  client.disconnect();
  await stage.until(() => client.status === "end");
  // Failed attempts repeat until the server has started, so their number varies.
  return seen.filter((text, i) => text !== seen[i - 4]);
}

Deno.test({
  name:
    "SimulatedRedisClient emits the same events, replies and errors as ioredis, in the same order",
  ignore: isRedisMissing,
  async fn() {
    await using server = await RedisServer.start();
    const real = openClient(platformRuntime(), { url: server.url });
    assert(!isCluster(real));
    const expected = await story({
      client: real,
      until: (condition) => until(condition),
      freeze: () => server.freeze(),
      kill: () => server.kill(),
      start: () => server.restart(),
      flushScripts: () => server.run("script", "flush"),
    });

    const simulation = new Simulation({ seed: 1 });
    const network = new SimulatedNetwork(simulation);
    const hosts = [simulation.host("redis")] as const;
    const redis = await SimulatedRedis.create({ simulation, network, hosts });
    const { runtime } = simulation.host("program");
    const simulated = openClient(runtime, {
      client: redis.client(simulation.hosts.get("program")!) as SimulatedRedisClient,
    });
    assert(!isCluster(simulated));
    const received = await story({
      client: simulated,
      async until(condition) {
        for (let i = 0; !condition(); i++) {
          if (i > 10_000) throw new Error(`Expected ${condition}`);
          await simulation.run(1);
        }
      },
      freeze: () => hosts[0].freeze(),
      kill: () => hosts[0].kill(),
      start: () => redis.restart(),
      flushScripts: () => redis.primary.flushScripts(),
    });
    assertEquals(received, expected);
  },
});
