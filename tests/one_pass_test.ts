// run_tests: alone, because all work of the isolate is counted.
/** Tests that the server does the work of one event once. */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import { defineContract, guest, MemoryBroker } from "../mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { liveState } from "../streams/mod.ts";
import { workOf } from "./call_counts.ts";
import { listen, portOf, RawSocket } from "./servers.ts";
import { streamFeatures } from "./stream_features.ts";

/** A client without code of the library, so that all counted work is the server's. */
class Wire implements Disposable {
  readonly #socket: RawSocket;
  #unread: string[] = [];

  private constructor(socket: RawSocket) {
    this.#socket = socket;
  }

  static async open(port: number, path = "/"): Promise<Wire> {
    const wire = new Wire(await RawSocket.open(port, { protocol: "skein.1", path }));
    await wire.until('{"hello":');
    return wire;
  }

  async say(text: string): Promise<void> {
    await this.#socket.frame(text);
  }

  /** Reads until an envelope arrives that contains a text. */
  async until(part: string): Promise<string> {
    while (true) {
      while (this.#unread.length > 0) {
        const text = this.#unread.shift()!;
        if (text.includes(part)) return text;
      }
      const frame = await this.#socket.read();
      this.#unread = new TextDecoder().decode(frame!.payload).split("\n");
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
  }
}

/** Publishes JSON over HTTP. */
async function post(port: number, topic: string, json: string): Promise<void> {
  const url = `http://127.0.0.1:${port}/api/topics/${encodeURIComponent(topic)}/publications`;
  const body = `{"data":${json}}`;
  const headers = { "content-type": "application/json" };
  const response = await fetch(url, { method: "POST", headers, body });
  assertEquals([response.status, (await response.json()).topic], [200, topic]);
}

Deno.test("Server counts a client that connects once in each limit", async () => {
  await using server = listen({
    webTransport: false,
    authenticate: ({ token }) => token ?? guest,
    limits: { maxSessionsPerUser: 10, maxSessionsPerAddress: 10 },
    rates: { perAddress: { messages: { perSecond: 100 } } },
  });
  const port = portOf(server);
  using _warm = await Wire.open(port, "/?token=ann");
  for (const [path, users] of [["/?token=ann", 1], ["/", 0]] as const) {
    let wire: Wire | undefined;
    const work = await workOf(async () => wire = await Wire.open(port, path));
    wire?.[Symbol.dispose]();
    assertEquals(
      {
        checks: work.calls("checkOptions", "base/"),
        clients: work.calls("ConnectingClient", "manager/"),
        slots: work.calls("takeFor", "manager/"),
        // The slots of the session and of its socket.
        taken: work.calls("take", "base/quotas/shares.ts"),
        users: work.calls("identify", "manager/"),
        accounts: work.calls("of", "base/quotas/accounts.ts"),
        tickets: work.calls("ticketOf", "server/"),
      },
      { checks: 0, clients: 1, slots: 1, taken: 2, users, accounts: 1, tickets: 1 },
      path,
    );
  }
});

Deno.test("Server checks only options of the application", async () => {
  await using server = listen({
    webTransport: false,
    authorize: () => true,
    rooms: ["room:{id}"],
    history: { "kept:{id}": {} },
    features: [
      httpApi({ path: "/api", authorize: () => true }),
      ...streamFeatures({ path: "/streams" }),
    ],
    onMessage: (message) => message.reply(message.data),
  });
  const port = portOf(server);
  const publish = () => post(port, "news", "1");
  // The API loads with its first request.
  await publish();
  const own = await workOf(async () => {
    using wire = await Wire.open(port);
    const requests = [
      '"subscribe":"news"',
      '"subscribe":"room:1"',
      '"subscribe":"kept:1"',
      '"subscribe":"stream:none"',
      '"publish":"news","data":1',
      '"publish":"room:1","data":1',
      '"publish":"kept:1","data":1',
      '"presence":"room:1","data":1',
      '"topic":"echo","data":1',
      '"unsubscribe":"room:1"',
      '"unsubscribe":"news"',
    ];
    for (const [id, request] of requests.entries()) {
      await wire.say(`{${request},"id":${id}}`);
      await wire.until(`{"reply":${id},`);
    }
    await publish();
  });
  const given = await workOf(() => Promise.resolve(server.publish("news", 1, { from: "ann" })));
  assertEquals(
    { own: own.calls("checkOptions", "base/"), given: given.calls("checkOptions", "base/") },
    { own: 0, given: 1 },
  );
});

Deno.test("Server encodes and measures a publication over HTTP once, for its subscribers", async () => {
  await using server = listen({
    webTransport: false,
    authorize: () => true,
    history: { "kept:{id}": {} },
    features: [httpApi({ path: "/api", authorize: () => true })],
  });
  const port = portOf(server);
  using wire = await Wire.open(port);
  for (const topic of ["news", "kept:1"]) {
    await wire.say(`{"subscribe":"${topic}","id":1}`);
    await wire.until('{"reply":1,');
    const publish = async (text: string) => {
      await post(port, topic, `{"text":"${text}"}`);
      await wire.until(text);
    };
    await publish("warm-up");
    const work = await workOf(() => publish("a text"));
    assertEquals(
      {
        publications: work.calls("encodeMessage", "session/"),
        encoded: work.encodings("a text"),
        measured: work.measurements("a text"),
      },
      { publications: 1, encoded: 1, measured: 1 },
      topic,
    );
  }
});

Deno.test("Server names, measures and encodes a state's row once when a client writes it", async () => {
  const contract = defineContract({
    state: { "board:{id}": { cards: z.object({ title: z.string() }) } },
  });
  const states = liveState();
  await using server = listen({
    webTransport: false,
    broker: new MemoryBroker(),
    contract,
    features: [states],
    authorize: () => true,
    authorizeChange: () => true,
  });
  await using _state = await states.open("board:1");
  using writer = await Wire.open(portOf(server));
  using reader = await Wire.open(portOf(server));
  for (const wire of [writer, reader]) {
    await wire.say('{"subscribe":"stream:board:1","id":1}');
    await wire.until('{"reply":1,"data"');
  }
  const write = async (id: number, txid: string, title: string) => {
    await writer.say(
      `{"publish":"stream:board:1","id":${id},"data":{"writes":[[{"type":"cards","key":"first","value":{"title":"${title}"},"headers":{"operation":"upsert","txid":"${txid}"}}]]}}`,
    );
    await writer.until(`{"reply":${id},"data":{"results":[{"version"`);
    await reader.until(txid);
  };
  await write(2, "tx-1", "warm-up");
  const work = await workOf(() => write(3, "tx-2", "a title"));
  assertEquals(
    {
      names: work.calls("rowName"),
      encodedNames: work.encodings('["cards","first"]'),
      encodedRows: work.encodings('{"title":"a title"}'),
      measuredNames: work.measurements('["cards","first"]'),
      // The row, and the frame to the readers.
      measuredRows: work.measurements('{"title":"a title"}'),
    },
    { names: 1, encodedNames: 1, encodedRows: 1, measuredNames: 1, measuredRows: 2 },
  );
});

Deno.test("Server encodes and measures each message once, whoever sends it, and for all receivers", async () => {
  let validations = 0;
  const text = z.object({ text: z.string() }).refine(() => ++validations > 0);
  const contract = defineContract({
    toServer: { news: text, "kept:{id}": text },
    toClient: { news: text, "kept:{id}": text, mail: text },
    requests: { echo: { input: text, output: text } },
  });
  await using server = listen({
    webTransport: false,
    contract,
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    history: { "kept:{id}": {} },
    features: [httpApi({ path: "/api", authorize: () => true })],
    onMessage: (message) => message.reply(message.data),
  });
  const port = portOf(server);
  using first = await Wire.open(port, "/?token=ann");
  using second = await Wire.open(port, "/?token=ann");
  for (const wire of [first, second]) {
    for (const [id, topic] of ["news", "kept:1"].entries()) {
      await wire.say(`{"subscribe":"${topic}","id":${id}}`);
      await wire.until(`{"reply":${id},`);
    }
  }
  const say = (text: string) => first.say(text);
  const http = async (path: string, body: string) => {
    const url = `http://127.0.0.1:${port}/api/${path}`;
    const headers = { "content-type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body });
    assertEquals(response.ok, true, await response.text());
  };
  interface Way {
    readonly send: (json: string) => unknown;
    /** Number of sockets that receive the text. */
    readonly receivers?: number;
    /** Validations by the server. */
    readonly validations: number;
  }
  const ways: Readonly<Record<string, Way>> = {
    "server.publish()": {
      send: (json) => server.publish("news", JSON.parse(json)),
      validations: 0,
    },
    "server.publish() with a history": {
      send: (json) => server.publish("kept:1", JSON.parse(json)),
      validations: 0,
    },
    "send() to a user": {
      send: (json) => server.to("ann").send("mail", JSON.parse(json)),
      validations: 0,
    },
    "a publication of a client": {
      send: (json) => say(`{"publish":"news","id":11,"data":${json}}`),
      validations: 1,
    },
    "a publication of a client with a history": {
      send: (json) => say(`{"publish":"kept:1","id":12,"data":${json}}`),
      validations: 1,
    },
    "a request of a client": {
      send: (json) => say(`{"topic":"echo","id":13,"data":${json}}`),
      receivers: 1,
      // The client checks the reply.
      validations: 1,
    },
    "a publication over HTTP": {
      send: (json) => http("topics/news/publications", `{"data":${json}}`),
      validations: 1,
    },
    "a publication over HTTP with a history": {
      send: (json) => http("topics/kept%3A1/publications", `{"data":${json}}`),
      validations: 1,
    },
    "a batch over HTTP": {
      send: (json) => http("publications", `{"publications":[{"topic":"news","data":${json}}]}`),
      validations: 1,
    },
    "a message over HTTP to a user": {
      send: (json) => http("users/ann/messages", `{"topic":"mail","data":${json}}`),
      validations: 1,
    },
  };
  for (const [name, { send, receivers = 2, validations: expected }] of Object.entries(ways)) {
    const wires = [first, second].slice(0, receivers);
    const run = async (text: string) => {
      const sent = send(`{"text":"${text}"}`);
      await Promise.all([sent, ...wires.map((wire) => wire.until(text))]);
    };
    await run("warm-up");
    validations = 0;
    const work = await workOf(() => run(name));
    assertEquals(
      { encoded: work.encodings(name), measured: work.measurements(name), validations },
      { encoded: 1, measured: 1, validations: expected },
      name,
    );
  }
});
