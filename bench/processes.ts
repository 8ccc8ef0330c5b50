/**
 * Starts processes on a core, and measures their resources.
 *
 * @module
 */

/** Ticks of CPU times on Linux. */
const TICKS_PER_SECOND = 100;

/** Resources that a process has used. */
export interface Usage {
  /** User and system time, in microseconds; `undefined` on systems that don't report it. */
  readonly cpuUs: number | undefined;
  /** Resident memory, in bytes; `undefined` on systems that don't report it. */
  readonly rssBytes: number | undefined;
}

/**
 * Reads which resources a process has used. This works only on Linux.
 *
 * @param pid The process.
 * @returns The resources; `undefined` values on other systems.
 */
export async function usageOf(pid: number): Promise<Usage> {
  if (Deno.build.os !== "linux") return { cpuUs: undefined, rssBytes: undefined };
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  // The name, in parentheses, may contain spaces; user and system time are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  return {
    cpuUs: (Number(fields[11]) + Number(fields[12])) * 1_000_000 / TICKS_PER_SECOND,
    rssBytes: kib === undefined ? undefined : Number(kib) * 1_024,
  };
}

/**
 * Checks if processes can be pinned to cores.
 *
 * @returns True with at least two cores and `taskset`.
 */
export async function canPin(): Promise<boolean> {
  if (Deno.build.os !== "linux" || navigator.hardwareConcurrency < 2) return false;
  try {
    const { success } = await new Deno.Command("taskset", { args: ["-c", "0,1", "true"] }).output();
    return success;
  } catch {
    return false;
  }
}

/**
 * Creates a command, optionally pinned to a core.
 *
 * @param command Program and arguments.
 * @param core The core, or `undefined` for any.
 * @param options Further options for `Deno.Command`.
 */
export function commandOn(
  command: readonly string[],
  core: number | undefined,
  options: Omit<Deno.CommandOptions, "args"> = {},
): Deno.Command {
  const [program, ...args] = core === undefined
    ? command
    : ["taskset", "-c", String(core), ...command];
  return new Deno.Command(program!, { ...options, args });
}

/** Finds a free port. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/**
 * Waits until a server listens on a port.
 *
 * @param port The port on this machine.
 * @param options The timeout, and the interval between attempts, in milliseconds.
 * @throws {Error} If no server listens in time.
 */
export async function untilListening(
  port: number,
  options: { readonly withinMs?: number; readonly everyMs?: number } = {},
): Promise<void> {
  const { withinMs = 60_000, everyMs = 50 } = options;
  const end = performance.now() + withinMs;
  while (performance.now() < end) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, everyMs));
    }
  }
  throw new Error(`Cannot connect: no server listens on port ${port} after ${withinMs} ms`);
}
