/**
 * Renewing the development certificate of a server that runs.
 *
 * @module
 */
import {
  type DevCertificate,
  devCertificate,
  type DevCertificateOptions,
} from "./dev_certificate.ts";

/** How often the age of the certificate is looked at: timers stand still while a machine sleeps. */
const CHECK_INTERVAL_MS = 3_600_000;

/** Keeps a development certificate fresh, until it is disposed of. */
export class DevRenewal implements Disposable {
  readonly #options: DevCertificateOptions;
  readonly #replace: (certificate: DevCertificate) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** What the server begins with. */
  readonly first: DevCertificate;

  /**
   * Gets the first certificate, and renews it from then on.
   *
   * @param options Those of the certificate.
   * @param replace Takes each certificate after the first.
   */
  constructor(options: DevCertificateOptions, replace: (certificate: DevCertificate) => void) {
    this.#options = options;
    this.#replace = replace;
    this.first = devCertificate(options);
    this.#renewAt(this.first.renewAt);
  }

  /** Renews it no more. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #renewAt(time: Date): void {
    const waitMs = Math.min(Math.max(time.getTime() - Date.now(), 0), CHECK_INTERVAL_MS);
    this.#timer = setTimeout(() => this.#renewAt(this.#renewed(time)), waitMs);
    Deno.unrefTimer(this.#timer);
  }

  /** Renews the certificate if its time has come, and says when that is next. */
  #renewed(time: Date): Date {
    if (Date.now() < time.getTime()) return time;
    try {
      const certificate = devCertificate(this.#options);
      this.#replace(certificate);
      return certificate.renewAt;
    } catch (error) {
      // There is nobody else to tell.
      // deno-lint-ignore no-console
      console.error("The development certificate was not renewed:", error);
      return new Date(Date.now() + CHECK_INTERVAL_MS);
    }
  }
}
