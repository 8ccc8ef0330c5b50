/** Sessions of the W3C class: the opening and the end of each, as streams and datagrams show these. */
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Connection } from "../../../../../transport/connection.ts";
import { cutReason } from "../../../../../transport/close_info.ts";
import type { WebTransport, WebTransportOptions } from "../../../../../transport/w3c/mod.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { named, outcome, SESSION_ERROR, STEP_MS, W3cServer, within } from "./ends.ts";

/** Ways in which a session does not open. */
const VAIN = ["refused", "silence", "abandoned", "no server"] as const;

/** Ways in which a session ends. */
const ENDS = ["near", "near", "far", "far", "disposal", "listener", "cut", "kill"] as const;

/** Ways after which `closed` rejects: no session was closed. */
const BREAKS: readonly string[] = ["listener", "cut", "kill"];

/** Codes of a close, as the program gives these. */
const CODES = [undefined, 0, 1, 77, 3_000, 2 ** 31, 2 ** 32 - 1] as const;

/** Codes that the class takes modulo 2^32. */
const WIDE_CODES = [-1, 2 ** 32 + 5, 1.5] as const;

/** Reasons of a close, as the program gives these. */
const REASONS = [undefined, "", "enough", "é".repeat(600), "x".repeat(1_024), "a\ud800b"] as const;

/** Time until the server knows of a close, and until a silent connection is over, in milliseconds. */
const [CONFIRMED_MS, IDLE_MS] = [1_050, 40_000] as const;

/** Time until a server forgets a connection without a session, in milliseconds. */
const GRACE_MS = 3_000;

/** Subprotocols. */
const PROTOCOLS = ["one", "two", "three"] as const;

/**
 * Opens and ends sessions.
 *
 * @param audit The audit.
 */
export async function auditW3cSessions(audit: Audit): Promise<void> {
  const random = audit.chanceOf("w3c sessions");
  await Promise.all([
    auditVain(audit, random),
    ...shuffled(random, ENDS).slice(0, 3).map((end, number) => auditSession(audit, end, number)),
  ]);
}

/** A session that is not accepted: `ready` and `closed` reject, and nothing is left. */
async function auditVain(audit: Audit, random: () => number): Promise<void> {
  const server = new W3cServer(audit, "w3c-vain");
  const client = server.client("client");
  const way = oneOf(random, VAIN);
  const expect: Expect = (what, expected, received) =>
    audit.examine("flows", `${what}, session of the W3C with ${way}`, expected, received);
  if (way === "no server") await server.listener.close();
  const timeoutMs = Math.round(between(random, 300, 2_000));
  const startMs = audit.nowMs;
  const { near, arrived } = await server.request(client, { timeoutMs });
  const calls = [
    near.ready,
    near.closed,
    near.createBidirectionalStream(),
    near.createUnidirectionalStream({ waitUntilAvailable: true }),
    near.datagrams.readable.getReader().read(),
    near.incomingBidirectionalStreams.getReader().read(),
    near.getStats(),
  ].map((call) => outcome(call));
  if (way === "refused") void within(server.host, async () => (await arrived).refuse(404));
  if (way === "abandoned") {
    await audit.pause(between(random, 0, 6));
    near.close({ closeCode: 3_000, reason: "unheard" });
  }
  const ended = await audit.inTime(Promise.all(calls), timeoutMs + 2_500, ["too late"]);
  const invalid = "InvalidStateError";
  expect(
    "outcomes",
    [SESSION_ERROR, SESSION_ERROR, invalid, invalid, SESSION_ERROR, SESSION_ERROR, invalid],
    ended,
  );
  const tookMs = audit.nowMs - startMs;
  if (way === "silence") expect("time", true, tookMs >= timeoutMs - 50);
  if (way === "abandoned" || way === "refused") expect("time", true, tookMs < timeoutMs + 1_100);
  expect("state", ["pending", "", null], [near.reliability, near.protocol, near.responseHeaders]);
  await audit.until(() => server.listener.sessionCount === 0, GRACE_MS);
  expect("sessions of the server", 0, server.listener.sessionCount);
  await server.listener.close();
  expect("timers", 0, await audit.timersOf(client));
}

/** A session that opens with all of its options, is used, and ends. */
async function auditSession(
  audit: Audit,
  end: typeof ENDS[number],
  number: number,
): Promise<void> {
  const random = audit.chanceOf(`w3c session ${number}`);
  const server = new W3cServer(audit, `w3c-${number}`);
  const client = server.client("client");
  const expect: Expect = (what, expected, received) =>
    audit.examine("flows", `${what}, session of the W3C with end ${end}`, expected, received);
  const near = await opened({ audit, server, client, random, expect });
  if (near === undefined) return;
  // A pool has work to do behind sessions that break.
  const allowPooling = random() < (BREAKS.includes(end) ? 0.8 : 0.3);
  const other = await server.open(client, { allowPooling });
  const foreign = other.near.createSendGroup();
  expect("foreign groups", ["TypeError", "TypeError"], [
    await outcome(near.near.createUnidirectionalStream({ sendGroup: foreign })),
    await outcome(() => near.near.datagrams.createWritable({ sendGroup: foreign })),
  ]);
  await auditEnd({ audit, server, client, random, expect, ...near, end });
  if (end !== "kill" && end !== "listener" && end !== "cut") {
    other.near.close();
    expect("end of another session", { closeCode: 0, reason: "" }, await other.near.closed);
  } else {
    const gone = outcome(other.near.closed);
    await audit.inTime(gone, IDLE_MS, "");
  }
  if (server.host.isAlive) {
    await audit.until(() => server.listener.connectionCount === 0, GRACE_MS);
    expect("connections of the server", 0, server.listener.connectionCount);
    await server.listener.close();
  }
  await audit.pause(GRACE_MS);
  expect("timers", 0, await audit.timersOf(client));
}

/** Shared parts of the steps of a session. */
interface Surroundings {
  readonly audit: Audit;
  readonly server: W3cServer;
  readonly client: Host;
  readonly random: () => number;
  readonly expect: Expect;
}

/** Opens a session, whose request and answer have the options of both ends. */
async function opened({ audit, server, client, random, expect }: Surroundings): Promise<
  { readonly near: WebTransport; readonly far: Connection } | undefined
> {
  const protocols = shuffled(random, PROTOCOLS).slice(0, Math.floor(random() * 4));
  const options: WebTransportOptions = {
    protocols,
    headers: { "x-asked": "a value", host: "elsewhere", connection: "close" },
    allowPooling: random() < 0.3,
    congestionControl: oneOf(random, ["default", "throughput", "low-latency"] as const),
    ...(random() < 0.3 && { datagramsReadableType: "bytes" as const }),
  };
  const { near, arrived } = await server.request(client, options);
  expect("before ready", ["pending", "", null], [
    near.reliability,
    near.protocol,
    near.responseHeaders,
  ]);
  const early = near.createBidirectionalStream();
  const request = await audit.inTime(arrived, STEP_MS, undefined);
  if (request === undefined) {
    expect("request", "arrived", "too late");
    return undefined;
  }
  const { headers } = request;
  expect("request", [protocols, "a value", null, server.host.name], [
    request.protocols,
    headers.get("x-asked"),
    headers.get("connection"),
    headers.get("host"),
  ]);
  const protocol = random() < 0.5 ? protocols.at(-1) : undefined;
  await audit.pause(between(random, 0, 50));
  const far = await within(
    server.host,
    () =>
      request.accept({
        ...(protocol !== undefined && { protocol }),
        headers: { "x-answer": "another", "set-cookie": "a=b" },
      }),
  );
  expect("ready", "fulfilled", await audit.inTime(outcome(near.ready), STEP_MS, "too late"));
  const answer = near.responseHeaders;
  expect("after ready", [
    "supports-unreliable",
    protocol ?? "",
    protocol ?? "",
    "another",
    [null, null, "TypeError"],
    options.congestionControl,
  ], [
    near.reliability,
    near.protocol,
    far.protocol,
    answer?.get("x-answer"),
    [
      answer?.get("set-cookie"),
      answer?.get("wt-protocol"),
      await outcome(() => answer?.append("x", "y")),
    ],
    near.congestionControl,
  ]);
  expect("early stream", "fulfilled", await audit.inTime(outcome(early), STEP_MS, "too late"));
  return { near, far };
}

/** Ends a session while reads, writes and a stream are open. */
async function auditEnd(
  { audit, server, client, random, expect, near, far, end }: Surroundings & {
    readonly near: WebTransport;
    readonly far: Connection;
    readonly end: typeof ENDS[number];
  },
): Promise<void> {
  const stream = await near.createBidirectionalStream();
  const writer = stream.writable.getWriter();
  await writer.write(Uint8Array.of(1, 2, 3));
  const oneWay = (await near.createUnidirectionalStream()).getWriter();
  await oneWay.write(Uint8Array.of(4));
  const datagrams = near.datagrams.createWritable().getWriter();
  const group = near.createSendGroup();
  const isDrained = random() < 0.5;
  if (isDrained) far.drain!();
  let isDraining = false;
  void near.draining.then(() => isDraining = true);
  const reads = [
    near.incomingBidirectionalStreams.getReader().read(),
    near.incomingUnidirectionalStreams.getReader().read(),
    near.datagrams.readable.getReader().read(),
  ].map(readOutcome);
  const reading = readOutcome(stream.readable.getReader().read());
  const writers = [writer, oneWay, datagrams].map(({ closed }) => outcome(closed));
  const farStreams = far.incomingBidirectionalStreams.getReader();
  await audit.pause(20);
  expect("draining", isDrained, isDraining);

  const isBroken = BREAKS.includes(end);
  const startMs = audit.nowMs;
  const info = await endBy({ audit, server, client, random, expect, near, far, end });
  const closing = near.closed.then((info) => info, named);
  const closed = await audit.inTime(closing, IDLE_MS, "too late");
  const tookMs = audit.nowMs - startMs;
  expect("closed", isBroken ? SESSION_ERROR : info?.near, closed);
  if (end !== "kill") expect("time until closed", true, tookMs <= CONFIRMED_MS);
  if (info?.far !== undefined) {
    const seen = await audit.inTime(far.closed.then((info) => info, named), STEP_MS, "too late");
    expect("closed at the server", info.far, seen);
  }
  const ended = await audit.inTime(Promise.all(reads), STEP_MS, ["too late"]);
  expect("reads", reads.map(() => isBroken ? SESSION_ERROR : "end"), ended);
  // The close of the peer looks like a clean end of all streams.
  const last = await audit.inTime(reading, STEP_MS, "too late");
  const isClean = last === "end" && !isBroken && end !== "near" && end !== "disposal";
  expect("read of a stream", isClean ? "end" : SESSION_ERROR, last);
  expect("writers", [SESSION_ERROR, SESSION_ERROR, isBroken ? SESSION_ERROR : "fulfilled"], [
    ...await audit.inTime(Promise.all(writers), STEP_MS, ["too late"]),
  ]);
  const invalid = "InvalidStateError";
  expect("calls behind the end", [
    "fulfilled",
    ...[invalid, invalid, invalid, invalid, invalid],
    isBroken ? invalid : "fulfilled",
    SESSION_ERROR,
    0,
  ], [
    await outcome(near.ready),
    await outcome(near.createBidirectionalStream()),
    await outcome(near.createUnidirectionalStream({ waitUntilAvailable: true, sendGroup: group })),
    await outcome(() => near.createSendGroup()),
    await outcome(() => near.datagrams.createWritable()),
    await outcome(near.exportKeyingMaterial(Uint8Array.of(1), new ArrayBuffer(0), 32)),
    await outcome(near.getStats()),
    await outcome(writer.write(Uint8Array.of(1))),
    near.datagrams.maxDatagramSize * 0,
  ]);
  near.close({ closeCode: 9 });
  await near[Symbol.asyncDispose]();
  const again = await near.closed.then((info) => info, named);
  expect("closed, behind another close", closed, again);
  await farStreams.cancel().catch(() => {});
}

/** Ends a session, and tells the code and the reason for both ends. */
async function endBy(
  { server, random, near, far, end, audit, client }: Surroundings & {
    readonly near: WebTransport;
    readonly far: Connection;
    readonly end: typeof ENDS[number];
  },
): Promise<{ readonly near: unknown; readonly far?: unknown } | undefined> {
  const reason = oneOf(random, REASONS);
  const none = { closeCode: 0, reason: "" };
  switch (end) {
    case "near": {
      const closeCode = oneOf(random, [...CODES, ...WIDE_CODES]);
      near.close({
        ...(closeCode !== undefined && { closeCode }),
        ...(reason !== undefined && { reason }),
      });
      const whole = (reason ?? "").toWellFormed();
      const code = (closeCode ?? 0) >>> 0;
      return {
        near: { closeCode: code, reason: whole },
        far: { closeCode: code, reason: cutReason(whole, 1_024) },
      };
    }
    case "far": {
      const closeCode = oneOf(random, CODES);
      await within(server.host, () =>
        far.close({
          ...(closeCode !== undefined && { closeCode }),
          ...(reason !== undefined && { reason }),
        }));
      const info = { closeCode: closeCode ?? 0, reason: cutReason(reason ?? "", 1_024) };
      return { near: info, far: info };
    }
    case "disposal":
      await near[Symbol.asyncDispose]();
      return { near: none, far: none };
    case "listener":
      await within(server.host, () => server.listener.close());
      return undefined;
    case "cut":
      audit.cut(client);
      return undefined;
    case "kill":
      server.host.kill();
      return undefined;
  }
}

/** Names the outcome of a read. */
function readOutcome(read: Promise<{ readonly done: boolean }>): Promise<string> {
  return read.then(({ done }) => done ? "end" : "a value", named);
}
