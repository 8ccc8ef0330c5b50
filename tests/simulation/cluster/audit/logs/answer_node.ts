/** A node with answers that other nodes can resume. */
import { pause } from "../../../../../base/wait.ts";
import { NOBODY } from "../../../../../base/owners.ts";
import { Quotas } from "../../../../../base/shares.ts";
import { requestLog } from "../../../../../pubsub/logs/rules.ts";
import { Answers, type BeginAnswer } from "../../../../../server/durable/answers.ts";
import { checkAnswers } from "../../../../../server/durable/options.ts";
import type { DurableStreams } from "../../../../../server/durable/streams.ts";
import { outcomeOf } from "../audit.ts";
import type { LogMachine } from "./machine.ts";

/** Topic of the answers. */
const TOPIC = "count";

/** Time between two items, in milliseconds. */
export const ITEM_MS = 200;

/** Time for which answers are kept, in milliseconds. */
export const KEEP_MS = 60_000;

/** A node with answers. */
export class AnswerNode {
  readonly machine: LogMachine;
  readonly streams: ReturnType<LogMachine["streams"]>["streams"];
  readonly node: DurableStreams;
  readonly answers: Answers;
  /** Answers of this node whose generator has begun and not ended, by name. */
  readonly generators: string[] = [];
  /** Number of generators of this node that have ended. */
  ended = 0;
  readonly #close: () => Promise<void>;
  readonly #isLost: (id: string) => Promise<boolean>;

  constructor(
    machine: LogMachine,
    places: number,
    { resumes = true, onError = () => {} }: {
      readonly resumes?: boolean;
      readonly onError?: (error: unknown) => void;
    } = {},
  ) {
    const { runtime } = machine.host;
    const { streams, node } = machine.streams({
      rescue: (id) => this.answers.rescue(id),
      onError,
    });
    this.machine = machine;
    this.streams = streams;
    this.node = node;
    const limits = checkAnswers({
      maxRunning: places,
      maxRunningPerUser: places - 1,
      keepMs: KEEP_MS,
    });
    this.answers = new Answers(limits, {
      runtime,
      quotas: new Quotas(runtime),
      broker: machine.broker,
      streams,
      durableStreams: node,
      resumeOf: (topic) =>
        topic === TOPIC && resumes
          ? ({ input }, { count }) => this.#count(input as Input, count)
          : undefined,
      report() {},
    });
    this.#isLost = async (id) => (await streams.info(requestLog(id))).kind === "missing";
    this.#close = async () => {
      await this.answers.close();
      await node.close();
      await streams.close();
    };
  }

  /** Asks for an answer; returns the id of the stream. */
  begin(
    name: string,
    items: number,
    { user = name, everyMs = ITEM_MS, ...other }: {
      readonly user?: string | undefined;
      readonly everyMs?: number;
    } & Partial<Pick<BeginAnswer, "input" | "answer">> = {},
  ): Promise<string> {
    const input = { name, items, everyMs };
    return this.machine.run(() =>
      this.answers.begin({
        topic: TOPIC,
        input,
        user,
        owner: { ...NOBODY, user },
        name,
        answer: () => this.#count(input, 0),
        ...other,
      })
    );
  }

  /** Reads an answer to the end. */
  async read(id: string): Promise<string> {
    const items: number[] = [];
    const outcome = await outcomeOf(this.machine.run(async () => {
      for await (const { data } of this.node.follow<number>(id)) items.push(data);
    }));
    return `${items} ${outcome}`;
  }

  /** Tells whether the engine has forgotten the request of an answer. */
  forgot(id: string): Promise<boolean> {
    return this.machine.run(() => this.#isLost(id));
  }

  close(): Promise<void> {
    return this.machine.run(this.#close);
  }

  async *#count({ name, items, everyMs }: Input, from: number): AsyncGenerator<number> {
    this.generators.push(name);
    try {
      for (let index = from; index < items; index++) {
        await pause(this.machine.host.runtime, everyMs);
        yield index;
      }
    } finally {
      this.generators.splice(this.generators.indexOf(name), 1);
      this.ended++;
    }
  }
}

/** Request of an answer. */
interface Input {
  readonly name: string;
  readonly items: number;
  readonly everyMs: number;
}
