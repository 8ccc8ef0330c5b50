/**
 * Where the development certificate is kept: one file for certificate and key,
 * so that nobody ever reads one with the other's predecessor.
 *
 * Nothing here prompts for a permission, and nothing throws: what cannot be
 * kept is made anew next time.
 *
 * @module
 */
import { builtin } from "./builtins.ts";

const FILE_NAME = "dev_certificate.pem";

/** More is no certificate with its key. */
const MAX_FILE_BYTES = 64 * 1024;

/**
 * Finds the user's cache folder for Skein, as the platform wants it.
 *
 * @returns Its path, or `undefined` where the environment does not say or may not be read.
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

/** A file that keeps PEM for its user alone. */
export class CertificateFile {
  /** Its path. */
  readonly path: string;
  readonly #folder: string;

  /**
   * Names the file; it need not exist.
   *
   * @param folder The folder that it is, or will be, in.
   */
  constructor(folder: string | URL) {
    this.#folder = folder instanceof URL ? builtin("node:url").fileURLToPath(folder) : folder;
    this.path = builtin("node:path").join(this.#folder, FILE_NAME);
  }

  /** Reads what is kept; `undefined` if nothing is, or others could have read or written it. */
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
   * Keeps a text in place of what was kept, at once and as a whole.
   *
   * @param text What.
   * @param isTaken Asked last: whether another process kept something good meanwhile.
   * @returns Whether the text is kept.
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
      // A full disk, or a folder that is somebody else's.
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
    // It was never made.
  }
}
