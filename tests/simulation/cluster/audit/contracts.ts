/** A server with a contract and rights, alone: right data passes, wrong data is refused by name. */
import { z } from "zod";
import { pause } from "../../../../base/wait.ts";
import type { Client } from "../../../../client/client.ts";
import { AuthenticationError, RequestError } from "../../../../errors.ts";
import { prometheusText, type Server } from "../../../../server.ts";
import { defineContract } from "../../../../session/contract.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import { type Audit, type Expect, outcomeOf } from "./audit.ts";
import { auditAnswer, auditLog } from "./durable.ts";
import { auditPatterns } from "./wires/patterns.ts";

/** Most bytes of a message. */
const MAX_MESSAGE_BYTES = 4_096;

/** Faulty inputs of a minute before a client is told to wait. */
const MAX_INVALID = 16;

/** Time for a message there and back, in milliseconds. */
const ROUND_MS = 100;

/** Gauges at zero after the end of all sessions. */
const GAUGES = [
  "skein_sessions",
  "skein_messages_queued",
  "skein_messages_waiting",
  "skein_messages_queued_bytes",
  "skein_handshakes",
  "skein_users",
  "skein_addresses",
  "skein_sockets",
  "skein_streams",
  "skein_credit_waiting",
  "skein_credit_exhausted",
  "skein_streams_unread",
  "skein_topics",
  "skein_http_active",
  "skein_http_readers",
] as const;

/** The contract; the number of a chat grows by one with every use of the schema. */
const CONTRACT = defineContract({
  toClient: {
    "chat:{room}": z.object({ n: z.number().transform((n) => n + 1) }),
    "log:{name}": z.object({ n: z.number().transform((n) => n + 1) }),
  },
  toServer: { say: z.object({ text: z.string().max(5) }) },
  requests: {
    sum: { input: z.array(z.number()), output: z.number() },
    wrong: { input: z.string(), output: z.number() },
    keep: {
      input: z.object({ items: z.int() }),
      stream: z.object({ index: z.int() }),
      resume: true,
    },
  },
  presence: { "chat:{room}": z.object({ mood: z.number() }) },
});

/** Items of an answer. */
async function* count(items: number, from: number) {
  for (let index = from; index < items; index++) yield { index };
}

/**
 * Examines a separate server with separate clients, then the figures.
 *
 * @param audit The audit.
 */
export async function auditContract(audit: Audit): Promise<void> {
  const host = audit.host("lone");
  const said: unknown[] = [];
  const codes = new Map<number, number>();
  let opened = 0;
  const { server } = new SimulatedServer(audit.network, host, () => ({
    contract: CONTRACT,
    allowTokenMessage: true,
    authenticate: ({ token }: { readonly token?: string | undefined }) => {
      if (token === undefined) throw new AuthenticationError("A token is needed");
      return token.split(".")[0]!;
    },
    authorize: (_session: unknown, topic: string) => topic !== "chat:secret",
    rooms: ["chat:{room}"],
    history: { "log:{name}": {} },
    session: { maxMessageBytes: MAX_MESSAGE_BYTES },
    durableStreams: {
      path: "/streams",
      longPollMs: 2_000,
      authorize: ({ request, action }) => action === "read" || !request.headers.has("x-nobody"),
    },
    requests: {
      sum: ({ data }) => data.reduce((sum, n) => sum + n, 0),
      wrong: () => "no number" as never,
      keep: {
        answer: async function* ({ data: { items } }) {
          for await (const item of count(items, 0)) {
            await pause(host.runtime, 20);
            yield item;
          }
        },
        resume: ({ data: { items } }, { count: from }) => count(items, from),
      },
    },
    onMessage: ({ data }) => void said.push(data),
    onOpen: () => void opened++,
    onClose: (_session, { code }) => void codes.set(code, (codes.get(code) ?? 0) + 1),
    onError() {}, // The wrong answer of a handler.
    onRefused() {},
  }));
  const connect = (name: string, isTyped: boolean, onRefused?: (code: string) => void) =>
    audit.connect(name, host, {
      ...(isTyped && { contract: CONTRACT as never }),
      onMessage() {},
      onRefused: ({ failure }) => onRefused?.(failure.code),
    });
  const refused: string[] = [];
  const typed = connect("contracts-typed", true);
  const plain = connect("untyped", false, (code) => refused.push(code));
  await audit.until(() => typed.isConnected && plain.isConnected);

  await auditTopics(audit, { server: server as never, typed, plain });
  await auditMessages(audit, plain, { said, refused });
  const again = connect("contracts-typed", true);
  await Promise.all([
    auditAnswer(audit, [typed, again], plain),
    auditLog(audit, {
      id: "lone",
      host: audit.host("contracts-http"),
      near: `https://${host.name}/streams`,
      far: `https://${host.name}/streams`,
      client: plain,
    }),
  ]);
  await auditPatterns(audit);
  await auditFaulty(audit, connect("faulty", false));
  await auditFigures(audit, server, [typed, plain, again], {
    opened: () => opened,
    codes,
  });
  await server.close();
}

/** Right publications arrive, changed once by the schema; wrong ones are refused by name. */
async function auditTopics(
  audit: Audit,
  { server, typed, plain }: {
    readonly server: Pick<Server, "publish" | "topics" | "rooms">;
    readonly typed: Client;
    readonly plain: Client;
  },
): Promise<void> {
  const expect: Expect = (...outcome) => audit.examine("contract", ...outcome);
  const listen = (client: Client, topic = "chat:a") => {
    const subscription = client.subscribe(topic);
    const listener = { got: [] as number[], end: "", subscription };
    void (async () => {
      for await (const { data } of subscription) {
        listener.got.push((data as { readonly n: number }).n);
      }
    })().then(() => listener.end = "ended", (error) => {
      listener.end = error instanceof RequestError ? error.failure.code : `${error}`;
    });
    return listener;
  };
  const [own, other] = [listen(typed), listen(plain)];
  await Promise.all([own.subscription.ready, other.subscription.ready]);
  server.publish("chat:a", { n: 1 });
  server.publish("chat:a", { n: "two" });
  expect("publication that fits", "fulfilled", await outcomeOf(plain.publish("chat:a", { n: 3 })));
  expect(
    "publication that does not fit",
    "invalid",
    await outcomeOf(plain.publish("chat:a", { n: "four" })),
  );
  expect(
    "publication on an unknown topic",
    "unknown-topic",
    await outcomeOf(plain.publish("x", 1)),
  );
  expect(
    "publication without a right",
    "forbidden",
    await outcomeOf(plain.publish("chat:secret", { n: 5 })),
  );
  const large = { n: 6, text: "x".repeat(MAX_MESSAGE_BYTES) };
  expect("publication too large", "RangeError", await outcomeOf(plain.publish("chat:a", large)));
  for (const [topic, code] of [["x", "unknown-topic"], ["chat:secret", "forbidden"]] as const) {
    expect(`subscription to ${topic}`, code, await outcomeOf(plain.subscribe(topic).ready));
  }
  expect(
    "presence that does not fit",
    "invalid",
    await outcomeOf(plain.presence("chat:a", { mood: "good" })),
  );
  const present = await outcomeOf(plain.presence("chat:a", { mood: 1 }));
  expect("presence that fits", "fulfilled", present);
  const member = server.rooms.members("chat:a").find(({ data }) => data !== undefined);
  expect("data of a member", { mood: 1 }, member?.data ?? "none");
  await audit.pause(ROUND_MS);
  expect("publications by the contract", [2, 4], own.got);
  expect("publications without the contract", [1, "two", 3], other.got);

  const logs = [listen(typed, "log:a"), listen(plain, "log:a")];
  await Promise.all(logs.map(({ subscription }) => subscription.ready));
  const kept = await outcomeOf(plain.publish("log:a", { n: 1 }));
  expect("publication of a history", "fulfilled", kept);
  const wrong = await outcomeOf(plain.publish("log:a", { n: "one" }));
  expect("publication of a history that does not fit", "invalid", wrong);
  await audit.pause(ROUND_MS);
  expect("publications of a history", [[2], [1]], logs.map(({ got }) => got));
  await Promise.all(logs.map(({ subscription }) => subscription.unsubscribe()));

  // The right is taken back: the loop ends behind the publications so far.
  for (const session of server.topics.subscribers("chat:a")) {
    if (session.id === plain.session?.id) {
      server.topics.unsubscribe(session, "chat:a", { code: "forbidden", reason: "not any more" });
    }
  }
  server.publish("chat:a", { n: 7 });
  await audit.pause(ROUND_MS);
  expect("publications after the right", [[1, "two", 3], "forbidden"], [other.got, other.end]);
  expect("publications of others", [2, 4, 8], own.got);
  await own.subscription.unsubscribe();
  server.publish("chat:a", { n: 9 });
  await audit.pause(ROUND_MS);
  expect("publications after leaving", [[2, 4, 8], "ended"], [own.got, own.end]);
}

/** Messages and requests by the contract. */
async function auditMessages(
  audit: Audit,
  plain: Client,
  { said, refused }: { readonly said: readonly unknown[]; readonly refused: readonly string[] },
): Promise<void> {
  const expect: Expect = (...outcome) => audit.examine("contract", ...outcome);
  plain.send("say", { text: "hello" });
  plain.send("say", { text: "too long" });
  plain.send("sing", { text: "hello" });
  await audit.pause(ROUND_MS);
  expect("messages that fit", [{ text: "hello" }], said);
  expect("messages that do not fit", ["invalid", "unknown-topic"], refused);
  expect("request that fits", 6, await plain.request("sum", [1, 2, 3]));
  expect("request that does not fit", "invalid", await outcomeOf(plain.request("sum", ["1"])));
  expect("unknown request", "unknown-topic", await outcomeOf(plain.request("product", [1])));
}

/** Data of another version slows a client behind a number of faults, and never ends the session. */
async function auditFaulty(audit: Audit, client: Client): Promise<void> {
  const expect: Expect = (...outcome) => audit.examine("contract", ...outcome);
  await audit.until(() => client.isConnected);
  const { session } = client;
  const ask = (data: unknown) => outcomeOf(client.request("sum", data));
  const faults = Array.from({ length: MAX_INVALID + 2 }, (_, i) => ask(`fault ${i}`));
  const refusals = faults.map((_, i) => i < MAX_INVALID ? "invalid" : "too-many");
  expect("refusals of data that does not fit", refusals, await Promise.all(faults));
  expect("request that fits, behind those", "fulfilled", await ask([1]));
  expect("session behind those", true, client.session === session && client.isConnected);
  await client.close();
  await audit.pause(ROUND_MS); // The server hears of the close later.
}

/** Figures agree with the events, and all gauges end at zero. */
async function auditFigures(
  audit: Audit,
  server:
    & Pick<Server, "manager" | "topics" | "nodes" | "rooms">
    & Parameters<
      typeof prometheusText
    >[0],
  clients: readonly Client[],
  { opened, codes }: {
    readonly opened: () => number;
    readonly codes: ReadonlyMap<number, number>;
  },
): Promise<void> {
  const expect: Expect = (...outcome) => audit.examine("figures", ...outcome);
  let figures = figuresOf(prometheusText(server));
  expect("sessions while clients are connected", clients.length, sum(figures, "skein_sessions"));
  expect("users while clients are connected", 2, sum(figures, "skein_users"));
  await Promise.all(clients.map((client) => client.close()));
  await audit.pause(500);
  figures = figuresOf(prometheusText(server));
  for (const [name, value] of figures) if (value < 0) expect(name, "a number from 0", value);
  for (const gauge of GAUGES) expect(`${gauge} without sessions`, 0, sum(figures, gauge));
  expect("sessions opened", opened(), sum(figures, "skein_sessions_opened_total"));
  for (const [code, count] of codes) {
    const name = `skein_sessions_closed_total{code="${code}"}`;
    expect(name, count, figures.get(name) ?? sum(figures, `skein_sessions_closed_total`));
  }
}

/** Numbers of a text of Prometheus, by name with labels. */
function figuresOf(text: string): Map<string, number> {
  const figures = new Map<string, number>();
  for (const line of text.split("\n")) {
    const at = line.lastIndexOf(" ");
    if (line !== "" && !line.startsWith("#")) {
      figures.set(line.slice(0, at), Number(line.slice(at)));
    }
  }
  return figures;
}

/** Sum of a metric over all labels. */
function sum(figures: ReadonlyMap<string, number>, metric: string): number {
  let sum = 0;
  for (const [name, value] of figures) if (name.split("{")[0] === metric) sum += value;
  return sum;
}
