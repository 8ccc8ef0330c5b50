/** The examination of a server, which runs all checks in order and recommends transports. */
import { denoPlatform } from "../../client/deno.ts";
import { dialHttp, type HttpPath } from "../../transport/http/client.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import type { TransportName } from "../../transport/race/options.ts";
import { publicUrl } from "../../transport/url.ts";
import { type Check, CheckList, type CheckListOptions, type Finding } from "./check.ts";
import {
  checkDns,
  checkHealth,
  checkHttp,
  checkTcp,
  checkTls,
  type Target,
  targetOf,
} from "./network.ts";
import { checkCors, checkHello, checkOrigin, checkUpgrade } from "./websocket.ts";
import { checkWebTransport, skipWebTransport } from "./webtransport.ts";

/**
 * Minimum time for the HTTP transport, in milliseconds. It first waits 3 s for an event stream.
 */
const HTTP_MS = 8_000;

/** Outcome of a transport. */
export type TransportState = "ok" | "rejected" | "failed" | "unknown";

/** Result of an examination, as printed by `--json`. */
export interface Examination {
  /** Version of this format. */
  readonly version: 1;
  /** URL without secrets. */
  readonly url: string;
  /** Start, as an ISO date. */
  readonly startedAt: string;
  /** True if a session opened on at least one transport. */
  readonly isReachable: boolean;
  /**
   * Each transport: `ok`, `rejected` (the network is open, but the server rejects the session),
   * `failed`, or `unknown` if this machine could not try it.
   */
  readonly transports: Readonly<Record<TransportName, TransportState>>;
  /** Value for `transports` of `connect()`. */
  readonly recommended: readonly TransportName[];
  /** All checks in order. */
  readonly checks: readonly Check[];
}

/** Options for {@linkcode examine}. */
export interface ExamineOptions extends CheckListOptions {
  /** Token of the sessions. */
  readonly token?: string | undefined;
  /** Origin of a page to check. */
  readonly origin?: string | undefined;
  /** Request headers. */
  readonly headers?: Target["headers"] | undefined;
  /** Certificates that WebTransport trusts, by hash. */
  readonly hashes?: readonly CertificateHash[] | undefined;
}

/**
 * Examines a server.
 *
 * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
 * @param options See {@linkcode ExamineOptions}.
 * @returns The result.
 * @throws The abort reason, if the signal was aborted.
 */
export async function examine(url: URL, options: ExamineOptions): Promise<Examination> {
  const { runtime, headers = [] } = options;
  const startedAt = new Date(runtime.now()).toISOString();
  const list = new CheckList(options);
  const target = targetOf(url, headers);
  const addresses = await checkDns(list, target);
  if (addresses === undefined) {
    for (const [id, title] of LATER) list.skip(id, title, "the name has no address");
  } else await checkAll(list, { target, url, addresses, options });
  const transports = {
    webtransport: stateOf(list, "webtransport"),
    websocket: stateOf(list, "websocket"),
    http: stateOf(list, "http"),
  };
  const recommended = recommend(transports);
  return {
    version: 1,
    url: publicUrl(url),
    startedAt,
    isReachable: Object.values(transports).includes("ok"),
    transports,
    recommended,
    checks: list.checks,
  };
}

/** Checks that need an address. */
const LATER = [
  ["tcp", "TCP"],
  ["http", "HTTP"],
  ["websocket.upgrade", "Upgrade"],
  ["websocket.session", "Session"],
  ["webtransport.session", "Session"],
  ["http.session", "Session"],
] as const;

async function checkAll(
  list: CheckList,
  { target, url, addresses, options }: {
    readonly target: Target;
    readonly url: URL;
    readonly addresses: readonly string[];
    readonly options: ExamineOptions;
  },
): Promise<void> {
  const { token, hashes, origin } = options;
  const { headers } = target;
  const address = await checkTcp(list, target, addresses);
  let isSpoken = false;
  let isTrusted = true;
  if (address !== undefined) {
    if (target.isSecure) {
      await checkTls(list, target, address);
      isTrusted = list.stateOf("tls") !== "failed";
    }
    const exchange = await checkHttp(list, target, address);
    isSpoken = exchange !== undefined;
    if (isSpoken) await checkHealth(list, target, address);
  }
  const why = address === undefined ? "TCP does not work" : "the server does not respond";
  let protocol: string | undefined;
  if (isSpoken) {
    protocol = await checkUpgrade(list, target, address!);
    if (origin !== undefined) await checkOrigin(list, target, { address: address!, origin });
  } else list.skip("websocket.upgrade", "Upgrade", why);
  if (protocol === undefined) {
    list.skip("websocket.session", "Session", isSpoken ? "the upgrade failed" : why);
  } else if (protocol !== "skein.1") list.add("websocket.session", "Session", NOT_SKEIN);
  else if (!isTrusted) list.add("websocket.session", "Session", DISTRUSTED);
  else {
    await checkHello(list, {
      id: "websocket.session",
      title: "Session",
      transport: "websocket",
      token,
      url,
      headers,
      late: {
        cause:
          "The server accepts the subprotocol skein.1 but sends no first message: it is not a Skein server (some libraries accept any subprotocol), or it waits for one of its own dependencies",
        cure:
          "Check that the URL is of a Skein server, and check its `authenticate`; skein load --plain measures other servers",
      },
    });
  }
  // This server announces its endpoint over HTTP.
  const isAnnounced = !target.isSecure && hashes === undefined;
  if (isAnnounced && address === undefined) skipWebTransport(list, why);
  else await checkWebTransport(list, target, { url, hashes, token, addresses });
  if (!isSpoken) list.skip("http.session", "Session", why);
  else if (!isTrusted) list.add("http.session", "Session", DISTRUSTED);
  else await checkHttpTransport(list, { url, token, headers, timeoutMs: options.timeoutMs });
  if (isSpoken && origin !== undefined) {
    await checkCors(list, target, { address: address!, origin });
  }
}

/** The finding for a server that accepted the upgrade without Skein's subprotocol. */
const NOT_SKEIN: Finding = {
  state: "failed",
  detail: "the server did not choose the subprotocol skein.1",
  cause: "The server is not a Skein server, or a proxy removes the header Sec-WebSocket-Protocol",
  cure: "Check the URL; a plain WebSocket works, and skein load --plain can measure it",
};

/** Finding for a transport whose certificate clients reject. */
const DISTRUSTED: Finding = {
  state: "failed",
  detail: "clients reject the certificate",
  cause: "TLS failed above: clients close the connection before any request",
  cure: "Fix the certificate first",
};

/** Opens a session over HTTP, and detects a proxy that buffers event streams. */
async function checkHttpTransport(
  list: CheckList,
  { url, token, headers, timeoutMs }: {
    readonly url: URL;
    readonly token: string | undefined;
    readonly headers: Target["headers"];
    readonly timeoutMs: number;
  },
): Promise<void> {
  const path: HttpPath = { polls: false };
  await checkHello(list, {
    id: "http.session",
    title: "Session",
    transport: "http",
    token,
    url,
    headers,
    timeoutMs: Math.max(timeoutMs, HTTP_MS),
    platform: () => denoPlatform((place, dial) => dialHttp(place, { ...dial, path })),
  });
  if (list.stateOf("http.session") !== "ok") {
    return list.skip("http.events", "Events", "no session over HTTP");
  }
  list.add(
    "http.events",
    "Events",
    path.polls
      ? {
        state: "warning",
        detail: "a proxy buffers the event stream, so the client polls",
        cause: "The proxy buffers whole responses before it forwards them",
        cure: "Turn buffering off for this path: in nginx, proxy_buffering off",
      }
      : { state: "ok", detail: "event streams arrive immediately" },
  );
}

function stateOf(list: CheckList, transport: TransportName): TransportState {
  const check = list.checks.find(({ id }) => id === `${transport}.session`);
  if (check?.state === "ok" || check?.state === "warning") return "ok";
  if (check?.facts?.["isRejection"] === true) return "rejected";
  const isTried = list.checks.some(({ id, state }) =>
    state === "failed" && (id.startsWith(`${transport}.`) || COMMON.has(id))
  );
  return isTried ? "failed" : "unknown";
}

/** Checks whose failure affects all TCP transports. */
const COMMON: ReadonlySet<string> = new Set(["dns", "tcp"]);

function recommend(
  states: Readonly<Record<TransportName, TransportState>>,
): readonly TransportName[] {
  const names = ["webtransport", "websocket", "http"] as const;
  return names.filter((name) => states[name] === "ok" || states[name] === "rejected");
}
