/** Clients of topics with a history, on sessions in memory whose envelopes the test reads. */
import { assert, assertEquals } from "@std/assert";
import { Session } from "../session/session.ts";
import type { SessionLimits } from "../session/settings/settings.ts";
import type { SubscribeReply } from "../session/wire/recovery.ts";
import type { Flusher } from "../session/queue/flusher.ts";
import { type MemoryPair, memoryPair } from "../transport/memory/memory.ts";
import type { JoinOptions } from "./topic_options.ts";
import type { Topics } from "./topics.ts";
import { settingsWith } from "../session/settings/session_settings.ts";

/** An envelope. */
export type Line = Record<string, unknown>;

/** One connection of a client, with all of its envelopes except `hello`. */
export class Client implements AsyncDisposable {
  readonly session: Session;
  readonly pair: MemoryPair;
  readonly lines: Line[] = [];
  readonly binary: Uint8Array[] = [];

  constructor(
    flusher: Flusher,
    options: SessionLimits & { readonly protocol?: string; readonly id?: string } = {},
  ) {
    const { protocol = "skein.1", id, ...limits } = options;
    this.pair = memoryPair({ protocol });
    this.session = new Session(
      this.pair.server,
      settingsWith({ flusher }, { side: "server", ...limits }),
      id === undefined ? {} : { id },
    );
    this.pair.client.frames!.receive({
      framesEnded() {},
      receiveFrame: (frame) => {
        if (typeof frame !== "string") return void this.binary.push(frame);
        for (const text of frame.split("\n")) {
          const line = JSON.parse(text);
          if (line.hello === undefined && line.ping === undefined) this.lines.push(line);
        }
      },
    });
  }

  /** Subscribes; the reply is listed among the lines, as `{ reply }`. */
  subscribe(topics: Topics, topic = "t", options: JoinOptions = {}): Promise<boolean> {
    // Sent over the connection, so that the order among other messages is the real one.
    const onReply = (reply: SubscribeReply) => this.session.send("reply", reply);
    return topics.join(this.session, topic, { onReply, ...options });
  }

  /**
   * Takes all envelopes since the last call: replies, messages as `[data, offset, prev]`, and the
   * rest unchanged. Tags are left out, because they are random.
   */
  take(): unknown[] {
    return this.lines.splice(0).map(({ topic, data, tag: _tag, ...rest }) => {
      if (topic === "reply") {
        const { tag: _tag, ...reply } = data as SubscribeReply;
        return reply;
      }
      return topic === undefined ? rest : [data, rest.offset, rest.prev];
    });
  }

  /** The data of the messages since the last call. */
  takeData(): unknown[] {
    return this.take().filter(Array.isArray).map(([data]) => data);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.pair.link.disconnect();
    await this.session.closed;
    assert(this.session.isClosed);
  }
}

export class Clients extends Array<Client> implements AsyncDisposable {
  static on(flusher: Flusher, ...options: ConstructorParameters<typeof Client>[1][]): Clients {
    const clients = new Clients();
    for (const one of options) clients.push(new Client(flusher, one));
    return clients;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this) await client[Symbol.asyncDispose]();
  }
}

/** Checks that the messages are consecutive, from `first` to `last`. */
export function assertRun(data: unknown[], first: number, last: number): void {
  assertEquals(data, Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i));
}
