/** Checks of everything below a session: names, TCP, TLS, HTTP, health and clock. */
import type * as tls from "node:tls";
import * as dns from "node:dns";
import { isIP } from "node:net";
import { settlesWithin } from "../../base/wait.ts";
import { bodyOf, type HttpHead, readHead, requestText } from "../http_head.ts";
import { judgeCertificate } from "./certificate.ts";
import { type CheckList, Fault, type Finding } from "./check.ts";
import { endWith, Line } from "./line.ts";

const MAX_ADDRESSES = 8;

/** How long to wait for further addresses once one has responded, in milliseconds. */
const OTHERS_MS = 1_000;

/**
 * Clock difference above which the check warns, in seconds. Clocks matter because tokens include
 * times.
 */
const MAX_SKEW_S = 30;

/** The examined server. */
export interface Target {
  /** URL of the server, with `http:` or `https:`. */
  readonly url: URL;
  /** Name or address, without brackets. */
  readonly host: string;
  /** TCP port. */
  readonly port: number;
  /** True with TLS. */
  readonly isSecure: boolean;
  /** Request headers of the user. */
  readonly headers: readonly (readonly [name: string, value: string])[];
}

/**
 * Determines the target of a URL.
 *
 * @param url A URL with `ws:`, `wss:`, `http:` or `https:`.
 * @param headers Request headers of the user.
 */
export function targetOf(url: URL, headers: Target["headers"]): Target {
  const http = new URL(url);
  http.protocol = url.protocol.replace("ws", "http");
  http.hash = "";
  const isSecure = http.protocol === "https:";
  const port = Number(http.port || (isSecure ? 443 : 80));
  return { url: http, host: http.hostname.replace(/^\[|\]$/g, ""), port, isSecure, headers };
}

/** An HTTP response. */
export interface HttpExchange {
  /** Head of the response. */
  readonly head: HttpHead;
  /** Start of the body, on one line. */
  readonly text: string;
}

/**
 * Resolves the name of the server.
 *
 * @returns The addresses; `undefined` if the check failed.
 */
export async function checkDns(
  list: CheckList,
  { host }: Target,
): Promise<readonly string[] | undefined> {
  if (isIP(host) !== 0) {
    list.skip("dns", "DNS", `${host} is an address`);
    return [host];
  }
  return await list.run<readonly string[]>({
    id: "dns",
    title: "DNS",
    late: {
      cause: "The resolver of this machine does not respond",
      cure: "Check the network and /etc/resolv.conf",
    },
  }, async () => {
    const found = await dns.promises.lookup(host, { all: true, verbatim: true }).catch((error) => {
      throw new Fault({
        detail: `the name ${host} does not resolve (${error.code ?? error.message})`,
        cause:
          "The name has no address: it is misspelled, not registered, or known only in another network",
        cure: "Check the name in the URL, and the A and AAAA records of its zone",
      });
    });
    const addresses = [...new Set(found.map(({ address }) => address))].slice(0, MAX_ADDRESSES);
    const v6 = addresses.filter((address) => isIP(address) === 6);
    const v4 = addresses.filter((address) => isIP(address) === 4);
    return {
      state: "ok",
      detail: addresses.join(", "),
      facts: { ipv4: v4, ipv6: v6 },
      value: addresses,
    };
  });
}

/**
 * Connects to each address.
 *
 * @returns The first address that responds; `undefined` if none does.
 */
export async function checkTcp(
  list: CheckList,
  { port }: Target,
  addresses: readonly string[],
): Promise<string | undefined> {
  return await list.run<string>({
    id: "tcp",
    title: "TCP",
    late: {
      cause: `A firewall drops packets to port ${port}, or the machine is off`,
      cure: `Open TCP port ${port} in the firewalls and security groups in between`,
    },
  }, async (signal) => {
    const open: string[] = [];
    const lost: string[] = [];
    const times: Record<string, unknown> = {};
    const first = Promise.withResolvers<void>();
    const attempts = addresses.map(async (address) => {
      const startMs = list.runtime.monotonic();
      try {
        using _line = await Line.open({ address, port }, signal);
        times[address] = Math.round((list.runtime.monotonic() - startMs) * 10) / 10;
        open.push(address);
        first.resolve();
      } catch (error) {
        times[address] = (error as { code?: string }).code ?? String(error);
        lost.push(address);
      }
    });
    // A silent address must not hide one that responds.
    const all = Promise.all(attempts);
    await Promise.race([all, first.promise]);
    await settlesWithin(list.runtime, all, OTHERS_MS);
    const address = addresses.find((one) => open.includes(one));
    const facts = { port, addresses: times };
    if (address === undefined) {
      throw new Fault({
        detail: `port ${port} refuses connections at ${addresses.join(", ")}`,
        cause: `No server listens on port ${port}, or it listens on another address`,
        cure:
          "Start the server; check its port and its hostname (0.0.0.0 for all addresses), and published ports of containers",
        facts,
      });
    }
    const silent = addresses.filter((address) => !open.includes(address));
    const detail = addresses.filter((address) => open.includes(address))
      .map((address) => `${address} in ${times[address]} ms`).join(", ");
    if (silent.length === 0) return { state: "ok", detail, facts, value: address };
    return {
      state: "warning",
      detail: `${detail}; not ${silent.join(", ")}`,
      cause: `${
        silent.join(", ")
      } does not respond on port ${port}: clients may try it first, and lose time`,
      cure: "Let the server listen on all addresses of its name, or remove the record",
      facts,
      value: address,
    };
  });
}

/** Checks TLS and the certificate. */
export async function checkTls(list: CheckList, target: Target, address: string): Promise<void> {
  const { host, port } = target;
  await list.run({ id: "tls", title: "TLS" }, async (signal) => {
    const opened = await Line.open({ address, port, serverName: host }, signal).catch((error) => {
      signal.throwIfAborted();
      throw tlsFault(error, port);
    });
    using line = opened;
    const socket = line.socket as tls.TLSSocket;
    const peer = socket.getPeerCertificate(true);
    let chainLength = 1;
    for (let one = peer; one.issuerCertificate && one.issuerCertificate !== one; chainLength++) {
      one = one.issuerCertificate;
      if (chainLength > 10) break;
    }
    const distrust = socket.authorized ? undefined : String(socket.authorizationError);
    const judged = judgeCertificate(
      { raw: peer.raw, chainLength, distrust },
      host,
      list.runtime.now(),
    );
    const protocol = socket.getProtocol() ?? "TLS";
    return {
      ...judged,
      detail: `${protocol}, ${judged.detail}`,
      facts: { ...judged.facts, protocol, alpn: socket.alpnProtocol || "none" },
    };
  });
}

function tlsFault(error: Error & { code?: string }, port: number): Fault {
  const text = `${error.code ?? ""} ${error.message}`;
  const isPlain = /InvalidContentType|WRONG_VERSION|wrong version|corrupt message/i.test(text);
  return new Fault(
    isPlain
      ? {
        detail: `port ${port} does not speak TLS`,
        cause: "The server responds without TLS",
        cure: "Use http: or ws: in the URL, or configure TLS on the server or its proxy",
      }
      : {
        detail: `the handshake failed: ${error.message}`,
        cause:
          "The server aborted the handshake: no certificate for this name, or no common version",
        cure: "Check the certificate for this name, and that TLS 1.2 or 1.3 is enabled",
      },
  );
}

/**
 * Sends a request, and reads the response.
 *
 * @param target The server.
 * @param address Address to connect to.
 * @param options Path, headers and signal.
 * @returns The response.
 */
export async function ask(
  { url, host, port, isSecure, headers }: Target,
  address: string,
  { signal, path, fields = ["Connection: close"], more = [], method = "GET" }: {
    readonly signal: AbortSignal;
    readonly path?: string | undefined;
    readonly fields?: readonly string[] | undefined;
    readonly more?: Target["headers"] | undefined;
    readonly method?: string | undefined;
  },
): Promise<HttpExchange> {
  const serverName = isSecure ? host : undefined;
  using line = await Line.open({ address, port, serverName }, signal);
  endWith(line, signal);
  const asked = path === undefined ? url : new URL(path, url);
  const text = requestText(asked, fields, [...headers, ...more] as [string, string][]);
  line.write(text.replace(/^GET/, method));
  const head = await readHead(line);
  return { head, text: head.status === 101 ? "" : await bodyOf(line, head) };
}

/** Checks that an HTTP server responds, and compares its clock. */
export async function checkHttp(
  list: CheckList,
  target: Target,
  address: string,
): Promise<HttpExchange | undefined> {
  const { isSecure, url, port } = target;
  const exchange = await list.run<HttpExchange & { readonly atMs: number }>(
    { id: "http", title: "HTTP" },
    async (signal) => {
      const response = await ask(target, address, { signal }).catch((error) => {
        signal.throwIfAborted();
        throw httpFault(error, { isSecure, port });
      });
      const { status, statusText, headers } = response.head;
      const server = headers.get("server");
      const via = headers.get("via");
      const by = [server, via && `via ${via}`].filter(Boolean).join(", ");
      const facts = { status, server, via };
      const detail = `${status} ${statusText}`.trim() + (by && ` (${by})`);
      const value = { ...response, atMs: list.runtime.now() };
      const bad = gatewayFault(status);
      return bad === undefined
        ? { state: "ok", detail: `${detail} at ${url.pathname}`, facts, value }
        : { state: "failed", detail, ...bad, facts, value };
    },
  );
  if (exchange === undefined) return undefined;
  const date = Date.parse(exchange.head.headers.get("date") ?? "");
  if (Number.isNaN(date)) list.skip("clock", "Clock", "the response has no Date");
  else list.add("clock", "Clock", clockFinding(Math.round((date - exchange.atMs) / 1_000)));
  return exchange;
}

function clockFinding(skewS: number): Finding {
  const facts = { skewSeconds: skewS };
  // The header has whole seconds.
  if (Math.abs(skewS) <= MAX_SKEW_S) {
    const detail = Math.abs(skewS) <= 1
      ? "the clocks agree"
      : `${Math.abs(skewS)} s apart from the server's`;
    return { state: "ok", detail, facts };
  }
  return {
    state: "warning",
    detail: `the server's clock is ${Math.abs(skewS)} s ${skewS > 0 ? "ahead" : "behind"}`,
    cause:
      "Tokens and certificates include times: if the clocks differ, they seem expired or not yet valid",
    cure: "Synchronize the clocks of both machines with NTP",
    facts,
  };
}

function httpFault(
  error: Error & { code?: string },
  { isSecure, port }: { readonly isSecure: boolean; readonly port: number },
): Fault {
  const { message } = error;
  if (!isSecure && /begins with "\\u0015\\u0003/.test(message)) {
    return new Fault({
      detail: `port ${port} uses TLS, but the URL does not`,
      cause: "The server expects https: or wss:",
      cure: "Use https: in the URL",
    });
  }
  return new Fault({
    detail: message,
    cause: "The port is open, but the server does not speak HTTP/1.1",
    cure: "Check the port in the URL, and that the server or proxy there speaks HTTP/1.1",
  });
}

/** Cause and fix for the statuses with which a proxy reports that its server is down. */
export function gatewayFault(status: number): Pick<Finding, "cause" | "cure"> | undefined {
  if (status === 502) {
    return {
      cause: "A proxy responds, but cannot reach the server behind it",
      cure: "Start the server, and check its address and port in the configuration of the proxy",
    };
  }
  if (status === 504) {
    return {
      cause: "A proxy responds, but the server behind it does not respond",
      cure: "Check the load of the server, and the timeouts of the proxy",
    };
  }
  return undefined;
}

/** Requests `/healthz`, which a server with `metrics` serves. */
export async function checkHealth(
  list: CheckList,
  target: Target,
  address: string,
): Promise<void> {
  await list.run({ id: "health", title: "Health" }, async (signal) => {
    const { head, text } = await ask(target, address, { signal, path: "/healthz" });
    const health = healthOf(text);
    const facts = { status: head.status, health };
    if (head.status === 200 && health === "ok") return { state: "ok", detail: health, facts };
    if (head.status === 503 && health === "draining") {
      return {
        state: "failed",
        detail: "the server is draining",
        cause: "The server is about to stop, and accepts no new sessions",
        cure: "Wait for its restart, or connect to another node",
        facts,
      };
    }
    if (head.status === 503 && health !== undefined) {
      return {
        state: "warning",
        detail: `503, ${health}`,
        cause: "The server reports that it is full, or that a component is not ready",
        cure: "Check the metrics and logs of the server, and its Redis or NATS",
        facts,
      };
    }
    return {
      state: "skipped",
      detail: `/healthz responds with ${head.status}: there is no health check`,
    };
  });
}

/** Reads the state from a body such as `{"status":"ok"}` or `ok`. */
function healthOf(text: string): string | undefined {
  try {
    const { status } = JSON.parse(text) as { readonly status?: unknown };
    return typeof status === "string" ? status : undefined;
  } catch {
    return /^[a-z]{2,16}$/i.test(text) ? text.toLowerCase() : undefined;
  }
}
