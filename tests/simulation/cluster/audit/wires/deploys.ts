/** Deploys: a server ends under clients on slow ways, and under clients that enter meanwhile. */
import type { Client } from "../../../../../client/client.ts";
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { TOKEN_MARK } from "../../../../../transport/webtransport.ts";
import { pause } from "../../../../../base/wait.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, type Expect, outcomeOf } from "../audit.ts";

/** Ways of the clients to the server. */
const TRANSPORTS = ["websocket", "webtransport", "http"] as const;

/** Shortest and longest time of a packet on such a way, in milliseconds. */
const WAY_MS = [1, 200] as const;

/** Shortest and longest drain, in milliseconds. */
const DRAIN_MS = [100, 1_500] as const;

/** Longest time until a client learns that its session is over, in milliseconds. */
const TOLD_MS = 4_000;

/** Sessions before the end of a server, and clients that enter around that time. */
const [RESIDENTS, NEWCOMERS] = [4, 8];

/** Longest time of an authentication, and of a close under a reader that is behind, in milliseconds. */
const [AUTHENTICATE_MS, CLOSE_MS] = [300, 800];

/** Longest wait of a server for a connection whose reader is behind, in milliseconds. */
const FAREWELL_MS = 3_000;

/** Most time of an end beside that of a close or a drain, in milliseconds. */
const SLACK_MS = 1_200;

/** Share of authentications that fail, after which a client comes back. */
const FAILS = 0.15;

/** Connections that announce a token and send none, and the time that such a connection has. */
const [MUTES, HANDSHAKE_MS] = [2, 4_000];

/** Share of the clients whose handshake may be under way when the end begins. */
const MEETS = 0.6;

/** Time between attempts of a client, in milliseconds: clients are back while others still leave. */
const BACKOFF = { firstDelayMs: 20, maxDelayMs: 150 } as const;

/** Longest time of one attempt, in milliseconds: a server that is gone does not answer. */
const DIAL_MS = 1_000;

/** Messages that a reader without a way does not take, and the text of each. */
const FILLS = 2;
const FILL = "x".repeat(200_000);

/** Longest way of a request or a close, in milliseconds. */
const TRIP_MS = 200;

/** Time in which clients are back at a new server, in milliseconds. */
const BACK_MS = 8_000;

/**
 * Ways to end a server. `refuses` if sessions are refused as soon as the call returns: a server that
 * closes ends its other services before. `leaves` if connections end that have no session yet.
 */
const ENDS = [
  { way: "close", refuses: false, leaves: true },
  { way: "close", refuses: false, leaves: true },
  { way: "close", refuses: false, leaves: true },
  { way: "signal", refuses: false, leaves: true },
  { way: "shutdown", refuses: true, leaves: false },
  { way: "shutdown", refuses: true, leaves: false },
  { way: "drain", refuses: true, leaves: true },
  { way: "drain of the sessions", refuses: true, leaves: false },
  { way: "drain, then close", refuses: true, leaves: true },
] as const;

/** Codes of a close for the peers; `undefined` for the default. */
const CODES = [undefined, 3_001, 4_900] as const;

/**
 * Drains a server whose clients have requests without an answer, and ends another server while clients
 * enter.
 *
 * @param audit The audit.
 */
export async function auditDeploys(audit: Audit): Promise<void> {
  await Promise.all([auditFarewell(audit), new Closing(audit).run()]);
}

/**
 * Drains a server whose clients have requests without an answer, and ends its machine right behind.
 */
async function auditFarewell(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("deploys");
  const { server } = new SimulatedServer(audit.network, host, () => ({
    requests: { hold: () => new Promise(() => {}) },
    onError() {},
  }));
  const clients = TRANSPORTS.map((transport) => {
    const name = `deploys-${transport}`;
    audit.change(audit.host(name), host, { delayMs: between(random, ...WAY_MS) });
    const client = audit.connect(name, host, {
      token: undefined,
      transports: [transport],
      onError() {},
    });
    return { transport, client };
  });
  await audit.until(() => clients.every(({ client }) => client.isConnected));
  const ends = clients.map(({ transport, client }) => {
    // Without an answer to come, a client would leave early.
    client.request("hold").catch(() => {});
    const end = { transport, code: undefined as number | undefined };
    void client.session!.closed.then(({ code }) => end.code = code);
    return end;
  });
  await audit.pause(2 * WAY_MS[1]);
  await server.drain({ withinMs: Math.round(between(random, ...DRAIN_MS)) });
  host.kill();
  await audit.until(() => ends.every(({ code }) => code !== undefined), TOLD_MS);
  for (const { transport, code } of ends) {
    audit.examine(
      "lives",
      `end of a session that a deploy cuts, over ${transport}`,
      CloseCode.draining,
      code,
    );
  }
  await Promise.all(clients.map(({ client }) => client.close()));
}

/** A session of the server that ends. */
interface Opened {
  readonly openedMs: number;
  /** Codes of the close, as `onClose` hears these. */
  readonly codes: number[];
}

/** A server that ends while clients enter. */
class Closing {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #stop = new AbortController();
  readonly #program: SimulatedServer<string>;
  readonly #clients: Client[] = [];
  readonly #opened = new Map<unknown, Opened>();
  /** Statuses of refused sessions. */
  readonly #refused = new Set<number>();
  readonly #isInBand: boolean;

  constructor(audit: Audit) {
    this.#audit = audit;
    const random = this.#random = audit.chanceOf("closing");
    this.#isInBand = random() < 0.5;
    this.#program = new SimulatedServer<string>(audit.network, audit.host("closing"), (host) => ({
      ...(host.life === 0 && { signal: this.#stop.signal }),
      session: { closeTimeoutMs: CLOSE_MS, handshakeTimeoutMs: HANDSHAKE_MS },
      limits: { maxSessionsPerUser: Infinity },
      allowTokenMessage: this.#isInBand,
      authenticate: async ({ token = "guest" }) => {
        await pause(host.runtime, between(random, 0, AUTHENTICATE_MS));
        if (random() < FAILS) throw new AuthenticationError("away", { status: 503 });
        return token;
      },
      onOpen: (session) => {
        this.#opened.set(session, { openedMs: audit.nowMs, codes: [] });
      },
      onClose: (session, { code }) => void this.#opened.get(session)?.codes.push(code),
      onRefusal: ({ status }) => void this.#refused.add(status),
      onError() {},
    }));
  }

  /** Ends the server while clients enter, and starts the next one. */
  async run(): Promise<void> {
    const [audit, random] = [this.#audit, this.#random];
    const { server, host } = this.#program;
    const { manager } = server;
    for (let i = 0; i < RESIDENTS; i++) this.#enter();
    await audit.until(() => manager.count === RESIDENTS);
    const slow = audit.host("closing-0");
    const isSlow = random() < 0.7;
    if (isSlow) {
      audit.network.change(host, slow, { isBlocked: true });
      for (const session of manager.all()) {
        for (let n = 0; n < FILLS; n++) session.send("fill", FILL);
      }
    }
    const entering = Promise.all(
      Array.from({ length: NEWCOMERS }, async () => {
        const lastMs = random() < MEETS ? AUTHENTICATE_MS : AUTHENTICATE_MS + CLOSE_MS;
        await audit.pause(between(random, 0, lastMs));
        this.#enter();
      }),
    );
    const { way, refuses, leaves } = oneOf<typeof ENDS[number]>(random, ENDS);
    const hasMutes = leaves && this.#isInBand;
    const mutes = hasMutes ? this.#enterMute() : [];
    await audit.pause(AUTHENTICATE_MS);
    const code = oneOf(random, CODES);
    const withinMs = Math.round(between(random, ...DRAIN_MS));
    const beganMs = audit.nowMs;
    const before = this.#opened.size;
    const ending = this.#end(way, { code, withinMs });
    const about = `(${way}${isSlow ? ", a reader is behind" : ""})`;
    const expect: Expect = (what, ...values) =>
      audit.examine("lives", `${what} ${about}`, ...values);
    if (refuses) expect("sessions are refused", true, manager.isDraining);
    const mostMs = CLOSE_MS + SLACK_MS + (way.startsWith("drain") ? withinMs : 0) +
      (isSlow ? FAREWELL_MS : 0);
    expect("end of a server", "fulfilled", await audit.inTime(outcomeOf(ending), mostMs, "none"));
    expect("sessions behind the end", 0, manager.count);
    const endedMs = audit.nowMs;
    if (isSlow) audit.network.change(host, slow, { isBlocked: false });
    await entering;
    await audit.pause(AUTHENTICATE_MS + TRIP_MS);
    const { count, reserved, users, addresses } = manager.stats();
    expect(
      "counts behind the end",
      { count: 0, reserved: 0, users: 0, addresses: 0 },
      { count, reserved, users, addresses },
    );
    const given = (way === "signal" || way === "drain" ? undefined : code) ?? CloseCode.draining;
    // Either call may be the first to close.
    if (hasMutes && way !== "drain, then close") {
      expect("closes of connections without a token", Array(MUTES).fill(given), mutes);
    }
    const all = [...this.#opened.values()];
    const lastMs = refuses ? beganMs : endedMs;
    const late = all.slice(before).filter(({ openedMs }) => openedMs > lastMs);
    expect("sessions that begin behind the end", 0, late.length);
    expect("sessions without a close", 0, all.filter(({ codes }) => codes.length !== 1).length);
    // Clients leave a server that drains by themselves.
    if (!way.startsWith("drain")) {
      const codes = new Set(all.flatMap(({ codes }) => codes));
      expect("codes of the closes", [given], [...codes]);
    }
    expect(
      "refusals but those of a server that ends",
      [],
      [...this.#refused].filter((status) => status !== 503),
    );
    // A reader that is behind may not hear of the close.
    const told = this.#clients.slice(isSlow ? 1 : 0);
    const connected = told.filter(({ isConnected }) => isConnected).length;
    expect("clients with a session behind the end", 0, connected);
    host.kill();
    this.#program.restart();
    const isBack = () => this.#clients.every(({ isConnected }) => isConnected);
    await audit.until(isBack, BACK_MS);
    const away = this.#clients.filter(({ isConnected }) => !isConnected);
    expect("clients at the next server", [], away.map(({ status }) => status.current));
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.#program.server.close();
  }

  /** Ends the server. */
  async #end(
    way: typeof ENDS[number]["way"],
    { code, withinMs }: { readonly code: number | undefined; readonly withinMs: number },
  ): Promise<void> {
    const { server } = this.#program;
    const options = code === undefined ? {} : { code, reason: "A new version" };
    switch (way) {
      case "close":
        return await server.close(options);
      case "signal":
        this.#stop.abort();
        // The first call decides, and others wait for the same end.
        return await server.close();
      case "shutdown":
        return await server.manager.shutdown(options);
      case "drain":
        return void await server.drain({ withinMs });
      case "drain of the sessions":
        return void await server.manager.drain({ withinMs });
      case "drain, then close": {
        const draining = server.drain({ withinMs });
        await this.#audit.pause(withinMs * this.#random());
        await server.close(options);
        return void await draining;
      }
    }
  }

  /** Opens connections that announce a token and send none; returns the codes of their closes. */
  #enterMute(): number[] {
    const codes: number[] = [];
    const url = new URL(`wss://${this.#program.host.name}/`);
    for (let i = 0; i < MUTES; i++) {
      const open = this.#audit.network.sockets(this.#audit.host(`closing-mute${i}`));
      const socket = open(url, ["skein.1", TOKEN_MARK]);
      socket.onclose = ({ code }) => void codes.push(code);
    }
    return codes;
  }

  #enter(): void {
    const name = `closing-${this.#clients.length}`;
    this.#clients.push(
      this.#audit.connect(name, this.#program.host, {
        token: this.#isInBand ? name : undefined,
        transports: [oneOf(this.#random, TRANSPORTS)],
        backoff: BACKOFF,
        connectTimeoutMs: DIAL_MS,
        onMessage() {},
        onRefused() {},
        onError() {},
      }),
    );
  }
}
