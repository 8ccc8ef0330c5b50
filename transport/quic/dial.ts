/** Dials a server name over QUIC, and tries the addresses of the name (RFC 8305). */
import type * as dns from "node:dns";
import { TimeoutError } from "../../errors.ts";
import { builtin } from "../../base/builtins.ts";
import { isPeerResponse } from "../deno_errors.ts";
import { textOf } from "../../base/error_text.ts";
import { type ConnectQuicOptions, permittedHost } from "./deno_quic.ts";
import { within } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";

/**
 * The maximum number of idle sockets in the pool. If the pool is full, a returned socket is closed.
 */
const MAX_IDLE_ENDPOINTS = 8;

/**
 * A pool of client endpoints, each of which serves one connection at a time. Their sockets are
 * reused: the runtime frees a socket only when it collects garbage, so frequent dials would
 * otherwise exhaust the file descriptors.
 */
class ClientEndpoints {
  // This is module state, because the runtime's sockets are also global.
  static readonly #idle: Deno.QuicEndpoint[] = [];

  /**
   * Takes an endpoint from the pool, or creates one if the pool is empty.
   *
   * @returns An endpoint that has no connection.
   */
  static take(): Deno.QuicEndpoint {
    return this.#idle.pop() ?? newEndpoint();
  }

  /** Returns an endpoint to the pool, once its connection has ended. */
  static giveBack(endpoint: Deno.QuicEndpoint): void {
    if (this.#idle.length < MAX_IDLE_ENDPOINTS) this.#idle.push(endpoint);
    else endpoint.close({ closeCode: 0, reason: "" });
  }

  /** Closes all endpoints of the pool. */
  static clear(): void {
    for (const endpoint of this.#idle.splice(0)) endpoint.close({ closeCode: 0, reason: "" });
  }
}

/**
 * Closes the idle client sockets. They can no longer be used after the runtime's QUIC has changed.
 */
export function closeIdleEndpoints(): void {
  ClientEndpoints.clear();
}

function newEndpoint(): Deno.QuicEndpoint {
  // With this address, Deno asks the user for one permission instead of two.
  const hostname = permittedHost();
  try {
    return new Deno.QuicEndpoint({ hostname: hostname ?? "::", port: 0 });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return new Deno.QuicEndpoint({ hostname: "0.0.0.0", port: 0 });
  }
}

/** The delay between attempts to connect to two addresses, in milliseconds (RFC 8305 section 5). */
export const ATTEMPT_DELAY_MS = 250;

/**
 * The delay between attempts to connect to two loopback addresses, in milliseconds. A loopback
 * address responds within a few milliseconds, and development servers often listen on one address
 * family only.
 */
export const LOOPBACK_DELAY_MS = 50;

/**
 * How long to wait for addresses that have not responded, once the last attempt has started and one
 * address has rejected the connection, in milliseconds. The caller thus receives the rejection
 * soon, and not only after the timeout.
 */
export const AFTER_REJECTION_MS = 500;

/**
 * The maximum number of addresses tried per name. The last attempt starts after 1.75 s, well before
 * the timeout of 10 s. Each attempt uses a UDP socket.
 */
export const MAX_ADDRESSES = 8;

/**
 * The maximum number of names whose last working address is remembered. A process needs a few for
 * each service that it uses.
 */
const MAX_REMEMBERED = 64;

/**
 * The addresses of `localhost` and of names below it, whatever the resolver returns (RFC 6761
 * section 6.3).
 */
const LOOPBACKS = ["::1", "127.0.0.1"];

const LOCALHOST = /(?:^|\.)localhost\.?$/i;
const IPV4 = /^\d{1,3}(?:\.\d{1,3}){3}$/;

/** The options for {@linkcode raceAddresses}. */
export interface AddressRaceOptions<T> {
  readonly runtime: Runtime;
  /** Makes one attempt. If it fails or is aborted, it MUST release all resources. */
  readonly attempt: (address: string, signal: AbortSignal) => Promise<T>;
  /** Releases the result of an attempt that lost the race. */
  readonly discard: (late: T) => void;
  /** The delay between two attempts, in milliseconds. */
  readonly delayMs: number;
  readonly signal: AbortSignal;
  /** Called with each address when the attempt starts. */
  readonly onAttempt?: ((address: string) => void) | undefined;
  /** Called with the address and the cause when an attempt fails. */
  readonly onFailure?: ((address: string, cause: unknown) => void) | undefined;
}

/**
 * Races attempts to connect to several addresses, with a delay between their starts.
 *
 * - The first attempt that succeeds wins, and all others are aborted.
 * - The next attempt starts after `delayMs`, or as soon as an attempt fails.
 * - The race fails when every attempt has failed. Once a peer has rejected the connection,
 *   addresses that have not responded have {@linkcode AFTER_REJECTION_MS} left.
 *
 * @param addresses One or more addresses, in order of preference.
 * @returns The result of the first successful attempt.
 * @throws {AggregateError} If the race failed. The causes are in the order in which they occurred.
 * @throws {unknown} The signal's reason, if the signal was aborted.
 */
export function raceAddresses<T>(
  addresses: readonly string[],
  { runtime, attempt, discard, delayMs, signal, onAttempt, onFailure }: AddressRaceOptions<T>,
): Promise<T> {
  const ending = new AbortController();
  const causes: unknown[] = [];
  return new Promise((resolve, reject) => {
    let started = 0;
    let isRejected = false;
    let timer: Timer | undefined;
    const end = () => {
      runtime.clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      ending.abort();
    };
    const fail = (reason: unknown) => {
      end();
      reject(reason);
    };
    const failAll = () => fail(new AggregateError(causes, "Every address failed"));
    const onAbort = () => fail(signal.reason);
    const wait = () => {
      runtime.clearTimeout(timer);
      if (started < addresses.length) timer = runtime.setTimeout(start, delayMs);
      else if (isRejected) timer = runtime.setTimeout(failAll, AFTER_REJECTION_MS);
    };
    const succeed = (value: T) => {
      if (ending.signal.aborted) return discard(value);
      end();
      resolve(value);
    };
    const start = () => {
      const address = addresses[started++]!;
      onAttempt?.(address);
      attempt(address, ending.signal).then(succeed, (cause) => {
        if (ending.signal.aborted) return;
        onFailure?.(address, cause);
        causes.push(cause);
        const wasRejected = isRejected;
        isRejected ||= isPeerResponse(cause);
        if (causes.length === addresses.length) failAll();
        else if (started < addresses.length) start();
        else if (!wasRejected) wait();
      });
      wait();
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort);
    start();
  });
}

/**
 * Sorts addresses for the attempts. The address families alternate, starting with the family of the
 * resolver's first address (RFC 8305 section 4).
 *
 * @param addresses The addresses in the resolver's order.
 * @param preferred The address to put first, if present.
 * @returns At most {@linkcode MAX_ADDRESSES} distinct addresses.
 */
export function interleave(addresses: readonly string[], preferred?: string): string[] {
  const unique = [...new Set(addresses)];
  const isSame = (address: string) => address.includes(":") === unique[0]!.includes(":");
  const same = unique.filter(isSame);
  const other = unique.filter((address) => !isSame(address));
  const turns = unique.flatMap((_, i) => [...same.slice(i, i + 1), ...other.slice(i, i + 1)]);
  const first = turns.filter((address) => address === preferred);
  return [...new Set([...first, ...turns])].slice(0, MAX_ADDRESSES);
}

/**
 * The options for {@linkcode QuicDial}. They are the runtime's options, except those that the dial
 * sets.
 */
export type QuicDialOptions = Omit<ConnectQuicOptions, "endpoint" | "serverName">;

/**
 * One dial of a server, whose name or address is given. The certificate is checked against the
 * name.
 */
export class QuicDial {
  // This is module state, like a resolver's cache.
  static readonly #responded = new Map<string, string>();

  readonly #runtime: Runtime;
  readonly #options: QuicDialOptions;
  readonly #ending = new AbortController();
  /**
   * The addresses that failed or are pending, with the reasons. There are at most {@linkcode
   * MAX_ADDRESSES}.
   */
  readonly #tried = new Map<string, string>();
  #conn: Deno.QuicConn | undefined;

  constructor(runtime: Runtime, options: QuicDialOptions) {
    this.#runtime = runtime;
    this.#options = options;
  }

  /**
   * The addresses that were tried without success, with the reasons. The text is empty if there is
   * only one address.
   */
  get outcome(): string {
    if (this.#conn !== undefined || this.#tried.size < 2) return "";
    return Array.from(this.#tried, ([address, why]) => `${bracketed(address)}: ${why}`).join("; ");
  }

  /**
   * Dials the server. When the connection ends, its UDP socket is returned to the pool.
   *
   * @throws {AggregateError} If every address of the name failed. The message lists each address.
   * @throws {Error} The runtime's error, if the only address failed, or if the name has no address.
   */
  async connect(): Promise<Deno.QuicConn> {
    const { hostname, port } = this.#options;
    const { signal } = this.#ending;
    const key = `${hostname} ${port}`;
    const isLiteral = isAddress(hostname);
    const found = isLiteral
      ? [hostname]
      : await within(this.#runtime, permittedAddresses(hostname, port), { signal });
    const addresses = interleave(found, QuicDial.#responded.get(key));
    try {
      this.#conn = await raceAddresses(addresses, {
        runtime: this.#runtime,
        attempt: (address, signal) => this.#attempt(address, signal),
        discard: (late) => late.close({ closeCode: 0, reason: "" }),
        delayMs: addresses.every(isLoopback) ? LOOPBACK_DELAY_MS : ATTEMPT_DELAY_MS,
        signal,
        onAttempt: (address) => this.#tried.set(address, "no response"),
        onFailure: (address, cause) => this.#tried.set(address, textOf(cause)),
      });
    } catch (error) {
      if (!(error instanceof AggregateError)) throw error;
      const { errors } = error;
      throw addresses.length === 1 ? errors[0] : new AggregateError(errors, this.outcome);
    }
    if (signal.aborted) this.#conn.close({ closeCode: 0, reason: "" });
    return this.#conn;
  }

  /** Cancels the dial. If the connection is already established, it is closed. */
  abort(): void {
    this.#ending.abort();
    this.#conn?.close({ closeCode: 0, reason: "" });
  }

  /**
   * Adds the addresses that were tried to the error of a dial that timed out.
   *
   * @param error An error; if it is not a timeout, it is returned unchanged.
   */
  explain(error: unknown): unknown {
    const { outcome } = this;
    if (!(error instanceof TimeoutError) || outcome === "") return error;
    return new TimeoutError(`${error.message}: ${outcome}`, error.timeoutMs);
  }

  async #attempt(address: string, signal: AbortSignal): Promise<Deno.QuicConn> {
    const { hostname, port } = this.#options;
    const endpoint = ClientEndpoints.take();
    // A pending handshake can only be ended by closing the endpoint.
    const close = () => endpoint.close({ closeCode: 0, reason: "" });
    signal.addEventListener("abort", close);
    try {
      const conn = await Deno.connectQuic({
        ...this.#options,
        hostname: address,
        serverName: address === hostname ? undefined : hostname,
        endpoint,
      });
      signal.throwIfAborted(); // The endpoint is already closed.
      const giveBack = () => ClientEndpoints.giveBack(endpoint);
      conn.closed.then(giveBack, giveBack);
      QuicDial.#remember(`${hostname} ${port}`, address);
      return conn;
    } catch (cause) {
      close();
      throw cause;
    } finally {
      signal.removeEventListener("abort", close);
    }
  }

  static #remember(key: string, address: string): void {
    this.#responded.delete(key);
    this.#responded.set(key, address);
    if (this.#responded.size <= MAX_REMEMBERED) return;
    for (const oldest of this.#responded.keys()) return void this.#responded.delete(oldest);
  }
}

/**
 * Resolves a name to the addresses that this process may connect to. If the process has no
 * permission to resolve the name, or to connect to each address, the name itself is returned, and
 * the runtime chooses an address.
 */
async function permittedAddresses(hostname: string, port: number): Promise<readonly string[]> {
  const isGranted = (host: string) =>
    Deno.permissions.querySync({ name: "net", host: `${bracketed(host)}:${port}` }).state ===
      "granted";
  if (!isGranted(hostname)) return [hostname];
  const isLocal = LOCALHOST.test(hostname);
  const resolved = await resolve(hostname, port).catch((error) => {
    if (isLocal) return [];
    throw error;
  });
  const addresses = [...resolved, ...(isLocal ? LOOPBACKS : [])];
  return addresses.length > 0 && addresses.every(isGranted) ? addresses : [hostname];
}

/** Resolves a name with the system resolver, which reads the hosts file. */
async function resolve(hostname: string, port: number): Promise<readonly string[]> {
  // If a port is given, Deno checks the permission for this port only.
  const options: dns.LookupAllOptions & { readonly port: number } = {
    all: true,
    verbatim: true,
    port,
  };
  const found = await builtin("node:dns").promises.lookup(hostname, options);
  return found.map(({ address }) => address);
}

function isAddress(hostname: string): boolean {
  return hostname.includes(":") || IPV4.test(hostname);
}

function isLoopback(address: string): boolean {
  return address === "::1" || IPV4.test(address) && address.startsWith("127.");
}

function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}
