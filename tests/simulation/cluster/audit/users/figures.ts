/** Sums of a manager: its figures are those of all sessions together, open and closed. */
import { CloseCode } from "../../../../../errors.ts";
import type { Session } from "../../../../../session/session.ts";
import type { Client } from "../../../../../client/client.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, STEADY } from "../audit.ts";

/** Transports of the clients. */
const TRANSPORTS = ["websocket", "webtransport", "http"] as const;

/** Steps, and most clients at once. */
const [STEPS, CLIENTS] = [18, 5] as const;

/** Time for messages and streams there and back, in milliseconds. */
const ROUND_MS = 150;

/** Most messages of one step, and most streams. */
const [MESSAGES, STREAMS] = [6, 3] as const;

/** Bytes of a message behind a way on which nothing arrives, more than a connection takes at once. */
const LARGE = 40_000;

/** A client, and the session at the server. */
interface Ends {
  readonly client: Client;
  readonly machine: string;
  readonly session: Session;
}

/** A server whose sessions send, wait and end. */
class Figures {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #program: SimulatedServer<unknown>;
  readonly #sessions: Session[] = [];
  #open: Ends[] = [];
  #count = 0;
  /** Keeps handlers waiting. */
  #held = Promise.withResolvers<void>();

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    this.#program = new SimulatedServer<unknown>(audit.network, audit.host("figures"), () => ({
      session: {
        sendQueue: { maxMessages: 12, policy: "drop-oldest" },
        closeTimeoutMs: 2 * ROUND_MS,
      },
      onOpen: (session) => void this.#sessions.push(session as Session),
      onMessage: () => this.#held.promise,
      // Streams stay open until the client or the session ends.
      onStream: () => new Promise(() => {}),
      onError() {},
    }));
  }

  async run(): Promise<void> {
    const random = this.#random;
    for (let step = 0; step < STEPS; step++) {
      const one = oneOf(random, this.#open);
      const choice = random();
      if (one === undefined || choice < 0.25 && this.#open.length < CLIENTS) {
        await this.#enter();
        this.#compare("a beginning");
      } else if (choice < 0.4) {
        this.#send(one);
        await this.#audit.pause(ROUND_MS);
        this.#compare("messages that wait for a handler");
      } else if (choice < 0.5) {
        this.#held.resolve();
        this.#held = Promise.withResolvers();
        await this.#audit.pause(ROUND_MS);
        this.#compare("the end of some handlers");
      } else if (choice < 0.65) await this.#block();
      else if (choice < 0.85) await this.#openStreams(one);
      else await this.#leave(one);
    }
    this.#held.resolve();
    while (this.#open.length > 0) await this.#leave(this.#open[0]!);
    const { streams, messages, bytes } = this.#program.server.manager.stats();
    this.#expect(
      "figures that are 0 in the end",
      [0, 0, 0, 0, 0],
      [
        streams.active,
        streams.created - streams.closed,
        messages.queued,
        messages.waiting,
        bytes.queued,
      ],
    );
    await this.#program.server.close();
  }

  async #enter(): Promise<void> {
    const transport = oneOf(this.#random, TRANSPORTS);
    const machine = `figures-${this.#count++}`;
    this.#audit.change(this.#audit.host(machine), this.#program.host, STEADY);
    const before = this.#sessions.length;
    const client = this.#audit.connect(machine, this.#program.host, {
      token: undefined,
      transports: transport === "webtransport" ? [transport, "websocket"] : [transport],
      onMessage() {},
      onRefused() {},
    });
    await this.#audit.until(() => client.isConnected && this.#sessions.length > before);
    await this.#audit.pause(ROUND_MS);
    const session = this.#sessions[before];
    if (session !== undefined) this.#open.push({ client, machine, session });
  }

  #send({ client }: Ends): void {
    const count = 1 + Math.floor(MESSAGES * this.#random());
    for (let n = 0; n < count; n++) client.send("note", n);
  }

  /** Sends on ways on which nothing arrives, so that messages wait in several queues. */
  async #block(): Promise<void> {
    const { host } = this.#program;
    const text = "x".repeat(LARGE);
    const blocked = this.#open.filter(() => this.#random() < 0.7);
    for (const { machine } of blocked) this.#audit.block(this.#audit.host(machine), host);
    for (const { session } of blocked) {
      const count = 4 + Math.floor(16 * this.#random());
      for (let n = 0; n < count; n++) session.send("note", `${n}${text}`);
    }
    await this.#audit.pause(ROUND_MS);
    // Over HTTP all of these may fit into the connection, and none waits in a queue.
    this.#compare("messages that cannot leave");
    for (const { machine } of blocked) this.#audit.block(this.#audit.host(machine), host, false);
    const isEmpty = () => this.#open.every(({ session }) => session.stats.queuedMessages === 0);
    await this.#audit.until(isEmpty);
    await this.#audit.pause(ROUND_MS);
    this.#compare("the end of a way on which nothing arrives");
  }

  /** Opens streams at either end, some of which end. */
  async #openStreams({ client, session: far }: Ends): Promise<void> {
    const near = client.session;
    if (near === undefined || !near.connection.capabilities.streams) return;
    const random = this.#random;
    const count = 1 + Math.floor(STREAMS * random());
    for (let n = 0; n < count; n++) {
      const end = random() < 0.6 ? near : far;
      const stream = random() < 0.5
        ? (await end.createBidirectionalStream()).writable
        : await end.createUnidirectionalStream();
      const writer = (stream as WritableStream<Uint8Array>).getWriter();
      await writer.write(new Uint8Array(Math.floor(between(random, 1, 500))));
      const choice = random();
      if (choice < 0.3) await writer.close();
      else if (choice < 0.5) await writer.abort().catch(() => {});
    }
    await this.#audit.pause(ROUND_MS);
    this.#compare("new streams");
  }

  async #leave(one: Ends): Promise<void> {
    this.#open = this.#open.filter((other) => other !== one);
    // Handlers of the session would keep its close waiting.
    this.#held.resolve();
    this.#held = Promise.withResolvers();
    if (this.#random() < 0.3) void one.session.close({ code: CloseCode.forbidden });
    else await one.client.close();
    await this.#audit.until(() => one.session.isClosed);
    await one.client.close();
    await this.#audit.pause(2 * ROUND_MS);
    this.#compare("an end");
  }

  /** Compares the figures of the manager with those of the sessions. */
  #compare(when: string): void {
    const stats = this.#program.server.manager.stats();
    const all = this.#sessions.map((session) => session.stats);
    const open = this.#open.map(({ session }) => session.stats);
    const sum = (name: keyof Session["stats"], of = all) =>
      of.reduce((sum, one) => sum + Number(one[name]), 0);
    const created = sum("streamsCreated");
    const active = sum("activeStreams", open);
    this.#expect(`figures behind ${when}`, {
      sent: sum("sentMessages"),
      received: sum("receivedMessages"),
      dropped: sum("droppedMessages"),
      queued: sum("queuedMessages", open),
      waiting: sum("waitingMessages", open),
      bytes: [sum("sentBytes"), sum("receivedBytes"), sum("queuedBytes", open)],
      streams: [created, created - active, active],
      kinds: [sum("bidirectionalStreams"), sum("unidirectionalStreams")],
    }, {
      sent: stats.messages.sent,
      received: stats.messages.received,
      dropped: stats.messages.dropped,
      queued: stats.messages.queued,
      waiting: stats.messages.waiting,
      bytes: [stats.bytes.sent, stats.bytes.received, stats.bytes.queued],
      streams: [stats.streams.created, stats.streams.closed, stats.streams.active],
      kinds: [stats.streams.bidirectional, stats.streams.unidirectional],
    });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("figures", what, expected, received);
  }
}

/**
 * Compares the figures of a server with the sums of those of its sessions.
 *
 * @param audit The audit.
 */
export async function auditFigures(audit: Audit): Promise<void> {
  await new Figures(audit, audit.chanceOf("figures")).run();
}
