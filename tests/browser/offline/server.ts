/**
 * A server that a test kills and starts again. It writes to a file what it handles, in order, and
 * keeps topics, states and the numbers of producers in a SQLite file.
 *
 * @module
 */
import { SqliteBroker } from "../../../brokers/sqlite/mod.ts";
import { guest, serve } from "../../../mod.ts";
import { liveState } from "../../../streams/mod.ts";
import { contract, mutations } from "./board.ts";

export interface PageWrite {
  /** The random name of the page's load. */
  readonly load: string;
  /** Number of the write in this load, from 1. */
  readonly number: number;
  readonly kind: string;
  readonly user: string | null;
}

export interface LedgerLine extends PageWrite {
  /** The user of the session in which the write arrived; missing for publications. */
  readonly by?: string | null;
}

/** The data that a test reads at the end. */
export interface ServerData {
  /** The publications of the topic with a history. */
  readonly history: readonly PageWrite[];
  /** The keys of the state's rows, in their order. */
  readonly rows: readonly string[];
  /** Number of mutations that the server has made. */
  readonly added: number;
}

/** The file with {@linkcode ServerData}. */
export const DATA_FILE = "data";

if (import.meta.main) {
  const [port, folder] = Deno.args;
  const ledger = Deno.openSync(`${folder}/ledger`, { create: true, append: true });
  const record = (line: LedgerLine) =>
    // One system call, whose effect survives the process.
    void ledger.writeSync(new TextEncoder().encode(`${JSON.stringify(line)}\n`));

  const states = liveState(contract, { mutations });
  const unlimited = { perSecond: Infinity, burst: Infinity };
  const broker = await SqliteBroker.open(`${folder}/broker.db`);
  const server = serve({
    port: Number(port),
    hostname: "127.0.0.1",
    broker,
    origins: ["*"],
    contract,
    features: [states],
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    // All publications are judged in the end.
    history: { chat: { size: 1_000_000, ttlMs: 86_400_000, bytes: 1_024 ** 3 } },
    rates: {
      perSession: { messages: unlimited, publications: unlimited },
      perUser: { connections: unlimited },
      perAddress: { connections: unlimited },
    },
    async onMessage(message, session) {
      if (message.topic === "write data") {
        await Deno.writeTextFile(`${folder}/${DATA_FILE}`, JSON.stringify(await readData()));
        return message.reply("done");
      }
      record({ ...message.data as PageWrite, by: session.isGuest ? null : session.user });
      if (message.topic === "task") message.reply("done");
    },
    onListen() {},
  });
  const state = await states.open("board");
  const readData = async (): Promise<ServerData> => {
    const history: PageWrite[] = [];
    for await (const { data } of server.topics.read("chat")) history.push(data as PageWrite);
    const { added = 0 } = state.collection("counts").get("total") ?? {};
    return { history, rows: [...state.collection("cards").keys()].sort(), added };
  };
  for (const topic of ["chat", "news"]) {
    broker.subscribe(topic, ({ payload }) => record(JSON.parse(String(payload)).data));
  }
  console.log("listening");
}
