/** Messages that a server sends in the turn in which sessions end, or shortly before that. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { CloseCode, type CloseInfo } from "../../errors.ts";
import { Broadcast } from "../../session/queue/broadcast.ts";
import type { Session } from "../../session/session.ts";
import type { Server } from "../../server.ts";
import { type Drawn, maybe } from "./draw.ts";
import { collect } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken } from "./world.ts";

/** The clients' users. Two clients have the same user. */
const USERS = ["ann", "ann", "ben"] as const;

/** The topics of publications, and the topic of other messages. */
const [TOPICS, NOTE] = [["a", "b"], "note"] as const;

/** Size of a large message in bytes. It is larger than a frame. */
const LARGE_BYTES = 60_000;

/** A message to one client, or a publication that excludes a client. */
const message = fc.record({
  kind: fc.constantFrom("publication", "publication", "to a user", "to a session"),
  topic: fc.constantFrom(...TOPICS),
  to: fc.nat(USERS.length - 1),
  isExcept: fc.boolean(),
  isLarge: fc.boolean(),
});

type Message = Drawn<typeof message>;

const messages = fc.array(message, { maxLength: 5 });

const round = fc.record({
  /** Messages that are sent some milliseconds before the end, and messages in the last turn. */
  earlier: maybe(fc.tuple(messages, fc.nat(30))),
  last: messages,
  end: fc.constantFrom("nothing", "close", "disconnect", "close of all"),
  code: fc.constantFrom(CloseCode.draining, CloseCode.tooMany, 3_000, 4_000),
  /** Clients whose sessions close, and the user who is disconnected. */
  closed: fc.subarray([0, 1, 2]),
  user: fc.constantFrom("ann", "ben"),
  /** A client that the server removes from its topics, and a client on a slow link. */
  removed: maybe(fc.nat(2)),
  narrow: maybe(fc.nat(2)),
});

/** A client and the messages that were received and sent. */
interface Listener {
  readonly user: string;
  readonly client: Client;
  readonly subscriptions: Map<string, Subscription>;
  readonly subscribe: (topic: string) => void;
  readonly got: Map<string, number[]>;
  readonly sent: Map<string, number[]>;
}

property("each session receives all messages from before its end, then the code and the reason", {
  cases: fc.record({
    transports: fc.tuple(
      ...USERS.map(() => fc.constantFrom("websocket", "webtransport", "http")),
    ),
    topics: fc.tuple(...USERS.map(() => fc.subarray([...TOPICS]))),
    rounds: fc.array(round, { minLength: 1, maxLength: 3 }),
  }),
  async check(world, { transports, topics, rounds }) {
    const { server, host } = world.serve<string>("server", () => ({
      ...byToken,
      authorize: () => true,
      onMessage() {},
      onError() {},
    }));
    const stale = countStale();
    world.onEnd(stale.end);
    const listeners = USERS.map((user, i) => {
      const got = new Map<string, number[]>();
      const take = (topic: string) => ({ data }: { readonly data: unknown }) =>
        note(got, topic, (data as { readonly n: number }).n);
      const client = world.connect(`client-${i}`, host, {
        token: user,
        transports: [transports[i]!],
        backoff: { firstDelayMs: 50, maxDelayMs: 200 },
        onMessage: take(NOTE),
        onError() {},
      });
      const subscriptions = new Map<string, Subscription>();
      const subscribe = (topic: string) => {
        const subscription = client.subscribe(topic);
        subscriptions.set(topic, subscription);
        void collect(subscription, take(topic));
      };
      for (const topic of topics[i]!) subscribe(topic);
      return { user, client, subscriptions, subscribe, got, sent: new Map<string, number[]>() };
    });
    let count = 0;
    for (const { earlier, last, end, code, closed, user, removed, narrow } of rounds) {
      await world.until("all clients", () => listeners.every((one) => isBack(one, server)), 12_000);
      for (const { got, sent } of listeners) for (const map of [got, sent]) map.clear();
      const slow = narrow === undefined ? undefined : world.host(`client-${narrow}`);
      if (slow) world.change(host, slow, { bytesPerSecond: 400_000 });
      const sessions = listeners.map((one) => sessionOf(server, one)!);
      const ending = listeners.map((one, i) =>
        end === "close of all" || end === "close" && closed.includes(i) ||
        end === "disconnect" && one.user === user
      );
      const infos = new Map<Listener, CloseInfo>();
      for (const [i, one] of listeners.entries()) {
        if (ending[i]) void one.client.session!.closed.then((info) => infos.set(one, info));
      }
      if (earlier !== undefined) {
        for (const one of earlier[0]) send({ server, listeners, sessions, n: count++ }, one);
        await world.pause(earlier[1]);
      }
      // All of this happens in one turn.
      for (const one of last) send({ server, listeners, sessions, n: count++ }, one);
      const left = removed === undefined ? [] : [...listeners[removed]!.subscriptions.keys()];
      for (const topic of left) server.unsubscribe(sessions[removed!] as never, topic);
      const info = { code, reason: `enough ${count}` };
      if (end === "close") { for (const i of closed) void sessions[i]!.close(info); }
      if (end === "disconnect") void server.disconnect(user, info);
      if (end === "close of all") void server.manager.closeAll(info);

      const expected = ending.filter(Boolean).length;
      const isThere = ({ got, sent }: Listener) =>
        [...sent].every(([topic, numbers]) => (got.get(topic)?.length ?? 0) >= numbers.length);
      await world.until("all messages", () => listeners.every(isThere) && infos.size === expected);
      // A duplicate would arrive later.
      await world.pause(60);
      for (const { got, sent } of listeners) assertEquals(shown(got), shown(sent));
      for (const { by, code, reason } of infos.values()) {
        assertEquals({ by, code, reason }, { by: "remote", ...info });
      }
      const areOver = () =>
        left.every((topic) =>
          listeners[removed!]!.subscriptions.get(topic)!.status.current === "ended"
        );
      await world.until("the end of the removed subscriptions", areOver);
      for (const topic of left) listeners[removed!]!.subscribe(topic);
      if (slow) world.change(host, slow, { bytesPerSecond: Infinity });
    }
    assertEquals(stale.count, 0, "exceptions that outlive their turn");
  },
});

/** Counts message exclusions that outlive their turn. Such a leak is invisible to clients. */
function countStale(): { count: number; readonly end: () => void } {
  const { take } = Broadcast.prototype;
  const stale = { count: 0, end: () => void (Broadcast.prototype.take = take) };
  Broadcast.prototype.take = function () {
    const batch = take.call(this);
    for (const entry of batch.exceptions?.keys() ?? []) {
      if (!batch.entries.includes(entry)) stale.count++;
    }
    return batch;
  };
  return stale;
}

/** Returns true once a client has one session with all of its subscriptions. */
function isBack(one: Listener, server: Server<string>): boolean {
  const { client, subscriptions } = one;
  return client.isConnected && sessionOf(server, one) !== undefined &&
    server.manager.count === USERS.length &&
    subscriptions.values().every(({ status }) => status.current === "subscribed");
}

function sessionOf(server: Server<string>, { client }: Listener): Session | undefined {
  return server.manager.all().find(({ id }) => id === client.session?.id) as Session | undefined;
}

/** Sends a message and records its recipients. */
function send(
  { server, listeners, sessions, n }: {
    readonly server: Server<string>;
    readonly listeners: readonly Listener[];
    readonly sessions: readonly Session[];
    readonly n: number;
  },
  { kind, topic, to, isExcept, isLarge }: Message,
): void {
  const data = { n, pad: isLarge ? "x".repeat(LARGE_BYTES) : "" };
  if (kind === "publication") {
    server.publish(topic, data, isExcept ? { except: sessions[to] as never } : undefined);
    for (const [i, { subscriptions, sent }] of listeners.entries()) {
      if (subscriptions.has(topic) && !(isExcept && i === to)) note(sent, topic, n);
    }
  } else if (kind === "to a user") {
    server.to(USERS[to]!).send(NOTE, data);
    for (const { user, sent } of listeners) if (user === USERS[to]) note(sent, NOTE, n);
  } else {
    sessions[to]!.send(NOTE, data);
    note(listeners[to]!.sent, NOTE, n);
  }
}

function note(map: Map<string, number[]>, topic: string, n: number): void {
  const numbers = map.get(topic);
  if (numbers === undefined) map.set(topic, [n]);
  else numbers.push(n);
}

function shown(map: ReadonlyMap<string, number[]>): Record<string, number[]> {
  return Object.fromEntries([...map].toSorted());
}
