/** Answers and messages that cannot be sent, and answers that come twice: nothing waits behind these. */
import { CloseCode, RequestError } from "../../../../../errors.ts";
import { internals } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, type Expect, outcomeOf } from "../audit.ts";

/** Most bytes of a message. */
const MAX_BYTES = 4_096;

/** Most requests without an answer: fewer than the requests of a run, one after the other. */
const MAX_REQUESTS = 3;

/** Requests of each end. */
const REQUESTS = 9;

/** Longest time of a handler, and of the answer to a request behind the handler, in milliseconds. */
const [HANDLER_MS, ANSWER_MS] = [10, 700] as const;

/** Failures of handlers within a minute that a session survives. */
const MAX_FAILURES = 20;

/** Longest time of a drain without any work, in milliseconds. */
const DRAIN_MS = 300;

/** Data that no message holds. */
const BAD = {
  bigint: () => 1n,
  cycle: () => {
    const cycle: Record<string, unknown> = {};
    return cycle.self = cycle;
  },
  thrower: () => ({
    toJSON() {
      throw new TypeError("planned failure");
    },
  }),
  large: () => "x".repeat(MAX_BYTES),
  "large bytes": () => new Uint8Array(MAX_BYTES),
} as const;

/** Name of data that no message holds. */
type Bad = keyof typeof BAD;

/** Handlers: each ends in a way of its own, and the caller has the outcome. */
const HANDLERS = {
  "bad reply": "failed",
  "bad reply, then a good one": "good",
  "bad reply, then none": "unanswered",
  "bad reply, then an error": "planned",
  "two bad replies": "failed",
  "two bad replies, then a good one": "good",
  "good reply, then a bad one": "good",
  "good reply, then an error": "good",
  "two good replies": "good",
  "reply behind the caller": "AbortError: Enough",
  "bad result": "failed",
  "bad item": "failed",
} as const;

/** Name of a handler. */
type Handling = keyof typeof HANDLERS;

/** Data of a request. */
interface Asked {
  readonly how: Handling;
  readonly bad: Bad;
  readonly waitMs: number;
}

/** The members of a message that handlers use. */
interface Heard {
  readonly topic: string;
  readonly data: unknown;
  readonly signal: AbortSignal;
  reply(data: unknown): void;
}

/** Requests and their transport. */
interface Asking {
  readonly audit: Audit;
  readonly random: () => number;
  readonly expect: Expect;
}

/**
 * Asks both ends for answers that cannot be sent.
 *
 * @param audit The audit.
 */
export async function auditBadAnswers(audit: Audit): Promise<void> {
  const random = audit.chanceOf("bad answers");
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const expect: Expect = (what, ...outcome) =>
    audit.examine("waits", `${what} over ${transport}`, ...outcome);
  const handling = handlersOf({ audit, random, expect });
  const settings = { maxMessageBytes: MAX_BYTES, maxRequests: MAX_REQUESTS };
  const { server } = new SimulatedServer<unknown>(audit.network, audit.host("bad-answers"), () => ({
    session: settings,
    ...handling,
    onError() {},
  }));
  const client = audit.connect("bad-answerer", audit.host("bad-answers"), {
    token: undefined,
    transports: [transport],
    ...settings,
    ...handling,
    onError() {},
  } as never);
  const { near, far } = await audit.meet(client, server);
  for (const [asker, handler] of [[near, far], [far, near]] as const) {
    await askAll({ audit, random, expect }, asker, handler);
  }
  await audit.pause(ANSWER_MS);
  const drained = oneOf(random, [near, far]);
  const ending = audit.inTime(drained.drain().then(() => "in time"), DRAIN_MS, "too late");
  expect("drain without any work", "in time", await ending);
  await client.close();
  await server.close();
  await auditFailures(audit, random);
}

/** Lets the handlers of one end fail as often as a session survives, and once more. */
async function auditFailures(audit: Audit, random: () => number): Promise<void> {
  const host = audit.host("failing-handlers");
  const failing = {
    onMessage() {
      throw new Error("planned failure");
    },
    onError() {},
  };
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => failing);
  const client = audit.connect("failing-handler", host, { token: undefined, ...failing });
  const { near, far } = await audit.meet(client, server);
  const [sender, handler] = oneOf(random, [[near, far], [far, near]] as const);
  for (let left = MAX_FAILURES; left > 0; left--) sender.send("fail");
  await audit.pause(ANSWER_MS);
  const expect: Expect = (...outcome) => audit.examine("queues", ...outcome);
  expect(`session behind ${MAX_FAILURES} failures`, "connected", handler.state);
  sender.send("fail");
  const { code, by } = await audit.inTime(handler.closed, ANSWER_MS, undefined) ?? {};
  const right = [CloseCode.handlerFailed, "local"];
  expect("end of a session whose handlers fail too often", right, [code, by]);
  await client.close();
  await server.close();
}

/** Makes the handlers of an end. */
function handlersOf({ audit, random, expect }: Asking) {
  const attempt = (message: Heard, data: unknown, isAllowed: boolean) => {
    try {
      message.reply(data);
      expect(`${isAllowed ? "" : "error of a "}reply`, isAllowed, true);
    } catch (error) {
      expect(`reply that throws ${error}`, isAllowed, false);
      throw error;
    }
  };
  const tryTo = (...args: Parameters<typeof attempt>) => {
    try {
      attempt(...args);
    } catch {
      // The handler goes on.
    }
  };
  const onMessage = async (message: Heard) => {
    const { how, bad } = message.data as Asked;
    const isLate = how === "reply behind the caller";
    if (random() < 0.5) await audit.pause(between(random, 0, HANDLER_MS));
    if (isLate) await abortOf(message);
    const wrong = () => BAD[bad]();
    switch (how) {
      case "bad reply":
        return attempt(message, wrong(), false);
      case "bad reply, then a good one":
        tryTo(message, wrong(), false);
        return attempt(message, "good", true);
      case "bad reply, then none":
        return tryTo(message, wrong(), false);
      case "bad reply, then an error":
        tryTo(message, wrong(), false);
        throw new RequestError("planned", "As planned");
      case "two bad replies":
        tryTo(message, wrong(), false);
        return attempt(message, wrong(), false);
      case "two bad replies, then a good one":
        tryTo(message, wrong(), false);
        tryTo(message, wrong(), false);
        return attempt(message, "good", true);
      case "good reply, then a bad one":
        attempt(message, "good", true);
        return tryTo(message, wrong(), false);
      case "good reply, then an error":
        attempt(message, "good", true);
        throw new RequestError("planned", "As planned");
      case "two good replies":
      case "reply behind the caller":
        // The reply of a caller that gave up is discarded.
        attempt(message, "good", true);
        return tryTo(message, "better", false);
    }
  };
  const requests = {
    result: ({ data }: Heard) => BAD[(data as Asked).bad](),
    items: async function* ({ data }: Heard) {
      let isLeft = false;
      void audit.pause(ANSWER_MS).then(() =>
        expect("generator of a bad item is left", true, isLeft)
      );
      try {
        yield "good";
        yield BAD[(data as Asked).bad]();
      } finally {
        isLeft = true;
      }
    },
  };
  // Requests of other topics go to the handler of messages.
  return { onMessage, requests } as never as Record<never, never>;
}

/** Waits until the caller gives up. */
async function abortOf({ signal }: Heard): Promise<void> {
  if (signal.aborted) return;
  await new Promise((resolve) => signal.addEventListener("abort", resolve));
}

/** Sends requests to one end, one after the other, and data that cannot be sent. */
async function askAll(
  { audit, random, expect }: Asking,
  asker: AnySession,
  handler: AnySession,
): Promise<void> {
  for (let left = REQUESTS; left > 0; left--) {
    const how = oneOf(random, Object.keys(HANDLERS) as Handling[]);
    const bad = oneOf(random, Object.keys(BAD) as Bad[]);
    const stop = new AbortController();
    const waitMs = between(random, 0, HANDLER_MS);
    const data: Asked = { how, bad, waitMs };
    if (how === "reply behind the caller") {
      void audit.pause(2 * HANDLER_MS + waitMs).then(() =>
        stop.abort(new DOMException("Enough", "AbortError"))
      );
    }
    const { signal } = stop;
    const asking = how === "bad item"
      ? Array.fromAsync(asker.requestStream("items", data, { signal })).then(() => "items")
      : asker.request(how === "bad result" ? "result" : "other", data, { signal });
    const outcome = audit.inTime(
      asking.then((answer) => answer as string, (error) => outcomeOf(Promise.reject(error))),
      ANSWER_MS,
      "no answer in time",
    );
    expect(`outcome of a request (${how}: ${bad})`, HANDLERS[how], await outcome);
    await examineBadSends({ audit, random, expect }, asker);
  }
  await audit.until(() => handler[internals].receiving.replies.size === 0, ANSWER_MS);
  const { size, leaving } = handler[internals].receiving.replies;
  expect("answers owed behind all requests", [0, 0], [size, leaving]);
  expect("requests open behind all requests", 0, asker[internals].sending.openRequests);
  // Each request has one answer.
  expect("late answers", 0, asker.stats.lateAnswers);
}

/** Sends data that no message holds: the call fails at once, and leaves nothing behind. */
async function examineBadSends(
  { audit, random, expect }: Asking,
  session: AnySession,
): Promise<void> {
  const bad = oneOf(random, Object.keys(BAD) as Bad[]);
  const call = oneOf(random, ["send", "request", "requestStream"] as const);
  const data = BAD[bad]() as never;
  const doing = async () => {
    if (call === "send") session.send("other", data);
    else if (call === "request") await session.request("other", data);
    else await Array.fromAsync(session.requestStream("items", data));
  };
  const expected = bad.startsWith("large") ? "RangeError" : "TypeError";
  const outcome = await audit.inTime(outcomeOf(doing()), ANSWER_MS, "no error in time");
  expect(`${call} of data that no message holds (${bad})`, expected, outcome.split(":")[0]);
  const { openRequests, awaitedAnswers } = session[internals].sending;
  expect(`requests open behind a bad ${call}`, [0, 0], [openRequests, awaitedAnswers]);
}
