/** Renewal of a development certificate while a server runs. */
import {
  type DevCertificate,
  devCertificate,
  type DevCertificateOptions,
} from "./dev_certificate.ts";

/**
 * Interval of checks of the certificate's age, in milliseconds: timers stand still while a machine
 * sleeps.
 */
const CHECK_INTERVAL_MS = 3_600_000;

/** Keeps a development certificate fresh, until disposal. */
export class DevRenewal implements Disposable {
  readonly #options: DevCertificateOptions;
  readonly #replace: (certificate: DevCertificate) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** The certificate at the start. */
  readonly first: DevCertificate;

  /**
   * Makes the first certificate, and starts the renewal.
   *
   * @param options Options of the certificate.
   * @param replace Called with each certificate after the first.
   */
  constructor(options: DevCertificateOptions, replace: (certificate: DevCertificate) => void) {
    this.#options = options;
    this.#replace = replace;
    this.first = devCertificate(options);
    this.#renewAt(this.first.renewAt);
  }

  /** Stops the renewal. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #renewAt(time: Date): void {
    const waitMs = Math.min(Math.max(time.getTime() - Date.now(), 0), CHECK_INTERVAL_MS);
    this.#timer = setTimeout(() => this.#renewAt(this.#renewed(time)), waitMs);
    Deno.unrefTimer(this.#timer);
  }

  /** Renews the certificate if due, and returns the time of the next renewal. */
  #renewed(time: Date): Date {
    if (Date.now() < time.getTime()) return time;
    try {
      const certificate = devCertificate(this.#options);
      this.#replace(certificate);
      return certificate.renewAt;
    } catch (error) {
      // No caller is left to receive the error.
      // deno-lint-ignore no-console
      console.error("The development certificate was not renewed:", error);
      return new Date(Date.now() + CHECK_INTERVAL_MS);
    }
  }
}
