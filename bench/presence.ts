/**
 * Measures the cost of a large room: a storm of joins, then steady joins and leaves, with a broker
 * in memory, so that only presence is measured.
 *
 * Run: `deno task bench:presence`; `--users 10000 --seconds 10 --nodes 1,2 --quick`.
 *
 * @module
 */
import { platformRuntime } from "../base/runtime.ts";
import process from "node:process";
import { argument, numberArgument } from "./args.ts";
import type { Broker, Publication } from "../pubsub/broker.ts";
import { MemoryBroker, Nodes, Presence, Rooms, Topics } from "../pubsub/mod.ts";
import { Session } from "../session/mod.ts";
import { settingsWith } from "../session/settings/session_settings.ts";
import { Flusher } from "../session/queue/flusher.ts";
import { memoryPair } from "../transport/memory/memory.ts";

const { args } = Deno;
const IS_QUICK = args.includes("--quick");
const USERS = numberArgument(args, "users", IS_QUICK ? 2_000 : 10_000);
const SECONDS = numberArgument(args, "seconds", IS_QUICK ? 3 : 10);
const CHURN = numberArgument(args, "churn", 100);
const ROOM = "room:large";
const GRACE_MS = 1_000;

/** Counters of messages to all clients, and of the broker's traffic. */
const wire = { frames: 0, bytes: 0, published: 0, publishedBytes: 0 };

class Node implements AsyncDisposable {
  readonly settings = settingsWith({ flusher: new Flusher(platformRuntime()) }, { side: "server" });
  readonly topics: Topics;
  readonly nodes: Nodes | undefined;
  readonly presence: Presence;
  readonly rooms: Rooms;

  constructor(
    broker: Broker,
    { isAlone, members }: { isAlone: boolean; members: "list" | "count" },
  ) {
    this.topics = new Topics({ settings: this.settings, broker });
    this.nodes = isAlone ? undefined : new Nodes({ broker });
    const { topics, nodes } = this;
    this.presence = new Presence({ graceMs: GRACE_MS, ...(nodes === undefined ? {} : { nodes }) });
    const patterns = { "room:{name}": { members } };
    this.rooms = new Rooms({ topics, presence: this.presence, patterns });
  }

  enter(user: string): Session {
    const pair = memoryPair({ protocol: "skein.1" });
    const session = new Session(pair.server, this.settings, { user });
    pair.client.frames!.receive({
      receiveFrame(frame) {
        wire.frames++;
        wire.bytes += frame.length;
      },
      framesEnded() {},
    });
    this.rooms.join(session, ROOM);
    return session;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.rooms[Symbol.dispose]();
    this.presence[Symbol.dispose]();
    await this.nodes?.close();
    await this.topics[Symbol.asyncDispose]();
  }
}

/** Repeats an action at an even rate. */
async function steadily(perSecond: number, count: number, act: (i: number) => void): Promise<void> {
  const start = performance.now();
  for (let done = 0; done < count;) {
    const due = Math.min(count, Math.floor((performance.now() - start) / 1_000 * perSecond));
    while (done < due) act(done++);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Measures a phase: CPU time in milliseconds, and bytes sent. */
async function measure(act: () => Promise<void>) {
  const before = { ...wire };
  const cpu = process.cpuUsage();
  const start = performance.now();
  await act();
  const { user, system } = process.cpuUsage(cpu);
  return {
    seconds: (performance.now() - start) / 1_000,
    cpuMs: (user + system) / 1_000,
    bytes: wire.bytes - before.bytes,
    frames: wire.frames - before.frames,
    published: wire.published - before.published,
    publishedBytes: wire.publishedBytes - before.publishedBytes,
  };
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function run(count: number, members: "list" | "count"): Promise<void> {
  const broker = new MemoryBroker();
  const { publish } = broker;
  broker.publish = (publication: Publication) => {
    wire.published++;
    wire.publishedBytes += publication.payload.length;
    publish.call(broker, publication);
  };
  const nodes = Array.from(
    { length: count },
    () => new Node(broker, { isAlone: count === 1, members }),
  );
  await pause(500);
  const sessions: Session[] = [];
  const storm = await measure(async () => {
    await steadily(
      USERS / SECONDS,
      USERS,
      (i) => sessions.push(nodes[i % count]!.enter(`user-${i}`)),
    );
    await pause(2_000);
  });
  report(`${count} node(s), ${members}: storm`, storm, USERS);
  const idle = await measure(() => pause(SECONDS * 1_000));
  const churn = await measure(async () => {
    await steadily(CHURN, CHURN * SECONDS, (i) => {
      if (i % 2 === 0) void sessions[i]!.close();
      else sessions.push(nodes[i % count]!.enter(`new-${i}`));
    });
    await pause(2_000);
  });
  report(`${count} node(s), ${members}: churn`, churn, CHURN * SECONDS);
  console.log(`  at rest for ${SECONDS} s: CPU ${idle.cpuMs.toFixed(0)} ms`);
  const views = nodes.map(({ presence }) => presence.count(ROOM));
  console.log(`  views at the end: ${views.join(", ")} users`);
  await Promise.all(sessions.map((session) => session.close()));
  for (const node of nodes) await node[Symbol.asyncDispose]();
  await broker.close();
}

function report(what: string, cost: Awaited<ReturnType<typeof measure>>, changes: number): void {
  const { seconds, cpuMs, bytes, frames, published, publishedBytes } = cost;
  console.log(
    `${what}: ${changes} changes in ${seconds.toFixed(1)} s; CPU ${cpuMs.toFixed(0)} ms, ` +
      `${(cpuMs * 1_000 / changes).toFixed(0)} µs a change; ` +
      `${(bytes / 1e6).toFixed(1)} MB to clients in ${frames} frames, ` +
      `${(bytes / changes / USERS).toFixed(1)} bytes a change and user; ` +
      `broker ${published} publications, ${(publishedBytes / changes).toFixed(0)} bytes a change`,
  );
}

for (const count of (argument(args, "nodes") ?? "1,2").split(",").map(Number)) {
  for (const members of ["list", "count"] as const) await run(count, members);
}
