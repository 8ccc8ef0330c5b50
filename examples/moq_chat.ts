/**
 * A chat over Media over QUIC. Each member publishes their lines as a broadcast, and finds the
 * other members through announcements. The server is a plain relay without chat code.
 *
 * ```sh
 * deno run -N --unstable-net examples/moq_chat.ts --serve
 * deno run -N --unstable-net examples/moq_chat.ts --name ann          # and in another terminal: bob
 * ```
 *
 * With `--once` three members talk over WebTransport and WebSocket, and the program exits.
 *
 * @module
 */
// In your own project: jsr:@skein/skein/moq
import { connectMoq, listenMoq, LiveTrack, type MoqClient, MoqRelay } from "../moq/mod.ts";
import { ONCE, optionsOf } from "./shared/options.ts";

const LOBBY = "/chat/lobby";
const SERVER = "http://127.0.0.1:4444";

function listen(port: number): ReturnType<typeof listenMoq> {
  const relay = new MoqRelay({ prefix: LOBBY });
  return listenMoq({
    port,
    mux: relay.mux,
    // Any client may join. A chat with users checks the session's token here.
    authorize: (_session, path, action) => action !== "publish" || path.startsWith(`${LOBBY}/`),
    onSession: (session) => relay.accept(session),
  });
}

/** A member in the lobby. */
class Member implements AsyncDisposable {
  readonly client: MoqClient;
  readonly #lines = new LiveTrack();

  constructor(url: string, readonly name: string, readonly print: (line: string) => void) {
    this.client = connectMoq(url);
    // A path has one publisher: two members may share a name, but not a path.
    const id = crypto.randomUUID();
    this.client.mux.publish(`${LOBBY}/${id}/${name}`, (track) => this.#lines.serve(track));
    void this.#follow();
  }

  /** Sends a line as its own group, so that a lost line does not delay the next one. */
  say(text: string): void {
    using group = this.#lines.openGroup();
    group.writeFrame(new TextEncoder().encode(text));
  }

  async #follow(): Promise<void> {
    for await (const { path, active } of this.client.acceptAnnounce(LOBBY)) {
      const name = path.slice(path.lastIndexOf("/") + 1);
      this.print(`${name} ${active ? "is here" : "left"}`);
      if (active) void this.#read(path, name);
    }
  }

  async #read(path: string, name: string): Promise<void> {
    try {
      const lines = this.client.subscribe(path, "lines", { ordered: true, resumeTimeoutMs: 0 });
      for await (const group of lines) {
        for await (const frame of group) {
          this.print(`${name}: ${new TextDecoder().decode(frame)}`);
        }
      }
    } catch {
      // The member left. The announcements report this too.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lines.close();
    await this.client.close();
  }
}

async function serve(): Promise<void> {
  await using _server = listen(Number(new URL(SERVER).port));
  console.log(`A chat at ${SERVER} (press Ctrl-C to stop)`);
  await new Promise(() => {});
}

async function join(name: string): Promise<void> {
  await using member = new Member(SERVER, name, (line) => console.log(line));
  void tell(member.client);
  for await (const text of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    for (const line of text.split("\n")) if (line !== "") member.say(line);
  }
}

/** Prints changes of the client's status. */
async function tell({ status }: MoqClient): Promise<void> {
  for await (const now of status) {
    if (now.name === "connected") console.log(`(in the lobby of ${SERVER})`);
    if (now.name === "reconnecting") console.log(`(not connected: ${now.cause.error})`);
  }
}

async function talk(): Promise<void> {
  await using server = listen(0);
  const wires = { http: server.webSocketUrl.replace("ws:", "http:"), ws: server.webSocketUrl };
  const seen = new Map<string, string[]>();
  const enter = (name: string, wire: keyof typeof wires) => {
    const lines: string[] = [];
    seen.set(name, lines);
    return new Member(wires[wire], name, (line) => lines.push(line));
  };
  const see = async (name: string, line: string) => {
    while (!seen.get(name)!.includes(line)) await new Promise((done) => setTimeout(done, 5));
    console.log(`${name} sees: ${line}`);
  };

  await using ann = enter("ann", "http");
  const bob = enter("bob", "ws");
  await see("ann", "bob is here");
  await see("bob", "ann is here");
  ann.say("Hello, Bob!");
  await see("bob", "ann: Hello, Bob!");
  bob.say("Hello, Ann. Is Eve coming?");
  await see("ann", "bob: Hello, Ann. Is Eve coming?");
  await using eve = enter("eve", "http");
  await see("ann", "eve is here");
  // A late subscriber starts at the newest group.
  await see("eve", "bob: Hello, Ann. Is Eve coming?");
  await see("bob", "eve is here");
  eve.say("Me.");
  await see("ann", "eve: Me.");
  await see("bob", "eve: Me.");
  await bob[Symbol.asyncDispose]();
  await see("ann", "bob left");
  await see("eve", "bob left");
}

const options = optionsOf({
  run: "deno run -N --unstable-net examples/moq_chat.ts",
  about: "Chats over Media over QUIC: a relay with --serve, and members with --name.",
}, {
  serve: { help: `starts the relay at ${SERVER}` },
  name: { value: "NAME", help: "enters the chat with this name" },
  once: ONCE,
});
if (options.once) await talk();
else if (options.serve) await serve();
else if (options.name !== undefined) await join(options.name);
else console.error("Pass --serve, or --name NAME");
