/**
 * A server that a test kills and starts again. It writes to a file what it handles, in order, and
 * keeps topics, states and the numbers of producers in a SQLite file.
 *
 * @module
 */
import { SqliteBroker } from "../../../brokers/sqlite/mod.ts";
import { guest, serve } from "../../../mod.ts";
import { streamFeatures } from "../../stream_features.ts";

/** A write of a page. */
export interface PageWrite {
  /** The random name of the page's load. */
  readonly load: string;
  /** Number of the write in this load, from 1. */
  readonly number: number;
  readonly kind: string;
  readonly user: string | null;
}

/** A line of the ledger. */
export interface LedgerLine extends PageWrite {
  /** The user of the session in which the write arrived; missing for publications. */
  readonly by?: string | null;
}

/** The publications of the topic with a history, which a test reads at the end. */
export const HISTORY_FILE = "history";

if (import.meta.main) {
  const [port, folder] = Deno.args;
  const ledger = Deno.openSync(`${folder}/ledger`, { create: true, append: true });
  const record = (line: LedgerLine) =>
    // One system call, whose effect survives the process.
    void ledger.writeSync(new TextEncoder().encode(`${JSON.stringify(line)}\n`));

  const unlimited = { perSecond: Infinity, burst: Infinity };
  const broker = await SqliteBroker.open(`${folder}/broker.db`);
  const server = serve({
    port: Number(port),
    hostname: "127.0.0.1",
    broker,
    origins: ["*"],
    features: streamFeatures({ path: "/streams" }),
    tokens: { inMessage: true },
    authenticate: ({ token }) => token ?? guest,
    authorize: () => true,
    history: { chat: { size: 1_000_000 } },
    rates: {
      perSession: { messages: unlimited, publications: unlimited },
      perUser: { connections: unlimited },
      perAddress: { connections: unlimited },
    },
    async onMessage(message, session) {
      if (message.topic === "read history") {
        const found: unknown[] = [];
        for await (const { data } of server.topics.read("chat")) found.push(data);
        await Deno.writeTextFile(`${folder}/${HISTORY_FILE}`, JSON.stringify(found));
        return message.reply(found.length);
      }
      record({ ...message.data as PageWrite, by: session.isGuest ? null : session.user });
      if (message.topic === "task") message.reply("done");
    },
    onListen: () => console.log("listening"),
  });
  for (const topic of ["chat", "news"]) {
    broker.subscribe(topic, ({ payload }) => record(JSON.parse(String(payload)).data));
  }
}
