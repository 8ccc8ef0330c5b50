/**
 * Repeats requests of the HTTP API with arbitrary idempotency keys.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { createServer } from "../../mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { captureConsole } from "../console_lines.ts";
import type { Random } from "../random.ts";
import { mutateText } from "./mutate.ts";

const KEYS = ["k1", "k2", '"a b"', "x".repeat(255), "{}[]:/?#@", "1 ", "é"];

const BODIES = ['{"data":1}', '{"data":1 }', '{"data":2}', '{"data":"1"}'];

const PATHS = ["/api/topics/log%3Aa/publications", "/api/topics/log%3Ab/publications"];

/** The keys that the API accepts. */
const VALID = /^[\x21-\x7e]{1,255}$/;

/** A request that was executed. */
interface Executed {
  readonly request: string;
  readonly reply: string;
}

/**
 * Publishes with keys, often the same ones again, and some of them at the same time. Each key of a
 * caller publishes at most once, and always receives the reply of this publication.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzIdempotencyKeys(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  await using server = createServer<string>({
    authenticate: ({ token }) => token ?? "nobody",
    history: { "log:{name}": { size: 10_000 } },
    features: [
      httpApi({ path: "/api", rate: { perSecond: Infinity }, authorize: () => true }),
    ],
  });
  const executed = new Map<string, Executed>();
  const publish = async (): Promise<void> => {
    // deno-lint-ignore no-control-regex
    const key = mutateText(random, KEYS).replace(/[^\t\x20-\x7e\x80-\xff]/g, "").trim();
    const [user, path, body] = [
      random.pick(["ann", "bob"]),
      random.pick(PATHS),
      random.pick(BODIES),
    ];
    const response = await server.fetch(
      new Request(`http://localhost:8000${path}`, {
        method: "POST",
        headers: {
          "authorization": `Bearer ${user}`,
          "content-type": "application/json",
          "idempotency-key": key,
        },
        body,
      }),
    );
    const [{ status, headers }, reply] = [response, await response.text()];
    const what = `${status} for the key "${key}": ${reply}`;
    assertEquals(status === 400, !VALID.test(key), what);
    if (status === 400 || status === 409) return;
    const name = JSON.stringify([user, key]);
    const request = `${path} ${body}`;
    const known = executed.get(name);
    if (status === 422) return assert(known === undefined || known.request !== request, what);
    assertEquals(status, 200, what);
    if (headers.get("idempotency-replayed") === "true") {
      // The first reply may arrive after this one.
      if (known !== undefined) assertEquals(known, { request, reply }, what);
      return;
    }
    assertEquals(known, undefined, what);
    executed.set(name, { request, reply });
  };
  for (let i = 0; i < rounds; i += 4) {
    await Promise.all(Array.from({ length: Math.min(4, rounds - i) }, publish));
  }
  const positions = [...executed.values()].map(({ request, reply }) => {
    return `${request.split(" ")[0]} ${JSON.parse(reply).position.offset}`;
  });
  assertEquals(new Set(positions).size, executed.size, "each key has its own publication");
  for (const path of PATHS) {
    const response = await server.fetch(
      new Request(`http://localhost:8000${path.replace("publications", "history")}?limit=1`, {
        headers: { authorization: "Bearer ann" },
      }),
    );
    const { head } = await response.json() as { readonly head: number };
    assertEquals(head, positions.filter((one) => one.startsWith(path)).length, path);
  }
  assertEquals(console.lines, []);
}
