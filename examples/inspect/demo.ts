/**
 * Two servers on one broker, with sessions to inspect: users in a room, a slow handler, streams
 * that the server does not read, guests that come and go, and a growing durable stream.
 *
 * In your own project, write `jsr:@skein/skein` in place of `../../mod.ts`.
 *
 * @module
 */
import {
  type Broker,
  dial,
  serve,
  type ServeOptions,
  type Server,
  type Session,
} from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/mod.ts";
import { inspector } from "@skein/skein/operations";
import { durableStreams } from "../../streams/mod.ts";

/**
 * A secret that the inspector must not show: part of the token, the cookie and the URL
 * of every user.
 */
export const SECRET = "hunter2-do-not-show";

/** Maximum messages that wait for a handler; low, so that a slow handler shows soon. */
const MAX_WAITING = 64;

/** The room of all users, with a history. */
const ROOM = "room:lounge";

/** Two servers with demo users. */
export class Demo implements AsyncDisposable {
  /** The server with most users and the inspector. */
  readonly app: Server<string>;
  /** A second node on the same broker. */
  readonly other: Server<string>;
  readonly #broker: Broker;
  readonly #streams = durableStreams();
  readonly #end = new AbortController();
  readonly #sessions: Session[] = [];

  private constructor(broker: Broker, options: DemoOptions) {
    this.#broker = broker;
    this.app = serveDemo(broker, "north", {
      ...options,
      features: [inspector(), this.#streams],
    });
    this.other = serveDemo(broker, "south", {
      ...options,
      port: 0,
      features: [inspector()],
    });
  }

  /** Starts the servers and their users. */
  static async start(options: DemoOptions = {}): Promise<Demo> {
    const demo = new Demo(new MemoryBroker(), options);
    await demo.#populate();
    return demo;
  }

  /** The page of the inspector. */
  get inspectorUrl(): string {
    return `${this.app.url.replace("ws:", "http:")}inspector/`;
  }

  /** Stops the users and the servers. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await Promise.all(this.#sessions.map((session) => session.close()));
    await Promise.all([this.app.close(), this.other.close()]);
    await this.#broker.close();
  }

  async #populate(): Promise<void> {
    const mira = await this.#enter("mira");
    const jonas = await this.#enter("jonas", "websocket");
    const ada = await this.#enter("ada");
    const kim = await this.#enter("kim", "websocket");
    const olek = await this.#enter("olek", "websocket");
    const noor = await this.#enter("noor", "websocket");
    await this.#enter("viewer-7", "websocket", this.other);
    const story = await this.#streams.create<string>("story-7");

    this.#every(90, () => mira.send("say", { from: "mira", text: "x".repeat(size(400)) }));
    this.#every(350, () => jonas.send("say", { from: "jonas", text: "On the train" }));
    this.#every(200, async () => void await kim.request("look up", "tea"));
    this.#every(70, async () => {
      if (ada.connection.capabilities.datagrams !== "none") {
        await ada.sendDatagram(new Uint8Array(size(200)));
      }
    });
    this.#every(400, async () => void await story.append("Once upon a time. "));
    this.#every(2_000, () => this.#visit());
    // The first message blocks the others.
    for (let n = 0; n < MAX_WAITING - 6; n++) olek.send("report", { n, text: "y".repeat(200) });
    // The server does not read these streams.
    if (noor.connection.capabilities.streams) {
      for (let n = 0; n < 4; n++) {
        const writer = (await noor.createUnidirectionalStream()).getWriter();
        writer.write(new Uint8Array(240 * 1_024)).catch(() => {});
      }
    }
  }

  /** Connects a guest for one message. */
  async #visit(): Promise<void> {
    const session = await this.#enter(`guest-${size(90)}`, "websocket", this.other);
    session.send("say", { from: "a guest", text: "Hello" });
    await pause(1_500 + size(6_000), this.#end.signal);
    await session.close();
    this.#sessions.splice(this.#sessions.indexOf(session), 1);
  }

  async #enter(name: string, transport?: "websocket", at = this.app): Promise<Session> {
    const url = new URL(at.url);
    url.search = new URLSearchParams({ name, token: SECRET, password: SECRET }).toString();
    const session = await dial(url, {
      headers: { cookie: `session=${SECRET}`, "x-api-key": SECRET },
      onMessage() {},
      onError() {},
      ...(transport === undefined ? {} : { transports: [transport] }),
      signal: this.#end.signal,
    });
    this.#sessions.push(session);
    return session;
  }

  /** Repeats an action until the demo ends or the action fails (a closed session cannot send). */
  async #every(ms: number, work: () => void | Promise<void>): Promise<void> {
    const { signal } = this.#end;
    try {
      while (!signal.aborted) {
        await work();
        await pause(ms * (0.5 + Math.random()), signal);
      }
    } catch (error) {
      if (!signal.aborted) console.error("The demo failed:", error);
    }
  }
}

export type DemoOptions = Pick<ServeOptions, "port" | "webTransport">;

function serveDemo(
  broker: Broker,
  name: string,
  options: DemoOptions & Pick<ServeOptions, "features">,
): Server<string> {
  const app: Server<string> = serve<string>({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    ...options,
    broker,
    node: { name },
    rooms: ["room:{name}"],
    history: { "room:{name}": { size: 200 } },
    authenticate: ({ request }) => new URL(request.url).searchParams.get("name"),
    session: {
      receiveQueue: { maxMessages: MAX_WAITING },
      heartbeat: { intervalMs: 2_000, timeoutMs: 30_000 },
    },
    keepHeaders: "all",
    onOpen: (session) => {
      app.subscribe(session, "news");
      if (session.connection.capabilities.datagrams !== "none") {
        session.datagrams.readable.pipeTo(new WritableStream()).catch(() => {}); // Ends with the session.
      }
      app.rooms.join(session, ROOM, { data: { mood: "curious", token: SECRET } });
    },
    onMessage: async (message) => {
      switch (message.topic) {
        case "say":
          app.publish("news", { headline: "Somebody spoke" });
          return app.publish(ROOM, message.data);
        case "look up":
          return message.reply({ found: message.data });
        case "report":
          // A handler that never finishes, such as one that waits for a stuck database.
          await new Promise((resolve) => message.signal.addEventListener("abort", resolve));
      }
    },
  });
  return app;
}

/** Returns a random integer from 1 to `max`. */
function size(max: number): number {
  return 1 + Math.floor(Math.random() * max);
}

/** Waits, or returns early if the signal is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
