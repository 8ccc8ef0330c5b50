/**
 * Measures what a client makes a server do: the CPU time and the memory for each kilobyte that the
 * client sends or receives, for every envelope and route.
 *
 * ```sh
 * deno task bench:costs
 * deno task bench:costs --rows 20000 --times 1000 --only write
 * ```
 *
 * - **Refused** requests must cost at most 5 ms of CPU time for each kilobyte sent, and leave nothing.
 * - **Served** requests are compared with the bytes in both directions.
 * - **Held** resources have a bound for each address: the last column is what an address can hold.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { argument, numberArgument } from "../args.ts";
import { sleep } from "../meter.ts";
import { type Case, CASES } from "./cases.ts";
import { HttpClient, Peer, type Traffic } from "./clients.ts";
import { QuicClient, type QuicTarget } from "./quic_client.ts";

const { args } = Deno;
const TIMES = numberArgument(args, "times", 1_000);
const ONLY = argument(args, "only") ?? "";

/** Requests at the same time. */
const TOGETHER = 8;

/** Most CPU time of a refused request, in milliseconds for each kilobyte sent. */
const MOST_MS = 5;

/** Most bytes that a refused request may leave in the heap. */
const MOST_HELD = 256;

/**
 * Number of measurements of a refused request whose first one is beyond a bound; the median counts.
 * A request that leaves something does so each time, while V8 compiles code and other programs take
 * the caches of the processor only at times.
 */
const ROUNDS = 5;

/**
 * Number of measurements of what is held, of which the median counts. The heap shrinks when earlier
 * sessions are forgotten.
 */
const HELD_ROUNDS = 3;

interface Used {
  readonly cpuUs: number;
  readonly heldBytes: number;
  readonly rssBytes: number;
}

/** The server, in a process of its own. */
class Target implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  #text = "";
  url = "";
  quic: QuicTarget = { port: 0, serverCertificateHashes: [] };

  constructor(isTight: boolean) {
    const program = fileURLToPath(new URL("server.ts", import.meta.url));
    const rows = argument(args, "rows") ?? "20000";
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--unstable-net", "--no-lock", "--no-check", "--v8-flags=--expose-gc"]
        .concat(program, "--rows", rows, isTight ? ["--tight"] : []),
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#input = this.#process.stdin.getWriter();
  }

  async start(): Promise<this> {
    const { url, port, hash } = JSON.parse(await this.#line());
    this.url = url;
    const value = Uint8Array.fromBase64(hash);
    this.quic = { port, serverCertificateHashes: [{ algorithm: "sha-256", value }] };
    return this;
  }

  /** Reads the resources that the server has used so far, after a garbage collection. */
  async used(): Promise<Used> {
    await this.#input.write(new TextEncoder().encode("used\n"));
    return JSON.parse(await this.#line());
  }

  async #line(): Promise<string> {
    while (!this.#text.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) throw new Error("The server has ended");
      this.#text += value;
    }
    const end = this.#text.indexOf("\n");
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 1);
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.status;
  }
}

/** Costs of one request. */
interface Cost {
  readonly cpuUs: number;
  readonly traffic: Traffic;
  readonly heldBytes: number;
  /** Codes other than the expected one. */
  readonly others: readonly string[];
}

/** Measures a request, and again if its costs vary, or seem to be too much. */
async function measure(target: Target, one: Case): Promise<Cost> {
  // Closed after the last measurement, which would otherwise count the memory that is released.
  await using open = new AsyncDisposableStack();
  const costs = [await measureOnce({ target, open }, one, 0)];
  const isSuspect = one.kind === "refused" && isOver(costs[0]!);
  const rounds = isSuspect ? ROUNDS : one.kind === "held" ? HELD_ROUNDS : 1;
  while (costs.length < rounds) {
    costs.push(await measureOnce({ target, open }, one, costs.length * 2 * TIMES));
  }
  const median = (of: (cost: Cost) => number) =>
    costs.map(of).toSorted((a, b) => a - b)[rounds >> 1]!;
  return {
    cpuUs: median(({ cpuUs }) => cpuUs),
    traffic: costs[0]!.traffic,
    heldBytes: median(({ heldBytes }) => heldBytes),
    others: costs.flatMap(({ others }) => others),
  };
}

/** True if a refused request costs too much. */
function isOver({ cpuUs, traffic, heldBytes }: Cost): boolean {
  return cpuUs / traffic.in > MOST_MS || heldBytes > MOST_HELD;
}

/** Sends a number of requests, the first one with a number. */
async function measureOnce(
  { target, open }: { readonly target: Target; readonly open: AsyncDisposableStack },
  one: Case,
  first: number,
): Promise<Cost> {
  const traffic: Traffic = { in: 0, out: 0 };
  const peer = open.adopt(new Peer(target.url, traffic), (peer) => peer.close());
  const url = target.url.replace("ws:", "http:");
  const http = open.adopt(new HttpClient(url, traffic), (http) => http.close());
  const quic = open.use(new QuicClient(target.quic, traffic));
  const ends = { peer, http, quic };
  const others = new Set<string>();
  const run = async (from: number, count: number) => {
    let next = from;
    const work = Array.from({ length: TOGETHER }, async () => {
      while (next < from + count) {
        const code = await one.send(ends, next++);
        if (code !== undefined && !one.code!.split(" ").includes(code)) others.add(code);
      }
    });
    await Promise.all(work);
    // Envelopes without a reply were handled before the next one.
    if (one.code === undefined) await peer.ask({ topic: "echo" });
  };
  // The first requests load modules, compile code and fill caches.
  const most = Math.min(TIMES, one.times ?? TIMES);
  const warm = one.kind === "held" ? 8 : most;
  await one.first?.(ends);
  await run(first, warm);
  await sleep(one.lingerMs ?? 0);
  Object.assign(traffic, { in: 0, out: 0 });
  const before = await target.used();
  const times = one.kind === "held" ? Math.min(most, 200) : most;
  await run(first + warm, times);
  await sleep(one.lingerMs ?? 0);
  const after = await target.used();
  const memory = one.isNative ? "rssBytes" : "heldBytes";
  const cpuUs = after.cpuUs - before.cpuUs;
  return {
    cpuUs: cpuUs / times,
    traffic: { in: traffic.in / times, out: traffic.out / times },
    heldBytes: (after[memory] - before[memory]) / times,
    others: [...others],
  };
}

function row(one: Case, cost: Cost): (string | number)[] {
  const { cpuUs, traffic, heldBytes, others } = cost;
  const bytes = one.kind === "refused" ? traffic.in : traffic.in + traffic.out;
  const msPerKb = cpuUs / bytes;
  const [bound, most] = one.bound ?? ["", 0];
  return [
    one.kind,
    one.name,
    Math.round(traffic.in),
    Math.round(traffic.out),
    Math.round(cpuUs),
    msPerKb.toFixed(2),
    Math.round(heldBytes),
    most === 0 ? "" : `${bound}: ${most} = ${(heldBytes * most / 2 ** 20).toFixed(1)} MiB`,
    others.length > 0
      ? `!! ${others}`
      : one.kind === "refused" && isOver(cost)
      ? "!! too much"
      : "",
  ];
}

const HEAD = ["kind", "request", "in", "out", "CPU µs", "ms/kB", "held", "bound of an address", ""];

console.log(`| ${HEAD.join(" | ")} |\n|${" --- |".repeat(HEAD.length)}`);
let failures = 0;
for (const isTight of [false, true]) {
  await using target = await new Target(isTight).start();
  for (const one of CASES) {
    if ((one.isTight ?? false) !== isTight || !one.name.includes(ONLY)) continue;
    const cells = row(one, await measure(target, one));
    if (cells.at(-1) !== "") failures++;
    console.log(`| ${cells.join(" | ")} |`);
  }
}
if (failures > 0) Deno.exit(1);
