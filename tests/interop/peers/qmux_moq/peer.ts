/**
 * A QMux peer for the interop tests, on `@moq/qmux`.
 *
 * ```text
 * peer.ts server                                              prints {"port":N}, then the results
 * peer.ts client --url URL --scenario NAME [--protocols LIST] prints one line of JSON
 * ```
 *
 * The offered protocols are separated by commas; by default, the library chooses.
 * `--library 0.1.3` uses another version of the library; versions before 0.3 are clients only.
 *
 * @module
 */
import { answer, type AnySession, PING_IDLE_MS, play, type Scenario } from "./scenarios.ts";

/** The part of the library's exports that is used. */
interface Library {
  readonly default: {
    new (source: string | WebSocket, options?: Options): LibrarySession;
    accept(socket: WebSocket, options?: Options): LibrarySession;
  };
  selectSubprotocol(offered: string | null, options?: Options): string | undefined;
}

type LibrarySession = AnySession & { readonly protocol: string };

interface Options {
  readonly protocols?: readonly string[];
  readonly versions?: Readonly<Record<string, null>>;
  readonly protocol?: string;
  readonly requireProtocol?: boolean;
  readonly config?: Readonly<Record<string, bigint>>;
}

/** Application protocols in order of preference. */
const SPOKEN = { protocols: ["chat.2", "chat.1"], versions: { "chat.2": null, "chat.1": null } };

const NEWEST = "0.3.3";

function option(name: string): string | undefined {
  const at = Deno.args.indexOf(`--${name}`);
  return at < 0 ? undefined : Deno.args[at + 1];
}

function needed(name: string): string {
  const value = option(name);
  if (value === undefined) throw new TypeError(`--${name} is missing`);
  return value;
}

function print(value: unknown): void {
  console.log(JSON.stringify(value));
}

const version = option("library") ?? NEWEST;
const library: Library = await import(`npm:@moq/qmux@${version}`);
const Session = library.default;
/** A frame of an unknown type. */
const VIOLATION = new Uint8Array([0x3f, 0, 0]);
const pinging = { maxIdleTimeout: BigInt(PING_IDLE_MS) };

switch (Deno.args[0]) {
  case "fetch":
    break;
  case "server":
    serve();
    break;
  case "client": {
    const scenario = needed("scenario");
    print(
      scenario === "violation"
        ? await violate()
        : await seen(dial(needed("url"), scenario), scenario),
    );
    // The close is sent before the socket closes.
    await new Promise((resolve) => setTimeout(resolve, 150));
    Deno.exit();
    break;
  }
  default:
    throw new TypeError("usage: peer.ts server|client");
}

/** Violates the protocol; returns the server's reaction. */
async function violate(): Promise<unknown> {
  const socket = openSocket(needed("url"), needed("protocols").split(","));
  const session = new Session(socket);
  await play(session, "before");
  socket.send(VIOLATION);
  return await session.closed.then(() => ({ broken: false }), () => ({ broken: true }));
}

function openSocket(url: string, protocols: string[]): WebSocket {
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";
  return socket;
}

function dial(url: string, scenario: string): LibrarySession {
  const config = scenario === "ping" ? pinging : {};
  const protocols = option("protocols")?.split(",");
  if (protocols === undefined) return new Session(url, { config });
  const hasPairs = protocols.every((protocol) => protocol.includes("."));
  if (hasPairs) return new Session(url, { protocols, requireProtocol: true, config });
  // With bare versions, the library offers all of its versions, unless the socket is passed in.
  return new Session(openSocket(url, protocols), { config });
}

async function seen(session: LibrarySession, scenario: string): Promise<unknown> {
  if (scenario === "rejected") {
    return { rejected: await session.ready.then(() => false, () => true) };
  }
  if (scenario === "protocol") {
    await session.ready;
    return { protocol: session.protocol };
  }
  return await play(session, scenario as Scenario);
}

function serve(): void {
  Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => print({ port }),
  }, (request) => {
    const { pathname } = new URL(request.url);
    const offered = request.headers.get("sec-websocket-protocol");
    const protocol = library.selectSubprotocol(offered, SPOKEN);
    if (pathname === "/reject") return new Response(null, { status: 401 });
    if (protocol === undefined) return new Response(null, { status: 400 });
    const { socket, response } = Deno.upgradeWebSocket(request, { protocol });
    socket.binaryType = "arraybuffer";
    const config = pathname === "/ping" ? pinging : {};
    const session = Session.accept(socket, { protocol, config });
    if (pathname !== "/violate") void answer(session, pathname, print);
    else {
      session.closed.then(
        () => print({ broken: false }),
        ({ message }: Error) => print({ broken: true, message }),
      );
      // Waits until the client has a session.
      session.incomingUnidirectionalStreams.getReader().read()
        .then(() => socket.send(VIOLATION));
    }
    return response;
  });
}
