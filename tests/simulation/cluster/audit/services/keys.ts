/** Requests with a key, sent again and again to several nodes: each is done once, with one answer. */
import { brokersInMemory } from "../../node_ports.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { type Answer, API, ask, outcomeOf, type Question } from "./backend.ts";

/** Requests of one audit that nodes answer to the end, and requests whose first node ends. */
const [CALM, DEADLY] = [6, 4];

/** Time for which keys are remembered, and an answer behind a claim that lapses, in milliseconds. */
const [WINDOW_MS, SLACK_MS] = [1_500, 400];

/** Time of a request on a node without a fault, and the longest pause of a node, in milliseconds. */
const [BUSY_MS, STALL_MS] = [9, 60];

/** Time between two repetitions: while the first node lives, and behind its end, in milliseconds. */
const [OFTEN_MS, SELDOM_MS] = [3, 300];

/** The user whose sessions get direct messages. */
const USER = "ann";

/** Topics without and with a history. */
const [PLAIN, KEPT] = ["news", "log:orders"];

/** A kind of request: the question, and the messages of one run. */
interface Work {
  readonly question: (id: string) => Question;
  /** Places where the message arrives once for each run. */
  readonly plain: readonly string[];
  /** Topics with a history, where the message arrives once in all. */
  readonly kept: readonly string[];
}

const WORK: readonly Work[] = [
  {
    question: (id) => ({ path: `/topics/${PLAIN}/publications`, json: { data: id } }),
    plain: [PLAIN],
    kept: [],
  },
  {
    question: (id) => ({
      path: `/topics/${encodeURIComponent(KEPT)}/publications`,
      json: { data: id },
    }),
    plain: [],
    kept: [KEPT],
  },
  {
    question: (id) => ({ path: `/users/${USER}/messages`, json: { topic: "direct", data: id } }),
    plain: ["direct"],
    kept: [],
  },
  {
    question: (id) => ({
      path: "/publications",
      json: { publications: [KEPT, PLAIN].map((topic) => ({ topic, data: id })) },
    }),
    plain: [PLAIN],
    kept: [KEPT],
  },
];

/**
 * Sends requests with keys to two nodes, one of which stalls or ends meanwhile.
 *
 * @param audit The audit.
 */
export async function auditKeys(audit: Audit): Promise<void> {
  const keys = await Keys.start(audit);
  await keys.run();
  await keys.close();
}

/** An arrival of a message. */
interface Arrival {
  readonly at: string;
  readonly atMs: number;
}

/** Two nodes that are asked with keys, beside one that has the session of the user. */
class Keys {
  readonly #audit: Audit;
  readonly #service: Service;
  readonly #nodes: readonly [ServiceNode, ServiceNode];
  readonly #random: () => number;
  /** Arrivals of each message. */
  readonly #arrivals: Map<unknown, Arrival[]>;

  private constructor(
    audit: Audit,
    service: Service,
    nodes: readonly [ServiceNode, ServiceNode],
    arrivals: Map<unknown, Arrival[]>,
  ) {
    this.#audit = audit;
    this.#service = service;
    this.#nodes = nodes;
    this.#arrivals = arrivals;
    this.#random = audit.random;
  }

  /** Starts nodes on an engine in memory, whose way back and forth takes about a millisecond. */
  static async start(audit: Audit): Promise<Keys> {
    const service = new Service(audit, "keys", {
      brokerOf: brokersInMemory(audit.simulation, audit.host("keys-engine")),
      server: {
        history: { "log:{name}": {} },
        api: { path: API, authorize: () => true, idempotencyWindowMs: WINDOW_MS },
        onError() {},
      },
    });
    const [home, near, far] = [service.start(), service.start(), service.start()];
    const arrivals = new Map<unknown, Arrival[]>();
    const note = (at: string, data: unknown) => {
      const all = arrivals.get(data) ?? [];
      if (all.length === 0) arrivals.set(data, all);
      all.push({ at, atMs: audit.nowMs });
    };
    const client = service.enter(USER, home, {
      onMessage: ({ topic, data }) => note(topic, data),
    });
    for (const topic of [PLAIN, KEPT]) {
      const subscription = client.subscribe(topic);
      void hearAll(subscription, ({ data }) => note(topic, data));
      await subscription.ready;
    }
    return new Keys(audit, service, [near, far], arrivals);
  }

  /** Asks with some keys, the ones to be found again at last. */
  async run(): Promise<void> {
    for (let i = 0; i < CALM; i++) await this.#repeat(`calm-${i}`, oneOf(this.#random, WORK));
    await this.#fail();
    await this.#share();
    const lapsed = this.#lapse();
    for (let i = 0; i < DEADLY; i++) await this.#outlive(`deadly-${i}`, WORK[i % WORK.length]!);
    await lapsed;
  }

  /** Closes clients and nodes. */
  async close(): Promise<void> {
    await this.#service.close();
  }

  /** Repeats a request at both nodes until all are answered, while the first node stalls. */
  async #repeat(id: string, { question, plain, kept }: Work): Promise<void> {
    const [first, second] = this.#random() < 0.5 ? this.#nodes : this.#nodes.toReversed() as never;
    const asked = [this.#ask(first, id, question(id))];
    let isAnswered = false;
    void asked[0]!.then(() => isAnswered = true);
    const stalled = this.#random() < 0.7 && this.#stall(first);
    while (!isAnswered) {
      await this.#audit.pause(between(this.#random, 0, OFTEN_MS));
      asked.push(this.#ask(second, id, question(id)));
    }
    const answers = await Promise.all(asked);
    await stalled;
    await this.#audit.pause(ROUND_MS);
    answers.push(await this.#ask(oneOf(this.#random, this.#nodes), id, question(id)));
    this.#judgeAnswers(id, answers);
    const arrived = this.#arrivals.get(id)?.map(({ at }) => at).sort();
    this.#expect(`arrivals of ${id}`, [...plain, ...kept].sort(), arrived ?? []);
  }

  /** Freezes a node for a moment, at some time of a request. */
  async #stall(node: ServiceNode): Promise<void> {
    const [waitMs, stallMs] = [BUSY_MS, STALL_MS].map((most) => between(this.#random, 0, most));
    await this.#audit.pause(waitMs!);
    await this.#service.freeze(node, stallMs!);
  }

  /** One answer is of the run, later answers repeat the first, and early requests have to wait. */
  #judgeAnswers(id: string, answers: readonly Answer[]): void {
    const kinds = new Map<string, number>();
    const bodies = new Set<string>();
    for (const answer of answers) {
      const { status, headers, body } = answer;
      const isRepeated = headers.get("idempotency-replayed") === "true";
      const retry = headers.get("retry-after");
      const kind = status === 200
        ? isRepeated ? "repeated" : "done"
        : `${outcomeOf(answer)}, again after ${retry} s`;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      if (status === 200) bodies.add(JSON.stringify(body));
    }
    this.#expect(`answers to ${id} that are no repetition`, 1, kinds.get("done") ?? 0);
    this.#expect(`different answers to ${id}`, 1, bodies.size);
    for (const kind of kinds.keys()) {
      if (kind === "done" || kind === "repeated") continue;
      this.#expect(`answer to ${id}`, "409 in-progress, again after 1 s", kind);
    }
  }

  /** A failed request is not remembered: the repetition fails the same way. */
  async #fail(): Promise<void> {
    const questions: readonly [string, Question][] = [
      ["422 invalid", { path: "/topics/presence%3Ax/publications", json: { data: 1 } }],
      ["404 not-found", { path: "/sessions/nobody/disconnect", json: {} }],
    ];
    for (const [expected, question] of questions) {
      for (const attempt of ["first", "second"]) {
        const key = expected.replace(" ", "-");
        const answer = await this.#ask(oneOf(this.#random, this.#nodes), key, question);
        this.#expect(`${attempt} attempt of a request that fails`, expected, outcomeOf(answer));
      }
    }
  }

  /** A key belongs to one user, and to one request of that user. */
  async #share(): Promise<void> {
    const [near, far] = this.#nodes;
    const { question } = WORK[0]!;
    const all = await Promise.all([
      this.#ask(near, "shared", question("shared")),
      this.#ask(far, "shared", question("of another"), { authorization: "Bearer bob" }),
    ]);
    this.#expect("same key of two users", ["200", "200"], all.map(outcomeOf));
    for (
      const [what, other] of [["body", question("other")], [
        "path",
        WORK[2]!.question("shared"),
      ]] as const
    ) {
      const answer = await this.#ask(oneOf(this.#random, this.#nodes), "shared", other);
      this.#expect(`same key with another ${what}`, "422 key-reused", outcomeOf(answer));
    }
    await this.#audit.pause(ROUND_MS);
    const arrived = ["shared", "of another", "other"].map((id) =>
      this.#arrivals.get(id)?.length ?? 0
    );
    this.#expect("arrivals with a shared key", [1, 1, 0], arrived);
  }

  /** A key is remembered for the whole window, and no longer. */
  async #lapse(): Promise<void> {
    const { question } = WORK[0]!;
    const [, far] = this.#nodes; // The other one ends now and then.
    for (const key of ["kept", "lapsed"]) await this.#ask(far, key, question(key));
    await this.#audit.pause(WINDOW_MS - SLACK_MS);
    const kept = await this.#ask(far, "kept", question("kept"));
    this.#expect("repetition within the window", "true", kept.headers.get("idempotency-replayed"));
    await this.#audit.pause(2 * SLACK_MS);
    const lapsed = await this.#ask(far, "lapsed", question("another"));
    this.#expect("other request with a key beyond the window", "200", outcomeOf(lapsed));
    this.#expect("answer beyond the window", null, lapsed.headers.get("idempotency-replayed"));
  }

  /** Repeats a request whose first node ends at some time of the request. */
  async #outlive(id: string, { question, plain, kept }: Work): Promise<void> {
    const [first, second] = this.#nodes;
    const beganMs = this.#audit.nowMs;
    let early: Answer | undefined;
    void this.#ask(first, id, question(id)).then((answer) => early = answer);
    await this.#audit.pause(between(this.#random, 0, BUSY_MS));
    first.host.kill({ power: this.#random() < 0.5 });
    let answer: Answer;
    while (true) {
      await this.#audit.pause(
        between(this.#random, 0, this.#random() < 0.5 ? OFTEN_MS : SELDOM_MS),
      );
      answer = await this.#ask(second, id, question(id));
      if (answer.status !== 409 || this.#audit.nowMs > beganMs + 2 * WINDOW_MS) break;
    }
    const tookMs = this.#audit.nowMs - beganMs;
    this.#expect(`answer to ${id}, whose node ended`, "200", outcomeOf(answer));
    const isInTime = tookMs < WINDOW_MS + SELDOM_MS + SLACK_MS;
    this.#expect(`answer to ${id} once the lost request is given up`, true, isInTime || tookMs);
    await this.#audit.pause(ROUND_MS);
    const arrivals = this.#arrivals.get(id) ?? [];
    const timesAt = (place: string) => arrivals.filter(({ at }) => at === place);
    for (const place of kept) {
      this.#expect(`arrivals of ${id} at ${place}`, 1, timesAt(place).length);
    }
    const isRepeated = answer.headers.get("idempotency-replayed") === "true";
    if (early !== undefined) {
      this.#expect(`repetition of ${id}, which was answered`, true, isRepeated);
    }
    for (const place of plain) {
      const times = timesAt(place);
      // A run that began is given up at the end of the window: not before, and not twice.
      const isRight = times.length === 1 ||
        times.length === 2 && !isRepeated && times[1]!.atMs - beganMs >= WINDOW_MS - SLACK_MS;
      this.#expect(
        `arrivals of ${id} at ${place}, once or behind the window`,
        true,
        isRight || times,
      );
    }
    first.restart();
  }

  #ask(
    node: ServiceNode,
    key: string,
    question: Question,
    headers: Question["headers"] = {},
  ): Promise<Answer> {
    return ask(node, { ...question, headers: { ...headers, "idempotency-key": key } });
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}
