/**
 * Sessions of one server that come and go in every way. The properties compare the manager's lists,
 * counts and totals.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { CloseCode } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { type Drawn, stepOf, transport } from "./draw.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Maximum number of sessions in total, per user, and per address. */
const LIMITS = { maxSessions: 6, maxSessionsPerUser: 2, maxSessionsPerAddress: 3 } as const;

/** The token of a session without a user. */
const GUEST = "guest";

/** Round-trip time of messages and streams, in milliseconds. */
const TRIP_MS = 150;

/**
 * Size of a message on a blocked link, in bytes. Several messages fill the connection, and the
 * others wait.
 */
const LARGE = 40_000;

const session = fc.nat(LIMITS.maxSessions - 1);
const code = fc.constantFrom(0, 3_001, 4_900, CloseCode.tooMany);

const step = fc.oneof(
  stepOf("open", {
    token: fc.constantFrom("ann", "ben", GUEST, GUEST),
    machine: fc.constantFrom("x", "y", "z"),
    transport,
  }, 6),
  stepOf("send", { session, count: fc.integer({ min: 1, max: 6 }) }, 2),
  stepOf("end handlers", {}),
  stepOf("send on a blocked link", { session, count: fc.integer({ min: 1, max: 20 }) }),
  stepOf("open a stream", {
    session,
    isFar: fc.boolean(),
    isBidirectional: fc.boolean(),
    bytes: fc.integer({ min: 1, max: 500 }),
    end: fc.constantFrom("open", "close", "abort"),
  }, 2),
  stepOf("close by the client", { session }),
  stepOf("close by the server", { session, code }),
  stepOf("lose the link", { session }),
  stepOf("remove", { session, then: fc.constantFrom("add", "close", "close and add") }),
  stepOf("close all", {}),
);

type Step = Drawn<typeof step>;

interface Known {
  readonly token: string;
  readonly machine: string;
  readonly client: Client;
  readonly session: Session;
}

/** A server and the expected state of its manager. */
class Managed {
  readonly #program: SimulatedServer<unknown>;
  /** The manager's sessions, in the order in which they were added. */
  #known: Known[] = [];
  /** All sessions that the manager ever had, without duplicates. */
  readonly #opened: Session[] = [];
  readonly #counts = { created: 0, closed: 0, removed: 0, peak: 0 };
  readonly #codes: Record<number, number> = {};
  readonly #rejected = {
    maxSessions: 0,
    maxSessionsPerUser: 0,
    maxSessionsPerAddress: 0,
    draining: 0,
  };
  /** While it is set, handlers wait. */
  #held = Promise.withResolvers<void>();
  #clients = 0;

  constructor(readonly world: World) {
    this.#program = world.serve<unknown>("server", () => ({
      authenticate: ({ token }) => token === GUEST ? {} : token,
      tokens: { inMessage: true },
      limits: LIMITS,
      session: {
        sendQueue: { maxMessages: 12, policy: "drop-oldest" },
        closeTimeoutMs: 2 * TRIP_MS,
      },
      onOpen: (session) => void this.#opened.push(session as unknown as Session),
      onMessage: () => this.#held.promise,
      // Streams stay open until the client or the session closes them.
      onStream: () => new Promise(() => {}),
      onError() {},
      onSessionRejected() {},
    }));
    world.onEnd(() => this.#held.resolve());
  }

  get #manager() {
    return this.#program.server.manager;
  }

  async take(step: Step): Promise<void> {
    const one = "session" in step ? this.#known[step.session % this.#known.length] : undefined;
    if ("session" in step && one === undefined) return;
    switch (step.kind) {
      case "open":
        return await this.#open(step);
      case "send":
        for (let n = 0; n < step.count; n++) one!.client.send("note", n);
        return await this.world.pause(TRIP_MS);
      case "end handlers":
        return await this.#endHandlers();
      case "send on a blocked link":
        return await this.#block(one!, step.count);
      case "open a stream":
        return await this.#openStream(one!, step);
      case "remove":
        return await this.#remove(one!, step.then);
      case "close all":
        return await this.#closeAll();
      case "close by the client":
        await this.#endHandlers();
        void one!.client.close();
        return await this.#left([one!], CloseCode.normal);
      case "close by the server":
        await this.#endHandlers();
        void one!.session.close({ code: step.code });
        void one!.client.close();
        return await this.#left([one!], step.code);
      case "lose the link": {
        const { session, client } = one!;
        // A client over HTTP or WebTransport may keep its session.
        if (session.transport !== "websocket") return;
        this.world.network.links.filter((link) => link.client.name === one!.machine)
          .forEach((link) => link.kind === "websocket" && link.disconnect());
        const lost = this.#known.filter(({ machine, session }) =>
          machine === one!.machine && session.transport === "websocket"
        );
        for (const other of lost) void other.client.close();
        void client.close();
        return await this.#left(lost, CloseCode.abnormal);
      }
    }
  }

  /**
   * Compares the manager with the model, and compares its totals with the sums over its sessions.
   */
  look(): void {
    const manager = this.#manager;
    const known = this.#known;
    const ids = known.map(({ session }) => session.id);
    const idsOf = (sessions: readonly { readonly id: string }[]) => sessions.map(({ id }) => id);
    assertEquals([manager.count, idsOf(manager.all())], [ids.length, ids]);
    assertEquals([idsOf(manager.byState("connected")), manager.cleanup()], [ids, 0]);
    for (const { token, session: { id, user } } of known) {
      const same = known.filter((one) =>
        one.token === token && token !== GUEST || one.session.id === id
      );
      assertEquals(idsOf(manager.sessionsOf(user)), same.map(({ session }) => session.id));
      assertEquals(manager.get(id)?.id, id);
    }
    assertEquals(this.#pages(), ids, "diagnostics in pages");
    const { count, states, reserved, created, closed, removed, peak, ...stats } = manager.stats();
    assertEquals({ count, reserved, states }, {
      count: ids.length,
      reserved: 0,
      states: { connecting: 0, connected: ids.length, draining: 0, closed: 0 },
    });
    assertEquals({ created, closed, removed, peak }, this.#counts);
    assertEquals([stats.rejected, stats.closeCodes], [this.#rejected, this.#codes]);
    const named = (key: "token" | "machine") => new Set(known.map((one) => one[key]));
    const [users, addresses] = [named("token"), named("machine")];
    users.delete(GUEST);
    assertEquals([stats.users, stats.addresses], [users.size, addresses.size]);
    this.#compareSums(stats);
  }

  /** Closes the manager, which then rejects later sessions. */
  async close(): Promise<void> {
    await this.#endHandlers();
    const all = this.#known;
    const over = this.#manager.shutdown();
    for (const { client } of all) void client.close();
    await this.#left(all, CloseCode.draining);
    await this.world.inTime("a shutdown", over);
    this.look();
    const { messages, bytes, streams } = this.#manager.stats();
    assertEquals({
      messagesQueued: messages.queued,
      waiting: messages.waiting,
      bytesQueued: bytes.queued,
      active: streams.active,
    }, { messagesQueued: 0, waiting: 0, bytesQueued: 0, active: 0 });
    assertEquals(streams.created, streams.closed);
  }

  #compareSums({ messages, bytes, streams }: Pick<
    ReturnType<Managed["stats"]>,
    "messages" | "bytes" | "streams"
  >): void {
    const all = this.#opened.map((session) => session.stats);
    const open = this.#known.map(({ session }) => session.stats);
    const sum = (name: keyof Session["stats"], of = all) =>
      of.reduce((sum, one) => sum + Number(one[name]), 0);
    const [created, active] = [sum("streamsCreated"), sum("activeStreams", open)];
    assertEquals({ messages, bytes, streams }, {
      messages: {
        ...messages,
        sent: sum("sentMessages"),
        received: sum("receivedMessages"),
        dropped: sum("droppedMessages"),
        queued: sum("queuedMessages", open),
        waiting: sum("waitingMessages", open),
      },
      bytes: {
        ...bytes,
        sent: sum("sentBytes"),
        received: sum("receivedBytes"),
        queued: sum("queuedBytes", open),
      },
      streams: {
        ...streams,
        created,
        closed: created - active,
        active,
        bidirectional: sum("bidirectionalStreams"),
        unidirectional: sum("unidirectionalStreams"),
      },
    });
  }

  stats() {
    return this.#manager.stats();
  }

  async #open({ token, machine, transport }: Extract<Step, { kind: "open" }>): Promise<void> {
    const countOf = (key: "token" | "machine", value: string) =>
      this.#known.filter((known) => known[key] === value).length;
    // The address is checked first, and the user is checked last.
    const limit = countOf("machine", machine) >= LIMITS.maxSessionsPerAddress
      ? "maxSessionsPerAddress"
      : this.#known.length >= LIMITS.maxSessions
      ? "maxSessions"
      : token !== GUEST && countOf("token", token) >= LIMITS.maxSessionsPerUser
      ? "maxSessionsPerUser"
      : undefined;
    const { host } = this.#program;
    if (limit !== undefined) {
      const page = new SimulatedPage(this.world, host, { token, name: machine });
      await this.world.until("an outcome", () => page.entry !== undefined);
      assertEquals(page.entry, CloseCode.tooMany, `session at ${limit}`);
      this.#rejected[limit]++;
      return;
    }
    const before = this.#opened.length;
    const client = this.world.connect(`client-${this.#clients++}`, host, {
      host: this.world.host(machine),
      token: () => token,
      transports: [transport],
      onMessage() {},
    });
    await this.world.until("a session", () => client.isConnected && this.#opened.length > before);
    this.#add({ token, machine, client, session: this.#opened[before]! });
    await this.world.pause(TRIP_MS);
  }

  /** Records that sessions close with a code, and waits until they have closed. */
  async #left(some: readonly Known[], code: number): Promise<void> {
    this.#known = this.#known.filter((one) => !some.includes(one));
    this.#counts.closed += some.length;
    for (const _ of some) this.#codes[code] = (this.#codes[code] ?? 0) + 1;
    await this.world.until("closes", () => some.every(({ session }) => session.isClosed));
    await this.world.pause(2 * TRIP_MS);
  }

  #add(one: Known): void {
    this.#known.push(one);
    this.#counts.created++;
    this.#counts.peak = Math.max(this.#counts.peak, this.#known.length);
  }

  async #endHandlers(): Promise<void> {
    this.#held.resolve();
    this.#held = Promise.withResolvers();
    await this.world.pause(TRIP_MS);
  }

  /** Sends more than a link can carry, and compares the statistics while messages wait. */
  async #block({ machine, session }: Known, count: number): Promise<void> {
    const [world, { host }] = [this.world, this.#program];
    world.change(world.host(machine), host, { isBlocked: true });
    for (let n = 0; n < count; n++) session.send("note", `${n}`.padEnd(LARGE, "x"));
    await world.pause(TRIP_MS);
    this.look();
    world.change(world.host(machine), host, { isBlocked: false });
    await world.until("an empty queue", () => session.stats.queuedMessages === 0);
    await world.pause(TRIP_MS);
  }

  async #openStream({ client, session }: Known, step: Extract<Step, { kind: "open a stream" }>) {
    const near = client.session!;
    if (!near.connection.capabilities.streams) return;
    const end = step.isFar ? session : near;
    const stream = step.isBidirectional
      ? (await end.createBidirectionalStream()).writable
      : await end.createUnidirectionalStream();
    const writer = (stream as WritableStream<Uint8Array>).getWriter();
    await writer.write(new Uint8Array(step.bytes));
    if (step.end === "close") await writer.close();
    if (step.end === "abort") await writer.abort().catch(() => {});
    await this.world.pause(TRIP_MS);
  }

  /**
   * Removes a session. The session stays open, and it may be added again while it is open or after
   * it has closed.
   */
  async #remove(one: Known, then: "add" | "close" | "close and add"): Promise<void> {
    const { client, session } = one;
    const manager = this.#manager;
    // A stream that closes after the removal is not counted.
    if (session.stats.activeStreams > 0) return;
    this.#known = this.#known.filter((other) => other !== one);
    this.#counts.removed++;
    assertEquals(manager.remove(session.id)?.id, session.id);
    assertEquals(manager.remove(session.id), undefined, "session that is removed twice");
    assertEquals(session.state, "connected", "state of a removed session");
    this.look();
    if (then !== "add") {
      await this.#endHandlers();
      // Closing a removed session is not counted.
      await client.close();
      await this.world.pause(2 * TRIP_MS);
    }
    if (then === "close") return;
    assertEquals(manager.add(session), session.id);
    this.#add(one);
    if (then === "close and add") await this.#left([one], CloseCode.normal);
  }

  /** Closes all sessions. The server continues to accept new ones. */
  async #closeAll(): Promise<void> {
    await this.#endHandlers();
    const all = this.#known;
    const code = 3_002;
    const over = this.#manager.closeAll({ code });
    for (const { client } of all) void client.close();
    await this.#left(all, code);
    assertEquals(await this.world.inTime("the end of all", over), all.length);
    assertEquals(await this.#manager.closeAll(), 0);
  }

  /** Reads the ids of all sessions, two per page. */
  #pages(): string[] {
    const ids: string[] = [];
    let after: number | undefined;
    do {
      const { sessions, next } = this.#manager.diagnostics({ limit: 2, after });
      assertEquals(sessions.length <= 2, true);
      ids.push(...sessions.map(({ id }) => id));
      after = next;
    } while (after !== undefined && ids.length <= LIMITS.maxSessions);
    return ids;
  }
}

property("a manager lists, counts and sums up its sessions exactly, however they come and go", {
  cases: fc.record({ steps: fc.array(step, { maxLength: 20 }) }),
  async check(world, { steps }) {
    const managed = new Managed(world);
    for (const step of steps) {
      await managed.take(step);
      managed.look();
    }
    await managed.close();
  },
});
