import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { type LinkConditions, SimulatedNetwork, Simulation } from "../simulator/mod.ts";
import { CarrierRequests } from "../../server/http/carrier_requests.ts";
import type { Connection } from "../../transport/connection.ts";
import type { ListenWebTransportOptions } from "../../transport/h3/server.ts";
import { dialHttp } from "../../transport/http/client.ts";
import { HttpConnections } from "../../transport/http/server.ts";
import { openWebSocket } from "../../transport/websocket/connection.ts";
import * as streams from "../../transport/websocket/streams.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { PLAIN_TRAITS, SKEIN_TRAITS } from "./websocket.ts";
import { withMessagesOn } from "./pair.ts";

/**
 * Delay and jitter that are short enough for the suite's waits in virtual time, and frequent
 * splits.
 */
const CONDITIONS: LinkConditions = { delayMs: 0.1, jitterMs: 0.2, splitRate: 0.2 };

/** Hosts of a client and a server, in which virtual time advances automatically. */
class Bench implements AsyncDisposable {
  readonly simulation = new Simulation({ seed: 1 });
  readonly client = this.simulation.host("client");
  readonly server = this.simulation.host("server");
  readonly network = new SimulatedNetwork(this.simulation, CONDITIONS);
  readonly #passing: Promise<void>;
  #isOver = false;

  constructor() {
    this.#passing = this.#pass();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await this.#passing;
  }

  async #pass(): Promise<void> {
    while (!this.#isOver) {
      await this.simulation.run(5);
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
}

type Open = (bench: Bench) => Promise<{ readonly a: Connection; readonly b: Connection }>;

function make(open: Open): () => Promise<ConnectionPair> {
  return async () => {
    const bench = new Bench();
    const { a, b } = await open(bench);
    return {
      a,
      b,
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
        await bench[Symbol.asyncDispose]();
      },
    };
  };
}

function swapped(open: Open): Open {
  return async (bench) => {
    const { a, b } = await open(bench);
    return { a: b, b: a };
  };
}

function overWebSocket(protocol: string): Open {
  return async ({ client, server, network }) => {
    const accepted = Promise.withResolvers<Connection>();
    const host = network.webSocket(server);
    const { runtime } = server;
    host.listen({ port: 443, hostname: "server" }, (request) => {
      const { connection, response } = host.accept(request, { runtime, protocol });
      accepted.resolve(connection);
      return response;
    });
    const a = await openWebSocket("wss://server/", {
      runtime: client.runtime,
      protocols: protocol === "" ? [] : [protocol],
      socket: network.sockets(client),
      load: () => Promise.resolve(streams),
    });
    const b = await accepted.promise;
    await b.ready;
    return { a, b };
  };
}

const overWebTransport: Open = async ({ client, server, network }) => {
  const listen = network.webTransport(server);
  const options = { port: 443, hostname: "server", cert: "", key: "" };
  const requests = listen(options as ListenWebTransportOptions)[Symbol.asyncIterator]();
  const dialing = network.dialWebTransport(client)(new URL("https://server/"), {
    protocols: ["skein.1"],
  });
  const { value: request } = await requests.next();
  const b: Connection = request.accept({ protocol: "skein.1" });
  return { a: await dialing, b };
};

const overHttp: Open = async ({ client, server, network }) => {
  const { runtime } = server;
  const maxFrameBytes = 2 ** 21;
  const connections = new HttpConnections({ runtime, maxFrameBytes });
  const requests = new CarrierRequests({
    cut: new AbortController().signal,
    runtime,
    maxFrameBytes,
    carriers: connections,
    origins: {},
    countForged() {},
    accountOf: () => NOBODY,
    quotas: new Quotas(runtime),
    report(error) {
      throw error;
    },
  });
  const accepted = Promise.withResolvers<Connection>();
  network.serve(server, 443, (request) => {
    const isFirst = request.method === "GET" && !request.headers.has("skein-session");
    if (!isFirst) return requests.fetch(request, {});
    const connection = connections.accept();
    accepted.resolve(connection);
    return requests.opened(request, connection.opened);
  });
  const a = await dialHttp("https://server/", {
    runtime: client.runtime,
    protocols: ["skein.1"],
    fetch: network.fetch(client),
  });
  return { a, b: await accepted.promise };
};

const webTransport: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  resetCodes: true,
  credit: false,
  independentStreams: true,
  maxCloseCode: Number.MAX_SAFE_INTEGER,
  maxReasonBytes: 1024,
  protocol: "skein.1",
};

testConnection("a simulated WebSocket, plain", make(overWebSocket("")), PLAIN_TRAITS);
testConnection("a simulated WebSocket", make(overWebSocket("skein.1")), SKEIN_TRAITS);
testConnection(
  "a simulated WebSocket, from the server",
  make(swapped(overWebSocket("skein.1"))),
  SKEIN_TRAITS,
);
testConnection("a simulated WebSocket, QMux", make(overWebSocket("qmux-01.skein.1")), {
  ...SKEIN_TRAITS,
  maxReasonBytes: 1024,
});
testConnection("simulated WebTransport", make(overWebTransport), webTransport);
testConnection(
  "simulated WebTransport, from the server",
  make(swapped(overWebTransport)),
  webTransport,
);
const { maxCloseCode: _, ...rest } = webTransport;
testConnection("simulated WebTransport with messages", withMessagesOn(make(overWebTransport)), {
  ...rest,
  frames: true,
  binaryHead: [0x40, 0x53],
});
const http = { ...PLAIN_TRAITS, protocol: "skein.1" };
testConnection("simulated HTTP", make(overHttp), http);
testConnection("simulated HTTP, from the server", make(swapped(overHttp)), http);
