/**
 * A scripted demo: two visitors connect to two nodes; then one node is killed, and the other one is
 * drained. The script prints each step, and throws if an expected event does not arrive in time.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import { type Client, connect } from "../../mod.ts";
import type { Cluster } from "./cluster.ts";
import { chat } from "./contract.ts";

const PATIENCE_MS = 60_000;

/** Runs the demo. */
export async function showOnce(cluster: Cluster): Promise<void> {
  const url = `ws://localhost:${cluster.port}`;
  console.log(`${cluster.summary.nodes.length} nodes on ${cluster.summary.broker}`);
  await using ann = new Visitor(url, "ann");
  await ann.sees("itself on node 1");
  await using bob = new Visitor(url, "bob");
  await bob.sees("itself on node 2");
  await ann.sees("ann and bob in the room");
  bob.says("Hello, Ann!");
  await ann.sees("bob: Hello, Ann!");

  const killed = cluster.do("kill", 1);
  console.log("node 1 is killed");
  bob.says("Are you still there?");
  await ann.sees("itself on node 2");
  await ann.sees("all missed messages");
  await ann.sees("bob: Are you still there?");
  await killed;

  await cluster.do("start", 1);
  const drained = cluster.do("drain", 2);
  console.log("node 1 is up again, and node 2 is drained");
  await Promise.all([ann.isOn(1), bob.isOn(1), drained]);
  ann.says("Now I am where I was.");
  await bob.sees("ann: Now I am where I was.");

  await using eve = new Visitor(url, "eve");
  await eve.sees("bob: Hello, Ann!");
  await eve.sees("bob: Are you still there?");
  await eve.sees("ann: Now I am where I was.");
}

/** A client that acts as one page. */
class Visitor implements AsyncDisposable {
  readonly #name: string;
  readonly #client: Client<typeof chat>;
  #seen: string[] = []; // Events without a matching `sees()` so far.
  #changed = Promise.withResolvers<void>();

  constructor(url: string, name: string) {
    this.#name = name;
    this.#client = connect(`${url}/?name=${name}`, {
      contract: chat,
      // The balancer forwards only TCP.
      transports: ["websocket"],
      delivery: "at-least-once",
      backoff: { firstDelayMs: 200 },
      onMessage: (message) => {
        if (message.pattern === "node") this.#note(`itself on node ${message.data}`);
      },
    });
    void this.#read();
    this.#client.members("room:lobby").subscribe((members) =>
      this.#note(`${[...members.keys()].sort().join(" and ")} in the room`)
    );
  }

  says(text: string): void {
    console.log(`${this.#name} says ${text}`);
    this.#client.send("say", { id: crypto.randomUUID(), text });
  }

  /** Waits until this visitor has received the event, after the events of earlier calls. */
  async sees(what: string): Promise<void> {
    await this.#waitFor(what);
    console.log(`${this.#name} sees ${what}`);
  }

  /** Waits until the visitor is on a node, and has recovered all missed messages. */
  async isOn(node: number): Promise<void> {
    await this.#waitFor(`itself on node ${node}`);
    await this.#waitFor("all missed messages");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#client.close();
  }

  async #waitFor(what: string): Promise<void> {
    const late = setTimeout(
      () => this.#changed.reject(new Error(`${this.#name} never saw "${what}"`)),
      PATIENCE_MS,
    );
    while (!this.#seen.includes(what)) await this.#changed.promise;
    clearTimeout(late);
    this.#seen = this.#seen.slice(this.#seen.indexOf(what) + 1);
  }

  async #read(): Promise<void> {
    const lines = this.#client.subscribe("room:lobby", {
      last: 100,
      onRecovery: ({ recovered, reason }) =>
        this.#note(recovered ? "all missed messages" : `not everything: ${reason}`),
    });
    for await (const { data: { from, text } } of lines) this.#note(`${from}: ${text}`);
  }

  #note(what: string): void {
    this.#seen.push(what);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}
