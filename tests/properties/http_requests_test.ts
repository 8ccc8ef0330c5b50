/** Raw requests of one HTTP connection, sent to its own node and to another node. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { keyOf } from "./draw.ts";
import { FailingStore } from "./failing_store.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/** Maximum size of a message, and of a frame that combines several messages, in bytes. */
const [MESSAGE_BYTES, FRAME_BYTES] = [4_096, 65_536] as const;

/** Duration of a poll without an event according to docs/protocol.md 26, in milliseconds. */
const POLL_MS = 25_000;

/** Time that a call between two nodes takes, and the timeout of such a call, in milliseconds. */
const [ROUND_MS, ANSWER_MS] = [150, 6_100] as const;

/** Time between two heartbeats of a node, in milliseconds. */
const BEAT_MS = 10_000;

const isHome = fc.boolean();

const step = fc.oneof(
  fc.record({
    kind: fc.constant("post" as const),
    isHome,
    /** Distance of the first frame from the expected frame. It may be repeated or too early. */
    shift: fc.integer({ min: -2, max: 2 }),
    /** Number of frames of 4 KB. 30 of them almost reach the maximum size of a request. */
    count: fc.constantFrom(1, 0, 2, 3, 30),
  }),
  fc.record({
    kind: fc.constant("get" as const),
    isHome,
    isPoll: fc.boolean(),
    /** Number of received events that the client requests again. */
    back: fc.nat(3),
    /** Messages that the server sends after the request. */
    messages: fc.nat(3),
  }),
  fc.record({
    kind: fc.constantFrom("wrong secret", "wrong id", "wrong number", "frozen node", "lost broker"),
    isHome,
  }),
);

property("a connection over HTTP does what each request says, whichever node receives it", {
  cases: fc.array(step, { maxLength: 8 }),
  async check(world, steps) {
    const connection = await Connection.open(world);
    const { nodes, store, far, handled } = connection;
    const readers: Events[] = [];
    let last = 1;
    for (const step of steps) {
      switch (step.kind) {
        case "post": {
          const { next } = connection;
          const first = Math.max(1, next + step.shift);
          const isHole = first > next && step.count > 0;
          const expected = isHole || step.count === 0 ? next : Math.max(next, first + step.count);
          const response = await connection.post(step.isHome, { first, count: step.count });
          const received = [response.status, response.headers.get("skein-number")];
          assertEquals(received, [isHole ? 409 : 204, `${expected}`]);
          break;
        }
        case "get": {
          const after = Math.max(connection.confirmed, last - step.back);
          const reader = connection.get(step.isHome, after, step.isPoll);
          await world.pause(ROUND_MS);
          assert(readers.every(({ isOver }) => isOver), "an earlier stream goes on");
          const texts = readers.map(({ text }) => text);
          // A poll returns the events that are waiting, or else the next event.
          const most = step.isPoll ? Math.max(last, after + 1) : Infinity;
          for (let left = step.messages; left > 0; left--) {
            far.send("event", ++last);
            // Messages of one turn share a frame.
            await world.pause(5);
          }
          const isEmpty = step.isPoll && after === last;
          if (isEmpty) await world.pause(POLL_MS - 2 * ROUND_MS);
          if (isEmpty) assertEquals(reader.status, undefined);
          await world.pause(2 * ROUND_MS);
          assertEquals([reader.status, reader.isOver], [isEmpty ? 204 : 200, step.isPoll]);
          assertEquals(reader.ids, range(after + 1, Math.min(last, most)));
          assertEquals(readers.map(({ text }) => text), texts, "an earlier stream has events");
          readers.push(reader);
          break;
        }
        case "wrong secret":
        case "wrong id": {
          const name = step.kind === "wrong id" ? "skein-session" : "skein-secret";
          const headers = { [name]: `${connection.own[name]}x`, "last-event-id": "0" };
          assertEquals((await connection.ask(step.isHome, { headers })).status, 410);
          break;
        }
        case "wrong number":
          for (const number of [connection.confirmed - 1, last + 2]) {
            const headers = { "last-event-id": `${number}` };
            assertEquals((await connection.ask(step.isHome, { headers })).status, 400);
          }
          break;
        case "frozen node":
        case "lost broker": {
          const isFrozen = step.kind === "frozen node";
          if (isFrozen) nodes[0]!.host.freeze();
          else store.goAway();
          // Only requests through the other node need the store.
          if (!isFrozen) assertEquals((await connection.post(true, {})).status, 204);
          const response = await connection.post(false, {});
          assertEquals([response.status, response.headers.get("retry-after")], [503, "1"]);
          const rule = "Cannot continue: the node of the connection does not respond";
          assertEquals((await response.json()).detail, rule);
          if (isFrozen) nodes[0]!.host.thaw();
          else store.comeBack();
          await world.pause(ROUND_MS);
          assertEquals((await connection.post(false, {})).status, 204);
          // The last stream may have ended.
          readers.push(connection.get(step.isHome, connection.confirmed));
          await world.pause(ROUND_MS);
        }
      }
      assertEquals(connection.sessions, 1);
    }
    await world.pause(ROUND_MS);
    assertEquals(handled, range(1, connection.next - 1));
  },
});

/** Ways in which a connection ends, with the status of the request that ends it. */
const ENDS: Readonly<Record<string, number>> = {
  "a DELETE": 204,
  "a body that is too large": 413,
  "a close of the server": 0,
  "the death of its node": 0,
};

/** Bodies that end a session after a valid frame. */
const WRONG: Readonly<Record<string, Uint8Array<ArrayBuffer>>> = {
  "a length without a type": Uint8Array.of(1),
  "half a length": Uint8Array.of(0x40),
  "an unknown type": Uint8Array.of(1, 2, 65),
  "a frame that is cut": Uint8Array.of(3, 1, 65, 66),
  "a text that is no UTF-8": Uint8Array.of(2, 0, 0xc3, 0x28),
  "a frame that is too large": framesOf(" ".repeat(FRAME_BYTES + 1)),
};

property("a connection over HTTP ends with its reason on all nodes, and frees its slots", {
  runs: 12,
  cases: fc.record({ end: keyOf({ ...ENDS, ...WRONG }), isHome }),
  async check(world, { end, isHome }) {
    const connection = await Connection.open(world);
    const { nodes, far, handled } = connection;
    const isLarge = end.endsWith("too large");
    const status = ENDS[end] ?? (isLarge ? 413 : 400);
    const wrong = isLarge ? CloseCode.tooLarge : CloseCode.malformed;
    const code = end in WRONG ? wrong : end === "a close of the server" ? 3_003 : undefined;
    const isDeath = end === "the death of its node";
    // When a node ends, its streams end too.
    const reader = connection.get(isHome && !isDeath, 1);
    await world.pause(ROUND_MS);
    const beganMs = world.nowMs;
    if (end === "a close of the server") void far.close({ code: code! });
    else if (isDeath) nodes[0]!.host.kill({ power: true });
    else {
      const rest = WRONG[end] ?? new Uint8Array(3 * FRAME_BYTES);
      const response = end === "a DELETE"
        ? await connection.ask(isHome, { method: "DELETE" })
        : await connection.post(isHome, { rest });
      assertEquals(response.status, status);
    }
    if (isDeath) {
      const statuses = new Set<number>();
      while (!statuses.has(410) && world.nowMs - beganMs < 2 * BEAT_MS) {
        statuses.add((await connection.post(false, { count: 0 })).status);
      }
      // At first the node does not respond, and then it misses two heartbeats.
      assertEquals([...statuses], [503, 410]);
    } else {
      await world.until("the end of the session", () => connection.sessions === 0, ROUND_MS);
      const poll = connection.get(isHome, 1, true);
      await world.until("a response", () => poll.isOver, ROUND_MS);
      assertEquals(poll.status, code === undefined ? 410 : 200);
      if (code !== undefined) assert(poll.text.includes(`"code":${code}`));
    }
    await world.until("the end of the stream", () => reader.isOver, 40_000);
    if (code !== undefined) assert(reader.text.includes(`"code":${code}`));
    assertEquals(handled, [], "a frame of a wrong body is handled");
    const alive = nodes.filter(({ host }) => host.isAlive);
    const slots = () => alive.flatMap(({ server }) => Object.values(server.quotaStats));
    await world.until("all slots", () => slots().every(({ taken }) => taken === 0));
  },
});

/** A connection at the first of two nodes, with the client's state. */
class Connection {
  readonly store: FailingStore;
  readonly nodes: readonly SimulatedServer<string>[];
  readonly handled: number[] = [];
  /** Headers that name the connection. */
  own: Readonly<Record<string, string>> = {};
  /** The client's next frame, and the last event that it has confirmed. */
  next = 1;
  confirmed = 0;

  private constructor(readonly world: World) {
    this.store = new FailingStore(world);
    this.nodes = ["home", "other"].map((name) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: this.store.broker(host),
        node: { heartbeatMs: BEAT_MS, goneAfterMs: 4 * BEAT_MS },
        session: {
          maxMessageBytes: MESSAGE_BYTES,
          heartbeat: { intervalMs: 600_000, timeoutMs: 900_000 },
        },
        onMessage: ({ data }) => void this.handled.push(data as number),
        onError() {},
      }))
    );
  }

  static async open(world: World): Promise<Connection> {
    const connection = new Connection(world);
    await Promise.all(connection.nodes.map(({ server }) => server.nodes?.ready));
    const path = "/?protocol=skein.1&token=ada";
    const response = await connection.ask(true, { path, headers: { "skein-poll": "1" } });
    const [, data = ""] = (await response.text()).split("\n");
    const { session, secret } = JSON.parse(data.slice("data: ".length));
    connection.own = { "skein-session": session, "skein-secret": secret };
    return connection;
  }

  /** The session of the server. */
  get far(): Session {
    return this.nodes[0]!.server.manager.all()[0]!;
  }

  get sessions(): number {
    return this.nodes.reduce((sum, { server }) => sum + server.manager.count, 0);
  }

  /** Sends a request to the connection's node or to the other node. */
  ask(
    isHome: boolean,
    { path = "/", headers, ...init }: RequestInit & { readonly path?: string } = {},
  ): Promise<Response> {
    const { host, server } = this.nodes[isHome ? 0 : 1]!;
    const request = new Request(`https://${host.name}${path}`, {
      ...init,
      headers: { "skein-transport": "http", ...this.own, ...headers as Record<string, string> },
    });
    const asked = this.world.run(host, () => server.fetch(request));
    return this.world.inTime("a response", asked, POLL_MS + ANSWER_MS);
  }

  /** Requests the events that follow a number. */
  get(isHome: boolean, after: number, isPoll = false): Events {
    this.confirmed = after;
    const headers = { "last-event-id": `${after}`, ...(isPoll && { "skein-poll": "1" }) };
    return new Events(this.ask(isHome, { headers }));
  }

  /**
   * Posts frames with numbered messages, followed by raw bytes. By default, it posts the next
   * frame.
   */
  async post(
    isHome: boolean,
    { first = this.next, count = 1, rest = new Uint8Array() },
  ): Promise<Response> {
    const headers = { "skein-number": `${first}`, "last-event-id": `${this.confirmed}` };
    const textOf = (data: number) => JSON.stringify({ topic: "number", data }).padEnd(4_000);
    const frames = framesOf(...range(first, first + count - 1).map(textOf));
    const body = Uint8Array.from([...frames, ...rest]);
    const asked = this.ask(isHome, { method: "POST", headers, body });
    const response = await this.world.inTime("the response to a post", asked, ANSWER_MS);
    if (response.status === 204) this.next = Number(response.headers.get("skein-number"));
    return response;
  }
}

/** Reads the events of a response. */
class Events {
  status: number | undefined;
  text = "";
  isOver = false;

  constructor(asked: Promise<Response>) {
    void this.#read(asked);
  }

  /** Returns the numbers of the received events. */
  get ids(): number[] {
    return Array.from(this.text.matchAll(/^id: (\d+)$/gm), ([, id]) => Number(id));
  }

  async #read(asked: Promise<Response>): Promise<void> {
    const { status, body } = await asked;
    this.status = status;
    for await (const bytes of body ?? []) this.text += new TextDecoder().decode(bytes);
    this.isOver = true;
  }
}

/** Encodes text frames, each preceded by its length and type. */
function framesOf(...texts: string[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(texts.flatMap((text) => {
    const { length } = text;
    // The longest form of a length fits all frames.
    return [
      0x80,
      length >> 16,
      length >> 8 & 0xff,
      length & 0xff,
      0,
      ...new TextEncoder().encode(text),
    ];
  }));
}
