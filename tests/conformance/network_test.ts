/**
 * Compares the simulated network with a real one: the same programs must see the same events.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { SimulatedNetwork, Simulation } from "../simulator/mod.ts";
import type { Connection } from "../../transport/connection.ts";
import {
  acceptWebSocket,
  type AcceptWebSocketOptions,
  isWebSocketUpgrade,
  type WebSocketEngine,
} from "../../transport/websocket/server.ts";
import { Cable } from "../networks/cable.ts";

/** A simulated or real server, with the functions that its clients use. */
interface Site extends AsyncDisposable {
  readonly url: string;
  readonly fetch: typeof fetch;
  readonly open: (url: string, protocols: string[]) => WebSocket;
  readonly cut: () => void;
}

type Handler = (request: Request, accept: WebSocketEngine) => Response | Promise<Response>;

/** Creates the hosts of a simulation in which virtual time advances automatically. */
function simulated(handler: Handler): Site {
  const simulation = new Simulation({ seed: 1 });
  const [client, server] = [simulation.host("client"), simulation.host("server")];
  const network = new SimulatedNetwork(simulation, { delayMs: 1, jitterMs: 1 });
  const host = network.webSocket(server);
  const accept = (request: Request, options: AcceptWebSocketOptions = {}) =>
    host.accept(request, { runtime: server.runtime, ...options });
  host.listen({ port: 80, hostname: "server" }, (request) => handler(request, accept));
  let isOver = false;
  const passing = (async () => {
    while (!isOver) {
      await simulation.run(10);
      await new Promise((resolve) => setTimeout(resolve));
    }
  })();
  return {
    url: "http://server/",
    fetch: network.fetch(client),
    open: (url, protocols) =>
      network.sockets(client)(new URL(url), protocols) as unknown as WebSocket,
    cut: () => {
      for (const link of network.links) link.disconnect();
    },
    async [Symbol.asyncDispose](): Promise<void> {
      isOver = true;
      await passing;
    },
  };
}

/** Starts a server in this process, which clients reach over a proxy that can cut connections. */
function real(handler: Handler): Site {
  const server = Deno.serve(
    {
      hostname: "127.0.0.1",
      port: 0,
      onListen() {},
      onError: () => new Response(null, { status: 500 }),
    },
    (request) => handler(request, acceptWebSocket),
  );
  const cable = new Cable(server.addr.port);
  return {
    url: cable.url.replace("ws:", "http:"),
    fetch,
    open: (url, protocols) => new WebSocket(url, protocols),
    cut: () => cable.cut(),
    async [Symbol.asyncDispose](): Promise<void> {
      await cable[Symbol.asyncDispose]();
      await server.shutdown();
    },
  };
}

/** The facts recorded in one run, each by one program. */
class Facts {
  readonly #facts: string[] = [];
  #waiting: { readonly count: number; readonly resolve: () => void } | undefined;

  add(fact: string): void {
    this.#facts.push(fact);
    if (this.#facts.length >= (this.#waiting?.count ?? Infinity)) this.#waiting!.resolve();
  }

  /** Waits for a number of facts; returns them grouped by program, in order. */
  async reach(count: number): Promise<readonly string[]> {
    if (this.#facts.length < count) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting = { count, resolve };
      await promise;
    }
    return this.#facts.toSorted((a, b) => a.split(" ")[0]! < b.split(" ")[0]! ? -1 : 1);
  }
}

/** Registers a scenario that must record the same facts on both networks. */
function same(
  title: string,
  count: number,
  { serve, run }: {
    readonly serve: (facts: Facts) => Handler;
    readonly run: (site: Site, facts: Facts) => void | Promise<void>;
  },
): void {
  Deno.test(`SimulatedNetwork ${title} like a real network`, async () => {
    const outcome = async (make: (handler: Handler) => Site) => {
      const facts = new Facts();
      await using site = make(serve(facts));
      await run(site, facts);
      return await facts.reach(count);
    };
    const [there, here] = [await outcome(real), await outcome(simulated)];
    assertEquals(here, there);
  });
}

/** Records all events of a connection at the server. */
function noteConnection(connection: Connection, facts: Facts): Connection {
  void connection.ready.then(() => facts.add("server ready"));
  connection.frames!.receive({
    receiveFrame: (frame) => facts.add(`server got ${frame}`),
    framesEnded: () => {},
  });
  connection.closed.then(
    ({ closeCode, reason }) => facts.add(`server closed ${closeCode} ${reason}`),
    ({ name }) => facts.add(`server broke ${name}`),
  );
  return connection;
}

/** Opens a WebSocket, and records all its events. */
function openSocket({ url, open }: Site, facts: Facts, protocols: string[] = []): WebSocket {
  const socket = open(url.replace("http", "ws"), protocols);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => facts.add(`client open "${socket.protocol}" ${socket.readyState}`);
  socket.onmessage = ({ data }) =>
    facts.add(`client got ${typeof data === "string" ? data : new Uint8Array(data)}`);
  socket.onerror = () => facts.add(`client error ${socket.readyState}`);
  socket.onclose = ({ code, reason, wasClean }) =>
    // The runtime reports 0 instead of 1006, which the standard requires.
    facts.add(`client closed ${code || 1006} "${reason}" ${wasClean} ${socket.readyState}`);
  return socket;
}

/** A server that accepts each upgrade. */
const accepting =
  (onConnection: (connection: Connection) => void = () => {}, protocol = "") =>
  (facts: Facts): Handler =>
  (request, accept) => {
    const { connection, response } = accept(request, protocol === "" ? {} : { protocol });
    onConnection(noteConnection(connection, facts));
    return response;
  };

same("delivers messages, and a client's close", 6, {
  serve: accepting((connection) => {
    connection.ready.then(() => {
      connection.frames!.send("hello");
      connection.frames!.send(Uint8Array.of(1, 2));
    });
  }, "chat"),
  run: (site, facts) => {
    const socket = openSocket(site, facts, ["other", "chat"]);
    socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string") return;
      socket.send("ä");
      socket.close(3001, "bye");
    });
  },
});

same("delivers a server's close after its messages", 5, {
  serve: accepting((connection) => {
    connection.ready.then(() => {
      connection.frames!.send("last");
      connection.close({ closeCode: 4000, reason: "over" });
    });
  }),
  run: (site, facts) => void openSocket(site, facts),
});

same("reports a rejected upgrade to the client", 2, {
  serve: () => () => new Response("no", { status: 403 }),
  run: (site, facts) => void openSocket(site, facts),
});

same("reports an upgrade whose handler throws", 2, {
  serve: () => () => {
    throw new Error("a defect");
  },
  run: (site, facts) => void openSocket(site, facts),
});

same("reports a broken connection to both sides of a WebSocket", 5, {
  serve: accepting(),
  run: (site, facts) => {
    openSocket(site, facts).addEventListener("open", () => site.cut());
  },
});

same("aborts a WebSocket that closes before it opens", 2, {
  serve: accepting(),
  run: (site, facts) => openSocket(site, facts).close(),
});

/** Reads a response, and records its head and body. */
async function noteResponse(response: Promise<Response>, facts: Facts): Promise<void> {
  try {
    const { status, headers, body } = await response;
    facts.add(`client ${status} ${headers.get("x-kind")} ${headers.get("content-type")}`);
    let text = "";
    for await (const part of body ?? []) text += new TextDecoder().decode(part);
    facts.add(`client body ${text}`);
  } catch (error) {
    facts.add(`client failed ${(error as Error).name}`);
  }
}

same("delivers a response with status, headers and body", 2, {
  serve: () => () => new Response("hällo", { status: 201, headers: { "x-kind": "text" } }),
  run: (site, facts) => noteResponse(site.fetch(site.url), facts),
});

same("delivers a request with headers, query and body", 3, {
  serve: (facts) => async (request) => {
    const { method, headers, url } = request;
    const { pathname, search } = new URL(url);
    const size = headers.get("content-length");
    facts.add(`server ${method} ${pathname}${search} ${headers.get("x-kind")} ${size}`);
    return new Response(await request.text());
  },
  run: (site, facts) =>
    noteResponse(
      site.fetch(`${site.url}a/b?c=d`, {
        method: "POST",
        headers: { "x-kind": "post" },
        body: new TextEncoder().encode("ten bytes!"),
      }),
      facts,
    ),
});

same("delivers a large request body", 2, {
  serve: () => async (request) => new Response(`${(await request.arrayBuffer()).byteLength}`),
  run: (site, facts) =>
    noteResponse(site.fetch(site.url, { method: "POST", body: "x".repeat(1_000_000) }), facts),
});

same("delivers an empty response", 2, {
  serve: () => () => new Response(null, { status: 204 }),
  run: (site, facts) => noteResponse(site.fetch(site.url), facts),
});

same("answers with 500 if a handler throws", 2, {
  serve: () => () => Promise.reject(new Error("a defect")),
  run: async (site, facts) => {
    const response = await site.fetch(site.url);
    facts.add(`client ${response.status}`);
    await response.body?.cancel();
    facts.add("client done");
  },
});

/** Returns a response whose body sends one chunk, stays open, and records its cancellation. */
function endless(facts: Facts): Response {
  return new Response(
    new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode("first")),
      cancel: () => facts.add("server cancelled"),
    }),
  );
}

same("notifies the server when a client cancels a response", 2, {
  serve: (facts) => () => endless(facts),
  run: async (site, facts) => {
    const { body } = await site.fetch(site.url);
    const reader = body!.getReader();
    const { value } = await reader.read();
    facts.add(`client got ${new TextDecoder().decode(value)}`);
    await reader.cancel();
  },
});

same("aborts a body by the request's signal", 3, {
  serve: (facts) => () => endless(facts),
  run: async (site, facts) => {
    const controller = new AbortController();
    const { body } = await site.fetch(site.url, { signal: controller.signal });
    const reader = body!.getReader();
    facts.add(`client got ${new TextDecoder().decode((await reader.read()).value)}`);
    controller.abort(new TypeError("enough"));
    await reader.read().catch(({ message }) => facts.add(`client failed ${message}`));
  },
});

same("aborts an unanswered request by its signal, and notifies the server", 2, {
  serve: (facts) => ({ signal }) =>
    new Promise((resolve) => {
      signal.addEventListener("abort", () => {
        facts.add("server aborted");
        resolve(new Response());
      });
      asked.resolve();
    }),
  run: async (site, facts) => {
    asked = Promise.withResolvers();
    const controller = new AbortController();
    const answer = site.fetch(site.url, { signal: controller.signal });
    await asked.promise;
    controller.abort(new RangeError("enough"));
    await answer.catch(({ name, message }) => facts.add(`client failed ${name} ${message}`));
  },
});
let asked: PromiseWithResolvers<void>;

same("fails the rest of a body when the connection breaks", 2, {
  serve: (facts) => () => endless(facts),
  run: async (site, facts) => {
    const { body } = await site.fetch(site.url);
    const reader = body!.getReader();
    await reader.read();
    site.cut();
    await reader.read().catch(({ name }) => facts.add(`client failed ${name}`));
  },
});

same("fails a body whose source fails", 2, {
  serve: () => () =>
    new Response(
      new ReadableStream({
        start: (controller) => controller.enqueue(new TextEncoder().encode("first")),
        pull: (controller) => controller.error(new Error("a defect")),
      }, { highWaterMark: 0 }),
    ),
  run: (site, facts) => noteResponse(site.fetch(site.url), facts),
});

same("fails requests and WebSockets to a closed port", 3, {
  serve: () => () => new Response(),
  run: async ({ url, fetch, open, cut }, facts) => {
    const closed = url.replace(/(:\d+)?\/$/, ":1/");
    await fetch(closed).catch(({ name }) => facts.add(`client failed ${name}`));
    const site = { url: closed, open, fetch, cut, [Symbol.asyncDispose]: () => Promise.resolve() };
    openSocket(site, facts);
  },
});

same("aborts the request's signal after the response is complete", 2, {
  serve: (facts) => (request) => {
    request.signal.addEventListener("abort", () => facts.add("server aborted"));
    return new Response("done");
  },
  run: async (site, facts) => {
    facts.add(`client got ${await (await site.fetch(site.url)).text()}`);
  },
});

same("marks only upgrade requests as upgrades", 2, {
  serve: (facts) => (request) => {
    facts.add(`server ${isWebSocketUpgrade(request)} ${request.headers.has("host")}`);
    return new Response("plain");
  },
  run: async (site, facts) => {
    facts.add(`client got ${await (await site.fetch(site.url)).text()}`);
  },
});
