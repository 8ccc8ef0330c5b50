/**
 * The transports that the library can use: its own, the runtime's, and Skein's.
 *
 * @module
 */
import { WebTransport as SkeinWebTransport } from "../../../../transport/w3c/mod.ts";
import type { Close } from "./scenarios.ts";

/** The part of a WebTransport session that is used, in any implementation. */
export interface Transport {
  /** Resolves once the session is established. */
  readonly ready: Promise<unknown>;
  /** Resolves with the peer's code and reason. */
  readonly closed: Promise<Close>;
  /** Closes the session. */
  close(info?: Close): void;
}

/** The part of the exports of `@moq/qmux` that is used. */
interface Qmux {
  readonly default: {
    new (url: string, options: QmuxOptions): Transport;
    accept(socket: WebSocket, options: QmuxOptions): Transport;
  };
  selectSubprotocol(offered: string | null, options: QmuxOptions): string | undefined;
}

interface QmuxOptions {
  readonly protocols?: readonly string[];
  readonly versions?: Readonly<Record<string, null>>;
  readonly protocol?: string;
  readonly requireProtocol?: boolean;
}

/** The module name is in a variable, because the type checker would resolve a literal. */
const QMUX = "npm:@moq/qmux@0.3.3";

function optionsOf(protocols: readonly string[]): QmuxOptions {
  return { protocols, versions: Object.fromEntries(protocols.map((name) => [name, null])) };
}

/** The address and the options of a dial. */
export interface DialOptions {
  /** The URL: `https:` for WebTransport, `ws:` for QMux. */
  readonly url: string;
  /** SHA-256 hash of the server's certificate, in hexadecimal. */
  readonly hash: string | undefined;
  /** The offered protocols. */
  readonly protocols: readonly string[];
  /** The WebTransport implementation: `deno` or `skein`. */
  readonly webTransport: string;
}

export async function dialTransport(options: DialOptions): Promise<Transport> {
  const { url, protocols } = options;
  const transport = url.startsWith("ws")
    ? new (await import(QMUX) as Qmux).default(url, {
      ...optionsOf(protocols),
      requireProtocol: true,
    })
    : webTransport(options);
  transport.closed.catch(() => {});
  await transport.ready;
  return transport;
}

function webTransport({ url, hash, protocols, webTransport }: DialOptions): Transport {
  const serverCertificateHashes = hash === undefined
    ? []
    : [{ algorithm: "sha-256" as const, value: Uint8Array.fromHex(hash) }];
  if (webTransport === "deno") return new WebTransport(url, { serverCertificateHashes });
  return new SkeinWebTransport(url, { serverCertificateHashes, protocols: [...protocols] });
}

/** Serves QMux on a free port, until the process exits. */
export async function serveTransport(
  protocols: readonly string[],
  handlers: {
    readonly onListen: (port: number) => void;
    readonly onSession: (transport: Transport, url: URL) => Promise<void>;
  },
): Promise<void> {
  const { default: Session, selectSubprotocol } = await import(QMUX) as Qmux;
  const options = optionsOf(protocols);
  const onListen = ({ port }: Deno.NetAddr) => handlers.onListen(port);
  Deno.serve({ hostname: "127.0.0.1", port: 0, onListen }, (request) => {
    const protocol = selectSubprotocol(request.headers.get("sec-websocket-protocol"), options);
    if (protocol === undefined) return new Response(null, { status: 400 });
    const { socket, response } = Deno.upgradeWebSocket(request, { protocol });
    socket.binaryType = "arraybuffer";
    const transport = Session.accept(socket, { protocol });
    transport.closed.catch(() => {});
    void handlers.onSession(transport, new URL(request.url));
    return response;
  });
}
