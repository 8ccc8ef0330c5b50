/**
 * Walks the table "What a writer can do to the whole state" of `docs/reference/state.md`, over sessions,
 * HTTP, forks and expiry, with random rights of the writer.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { z } from "zod";
import { type Client, type Contract, defineContract, type RequestedChange } from "../../mod.ts";
import { type Drawn, transport } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Asking, type Node, type Reply, serveNodes } from "./requests.ts";
import { untilReached } from "./stores.ts";
import type { World } from "./world.ts";
import { liveState } from "../../streams/mod.ts";
import { statesOf, streamFeatures, streamsOf } from "../stream_features.ts";

/** The rights of the writer. */
const rightsOf = fc.record({
  /** Actions over sessions, and over HTTP. */
  session: fc.subarray(["subscribe", "publish", "cancel"]),
  http: fc.subarray(["create", "append", "read", "delete", "cancel"]),
  /** The answers about `close`; plain `true` must not be enough. */
  sessionClose: fc.constantFrom(false, true, { close: true } as const),
  httpClose: fc.constantFrom(false, true, { close: true } as const),
  /** Answers of `authorizeChange`, by action; without `any`, only for a few keys. */
  rows: fc.subarray(["set", "delete", "any"]),
});

type Rights = Drawn<typeof rightsOf>;

/** Time to live of a row in seconds, and the time after which it is gone, in milliseconds. */
const [TTL_S, EXPIRED_MS] = [60, 120_000];

/** A row that stays, a row that expires in a day, and a row that does not exist. */
const [STAYS, LENT, NEW] = ["stays", "lent", "new"] as const;

/** The keys that the writer may use without the right to `any`. */
const FEW: readonly string[] = [STAYS, LENT, NEW];

/** Maximum number of rows of a state, and the numbers of transactions and rows that reach it. */
const [MAX_ROWS, FILLS, FILL_ROWS] = [30, 5, 7];

const contract = defineContract({ state: { "board:{id}": { cards: z.number() } } });

/** The first rows of the contract's states. */
const onOpen = () => ({ cards: { [STAYS]: 1 } });

/** A state as the server sees it. */
interface Seen {
  readonly isThere: boolean;
  readonly isKeyed: boolean;
  readonly isEnded: boolean;
  readonly rows: Readonly<Record<string, unknown>>;
}

/** A server with a random table of rights, and the clients of the writer and of another user. */
class House {
  readonly world: World;
  readonly rights: Rights;
  readonly isGuarded: boolean;
  #node!: Node;
  #client!: Client;
  #count = 0;

  constructor(world: World, rights: Rights, isGuarded: boolean) {
    this.world = world;
    this.rights = rights;
    this.isGuarded = isGuarded;
  }

  async start(
    store: "memory" | "sqlite" | "redis" | "nats",
    wire: Drawn<typeof transport>,
  ): Promise<void> {
    const { session, http, sessionClose, httpClose, rows } = this.rights;
    const answer = (user: string | undefined, action: string, of: "http" | "session") => {
      if (user === "ann") return { close: true };
      if (action === "close") return of === "http" ? httpClose : sessionClose;
      return (of === "http" ? http : session).includes(action as never);
    };
    [this.#node] = await serveNodes(this.world, store, {
      machines: ["near"],
      authorize: ({ value }, _topic, action) => answer(value, action, "session"),
      authorizeChange: ({ user, action, key }: RequestedChange) =>
        user === "ann" || rows.includes(action) && (rows.includes("any") || FEW.includes(key)),
      ...(this.isGuarded && { contract }),
      features: () =>
        streamFeatures(
          {
            path: "/streams",
            maxRows: MAX_ROWS,
            authorize: ({ user, action }) => answer(user, action, "http"),
          },
          undefined,
          this.isGuarded ? liveState<Contract>(contract, { onOpen }) : liveState(),
        ),
    }) as unknown as [Node];
    this.#client = this.world.connect("eve", () => this.#node.host, {
      token: "eve",
      transports: [wire],
      onError() {},
    });
    const probe = () => streamsOf(this.#node.server).create("probe", { keyed: true });
    await untilReached(this.world, () => this.world.run(this.#node.host, probe));
  }

  /** Creates a state of the server with two rows. */
  async board(): Promise<string> {
    const id = this.free();
    await this.world.run(this.#node.host, async () => {
      await using board = await statesOf(this.#node.server).open(id as never);
      // Only the types depend on the contract.
      const cards = board.collection("cards" as never) as {
        set(key: string, value: number, options?: object): Promise<number>;
      };
      await cards.set(STAYS, 1);
      await cards.set(LENT, 1, { ttlMs: 86_400_000 });
    });
    return id;
  }

  /** Returns an id that no stream has. */
  free(): string {
    return `board:${++this.#count}`;
  }

  /** Makes a request over HTTP. */
  async http(id: string, { method = "POST", headers, json }: Asking, user = "eve"): Promise<Reply> {
    const all = { authorization: `Bearer ${user}`, "content-type": "application/json", ...headers };
    const path = `/streams/${id}`;
    return await this.world.inTime(
      path,
      ask(this.#node, path, { method, headers: all, ...(json !== undefined && { json }) }),
    );
  }

  /** Publishes over the session of the writer. */
  async session(id: string, data: object): Promise<string> {
    return await this.world.inTime(
      "a reply",
      outcomeOf(this.#client.publish(`stream:${id}`, data)),
    );
  }

  /** Writes a row as the server does. Resolves to `fulfilled`, or the code of the error. */
  async own(id: string): Promise<string> {
    return await this.world.inTime(
      "a write",
      this.world.run(this.#node.host, async () => {
        return await outcomeOf((async () => {
          await using board = await statesOf(this.#node.server).open(id as never);
          await (board.collection("cards" as never) as {
            set(key: string, value: number): Promise<number>;
          }).set("own", 2);
        })());
      }),
    );
  }

  async see(id: string): Promise<Seen> {
    const streams = streamsOf(this.#node.server);
    return await this.world.inTime(
      id,
      this.world.run(this.#node.host, async () => {
        const info = await streams.info(id);
        const rows: Record<string, unknown> = {};
        const isKeyed = info?.keyed === true;
        for await (const { data } of info && isKeyed ? streams.read(id) : []) {
          // deno-lint-ignore no-explicit-any
          for (const { key, value, headers } of data as any[]) {
            if (headers.operation === "delete") delete rows[key];
            else rows[key] = value;
          }
        }
        return { isThere: info !== undefined, isKeyed, isEnded: info?.isEnded === true, rows };
      }),
    );
  }
}

const change = (key: string, value: number | undefined, headers: object = {}) => ({
  type: "cards",
  key,
  ...(value !== undefined && { value }),
  headers: { operation: value === undefined ? "delete" : "upsert", ...headers },
});

/** Transactions of new rows; the last one exceeds the maximum. */
const fills = () =>
  Array.from(
    { length: FILLS },
    (_, i) => Array.from({ length: FILL_ROWS }, (_, j) => change(`${i}-${j}`, 1)),
  );

const END = { "stream-closed": "true" };
const KEYED = { "stream-keyed": "true" };

/** A try of the writer, and the effect that it must have. */
interface Try {
  /** Makes the try with a state of the server, and an id that no stream has. */
  act(house: House, id: string, free: string): Promise<unknown>;
  /** True if the rights allow it. */
  may(rights: Rights, house: House): boolean;
  /** True if the try had its effect, once rows with the short time to live have expired. */
  hadEffect(state: Seen, created: Seen): boolean;
}

const mayClose = (answer: unknown) => Object(answer).close === true;
const all = (has: readonly string[], ...needs: readonly string[]) =>
  needs.every((need) => has.includes(need));

const isFull = ({ rows }: Seen) => Object.keys(rows).length === MAX_ROWS;

const isEnded = ({ isEnded }: Seen) => isEnded;
const wasCreated = (_state: Seen, { isThere }: Seen) => isThere;

/** Tries over HTTP and over a session to change rows. */
const ROWS = {
  "writes a row": { row: change(STAYS, 7), needs: ["set"], at: STAYS, becomes: 7 },
  "deletes a row": { row: change(STAYS, undefined), needs: ["delete"], at: STAYS },
  "lets a row expire": {
    row: change(STAYS, 7, { ttl: TTL_S }),
    needs: ["set", "delete"],
    at: STAYS,
  },
  "lets a row expire earlier": { row: change(LENT, 7, { ttl: TTL_S }), needs: ["set"], at: LENT },
} as const;

const TRIES: Readonly<Record<string, Try>> = {
  "a session closes the state": {
    act: (house, id) => house.session(id, { close: true }),
    may: ({ sessionClose }) => mayClose(sessionClose),
    hadEffect: isEnded,
  },
  "HTTP closes the state": {
    act: (house, id) => house.http(id, { headers: END }),
    may: ({ http, httpClose }) => all(http, "append") && mayClose(httpClose),
    hadEffect: isEnded,
  },
  "HTTP closes the state with a row": {
    act: (house, id) => house.http(id, { headers: END, json: change(NEW, 1) }),
    may: ({ http, httpClose, rows }) =>
      all(http, "append") && mayClose(httpClose) && all(rows, "set"),
    hadEffect: ({ isEnded, rows }) => {
      assertEquals(NEW in rows, isEnded);
      return isEnded;
    },
  },
  "HTTP deletes the state": {
    act: (house, id) => house.http(id, { method: "DELETE" }),
    may: ({ http }) => all(http, "delete"),
    hadEffect: ({ isThere }) => !isThere,
  },
  "HTTP creates a state": {
    act: (house, _id, free) => house.http(free, { method: "PUT", headers: KEYED }),
    may: ({ http }) => all(http, "create"),
    hadEffect: wasCreated,
  },
  "HTTP creates a closed state": {
    act: (house, _id, free) => house.http(free, { method: "PUT", headers: { ...KEYED, ...END } }),
    may: ({ http, httpClose }) => all(http, "create") && mayClose(httpClose),
    hadEffect: wasCreated,
  },
  "HTTP creates a state that expires": {
    act: (house, _id, free) =>
      house.http(free, { method: "PUT", headers: { ...KEYED, "stream-ttl": "86400" } }),
    may: ({ http }) => all(http, "create", "delete"),
    hadEffect: wasCreated,
  },
  "HTTP creates a stream without rows": {
    act: (house, _id, free) => house.http(free, { method: "PUT" }),
    may: ({ http }, { isGuarded }) => all(http, "create") && !isGuarded,
    hadEffect: wasCreated,
  },
  "a fork copies rows without a check": {
    act: (house, id, free) =>
      house.http(free, { method: "PUT", headers: { "stream-forked-from": `/streams/${id}` } }),
    may: () => false,
    hadEffect: wasCreated,
  },
  "a session cancels the state": {
    act: (house, id) => house.session(id, { cancel: "eve" }),
    // The mark changes nothing for the others.
    may: () => false,
    hadEffect: isEnded,
  },
  "HTTP cancels the state": {
    act: (house, id) => house.http(`${id}?action=cancel`, {}),
    may: () => false,
    hadEffect: isEnded,
  },
  "high numbers lock out another user": {
    async act(house, id) {
      const numbers = (epoch: number) => ({
        "producer-id": "p",
        "producer-epoch": `${epoch}`,
        "producer-seq": "0",
      });
      await house.http(id, { headers: numbers(9e15), json: change(NEW, 1) });
      await house.http(id, { headers: { "stream-seq": "~".repeat(99) }, json: change(NEW, 2) });
      const mine = { headers: { ...numbers(0), "stream-seq": "1" }, json: change("ann", 1) };
      const { outcome } = await house.http(id, mine, "ann");
      assertEquals(outcome, "200");
    },
    may: () => false,
    hadEffect: ({ rows }) => !("ann" in rows),
  },
  "a session fills the state": {
    async act(house, id) {
      for (const rows of fills()) await house.session(id, { writes: [rows] });
    },
    may: ({ session, rows }) => all(session, "publish") && all(rows, "set", "any"),
    hadEffect: isFull,
  },
  "HTTP fills the state": {
    async act(house, id) {
      for (const rows of fills()) await house.http(id, { json: rows });
    },
    may: ({ http, rows }) => all(http, "append") && all(rows, "set", "any"),
    hadEffect: isFull,
  },
  ...Object.fromEntries(
    Object.entries(ROWS).flatMap(([name, { row, needs, at, ...rest }]) =>
      (["session", "http"] as const).map((over): [string, Try] => [`${over} ${name}`, {
        act: (house, id) =>
          over === "http" ? house.http(id, { json: row }) : house.session(id, { writes: [[row]] }),
        may: ({ http, session, rows }) =>
          all(rows, ...needs) && (over === "http" ? all(http, "append") : all(session, "publish")),
        hadEffect: ({ rows }) => "becomes" in rest ? rows[at] === rest.becomes : !(at in rows),
      }])
    ),
  ),
};

property("a client that writes rows does to the state only what its rights say", {
  runs: 6,
  cases: fc.record({
    store: fc.constantFrom("memory", "sqlite", "redis", "nats"),
    transport,
    isGuarded: fc.boolean(),
    rights: rightsOf,
  }),
  regressions: {
    "plain true closes no state": {
      store: "memory",
      transport: "websocket",
      isGuarded: false,
      rights: {
        session: ["subscribe", "publish", "cancel"],
        http: ["create", "append", "read", "delete", "cancel"],
        sessionClose: true,
        httpClose: true,
        rows: ["set", "any"],
      },
    },
    "who may do all does all but fork": {
      store: "memory",
      transport: "websocket",
      isGuarded: true,
      rights: {
        session: ["subscribe", "publish", "cancel"],
        http: ["create", "append", "read", "delete", "cancel"],
        sessionClose: { close: true },
        httpClose: { close: true },
        rows: ["set", "delete", "any"],
      },
    },
  },
  async check(world, { store, transport, isGuarded, rights }) {
    const house = new House(world, rights, isGuarded);
    await house.start(store, transport);
    const tried: { readonly name: string; readonly id: string; readonly free: string }[] = [];
    for (const [name, { act }] of Object.entries(TRIES)) {
      const [id, free] = [await house.board(), house.free()];
      await act(house, id, free);
      tried.push({ name, id, free });
    }
    await world.pause(EXPIRED_MS);
    for (const { name, id, free } of tried) {
      const { may, hadEffect } = TRIES[name]!;
      const [state, created] = [await house.see(id), await house.see(free)];
      assertEquals(hadEffect(state, created), may(rights, house), name);
      // Readers see the rows that they saw before.
      const first: Seen["rows"] = created.isKeyed && isGuarded ? onOpen().cards : {};
      assertEquals(created.rows, first, name);
      // Without such a right, the server still writes the state, and the other rows stay.
      const isOver = state.isEnded || !state.isThere;
      assert(!isOver || may(rights, house), name);
      if (isOver) continue;
      assertEquals(await house.own(id), isFull(state) ? "full" : "fulfilled", name);
      const touched = Object.values(ROWS).map(({ at }) => at as string);
      const others = [STAYS, LENT].filter((key) =>
        !name.includes(" row") || !touched.includes(key)
      );
      for (const key of others) assertEquals(state.rows[key], 1, `${name}: ${key}`);
    }
  },
});
