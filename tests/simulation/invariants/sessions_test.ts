import type { Facts, LiveClient, LiveServer } from "../facts.ts";
import {
  calmSessionsStay,
  endsAgree,
  gonePeersNoticed,
  knownCloseCodes,
  sessionsAgree,
  sessionsEndOnce,
  trueFigures,
} from "./sessions.ts";
import { Story } from "./story.ts";

const closed = (code: number): Facts["sessionClosed"] => ({
  side: "client",
  session: "1",
  code,
  reason: "why",
  by: "remote",
});

const OPENED: Facts["sessionOpened"] = { side: "client", session: "1" };

Deno.test("knownCloseCodes holds for documented codes, and finds others", () => {
  const story = new Story(knownCloseCodes);
  for (const code of [0, 1006, 4401, 4408, 4503, 4507]) story.tells("sessionClosed", closed(code));
  story.finds();
  new Story(knownCloseCodes).tells("sessionClosed", closed(4999))
    .finds('expected a close code of the table, received 4999 "why", by remote');
});

Deno.test("calmSessionsStay holds near faults, for programs, and at the end", () => {
  new Story(calmSessionsStay)
    .tells("faulted", { scope: "node", kind: "freeze", lastsMs: 10_000 }).passes(50_000)
    .tells("sessionClosed", closed(4408)).passes(60_000)
    .tells("sessionClosed", closed(4507)).tells("settled", {}).tells("sessionClosed", closed(0))
    .ends().tells("sessionClosed", closed(1006)).finds();
});

Deno.test("calmSessionsStay holds while a slow link lags", () => {
  const story = new Story(calmSessionsStay);
  story.cluster.clients.push({ host: story.host("c0") } as LiveClient);
  story.cluster.isBehind = () => story.cluster.nowMs < 80_000;
  story.tells("faulted", { scope: "link", kind: "narrow", lastsMs: 1_000 });
  for (let seconds = 0; seconds < 100; seconds += 10) story.steps().passes(10_000);
  story.tells("sessionClosed", closed(4408)).finds();
  story.steps().passes(60_000).tells("sessionClosed", closed(4408))
    .finds('expected session 1 to stay, with no fault for 60 s, received 4408 "why", by remote');
});

Deno.test("calmSessionsStay finds sessions that end without a fault", () => {
  new Story(calmSessionsStay)
    .tells("sessionClosed", closed(4408)).tells("settled", {}).tells("sessionClosed", closed(4507))
    .finds(
      'expected session 1 to stay, with no fault for 60 s, received 4408 "why", by remote',
      'expected session 1 to stay, with no fault for 60 s, received 4507 "why", by remote',
    );
});

Deno.test("sessionsEndOnce holds for one start and one end, and finds others", () => {
  new Story(sessionsEndOnce)
    .tells("sessionOpened", OPENED).tells("sessionOpened", { ...OPENED, side: "node" })
    .tells("sessionClosed", closed(0)).finds();
  new Story(sessionsEndOnce)
    .tells("sessionClosed", closed(0)).tells("sessionClosed", closed(0))
    .tells("sessionOpened", OPENED)
    .finds(
      "expected an end of a session that began and lives, received one of 1, which never began",
      "expected an end of a session that began and lives, received one of 1, closed",
      "expected session 1 to begin once",
    );
});

Deno.test("endsAgree holds for ends that agree or have no peer, and finds others", () => {
  const story = (node: Partial<Facts["sessionClosed"]>, client = closed(4507)) =>
    new Story(endsAgree)
      .tells("sessionClosed", { ...closed(4507), side: "node", by: "local", ...node })
      .tells("sessionClosed", client);
  story({}).finds();
  story({ code: 4408, by: "network" }, closed(4408)).finds();
  story({ session: "2" }).finds();
  story({ code: 0 }, { ...closed(1006), by: "network" }).finds();
  story({ code: 0 }, { ...closed(0), by: "network" })
    .finds('expected 1006 or 4408 by the network, received 0 "why", by network');
  story({ code: 0 }).finds(
    'expected the end that the node of session 1 made, 0 "why", by local, received 4507 "why", ' +
      "by remote",
  );
  story({ by: "remote" }).finds(
    'expected the end that the node of session 1 made, 4507 "why", by remote, received 4507 ' +
      '"why", by remote',
    'expected the end that the client of session 1 made, 4507 "why", by remote, received 4507 ' +
      '"why", by remote',
  );
});

/** Clients with some sessions, and a node with others. */
function meets(story: Story, own: readonly (string | undefined)[], here: readonly string[]): Story {
  own.forEach((id, index) => {
    story.cluster.clients.push({
      host: story.host(`c${index}`),
      client: { session: id && { id }, status: { current: { name: "reconnecting" } } },
    } as unknown as LiveClient);
  });
  story.cluster.servers.push({
    host: story.host("node1"),
    server: {
      manager: {
        all: () =>
          here.map((id) => ({
            id,
            user: id === "guest" ? "guest-of-ann" : "ann",
            protocol: id === "page" ? "" : "skein.1",
          })),
      },
    } as never,
  });
  return story.ends();
}

Deno.test("sessionsAgree holds if both sides have the same sessions, and finds others", () => {
  meets(new Story(sessionsAgree), ["1", "2"], ["2", "1", "page"]).finds();
  meets(new Story(sessionsAgree), ["1", undefined], ["3"]).finds(
    'expected a connected client, received the status "reconnecting"',
    "expected sessions of clients that live, received 3 of ann too",
    "expected session 1 on a node, received it on none",
  );
});

Deno.test("gonePeersNoticed holds while both sides live or briefly after, and finds late ends", () => {
  const stays = (session: string, ...waits: readonly number[]) => {
    const story = meets(new Story(gonePeersNoticed), [session === "1" ? "1" : undefined], [
      session,
    ]);
    for (const ms of waits) story.steps().passes(ms);
    return story.steps().steps();
  };
  stays("1", 60_000, 60_000).finds();
  stays("2", 10_000, 12_000).finds();
  stays("page", 60_000).finds();
  stays("guest", 60_000).finds();
  stays("2", 10_000, 13_000).finds(
    "expected the end of session 2 of ann, whose other side is gone since 0.000 s, within 22000 " +
      "ms, received none",
  );
  const behind = meets(new Story(gonePeersNoticed), ["1"], []);
  behind.cluster.isBehind = () => behind.cluster.nowMs < 30_000;
  behind.steps().passes(23_000).steps().passes(22_000).steps().finds();
  meets(new Story(gonePeersNoticed), ["1"], []).steps().passes(20_000)
    .tells("faulted", { scope: "node", kind: "jump-clock", lastsMs: 0 }).steps().passes(10_000)
    .steps().finds();
  meets(new Story(gonePeersNoticed), ["1"], []).steps().passes(23_000).steps().finds(
    "expected the end of session 1 of c0, whose other side is gone since 0.000 s, within 22000 " +
      "ms, received none",
  );
});

Deno.test("trueFigures holds for matching statistics, and finds others", () => {
  const shows = (stats: object, topics = 1) => {
    const story = new Story(trueFigures);
    const figures = {
      count: 1,
      created: 3,
      closed: 1,
      removed: 1,
      states: { connected: 1, draining: 0 },
      users: 1,
      reserved: 0,
      sockets: { open: 3, lingering: 2 },
      messages: { waiting: 0, queued: 0 },
      bytes: { queued: 0 },
      credit: { waiting: 0 },
      unreadStreams: { count: 0, bytes: 0 },
    };
    const sessions = [{ user: "ann", transport: "http" }];
    story.cluster.servers.push({
      host: story.host("node1"),
      server: {
        manager: { all: () => sessions, stats: () => ({ ...figures, ...stats }) },
        topics: { stats: { topics, waitingPages: 0, waitingBytes: 0 }, list: () => ["t"] },
      } as unknown as LiveServer["server"],
    });
    return story.ends();
  };
  shows({}).finds();
  shows({ sockets: { open: 4, lingering: 2 } }).finds(
    'expected 1 for "sockets in use", received 2',
  );
  shows({ count: 2, closed: 0, users: 0, reserved: 1 }, 4).finds(
    'expected 1 for "count", received 2',
    'expected 1 for "created - closed - removed", received 2',
    'expected 1 for "users", received 0',
    'expected 0 for "reserved", received 1',
    'expected 1 for "topics", received 4',
  );
});
