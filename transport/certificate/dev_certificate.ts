/** Creates and renews a development certificate, which browsers trust by its hash. */
import { describe } from "../../base/error_text.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, integer, RUNTIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime, type Timer } from "../../base/runtime.ts";
import { builtin } from "../../base/builtins.ts";
import { selfSign, subjectAltName } from "./x509.ts";
import { hashOf } from "./certificate.ts";
import type { CertificateHash } from "../webtransport.ts";

/** The options for {@linkcode devCertificate}. */
export interface DevCertificateOptions {
  /**
   * The DNS names and IP addresses of the server, at most 100.
   *
   * @default {["localhost", "127.0.0.1", "::1"]}
   */
  readonly names?: readonly string[] | undefined;
  /**
   * The folder of the certificate; `null` keeps the certificate only in memory. The default is the
   * user's cache folder: `$XDG_CACHE_HOME/skein` or `~/.cache/skein`, `~/Library/Caches/skein` or
   * `%LOCALAPPDATA%\skein`, depending on the platform.
   */
  readonly cacheFolder?: string | URL | null | undefined;
  /**
   * How long the certificate is valid from now, in days, 1 to 13. The validity starts an hour in
   * the past, for clients whose clock is slow.
   *
   * @default {13}
   */
  readonly days?: number | undefined;
  /**
   * Creates a new certificate, even if the stored one is still valid.
   *
   * @default {false}
   */
  readonly renew?: boolean | undefined;
  /** The current time. The default is the time of the clock. */
  readonly now?: Date | undefined;
  /**
   * The clocks, timers and randomness of this node.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** A certificate for development. */
export interface DevCertificate {
  /** The certificate in PEM. */
  readonly cert: string;
  /** The private key, PKCS#8 in PEM. */
  readonly key: string;
  /** The DNS names and IP addresses of the server. */
  readonly names: readonly string[];
  /** The time from which the certificate is valid. */
  readonly notBefore: Date;
  /** The time until which the certificate is valid. */
  readonly notAfter: Date;
  /**
   * The time from which {@linkcode devCertificate} creates a new certificate: two days before this
   * one expires, or when a quarter of its days are left, whichever is later.
   */
  readonly renewAt: Date;
  /** The hashes for a client's `serverCertificateHashes` option. */
  readonly hashes: readonly (CertificateHash & { readonly value: Uint8Array<ArrayBuffer> })[];
  /** The file that contains the certificate and key, or `undefined` if they are only in memory. */
  readonly file: string | undefined;
}

/** The options with all defaults filled in. */
interface CertificateSpec {
  readonly names: readonly string[];
  readonly days: number;
  readonly now: number;
  readonly runtime: Runtime;
}

const DEFAULT_NAMES: readonly string[] = ["localhost", "127.0.0.1", "::1"];
const MAX_NAMES = 100;

/** The maximum number of days. W3C allows 14 in total, of which an hour lies in the past. */
const MAX_DAYS = 13;
const DAY_MS = 86_400_000;
const LATE_CLOCK_MS = 3_600_000;

/** How many days before it expires a certificate is renewed. */
const RENEW_DAYS = 2;

const OPTIONS: OptionKinds<DevCertificateOptions> = {
  cacheFolder: "string or object or null",
  days: integer(1, MAX_DAYS),
  names: "array",
  now: "object",
  renew: "boolean",
  runtime: RUNTIME,
};

/**
 * Returns the stored development certificate. Creates a new one if none is stored, or if the stored
 * one expires soon or has other names.
 *
 * A browser can trust the certificate by its hash, without an authority, because the key is ECDSA
 * and the validity is at most 14 days. Only the user can read the stored file. Use the certificate
 * only for development, because only clients that know the hash trust it.
 *
 * This function never prompts. Without permission to read the environment, or to read and write the
 * folder, the certificate is kept only in memory.
 *
 * @see {@link https://www.w3.org/TR/webtransport/#custom-certificate-requirements | WebTransport}
 *
 * @param options See {@linkcode DevCertificateOptions}.
 * @returns The certificate, the key, and the hash by which a client trusts the certificate.
 * @throws {TypeError} If a name is neither a DNS name nor an IP address, or if an option has the
 *   wrong type.
 * @throws {RangeError} If there are no names or too many, or if `days` is not an integer from 1 to
 * 13.
 *
 * @example Usage
 * ```ts
 * import { devCertificate } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { hashes, notAfter } = devCertificate({ cacheFolder: null });
 * assertEquals(hashes[0]?.value.length, 32);
 * assertEquals(notAfter.getTime() > Date.now(), true);
 * ```
 */
export function devCertificate(options: DevCertificateOptions = {}): DevCertificate {
  checkOptions("create certificate", options, OPTIONS);
  const wanted = checked(options);
  const { cacheFolder = userCacheFolder(), renew = false } = options;
  const file = cacheFolder == null ? undefined : new CertificateFile(cacheFolder);
  if (file === undefined) return made(wanted).certificate;

  const kept = () => readStored(file.read(), wanted, file.path);
  const found = renew ? undefined : kept();
  if (found !== undefined) return found;

  const { certificate, text } = made(wanted);
  let theirs: DevCertificate | undefined;
  // If several processes start at the same time, the first one stores its certificate, and the
  // others use it.
  const isKept = file.write(
    text,
    wanted.runtime.randomUUID(),
    () => !renew && (theirs = kept()) !== undefined,
  );
  return theirs ?? { ...certificate, file: isKept ? file.path : undefined };
}

function checked(options: DevCertificateOptions): CertificateSpec {
  const { names = DEFAULT_NAMES, days = MAX_DAYS, cacheFolder } = options;
  const { runtime = platformRuntime(), now = new Date(runtime.now()) } = options;
  const fail = (rule: string) => `Cannot create certificate: ${rule}`;
  if (!Array.isArray(names) || names.some((name) => typeof name !== "string")) {
    throw new TypeError(fail(`names must be an array of strings, received ${describe(names)}`));
  }
  if (names.length === 0 || names.length > MAX_NAMES) {
    throw new RangeError(fail(`names must be 1 to ${MAX_NAMES}, received ${names.length}`));
  }
  const isFolder = cacheFolder == null || typeof cacheFolder === "string" && cacheFolder !== "" ||
    cacheFolder instanceof URL && cacheFolder.protocol === "file:";
  if (!isFolder) {
    throw new TypeError(fail(`cacheFolder must be a path or file URL, received ${cacheFolder}`));
  }
  if (!(now instanceof Date) || Number.isNaN(now.getTime())) {
    throw new TypeError(fail(`now must be a valid Date, received ${now}`));
  }
  // Invalid names throw here, before any file is read.
  subjectAltName(names);
  return { runtime, names, days, now: now.getTime() };
}

function made(
  { names, days, now }: CertificateSpec,
): { readonly certificate: DevCertificate; readonly text: string } {
  // A certificate contains times in whole seconds.
  const second = Math.floor(now / 1_000) * 1_000;
  const notBefore = new Date(second - LATE_CLOCK_MS);
  const notAfter = new Date(second + days * DAY_MS);
  const { der, key } = selfSign({ names, notBefore, notAfter });
  const cert = pem(der);
  return {
    certificate: described({ cert, key, names, notBefore, notAfter, der, file: undefined }),
    text: cert + key,
  };
}

/**
 * Reads a stored certificate. Returns `undefined` if it is broken, about to expire, or created for
 * other options.
 */
function readStored(
  text: string | undefined,
  { names, days, now }: CertificateSpec,
  file: string,
): DevCertificate | undefined {
  const [cert, key] = [block(text, "CERTIFICATE"), block(text, "PRIVATE KEY")];
  if (cert === undefined || key === undefined) return undefined;
  try {
    const { createPrivateKey, X509Certificate } = builtin("node:crypto");
    const certificate = new X509Certificate(cert);
    const der = new Uint8Array(certificate.raw);
    if (certificate.ca || !contains(der, subjectAltName(names))) return undefined;
    if (!certificate.checkPrivateKey(createPrivateKey(key))) return undefined;
    const notBefore = new Date(certificate.validFrom);
    const notAfter = new Date(certificate.validTo);
    const found = described({ cert, key, names, notBefore, notAfter, der, file });
    const isTooLong = notAfter.getTime() - now > days * DAY_MS;
    const isGood = notBefore.getTime() <= now && now < found.renewAt.getTime() && !isTooLong;
    return isGood ? found : undefined;
  } catch {
    return undefined;
  }
}

function described(
  { der, ...certificate }: Omit<DevCertificate, "hashes" | "renewAt"> & {
    readonly der: Uint8Array;
  },
): DevCertificate {
  const { notBefore, notAfter } = certificate;
  const lastsMs = notAfter.getTime() - notBefore.getTime() - LATE_CLOCK_MS;
  const renewAt = new Date(notAfter.getTime() - Math.min(RENEW_DAYS * DAY_MS, lastsMs / 4));
  return { ...certificate, renewAt, hashes: [hashOf(der)] };
}

function pem(der: Uint8Array): string {
  const lines = der.toBase64().match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}

function block(text: string | undefined, label: string): string | undefined {
  const found = text?.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----`));
  return found == null ? undefined : `${found[0]}\n`;
}

function contains(bytes: Uint8Array, part: Uint8Array): boolean {
  return bytes.toHex().includes(part.toHex());
}

/**
 * The interval between checks of the certificate's age, in milliseconds. Frequent checks are needed
 * because timers stop while a machine sleeps.
 */
const CHECK_INTERVAL_MS = 3_600_000;

/** Keeps a development certificate valid until disposal. */
export class DevRenewal implements Disposable {
  readonly #runtime: Runtime;
  readonly #options: DevCertificateOptions;
  readonly #replace: (certificate: DevCertificate) => void;
  #timer: Timer | undefined;

  readonly first: DevCertificate;

  /**
   * Creates the first certificate, and starts to renew it.
   *
   * @param replace Called with each new certificate after the first.
   */
  constructor(options: DevCertificateOptions, replace: (certificate: DevCertificate) => void) {
    const { runtime = platformRuntime() } = options;
    this.#runtime = runtime;
    this.#options = { ...options, runtime };
    this.#replace = replace;
    this.first = devCertificate(this.#options);
    this.#renewAt(this.first.renewAt);
  }

  [Symbol.dispose](): void {
    this.#runtime.clearTimeout(this.#timer);
  }

  #renewAt(time: Date): void {
    const waitMs = Math.min(Math.max(time.getTime() - this.#runtime.now(), 0), CHECK_INTERVAL_MS);
    this.#timer = this.#runtime.setTimeout(() => this.#renewAt(this.#renewed(time)), waitMs);
    Deno.unrefTimer(this.#timer);
  }

  /** Renews the certificate if it is due, and returns the time of the next renewal. */
  #renewed(time: Date): Date {
    if (this.#runtime.now() < time.getTime()) return time;
    try {
      const certificate = devCertificate(this.#options);
      this.#replace(certificate);
      return certificate.renewAt;
    } catch (error) {
      // There is no caller who could receive the error.
      // deno-lint-ignore no-console
      console.error("The development certificate was not renewed:", error);
      return new Date(this.#runtime.now() + CHECK_INTERVAL_MS);
    }
  }
}

/** The name of the file in the cache folder. */
const FILE_NAME = "dev_certificate.pem";

/** The longest file that is read; a certificate with a key is shorter. */
const MAX_FILE_BYTES = 64 * 1024;

/**
 * Returns the user's cache folder for Skein, according to the platform's convention.
 *
 * @returns The path, or `undefined` if the variable is not set or the environment may not be read.
 */
function userCacheFolder(): string | undefined {
  switch (Deno.build.os) {
    case "windows":
      return below(variable("LOCALAPPDATA"), "skein");
    case "darwin":
      return below(variable("HOME"), "Library", "Caches", "skein");
    default:
      return below(variable("XDG_CACHE_HOME"), "skein") ??
        below(variable("HOME"), ".cache", "skein");
  }
}

/**
 * A PEM file that only one user can read. It contains both the certificate and the key, so that a
 * reader never gets a new certificate with an old key.
 *
 * No method prompts for a permission or throws. A certificate that cannot be stored is created
 * again the next time.
 */
class CertificateFile {
  readonly path: string;
  readonly #folder: string;

  /**
   * Sets the path of the file, which need not exist.
   *
   * @param folder The folder of the file, which need not exist either.
   */
  constructor(folder: string | URL) {
    this.#folder = folder instanceof URL ? builtin("node:url").fileURLToPath(folder) : folder;
    this.path = builtin("node:path").join(this.#folder, FILE_NAME);
  }

  /**
   * Reads the file. Returns `undefined` if there is no file, or if other users may read or write
   * it.
   */
  read(): string | undefined {
    if (!this.#may("read")) return undefined;
    try {
      const { isFile, size, mode } = Deno.lstatSync(this.path);
      const isOpen = mode !== null && Deno.build.os !== "windows" && (mode & 0o077) !== 0;
      return !isFile || isOpen || size > MAX_FILE_BYTES
        ? undefined
        : Deno.readTextFileSync(this.path);
    } catch {
      return undefined;
    }
  }

  /**
   * Replaces the whole file atomically.
   *
   * @param id The unique part of the temporary file's name.
   * @param isTaken Called last. Returns whether another process has stored a valid certificate in
   * the meantime.
   * @returns `true` if the text was stored.
   */
  write(text: string, id: string, isTaken: () => boolean): boolean {
    if (!this.#may("read") || !this.#may("write")) return false;
    const temporary = `${this.path}.${id}.tmp`;
    let isKept = false;
    try {
      Deno.mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
      Deno.writeTextFileSync(temporary, text, { createNew: true, mode: 0o600 });
      if (isTaken()) return false;
      Deno.renameSync(temporary, this.path);
      isKept = true;
    } catch {
      // The disk is full, or the folder belongs to another user.
    } finally {
      if (!isKept) remove(temporary);
    }
    return isKept;
  }

  #may(name: "read" | "write"): boolean {
    return Deno.permissions.querySync({ name, path: this.#folder }).state === "granted";
  }
}

function variable(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) : undefined;
}

function below(folder: string | undefined, ...names: readonly string[]): string | undefined {
  return folder ? builtin("node:path").join(folder, ...names) : undefined;
}

function remove(path: string): void {
  try {
    Deno.removeSync(path);
  } catch {
    // The file was never created.
  }
}
