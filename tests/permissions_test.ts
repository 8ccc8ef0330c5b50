/**
 * Tests what functions of the application may return to allow an action of a client: only the
 * documented results allow it. Everything else is an error of the application, which is reported,
 * and denies the action.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { z } from "zod";
import { defineContract } from "../mod.ts";
import { MoqError, MoqSession, TrackMux } from "../moq/mod.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { inspector, metrics } from "../operations/mod.ts";
import type { Server } from "../server.ts";
import { defineMutations } from "../session/mutations/mod.ts";
import { durableStreams, liveState } from "../streams/mod.ts";
import { memoryPair } from "../transport/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { Page } from "./peers/page.ts";
import { listen } from "./servers.ts";

const contract = defineContract({
  toClient: { news: z.number() },
  presence: { "room:{name}": z.number() },
  state: {
    "board:{id}": { collections: { cards: z.number() }, mutations: { add: z.number() } },
  },
});

const mutations = defineMutations(contract, {
  add: async (rows, value) => {
    await rows.set("cards", "b", value);
  },
});

type Outcome = "allowed" | "denied" | "unclear";

/** A way in, and what decides about it. */
interface Way {
  /** The function, as lines on the console name it. */
  readonly name: string;
  /** The action of the server's `authorize` that the result decides about. */
  readonly action?: string;
  /** A result that allows the action, if `true` does not. */
  readonly allows?: unknown;
  readonly isSync?: boolean;
  readonly act: (world: World) => Promise<Outcome>;
}

class World implements AsyncDisposable {
  /** The result of each function that decides. */
  result: unknown;
  readonly server: Server<unknown, typeof contract>;
  readonly #streams = durableStreams({ path: "/streams", authorize: () => this.#result() });
  readonly #states = liveState(contract, { mutations });

  constructor({ name, action }: Way) {
    const result = () => this.#result();
    this.server = listen({
      webTransport: false,
      contract,
      rooms: ["room:{name}"],
      authorize: (_session, _topic, asked) => asked === action ? result() : true,
      ...(name === "authorizeChange" && { authorizeChange: result }),
      features: [
        name.includes("durableStreams")
          ? this.#streams
          : durableStreams({ path: "/streams", authorize: () => ({ close: true }) }),
        this.#states,
        httpApi({ path: "/api", authorize: result }),
        inspector({ path: "/ops", authorize: result }),
        metrics({ allow: result }),
        {
          name: "counts",
          mount: (host) => ({
            http: host.guard({ path: "/counts", authorize: result }, async ({ authorize }) => {
              await authorize("read", "");
              return Response.json({});
            }),
          }),
        },
      ],
    });
  }

  #result(): never {
    return this.result as never;
  }

  /** Creates the state that the requests are about. */
  async create(): Promise<void> {
    await using _board = await this.#states.open("board:1", { initial: { cards: { a: 1 } } });
  }

  /** Sends a request in a session. */
  async session(envelope: object): Promise<Outcome> {
    await using page = await Page.open(this.server.url, "skein.1");
    const { data, error } = await page.ask(envelope);
    const [result] = (data?.["results"] ?? []) as { readonly error?: typeof error }[];
    const { code } = error ?? result?.error ?? {};
    if (code === undefined) return "allowed";
    if (code === "unavailable") return "unclear";
    assertEquals(code, "forbidden");
    return "denied";
  }

  /** Requests a path over HTTP. */
  async http(path: string, body?: unknown): Promise<Outcome> {
    const url = `http://127.0.0.1:${this.server.address!.port}${path}`;
    const response = await fetch(
      url,
      body === undefined ? {} : {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      },
    );
    await response.body?.cancel();
    if (response.ok) return "allowed";
    if (response.status === 503) return "unclear";
    assertEquals(response.status, 403);
    return "denied";
  }

  async moq(): Promise<Outcome> {
    const mux = new TrackMux();
    mux.publish("/clock", (track) => track.close());
    const pair = memoryPair({ protocol: "moq-lite-04" });
    const authorize = () => this.#result();
    const [server, client] = await Promise.all([
      MoqSession.open(pair.server, {
        side: "server",
        mux,
        authorize,
        onError: (error) => console.warn(String(error)),
      }),
      MoqSession.open(pair.client, { side: "client" }),
    ]);
    await using _server = server;
    await using _client = client;
    try {
      await (await client.subscribe("/clock", "seconds")).ready;
      return "allowed";
    } catch (error) {
      if (!(error instanceof MoqError)) throw error;
      return error.reason === "unauthorized" ? "denied" : "unclear";
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
  }
}

const ROW = [{ type: "cards", key: "c", value: 1, headers: { operation: "upsert" } }];
const NAME = "authorize";
const STREAMS = "authorize of durableStreams";

const WAYS: Readonly<Record<string, Way>> = {
  subscribe: {
    name: NAME,
    action: "subscribe",
    act: (world) => world.session({ subscribe: "news" }),
  },
  publish: {
    name: NAME,
    action: "publish",
    act: (world) => world.session({ publish: "news", data: 1 }),
  },
  presence: {
    name: NAME,
    action: "presence",
    act: (world) => world.session({ presence: "room:a", data: 1 }),
  },
  cancel: {
    name: NAME,
    action: "cancel",
    act: (world) => world.session({ publish: "stream:board:1", data: { cancel: "enough" } }),
  },
  close: {
    name: NAME,
    action: "close",
    allows: { close: true },
    act: (world) => world.session({ publish: "stream:board:1", data: { close: true } }),
  },
  mutate: {
    name: NAME,
    action: "mutate",
    act: (world) =>
      world.session({
        publish: "stream:board:1",
        data: { mutations: [["add", 1]], client: "abcdefgh", n: 1, since: 0 },
      }),
  },
  "a change over HTTP": {
    name: "authorizeChange",
    act: (world) => world.http("/streams/board:1", ROW),
  },
  "the HTTP API": { name: "authorize of api", act: (world) => world.http("/api/health") },
  "a durable stream": { name: STREAMS, act: (world) => world.http("/streams/board:1") },
  "a mutation over HTTP": {
    name: STREAMS,
    act: (world) => world.http("/streams/board:1?action=mutate&name=add", 1),
  },
  "another feature": { name: "authorize of counts", act: (world) => world.http("/counts") },
  "the inspector": { name: "authorize of the inspector", act: (world) => world.http("/ops/") },
  "the metrics": {
    name: "metrics.allow",
    isSync: true,
    act: (world) => world.http("/healthz"),
  },
  MoQ: { name: NAME, act: (world) => world.moq() },
};

/** Results that are no decision, with what the line on the console says about them. */
const WRONG: readonly [result: unknown, text: string][] = [
  ["no", "a string"],
  ["", "an empty string"],
  [-1, "-1"],
  [0, "0"],
  [[], "an array"],
  [[true], "an array"],
  [new Map(), "Map"],
  [() => true, "a function"],
  [{}, "an empty object"],
  [{ canRead: false }, 'an object with "canRead"'],
  [{ allowed: false, from: true }, 'an object with "allowed"'],
  [{ form: true }, 'an object with "form"'],
  [{ value: 1, close: true, until: new Date(), allowed: false }, "an object with "],
];

Deno.test("An action of a client is allowed only by the documented results of a function", async (t) => {
  for (const [title, way] of Object.entries(WAYS)) {
    await t.step(title, async () => {
      using printed = captureConsole();
      await using world = new World(way);
      await world.create();
      const outcome = async (result: unknown) => {
        world.result = result;
        const sync = await way.act(world);
        if (way.isSync) return sync;
        world.result = Promise.resolve(result);
        assertEquals(await way.act(world), sync);
        return sync;
      };
      for (const [result, text] of WRONG) {
        assertEquals(await outcome(result), "unclear", `${title}: ${Deno.inspect(result)}`);
        const { lines } = printed;
        const line = lines.find((line) => line.includes(text) && line.includes("must return"));
        assert(line?.includes(way.name), `${title}, ${text}: ${lines.join("\n")}`);
      }
      assertEquals(await outcome(false), "denied");
      // A missing `return` is an error of a MoQ server.
      const nothing = title === "MoQ" ? "unclear" : "denied";
      for (const result of [null, undefined]) assertEquals(await outcome(result), nothing, title);
      assertEquals(await outcome(way.allows ?? true), "allowed", title);
    });
  }
});
