/**
 * A node of the soak test of live state. Usage: `node.ts <port> <broker> <state>`. The broker is a
 * URL or, for SQLite, the path of a file. The process prints `{}` when it is listening and the
 * state is open. The command `rows` prints the rows of the node.
 *
 * @module
 */
import { BrokerError, guest, serve } from "../../../mod.ts";
import { liveState, type State } from "../../../streams/mod.ts";
import { COLLECTIONS } from "../../state_ledger.ts";
import { durableBroker } from "../durable/brokers.ts";
import { TextLineStream } from "../processes/lines.ts";
import { sleep } from "../processes/processes.ts";

/** The rows of a node, by collection. */
export type NodeRows = Readonly<Record<string, readonly (readonly [key: string, row: unknown])[]>>;

/** Pause between attempts to open the state, in milliseconds. */
const RETRY_MS = 50;

/** Time that the check of a change of a row takes, in milliseconds. */
const CHECK_MS = 20;

const [port, at, id] = Deno.args;
const broker = await durableBroker(at!);
const states = liveState();
serve({
  port: Number(port),
  hostname: "127.0.0.1",
  webTransport: false,
  onListen() {},
  broker,
  authenticate: ({ request }) => new URL(request.url).searchParams.get("user") ?? guest,
  authorize: () => true,
  authorizeChange: async ({ before }) => {
    if (before !== undefined) await sleep(CHECK_MS);
    return true;
  },
  // Requests fail while the broker is down, and the clients retry them.
  onError() {},
  features: [states],
  limits: { maxSessionsPerAddress: Infinity },
});
const state = await open();
say({});

const commands = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
  .pipeThrough(new TextLineStream());
for await (const line of commands) {
  if (line !== "rows") continue;
  const rows = COLLECTIONS.map((name) => [name, [...state.collection(name)]]);
  say(Object.fromEntries(rows) satisfies NodeRows);
}
Deno.exit(0);

async function open(): Promise<State> {
  while (true) {
    try {
      return await states.open(id!);
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
