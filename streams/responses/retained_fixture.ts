/** Nodes that keep responses, and fairness between their callers, for tests on any broker. */
import { until } from "../../tests/waiting.ts";
import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { networksOf } from "../../base/network_address.ts";
import { type Account, NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { DROPPED_REASON, StreamLogs } from "../logs/stream_logs.ts";
import { type ResponseStart, StoredResponses } from "./stored_responses.ts";
import { StreamStore } from "../streams.ts";
import { boundsOf, responseLimits, streamSettings } from "../options.ts";

export function guestAt(address: string, guest: string = "guest"): Account {
  return { ...NOBODY, networks: networksOf(address), guest };
}

export function userAt(address: string, user: string): Account {
  return { ...NOBODY, networks: networksOf(address), user };
}

/** A node that keeps responses. */
export class RetainingNode implements AsyncDisposable {
  readonly streams: StreamLogs;
  readonly node: StreamStore;
  readonly responses: StoredResponses;
  readonly quotas: Quotas;

  /** Opens a node with small shares, which apply only under contention. */
  constructor(
    broker: Broker,
    { runtime = platformRuntime(), maxRetained = 20, perAddress = 8, perUser = 4, maxStreams = 1 }:
      {
        readonly runtime?: Runtime;
        readonly maxRetained?: number;
        readonly perAddress?: number;
        readonly perUser?: number;
        readonly maxStreams?: number;
      } = {},
  ) {
    const report = (what: unknown, error?: unknown) => {
      throw error ?? what;
    };
    this.quotas = new Quotas(runtime);
    const shares = { address: perAddress, user: perUser };
    const limits = { ...responseLimits({ maxRetained }), retainedShares: { shares, strict: [] } };
    this.streams = new StreamLogs({
      runtime,
      broker,
      bounds: boundsOf(streamSettings({ path: "/", maxStreams }), { maxRetained }),
      onError: report,
      onReadToEnd: (id) => this.responses.retained.noteRead(id),
    });
    this.node = new StreamStore({
      runtime,
      streams: this.streams,
      tail: streamSettings().tail,
      maxMessageBytes: 65_536,
    });
    this.responses = new StoredResponses(limits, {
      charge() {},
      runtime,
      broker,
      streams: this.streams,
      durableStreams: this.node,
      quotas: this.quotas,
      resumeOf: undefined,
      report,
    });
  }

  begin(
    account: Account,
    name: string,
    response: ResponseStart["generate"] = once,
  ): Promise<string> {
    const { user } = account;
    const request = {
      topic: "chat",
      input: 1,
      user,
      name: name.padStart(20, "-"),
      account,
      cost: 1,
      generate: response,
    };
    return this.responses.begin(request);
  }

  /** Completes a response. */
  async make(account: Account, name: string): Promise<string> {
    const over = Promise.withResolvers<void>();
    const id = await this.begin(account, name, async function* () {
      try {
        yield 1;
      } finally {
        over.resolve();
      }
    });
    await over.promise;
    // A pending call of the broker, without a timer.
    while (this.responses.ids().has(id)) await this.node.info(id);
    return id;
  }

  /** Checks whether a response is kept. */
  async keeps(id: string): Promise<boolean> {
    return (await this.streams.info(id)).kind === "page";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.responses.close();
    await this.node.close();
    await this.streams.close();
  }
}

async function* once(): AsyncGenerator<number> {
  yield await Promise.resolve(1);
}

/** Addresses of a flooding client, and of honest users. */
export const [EVE, BOB, CARL, ANN] = ["203.0.113.66", "198.51.100.1", "198.51.100.2", "192.0.2.7"];

/**
 * Fills the budget of responses: one address fills the half that has no shares, and two others fill
 * the rest.
 *
 * @returns The flooding client's responses, oldest first, and the other addresses' responses.
 */
export async function fill(node: RetainingNode): Promise<{ greedy: string[]; others: string[] }> {
  const greedy: string[] = [];
  for (let i = 0; i < 10; i++) {
    greedy.push(await node.make(guestAt(EVE, `eve-${i}`), `eve-${i}`));
    // Their ages differ, also on a fast machine.
    const endedMs = Date.now();
    await until(() => Date.now() > endedMs);
  }
  const others: string[] = [];
  for (let i = 0; i < 5; i++) {
    others.push(await node.make(guestAt(BOB, `bob-${i}`), `bob-${i}`));
    others.push(await node.make(userAt(CARL, `carl-${i}`), `carl-${i}`));
  }
  return { greedy, others };
}

/**
 * Checks that a budget filled by one address still serves others, on this node and another.
 *
 * @param near The node of the flooding client, after {@linkcode fill}.
 * @param far Another node of the same broker, or the same node.
 * @param filled The responses.
 */
export async function assertJustice(
  near: RetainingNode,
  far: RetainingNode,
  { greedy, others }: Awaited<ReturnType<typeof fill>>,
): Promise<void> {
  // Durable streams have a separate limit.
  assertEquals((await far.streams.create("mine", { records: ["x"] })).kind, "created");
  assertEquals((await far.streams.create("another", {})).kind, "too-many");
  // A response that was read to its end is dropped before unread ones.
  assertEquals(await Array.fromAsync(far.node.follow(greedy[3]!), ({ data }) => data), [1]);
  const ann: string[] = [];
  for (let i = 0; i < 3; i++) ann.push(await far.make(userAt(ANN, "ann"), `ann-${i}`));
  const kept = await Promise.all(greedy.map((id) => near.keeps(id)));
  assertEquals(kept, greedy.map((_, i) => ![0, 1, 3].includes(i)));
  for (const id of [...others, ...ann]) assertEquals(await near.keeps(id), true, id);
  for (const node of [near, far]) {
    const error = await assertRejects(
      () => Array.fromAsync(node.node.follow(greedy[0]!)),
      RequestError,
      DROPPED_REASON,
    );
    assertEquals(error.failure.code, "gone");
  }
  await assertRejects(
    () => far.begin(guestAt(EVE, "eve-0"), "eve-0"),
    RequestError,
    DROPPED_REASON,
  );
  assertEquals(far.responses.retained.stats.dropped, 3);
}
