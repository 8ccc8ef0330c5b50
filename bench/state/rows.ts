/**
 * Measures what the rows of a live state cost in memory: on a server whose broker is in memory, and
 * in a client. Also measures the snapshot that a new client reads.
 *
 * ```sh
 * deno task bench:state:rows --rows 100,10000,100000 --readers 1,200
 * ```
 *
 * The server is this process. The client, and the further readers, which discard what they receive,
 * are processes of their own. The memory is the heap after a full garbage collection. It includes
 * the last 1,000 transactions, which readers may need.
 *
 * @module
 */
import process from "node:process";
import { RawSocket } from "../../cli/load/socket.ts";
import { connect, serve, type Server } from "../../mod.ts";
import { liveState, type LiveStates } from "@skein/skein/streams";
import { argument, numberArgument } from "../args.ts";
import { sleep } from "../meter.ts";

const ID = "board";

/** Rows written in one transaction. */
const ROWS_PER_WRITE = 100;

/** A row of about 100 bytes in JSON. */
interface Card {
  readonly title: string;
  readonly column: string;
  readonly done: boolean;
  readonly votes: number;
  readonly owner: string;
}

function cardOf(number: number): Card {
  const owner = `user-${number % 97}`;
  return { title: `Card ${number} of the board`, column: "doing", done: false, votes: 3, owner };
}

async function heapBytes(): Promise<number> {
  const { gc } = globalThis as unknown as { gc(): void };
  for (let i = 0; i < 4; i++) {
    gc();
    await sleep(50);
  }
  return Deno.memoryUsage().heapUsed;
}

function cpuMsSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}

/** The measurements of a client. */
interface ClientRun {
  readonly bytes: number;
  readonly readyMs: number;
  readonly cpuMs: number;
}

async function runClient(url: string, id: string): Promise<ClientRun> {
  await using client = connect(url, { transports: ["websocket"] });
  // The code of states loads with the first one.
  {
    using empty = await client.state("empty");
    await empty.ready;
  }
  const before = await heapBytes();
  const start = performance.now();
  const cpu = process.cpuUsage();
  using state = await client.state(id);
  await state.ready;
  const readyMs = performance.now() - start;
  const cpuMs = cpuMsSince(cpu);
  const bytes = await heapBytes() - before;
  return { bytes, readyMs, cpuMs };
}

/** Opens sessions at the end of the stream, which stay until the process is killed. */
async function runReaders(url: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const socket = await RawSocket.open(url, {
      protocols: ["skein.1"],
      bufferBytes: 65_536,
      mask: false,
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    const decoder = new TextDecoder();
    socket.onFrame = (payload) => decoder.decode(payload).includes('"reply":1') && resolve();
    socket.start();
    socket.send(`{"subscribe":"stream:${ID}","id":1}`);
    await promise;
  }
}

function child(role: string, ...args: string[]): Deno.ChildProcess {
  const flags = ["run", "-A", "--no-lock", "--v8-flags=--expose-gc"];
  const command = [...flags, import.meta.url, "--role", role, ...args];
  return new Deno.Command(Deno.execPath(), { args: command, stdout: "piped" }).spawn();
}

/** Writes the rows, and prints the memory of the server. */
async function fill(
  rows: number,
  { live, server, readers }: {
    readonly live: LiveStates;
    readonly server: Server;
    readonly readers: readonly number[];
  },
): Promise<void> {
  const before = await heapBytes();
  const perRow = async () => `${((await heapBytes() - before) / rows).toFixed(0)} bytes a row`;
  await using state = await live.open(ID);
  for (let i = 0; i < rows; i += ROWS_PER_WRITE) {
    await state.transaction((to) => {
      const end = Math.min(rows, i + ROWS_PER_WRITE);
      for (let j = i; j < end; j++) to.set("cards", `${j}`, cardOf(j));
    });
  }
  console.log(`${rows} rows: ${await perRow()} on the server`);
  for (const count of readers) {
    const process = child("readers", "--url", server.url, "--count", `${count}`);
    const lines = process.stdout.getReader();
    await lines.read();
    console.log(`  with ${count} readers: ${await perRow()}`);
    process.kill("SIGKILL");
    await lines.cancel();
    await process.status;
  }
}

async function measure(rows: number, readers: readonly number[]): Promise<void> {
  const live = liveState();
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    webTransport: false,
    authorize: () => true,
    features: [live],
  });
  await using _empty = await live.open("empty");
  // The code of states and sessions loads with the first ones.
  await new Response(child("client", "--url", server.url, "--state", "empty").stdout).text();
  const before = await heapBytes();
  await fill(rows, { live, server, readers });
  const inBroker = (await heapBytes() - before) / rows;
  console.log(`  in the broker alone: ${inBroker.toFixed(0)} bytes a row`);
  await using _state = await live.open(ID);
  const cpu = process.cpuUsage();
  const run: ClientRun = await new Response(child("client", "--url", server.url).stdout).json();
  console.log(
    `  in a client: ${(run.bytes / rows).toFixed(0)} bytes a row, ready after ` +
      `${run.readyMs.toFixed(0)} ms, with ${run.cpuMs.toFixed(0)} ms of CPU time, and ` +
      `${cpuMsSince(cpu).toFixed(0)} ms in the server`,
  );
}

const { args } = Deno;
const url = argument(args, "url") ?? "";
switch (argument(args, "role")) {
  case "client":
    console.log(JSON.stringify(await runClient(url, argument(args, "state") ?? ID)));
    break;
  case "readers":
    await runReaders(url, numberArgument(args, "count", 1));
    console.log("ready");
    break;
  default:
    for (const rows of (argument(args, "rows") ?? "100,10000,100000").split(",")) {
      const readers = (argument(args, "readers") ?? "1,200").split(",").map(Number);
      await measure(Number(rows), readers);
    }
}
