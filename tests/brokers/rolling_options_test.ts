/** Tests rolling deploys that change options which nodes share, on real Redis and NATS. */
import { assertEquals } from "@std/assert";
import { z } from "zod";
import {
  connect,
  defineContract,
  type Recovery,
  serve,
  type ServeOptions,
  type Server,
} from "../../mod.ts";
import type { Broker } from "../../pubsub/mod.ts";
import { liveState } from "../../streams/mod.ts";
import { captureConsole } from "../console_lines.ts";
import { until } from "../waiting.ts";
import { BROKERS } from "./stores.ts";

const TOPIC = "chat:lobby";

/** Publications of each writer before the next step of a deploy. */
const LOAD = 10;

/** One publication, and when it was made and confirmed: counted in events of the test. */
interface Made {
  readonly id: string;
  readonly from: number;
  until: number;
}

/** The publications of a test, in the order of its events. */
class Journal {
  readonly made = new Map<string, Made>();
  #events = 0;

  next(): number {
    return ++this.#events;
  }

  begin(id: string): Made {
    const made = { id, from: this.next(), until: Infinity };
    this.made.set(id, made);
    return made;
  }
}

/** A node with a reader and a writer. */
class Node implements AsyncDisposable {
  readonly server: Server;
  readonly #name: string;
  readonly #broker: Broker;
  readonly #journal: Journal;
  readonly #client;
  readonly #seen: string[] = [];
  readonly #gaps: Recovery[] = [];
  readonly #end = new AbortController();
  #count = 0;
  #readyAt = 0;
  #writing: Promise<void> | undefined;

  private constructor(name: string, broker: Broker, journal: Journal, options: ServeOptions) {
    this.#name = name;
    this.#broker = broker;
    this.#journal = journal;
    this.server = serve({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      webTransport: false,
      authorize: () => true,
      ...options,
      node: { name, ...options.node },
      broker,
    });
    this.#client = connect(this.server.url);
  }

  /** Starts a node, without a wait, and subscribes its reader. */
  static async start(
    name: string,
    broker: Broker,
    journal: Journal,
    options: ServeOptions,
  ): Promise<Node> {
    const node = new Node(name, broker, journal, options);
    const onRecovery = (recovery: Recovery) => void node.#gaps.push(recovery);
    const subscription = node.#client.subscribe(TOPIC, { onRecovery });
    void (async () => {
      for await (const { data } of subscription) node.#seen.push(data as string);
    })();
    node.#writing = node.#write();
    await subscription.ready;
    node.#readyAt = journal.next();
    return node;
  }

  get published(): number {
    return this.#count;
  }

  /** Stops the writer, and checks what the reader received. */
  async check(): Promise<void> {
    this.#end.abort();
    await this.#writing;
    const leftAt = this.#journal.next();
    const expected = [...this.#journal.made.values()]
      .filter((made) => made.from > this.#readyAt && made.until < leftAt).map(({ id }) => id);
    // On a busy machine, a node that subscribes late says that it may have missed something, or that
    // more was published in the meantime than the history keeps.
    const isExpected = ({ reason }: Recovery) => reason === "interrupted" || reason === "too-old";
    const isToldOfMissing = () => this.#gaps.some(isExpected);
    await until(() => isToldOfMissing() || expected.every((id) => this.#seen.includes(id)));
    assertEquals(new Set(this.#seen).size, this.#seen.length, `${this.#name}: each once`);
    assertEquals(this.#gaps.filter((gap) => !isExpected(gap)), [], this.#name);
  }

  async #write(): Promise<void> {
    while (!this.#end.signal.aborted) {
      const made = this.#journal.begin(`${this.#name} ${++this.#count}`);
      await this.#client.publish(TOPIC, made.id);
      made.until = this.#journal.next();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#writing;
    await this.#client.close();
    await this.server.close();
    await this.#broker.close();
  }
}

const contract = (version: number) =>
  defineContract({
    toServer: { "chat:{room}": z.string() },
    toClient: { "chat:{room}": z.string() },
    state: { "board:{id}": { collections: { cards: z.object({ title: z.string() }) }, version } },
  });
const [first, second] = [contract(1), contract(2)];
const CHATS = { "chat:{room}": { size: 100 } };

/** The changes: options of old and new nodes, and the name of the option. */
const CHANGES: readonly (readonly [name: string, before: ServeOptions, after: ServeOptions])[] = [
  ['history of "chat:{room}"', {}, { history: CHATS }],
  ['history of "chat:{room}"', { history: CHATS }, {}],
  ['history of "chat:{room}"', { history: CHATS }, { history: { "chat:{room}": { size: 9 } } }],
  ['history of "chat:{room}"', { history: CHATS }, { history: { "chat:{room}": { size: 900 } } }],
  ['history of "chat:{room}"', { history: CHATS }, {
    history: { "chat:{room}": { ttlMs: 600_000, bytes: 9_999 } },
  }],
  ['history of "chat:{room}"', { history: CHATS }, { history: { "{kind}:{room}": {} } }],
  ['room "chat:{room}"', {}, { rooms: ["chat:{room}"] }],
  ["limits.maxSessionsPerUser", {}, { limits: { maxSessionsPerUser: 9 } }],
  ["node.goneAfterMs", {}, { node: { goneAfterMs: 9_000 } }],
  ["node.heartbeatMs", {}, { node: { heartbeatMs: 1_000 } }],
  ['state "board:{id}"', { contract: first, features: [] }, { contract: second, features: [] }],
];

for (const { name, ignore, start } of BROKERS) {
  for (const [option, before, after] of CHANGES) {
    const change = `${option} from ${textOf(before)} to ${textOf(after)}`;
    Deno.test({
      name: `A rolling deploy on ${name} that changes ${change} delivers everything once`,
      ignore,
      async fn() {
        using _console = captureConsole();
        const { store, open } = await start();
        await using _store = store;
        await using nodes = new AsyncDisposableStack();
        const journal = new Journal();
        const begin = async (name: string, options: ServeOptions) =>
          nodes.use(await Node.start(name, open(), journal, withStates(options)));
        const busy = (running: readonly Node[]) => {
          const counts = running.map(({ published }) => published);
          return until(() => running.every((node, i) => node.published > counts[i]! + LOAD));
        };
        const olds = await Promise.all([1, 2, 3].map((n) => begin(`old-${n}`, before)));
        const news: Node[] = [];
        await busy(olds);
        while (olds.length > 0) {
          news.push(await begin(`new-${news.length + 1}`, after));
          await busy([...olds, ...news]);
          for (const { server } of [...olds, ...news]) {
            await until(() =>
              server.nodes!.issues().some((issue) => issue.includes(` ${option} is `))
            );
          }
          const old = olds.shift()!;
          await old.check();
          await old[Symbol.asyncDispose]();
        }
        await busy(news);
        for (const node of news) {
          await node.check();
          await until(() => node.server.nodes!.issues().length === 0);
        }
      },
    });
  }
}

/** Text of options in the name of a test. */
function textOf({ contract, ...options }: ServeOptions): string {
  if (contract !== undefined) return contract === first ? "version 1" : "version 2";
  return JSON.stringify(options);
}

/** Adds the feature for states, which belongs to one server. */
function withStates(options: ServeOptions): ServeOptions {
  const { contract } = options;
  return contract === undefined ? options : { ...options, features: [liveState(contract)] };
}
