import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ends, PLAIN, serverByHand } from "../../tests/sessions.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { Session } from "../session.ts";
import { redactHeaders, redactText, type SessionDiagnostics } from "./diagnostics.ts";
import { sessionSettings } from "../settings/session_settings.ts";
import { turns } from "../../tests/waiting.ts";

/** Every name of `SessionDiagnostics`; the compiler reports missing and extra names. */
const NAMES: Readonly<Record<keyof SessionDiagnostics, true>> = {
  id: true,
  controlStreamId: true,
  state: true,
  url: true,
  path: true,
  headers: true,
  user: true,
  transport: true,
  protocol: true,
  fallback: true,
  createdAt: true,
  readyAt: true,
  closedAt: true,
  closeCode: true,
  closeReason: true,
  lastReceivedAt: true,
  roundTripMs: true,
  localMaxData: true,
  localDataSent: true,
  peerMaxData: true,
  peerDataSent: true,
  localMaxStreamsBidi: true,
  localStreamsBidiOpened: true,
  peerMaxStreamsBidi: true,
  peerStreamsBidiOpened: true,
  localMaxStreamsUni: true,
  localStreamsUniOpened: true,
  peerMaxStreamsUni: true,
  peerStreamsUniOpened: true,
  pendingBidiStreams: true,
  pendingUniStreams: true,
  unreadStreams: true,
  datagramsSent: true,
  datagramBytesSent: true,
  datagramsReceived: true,
  datagramBytesReceived: true,
  datagramsDropped: true,
  queues: true,
};

Deno.test("Session.diagnostics() has every field, on every transport", async () => {
  for (const wire of [{}, PLAIN, { frames: false }]) {
    const { server } = memoryPair(wire);
    const session = new Session(server, sessionSettings({ side: "server" }));
    assertEquals(
      Object.keys(await session.diagnostics()).toSorted(),
      Object.keys(NAMES).toSorted(),
    );
    await session.close();
  }
});

Deno.test("Session.diagnostics() includes the user, the address and the close", async () => {
  using time = new FakeTime(1_000);
  const error = new Error("Cannot open https://a.example/?token=s3cret");
  await using hand = serverByHand({}, {
    identity: {
      id: "s-1",
      user: "ann",
      url: "https://a.example/rooms/a?room=1&token=s3cret",
      headers: { "user-agent": "a browser", authorization: "Bearer s3cret" },
      fallback: { transport: "webtransport", error },
    },
  });
  const { session, peer } = hand;
  await time.tickAsync(10);
  peer.connection.close({ closeCode: 4401, reason: "see /?token=s3cret" });
  await session.closed;
  const { id, user, url, path, headers, fallback, transport, protocol, ...rest } = await session
    .diagnostics();
  assertEquals({ id, user, path, transport, protocol }, {
    id: "s-1",
    user: "ann",
    path: "/rooms/a",
    transport: "memory",
    protocol: "skein.1",
  });
  assertEquals(url, "https://a.example/rooms/a?room=1&token=[redacted]");
  assertEquals(headers, { "user-agent": "a browser", authorization: "[redacted]" });
  assertEquals(fallback, {
    transport: "webtransport",
    reason: "Cannot open https://a.example/?token=[redacted]",
  });
  const { state, createdAt, readyAt, closedAt, closeCode, closeReason } = rest;
  assertEquals({ state, createdAt, readyAt, closedAt }, {
    state: "closed",
    createdAt: 1_000,
    readyAt: 1_000,
    closedAt: 1_010,
  });
  assertEquals([closeCode, closeReason], [4401, "see /?token=[redacted]"]);
});

Deno.test("Session.diagnostics() counts the activity of each side, without credit if the transport has none", async () => {
  await using both = await ends();
  const { client, server } = both;
  const first = await client.createBidirectionalStream();
  await client.createUnidirectionalStream();
  await client.createUnidirectionalStream();
  await first.writable.getWriter().write(new Uint8Array(7));
  await client.sendDatagram(new Uint8Array(5));
  await turns();
  const far = await client.diagnostics();
  const near = await server.diagnostics();
  for (const { localMaxData, peerMaxData, localMaxStreamsBidi, peerMaxStreamsUni } of [far, near]) {
    assertEquals(
      { localMaxData, peerMaxData, localMaxStreamsBidi, peerMaxStreamsUni },
      {
        localMaxData: undefined,
        peerMaxData: undefined,
        localMaxStreamsBidi: undefined,
        peerMaxStreamsUni: undefined,
      },
    );
  }
  assertEquals([far.localStreamsBidiOpened, far.localStreamsUniOpened], [1, 2]);
  assertEquals([far.peerStreamsBidiOpened, far.peerStreamsUniOpened], [0, 0]);
  assertEquals([near.peerStreamsBidiOpened, near.peerStreamsUniOpened], [1, 2]);
  assertEquals({
    farLocalDataSent: far.localDataSent,
    nearPeerDataSent: near.peerDataSent,
    farPeerDataSent: far.peerDataSent,
  }, { farLocalDataSent: 7, nearPeerDataSent: 7, farPeerDataSent: 0 });
  assertEquals([far.datagramsSent, far.datagramBytesSent], [1, 5]);
  assertEquals([near.datagramsReceived, near.datagramBytesReceived], [1, 5]);
  assertEquals([near.unreadStreams, far.unreadStreams], [3, 0]);
  assert(near.lastReceivedAt! > 0);
});

Deno.test("Session.diagnostics() reads credit from the connection, if both sides count", async () => {
  await using both = await ends();
  let next = 0;
  const states = new Map(["data", "bidirectional", "unidirectional"].map((kind) => [kind, {
    granted: ++next,
    received: ++next,
    allowed: ++next,
    sent: ++next,
    waiting: ++next,
  }]));
  const credit = { state: (kind: string) => states.get(kind)!, grant() {} };
  Object.defineProperty(both.client.connection.inspect!, "credit", { value: credit });
  const { diagnostics, credit: shown } = await both.client.debugState();
  assertEquals(shown, Object.fromEntries(states) as never);
  assertEquals([diagnostics.localMaxData, diagnostics.peerMaxData], [1, 3]);
  assertEquals({
    localMaxStreamsBidi: diagnostics.localMaxStreamsBidi,
    peerMaxStreamsBidi: diagnostics.peerMaxStreamsBidi,
    pendingBidiStreams: diagnostics.pendingBidiStreams,
  }, { localMaxStreamsBidi: 6, peerMaxStreamsBidi: 8, pendingBidiStreams: 10 });
  assertEquals({
    localMaxStreamsUni: diagnostics.localMaxStreamsUni,
    peerMaxStreamsUni: diagnostics.peerMaxStreamsUni,
    pendingUniStreams: diagnostics.pendingUniStreams,
  }, { localMaxStreamsUni: 11, peerMaxStreamsUni: 13, pendingUniStreams: 15 });
  // Used credit is counted without the transport's own streams.
  const { localDataSent, peerDataSent, localStreamsBidiOpened, peerStreamsUniOpened } = diagnostics;
  assertEquals({ localDataSent, peerDataSent, localStreamsBidiOpened, peerStreamsUniOpened }, {
    localDataSent: 0,
    peerDataSent: 0,
    localStreamsBidiOpened: 0,
    peerStreamsUniOpened: 0,
  });
});

Deno.test("Session.diagnostics() reports the fill levels of the queues", async () => {
  await using hand = serverByHand({
    sendQueue: { maxMessages: 9, maxBytes: 900_000 },
    receiveQueue: { maxMessages: 8, maxBytes: 800_000 },
  });
  const { session, peer, link } = hand;
  link.stall("to-client");
  session.send("big", "x".repeat(100_000));
  await turns();
  session.send("a", 1);
  peer.say({ topic: "b" });
  await turns();
  assertEquals((await session.diagnostics()).queues, {
    send: { messages: 1, bytes: 22, maxMessages: 9, maxBytes: 900_000 },
    receive: { messages: 1, bytes: 13, maxMessages: 8, maxBytes: 800_000 },
  });
  await using raw = new Session(
    memoryPair({ frames: false }).server,
    sessionSettings({ side: "server" }),
  );
  assertEquals((await raw.diagnostics()).queues.send, undefined);
});

Deno.test("Session.debugState() is one plain object with all parts", async () => {
  using _time = new FakeTime();
  await using both = await ends({ onMessage() {} });
  const state = await both.server.debugState();
  assertEquals(state.diagnostics, await both.server.diagnostics());
  assertEquals(state.stats, both.server.stats.toJSON());
  assertEquals(
    { issues: state.issues, isHandled: state.isHandled, owesReplies: state.owesReplies },
    { issues: [], isHandled: true, owesReplies: false },
  );
  assertEquals(state.capabilities, both.server.connection.capabilities);
  assertEquals(state.wire, await both.server.connection.getStats());
  assertEquals(state.credit, undefined);
  const { maxMessageBytes, maxRequests, heartbeatIntervalMs, heartbeatTimeoutMs } = state.limits;
  assertEquals([maxMessageBytes, maxRequests], [262_144, 64]);
  assertEquals([heartbeatIntervalMs, heartbeatTimeoutMs], [25_000, 60_000]);
  // Only members with `undefined` are left out.
  const json = JSON.stringify(state);
  assertEquals(JSON.stringify(JSON.parse(json)), json);
});

Deno.test("Session.debugState() works on a closed session, and on a connection that lost its counters", async () => {
  await using both = await ends();
  await both.server.close();
  Object.defineProperty(both.server.connection, "getStats", {
    value: () => Promise.reject(new Error("over")),
  });
  const { diagnostics, wire } = await both.server.debugState();
  assertEquals([diagnostics.state, wire], ["closed", {}]);
});

Deno.test("Session's snapshots have no side effects", async () => {
  using _time = new FakeTime();
  await using both = await ends();
  const made: string[] = [];
  for (
    const name of [
      "datagrams",
      "incomingBidirectionalStreams",
      "incomingUnidirectionalStreams",
      "draining",
      "observe",
    ] as const
  ) {
    const { connection } = both.server;
    const owner = name === "observe" ? connection.inspect! : connection;
    Object.defineProperty(owner, name, { get: () => void made.push(name) });
  }
  const look = async () => [
    both.server.stats,
    await both.server.diagnostics(),
    await both.server.summary(),
    await both.server.debugState(),
    await both.server.issues(),
  ];
  assertEquals(await look(), await look());
  assertEquals(made, []);
});

Deno.test("redactText() removes secrets from URLs, and leaves the rest", () => {
  const cases = {
    "https://a.example/b?x=1&y=2#z": "https://a.example/b?x=1&y=2#z",
    "/b?token=s3": "/b?token=[redacted]",
    "/b?access_token=s3&room=1": "/b?access_token=[redacted]&room=1",
    "/b?room=1&AUTH=s3;s3'=s3": "/b?room=1&AUTH=[redacted]",
    "/b?%74oken=s3": "/b?%74oken=[redacted]",
    "/b?%zz=1&api_key=s3": "/b?%zz=1&api_key=[redacted]",
    "/b#id_token=s3&state=1": "/b#id_token=[redacted]&state=1",
    "wss://ann:s3@a.example/?jwt=s3": "wss://[redacted]@a.example/?jwt=[redacted]",
    "Cannot open wss://a/?token=s3 within 5 ms":
      "Cannot open wss://a/?token=[redacted] within 5 ms",
    "/b;jsessionid=s3?room=1": "/b;jsessionid=[redacted]?room=1",
    "/b?room=1;token=s3;x=2": "/b?room=1;token=[redacted];x=2",
    "/?sid=s3&PHPSESSID=s3&pwd=s3": "/?sid=[redacted]&PHPSESSID=[redacted]&pwd=[redacted]",
    "/?X-Amz-Signature=s3&access_key=s3": "/?X-Amz-Signature=[redacted]&access_key=[redacted]",
    "/?keyword=a&zip-code=b&passenger=c": "/?keyword=a&zip-code=b&passenger=c",
    "token=s3 in words": "token=s3 in words",
    "": "",
  };
  for (const [text, expected] of Object.entries(cases)) assertEquals(redactText(text), expected);
});

Deno.test("redactText() stays fast on text that a peer crafted to be slow", () => {
  for (const part of ["a.", "a+", "a://", "?a", "&a=", ";a=", "x://a@"]) {
    const text = part.repeat(200_000 / part.length);
    const startedAt = performance.now();
    redactText(text);
    // A linear search takes milliseconds; a search from each start to the end, half a minute.
    assert(performance.now() - startedAt < 10_000, part);
  }
});

Deno.test("redactHeaders() removes headers that may hold secrets", () => {
  const secret = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "set-cookie",
    "x-api-key",
    "x-csrf-token",
    "x-session-id",
    "ocp-apim-subscription-key",
    "x-functions-key",
  ];
  const headers = new Headers(secret.map((name) => [name, "s3"]));
  headers.set("host", "a.example");
  headers.set("referer", "https://a.example/?token=s3");
  const shown = redactHeaders(headers);
  assertEquals(shown.host, "a.example");
  assertEquals(shown.referer, "https://a.example/?token=[redacted]");
  for (const name of secret) assertEquals(shown[name], "[redacted]", name);
});
