/** Instrumentation of both ends: each hook is called once, with its outcome, and changes nothing. */
import { AuthenticationError, RequestError } from "../../../../../errors.ts";
import type {
  HandshakeOutcome,
  Instrumentation,
} from "../../../../../session/insight/instrumentation.ts";
import type { UntypedMessage } from "../../../../../session/message.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf, shuffled } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";

/** Time for messages there and back, in milliseconds. */
const ROUND_MS = 200;

/** Time of a request without an answer. */
const TIMEOUT_MS = 400;

/** Uses of one session. */
const USES = ["fine", "refused", "thrown", "late", "told", "told"] as const;

/** Hooks that fail in some runs. */
const FAILING = ["none", "none", "request", "send", "handle", "ended"] as const;

/** Traces that a hook tells: a right one, and a wrong one, which is not sent. */
const TRACES = ["right", "right", "wrong", "none"] as const;

/** Records the calls of the hooks of one end. */
class Recorder implements Instrumentation {
  /** Facts of messages, in order. */
  readonly calls: string[] = [];
  /** Facts of handshakes and sessions. */
  readonly lives: string[] = [];
  /** The hook that fails. */
  failing = "none";
  /** Failures so far. */
  failures = 0;
  /** Trace of the next message. */
  trace: string | undefined;

  handshake({ side, url }: { readonly side: string; readonly url: string }) {
    this.lives.push(`${side} begins${url.includes("token=") ? " with a token" : ""}`);
    return {
      ended: (outcome: HandshakeOutcome) => {
        this.lives.push("error" in outcome ? `refused ${outcome.status}` : "established");
      },
    };
  }

  sessionOpened(): void {
    this.lives.push("opened");
  }

  sessionClosed(_session: unknown, { code }: { readonly code: number }): void {
    this.lives.push(`closed ${code}`);
  }

  request(_session: unknown, topic: string) {
    this.calls.push(`asks ${topic}`);
    this.#mayFail("request");
    return {
      ...this.#traced(),
      ended: ({ error }: { readonly error?: unknown }) => {
        this.calls.push(`ended ${error === undefined ? "" : codeOf(error)}`);
        this.#mayFail("ended");
      },
    };
  }

  send(topic: string) {
    this.calls.push(`sends ${topic}`);
    this.#mayFail("send");
    return this.#traced()?.trace;
  }

  handle(
    _session: unknown,
    { topic }: UntypedMessage,
    run: () => void | Promise<void>,
    trace?: { readonly traceparent: string },
  ): void {
    this.calls.push(`handles ${topic} ${trace?.traceparent ?? "untraced"}`);
    this.#mayFail("handle");
    void Promise.resolve(run()).then(
      () => this.calls.push("handled"),
      () => this.calls.push("failed"),
    );
  }

  #traced() {
    return this.trace === undefined ? undefined : { trace: { traceparent: this.trace } };
  }

  #mayFail(hook: string): void {
    if (this.failing !== hook) return;
    this.failures++;
    throw new Error("planned failure of a hook");
  }
}

/** Names the error of a request. */
function codeOf(error: unknown): string {
  return error instanceof RequestError ? error.failure.code : (error as Error).name;
}

/**
 * Uses sessions under the eyes of hooks.
 *
 * @param audit The audit.
 */
export async function auditHooks(audit: Audit): Promise<void> {
  const { random } = audit;
  const transport = oneOf(random, ["websocket", "websocket", "http", "webtransport"] as const);
  const expect: Expect = (what, ...outcome) =>
    audit.examine("figures", `${what} over ${transport}`, ...outcome);
  const host = audit.host("hooked");
  const ends = { client: new Recorder(), server: new Recorder() };
  const errors = { client: 0, server: 0 };
  const handle = async (message: UntypedMessage) => {
    if (message.topic === "late") return await audit.pause(2 * TIMEOUT_MS);
    if (message.topic === "refused") throw new RequestError("busy", "Later");
    if (message.topic === "thrown") throw new Error("planned failure of a handler");
    if (message.topic === "fine" && message.isRequest) message.reply(1);
  };
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token }) => {
      if (token === "nobody") throw new AuthenticationError("Not here");
      return token ?? "";
    },
    instrumentation: ends.server,
    onMessage: handle,
    onRefusal() {},
    onError: () => void errors.server++,
  }));

  const stranger = new Recorder();
  const refused = audit.connect("hooks-stranger", host, {
    token: () => "nobody",
    transports: [transport],
    instrumentation: stranger,
    onError() {},
  });
  expect("attempt of a stranger", "refused", await audit.tryToEnter(refused));
  await audit.pause(ROUND_MS);
  expect("hooks of a stranger", ["client begins", "refused 401"], stranger.lives);
  expect("hooks of a refusal", ["server begins", "refused 401"], ends.server.lives);

  const client = audit.connect("hooks-client", host, {
    token: () => "known",
    transports: [transport],
    instrumentation: ends.client,
    onMessage: handle,
    onError: () => void errors.client++,
  });
  const { near, far } = await audit.meet(client, server);
  for (const topic of shuffled(random, USES)) {
    const asking = oneOf(random, ["client", "server"] as const);
    const [from, to] = asking === "client"
      ? [ends.client, ends.server]
      : [ends.server, ends.client];
    const session = asking === "client" ? near : far;
    const kind = oneOf(random, TRACES);
    const parent = `00-${"ab".repeat(16)}-${`${Math.floor(1e9 * random())}`.padStart(16, "0")}-01`;
    from.trace = kind === "none" ? undefined : kind === "right" ? parent : `x${parent}`;
    from.failing = to.failing = oneOf(random, FAILING);
    const failing = from.failing;
    const before = { ...errors };
    for (const end of [from, to]) {
      end.calls.length = 0;
      end.failures = 0;
    }
    const outcomes = { fine: "fulfilled", refused: "busy", thrown: "failed", late: "TimeoutError" };
    const what = `"${topic}" of a ${asking} where ${failing} fails`;
    if (topic === "told") session.send(topic, 1);
    else {
      const asked = session.request(topic, 1, { timeoutMs: TIMEOUT_MS });
      const outcome = await asked.then(() => "fulfilled", codeOf);
      expect(`request ${what}`, outcomes[topic], outcome);
    }
    await audit.pause(topic === "late" ? 2 * TIMEOUT_MS : ROUND_MS);
    const isAsked = topic !== "told";
    const end = isAsked && failing !== "request"
      ? [`ended ${topic === "fine" ? "" : outcomes[topic]}`]
      : [];
    expect(`hooks of ${what}`, [`${isAsked ? "asks" : "sends"} ${topic}`, ...end], from.calls);
    // A hook that fails tells no trace.
    const isTraced = kind === "right" && failing !== (isAsked ? "request" : "send");
    const done = failing === "handle"
      ? []
      : [["thrown", "refused"].includes(topic) ? "failed" : "handled"];
    const calls = [`handles ${topic} ${isTraced ? parent : "untraced"}`, ...done];
    expect(`hooks of the other end for ${what}`, calls, to.calls);
    const reported = errors.client + errors.server - before.client - before.server;
    const failures = from.failures + to.failures + (topic === "thrown" ? 1 : 0);
    expect(`errors of ${what}`, failures, reported);
    from.failing = to.failing = "none";
  }
  const isNear = random() < 0.5;
  const code = oneOf(random, [0, 3_000, 4_000, 4_999]);
  void (isNear ? near : far).close({ code });
  await audit.pause(ROUND_MS);
  await client.close();
  await audit.pause(ROUND_MS);
  await server.close();
  // A session may open before its handshake has ended, and after. The client may come back.
  const life = (side: string) => [`${side} begins`, `closed ${code}`, "established", "opened"];
  expect(
    "first life of a server",
    life("server").toSorted(),
    ends.server.lives.slice(2, 6).toSorted(),
  );
  const first = ends.client.lives.slice(0, 4).toSorted();
  expect("first life of a client", life("client").toSorted(), first);
}
