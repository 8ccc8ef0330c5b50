/**
 * The soak test of hostile networks. It measures how long a client takes to connect, to deliver
 * messages and to recover with production timeouts.
 *
 * @module
 */
import {
  HOSTILE_NETWORKS,
  type HostileResult,
  MOST_MS,
  runHostile,
} from "../networks/hostile_networks.ts";
import type { Check } from "./webtransport.ts";

/** One heartbeat, which bounds the recovery of a client, in milliseconds. */
const HEARTBEAT_MS = 25_000;

/** Number of runs on a network that involves randomness, in the full run and in the short run. */
const RUNS = 20;
const SHORT_RUNS = 4;

/** Duration of a network's first state, and the delay of its replies, in milliseconds. */
const HOLD_MS = 5_000;
const ANSWER_MS = 5_000;

/**
 * Runs all networks of the table at the same time, because most of the time they only wait.
 *
 * @param check Reports the result of each network.
 * @param isShort True for the short run.
 */
export async function soakNetworks(check: Check, isShort: boolean): Promise<void> {
  await Promise.all(HOSTILE_NETWORKS.map(async (network) => {
    const runs = !network.isRandom ? 1 : isShort ? SHORT_RUNS : RUNS;
    const results: HostileResult[] = [];
    for (let seed = 1; seed <= runs; seed++) {
      results.push(await runHostile(network, { holdMs: HOLD_MS, responseMs: ANSWER_MS, seed }));
    }
    const { mostMs = MOST_MS } = network;
    const isRight = results.every((result) => {
      const { possibleMs, connectedMs, deliveredMs, backMs, transports, lost, doubled } = result;
      const isFirst = connectedMs === undefined ||
        network.before.includes(transports[0]) && deliveredMs <= possibleMs + mostMs;
      const isBack = backMs === undefined || backMs <= HEARTBEAT_MS;
      return isFirst && isBack && network.after.includes(transports[1]) && lost + doubled === 0;
    });
    check(`hostile: ${network.name}`, isRight, detailOf(results));
  }));
}

/** The worst value of each measurement. */
function detailOf(results: readonly HostileResult[]): string {
  const worst = (name: "connectedMs" | "deliveredMs" | "backMs") => {
    const times = results.flatMap(({ [name]: time }) => time === undefined ? [] : [time]);
    return times.length === 0 ? "-" : `${(Math.max(...times) / 1_000).toFixed(2)} s`;
  };
  const sum = (name: "delivered" | "lost" | "doubled") =>
    results.reduce((total, { [name]: count }) => total + count, 0);
  const ways = new Set(results.map(({ transports }) => transports.join(", then ")));
  return `connected ${worst("connectedMs")}, delivered ${worst("deliveredMs")}, ` +
    `back ${worst("backMs")}; ${[...ways].join(" or ")}; ${sum("delivered")} delivered, ` +
    `${sum("lost")} lost, ${sum("doubled")} doubled` +
    (results.length > 1 ? `; the worst of ${results.length}` : "");
}
