/**
 * Numbered messages of a client across several sessions. Each is handled once, and they are
 * acknowledged in order.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { z } from "zod";
import { defineContract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import { type Drawn, maybe } from "./draw.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Maximum number of concurrent requests in a session. */
const MOST_REQUESTS = 3;

/** Time for messages in flight, and maximum time until an acknowledgment, in milliseconds. */
const [TRIP_MS, ACK_MS] = [100, 4_000] as const;

const WORK = z.object({ n: z.number(), ms: z.number() });

/** The contract, in which data without a number is invalid. */
const CONTRACT = defineContract({
  toServer: { work: WORK },
  requests: { ask: { input: WORK, output: z.number() } },
});

/** Programs that receive the messages. */
const READERS = ["handler", "loop", "loop and requests", "none"] as const;

/** Kinds of envelopes other than requests: messages, and invalid messages. */
const KINDS = ["work", "wrong", "stray"] as const;

const envelope = fc.record({
  kind: fc.constantFrom(...KINDS),
  /** Difference from the previous number. */
  step: fc.integer({ min: 1, max: 2 }),
  ms: fc.nat(20),
});

const round = fc.record({
  /** Duration of the first handler, during which the other envelopes arrive. */
  firstMs: fc.nat(250),
  envelopes: fc.array(envelope, { maxLength: 12 }),
  /** Index of a request, or `undefined` without a request. */
  ask: maybe(fc.nat(11)),
  /** True if all envelopes are sent in one frame. */
  isJoined: fc.boolean(),
  /** Percentage of the acknowledged envelopes that the session repeats. */
  repeats: fc.nat(100),
  /**
   * Time after which the session ends. If it is `undefined`, the session ends once everything is
   * acknowledged.
   */
  endsAfterMs: maybe(fc.nat(250)),
});

type Round = Drawn<typeof round>;

/** A numbered envelope. */
interface Sent {
  readonly seq: number;
  readonly kind: typeof KINDS[number] | "ask";
  readonly ms: number;
  readonly hasId: boolean;
}

property("numbered messages and requests are handled once, and acknowledged after their replies", {
  cases: fc.record({
    reader: fc.constantFrom(...READERS),
    rounds: fc.array(round, { minLength: 1, maxLength: 3 }),
  }),
  async check(world, { reader, rounds }) {
    const handled = serve(world, reader);
    const sent: Sent[] = [];
    let acknowledged = -1;
    for (const round of rounds) {
      const page = await open(world);
      // Acknowledgments may have been lost with the previous session.
      const known = sent.filter(({ seq }) => seq <= acknowledged).length;
      const repeated = sent.slice(Math.floor((1 - round.repeats / 100) * known));
      const before = sent.at(-1)?.seq ?? 0;
      const fresh = envelopesOf(round, before);
      sent.push(...fresh);
      const all = [...repeated, ...fresh];
      // The reply to a repeated request reports that the first reply was lost.
      const ids = all.filter(({ kind, hasId }) => hasId && (kind !== "ask" || reader !== "none"))
        .map(({ seq }) => seq);
      for (const frame of framesOf(all, round.isJoined)) page.sendFrame(frame);
      const last = sent.at(-1)!.seq;
      if (round.endsAfterMs !== undefined) await world.pause(round.endsAfterMs);
      else {
        await world.until("an acknowledgment", () => acknowledgedBy(page) >= last, ACK_MS);
        await world.pause(TRIP_MS);
        assertEquals(acknowledgedBy(page), last);
        const isOther = (id: number) => all.some(({ seq, kind }) => seq === id && kind === "ask");
        const replies = page.received.flatMap(({ reply }) => reply ?? []);
        const answered = replies.filter((id) => ids.includes(id) || !isOther(id));
        assertEquals(answered.toSorted((a, b) => a - b), ids, "answers");
        const work = sent.filter(({ kind }) => kind === "work").map(({ seq }) => seq);
        const got = handled.filter((n) => work.includes(n));
        assertEquals(got, reader === "none" ? [] : work, "handled messages");
      }
      assertEquals(earlyOf(page, ids), [], "numbers acknowledged before their replies");
      acknowledged = Math.max(acknowledged, acknowledgedBy(page));
      page.close();
    }
  },
});

/** Starts the server and returns the handled numbers. */
function serve(world: World, reader: typeof READERS[number]): readonly number[] {
  const handled: number[] = [];
  const handle = async ({ data }: { readonly data: unknown }): Promise<number> => {
    const { n, ms } = data as z.infer<typeof WORK>;
    handled.push(n);
    if (ms > 0) await world.pause(ms);
    return n;
  };
  const loop = async (session: Session) => {
    for await (const message of session) {
      const n = await handle(message);
      if (message.isRequest) message.reply(n as never);
    }
  };
  world.serve("server", () => ({
    contract: CONTRACT,
    ...(reader === "handler" && {
      onMessage: async (message: { readonly data: unknown }) => void await handle(message),
    }),
    ...((reader === "handler" || reader === "loop and requests") && {
      requests: { ask: handle } as never,
    }),
    ...(reader.startsWith("loop") &&
      { onOpen: (session: unknown) => void loop(session as Session) }),
    session: { maxRequests: MOST_REQUESTS, maxInvalidMessages: 1_000 },
    onError() {},
  }));
  return handled;
}

/** Returns the envelopes of a round, with numbers after `before`. */
function envelopesOf({ firstMs, envelopes, ask }: Round, before: number): Sent[] {
  let seq = before;
  const first: Sent = { seq: ++seq, kind: "work", ms: firstMs, hasId: false };
  const rest = envelopes.map(({ kind, step, ms }, i): Sent => {
    const isAsk = i === ask;
    return { seq: seq += step, kind: isAsk ? "ask" : kind, ms, hasId: isAsk };
  });
  return [first, ...rest];
}

/** Opens a raw session. */
async function open(world: World): Promise<SimulatedPage> {
  const page = new SimulatedPage(world, world.host("server"), { name: "page" });
  await world.until("a session", () => page.isIn);
  return page;
}

/** Encodes envelopes as frames, with one envelope per frame or all in one frame. */
function framesOf(all: readonly Sent[], isJoined: boolean): string[] {
  const texts = all.map(({ seq, kind, ms, hasId }, i) => {
    const keys = { seq, id: hasId ? seq : undefined, ...(i === 0 && { client: "page" }) };
    const data = kind === "wrong" ? "no number" : { n: seq, ms };
    const topic = kind === "wrong" ? "work" : kind === "stray" ? "unknown" : kind;
    return JSON.stringify({ topic, data, ...keys });
  });
  return isJoined ? [texts.join("\n")] : texts;
}

/** The newest acknowledged number. */
function acknowledgedBy({ received }: SimulatedPage): number {
  return received.findLast(({ ack }) => ack !== undefined)?.ack ?? -1;
}

/** The ids of envelopes that were acknowledged before their reply. */
function earlyOf({ received }: SimulatedPage, ids: readonly number[]): number[] {
  return ids.filter((id) => {
    const reply = received.findIndex((envelope) => envelope.reply === id);
    const ack = received.findIndex(({ ack = -1 }) => ack >= id);
    return ack >= 0 && (reply < 0 || ack < reply);
  });
}
