/** Numbered messages, requests and publications, refused and repeated: the turn of each one ends. */
import { z } from "zod";
import { BrokerError } from "../../../../../errors.ts";
import type { Session } from "../../../../../session/session.ts";
import { defineContract } from "../../../../../session/contract.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import { range } from "../history.ts";

/** Name of the client, and beginning of the names of machines. */
const NAME = "turns";

/** Programs of a server: a handler, a loop, a loop beside handlers of requests, and none. */
const READERS = ["handler", "loop", "loop", "loop and requests", "none"] as const;

/** Requests of a session at once, sessions of a run, and most envelopes of one session. */
const [MOST_REQUESTS, SESSIONS, ENVELOPES] = [3, 3, 12] as const;

/** Publications of a flood beside these: more than wait at once, with the places for rooms. */
const FLOOD = MOST_REQUESTS + 32;

/** Share of frames with publications alone behind the first message, and that of joined frames. */
const [FLOOD_SHARE, JOINED_SHARE] = [0.4, 0.5] as const;

/** Longest time of a handler, and of the first one of a frame, in milliseconds. */
const [SHORT_MS, LONG_MS] = [20, 250] as const;

/** Time for messages under way, and longest time until the last acknowledgement, in milliseconds. */
const [TRIP_MS, ACK_MS] = [100, 2_500] as const;

/** Kinds of numbered envelopes beside requests, of which a session has one at most. */
const KINDS = [
  "work",
  "work",
  "wrong",
  "stray",
  "publication",
  "publication",
  "forbidden",
  "failing",
] as const;

/** The kinds of a flood: many failures end a session. */
const FLOODING = ["publication", "publication", "forbidden"] as const;

/** Data of all kinds. */
const WORK = z.object({ n: z.number(), ms: z.number() });

/** The contract, by which data without a number is refused. */
const CONTRACT = defineContract({
  toServer: { work: WORK },
  toClient: { "talk:{name}": WORK },
  requests: { ask: { input: WORK, output: z.number() } },
});

/** A numbered envelope. */
interface Sent {
  readonly seq: number;
  readonly kind: typeof KINDS[number] | "ask";
  readonly ms: number;
  /** Id of an envelope that has an answer. */
  readonly id: number | undefined;
}

/** The parts of an envelope of the server that the client reads. */
interface Received {
  readonly ack?: number;
  readonly reply?: number | null;
}

/** A message or request, as handlers and loops get these. */
interface Heard {
  readonly data: unknown;
}

/** A session, with the acknowledged number, and the ids of the answers. */
interface Page {
  readonly socket: SimulatedWebSocket;
  acknowledged: number;
  readonly replies: number[];
  /** Ids of the envelopes that have an answer in any case. */
  asked: readonly number[];
  /** Ids that were acknowledged before their answer came. */
  readonly unanswered: Set<number>;
}

/**
 * Sends numbered envelopes of all kinds in some sessions, and repeats those of the sessions before.
 *
 * @param audit The audit.
 */
export async function auditTurns(audit: Audit): Promise<void> {
  const random = audit.chanceOf(NAME);
  const host = audit.host(`${NAME}-server`);
  const reader = oneOf(random, READERS);
  const handled: number[] = [];
  /** Number of the message whose handler fails. */
  let failsAt = -1;
  const handle = async ({ data }: Heard) => {
    const { n, ms } = data as z.infer<typeof WORK>;
    handled.push(n);
    if (reader === "handler" && n === failsAt) {
      failsAt = -1;
      throw new BrokerError("Cannot call the engine: as planned");
    }
    if (ms > 0) await audit.pause(ms);
    return n;
  };
  const loop = async (session: Session) => {
    for await (const message of session) {
      const n = await handle(message);
      if (message.isRequest) message.reply(n as never);
    }
  };
  const { server } = new SimulatedServer(audit.network, host, () => ({
    contract: CONTRACT,
    authorize: (_session, topic) => {
      if (topic === "talk:failing") throw new Error("No rights today");
      return topic !== "talk:forbidden";
    },
    ...(reader === "handler" && { onMessage: (message: Heard) => handle(message).then(() => {}) }),
    ...((reader === "handler" || reader === "loop and requests") && {
      requests: { ask: handle } as never,
    }),
    ...(reader.startsWith("loop") && { onOpen: (session) => void loop(session as never) }),
    session: { maxRequests: MOST_REQUESTS, maxInvalidMessages: 1_000 },
    onError() {},
  }));
  const sent: Sent[] = [];
  let acknowledged = -1;
  for (let round = 0; round < SESSIONS; round++) {
    const page = await open(audit, host.name);
    // Acknowledgements may have been lost with the session before.
    const known = sent.filter(({ seq }) => seq <= acknowledged).length;
    const repeated = sent.slice(Math.floor(between(random, 0, known + 1)));
    const fresh = draw(random, sent);
    sent.push(...fresh);
    const all = [...repeated, ...fresh];
    const about = (what: string) =>
      `${what} in session ${round} of ${reader}: ${all.map(({ kind }) => kind)}`;
    // A repeated request may have no answer: its message was handled before.
    const isAsked = ({ kind, id }: Sent) =>
      id !== undefined && (kind !== "ask" || reader !== "none" && id > (repeated.at(-1)?.seq ?? 0));
    const ids = all.filter(isAsked).map(({ seq }) => seq);
    page.asked = ids;
    send(page.socket, all, random() < JOINED_SHARE);
    const last = sent.at(-1)!.seq;
    if (round < SESSIONS - 1 && random() < 0.3) {
      await audit.pause(LONG_MS * random());
    } else {
      await audit.until(() => page.acknowledged >= last, ACK_MS);
      await audit.pause(TRIP_MS);
      audit.examine("lives", about("acknowledged number"), last, page.acknowledged);
      const answered = page.replies.filter((id) =>
        ids.includes(id) || !all.some(({ seq, kind }) => seq === id && kind === "ask")
      ).toSorted((a, b) => a - b);
      audit.examine("lives", about("answers"), ids, answered);
      const work = sent.filter(({ kind }) => kind === "work").map(({ seq }) => seq);
      const expected = reader === "none" ? [] : work;
      const came = handled.filter((n) => work.includes(n));
      audit.examine("lives", about("handled messages"), expected, came);
    }
    // A session that ends here loses the answers behind an acknowledgement.
    audit.examine("lives", about("numbers acknowledged before their answers"), [], [
      ...page.unanswered,
    ]);
    acknowledged = Math.max(acknowledged, page.acknowledged);
    page.socket.close(1_000);
    if (random() < 0.5) await audit.pause(TRIP_MS);
  }
  if (reader !== "none") {
    failsAt = (sent.at(-1)?.seq ?? 0) + 2;
    await passFailure({ audit, host: host.name, reader, handled }, failsAt - 1);
  }
  await audit.until(() => server.manager.count === 0);
  await server.close();
}

/**
 * Sends messages of which the handler of the second one finds the engine away, once: the session
 * ends, and the next session begins with that message.
 */
async function passFailure(
  { audit, host, reader, handled }: {
    readonly audit: Audit;
    readonly host: string;
    readonly reader: string;
    readonly handled: number[];
  },
  first: number,
): Promise<void> {
  const all = range(first, first + 2).map((seq): Sent => ({
    seq,
    kind: "work",
    ms: 0,
    id: undefined,
  }));
  handled.length = 0;
  const ended = await open(audit, host);
  send(ended.socket, all, false);
  const about = `of a handler whose engine was away (${reader})`;
  if (reader === "handler") {
    const isOver = await audit.until(() => ended.socket.readyState === 3, ACK_MS);
    audit.examine("lives", `end ${about}`, true, isOver);
    audit.examine("lives", `acknowledged number ${about}`, first, ended.acknowledged);
  } else await audit.pause(TRIP_MS);
  const page = await open(audit, host);
  send(page.socket, all, false);
  await audit.until(() => page.acknowledged >= first + 2, ACK_MS);
  audit.examine("lives", `next number ${about}`, first + 2, page.acknowledged);
  const expected = [first, first + 1, ...(reader === "handler" ? [first + 1] : []), first + 2];
  audit.examine("lives", `messages ${about}`, expected, handled);
  for (const { socket } of [ended, page]) socket.close(1_000);
}

/** Opens a session. */
async function open(audit: Audit, host: string): Promise<Page> {
  const socket = audit.network.sockets(audit.host(NAME))(new URL(`wss://${host}/`), ["skein.1"]);
  const page: Page = { socket, acknowledged: -1, replies: [], asked: [], unanswered: new Set() };
  socket.onmessage = ({ data }) => {
    for (const { ack, reply } of envelopesOf<Received>(data)) {
      if (typeof reply === "number") page.replies.push(reply);
      if (ack === undefined) continue;
      page.acknowledged = ack;
      for (const id of page.asked) {
        if (id <= ack && !page.replies.includes(id)) page.unanswered.add(id);
      }
    }
  };
  await audit.until(() => socket.readyState === 1);
  return page;
}

/** Draws the next envelopes of a client. */
function draw(random: () => number, sent: readonly Sent[]): Sent[] {
  const isFlood = random() < FLOOD_SHARE;
  const kinds = isFlood ? FLOODING : KINDS;
  const asking = Math.ceil(ENVELOPES * random());
  let seq = sent.at(-1)?.seq ?? 0;
  const count = Math.ceil(ENVELOPES * random()) + (isFlood ? FLOOD : 0);
  return Array.from({ length: count }, (_, i): Sent => {
    seq += 1 + Math.floor(2 * random());
    const isFirst = i === 0;
    const kind = isFirst ? "work" : i === asking ? "ask" : oneOf(random, kinds);
    const isMessage = ["work", "wrong", "stray"].includes(kind);
    const hasId = kind === "ask" || !isMessage && random() < 0.7;
    const ms = Math.floor((isFirst ? LONG_MS : SHORT_MS) * random());
    return { seq, kind, ms, id: hasId ? seq : undefined };
  });
}

/** Sends envelopes, each in a frame of its own or all in one. */
function send(socket: SimulatedWebSocket, all: readonly Sent[], isJoined: boolean): void {
  const texts = all.map(({ seq, kind, ms, id }, i) => {
    const keys = { seq, id, ...(i === 0 && { client: NAME }) };
    const data = { n: seq, ms };
    if (kind === "work" || kind === "ask") return JSON.stringify({ topic: kind, data, ...keys });
    if (kind === "wrong") return JSON.stringify({ topic: "work", data: "no number", ...keys });
    if (kind === "stray") return JSON.stringify({ topic: "unknown", data, ...keys });
    return JSON.stringify({ publish: `talk:${kind}`, data, ...keys });
  });
  if (isJoined) socket.send(texts.join("\n"));
  else for (const text of texts) socket.send(text);
}
