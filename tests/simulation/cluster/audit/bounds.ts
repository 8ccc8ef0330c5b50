/** Bounds of a separate server with little room: each lets in what fits, and refuses one more. */
import type { Client } from "../../../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../../../errors.ts";
import type { Server } from "../../../../server.ts";
import { internals } from "../../../../session/session.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { type Audit, type Expect, outcomeOf } from "./audit.ts";
import { auditOutboxes } from "./backlog/outboxes.ts";
import { auditRefills } from "./backlog/refills.ts";
import { auditHandshakes } from "./wires/handshakes.ts";
import { auditInvalid } from "./wires/invalid.ts";
import { auditRawFrames } from "./wires/raw_frames.ts";

/** Most sessions. */
const MAX_SESSIONS = 3;

/** Most sockets: twice the sessions. */
const MAX_SOCKETS = 2 * MAX_SESSIONS;

/** Most bytes of a message; fewer than the 65,536 of a frame. */
const MAX_MESSAGE_BYTES = 2_048;

/** Received messages that wait, beside the one that is handled. */
const RECEIVED = { maxMessages: 4, maxBytes: 1_024 } as const;

/** Rounds in which the bound is filled, and all messages are handled. */
const RECEIVED_ROUNDS = 4;

/** Most rooms for which a session has data: that of the documentation. */
const MAX_ROOMS = 32;

/** Most bytes of the data of a presence: the default of `maxDataBytes`. */
const MAX_DATA_BYTES = 512;

/** Bounds of the outbox of a client: the defaults of `outbox`. */
const OUTBOX = { maxMessages: 100, maxBytes: 262_144 } as const;

/** Time for a message there and back, in milliseconds. */
const ROUND_MS = 100;

/** Time behind which a server gives up a socket whose peer does not answer a close, in milliseconds. */
const GIVEN_UP_MS = 5_500;

/** The server with little room. */
interface Narrow {
  readonly audit: Audit;
  /** Examines an outcome. */
  readonly expect: Expect;
  readonly host: Host;
  readonly server: Server<string>;
  /** Keeps handlers of messages waiting, once set. */
  held: Promise<void> | undefined;
}

/**
 * Reaches the bounds of a separate server.
 *
 * @param audit The audit.
 */
export async function auditBounds(audit: Audit): Promise<void> {
  const host = audit.host("narrow");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token }) => {
      if (token === undefined) throw new AuthenticationError("A token is needed");
      return token.split(".")[0]!;
    },
    authorize: () => true,
    limits: { maxSessions: MAX_SESSIONS },
    rooms: ["room:{name}"],
    session: {
      maxMessageBytes: MAX_MESSAGE_BYTES,
      receiveQueue: RECEIVED,
      closeTimeoutMs: 5 * ROUND_MS,
    },
    onMessage: () => narrow.held,
    onError() {},
  }));
  const expect: Expect = (...outcome) => audit.examine("limits", ...outcome);
  const narrow: Narrow = { audit, expect, host, server, held: undefined };
  auditRawFrames(audit);
  auditHandshakes(audit);
  await auditMessageBytes(narrow);
  await auditPresence(narrow);
  await auditClientPresence(narrow);
  await auditOutbox(narrow);
  await auditStart(narrow);
  // The hardened engine stops reading in place of a close, and drops peers that do not answer one.
  const isHardened = audit.settings.has("hardened");
  if (!isHardened) await auditReceived(narrow);
  await auditSessions(narrow);
  if (!isHardened) await auditSockets(narrow);
  await server.close();
  await Promise.all([auditRefills(audit), auditOutboxes(audit), auditInvalid(audit)]);
}

/** Messages of the largest size, and of one byte more, at both ends. */
async function auditMessageBytes(narrow: Narrow): Promise<void> {
  const { audit, expect, server, host } = narrow;
  for (const extra of [0, 1]) {
    const { socket, closed } = openPage(narrow, "page");
    socket.onopen = () => {
      socket.send(textOf(MAX_MESSAGE_BYTES + extra));
      void audit.pause(2 * ROUND_MS).then(() => socket.close(1_000));
    };
    const code = await audit.inTime(closed, 1_000, "no end");
    const right = extra === 0 ? 1_000 : CloseCode.tooLarge;
    expect(`end of a page with ${extra} bytes beyond maxMessageBytes`, right, code);
  }
  const client = audit.connect("sized", host, { onMessage() {} });
  await audit.until(() => client.isConnected);
  const [session] = server.manager.all();
  for (const extra of [0, 1]) {
    const { topic, data } = JSON.parse(textOf(MAX_MESSAGE_BYTES + extra));
    const right = extra === 0 ? "fulfilled" : "RangeError";
    const ends = { client, session, server: server.to("guest-auditor-sized") };
    for (const [name, end] of Object.entries(ends)) {
      const sent = outcomeOf(Promise.try(() => end?.send(topic, data)));
      expect(`message of a ${name} with ${extra} bytes too many`, right, await sent);
    }
  }
  await client.close();
}

/** Data of presence in the most rooms, and of the largest size. */
async function auditPresence({ audit, expect, host }: Narrow): Promise<void> {
  const client = audit.connect("present", host, { onMessage() {} });
  await audit.until(() => client.isConnected);
  const session = client.session!;
  const set = (room: string, data?: unknown) => outcomeOf(session.presence(room, data as never));
  const long = "x".repeat(MAX_DATA_BYTES - 2);
  expect("data of a presence of the largest size", "fulfilled", await set("room:0", long));
  expect("data of a presence that is larger", "too-large", await set("room:0", `${long}x`));
  const rooms = Array.from({ length: MAX_ROOMS - 1 }, (_, i) => `room:${i + 1}`);
  const outcomes = new Set(await Promise.all(rooms.map((room) => set(room, 1))));
  expect(`data of a presence in ${MAX_ROOMS} rooms`, "fulfilled", [...outcomes].join());
  expect("data of a presence in one room more", "too-many", await set("room:more", 1));
  expect("data of a presence in a room that has some", "fulfilled", await set("room:1", 2));
  expect("end of the data in a room", "fulfilled", await set("room:1"));
  expect("data of a presence in the free place", "fulfilled", await set("room:more", 1));
  await client.close();
}

/** Data of a client in the most rooms: a room without data leaves its place to another. */
async function auditClientPresence({ audit, expect, host }: Narrow): Promise<void> {
  const client = audit.connect("keeper", host, { onMessage() {} });
  await audit.until(() => client.isConnected);
  const set = (room: string, data?: unknown) => outcomeOf(client.presence(room, data as never));
  const rooms = Array.from({ length: MAX_ROOMS }, (_, i) => `room:${i}`);
  const outcomes = new Set(await Promise.all(rooms.map((room) => set(room, 1))));
  expect(`data of a client in ${MAX_ROOMS} rooms`, "fulfilled", [...outcomes].join());
  expect("data of a client in one room more", "QueueFullError", await set("room:more", 1));
  const left = Math.floor(MAX_ROOMS * audit.random());
  expect("end of the data of a client", "fulfilled", await set(`room:${left}`));
  expect("data of a client in the free place", "fulfilled", await set("room:more", 1));
  expect("data of a client beyond that", "QueueFullError", await set(`room:${left}`, 1));
  await client.close();
}

/** Messages of a client without a server, up to both bounds of the outbox. */
async function auditOutbox({ audit, expect }: Narrow): Promise<void> {
  const nowhere = audit.host("nowhere");
  const large = "x".repeat(OUTBOX.maxBytes / 2 - 100);
  const cases = [
    { what: "messages", data: "", fit: OUTBOX.maxMessages },
    { what: "bytes", data: large, fit: 2 },
  ];
  for (const { what, data, fit } of cases) {
    const client = audit.connect(`waits with ${what}`, nowhere, {
      delivery: audit.random() < 0.5 ? "at-least-once" : "at-most-once",
      onMessage() {},
      onRefused() {},
    });
    const send = () => outcomeOf(Promise.try(() => client.send("page", data)));
    for (let n = 0; n < fit; n++) expect(`message ${n} of ${what}`, "fulfilled", await send());
    expect(`message beyond the ${what} of an outbox`, "QueueFullError", await send());
    expect(`messages in an outbox full of ${what}`, fit, client.outbox.messages);
    await client.close();
    expect("message of a closed client", "SessionClosedError", await send());
  }
  const client = audit.connect("waits to publish", nowhere, {
    delivery: "at-least-once",
    onMessage() {},
  });
  const published = outcomeOf(client.publish("page", 1));
  const flushed = outcomeOf(client.flushed());
  await audit.pause(ROUND_MS);
  expect("publication that waits", 1, client.outbox.messages);
  await client.close();
  for (const [what, outcome] of Object.entries({ published, flushed })) {
    const received = await audit.inTime(outcome, ROUND_MS, "no end");
    expect(`publication that no server took (${what})`, "SessionClosedError", received);
  }
}

/** Clients that wait for a promise before they connect, and that a signal ends. */
async function auditStart({ audit, expect, host, server: { manager } }: Narrow): Promise<void> {
  const start = Promise.withResolvers<void>();
  const [stop, stopLater] = [new AbortController(), new AbortController()];
  const connect = (name: string, { signal }: AbortController) =>
    audit.connect(name, host, { connectAfter: start.promise, signal, onMessage() {} });
  const client = connect("waits for a word", stop);
  const other = connect("never starts", stopLater);
  client.send("page", "early");
  await audit.pause(2 * ROUND_MS);
  expect("sessions before the word", [0, 1], [manager.count, client.outbox.messages]);
  stopLater.abort();
  await audit.pause(ROUND_MS);
  expect("client whose signal ends the wait", "closed", other.status.current.name);
  if (audit.random() < 0.5) start.resolve();
  else start.reject(new Error("planned end of the wait"));
  expect("client that got the word", true, await audit.until(() => client.isConnected));
  await audit.pause(ROUND_MS);
  expect("sessions and messages behind the word", [1, 0], [manager.count, client.outbox.messages]);
  stop.abort();
  await audit.until(() => client.status.isEnded && manager.count === 0, 5 * ROUND_MS);
  expect("client behind its signal", ["closed", 0], [client.status.current.name, manager.count]);
}

/** Messages that wait for a slow handler. */
async function auditReceived(narrow: Narrow): Promise<void> {
  const { audit, expect, host, server } = narrow;
  // One message is handled, and does not wait.
  const most = 1 + Math.floor(RECEIVED.maxBytes / 300);
  const cases = [
    { what: "messages", size: 100, fit: 1 + RECEIVED.maxMessages },
    { what: "bytes", size: 300, fit: most },
  ];
  for (const { what, size, fit } of cases) {
    const client = audit.connect(`hurries with ${what}`, host, { onMessage() {} });
    await audit.until(() => client.isConnected);
    const [session] = server.manager.all();
    let code = 0;
    void session?.closed.then((info) => code = info.code);
    const { topic, data } = JSON.parse(textOf(size));
    let held = Promise.withResolvers<void>();
    for (let round = 0; round < RECEIVED_ROUNDS; round++) {
      held.resolve();
      await audit.pause(ROUND_MS);
      held = Promise.withResolvers();
      narrow.held = held.promise;
      for (let n = 0; n < fit; n++) client.send(topic, data);
      await audit.pause(ROUND_MS);
      const waiting = session?.[internals].receiving.stats.waitingMessages;
      expect(`waiting messages within the bound of ${what}, round ${round}`, fit - 1, waiting);
    }
    client.send(topic, data);
    await audit.pause(ROUND_MS);
    expect(`close beyond the bound of ${what}`, CloseCode.queueFull, code);
    await client.close();
    held.resolve();
    narrow.held = undefined;
  }
}

/** Sessions in all; a handshake takes a place, too. */
async function auditSessions(narrow: Narrow): Promise<void> {
  const { audit, host } = narrow;
  const expect = (what: string, received: unknown) =>
    narrow.expect(`sessions of a server (${what})`, true, received);
  const open = (n: number) => audit.connect(`many-${n}`, host, { onRefused() {} });
  const isRefused = ({ status: { current } }: Client) =>
    "cause" in current && current.cause.code === CloseCode.tooMany;
  const first = open(0);
  expect("first", await audit.until(() => first.isConnected));
  // The token of this peer does not come.
  const { socket } = openPage(narrow, "unsaid", ["skein.1", "skein.auth"], "");
  await audit.pause(ROUND_MS);
  const last = open(1);
  expect("as many as fit", await audit.until(() => last.isConnected));
  const beyond = open(2);
  expect("one more", await audit.until(() => isRefused(beyond)));
  socket.close();
  await audit.pause(ROUND_MS);
  beyond.retryNow();
  expect("in a free place", await audit.until(() => beyond.isConnected, 2 * ROUND_MS));
  await Promise.all([first, last, beyond].map((client) => client.close()));
}

/** Sockets whose peers do not answer a close: these outlive the sessions. */
async function auditSockets(narrow: Narrow): Promise<void> {
  const { audit, expect, server: { manager } } = narrow;
  const sockets = () => manager.stats().sockets;
  for (const name of ["stuck-1", "stuck-2"]) {
    for (let i = 0; i < MAX_SESSIONS; i++) openPage(narrow, name);
    const isFull = await audit.until(() => manager.count === MAX_SESSIONS, 10 * ROUND_MS);
    expect(`sessions of ${name} beside sockets that linger`, true, isFull);
    audit.host(name).freeze();
    await Promise.all(manager.all().map((session) => session.close()));
  }
  const { open, lingering, refused } = sockets();
  expect("sockets that linger", [MAX_SOCKETS, MAX_SOCKETS], [open, lingering]);
  const code = await audit.inTime(openPage(narrow, "beyond").closed, 10 * ROUND_MS, "no end");
  expect("upgrade beyond the sockets", [CloseCode.abnormal, 1], [
    code,
    sockets().refused - refused,
  ]);
  if (audit.random() < 0.5) {
    // The connections are over, and the sockets of the runtime keep their places.
    await audit.pause(GIVEN_UP_MS);
    expect("sockets that were given up", MAX_SOCKETS, sockets().open);
  }
  audit.host("stuck-1").thaw();
  await audit.until(() => sockets().open === MAX_SESSIONS, 10 * ROUND_MS);
  const { socket } = openPage(narrow, "beyond");
  const isIn = await audit.until(() => manager.count === 1, 10 * ROUND_MS);
  expect("upgrade in the place of a socket", true, isIn);
  socket.close();
  audit.host("stuck-2").thaw();
  await audit.pause(ROUND_MS);
  expect("sockets afterwards", [0, 0], [sockets().open, sockets().lingering]);
}

/** Makes the text of a message of a size, in bytes. */
function textOf(bytes: number): string {
  const empty = JSON.stringify({ topic: "page", data: "" }).length;
  return JSON.stringify({ topic: "page", data: "x".repeat(bytes - empty) });
}

function openPage(
  { audit, host }: Narrow,
  name: string,
  protocols: readonly string[] = [],
  token: string = audit.token(name),
) {
  const url = new URL(`wss://${host.name}/`);
  if (token !== "") url.searchParams.set("token", token);
  const socket = audit.network.sockets(audit.host(name))(url, protocols);
  const { promise: closed, resolve } = Promise.withResolvers<number>();
  socket.onclose = ({ code }) => resolve(code);
  return { socket, closed };
}
