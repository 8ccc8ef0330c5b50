/** The file of the development certificate. */
import { builtin } from "./builtins.ts";

const FILE_NAME = "dev_certificate.pem";

/** Longest file that is read; a certificate with a key is shorter. */
const MAX_FILE_BYTES = 64 * 1024;

/**
 * Finds the user's cache folder for Skein, by the platform's convention.
 *
 * @returns The path, or `undefined` if the environment has no such variable, or may not be read.
 */
export function userCacheFolder(): string | undefined {
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
 * A file with PEM for one user alone. Certificate and key share the file, so that a reader never
 * gets a new certificate with an old key.
 *
 * No method prompts for a permission, and none throws: a certificate that cannot be stored is made
 * again the next time.
 */
export class CertificateFile {
  /** Path of the file. */
  readonly path: string;
  readonly #folder: string;

  /**
   * Names the file, which need not exist.
   *
   * @param folder The folder of the file, which need not exist either.
   */
  constructor(folder: string | URL) {
    this.#folder = folder instanceof URL ? builtin("node:url").fileURLToPath(folder) : folder;
    this.path = builtin("node:path").join(this.#folder, FILE_NAME);
  }

  /** Reads the file; `undefined` if there is none, or if other users may read or write the file. */
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
   * Replaces the file at once and as a whole.
   *
   * @param text The new content.
   * @param isTaken Called last; tells if another process stored a good certificate meanwhile.
   * @returns `true` if the text is stored.
   */
  write(text: string, isTaken: () => boolean): boolean {
    if (!this.#may("read") || !this.#may("write")) return false;
    const temporary = `${this.path}.${crypto.randomUUID()}.tmp`;
    let isKept = false;
    try {
      Deno.mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
      Deno.writeTextFileSync(temporary, text, { createNew: true, mode: 0o600 });
      if (isTaken()) return false;
      Deno.renameSync(temporary, this.path);
      isKept = true;
    } catch {
      // A full disk, or a folder of another user.
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
    // The file was never made.
  }
}
