/**
 * From the name of a server to a QUIC connection: every address of the name is tried (RFC 8305).
 *
 * @module
 */
import type * as dns from "node:dns";
import { TimeoutError } from "../../errors.ts";
import { builtin } from "../certificate/builtins.ts";
import { ClientEndpoints } from "./endpoints.ts";
import { type ConnectQuicOptions, isPeerAnswer } from "./runtime.ts";
import { within } from "../within.ts";

/** Time between the attempts at two addresses, in milliseconds (RFC 8305 section 5). */
export const ATTEMPT_DELAY_MS = 250;

/**
 * Time between the attempts at two addresses of this machine, in milliseconds. It answers within a few,
 * and a server in development often listens on one family of addresses only.
 */
export const LOOPBACK_DELAY_MS = 50;

/**
 * Time left to silent addresses once all are tried and one of them refused, in milliseconds: the caller
 * learns of a refusal soon after it came, not at the deadline.
 */
export const AFTER_REFUSAL_MS = 500;

/**
 * Addresses of one name that are tried. The last of them has its turn after 1.75 s, well within the
 * deadline of 10 s, and an attempt takes a UDP socket.
 */
export const MAX_ADDRESSES = 8;

/** Names whose last address is remembered: some for each service that a process talks to. */
const MAX_REMEMBERED = 64;

/** The addresses of `localhost` and of the names below it, whatever a resolver says (RFC 6761 section 6.3). */
const LOOPBACKS = ["::1", "127.0.0.1"];

const LOCALHOST = /(?:^|\.)localhost\.?$/i;
const IPV4 = /^\d{1,3}(?:\.\d{1,3}){3}$/;

/** Options for {@linkcode raceAddresses}. */
export interface AddressRaceOptions<T> {
  /** Makes one attempt. It MUST leave nothing behind when it fails, or when the signal aborts. */
  readonly attempt: (address: string, signal: AbortSignal) => Promise<T>;
  /** Ends the result of an attempt that came after another one. */
  readonly discard: (late: T) => void;
  /** Time between two attempts, in milliseconds. */
  readonly delayMs: number;
  /** Gives up. */
  readonly signal: AbortSignal;
  /** Called with each address as its attempt begins. */
  readonly onAttempt?: (address: string) => void;
  /** Called with each failure. */
  readonly onFailure?: (address: string, cause: unknown) => void;
}

/**
 * Tries addresses one after the other, without waiting for the end of an attempt that takes long.
 *
 * - The first to succeed is taken, and all other attempts are ended.
 * - The next attempt begins after `delayMs`, or at once when one fails.
 * - It fails when every attempt failed; where a peer refused, those that stay silent have
 *   {@linkcode AFTER_REFUSAL_MS} left.
 *
 * @typeParam T Result of an attempt.
 * @param addresses The addresses in their order, at least one.
 * @param options See {@linkcode AddressRaceOptions}.
 * @returns The result of the attempt that succeeded first.
 * @throws {AggregateError} If it failed; the causes are in the order in which they came.
 * @throws {unknown} The reason of the signal, if that gave up.
 */
export function raceAddresses<T>(
  addresses: readonly string[],
  { attempt, discard, delayMs, signal, onAttempt, onFailure }: AddressRaceOptions<T>,
): Promise<T> {
  const ending = new AbortController();
  const causes: unknown[] = [];
  return new Promise((resolve, reject) => {
    let started = 0;
    let isRefused = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const end = () => {
      clearTimeout(timer);
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
      clearTimeout(timer);
      if (started < addresses.length) timer = setTimeout(start, delayMs);
      else if (isRefused) timer = setTimeout(failAll, AFTER_REFUSAL_MS);
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
        const wasRefused = isRefused;
        isRefused ||= isPeerAnswer(cause);
        if (causes.length === addresses.length) failAll();
        else if (started < addresses.length) start();
        else if (!wasRefused) wait();
      });
      wait();
    };
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort);
    start();
  });
}

/**
 * Puts addresses into the order in which they are tried: the families by turns, beginning with the
 * resolver's first (RFC 8305 section 4).
 *
 * @param addresses The addresses, as the resolver sorted them.
 * @param preferred The address that comes first, if it is among them.
 * @returns At most {@linkcode MAX_ADDRESSES}, each once.
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

/** Options for {@linkcode QuicDial}: those of the runtime, without what the dial finds itself. */
export type QuicDialOptions = Omit<ConnectQuicOptions, "endpoint" | "serverName">;

/** One dial of a server, by name or by address. The certificate is the one of the name. */
export class QuicDial {
  // State of the module, as the resolver's own cache is.
  static readonly #answered = new Map<string, string>();

  readonly #options: QuicDialOptions;
  readonly #ending = new AbortController();
  /** Each address that was tried, with why it failed. Bounded by {@linkcode MAX_ADDRESSES}. */
  readonly #tried = new Map<string, string>();
  #conn: Deno.QuicConn | undefined;

  /**
   * Prepares to dial.
   *
   * @param options See {@linkcode QuicDialOptions}.
   */
  constructor(options: QuicDialOptions) {
    this.#options = options;
  }

  /** The addresses of the name that were tried in vain, with why; empty if there is but one. */
  get outcome(): string {
    if (this.#conn !== undefined || this.#tried.size < 2) return "";
    return Array.from(this.#tried, ([address, why]) => `${bracketed(address)}: ${why}`).join("; ");
  }

  /**
   * Dials. The UDP socket is given back when the connection ends.
   *
   * @returns The connection.
   * @throws {AggregateError} If every address of the name failed; the message names each.
   * @throws {Error} If the only address failed, as the runtime says it, or the name has none.
   */
  async connect(): Promise<Deno.QuicConn> {
    const { hostname, port } = this.#options;
    const { signal } = this.#ending;
    const key = `${hostname} ${port}`;
    const isLiteral = isAddress(hostname);
    const found = isLiteral
      ? [hostname]
      : await within(permittedAddresses(hostname, port), { signal });
    const addresses = interleave(found, QuicDial.#answered.get(key));
    try {
      this.#conn = await raceAddresses(addresses, {
        attempt: (address, signal) => this.#attempt(address, signal),
        discard: (late) => late.close({ closeCode: 0, reason: "" }),
        delayMs: addresses.every(isLoopback) ? LOOPBACK_DELAY_MS : ATTEMPT_DELAY_MS,
        signal,
        onAttempt: (address) => this.#tried.set(address, "no answer"),
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

  /** Gives up; a connection that was made is closed. */
  abort(): void {
    this.#ending.abort();
    this.#conn?.close({ closeCode: 0, reason: "" });
  }

  /**
   * Adds the addresses that were tried to the error of a dial that took too long.
   *
   * @param error An error; those of other kinds stay as they are.
   * @returns The error.
   */
  explain(error: unknown): unknown {
    const { outcome } = this;
    if (!(error instanceof TimeoutError) || outcome === "") return error;
    return new TimeoutError(`${error.message}: ${outcome}`, error.timeoutMs);
  }

  async #attempt(address: string, signal: AbortSignal): Promise<Deno.QuicConn> {
    const { hostname, port } = this.#options;
    const endpoint = ClientEndpoints.take();
    // Nothing else ends a handshake that is under way.
    const close = () => endpoint.close({ closeCode: 0, reason: "" });
    signal.addEventListener("abort", close);
    try {
      const conn = await Deno.connectQuic({
        ...this.#options,
        hostname: address,
        ...(address === hostname ? {} : { serverName: hostname }),
        endpoint,
      });
      signal.throwIfAborted(); // Its endpoint is closed already.
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
    this.#answered.delete(key);
    this.#answered.set(key, address);
    if (this.#answered.size <= MAX_REMEMBERED) return;
    for (const oldest of this.#answered.keys()) return void this.#answered.delete(oldest);
  }
}

/**
 * Finds the addresses of a name that this process may connect to; the name itself where it may not
 * resolve it, or not connect to each address. The runtime finds one address of a name then.
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

/** Asks the system, which knows its hosts file. */
async function resolve(hostname: string, port: number): Promise<readonly string[]> {
  // Deno has this permission checked for the port alone, if it is told one.
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

function textOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
