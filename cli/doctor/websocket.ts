/** WebSocket checks: the upgrade, Skein's first message, and the origin of pages. */
import { dialBy } from "../../client/connect.ts";
import { plainText } from "../context.ts";
import { makePlatform } from "../load/links.ts";
import { rejectionCure } from "../rejection_cure.ts";
import { SessionClosedError } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import { acceptKeyOf } from "../../transport/hardened/accept_key.ts";
import type { TransportName } from "../../transport/race/options.ts";
import { type CheckList, Fault, type Finding } from "./check.ts";
import { ask, gatewayFault, type HttpExchange, type Target } from "./network.ts";

const PROTOCOL = "skein.1";

/** Number of round trips that are measured. The shortest is reported. */
const PINGS = 3;

/**
 * Checks the upgrade. Returns the subprotocol of the response, or `undefined` if there was no
 * upgrade.
 */
export async function checkUpgrade(
  list: CheckList,
  target: Target,
  address: string,
): Promise<string | undefined> {
  return await list.run<string>({
    id: "websocket.upgrade",
    title: "Upgrade",
    late: {
      cause:
        "The server accepts the connection but does not respond to the upgrade: it is overloaded, or a proxy holds the request back",
      cure: "Check the load of the server, and the proxy's WebSocket configuration",
    },
  }, async (signal) => {
    const { response, key } = await askUpgrade(target, address, { signal, protocol: PROTOCOL });
    const { status, statusText, headers } = response.head;
    const facts = {
      status,
      server: headers.get("server"),
      via: headers.get("via"),
      protocol: headers.get("sec-websocket-protocol"),
      extensions: headers.get("sec-websocket-extensions"),
    };
    const shown = `${status} ${statusText}`.trim();
    if (status !== 101) {
      throw new Fault({
        detail: `${shown}${response.text && `: ${response.text}`}`,
        ...upgradeFault(response),
        facts,
      });
    }
    if (headers.get("sec-websocket-accept") !== acceptKeyOf(key)) {
      throw new Fault({
        detail: "101, with a wrong Sec-WebSocket-Accept",
        cause: "The response does not match this request: a cache or proxy replays an older one",
        cure: "Turn caching off for this path",
        facts,
      });
    }
    const protocol = headers.get("sec-websocket-protocol") ?? "";
    const detail = `101${protocol === "" ? ", no subprotocol" : `, ${protocol}`}`;
    return { state: "ok", detail, facts, value: protocol };
  });
}

async function askUpgrade(
  target: Target,
  address: string,
  { signal, protocol, origin }: {
    readonly signal: AbortSignal;
    readonly protocol?: string;
    readonly origin?: string;
  },
): Promise<{ readonly response: HttpExchange; readonly key: string }> {
  const key = crypto.getRandomValues(new Uint8Array(16)).toBase64();
  const fields = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${key}`,
    ...(protocol === undefined ? [] : [`Sec-WebSocket-Protocol: ${protocol}`]),
    ...(origin === undefined ? [] : [`Origin: ${origin}`]),
  ];
  try {
    return { response: await ask(target, address, { signal, fields }), key };
  } catch (error) {
    signal.throwIfAborted();
    const { message } = error as Error;
    throw new Fault({
      detail: message,
      cause: "A firewall or proxy closes connections that request an upgrade",
      cure: "Use TLS (wss:), which hides the upgrade from the network, or allow WebSocket there",
    });
  }
}

/** Finds cause and fix of a response that is not an upgrade. */
function upgradeFault({ head, text }: HttpExchange): Pick<Finding, "cause" | "cure"> {
  const { status, headers } = head;
  const gateway = gatewayFault(status);
  if (gateway !== undefined) return gateway;
  const server = headers.get("server") ?? "";
  const proxy =
    /nginx|caddy|haproxy|apache|envoy|cloudflare|traefik|varnish|awselb/i.exec(server)?.[0] ??
      (headers.has("via") ? "A proxy" : undefined);
  const isPlainResponse = status === 426 || status === 200 ||
    status === 400 && /upgrade/i.test(text);
  if (isPlainResponse && (proxy !== undefined || status !== 200)) {
    return {
      cause: `${
        proxy ?? "A proxy in between"
      } removes the headers Upgrade and Connection, so that the server sees a plain request; or no WebSocket is served at this path`,
      cure:
        'Configure the proxy to forward the upgrade: in nginx, proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"',
    };
  }
  if (isPlainResponse) {
    return {
      cause:
        "The server responds as a web server instead of a WebSocket server, or a proxy removes the header Upgrade",
      cure: "Check the path in the URL, and that requests to it reach the Skein server",
    };
  }
  switch (status) {
    case 401:
    case 407:
      return {
        cause: "The server or a proxy requires credentials before the upgrade",
        cure: 'Pass a token with --token, or a header with -H "Authorization: Bearer …"',
      };
    case 403:
      return {
        cause: /origin/i.test(text)
          ? "The server does not allow the origin"
          : "The server, a proxy or its firewall forbids the request",
        cure: /origin/i.test(text)
          ? "Add the origin to `origins` of the server, or its host to `hosts`"
          : "Check the rules of the proxy, and `authenticate` and `origins` of the server",
      };
    case 404:
    case 405:
      return {
        cause: "No WebSocket is served at this path",
        cure: "Add the session path to the URL (`path` of the server), or route it in the proxy",
      };
    case 429:
      return {
        cause: "The server or a proxy rejects more connections from this address",
        cure: "Try later, or raise `limits.maxSessionsPerAddress` or the rate limit of the proxy",
      };
    case 503:
      return {
        cause: "The server is draining or full, or a proxy has no server behind it",
        cure: "Try later, and check the state of the server and of the proxy's backends",
      };
    default:
      return status >= 300 && status < 400
        ? {
          cause: `The server redirects to ${
            headers.get("location") ?? "another URL"
          }, which a WebSocket does not follow`,
          cure: "Use the URL of the redirect",
        }
        : {
          cause: "The server does not accept the upgrade",
          cure: "Check the server's logs for this request",
        };
  }
}

/** Options for {@linkcode checkHello}. */
export interface HelloOptions {
  /** The transport to use. */
  readonly transport: TransportName;
  /** Token of the session. */
  readonly token: string | undefined;
  /** URL for the client. */
  readonly url: URL;
  /** Request headers. */
  readonly headers: Target["headers"];
  /** Certificates that WebTransport trusts, by hash. */
  readonly hashes?: readonly { algorithm: "sha-256"; value: BufferSource }[] | undefined;
  /** Creates the platform of the session; by default, it has all transports. */
  readonly platform?: typeof makePlatform | undefined;
  /** Reads further facts of the session. */
  readonly describe?: ((session: Session) => Readonly<Record<string, unknown>>) | undefined;
  /** Time limit, in milliseconds. */
  readonly timeoutMs?: number | undefined;
  /** Cause and fix of a session that does not open in time. */
  readonly late?: Pick<Finding, "cause" | "cure"> | undefined;
  /** Stable name of the check. */
  readonly id: string;
  /** Title of the check, for display. */
  readonly title: string;
}

/** Opens a Skein session, and measures its round trip. */
export async function checkHello(list: CheckList, options: HelloOptions): Promise<void> {
  const { transport, token, url, headers, hashes, describe, id, title, timeoutMs, late } = options;
  await list.run({ id, title, timeoutMs, late }, async (signal) => {
    const { runtime } = list;
    const startMs = runtime.monotonic();
    const session = await dialBy(options.platform ?? makePlatform, url, {
      runtime,
      transports: [transport],
      signal,
      connectTimeoutMs: Infinity,
      token,
      headers: headers.length > 0 ? headers as [string, string][] : undefined,
      serverCertificateHashes: hashes,
    }).catch((error) => {
      signal.throwIfAborted();
      throw helloFault(error, token);
    });
    try {
      const openMs = runtime.monotonic() - startMs;
      let pingMs = Infinity;
      for (let i = 0; i < PINGS; i++) {
        pingMs = Math.min(pingMs, await session.ping({ signal }));
      }
      const described = describe?.(session as Session) ?? {};
      const facts = {
        openMs: Math.round(openMs * 10) / 10,
        pingMs: Math.round(pingMs * 100) / 100,
        ...described,
      };
      const more = Object.entries(described).map(([name, value]) => `, ${name} ${value}`).join("");
      return {
        state: "ok",
        detail: `session open in ${facts.openMs} ms, round trip ${facts.pingMs} ms${more}`,
        facts,
      };
    } finally {
      await session.close();
    }
  });
}

/** Finds cause and fix of a session that does not open. */
function helloFault(error: Error, token: string | undefined): Fault {
  const isOther = /the response with status \d+ is not from a Skein server/.exec(error.message);
  if (isOther !== null) {
    return new Fault({
      detail: isOther[0],
      cause:
        "Another part of the server, or a proxy, responds at this path, or the server has http: false",
      cure: "Check the path in the URL, and that requests to it reach the Skein server",
    });
  }
  if (!(error instanceof SessionClosedError)) {
    return new Fault({
      detail: error.message,
      cause: "The connection was lost before the session opened",
      cure: "Check the network in between, and the logs of the server",
    });
  }
  const { code = 1006, reason = "" } = error.info ?? {};
  const shown = plainText(reason || error.message).replace(/^Cannot connect to \S+: /, "");
  const cure = rejectionCure(code, reason);
  if (code === 4401) {
    return new Fault({
      detail: `rejected with 401: ${shown}`,
      cause: token === undefined
        ? "The server requires a token, and none was given; the network is open"
        : "The server does not accept this token",
      cure,
      facts: { code, isRejection: true },
    });
  }
  return new Fault({
    detail: code >= 4_400 && code < 4_600
      ? `rejected with ${code - 4_000}: ${shown}`
      : `closed with ${code}: ${shown}`,
    cause: code === 4503
      ? "The server is draining: it accepts no new sessions"
      : code === 1006
      ? "The connection was lost before the server's first message"
      : "The network is open, but the server rejects the session",
    cure,
    facts: { code, isRejection: code >= 4_400 },
  });
}

/** Checks that pages of an origin may connect. */
export async function checkOrigin(
  list: CheckList,
  target: Target,
  { address, origin }: { readonly address: string; readonly origin: string },
): Promise<void> {
  await list.run({ id: "websocket.origin", title: "Origin" }, async (signal) => {
    // Without a subprotocol the server rejects with an HTTP status.
    const { response } = await askUpgrade(target, address, { signal, origin });
    const { status } = response.head;
    const facts = { origin, status };
    if (status === 403) {
      throw new Fault({
        detail: `403 for pages of ${origin}${response.text && `: ${response.text}`}`,
        cause: "The server allows only pages of its own origin, or of a list without this one",
        cure: `Add "${origin}" to \`origins\` of the server, or its host to \`hosts\``,
        facts,
      });
    }
    const isOpen = status === 101 || status === 401;
    return {
      state: isOpen ? "ok" : "warning",
      detail: isOpen ? `pages of ${origin} may connect` : `${status} for pages of ${origin}`,
      facts,
    };
  });
}

/** Checks that pages from an origin may use the HTTP transport (CORS). */
export async function checkCors(
  list: CheckList,
  target: Target,
  { address, origin }: { readonly address: string; readonly origin: string },
): Promise<void> {
  await list.run({ id: "http.cors", title: "CORS" }, async (signal) => {
    const { head } = await ask(target, address, {
      signal,
      method: "OPTIONS",
      more: [
        ["origin", origin],
        ["access-control-request-method", "POST"],
        ["access-control-request-headers", "skein-transport"],
      ],
    });
    const allowed = head.headers.get("access-control-allow-origin");
    const facts = { origin, status: head.status, allowed };
    if (allowed === origin || allowed === "*" || origin === target.url.origin) {
      return { state: "ok", detail: `pages of ${origin} may use HTTP`, facts };
    }
    return {
      state: "warning",
      detail: `no Access-Control-Allow-Origin for ${origin}`,
      cause: "The server does not allow the origin, or a proxy responds to OPTIONS itself",
      cure:
        `Add "${origin}" to \`origins\` of the server, and configure the proxy to forward OPTIONS`,
      facts,
    };
  });
}
