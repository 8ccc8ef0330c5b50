/**
 * A scripted conversation between two users, one of whom has two tabs open, over WebTransport and
 * WebSocket. The script prints each step, and throws if an expected event does not arrive in time.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import { type Client, connect, type MessageOf, type TransportName } from "../../mod.ts";
import { serveChat } from "./chat.ts";
import { contract } from "./contract.ts";

const PATIENCE_MS = 30_000;

/** Runs the conversation. */
export async function talk(): Promise<void> {
  await using server = serveChat({ port: 0, onListen() {}, presence: { graceMs: 50 } });

  const ann = new Visitor(server.url, "ann", { label: "ann, tab 1", transport: "webtransport" });
  await ann.connects();
  await ann.enters("lobby");
  await ann.sees("who is in the lobby: ann");

  const bob = new Visitor(server.url, "bob", { label: "bob", transport: "websocket" });
  await bob.connects();
  await bob.enters("lobby");
  await bob.sees("who is in the lobby: ann, bob");
  await ann.sees("bob joined the lobby");

  await ann.says("lobby", "Hello, Bob!");
  await bob.sees("ann in the lobby: Hello, Bob!");
  await bob.says("lobby", "Hello, Ann.");
  await ann.sees("bob in the lobby: Hello, Ann.");

  const tab = new Visitor(server.url, "ann", { label: "ann, tab 2", transport: "webtransport" });
  await tab.enters("lobby");
  await tab.sees("who is in the lobby: ann, bob");
  await tab.remembers("lobby");

  await bob.tells("ann", "Tea at four?");
  await ann.sees("a letter from bob to ann: Tea at four?");
  await tab.sees("a letter from bob to ann: Tea at four?");
  bob.hasNotSeen("ann joined the lobby");

  await tab.leaves();
  await ann.says("lobby", "Still here, with one tab closed.");
  await bob.sees("ann in the lobby: Still here, with one tab closed.");
  bob.hasNotSeen("ann left the lobby");

  await ann.leaves();
  await bob.sees("ann left the lobby");
  await bob.leaves();
}

/** A client that acts as one page of a user. */
class Visitor {
  readonly #client: Client<typeof contract>;
  readonly #label: string;
  readonly #seen: string[] = [];
  #changed = Promise.withResolvers<void>();

  constructor(
    url: string,
    name: string,
    options: { readonly label: string; readonly transport: TransportName },
  ) {
    this.#label = options.label;
    this.#client = connect(`${url}session?name=${name}`, {
      contract,
      transports: [options.transport],
      onMessage: (message) => this.#note(describe(message)),
    });
  }

  async connects(): Promise<void> {
    for await (const status of this.#client.status) {
      if (status.name === "connected") return this.#print(`is here over ${status.transport}`);
      if (status.name === "reconnecting") {
        throw new Error(`${this.#label} is not connected: ${status.cause.reason}`);
      }
    }
  }

  async enters(room: string): Promise<void> {
    this.#print(`enters the ${room}`);
    const subscription = this.#client.subscribe(`room:${room}`);
    void this.#read(subscription);
    void this.#watch(room);
    await subscription.ready;
  }

  async says(room: string, text: string): Promise<void> {
    this.#print(`says in the ${room}: ${text}`);
    await this.#client.request("say", { id: crypto.randomUUID(), room, text });
  }

  async tells(to: string, text: string): Promise<void> {
    this.#print(`writes to ${to}: ${text}`);
    await this.#client.request("tell", { id: crypto.randomUUID(), to, text });
  }

  async remembers(room: string): Promise<void> {
    for (const { from, text } of await this.#client.request("recent", { room })) {
      this.#print(`receives an earlier line: ${from}: ${text}`);
    }
  }

  async leaves(): Promise<void> {
    this.#print("leaves");
    await this.#client.close();
  }

  /** Waits until this visitor has received the event. */
  async sees(what: string): Promise<void> {
    const late = setTimeout(
      () => this.#changed.reject(new Error(`${this.#label} never saw "${what}"`)),
      PATIENCE_MS,
    );
    while (!this.#seen.includes(what)) await this.#changed.promise;
    clearTimeout(late);
    this.#print(`sees ${what}`);
  }

  hasNotSeen(what: string): void {
    if (this.#seen.includes(what)) throw new Error(`${this.#label} saw "${what}"`);
    this.#print(`did not see "${what}"`);
  }

  async #read(messages: AsyncIterable<MessageOf<typeof contract, "client">>): Promise<void> {
    for await (const message of messages) this.#note(describe(message));
  }

  async #watch(room: string): Promise<void> {
    let before: ReadonlySet<string> = new Set();
    for await (const members of this.#client.members(`room:${room}`)) {
      const users = new Set(members.keys());
      if (members.status !== "subscribed" || users.size === 0) continue;
      if (before.size === 0) this.#note(`who is in the ${room}: ${[...users].join(", ")}`);
      else for (const user of users.difference(before)) this.#note(`${user} joined the ${room}`);
      for (const user of before.difference(users)) this.#note(`${user} left the ${room}`);
      before = users;
    }
  }

  #note(what: string): void {
    this.#seen.push(what);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  #print(what: string): void {
    console.log(`${this.#label.padEnd(10)}  ${what}`);
  }
}

function describe(message: MessageOf<typeof contract, "client">): string {
  switch (message.pattern) {
    case "room:{room}":
      return `${message.data.from} in the ${message.params.room}: ${message.data.text}`;
    case "letter":
      return `a letter from ${message.data.from} to ${message.data.to}: ${message.data.text}`;
    default:
      return message.pattern;
  }
}
