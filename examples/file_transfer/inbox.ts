/**
 * A folder that files are sent to. Each has a folder of its own there, named by its SHA-256, so no
 * file is ever overwritten. What is not complete waits in `.partial`.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Offer } from "./contract.ts";

/** Incomplete files that are kept for those who come back; the oldest is removed for another. */
const MAX_PARTIAL_FILES = 256;

/** See the module. */
export class Inbox {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Says how much of a file is there. */
  async offsetOf(file: Offer): Promise<number> {
    if (await exists(this.#pathOf(file))) return file.size;
    await this.#makeRoom();
    using part = await Deno.open(this.#partOf(file), { append: true, create: true });
    const { size } = await part.stat();
    if (size <= file.size) return size;
    await part.truncate(); // Somebody lied of it.
    return 0;
  }

  /** Writes what comes, no faster than the disk: meanwhile the sender waits. */
  async write(
    { file, offset, bytes }: { file: Offer; offset: number; bytes: ReadableStream<Uint8Array> },
    onStored: (total: number) => void,
  ): Promise<void> {
    using part = await Deno.open(this.#partOf(file), { write: true });
    // Not at the end: a connection that was cut a moment ago may still write, and the same bytes.
    let total = await part.seek(offset, Deno.SeekMode.Start);
    for await (const chunk of bytes) {
      if (total + chunk.length > file.size) throw new RangeError("More came than was offered");
      for (let at = 0; at < chunk.length;) at += await part.write(chunk.subarray(at));
      onStored(total += chunk.length);
    }
  }

  /** Compares the hash, and gives the file its place, which it tells; `undefined` if it differs. */
  async keep(file: Offer): Promise<string | undefined> {
    const path = this.#pathOf(file);
    if (await exists(path)) return path; // Only the answer was lost.
    const part = this.#partOf(file);
    try {
      if (await sha256Of(part) !== file.sha256) {
        await Deno.remove(part);
        return undefined;
      }
      await Deno.mkdir(`${this.#folder}/${file.sha256}`, { recursive: true });
      await Deno.rename(part, path);
    } catch (error) {
      if (!await exists(path)) throw error; // Or else another who sends it was faster.
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

  /** The hash is hexadecimal, which the contract checked: no other path can come of it. */
  #partOf({ sha256 }: Offer): string {
    return `${this.#folder}/.partial/${sha256}`;
  }

  #pathOf({ sha256, name }: Offer): string {
    return `${this.#folder}/${sha256}/${safeName(name)}`;
  }
}

/** The last part of a path, of characters that mean nothing to any file system. */
function safeName(name: string): string {
  const last = name.split(/[/\\]/).at(-1)!.replace(/[^\p{L}\p{N} ._-]/gu, "_").slice(0, 80);
  return last.replace(/^[. ]+|[. ]+$/g, "") || "file";
}

/** Hashes a file without having it in memory. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await Deno.open(path);
  for await (const chunk of file.readable) hash.update(chunk);
  return hash.digest("hex");
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}
