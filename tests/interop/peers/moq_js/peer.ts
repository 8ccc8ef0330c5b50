/**
 * A peer of Media over QUIC for the interop tests, on `@moq/net`.
 *
 * ```text
 * peer.ts server --scenario NAME                          prints {"port":N}, then a line a session
 * peer.ts client --scenario NAME --url URL [--hash HEX]   prints one line of JSON
 * ```
 *
 * - `--protocols` lists the offered protocols, separated by commas. Without this option, a client
 *   dials by the library's own means, which hide the code and the reason of a close.
 * - `--webtransport deno` uses the runtime's WebTransport instead of Skein's.
 * - `--setup N` is the version that a server chooses if the protocol leaves it open.
 *
 * URLs start with `https:` for WebTransport and with `ws:` for QMux. The server speaks QMux.
 *
 * @module
 */
import { loadNet } from "./net.ts";
import { type AnySession, play, type Scenario } from "./scenarios.ts";
import { dialTransport, serveTransport, type Transport } from "./transport.ts";

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
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
}

// The library logs to standard output, which is for results only.
console.log = console.info = console.debug = console.error;

const library = await loadNet("npm:@moq/net@0.3.4");

switch (Deno.args[0]) {
  case "fetch":
    // Loads the transport, which would otherwise be loaded late.
    await serveTransport([], { onListen: () => Deno.exit(), onSession: async () => {} });
    break;
  case "server":
    await serve();
    break;
  case "client":
    print(await dial());
    Deno.exit();
    break;
  default:
    throw new TypeError("usage: peer.ts server|client");
}

async function dial(): Promise<unknown> {
  const [url, hash] = [needed("url"), option("hash")];
  const protocols = option("protocols")?.split(",");
  const webTransport = option("webtransport") ?? "skein";
  const scenario = needed("scenario") as Scenario;
  if (protocols === undefined && webTransport === "skein") {
    const serverCertificateHashes = hash === undefined
      ? []
      : [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash) }];
    const session = await library.connect(new URL(url), {
      webtransport: { serverCertificateHashes },
      websocket: { enabled: url.startsWith("ws") },
    });
    return { version: session.version, ...await play(session, scenario) as object };
  }
  const transport = await dialTransport({ url, hash, protocols: protocols ?? [], webTransport });
  const session = await library.connect(new URL(url), { transport });
  return { version: session.version, ...await play(over(transport, session), scenario) as object };
}

async function serve(): Promise<void> {
  const scenario = needed("scenario") as Scenario;
  const setup = option("setup");
  await serveTransport(needed("protocols").split(","), {
    onListen: (port) => print({ port }),
    async onSession(transport, url) {
      try {
        await transport.ready;
        const version = setup === undefined ? {} : { version: Number(setup) };
        const session = await library.accept(transport, url, version);
        const seen = await play(over(transport, session), scenario) as object;
        print({ version: session.version, ...seen });
      } catch (error) {
        print({ failed: String(error) });
      }
    },
  });
}

/**
 * A session that includes the close of its transport, because the library reports neither codes nor
 * reasons.
 */
function over(transport: Transport, session: AnySession): AnySession {
  return {
    closed: transport.closed,
    announced: (prefix) => session.announced(prefix),
    publish: (path, tracks) => session.publish(path, tracks),
    subscribe: (track) => session.subscribe(track),
    fetch: (group) => session.fetch(group),
    probed: () => session.probed(),
    close: (info) => transport.close(info),
  };
}
