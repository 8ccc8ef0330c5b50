/** Option values that several commands share: times, tokens, headers, hashes. */
import { type Arguments, type CommandOption, usageError } from "./command.ts";
import type { Context } from "./context.ts";
import type { Sha256Hash } from "../transport/certificate/certificate.ts";

/** Longest time, in milliseconds. */
const MAX_MS = 86_400_000;

/** The option `--header`, for {@linkcode headersOf}. */
export const HEADER_OPTION: CommandOption = {
  name: "header",
  short: "H",
  value: "LINE",
  isRepeatable: true,
  summary: 'Request header, as "Name: value"',
};

/** The option `--cert-hash`, for {@linkcode hashesOf}. */
export const CERT_HASH_OPTION: CommandOption = {
  name: "cert-hash",
  value: "HASH",
  isRepeatable: true,
  summary: "SHA-256 of a certificate that WebTransport trusts",
};

/**
 * Reads a time, such as `30s`, `500ms`, `2m` or `1h`. A bare number means seconds.
 *
 * @param name Name of the option.
 * @param fallbackMs The default, in milliseconds.
 * @returns The time, in milliseconds.
 * @throws {CommandError} With exit code 2, if the value is not a time of at most a day.
 */
export function duration(args: Arguments, name: string, fallbackMs: number): number {
  const text = args.value(name);
  if (text === undefined) return fallbackMs;
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text);
  const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
  const ms = match === null
    ? NaN
    : Number(match[1]) * units[(match[2] ?? "s") as keyof typeof units];
  if (ms >= 0 && ms <= MAX_MS) return Math.round(ms);
  throw usageError(
    `Cannot read --${name}: the time must be like 500ms, 30s or 2m, at most 24h, received "${text}"`,
  );
}

/**
 * Reads the token from the option `--token`. Without the option, reads it from the environment
 * variable `SKEIN_TOKEN`, which other users of the machine cannot see in the process list.
 *
 * @param env Reads the environment.
 * @returns The token; `undefined` if there is none.
 */
export function tokenOf(args: Arguments, env: Context["env"]): string | undefined {
  return args.value("token") ?? (env("SKEIN_TOKEN") || undefined);
}

/**
 * Reads the request headers from the option `--header`.
 *
 * @throws {CommandError} With exit code 2, if a value is not a header.
 */
export function headersOf(args: Arguments): (readonly [name: string, value: string])[] {
  return args.values("header").map((line) => {
    const at = line.indexOf(":");
    try {
      const [name, value] = [line.slice(0, at).trim(), line.slice(at + 1).trim()];
      if (at > 0) return [...new Headers([[name, value]])][0]!;
    } catch {
      // All errors have the same text.
    }
    throw usageError(`Cannot read --header: the form is "Name: value", received "${line}"`);
  });
}

/**
 * Reads the hashes from the option `--cert-hash`. Each is in hexadecimal, with or without colons,
 * or in base64.
 *
 * @returns The hashes; empty if the option is not given.
 * @throws {CommandError} With exit code 2, if a value is not a SHA-256 hash.
 */
export function hashesOf(args: Arguments): Sha256Hash[] {
  return args.values("cert-hash").map((text) => ({ algorithm: "sha-256", value: hashOf(text) }));
}

function hashOf(text: string): Uint8Array<ArrayBuffer> {
  const plain = text.replaceAll(":", "").toLowerCase();
  if (/^[0-9a-f]{64}$/.test(plain)) return Uint8Array.fromHex(plain);
  try {
    const bytes = Uint8Array.fromBase64(text);
    if (bytes.length === 32) return bytes;
  } catch {
    // All errors have the same text.
  }
  throw usageError(
    `Cannot read --cert-hash: the hash must be 32 bytes of SHA-256 in hexadecimal or base64, received "${text}"`,
  );
}
