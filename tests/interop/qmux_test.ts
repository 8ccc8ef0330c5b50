/**
 * Tests Skein with other implementations of QMux: their clients with Skein's server, and Skein's
 * client with their servers, in every common version. The tests also assert expected failures.
 */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { CloseCode, ConnectionError } from "../../errors.ts";
import type { Connection } from "../../transport/connection.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import { acceptWebSocket, offeredProtocols } from "../../transport/websocket/server.ts";
import { buildQmuxPeers, builtPeers, type Peer, type PeerServer } from "./peers.ts";
import { answer, play, type Scenario, type Seen } from "./peers/qmux_moq/scenarios.ts";
import { type Part, testTogether } from "./together.ts";

type AnyScenario = Exclude<Scenario, "before"> | "rejected" | "protocol" | "violation";

/** Expected results of a peer with every feature. */
const SEEN = {
  echo: { sequential: 300, concurrent: 150 },
  uni: { returned: 150 },
  datagrams: { returned: 200, largest: true },
  big: { bytes: 5_000_000, same: true },
  stalled: { beside: true, isWritten: false, after: true },
  ping: { alive: true },
  "opened-by-server": { opened: 120, code: 4120 },
  reset: { reset: 42, stopped: 43 },
  "reset-by-server": { reset: 44, stopped: 45 },
  "closed-by-server": { code: 4009, reason: "bye — tschüß" },
  close: { done: true },
  rejected: { rejected: true },
  protocol: { protocol: "chat.1" },
  violation: { broken: true },
} as const satisfies Record<AnyScenario, unknown>;

const SCENARIOS = Object.keys(SEEN) as AnyScenario[];

const VERSIONS = ["qmux-02", "qmux-01"] as const;

type Version = typeof VERSIONS[number];

const PATHS: Partial<Record<AnyScenario, string>> = {
  "opened-by-server": "/open",
  "reset-by-server": "/reset",
  "closed-by-server": "/close",
  rejected: "/reject",
  ping: "/ping",
  violation: "/violate",
};

function pathOf(scenario: AnyScenario): string {
  return PATHS[scenario] ?? "/echo";
}

/** Protocols that a client offers. */
function offerOf(version: Version, scenario: AnyScenario): string[] {
  return scenario === "protocol" ? [`${version}.other`, `${version}.chat.1`] : [version];
}

/** Our server in the role of the foreign servers. */
class QmuxServer implements AsyncDisposable {
  /** Results, in the order of the events. */
  readonly seen: Seen[] = [];
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  readonly #connections: Connection[] = [];

  constructor() {
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => this.#answer(request),
    );
  }

  url(path: string): string {
    return `ws://127.0.0.1:${this.#http.addr.port}${path}`;
  }

  /** Resolves when all sessions have closed. */
  async ended(): Promise<void> {
    await Promise.allSettled(this.#connections.map(({ closed }) => closed));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections) connection.close();
    await this.ended();
    await this.#http.shutdown();
  }

  #answer(request: Request): Response {
    const { pathname } = new URL(request.url);
    if (pathname === "/reject") return new Response(null, { status: 401 });
    const offered = offeredProtocols(request);
    const protocol = offered.find((name) => name.endsWith(".chat.1")) ?? offered[0]!;
    const { connection, response } = acceptWebSocket(request, { protocol });
    this.#connections.push(connection);
    answer(connection, pathname, (seen) => this.seen.push(seen)).catch(() => {});
    return response;
  }
}

/** A deviating result, for a reason of the peer. */
interface Exception {
  readonly because: string;
  readonly seen: unknown;
  /** The close, as our server reports it. */
  readonly closed?: unknown;
}

type Exceptions = Readonly<Record<string, Partial<Record<AnyScenario, Exception>>>>;

const CLIENTS: Exceptions = {
  "@moq/qmux 0.1": {
    datagrams: { because: "it has no datagrams", seen: { returned: 0, largest: false } },
    "opened-by-server": { because: "it cannot read a close", seen: { opened: 120, code: 1002 } },
    "closed-by-server": {
      because: "it cannot read a close",
      seen: { code: 1002, reason: "Protocol violation" },
    },
    reset: { because: "it reports no codes", seen: { reset: null, stopped: null } },
    "reset-by-server": { because: "it reports no codes", seen: { reset: null, stopped: null } },
    // It sends and expects an extra field in an application's close.
    close: {
      because: "its closes have no reason",
      seen: { done: true },
      closed: { code: 4010, reason: "" },
    },
    protocol: { because: "it chooses its offer itself", seen: { protocol: "" } },
  },
  "qmux of Rust": {
    rejected: { because: "it reports the status", seen: { status: 401 } },
    ping: { because: "it reports the round trip", seen: { alive: true, measured: true } },
  },
};

/** Older versions choose their protocol themselves; they have no servers and fewer scenarios. */
const OLD: Readonly<Record<string, Version>> = { "@moq/qmux 0.1": "qmux-01" };

function partOfClient(peer: Peer, version: Version, scenario: AnyScenario): Part {
  const { [peer.name]: { [scenario]: exception } = {} } = CLIENTS;
  const why = exception === undefined ? "" : ` (${exception.because})`;
  const fn = async () => {
    await using server = new QmuxServer();
    const seen = await peer.play(scenario, {
      url: server.url(pathOf(scenario)),
      ...(peer.name in OLD ? {} : { protocols: offerOf(version, scenario).join() }),
    });
    assertEquals(seen, exception?.seen ?? SEEN[scenario]);
    if (scenario === "rejected") return;
    await server.ended();
    if (scenario === "close") {
      const closed = exception?.closed ?? { code: 4010, reason: "grüße" };
      assertEquals<unknown>(server.seen, [{ closed }]);
    } else if (scenario === "reset" && exception === undefined) {
      assertEquals(server.seen.slice(0, 2), [{ broken: 42 }, { broken: 43 }]);
    }
  };
  return { name: `${peer.name} at our server, ${version}: ${scenario}${why}`, fn };
}

function partOfServer(peer: Peer, version: Version, scenario: AnyScenario): Part {
  const fn = async () => {
    await using server = await peer.serve();
    const url = webSocketUrl(server, pathOf(scenario));
    const dialing = dialWebSocket(url, { protocols: offerOf(version, scenario) });
    if (scenario === "rejected") {
      const error = await dialing.then(() => undefined, (error) => error);
      assertInstanceOf(error, ConnectionError);
      return;
    }
    await using connection = await dialing;
    if (scenario === "violation") return await testViolation(connection, server);
    const seen = scenario === "protocol"
      ? { protocol: connection.protocol }
      : await play(connection, scenario);
    assertEquals(seen, SEEN[scenario]);
    if (scenario === "close") {
      assertEquals(await server.next(), { closed: { code: 4010, reason: "grüße" } });
    } else if (scenario === "reset") {
      assertEquals([await server.next(), await server.next()], [{ broken: 42 }, { broken: 43 }]);
    }
  };
  return { name: `our client at ${peer.name}, ${version}: ${scenario}`, fn };
}

/** The server violates the protocol after the first stream, and receives our client's close. */
async function testViolation(connection: Connection, server: PeerServer): Promise<void> {
  const stream = await connection.createUnidirectionalStream();
  await stream.getWriter().write(new Uint8Array(1));
  assertEquals((await connection.closed).closeCode, CloseCode.malformed);
  const { broken } = await server.next() as { readonly broken: boolean };
  assertEquals(broken, true);
}

function webSocketUrl(server: PeerServer, path: string): string {
  return server.url(path).replace("https:", "ws:");
}

const silent: Part[] = [];

for (const peer of builtPeers(await buildQmuxPeers())) {
  for (const version of VERSIONS) {
    if (OLD[peer.name] !== undefined && OLD[peer.name] !== version) continue;
    for (const scenario of SCENARIOS) {
      // The crate cannot violate the protocol.
      if (scenario === "violation" && !peer.name.endsWith(" 0.3")) continue;
      const parts = [partOfClient(peer, version, scenario)];
      if (!(peer.name in OLD)) parts.push(partOfServer(peer, version, scenario));
      if (scenario === "ping") silent.push(...parts);
      else for (const part of parts) Deno.test(part);
    }
  }
}

testTogether("silent connections stay alive", silent);
