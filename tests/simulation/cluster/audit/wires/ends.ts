/** Ends of sessions in all ways, judged at both ends: reason, messages, waits, and held streams. */
import { CloseCode, type CloseInfo, SessionClosedError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { FINAL, nameAfter } from "../../../closes.ts";
import type { AnySession, Audit } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { auditClockSteps } from "./clock_steps.ts";
import { auditEarlyMarks } from "./early_marks.ts";
import { HeldStreams } from "./held_streams.ts";
import { auditLastMessages } from "./last_messages.ts";
import { auditLateBegins } from "./late_begins.ts";
import { auditLoneWaits } from "./lone_waits.ts";
import { auditUnread } from "./unread.ts";

/** Heartbeat of the server, which the client follows. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 } as const;

/** Least and most time until an end gives up a silent peer, in milliseconds. */
const SILENCE_MS = { server: [1_900, 4_200], client: [1_300, 3_600] } as const;

/** Time for messages under way, in milliseconds. */
const TRIP_MS = 60;

/** Most time of an end with a notice, in milliseconds. */
const HEARD_MS = { websocket: 300, webtransport: 300, http: 1_200 } as const;

/** The same over the hardened engine: large messages need several trips on the windows of the model. */
const HEARD_HARDENED_MS = { ...HEARD_MS, websocket: 500 } as const;

/** Time of both ends to flush the messages before a close, in milliseconds. */
const CLOSE_MS = 1_000;

/** Handlers at once; some hold requests until the end. */
const CONCURRENCY = 9;

/** Most messages before the end, and their bytes. */
const [MESSAGES, MESSAGE_BYTES] = [10, 20_000];

/** Ways in which a session ends. */
const WAYS = [
  "client closes",
  "server closes",
  "client closes, and the network is lost",
  "server closes, and the network is lost",
  "both close",
  "reset",
  "reset of the client",
  "reset of the server",
  "client dies",
  "client loses power",
] as const;

/** Ways over HTTP, where a client asks again after a reset, and after the loss of an answer. */
const HTTP_WAYS = [
  "client closes",
  "server closes",
  "server closes",
  "server closes, and the answer is lost",
  "server closes, and the answer is lost",
  "both close",
  "client dies",
  "client loses power",
] as const;

/**
 * Ways with a fault right behind the close, which the other end then hears of or not: docs/protocol.md
 * 16.9.
 */
const CUT_WAYS = [
  "server closes, then the way breaks",
  "server closes, then the way breaks",
  "server closes, then dies",
  "server closes, then dies",
  "client closes, then the way breaks",
  "client closes, then dies",
] as const;

/**
 * Ways over WebTransport in which no answer to the end of messages arrives: the close follows after
 * 1 s, or never.
 */
const UNANSWERED_WAYS = [
  "server closes without an answer",
  "client closes without an answer",
  "server closes without an answer, then dies",
  "server closes without an answer, then dies",
  "client closes without an answer, then dies",
] as const;

/** Time between the end of messages and such a death, in milliseconds. */
const DEATH_MS = [150, 850] as const;

/** Time until the other end of such a session hears the close, or gives up the wait, in milliseconds. */
const UNANSWERED_MS = { heard: [900, 1_400], late: [1_900, 2_400] } as const;

/** Heartbeat beside such a fault: the wait of 16.9 for the close is over first. */
const SLOW_HEARTBEAT = { intervalMs: 2_000, timeoutMs: 5_000 } as const;

/** Time between such a close and the fault, in milliseconds: about that of the close itself. */
const FAULT_MS = [2, 36] as const;

/** Longest time of one attempt to connect, in milliseconds: a dead server does not answer. */
const DIAL_MS = 2_000;

/** Longest delay between attempts, in milliseconds: some codes bring on this delay at once. */
const LONGEST_DELAY_MS = 5_000;

/** Most time of an end that closes, and of the other end, in milliseconds. */
const CUT_MS = { closer: 2_500, other: 7_500 } as const;

/** Most time until a client asks again for a lost answer, in milliseconds. */
const AGAIN_MS = 3_000;

/** Codes of a close by a program. */
const CODES = [CloseCode.normal, CloseCode.normal, 3_000, 4_000, 4_999, ...FINAL];

/** An end of a session. */
type Side = "client" | "server";

/** Code and reason of a close by each end. */
type Closes = Readonly<Record<Side, { readonly code: number; readonly reason: string }>>;

/** Outcome of the session at one end. */
interface End {
  readonly session: AnySession;
  /** Numbers of the messages that came. */
  readonly got: readonly number[];
  /** Number of messages sent before the end. */
  sent: number;
  info: CloseInfo | undefined;
  endedMs: number;
  /** Waits by name, with the error of each; `undefined` while the wait goes on. */
  readonly waits: Map<string, unknown>;
}

/**
 * Ends sessions with messages, requests and streams under way.
 *
 * @param audit The audit.
 */
export async function auditEnds(audit: Audit): Promise<void> {
  const { random } = audit;
  const transport = random() < 0.7 ? "websocket" : "webtransport";
  const wire = random() < 0.2 ? "websocket" : "webtransport";
  await Promise.all([
    auditEnd(audit, { transport, way: oneOf(random, WAYS) }),
    auditEnd(audit, { transport: "http", way: oneOf(random, HTTP_WAYS) }),
    auditEnd(audit, { transport: wire, way: oneOf(random, CUT_WAYS) }),
    auditEnd(audit, { transport: "webtransport", way: oneOf(random, UNANSWERED_WAYS) }),
    auditUnread(audit),
    auditLastMessages(audit),
    auditLateBegins(audit),
    auditEarlyMarks(audit),
    auditClockSteps(audit),
    auditLoneWaits(audit),
  ]);
}

async function auditEnd(
  audit: Audit,
  { transport, way }: Pick<Ended, "transport" | "way">,
): Promise<void> {
  const about = `(${way}, ${transport})`;
  const isUnanswered = isWithoutAnswer(way);
  const isCut = isCutOff(way);
  const isHardened = audit.settings.has("hardened");
  const name = isUnanswered ? "unanswered" : isCut ? `${transport}-cut` : transport;
  const random = audit.chanceOf(name);
  const [host, machine] = [audit.host(`ends-${name}`), audit.host(`ender-${name}`)];
  const got: Readonly<Record<Side, number[]>> = { client: [], server: [] };
  const take = (side: Side) => ({ data }: { readonly data: unknown }) => {
    got[side].push((data as { readonly n: number }).n);
  };
  const requests = { hold: () => new Promise(() => {}) };
  const streams = new HeldStreams(audit, random);
  const heartbeat = isCut ? SLOW_HEARTBEAT : HEARTBEAT;
  const program = new SimulatedServer<unknown>(audit.network, host, () => ({
    session: { heartbeat, concurrency: CONCURRENCY, closeTimeoutMs: CLOSE_MS },
    flowControl: HeldStreams.credit,
    requests,
    onMessage: take("server"),
    onStream: (stream) => streams.accept("server", stream),
    onError() {},
  }));
  const client = audit.connect(`ender-${name}`, host, {
    token: undefined,
    transports: [transport],
    connectTimeoutMs: DIAL_MS,
    backoff: { maxDelayMs: LONGEST_DELAY_MS },
    closeTimeoutMs: CLOSE_MS,
    flowControl: HeldStreams.credit,
    concurrency: CONCURRENCY,
    requests: requests as never,
    onMessage: take("client"),
    onError() {},
  });
  const { near, far } = await audit.meet(client, program.server);
  const ends = { client: endOf(audit, near, got.client), server: endOf(audit, far, got.server) };
  if (transport === "websocket") await streams.begin({ client: near, server: far });
  await audit.pause(between(random, 0, 2 * heartbeat.intervalMs));
  for (const end of Object.values(ends)) {
    wait(end, "request", end.session.request("hold"));
    wait(end, "answer", Array.fromAsync(end.session.requestStream("hold")));
  }
  await audit.pause(TRIP_MS);
  for (const end of Object.values(ends)) send(end, random, !isUnanswered);
  if (random() < 0.5) await audit.pause(TRIP_MS * random());
  // Another code than that of a lost close.
  const codes = isCut ? CODES.filter((code) => code !== CloseCode.normal) : CODES;
  const closes: Closes = { client: closeOf(random, codes), server: closeOf(random, codes) };
  const beganMs = audit.nowMs;
  const isLost = way.endsWith(" is lost");
  const block = (isBlocked: boolean) => {
    if (way.endsWith("network is lost")) audit.block(host, machine, isBlocked);
    else audit.network.change(host, machine, { isBlocked });
  };
  if (isLost) block(true);
  const answerer = sideOf(way) === "server" ? [machine, host] as const : [host, machine] as const;
  if (isUnanswered) audit.network.change(...answerer, { isBlocked: true });
  if (way.endsWith("network is lost") && random() < 0.7) {
    // The close waits for these.
    for (let left = MESSAGES; left > 0; left--) sendOne(ends[sideOf(way)], MESSAGE_BYTES);
  }
  if (way.startsWith("client closes") || way === "both close") void near.close(closes.client);
  if (way.startsWith("server closes") || way === "both close") void far.close(closes.server);
  if (isLost) {
    await audit.pause(TRIP_MS * random());
    audit.cut(machine);
    block(false);
  }
  if (way === "reset") audit.cut(machine);
  if (way === "reset of the client") audit.cut(machine, "server");
  if (way === "reset of the server") audit.cut(machine, "client");
  const [soonest, latest] = isUnanswered ? DEATH_MS : FAULT_MS;
  if (isCut) await audit.pause(between(random, soonest, latest));
  if (way.endsWith("then the way breaks")) audit.cut(machine, true);
  const isCloserDead = way.endsWith(", then dies");
  const isServerDead = isCloserDead && sideOf(way) === "server";
  if (isServerDead) host.kill();
  const isDead = way === "client dies" || way === "client loses power" ||
    isCloserDead && sideOf(way) === "client";
  if (isDead) machine.kill({ power: way === "client loses power" });
  const alive = { client: !isDead, server: !isServerDead };
  const sides = (["client", "server"] as const).filter((side) => alive[side]);
  if (!isCut && (isDead || way.startsWith("reset"))) {
    // The end learns of the loss later.
    for (const end of sides.map((side) => ends[side])) {
      wait(end, "late request", end.session.request("hold"));
      wait(end, "ping", end.session.ping());
    }
  }
  await audit.until(() => sides.every((side) => ends[side].info !== undefined));
  if (isUnanswered) audit.network.change(...answerer, { isBlocked: false });
  await audit.pause(TRIP_MS);
  for (const side of sides) {
    const end = ends[side];
    const expected = expectedEnd({ way, side, transport, closes, isHardened });
    examineEnd(audit, { end, ...expected, beganMs, about });
    examineWaits(audit, end, `of the ${side} ${about}`);
    const { sent } = ends[side === "client" ? "server" : "client"];
    // All messages before a close arrive.
    const { info: { by, code } = {} } = end;
    const isWhole = sideOf(way) !== side && way !== "both close" &&
      (isUnanswered || by === "remote" && code === closes[sideOf(way)].code);
    const isPart = end.got.length <= sent && (!isWhole || end.got.length === sent);
    const messages = range(1, isPart ? end.got.length : sent);
    audit.examine("lives", `messages before the end at the ${side} ${about}`, messages, end.got);
  }
  if (!isDead) {
    const { isEnded, current } = client.status;
    const name = nameAfter(ends.client.info!, true);
    const expected = name === "reconnecting" ? "goes on" : name;
    const received = isEnded ? current.name : "goes on";
    audit.examine("lives", `client after the end ${about}`, expected, received);
    if (isServerDead) program.restart();
    if (!isEnded) {
      const isBack = await audit.until(() => client.isConnected);
      audit.examine("lives", `client that comes back ${about}`, true, isBack);
    }
  }
  await streams.examine(sides, about);
  if (!isDead) await client.close();
  await program.server.close();
}

function endOf(audit: Audit, session: AnySession, got: readonly number[]): End {
  const end: End = {
    session,
    got,
    sent: 0,
    info: undefined,
    endedMs: Infinity,
    waits: new Map<string, unknown>(),
  };
  void session.closed.then((info) => {
    end.info = info;
    end.endedMs = audit.nowMs;
  });
  return end;
}

/** Notes how a wait ends. */
function wait({ waits }: End, name: string, promise: Promise<unknown>): void {
  waits.set(name, undefined);
  promise.then(() => waits.set(name, "fulfilled"), (error) => waits.set(name, error));
}

function send(end: End, random: () => number, mayBeLarge: boolean): void {
  const bytes = mayBeLarge && random() < 0.3 ? MESSAGE_BYTES : 10;
  for (let left = Math.floor(MESSAGES * random()); left > 0; left--) sendOne(end, bytes);
}

function sendOne(end: End, bytes: number): void {
  end.session.send("number", { n: ++end.sent, pad: "x".repeat(bytes) });
}

/** True for a way in which the answer to the end of messages does not arrive. */
function isWithoutAnswer(way: Ended["way"]): boolean {
  return way.includes("without an answer");
}

/** True for a way in which a fault follows a close. */
function isCutOff(way: Ended["way"]): boolean {
  return isWithoutAnswer(way) || way.includes(", then ");
}

/** The end that a way names first. */
function sideOf(way: Ended["way"]): Side {
  return way.startsWith("client") ? "client" : "server";
}

function closeOf(random: () => number, codes: readonly number[]): Closes[Side] {
  return { code: oneOf(random, codes), reason: random() < 0.5 ? "" : `enough ${random()}` };
}

/** An end to judge. */
interface Ended {
  readonly way:
    | typeof WAYS[number]
    | typeof HTTP_WAYS[number]
    | typeof CUT_WAYS[number]
    | typeof UNANSWERED_WAYS[number];
  readonly side: Side;
  readonly transport: "websocket" | "webtransport" | "http";
  readonly closes: Closes;
  /** True if the server has the hardened engine. */
  readonly isHardened: boolean;
}

/** Reason of an end; any text without `reason`. */
type Expected = Pick<CloseInfo, "by" | "code"> & { readonly reason?: string };

/** Tells the expected reason of an end, other ones that are right as well, and the time. */
function expectedEnd({ way, side, transport, closes, isHardened }: Ended): {
  readonly expected: Expected;
  readonly others?: readonly Expected[];
  readonly withinMs: readonly [number, number];
} {
  const heard = [0, (isHardened ? HEARD_HARDENED_MS : HEARD_MS)[transport]] as const;
  const lost = { by: "network", code: CloseCode.abnormal } as const;
  const silent = { by: "network", code: CloseCode.timedOut } as const;
  // A server that hears the end of the messages alone closes with 0; a client comes back.
  const unknown = { by: "remote", code: CloseCode.normal, reason: "" } as const;
  const closer = sideOf(way);
  if (isCutOff(way) && closer === side) {
    return { expected: { by: "local", ...closes[side] }, withinMs: [0, CUT_MS.closer] };
  }
  switch (way) {
    case "both close":
      return { expected: { by: "local", ...closes[side] }, withinMs: heard };
    case "client closes":
    case "server closes":
    case "server closes, and the answer is lost": {
      const by = closer === side ? "local" : "remote";
      const withinMs = way.endsWith("lost") ? [0, AGAIN_MS] as const : heard;
      return { expected: { by, ...closes[closer] }, withinMs };
    }
    case "client closes, and the network is lost":
    case "server closes, and the network is lost":
      // A close by this end stays one.
      return side === closer
        ? { expected: { by: "local", ...closes[side] }, withinMs: heard }
        : { expected: lost, withinMs: heard };
    case "server closes, then the way breaks":
    case "server closes, then dies":
    case "client closes, then the way breaks":
    case "client closes, then dies": {
      const mayBeUnknown = side === "server" && transport === "webtransport";
      return {
        expected: { by: "remote", ...closes[closer] },
        others: [lost, silent, ...mayBeUnknown ? [unknown] : []],
        withinMs: [0, CUT_MS.other],
      };
    }
    case "server closes without an answer":
    case "client closes without an answer":
    case "server closes without an answer, then dies":
    case "client closes without an answer, then dies": {
      if (!way.endsWith("dies")) {
        const expected = { by: "remote", ...closes[closer] } as const;
        return { expected, withinMs: UNANSWERED_MS.heard };
      }
      return { expected: side === "client" ? lost : unknown, withinMs: UNANSWERED_MS.late };
    }
    case "reset":
      return { expected: lost, withinMs: heard };
    case "client dies":
      // The process itself runs QUIC, and a client over HTTP may ask again.
      if (transport === "websocket") return { expected: lost, withinMs: heard };
      break;
    case "reset of the client":
      if (side === "client") return { expected: lost, withinMs: heard };
      break;
    case "reset of the server":
      if (side === "server") return { expected: lost, withinMs: heard };
  }
  return { expected: silent, withinMs: SILENCE_MS[side] };
}

/** Examines reason and time of an end. */
function examineEnd(
  audit: Audit,
  { end: { session, info, endedMs }, expected, others = [], withinMs, beganMs, about }:
    & ReturnType<typeof expectedEnd>
    & { readonly end: End; readonly beganMs: number; readonly about: string },
): void {
  const [least, most] = withinMs;
  const isRight = ({ by, code, reason }: Expected) =>
    by === info?.by && code === info.code && (reason ?? info.reason) === info.reason;
  const { by, code, reason } = info ?? {};
  const known = others.find(isRight) ?? expected;
  const received = { by, code, ...(known.reason !== undefined && { reason }) };
  audit.examine("lives", `end of a session ${about}`, known, received);
  audit.examine("lives", `state of a session ${about}`, "closed", session.state);
  const tookMs = endedMs - beganMs;
  const isInTime = tookMs >= least && tookMs <= most;
  audit.examine(
    "lives",
    `time of the end ${about}`,
    `${least} to ${most} ms`,
    isInTime ? `${least} to ${most} ms` : `${tookMs} ms`,
  );
}

/** Examines the waits: all ended with the reason of the session, and no other begins. */
function examineWaits(audit: Audit, { session, info, waits }: End, about: string): void {
  const outcome = (error: unknown) =>
    error instanceof SessionClosedError
      ? `closed ${error.info?.code} by ${error.info?.by}`
      : `${error}`;
  const expected = `closed ${info?.code} by ${info?.by}`;
  for (const [name, error] of waits) {
    audit.examine("waits", `${name} at the end ${about}`, expected, outcome(error));
  }
  let thrown: unknown = "none";
  try {
    session.send("number", { n: 0 });
  } catch (error) {
    thrown = error;
  }
  audit.examine("waits", `message after the end ${about}`, expected, outcome(thrown));
}
