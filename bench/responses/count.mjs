/**
 * Counts the items that a library's client receives: `PROGRAM PORT PID`. Prints one line of JSON.
 */
import { readFileSync } from "node:fs";
import process from "node:process";

const WARM_UP_MS = 1_000;
const MEASURE_MS = 4_000;
const TICK_US = 10_000;

const [port, pid] = process.argv.slice(2).map(Number);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** CPU time of a process, in microseconds. */
function cpuOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/**
 * Starts a response with a function that receives the port and a callback for items, and counts the
 * items.
 */
export async function count(start) {
  let items = 0;
  await start(port, () => items++);
  await sleep(WARM_UP_MS);
  const before = { items, at: performance.now(), server: cpuOf(pid), own: cpuOf(process.pid) };
  await sleep(MEASURE_MS);
  const counted = items - before.items;
  const tookMs = performance.now() - before.at;
  console.log(JSON.stringify({
    perSecond: counted / tookMs * 1_000,
    cpuUs: (cpuOf(pid) - before.server) / counted,
    clientCpuUs: (cpuOf(process.pid) - before.own) / counted,
  }));
  process.exit(0);
}
