/**
 * A folder for received files. Each file has a subfolder named after its SHA-256, so no file is
 * ever overwritten. Incomplete files are in `.partial`.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Offer } from "./contract.ts";

/** Maximum incomplete files; the oldest is removed to make room. */
const MAX_PARTIAL_FILES = 256;

/** Stores received files in a folder. */
export class Inbox {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Returns the number of stored bytes of a file. */
  async offsetOf(file: Offer): Promise<number> {
    if (await exists(this.#pathOf(file))) return file.size;
    await this.#makeRoom();
    using part = await Deno.open(this.#partOf(file), { append: true, create: true });
    const { size } = await part.stat();
    if (size <= file.size) return size;
    await part.truncate(); // A sender offered the wrong size.
    return 0;
  }

  /** Writes the bytes of a stream at the speed of the disk; the sender waits meanwhile. */
  async write(
    { file, offset, bytes }: { file: Offer; offset: number; bytes: ReadableStream<Uint8Array> },
    onStored: (total: number) => void,
  ): Promise<void> {
    using part = await Deno.open(this.#partOf(file), { write: true });
    // Writes at the offset, not at the end: the stream of a broken connection may still be writing
    // the same bytes.
    let total = await part.seek(offset, Deno.SeekMode.Start);
    for await (const chunk of bytes) {
      if (total + chunk.length > file.size) {
        throw new RangeError("Received more bytes than offered");
      }
      for (let at = 0; at < chunk.length;) at += await part.write(chunk.subarray(at));
      onStored(total += chunk.length);
    }
  }

  /**
   * Checks the hash, moves the file to its final path, and returns the path; `undefined` if the
   * hash differs.
   */
  async keep(file: Offer): Promise<string | undefined> {
    const path = this.#pathOf(file);
    if (await exists(path)) return path; // The file is complete; only the reply was lost.
    const part = this.#partOf(file);
    try {
      if (await sha256Of(part) !== file.sha256) {
        await Deno.remove(part);
        return undefined;
      }
      await Deno.mkdir(`${this.#folder}/${file.sha256}`, { recursive: true });
      await Deno.rename(part, path);
    } catch (error) {
      if (!await exists(path)) throw error; // Another sender of the same file was faster.
    }
    return path;
  }

  async #makeRoom(): Promise<void> {
    const folder = `${this.#folder}/.partial`;
    await Deno.mkdir(folder, { recursive: true });
    const parts = await Array.fromAsync(Deno.readDir(folder), async ({ name }) => {
      const path = `${folder}/${name}`;
      return { path, at: (await Deno.stat(path)).mtime!.getTime() };
    });
    parts.sort((a, b) => b.at - a.at);
    for (const { path } of parts.slice(MAX_PARTIAL_FILES)) await Deno.remove(path);
  }

  /** The contract ensures that the hash is hexadecimal, so the path stays inside the folder. */
  #partOf({ sha256 }: Offer): string {
    return `${this.#folder}/.partial/${sha256}`;
  }

  #pathOf({ sha256, name }: Offer): string {
    return `${this.#folder}/${sha256}/${safeName(name)}`;
  }
}

/** Returns the last part of a path, in characters that are safe in every file system. */
function safeName(name: string): string {
  const last = name.split(/[/\\]/).at(-1)!.replace(/[^\p{L}\p{N} ._-]/gu, "_").slice(0, 80);
  return last.replace(/^[. ]+|[. ]+$/g, "") || "file";
}

/** Hashes a file in chunks, without loading it into memory. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await Deno.open(path);
  for await (const chunk of file.readable) hash.update(chunk);
  return hash.digest("hex");
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}
