/** Requests within requests, as deep as both ends allow and deeper, and answers that end in all ways. */
import { RequestError, TimeoutError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";
import { auditBadAnswers } from "./bad_answers.ts";

/** Handlers beside the first one, for each end: one for each request that waits. */
const BESIDE = 8;

/** Requests within each other that both ends can handle. */
const DEEPEST = 2 * (1 + BESIDE);

/** Shortest and longest time until deeper requests are refused, in milliseconds. */
const REFUSED_MS = [990, 2_600] as const;

/** Messages beside the requests. */
const MESSAGES = 4;

/** Chains of one run. */
const CHAINS = 3;

/** Requests at once, after all others. */
const BESIDES = 3;

/** Items of an answer, and longest wait for an item, in milliseconds. */
const [ITEMS, ITEM_MS] = [3, 200] as const;

/** Answers and requests of each end before the last requests. */
const OTHERS = 3;

/** Ways in which an answer in items, or a request, ends for the end that asked; and the outcome. */
const ENDS = {
  whole: "fulfilled",
  break: "fulfilled",
  cancel: "fulfilled",
  fail: "failed",
  signal: "AbortError: Enough",
  late: "TimeoutError",
} as const;

/** A way in which an answer ends. */
type End = keyof typeof ENDS;

/** Data of a request. */
interface Chain {
  /** Requests further down. */
  readonly left: number;
}

/**
 * Nests requests of both ends, and asks for answers that cannot be sent.
 *
 * @param audit The audit.
 */
export async function auditNested(audit: Audit): Promise<void> {
  await Promise.all([auditChains(audit), auditBadAnswers(audit)]);
}

/** Nests requests of both ends, and ends answers in all ways. */
async function auditChains(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("nested");
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const got: number[] = [];
  const ends: { client?: AnySession; server?: AnySession } = {};
  const down = (side: keyof typeof ends) => async ({ data }: { readonly data: unknown }) => {
    const { left } = data as Chain;
    if (left === 0) return 1;
    return 1 + Number(await ends[side]!.request("down", { left: left - 1 }));
  };
  let running = 0;
  let most = 0;
  const alone = async () => {
    most = Math.max(most, ++running);
    await audit.pause(10);
    running--;
  };
  const others = { alone, items, one };
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    requests: { down: down("server"), ...others },
    onMessage: async ({ data }) => {
      await audit.pause(5);
      got.push((data as { readonly n: number }).n);
    },
    onError() {},
  }));
  const client = audit.connect("nester", host, {
    token: undefined,
    transports: [transport],
    onMessage() {},
    onError() {},
    requests: { down: down("client"), ...others } as never,
  });
  const { near, far } = await audit.meet(client, server);
  ends.client = near;
  ends.server = far;
  for (let chain = 0; chain < CHAINS; chain++) {
    const isDeeper = random() < 0.3;
    const depth = isDeeper
      ? DEEPEST + 1 + Math.floor(4 * random())
      : 2 + Math.floor((DEEPEST - 1) * random());
    const asker = random() < 0.5 ? near : far;
    const about = `(${depth} over ${transport})`;
    const beganMs = audit.nowMs;
    let answer: unknown;
    const asking = outcomeOf(
      asker.request("down", { left: depth - 1 }).then((value) => answer = value),
    );
    got.length = 0;
    for (let n = 1; n <= MESSAGES; n++) near.send("note", { n });
    const outcome = await asking;
    const tookMs = audit.nowMs - beganMs;
    if (isDeeper) {
      const [least, most] = REFUSED_MS;
      audit.examine("waits", `requests nested too deep ${about}`, "too-many", outcome);
      const isInTime = tookMs >= least && tookMs <= most;
      audit.examine("waits", `${tookMs} ms of nested requests ${about}`, true, isInTime);
    } else {
      audit.examine("waits", `nested requests ${about}`, ["fulfilled", depth], [outcome, answer]);
    }
    await audit.until(() => got.length >= MESSAGES, 1_000);
    audit.examine("waits", `messages beside requests ${about}`, range(1, MESSAGES), got);
  }
  for (const session of [near, far]) await askOthers(audit, session, transport);
  for (const [side, session] of Object.entries(ends)) {
    most = 0;
    await Promise.all(Array.from({ length: BESIDES }, () => session.request("alone")));
    audit.examine("queues", `handlers at once, asked by a ${side} over ${transport}`, 1, most);
  }
  await client.close();
  await server.close();
}

/** Answers in items, and then as the end demands. */
async function* items(
  { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
): AsyncGenerator<unknown> {
  yield* range(1, ITEMS);
  if (data !== "whole") await one({ data, signal });
}

/** Fails, answers, or waits until the peer gives up. */
async function one(
  { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
): Promise<unknown> {
  if (data === "fail") throw new RequestError("failed", "As planned");
  if (data === "whole") return data;
  await new Promise((resolve) => signal.addEventListener("abort", resolve));
  return data;
}

/** Asks for answers that end in drawn ways: none is awaited afterwards. */
async function askOthers(audit: Audit, session: AnySession, transport: string): Promise<void> {
  const { random } = audit;
  const told: string[] = [];
  for (let i = 0; i < OTHERS; i++) {
    const isStream = i === 0 || random() < 0.6;
    // A request for one reply has neither a loop nor items.
    const drawn = oneOf(random, Object.keys(ENDS) as End[]);
    const end = !isStream && (drawn === "break" || drawn === "cancel") ? "whole" : drawn;
    told.push(`${end} of ${isStream ? "items" : "one"}`);
    let timeouts = 0;
    const note = ({ detail }: { readonly detail: unknown }) => {
      if (detail instanceof TimeoutError) timeouts++;
    };
    session.events.addEventListener("error", note);
    const outcome = await outcomeOf(ask(audit, session, { isStream, end }));
    session.events.removeEventListener("error", note);
    const due = end === "late" ? 1 : 0;
    audit.examine(
      "waits",
      `events of waits that are late (${told} over ${transport})`,
      due,
      timeouts,
    );
    audit.examine("waits", `end of an answer (${told} over ${transport})`, ENDS[end], outcome);
  }
  const about = `answers awaited behind ${told} over ${transport}`;
  audit.examine("waits", about, 0, session.stats.awaitedAnswers);
}

/** Asks for one answer, and ends the wait. */
async function ask(
  audit: Audit,
  session: AnySession,
  { isStream, end }: { readonly isStream: boolean; readonly end: End },
): Promise<void> {
  const stop = new AbortController();
  const giveUp = (how: () => unknown) => audit.pause(ITEM_MS * audit.random()).then(how);
  const { signal } = stop;
  if (end === "signal") void giveUp(() => stop.abort(new DOMException("Enough", "AbortError")));
  if (!isStream) {
    await session.request("one", end, { signal, ...(end === "late" && { timeoutMs: ITEM_MS }) });
    return;
  }
  const answer = session.requestStream("items", end, {
    signal,
    ...(end === "late" && { itemTimeoutMs: ITEM_MS }),
  });
  if (end === "cancel") void giveUp(() => answer.cancel());
  let got = 0;
  for await (const _item of answer) if (++got === ITEMS && end === "break") break;
}
