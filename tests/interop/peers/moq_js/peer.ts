/**
 * A peer of Media over QUIC for the interop tests, on `@moq/net` or on `@moq/lite`.
 *
 * ```text
 * peer.ts server --library L --scenario NAME         prints {"port":N}, then a line a session
 * peer.ts client --library L --scenario NAME --url URL [--hash HEX]     prints one line of JSON
 * ```
 *
 * - `--library` is `net` or `lite`.
 * - `--protocols` lists the offered protocols, with commas. A client without this option dials by the
 *   library's own means, which hide the code and the reason of a close.
 * - `--webtransport deno` takes the runtime's WebTransport in the place of Skein's.
 * - `--setup N` is the version that a server chooses where the protocol leaves that open.
 *
 * URLs begin with `https:` for WebTransport and with `ws:` for QMux. The server speaks QMux.
 *
 * @module
 */
import type { Library } from "./library.ts";
import { loadLite } from "./lite.ts";
import { loadNet } from "./net.ts";
import { type AnySession, play, type Scenario } from "./scenarios.ts";
import { dialTransport, serveTransport, type Transport } from "./transport.ts";

const LIBRARIES: Readonly<Record<string, () => Promise<Library>>> = {
  net: () => loadNet("npm:@moq/net@0.3.4"),
  lite: () => loadLite("npm:@moq/lite@0.2.2"),
};

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

// The libraries tell stories where the results belong.
console.log = console.info = console.debug = console.error;

const library = await LIBRARIES[needed("library")]?.();
if (library === undefined) throw new TypeError("--library is neither net nor lite");

switch (Deno.args[0]) {
  case "fetch":
    // The transport is loaded late.
    await serveTransport([], { onListen: () => Deno.exit(), onSession: async () => {} });
    break;
  case "server":
    await serve(library);
    break;
  case "client":
    print(await dial(library));
    Deno.exit();
    break;
  default:
    throw new TypeError("usage: peer.ts server|client");
}

async function dial(library: Library): Promise<unknown> {
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

async function serve(library: Library): Promise<void> {
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

/** A session with the closes of its transport: the libraries have neither codes nor reasons. */
function over(transport: Transport, session: AnySession): AnySession {
  return {
    closed: transport.closed,
    announced: (prefix) => session.announced(prefix),
    publish: (path, tracks) => session.publish(path, tracks),
    subscribe: (track) => session.subscribe(track),
    ...(session.fetch && { fetch: (group) => session.fetch!(group) }),
    ...(session.probed && { probed: () => session.probed!() }),
    close: (info) => transport.close(info),
  };
}
