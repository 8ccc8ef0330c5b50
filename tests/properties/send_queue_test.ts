/**
 * Sessions on slow connections. The property compares what the send queue keeps, drops and reports.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { POLICIES } from "../../session/queue/overflow.ts";
import { QueueModel } from "../../session/queue/queue_model.ts";
import { transport } from "./draw.ts";
import type { Ends, World } from "./world.ts";
import { property } from "./property.ts";

/** Maximum number of messages and bytes in a queue. Either limit may be reached first. */
const BOUNDS = {
  messages: { maxMessages: 8, maxBytes: 1 << 20 },
  bytes: { maxMessages: 200, maxBytes: 12_000 },
} as const;

/** Policies that drop messages. */
const DROPS = POLICIES.filter((policy) => policy !== "close");

/** Number of bytes that exceeds what a connection buffers before the queue fills. */
const PAD = "x".repeat(1 << 16);

/** The topic of the messages that fill a connection. */
const FILL = "fill";

/**
 * Faults of the link, by name. Each fault starts once the connection is full, and ends when the
 * backlog is gone.
 */
const FAULTS = {
  "a slow link": { bytesPerSecond: 200_000 },
  "a fast way": {},
  "lost packets": { lossRate: 0.02 },
} as const;

const cases = fc.record({
  sender: fc.constantFrom("server", "client"),
  transport,
  bound: fc.constantFrom("messages", "bytes"),
  fault: fc.constantFrom("a fast way", "a slow link", "lost packets"),
  /** The policy, topic and size of each message. */
  messages: fc.array(
    fc.record({
      policy: fc.constantFrom(...DROPS),
      topic: fc.constantFrom("a", "b"),
      size: fc.constantFrom(10, 700, 3_000),
    }),
    { maxLength: 40 },
  ),
});

property("a session on a slow connection keeps what the policy says, in order", {
  cases,
  async check(world, { sender, transport, bound, fault, messages }) {
    const bounds = {
      ...BOUNDS[bound],
      policy: (topic: string) => DROPS.find((policy) => topic.startsWith(policy)) ?? "close",
    } as const;
    const got: number[] = [];
    let reported = 0;
    const near = { sendQueue: bounds };
    const onMessage = ({ topic, data }: { readonly topic: string; readonly data: unknown }) => {
      if (topic !== FILL) got.push((data as { readonly n: number }).n);
    };
    const onDropped = (count: number) => void (reported += count);
    const isServer = sender === "server";
    const { server, host } = world.serve(
      "server",
      () => isServer ? { session: near } : { onMessage },
    );
    const client = world.connect("client", host, {
      transports: [transport],
      ...(isServer ? { onMessage, onDropped } : near),
    });
    const ends = await world.meet(client, server);
    const session = isServer ? ends.far : ends.near;
    await fillUp(world, session);

    const model = new QueueModel(bounds);
    for (let i = 0; i < session.stats.queuedMessages; i++) {
      model.add({ name: FILL, topic: FILL, size: sizeOf(FILL, PAD) });
    }
    for (const [n, { policy, topic, size }] of messages.entries()) {
      const name = `${policy}:${topic}`;
      const data = { n, pad: "x".repeat(size) };
      session.send(name, data);
      model.add({ name: `${n}`, topic: name, size: sizeOf(name, data) });
    }
    world.change(world.host("server"), world.host("client"), {
      isBlocked: false,
      ...FAULTS[fault],
    });
    await world.inTime("a flush of the backlog", session.flushed(), 30_000);
    const kept = model.names.filter((name) => name !== FILL).map(Number);
    await world.until("the last message", () => got.length >= kept.length, 10_000);

    assertEquals(got, kept);
    await world.until("all reports of drops", () => !isServer || reported >= model.dropped);
    if (isServer) assertEquals(reported, model.dropped);
    assertEquals(session.stats.droppedMessages, model.dropped);
    assertEquals(session.state, "connected");
  },
});

/** Blocks the link, and sends until messages wait in the session's queue. */
async function fillUp(world: World, session: Ends["near"] | Ends["far"]): Promise<void> {
  world.change(world.host("server"), world.host("client"), { isBlocked: true });
  for (let i = 0; i < 10 && session.stats.queuedMessages === 0; i++) {
    session.send(FILL, PAD);
    await world.pause(1);
  }
  assert(session.stats.queuedMessages > 0, "the connection accepts everything");
}

/** Returns the size of an envelope in bytes. */
function sizeOf(topic: string, data: unknown): number {
  return new TextEncoder().encode(JSON.stringify({ topic, data })).length;
}
