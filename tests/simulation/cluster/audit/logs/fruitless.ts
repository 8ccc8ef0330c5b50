/** Requests that begin no answer, or one that ends at once: each gives its place back. */
import { BrokerError, RequestError } from "../../../../../errors.ts";
import { shuffled } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { AnswerNode, ITEM_MS } from "./answer_node.ts";
import { brokerWithLogs } from "./broker_with_logs.ts";
import { LogMachine } from "./machine.ts";

/** Most answers of a node, at least, and the range. */
const [PLACES, PLACES_RANGE] = [2, 2];

/** Requests that begin nothing in a round, by the places: more than there are. */
const TIMES = 1.5;

/** Kinds of requests in one audit. */
const ROUNDS = 3;

/** Items of an answer that does not end by itself. */
const ENDLESS = 1_000;

/** Longest time for calls of an engine, in milliseconds. */
const CALLS_MS = 2_500;

/** User of the requests that begin nothing. */
const USER = "ann";

/** Makes one request; returns the expected and the received outcome. */
type Attempt = (number: number) => Promise<readonly [expected: string, received: string]>;

/**
 * Asks for answers in vain, then takes all places of the node.
 *
 * @param audit The audit.
 */
export async function auditFruitless(audit: Audit): Promise<void> {
  const random = audit.chanceOf("fruitless");
  // Nodes of other parts of the audit would take answers over, and this one theirs.
  const brokerOf = audit.engine.apart!("fruitless");
  let isAway = false;
  await LogMachine.use(
    audit,
    ["fruitless"],
    async ([machine]) => {
      const places = PLACES + Math.floor(PLACES_RANGE * random());
      const scene = new Fruitless(audit, new AnswerNode(machine!, places), places);
      const away: Attempt = async (number) => {
        isAway = true;
        const outcome = await scene.begin(`away-${number}`);
        isAway = false;
        return ["unavailable", outcome];
      };
      const kinds = { ...scene.kinds(), away };
      const drawn = shuffled(random, Object.entries(kinds)).slice(0, ROUNDS);
      for (const [kind, attempt] of drawn) await scene.examine(kind, attempt);
      await scene.close();
    },
    (host) =>
      brokerWithLogs(brokerOf(host), (_name, own) => async (...values) => {
        if (isAway) throw new BrokerError("Cannot call the logs: the engine is away");
        return await own(...values);
      }),
  );
}

/** A node with few places. */
class Fruitless {
  readonly #audit: Audit;
  readonly #node: AnswerNode;
  readonly #places: number;
  #names = 0;

  constructor(audit: Audit, node: AnswerNode, places: number) {
    this.#audit = audit;
    this.#node = node;
    this.#places = places;
  }

  /** Ways to ask for an answer in vain. */
  kinds(): Readonly<Record<string, Attempt>> {
    const begun = new Map<string, string>();
    /** Asks for the same answer each time, at most one of which has a generator. */
    const asked = async (name: string, items: number) => {
      const first = begun.get(name) ?? await this.begin(name, { items });
      begun.set(name, first);
      return [first, await this.begin(name, { items })] as const;
    };
    return {
      running: async () => {
        const outcomes = await asked("running", ENDLESS);
        this.#expect("generators of a name", 1, this.#node.generators.length);
        return outcomes;
      },
      ended: async () => {
        const outcomes = await asked("ended", 0);
        await this.#audit.until(() => this.#node.answers.running === 0, CALLS_MS);
        return outcomes;
      },
      "bad name": async () => ["malformed", await outcomeOf(this.#node.begin("x", 1))],
      "bad input": async (number) => {
        const outcome = await this.begin(`bytes-${number}`, { input: new Uint8Array(1) });
        return ["malformed", outcome];
      },
      failing: async (number) => {
        const name = `failing-${number}`;
        const failure = number % 2 === 0 ? new Error("Fails") : new RequestError("tired", "Enough");
        const id = await this.begin(name, {
          answer: () => {
            throw failure;
          },
        });
        const end = id.includes(":") ? await this.#endOf(id) : id;
        // The place comes back shortly after readers get the end.
        await this.#audit.until(() => this.#node.answers.running === 0, CALLS_MS);
        await this.#audit.pause(0);
        return [number % 2 === 0 ? " failed" : " tired", end];
      },
    };
  }

  /** Asks in vain several times, and compares the places behind that. */
  async examine(kind: string, attempt: Attempt): Promise<void> {
    for (let number = 0; number < TIMES * this.#places; number++) {
      const [expected, received] = await attempt(number);
      this.#expect(`request (${kind})`, expected, received);
    }
    await this.#empty();
    await this.#fill(kind);
    await this.#empty();
  }

  /** Begins an answer; returns the id, or the code of the refusal. */
  begin(
    name: string,
    { items = ENDLESS, user = USER, ...other }: {
      readonly items?: number;
      readonly user?: string;
    } & Parameters<AnswerNode["begin"]>[2] = {},
  ): Promise<string> {
    const id = this.#node.begin(name.padEnd(24, "x"), items, { user, ...other });
    return id.catch((error) => outcomeOf(Promise.reject(error)));
  }

  close(): Promise<void> {
    return this.#node.close();
  }

  /** Reads the end of an answer, which a replica of the engine may hear of late. */
  async #endOf(id: string): Promise<string> {
    const endMs = this.#audit.nowMs + CALLS_MS;
    let text = "";
    do {
      if (text !== "") await this.#audit.pause(ITEM_MS);
      text = await this.#audit.inTime(this.#node.read(id), CALLS_MS, "no end in time");
    } while (text === " not-found" && this.#audit.nowMs < endMs);
    return text;
  }

  /** Takes all places of a user and of the node, and those again that are given back. */
  async #fill(behind: string): Promise<void> {
    const begin = (user: string) => this.begin(`filling-${this.#names++}`, { user });
    const users = [...Array(this.#places - 1).fill(USER), "bob"];
    const ids: string[] = [];
    for (const user of users) {
      if (user === "bob") {
        this.#expect(`place too many of a user behind ${behind}`, "too-many", await begin(USER));
      }
      ids.push(await begin(user));
    }
    const refused = ids.filter((id) => !id.includes(":"));
    this.#expect(`refused answers behind ${behind}`, [], refused);
    this.#expect(`answers that run behind ${behind}`, this.#places, this.#node.answers.running);
    this.#expect(`place too many behind ${behind}`, "too-many", await begin("eve"));
    // One of either user, so that the node has room beyond the places of the first.
    await this.#cancel([ids.at(0)!, ids.at(-1)!]);
    const again = [await begin(USER), await begin(USER)];
    const outcomes = again.map((id) => id.includes(":") ? "begun" : id);
    this.#expect(`places of a user again behind ${behind}`, ["begun", "too-many"], outcomes);
  }

  /** Cancels all answers. */
  #empty(): Promise<void> {
    return this.#cancel([...this.#node.answers.ids()]);
  }

  async #cancel(ids: readonly string[]): Promise<void> {
    const { answers, machine, node, generators } = this.#node;
    const rest = answers.running - ids.length;
    await Promise.all(ids.map((id) => machine.run(() => node.cancel(id, "enough"))));
    const areOver = () => answers.running <= rest && generators.length <= rest;
    this.#expect("end of answers", true, await this.#audit.until(areOver, CALLS_MS));
    await this.#audit.pause(ITEM_MS);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("durable", `${what}, of answers in vain`, expected, received);
  }
}
