/** Messages on patterns of a contract, with the names of their parts, and schemas that fail. */
import { z } from "zod";
import type { StandardSchema } from "../../../../../base/standard_schema.ts";
import { defineContract } from "../../../../../session/contract.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { type Audit, type Expect, outcomeOf } from "../audit.ts";
import { oneOf, shuffled } from "../../chance.ts";

/** Time for messages there and back, in milliseconds. */
const ROUND_MS = 100;

/** Longest time until the last messages are handled, in milliseconds: over HTTP these may wait for a post. */
const LAST_MS = 500;

/** Messages of one run. */
const MESSAGES = 8;

/** Data on which a schema fails: at once, or in a promise. */
const [FAILS, FAILS_LATER] = [-1, -2] as const;

/** Whole numbers, with two for which the schema itself fails; a message leaves larger by one. */
const NUMBER = z.number().transform((n) => {
  if (n === FAILS) throw new Error("planned failure of a schema");
  return n + 1;
});

/** As {@linkcode NUMBER}, in a promise: Zod would begin such a schema a second time. */
const LATER: StandardSchema<number, number> = {
  "~standard": {
    version: 1,
    vendor: "simulation",
    async validate(n) {
      await Promise.resolve();
      if (n === FAILS_LATER) throw new Error("planned failure of a schema");
      if (typeof n !== "number") return { issues: [{ message: "Expected a number" }] };
      return { value: n + 1 };
    },
  },
};

/** The contract: patterns of one name and of two, schemas without and with a wait. */
const CONTRACT = defineContract({
  toServer: { plain: NUMBER, "say:{room}": NUMBER, "later:{a}:{b}": LATER },
  requests: {
    "sum:{room}": { input: NUMBER, output: z.number() },
    "total:{a}:{b}": { input: LATER, output: z.number() },
  },
});

/** A topic with the pattern and the parts that a handler has to see. */
interface Place {
  readonly topic: string;
  readonly pattern: string;
  readonly params: Readonly<Record<string, string>>;
  /** Data on which the schema fails. */
  readonly bad: number;
}

/** A handled message. */
type Seen = readonly [topic: string, pattern: unknown, params: unknown, data: unknown];

/**
 * Sends messages and requests on patterns.
 *
 * @param audit The audit.
 */
export async function auditPatterns(audit: Audit): Promise<void> {
  const random = audit.chanceOf("patterns");
  const expect: Expect = (...outcome) => audit.examine("contract", ...outcome);
  const seen: Seen[] = [];
  const failures: string[] = [];
  const refused: string[] = [];
  const host = audit.host("patterns");
  const answer = (message: {
    readonly topic: string;
    readonly pattern?: string | undefined;
    readonly params: object;
    readonly data: number;
  }) => {
    const { topic, pattern, params, data } = message;
    seen.push([topic, pattern, { ...params }, data]);
    return data;
  };
  const { server } = new SimulatedServer(audit.network, host, () => ({
    contract: CONTRACT,
    requests: { "sum:{room}": answer, "total:{a}:{b}": answer },
    onMessage: (message) => void answer(message as never),
    onError: (error: unknown) => void failures.push((error as Error).message),
  }));
  const transport = oneOf(random, ["websocket", "websocket", "http"] as const);
  const client = audit.connect("patterns-client", host, {
    token: undefined,
    transports: [transport],
    onRefused: ({ failure }) => void refused.push(failure.code),
  });
  await audit.until(() => client.isConnected);
  const part = () => oneOf(random, ["a", "b1", "long-name", "é", "x.y"]);
  const messagePlaces = (): readonly Place[] => {
    const [a, b] = [part(), part()];
    return [
      { topic: "plain", pattern: "plain", params: {}, bad: FAILS },
      { topic: `say:${a}`, pattern: "say:{room}", params: { room: a }, bad: FAILS },
      { topic: `later:${a}:${b}`, pattern: "later:{a}:{b}", params: { a, b }, bad: FAILS_LATER },
    ];
  };
  const requestPlaces = (): readonly Place[] => {
    const [a, b] = [part(), part()];
    return [
      { topic: `sum:${a}`, pattern: "sum:{room}", params: { room: a }, bad: FAILS },
      { topic: `total:${a}:${b}`, pattern: "total:{a}:{b}", params: { a, b }, bad: FAILS_LATER },
    ];
  };
  const wanted: Seen[] = [];
  let [failed, refusals] = [0, 0];
  // A schema fails at most once of each kind: many failures end a session.
  const cases = shuffled(random, [
    ...Array.from({ length: MESSAGES }, () => oneOf(random, ["fits", "asks", "asks", "wrong"])),
    "fails",
    "asks-failing",
  ]);
  for (const kind of cases) {
    const isRequest = kind.startsWith("asks");
    const place = oneOf(random, isRequest ? requestPlaces() : messagePlaces());
    const isFailing = kind.endsWith("fails") || kind.endsWith("failing");
    const n = Math.floor(100 * random());
    const data = isFailing ? place.bad : n;
    if (isFailing) failed++;
    else if (kind !== "wrong") wanted.push([place.topic, place.pattern, place.params, n + 1]);
    if (isRequest) {
      const asked = client.request(place.topic, data).then((got) => `${got}`);
      const outcome = await audit.inTime(asked.catch(() => outcomeOf(asked)), 1_000, "no answer");
      // The output of a request has a schema of its own, which changes nothing.
      expect(`request ${place.topic} ${kind}`, isFailing ? "failed" : `${n + 1}`, outcome);
    } else {
      client.send(place.topic, kind === "wrong" ? "no number" : data);
      if (isFailing || kind === "wrong") refusals++;
      if (random() < 0.5) await audit.pause(ROUND_MS);
    }
  }
  const isThrough = () => seen.length >= wanted.length && refused.length >= refusals;
  await audit.until(isThrough, LAST_MS);
  await audit.pause(ROUND_MS);
  expect(`handled messages over ${transport}`, wanted, seen);
  expect(`failures of schemas over ${transport}`, failed, failures.length);
  expect(`refused messages over ${transport}`, refusals, refused.length);
  expect(`session behind failures of schemas over ${transport}`, true, client.isConnected);
  const [session] = server.manager.all();
  const { invalidMessages, handlerFailures } = session!.stats;
  const wrong = cases.filter((kind) => kind === "wrong").length;
  expect("invalid messages and failures", [wrong, failed], [invalidMessages, handlerFailures]);
  await client.close();
  await server.close();
}
