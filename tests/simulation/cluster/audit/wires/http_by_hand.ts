/** Requests of the HTTP transport by hand, at the node of a connection and at another: section 26 of the protocol. */
import { CloseCode } from "../../../../../errors.ts";
import { between, oneOf, shuffled } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { range } from "../../../../properties/outcomes.ts";
import { type UserNode, UserNodes } from "../users/user_nodes.ts";
import {
  type Asked,
  type Asking,
  framesOf,
  HttpConnectionByHand,
  noteOf,
} from "./hand_connection.ts";

/** Rate of attempts of one address: requests with a wrong secret count as well. */
const ATTEMPTS = { perSecond: 0.01, burst: 6 } as const;

/** Most bytes of a message, and of a frame that joins several ones. */
export const [MAX_MESSAGE_BYTES, FRAME_BYTES] = [4_096, 65_536] as const;

/** Time of a poll without an event, of a comment, and of a connection without a GET, in milliseconds. */
const [POLL_MS, COMMENT_MS, LOST_MS] = [25_000, 15_000, 30_000] as const;

/** Time for calls between two nodes, in milliseconds. */
export const ROUND_MS = 150;

/** Difference of a time from the documented one: calls between nodes, and the look for lost connections, in milliseconds. */
const [SLACK_MS, LOOK_MS] = [400, 6_000] as const;

/** Posts of one connection, and most frames of one post. */
const [POSTS, MOST_FRAMES] = [14, 3] as const;

/** Posts whose bodies a server reads at once. */
const BODIES = 2;

/** Posts with slow bodies of one connection. */
const SLOW_BODIES = 6;

/** Heartbeat that ends no session here. */
const HEARTBEAT = { intervalMs: 600_000, timeoutMs: 900_000 } as const;

/** Address of one that guesses secrets, and of one that guesses ids. */
const [FORGER, GUESSER] = ["203.0.113.9", "203.0.113.10"] as const;

/** A connection, and its user. */
interface Opened {
  readonly user: string;
  readonly connection: HttpConnectionByHand;
}

/** A post that ends the session. */
interface EndingPost {
  /** Name of the body. */
  readonly what?: string;
  readonly body: Uint8Array<ArrayBuffer>;
  /** Number of the first frame. */
  readonly number?: number;
  /** Status of the answer. */
  readonly status: number;
  /** Code of the close. */
  readonly code: number;
}

/** Two nodes, and connections to these. */
export class ByHand {
  readonly audit: Audit;
  readonly random: () => number;
  readonly #nodes: UserNodes;
  readonly handled = new Map<string, number[]>();
  #users = 0;

  constructor(audit: Audit, random: () => number) {
    this.audit = audit;
    this.random = random;
    this.#nodes = new UserNodes(audit, "by-hand", {
      rates: { perAddress: { connections: ATTEMPTS } },
      session: { maxMessageBytes: MAX_MESSAGE_BYTES, heartbeat: HEARTBEAT },
      onMessage: ({ data }, { user }) => {
        const n = data instanceof Uint8Array ? data[0]! : (data as { readonly n: number }).n;
        this.handled.set(user, [...this.handled.get(user) ?? [], n]);
      },
      onError() {},
    });
  }

  /** Sends all kinds of requests, and those of others. */
  async run(...others: ((byHand: ByHand) => Promise<void>)[]): Promise<void> {
    await this.#nodes.ready();
    // The transport loads with its first request.
    for (const node of this.#nodes.all) await (await this.open(node)).connection.end(node);
    await Promise.all([
      this.#auditPosts(),
      this.#auditBodies(),
      this.#auditLarge(),
      this.#auditPolls(),
      this.#auditStream(),
      this.#auditSecrets(),
      ...others.map((other) => other(this)),
    ]);
    await this.#nodes.close();
  }

  /** Any node: that of a connection, or the other one. */
  node(): UserNode {
    return oneOf(this.random, this.#nodes.all);
  }

  async open(home = this.node()): Promise<Opened> {
    // Each has an address of its own, with a full bucket of attempts.
    const number = ++this.#users;
    const user = `hand-${number}`;
    const connection = await HttpConnectionByHand.open(home, user, `192.0.2.${number}`);
    await this.audit.pause(ROUND_MS);
    return { user, connection };
  }

  /** Frames that come once, again, or too early: each is handled once, and in order. */
  async #auditPosts(): Promise<void> {
    const random = this.random;
    const opened = await this.open();
    const { user, connection } = opened;
    let next = 1;
    for (let i = 0; i < POSTS; i++) {
      const first = random() < 0.25
        ? next + 1 + Math.floor(2 * random())
        : Math.max(1, next - Math.floor(MOST_FRAMES * random()));
      const count = Math.floor((MOST_FRAMES + 1) * random());
      const text = "x".repeat(Math.floor(200 * random()));
      const texts = range(first, first + count - 1).map((n) => noteOf(n, text));
      const isHole = first > next && count > 0;
      if (!isHole && count > 0) next = Math.max(next, first + count);
      const response = await connection.post(this.node(), first, framesOf(texts));
      const { status, headers } = response;
      await response.body?.cancel();
      const what = `post of ${count} frames from ${first} on`;
      const received = [status, headers.get("skein-number"), headers.get("skein-transport")];
      this.expect(what, [isHole ? 409 : 204, `${next}`, "http"], received);
    }
    await this.audit.pause(ROUND_MS);
    const all = range(1, next - 1);
    this.expect("messages of all posts", all, this.handled.get(user) ?? []);
    const body = Uint8Array.of(9, 7, 1);
    await this.expectEnd({ number: next, body, status: 400, code: CloseCode.malformed }, opened);
  }

  /** Sends a body that ends the session: no frame is handled, and the client is told the code. */
  async expectEnd(
    { number = 1, what = "a malformed body", body, status, code }: EndingPost,
    opened?: Opened,
  ): Promise<void> {
    const { user, connection } = opened ?? await this.open();
    const handled = this.handled.get(user) ?? [];
    const post = await connection.post(this.node(), number, body);
    this.expect(`status of a post with ${what}`, status, post.status);
    const last = await connection.poll(this.node());
    const text = await last.text();
    const isTold = text.includes(`"code":${code}`);
    this.expect(`close behind a post with ${what}`, [200, true], [last.status, isTold || text]);
    await this.audit.pause(ROUND_MS);
    const received = [this.sessionsOf(user), this.handled.get(user) ?? []];
    this.expect(`sessions and messages behind a post with ${what}`, [0, handled], received);
  }

  /** Posts whose bodies come slowly: a further one takes the place of the oldest. */
  async #auditBodies(): Promise<void> {
    const random = this.random;
    const { user, connection } = await this.open();
    const node = this.node();
    const waiting: { number: number; answer: Asking; complete: () => void }[] = [];
    let next = 1;
    for (let i = 0; i < SLOW_BODIES; i++) {
      if (waiting.length === BODIES) {
        if (random() < 0.5) {
          // The one that came first or second is complete.
          const [done] = waiting.splice(random() < 0.5 ? 0 : 1, 1);
          done!.complete();
          this.expect("post whose body is complete", 204, (await done!.answer).status);
          next = Math.max(next, done!.number + 1);
        } else {
          void this.#expectLater("post in whose place another came", 503, waiting.shift()!.answer);
        }
      }
      // All of them repeat the frame that is due, as a client would.
      const { promise, resolve: complete } = Promise.withResolvers<void>();
      const number = next;
      const body = new ReadableStream<Uint8Array>({
        async start(controller) {
          const frames = framesOf([noteOf(number)]);
          controller.enqueue(frames.slice(0, 4));
          await promise;
          try {
            controller.enqueue(frames.slice(4));
            controller.close();
          } catch {
            // The server gave the body up.
          }
        },
      });
      waiting.push({ number, answer: connection.post(node, number, body), complete });
      await this.audit.pause(ROUND_MS);
    }
    const settled = new Set<number>();
    for (const { number, answer } of waiting) void answer.then(() => settled.add(number));
    await this.audit.pause(ROUND_MS);
    this.expect("posts whose bodies are not complete", 0, settled.size);
    for (const { complete } of waiting) complete();
    for (const { answer, number } of waiting) {
      this.expect(`post of frame ${number} in the end`, 204, (await answer).status);
      next = Math.max(next, number + 1);
    }
    await this.audit.pause(ROUND_MS);
    const all = range(1, next - 1);
    this.expect("messages of slow bodies", all, this.handled.get(user) ?? []);
    await connection.end(node);
  }

  /** A body beyond all frames: the session ends. */
  async #auditLarge(): Promise<void> {
    const { user, connection } = await this.open();
    const fine = await connection.post(this.node(), 1, framesOf([noteOf(1, "x".repeat(3_000))]));
    const [session] = connection.home.server.manager.sessionsOf(user);
    const closed = session?.closed.then(({ code }) => code) ?? Promise.resolve(0);
    this.expect("post of a large frame", [204, 1], [fine.status, this.sessionsOf(user)]);
    const asked = connection.post(this.node(), 2, new Uint8Array(3 * FRAME_BYTES));
    this.expect("post of a body that is too large", 413, (await asked).status);
    await this.audit.pause(ROUND_MS);
    this.expect("sessions behind a body that is too large", 0, this.sessionsOf(user));
    const code = await this.audit.inTime(closed, ROUND_MS, 0);
    this.expect("close behind a body that is too large", CloseCode.tooLarge, code);
    const { status } = await connection.poll(this.node());
    this.expect("poll behind a body that is too large", 410, status);
  }

  /** Polls that wait: for the longest time, and up to each kind of end. */
  async #auditPolls(): Promise<void> {
    const cases = ["time", "event", "replaced", "deleted", "closed"] as const;
    await Promise.all(
      this.#nodes.all.flatMap((asked) =>
        this.#nodes.all.flatMap((home) =>
          shuffled(this.random, cases).slice(0, 3).map((end) => this.#auditPoll(home, asked, end))
        )
      ),
    );
  }

  async #auditPoll(
    home: UserNode,
    asked: UserNode,
    end: "time" | "event" | "replaced" | "deleted" | "closed",
  ): Promise<void> {
    const audit = this.audit;
    const { user, connection } = await this.open(home);
    const what = `poll ${home === asked ? "at its node" : "at another node"}, end: ${end}`;
    const first = await (await connection.poll(asked, 0)).text();
    this.expect(`events of the first ${what}`, "id:1", first.split("\n")[0]);
    const beganMs = audit.nowMs;
    const polling = connection.poll(asked).then(async (response) => ({
      status: response.status,
      text: await response.text(),
      tookMs: audit.nowMs - beganMs,
    }));
    const waitMs = between(this.random, ROUND_MS, POLL_MS - 2 * SLACK_MS);
    let isKept = true;
    if (end !== "time") await audit.pause(waitMs);
    const [session] = home.server.manager.sessionsOf(user);
    if (end === "event") session?.send("event", end);
    if (end === "closed") {
      void session?.close({ code: 3_003 });
      isKept = false;
    }
    // A node may answer the earlier request later than the one that comes behind.
    const next = end === "replaced" ? connection.poll(this.node()) : undefined;
    if (end === "deleted") {
      const { status } = await connection.end(this.node());
      this.expect(`answer to DELETE during a ${what}`, 204, status);
      isKept = false;
    }
    const { status, text, tookMs } = await polling;
    const lateMs = Math.round(tookMs - (end === "time" ? POLL_MS : waitMs));
    this.expect(`time of a ${what}`, true, Math.abs(lateMs) <= SLACK_MS || lateMs);
    const hasEvents = end === "event" || end === "closed";
    const expected = hasEvents ? 200 : end === "deleted" ? 410 : 204;
    this.expect(`status of a ${what}`, expected, status);
    if (end === "closed") this.expect(`text of a ${what}`, true, text.includes("3003") || text);
    await audit.pause(ROUND_MS);
    this.expect(`sessions behind a ${what}`, Number(isKept), this.sessionsOf(user));
    if (!isKept) return;
    await connection.end(this.node());
    await next;
  }

  /** An event stream that is read for a while, and then left: the connection is lost in time. */
  async #auditStream(): Promise<void> {
    const audit = this.audit;
    const { user, connection } = await this.open();
    const asked = this.node();
    const where = asked === connection.home ? "at its node" : "at another node";
    const response = await connection.ask(asked, { headers: { "last-event-id": "0" } });
    const reader = response.body!.getReader();
    const texts: string[] = [];
    const reading = (async () => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        texts.push(new TextDecoder().decode(value));
      }
    })();
    await audit.pause(COMMENT_MS + SLACK_MS);
    const comments = texts.filter((text) => text.startsWith(":")).length;
    this.expect(`comments of a stream ${where}`, true, comments === 1 || texts);
    await audit.pause(between(this.random, 0, COMMENT_MS / 3));
    const beganMs = audit.nowMs;
    await reader.cancel();
    await reading;
    await audit.until(() => this.sessionsOf(user) === 0, LOST_MS + 2 * COMMENT_MS);
    const lateMs = Math.round(audit.nowMs - beganMs - LOST_MS);
    const isInTime = lateMs >= -SLACK_MS && lateMs <= LOOK_MS;
    this.expect(`end of a connection whose stream was left ${where}`, true, isInTime || lateMs);
    const { status } = await connection.poll(this.node());
    this.expect(`poll of a lost connection ${where}`, 410, status);
  }

  /** Requests with a wrong secret count as attempts of their address; those for unknown ids do not. */
  async #auditSecrets(): Promise<void> {
    const { user, connection } = await this.open();
    const node = this.node();
    const headers = { "skein-poll": "1", "last-event-id": "1" };
    const forge = async (address: string, more: Asked = {}) => {
      const response = await connection.ask(node, { headers, address, ...more });
      await response.body?.cancel();
      return response.status;
    };
    const { secret: own } = connection;
    const wrong = ["x".repeat(own.length), own.slice(0, -1), `${own}x`, own.slice(1), "x"];
    for (let i = 0; i <= ATTEMPTS.burst; i++) {
      const method = oneOf(this.random, ["GET", "DELETE"]);
      const secret = oneOf(this.random, wrong);
      const expected = i < ATTEMPTS.burst ? 410 : 429;
      this.expect(
        `request ${i} with a wrong secret`,
        expected,
        await forge(FORGER, { method, secret }),
      );
    }
    for (let i = 0; i <= ATTEMPTS.burst; i++) {
      const id = `${connection.id.slice(0, -1)}${connection.id.endsWith("0") ? "1" : "0"}`;
      const unknown = await forge(GUESSER, { headers: { ...headers, "skein-session": id } });
      this.expect(`request ${i} for an unknown connection`, 410, unknown);
    }
    this.expect("session behind wrong secrets", 1, this.sessionsOf(user));
    const right = await connection.post(node, 1, framesOf([noteOf(1)]));
    this.expect("post with the right secret behind wrong ones", 204, right.status);
    await connection.end(this.node());
  }

  sessionsOf(user: string): number {
    return this.#nodes.all.reduce(
      (sum, { server: { manager } }) => sum + manager.sessionsOf(user).length,
      0,
    );
  }

  async #expectLater(what: string, expected: number, answer: Asking): Promise<void> {
    const { status } = await answer;
    this.expect(what, expected, status);
  }

  expect(what: string, expected: unknown, received: unknown): void {
    this.audit.examine("carriers", what, expected, received);
  }
}
