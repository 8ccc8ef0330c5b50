/**
 * A node of the soak test of mutations. Usage: `node.ts <port> <broker>`. The broker is a URL or,
 * for SQLite, the path of a file. The process prints `{}` when it is listening and the bank is open.
 *
 * - `log N` prints the transactions of the log after version N.
 * - `look` prints what its own rows have shown so far: how often they changed, and the faults.
 *
 * @module
 */
import { BrokerError, guest, serve } from "../../../mod.ts";
import { durableStreams, liveState } from "../../../streams/mod.ts";
import { logsOf } from "../../../streams/logs/logs_of.ts";
import { type Bank, bankContract, bankMutations, MutationLedger } from "../../mutation_ledger.ts";
import { durableBroker } from "../durable/brokers.ts";
import { TextLineStream } from "../processes/lines.ts";
import { sleep } from "../processes/processes.ts";
import { ID, ROWS } from "./rows.ts";

/** A part of the log, as JSON; `tail` is its present end. Without a log, or a broker, both are missing. */
export interface LogPart {
  readonly records?: readonly string[];
  readonly tail?: number;
}

/** The rows that a node has shown. */
export interface Looks {
  readonly looks: number;
  readonly faults: readonly string[];
}

/** Pause between attempts to open the bank, in milliseconds. */
const RETRY_MS = 50;

/** All transactions of a run. */
const TAIL = { records: 100_000, ms: 86_400_000, bytes: 67_108_864 };

/** Bounds of a part of the log. */
const PART = { maxRecords: 1_000, maxBytes: 1_048_576, tail: true, renews: false } as const;

const [port, at] = Deno.args;
const broker = await durableBroker(at!);
const states = liveState(bankContract, { mutations: bankMutations, onOpen: () => ROWS });
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  broker,
  contract: bankContract,
  authenticate: ({ request }) => new URL(request.url).searchParams.get("user") ?? guest,
  authorize: () => true,
  // Requests fail while the broker is down, and the clients retry them.
  onError() {},
  features: [
    durableStreams({ path: "/streams", authorize: () => false, tail: TAIL }),
    states,
  ],
  limits: { maxSessionsPerAddress: Infinity },
});
const ledger = new MutationLedger(ROWS.coins);
void ledger.watch(port!, await open());
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) {
  const [command, after] = line.split(" ");
  if (command === "log") say(await read(Number(after)));
  if (command === "look") {
    const { looks, faults } = ledger;
    say({ looks, faults } satisfies Looks);
  }
}
Deno.exit(0);

async function read(after: number): Promise<LogPart> {
  try {
    const page = await logsOf(broker)!.read(ID, { after, ...PART });
    if (typeof page !== "object") return {};
    return { records: page.records as readonly string[], tail: page.info.tail };
  } catch (error) {
    if (error instanceof BrokerError) return {};
    throw error;
  }
}

async function open(): Promise<Bank> {
  while (true) {
    try {
      return await states.open(ID);
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
      await sleep(RETRY_MS);
    }
  }
}

function say(line: unknown): void {
  // deno-lint-ignore no-console
  console.log(JSON.stringify(line));
}
