/**
 * A server with something to see: users who talk, one whose messages are handled
 * too slowly, one whose streams nobody takes, and some who come and go.
 *
 * Users write `jsr:@skein/skein` in the place of `../../mod.ts`.
 *
 * @module
 */
import { dial, serve, type ServeOptions, type Server, type Session } from "../../mod.ts";

/** What nobody is to see: it is in the token, the cookie and the URL of every user. */
export const SECRET = "hunter2-do-not-show";

/** Messages that may wait for a handler; few, so that a slow one is seen soon. */
const MAX_WAITING = 64;

/** A server, and those who use it. */
export class Demo implements AsyncDisposable {
  /** The server. */
  readonly app: Server<string>;
  readonly #end = new AbortController();
  readonly #sessions: Session[] = [];

  private constructor(app: Server<string>) {
    this.app = app;
  }

  /** Starts the server and its users. */
  static async start(options: Pick<ServeOptions, "webTransport"> = {}): Promise<Demo> {
    const app: Server<string> = serve<string>({
      port: 0,
      hostname: "127.0.0.1",
      onListen() {},
      ...options,
      authenticate: ({ request }) => new URL(request.url).searchParams.get("name") ?? "nobody",
      session: {
        receiveQueue: { maxMessages: MAX_WAITING },
        heartbeat: { intervalMs: 2_000, timeoutMs: 30_000 },
      },
      keepsHeaders: "all",
      onOpen: (session) => void app.subscribe(session, "news"),
      onMessage: async (message) => {
        switch (message.topic) {
          case "say":
            return app.publish("news", message.data);
          case "look up":
            return message.reply({ found: message.data });
          case "report":
            // A handler that waits for what never comes, as one may that asks a database.
            await new Promise((resolve) => message.signal.addEventListener("abort", resolve));
        }
      },
    });
    const demo = new Demo(app);
    await demo.#populate();
    return demo;
  }

  /** Ends all of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await Promise.all(this.#sessions.map((session) => session.close()));
    await this.app.close();
  }

  async #populate(): Promise<void> {
    const mira = await this.#enter("mira");
    const jonas = await this.#enter("jonas", "websocket");
    const ada = await this.#enter("ada");
    const kim = await this.#enter("kim", "websocket");
    const olek = await this.#enter("olek", "websocket");
    const noor = await this.#enter("noor", "websocket");
    await this.#enter("viewer-7", "websocket");

    this.#every(90, () => mira.send("say", { from: "mira", text: "x".repeat(size(400)) }));
    this.#every(350, () => jonas.send("say", { from: "jonas", text: "On the train" }));
    this.#every(200, async () => void await kim.request("look up", "tea"));
    this.#every(70, async () => {
      if (ada.connection.capabilities.datagrams !== "none") {
        await ada.sendDatagram(new Uint8Array(size(200)));
      }
    });
    this.#every(2_000, () => this.#visit());
    // Behind the first one, all others wait.
    for (let n = 0; n < MAX_WAITING - 6; n++) olek.send("report", { n, text: "y".repeat(200) });
    // And nobody takes the streams that come.
    if (noor.connection.capabilities.streams) {
      for (let n = 0; n < 4; n++) {
        const writer = (await noor.createUnidirectionalStream()).getWriter();
        writer.write(new Uint8Array(240 * 1_024)).catch(() => {});
      }
    }
  }

  /** Somebody who comes, says something and leaves. */
  async #visit(): Promise<void> {
    const session = await this.#enter(`guest-${size(90)}`, "websocket");
    session.send("say", { from: "a guest", text: "Hello" });
    await pause(1_500 + size(6_000), this.#end.signal);
    await session.close();
    this.#sessions.splice(this.#sessions.indexOf(session), 1);
  }

  async #enter(name: string, transport?: "websocket"): Promise<Session> {
    const url = new URL(this.app.url);
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

  /** Does something now and then, until the demo ends or it fails: a session that is over sends nothing. */
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

/** A number up to a bound. */
function size(max: number): number {
  return 1 + Math.floor(Math.random() * max);
}

/** Waits; less if the signal is aborted. */
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
