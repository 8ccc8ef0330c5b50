/**
 * Servers that become silent because they are killed and restarted, or frozen for a while.
 *
 * - **Killed:** The server receives SIGKILL, and another process starts on the same port 0.2 s
 *   later. The test measures how long messages that clients send right after the kill take to
 *   succeed or fail.
 * - **Responses:** On each broker, the node that produces a retained response receives SIGKILL. The test
 *   measures when readers receive the next item.
 * - **Frozen:** A server with thousands of clients receives SIGSTOP and continues 5 s later. No
 *   session may close, only a few clients may open another connection, and the server must not
 *   reject those connections.
 *
 * @module
 */
import { type Client, connect, SessionClosedError, type TransportName } from "../../mod.ts";
import { lowPort } from "../networks/ports.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { SilentClientsReport } from "./silent/clients.ts";
import { checkMedian, soakResumableResponses } from "./silent/resumable_responses.ts";
import type { SilentServerStats } from "./silent/server.ts";
import type { Check } from "./webtransport.ts";

/** Time from the kill to the start of the next process, in milliseconds. */
const RESTART_MS = 200;

/** Longest median from the kill until a message has succeeded or failed, in milliseconds. */
const MOST_MS = 4_000;

/** Time for which the server is frozen, in milliseconds. */
const FROZEN_MS = 5_000;

/** Share of the clients that always wait for a reply. These clients may open another connection. */
const BUSY_SHARE = 0.1;

/** Number of client processes of the frozen server. Each transport is used by half of them. */
const CLIENT_PROCESSES = 4;

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/**
 * Messages that a client sends right after the kill. Each promise resolves when the message has
 * succeeded or failed.
 */
const SENT: Readonly<Record<string, (client: Client, id: string) => Promise<unknown>>> = {
  "a message at least once": async (client, id) => {
    client.send("note", id);
    await client.flushed();
  },
  "a publication at least once": (client, id) => client.publish("news", id),
  "a request with retry": (client, id) => client.request("say", id, { retry: true }),
  "a request": async (client, id) => {
    const error = await client.request("say", id).catch((error) => error);
    const { message } = error as Error;
    if (!(error instanceof SessionClosedError) || !message.includes("outcome is unknown")) {
      throw new Error(`Expected a request with an unknown outcome, received ${message ?? error}`);
    }
  },
};

/**
 * Kills and freezes servers.
 *
 * @param check Receives each result.
 * @param isShort True for fewer kills and clients.
 */
export async function soakSilent(check: Check, isShort: boolean): Promise<void> {
  await soakKilled(check, isShort ? 3 : 10);
  await soakResumableResponses(check, isShort);
  await soakFrozen(check, isShort ? 400 : 2_000);
}

/** Kills a server and restarts it, several times for each transport. */
async function soakKilled(check: Check, times: number): Promise<void> {
  const file = await Deno.makeTempFile();
  const port = lowPort();
  let server = startServer(port, file, 100);
  await server.line();
  for (const transport of TRANSPORTS) {
    const took: Record<string, number[]> = {};
    const ids: string[] = [];
    for (let round = 0; round < times; round++) {
      const client = connect(`http://127.0.0.1:${port}/`, {
        transports: [transport],
        delivery: "at-least-once",
      });
      client.status.subscribe(() => {});
      await client.whenConnected({ timeoutMs: 20_000 });
      await client.request("work", null);
      server.kill("SIGKILL");
      const killed = server.end();
      const at = performance.now();
      const restarted = sleep(RESTART_MS).then(async () => {
        await killed;
        server = startServer(port, file, 100);
        await server.line();
      });
      const sent = Object.entries(SENT).map(async ([what, send]) => {
        const id = `${transport} ${round} ${what}`;
        ids.push(id);
        await send(client, id);
        (took[what] ??= []).push(performance.now() - at);
      });
      await Promise.all(sent);
      await restarted;
      await client.close();
    }
    for (const [what, times] of Object.entries(took)) {
      const verb = what === "a request" ? "fails" : "is through";
      checkMedian(check, `after a kill, ${what} over ${transport} ${verb}`, {
        took: times,
        mostMs: MOST_MS,
      });
    }
    const handled = (await Deno.readTextFile(file)).split("\n");
    const wrong = ids.filter((id) => {
      const count = handled.filter((line) => line === id).length;
      // Publications reach no handler, and a request without a retry was sent only to the killed
      // process.
      return count !== (/publication|a request$/.test(id) ? 0 : 1);
    });
    check(`each message over ${transport} is handled once`, wrong.length === 0, wrong.join(", "));
  }
  await server[Symbol.asyncDispose]();
  await Deno.remove(file);
}

/** Freezes a server with a number of clients for 5 s. */
async function soakFrozen(check: Check, count: number): Promise<void> {
  const file = await Deno.makeTempFile();
  await using server = startServer(0, file, count);
  const { port }: { port: number } = JSON.parse(await server.line());
  await using fleet = new AsyncDisposableStack();
  const each = count / CLIENT_PROCESSES;
  const programs = Array.from({ length: CLIENT_PROCESSES }, (_, i) => {
    const transport = TRANSPORTS[i % TRANSPORTS.length]!;
    const url = `http://127.0.0.1:${port}/`;
    const args = [url, transport, `${each}`, `${each * BUSY_SHARE}`];
    return fleet.use(new LineProcess(import.meta.resolve("./silent/clients.ts"), ...args));
  });
  await Promise.all(programs.map((program) => program.line()));
  await sleep(2_000);
  const before = await reports(programs);
  server.kill("SIGSTOP");
  await sleep(FROZEN_MS);
  server.kill("SIGCONT");
  await sleep(FROZEN_MS * 2);
  const after = await reports(programs);
  const { sessions, rejected } = await server.ask<SilentServerStats>("stats");
  const dialed = after.dialed - before.dialed;
  check(
    `no session of ${count} closes while the server is frozen for 5 s`,
    after.ended === 0 && after.connected === count && sessions === count,
    `${after.ended} ended, ${after.connected} connected, ${sessions} at the server`,
  );
  check("at most a tenth of the clients dial", dialed <= count / 10, `${dialed} dialed`);
  check("no connection is rejected", rejected === 0, `${rejected} rejected`);
  check(
    "requests continue, and none fails",
    after.failures === 0 && after.replies > before.replies,
    `${after.replies - before.replies} replies, ${after.failures} failures`,
  );
  await Deno.remove(file);
}

async function reports(programs: readonly LineProcess[]): Promise<SilentClientsReport> {
  const all = await Promise.all(
    programs.map((program) => program.ask<SilentClientsReport>("report")),
  );
  const sum = (name: keyof SilentClientsReport) =>
    all.reduce((total, report) => total + report[name], 0);
  return {
    ended: sum("ended"),
    dialed: sum("dialed"),
    connected: sum("connected"),
    replies: sum("replies"),
    failures: sum("failures"),
  };
}

function startServer(port: number, file: string, sessions: number): LineProcess {
  return new LineProcess(import.meta.resolve("./silent/server.ts"), `${port}`, file, `${sessions}`);
}
