/**
 * A chat whose server is killed while a client publishes.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { connect, type Subscription } from "../../mod.ts";
import type { ChatBroker } from "./killed_chat_server.ts";
import { lowPort } from "../networks/ports.ts";
import { soon, until } from "../waiting.ts";

const PROGRAM = new URL("./killed_chat_server.ts", import.meta.url).href;

/** The topic of the chat. */
const ROOM = "chat:lobby";

/** The server of a chat in a separate process, always on the same port. */
class ChatServer implements AsyncDisposable {
  readonly url: string;
  readonly #args: readonly string[];
  #child: Deno.ChildProcess | undefined;

  constructor(broker: ChatBroker, place: string) {
    const port = lowPort();
    this.url = `ws://127.0.0.1:${port}/`;
    this.#args = [`${port}`, broker, place];
  }

  /** Starts the server; resolves once it is listening. */
  async start(): Promise<void> {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--unstable-net", PROGRAM, ...this.#args],
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const lines = this.#child.stdout.getReader();
    assertEquals((await lines.read()).done, false, "the server did not start");
    lines.releaseLock();
  }

  /** Kills the server without a goodbye. */
  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.stdout.cancel();
    await this.#child?.status;
    this.#child = undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

/** Reads the lines of the chat, up to the fifth. */
async function read(chat: Subscription, lines: number[] = []): Promise<number[]> {
  for await (const { data } of chat) {
    lines.push(data as number);
    if (data === 5) break;
  }
  return lines;
}

/**
 * Publishes five lines with a client in its default setup, and kills the server in between: before
 * its replies, and while it does not run. Each line must arrive once, in order.
 *
 * @param place The place where the broker keeps data.
 */
export async function checkKilledChat(broker: ChatBroker, place: string): Promise<void> {
  await using server = new ChatServer(broker, place);
  await server.start();
  // WebTransport that loses the race to WebSocket would look like a leak.
  const open = () => connect(server.url, { transports: ["websocket"] });
  await using ann = open();
  await using bob = open();
  await soon(ann.publish(ROOM, 1));
  const chat = bob.subscribe(ROOM, { last: 100 });
  const heard: number[] = [];
  const reading = read(chat, heard);
  await until(() => heard.length === 1);
  const made = [ann.publish(ROOM, 2), ann.publish(ROOM, 3)];
  await ann.session!.flushed(); // The server may have the lines, and may have replied.
  await server.kill();
  for await (const { name } of ann.status.follow()) if (name !== "connected") break;
  made.push(ann.publish(ROOM, 4));
  await server.start();
  await soon(ann.whenConnected());
  made.push(ann.publish(ROOM, 5));
  await soon(Promise.all(made));
  assertEquals(ann.outbox, { messages: 0, bytes: 0 });
  await using late = open();
  const [seen, kept] = await soon(
    Promise.all([reading, read(late.subscribe(ROOM, { last: 100 }))]),
  );
  if (broker !== "memory") return assertEquals([seen, kept], [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]);
  // The new server has the lines without a reply from the old one.
  assertEquals(kept, [2, 3, 4, 5].slice(-kept.length));
  assert(kept.length >= 2);
  assertEquals([...new Set(seen)], [1, 2, 3, 4, 5]);
}
