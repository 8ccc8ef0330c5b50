/** Lines typed in earlier sessions, in a file of the user. */
import type { Context } from "../context.ts";

/** Maximum number of lines that are kept. The newest lines are kept. */
export const MAX_LINES = 1_000;

/** Longest line that is kept, in characters. Longer lines contain data that no one types again. */
export const MAX_LINE = 4_096;

/**
 * Finds the file of typed lines, which is in the XDG state folder.
 *
 * @param env Reads the environment.
 * @returns The path; `undefined` if there is no home folder.
 */
export function historyFile(env: Context["env"]): string | undefined {
  const home = env("HOME") ?? env("USERPROFILE");
  const folder = env("XDG_STATE_HOME") || env("LOCALAPPDATA") ||
    (home && `${home}/.local/state`);
  return folder ? `${folder}/skein/history` : undefined;
}

/**
 * Reads the lines.
 *
 * @param path The file. Without a path, there are no lines.
 * @returns The lines, the oldest first.
 */
export async function readHistory(path: string | undefined): Promise<string[]> {
  if (path === undefined) return [];
  try {
    return (await Deno.readTextFile(path)).split("\n").filter((line) => line !== "")
      .slice(-MAX_LINES);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/**
 * Appends lines to the file. Keeps lines that another session has added in the meantime. Only the
 * user can read the file, because it may contain message data.
 *
 * @param path The file. Without a path, nothing is written.
 * @param typed The new lines, the oldest first.
 */
export async function addHistory(
  path: string | undefined,
  typed: readonly string[],
): Promise<void> {
  const lines = typed.filter((line) => line.trim() !== "" && line.length <= MAX_LINE);
  if (path === undefined || lines.length === 0) return;
  const folder = path.slice(0, path.lastIndexOf("/"));
  await Deno.mkdir(folder, { recursive: true, mode: 0o700 });
  const all = [...await readHistory(path), ...lines]
    .filter((line, i, list) => line !== list[i - 1]).slice(-MAX_LINES);
  const beside = await Deno.makeTempFile({ dir: folder, prefix: "history-" });
  await Deno.writeTextFile(beside, `${all.join("\n")}\n`);
  await Deno.rename(beside, path);
}
