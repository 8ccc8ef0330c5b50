/** The names of an open file, and whether they still lead to it. */
import { resolve } from "node:path";

/** The way out if the file itself is lost: the open file still has all of its content. */
const SAVE = "put it back, or save its content with broker.backup() and start again with the copy";

/** The way out if only the log is lost: closing the broker writes the log into the file. */
const RESTART = "stop and start the server, which writes the content of the log into the file";

/** A name, and the file to which it led when the broker opened it. */
interface OpenName {
  readonly path: string;
  readonly id: string;
  /** Name and remedy in reasons. */
  readonly what: string;
  readonly remedy: string;
}

/**
 * The names of a database that is open in this process: its path, and the write-ahead log next to
 * the file to which the path leads. There is no shared memory, because the broker locks the file.
 *
 * If someone deletes, moves or replaces a file, or unmounts its folder, SQLite keeps writing to the
 * file that it opened, and the next process finds another file or none. Comparing the device and
 * the inode detects this. The files are never opened here, because closing them would release the
 * locks that SQLite holds.
 */
export class FileNames {
  readonly #names: readonly OpenName[];

  private constructor(names: readonly OpenName[]) {
    this.#names = names;
  }

  /**
   * Notes the files to which the names lead.
   *
   * @param path Path of the open file.
   */
  static async of(path: string): Promise<FileNames> {
    // The working directory may change later.
    const file = resolve(path);
    const log = `${await Deno.realPath(file).catch(() => file)}-wal`;
    const names = [
      { path: file, what: "the file", remedy: SAVE },
      { path: log, what: `the write-ahead log ${log}`, remedy: RESTART },
    ];
    const found = await Promise.all(names.map(async (name) => ({ ...name, id: await idOf(name) })));
    return new FileNames(found.filter(({ id }) => id !== MISSING));
  }

  /**
   * Compares the files again.
   *
   * @returns The reason why the next process would not find what is written now; `undefined` if all
   * names lead to the open files.
   */
  async lost(): Promise<string | undefined> {
    for (const { what, remedy, id, ...name } of this.#names) {
      const now = await idOf(name);
      if (now === MISSING) {
        return `${what} was deleted, moved or unmounted while it was open; ${remedy}`;
      }
      if (now === id || now === UNKNOWN || id === UNKNOWN) continue;
      return `${what} was replaced by another file while it was open; ${remedy}`;
    }
    return undefined;
  }
}

/** There is no file of this name. */
const MISSING = "missing";

/** There is a file, but nothing that identifies it. */
const UNKNOWN = "unknown";

/** Identifies the file to which a name leads. */
async function idOf({ path }: Pick<OpenName, "path">): Promise<string> {
  try {
    const { dev, ino } = await Deno.stat(path);
    // On some platforms and file systems, files have no inode.
    return ino ? `${dev}:${ino}` : UNKNOWN;
  } catch (error) {
    const { NotADirectory, NotFound } = Deno.errors;
    // Without permission for the folder, or on a failing disk, nothing is known about the file.
    return error instanceof NotFound || error instanceof NotADirectory ? MISSING : UNKNOWN;
  }
}
