/** Logs in a file whose disk fails at times: calls have an effect, and count, exactly if these succeed. */
import { BrokerError } from "../../../../../errors.ts";
import type { Broker } from "../../../../../pubsub/broker.ts";
import { oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { PLENTY } from "./machine.ts";
import {
  type LogCall,
  makeCall,
  type ModelState,
  outcomesOf,
  readAll,
  textOf,
} from "../../../../../pubsub/logs/log_model.ts";

/** Ids, of which fewer may be logs at once. */
const [IDS, MAX_LOGS] = [["one", "two", "three", "four", "five"], 3] as const;

/** Forks of the logs. */
const FORKS = ["fork1", "fork2"] as const;

/** Characters of a record: those of a long one take several pages. */
const SIZES = [10, 9_000] as const;

/** A call with its result, or `undefined` for one that failed. */
interface Made {
  readonly id: string;
  readonly operation: LogCall;
  readonly result: string | undefined;
}

/** The logs of one file beside their model. */
export class FailingLogs {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #expect: Expect;
  readonly #states = new Map<string, ModelState>();
  #count = 0;

  /**
   * Begins without logs.
   *
   * @param audit The audit.
   * @param expect Tells an outcome.
   */
  constructor(audit: Audit, expect: Expect) {
    this.#audit = audit;
    this.#random = audit.chanceOf("failing logs");
    this.#expect = expect;
  }

  /**
   * Makes a drawn call that changes a log.
   *
   * @param broker The broker of the file.
   * @returns The call, for {@linkcode note} in the order of the calls.
   */
  async call(broker: Broker): Promise<Made> {
    const id = oneOf(this.#random, IDS);
    const operation = this.#draw(id);
    try {
      return { id, operation, result: textOf(await makeCall(broker.logs!, id, operation)) };
    } catch (error) {
      if (!(error instanceof BrokerError)) {
        this.#expect("error of a log", "BrokerError", `${error}`);
      }
      return { id, operation, result: undefined };
    }
  }

  /**
   * Compares the result of a call with the model, behind those of all earlier calls.
   *
   * @param call The call.
   */
  note({ id, operation, result }: Made): void {
    if (result === undefined) return;
    const state = this.#states.get(id);
    const [outcome] = outcomesOf(state, operation, this.#now, { others: this.#size });
    const about = `${operation.kind} of the log ${id} beside ${this.#size} logs`;
    this.#expect(about, textOf(outcome!.result), result);
    this.#states.set(id, outcome!.next);
  }

  /**
   * Makes some calls, one after the other, while the disk is well.
   *
   * @param broker The broker of the file.
   * @param calls Number of the calls.
   */
  async callAll(broker: Broker, calls: number): Promise<void> {
    for (let left = calls; left > 0; left--) {
      const made = await this.call(broker);
      this.#expect("call of a log on a disk that works again", true, made.result !== undefined);
      this.note(made);
    }
  }

  /**
   * Reads all logs.
   *
   * @param broker The broker of the file.
   */
  async compare(broker: Broker): Promise<void> {
    for (const id of IDS) {
      const [outcome] = outcomesOf(this.#states.get(id), readAll(), this.#now);
      const result = await makeCall(broker.logs!, id, readAll());
      this.#expect(`content of the log ${id}`, textOf(outcome!.result), textOf(result));
    }
  }

  /** Number of logs, with those that are kept for forks. */
  get #size(): number {
    return [...this.#states.values()].filter((state) => state !== undefined).length;
  }

  get #now() {
    return { fromMs: this.#audit.nowMs, toMs: this.#audit.nowMs };
  }

  /** Draws a call: creations above all, so that the number of logs is often at the bound. */
  #draw(id: string): LogCall {
    const random = this.#random;
    const draw = random();
    const number = ++this.#count;
    const { maxStreamBytes: maxBytes } = PLENTY;
    const records = [`${number}`.padEnd(oneOf(random, SIZES))];
    const identity = `log${`${number}`.padStart(5, "0")}`;
    if (draw < 0.5) {
      const config = { contentType: "text/plain" };
      return { kind: "create", options: { config, identity, records, maxLogs: MAX_LOGS } };
    }
    if (draw < 0.75) return { kind: "delete", ifExpired: false };
    const fork = oneOf(random, FORKS);
    const known = this.#states.get(id)?.identity ?? "another0";
    const options = { identity: known, maxForks: 1 };
    if (draw < 0.8) return { kind: "retain", fork, options };
    if (draw < 0.87) return { kind: "release", fork };
    // The next record of a producer, or a repetition.
    const [epoch, seq] = this.#states.get(id)?.producers.get("p") ?? [0, -1];
    const producer = { id: "p", epoch, seq: seq + (seq < 0 || random() < 0.7 ? 1 : 0) };
    const keep = { records: 2, bytes: 20_000 };
    return {
      kind: "append",
      options: {
        records,
        maxBytes,
        ...(random() < 0.6 && { producer }),
        ...(random() < 0.3 && { keep }),
        ...(random() < 0.15 && { end: {} }),
      },
    };
  }
}
