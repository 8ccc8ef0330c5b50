/** Requests within requests, as deep as both ends allow and deeper, beside messages in order. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Handlers beside the first one, for each end: one for each request that waits. */
const BESIDE = 8;

/** Requests within each other that both ends can handle. */
const DEEPEST = 2 * (1 + BESIDE);

/** Shortest and longest time until deeper requests are refused, in milliseconds. */
const REFUSED_MS = [990, 2_600] as const;

/** Messages beside the requests. */
const MESSAGES = 4;

/** Chains of one run. */
const CHAINS = 3;

/** Requests at once, after those within each other. */
const BESIDES = 3;

/** Data of a request. */
interface Chain {
  /** Requests further down. */
  readonly left: number;
}

/**
 * Nests requests of both ends.
 *
 * @param audit The audit.
 */
export async function auditNested(audit: Audit): Promise<void> {
  const { random } = audit;
  const host = audit.host("nested");
  const transport = oneOf(random, ["websocket", "websocket", "webtransport", "http"] as const);
  const got: number[] = [];
  const ends: { client?: AnySession; server?: AnySession } = {};
  const down = (side: keyof typeof ends) => async ({ data }: { readonly data: unknown }) => {
    const { left } = data as Chain;
    if (left === 0) return 1;
    return 1 + Number(await ends[side]!.request("down", { left: left - 1 }));
  };
  let running = 0;
  let most = 0;
  const alone = async () => {
    most = Math.max(most, ++running);
    await audit.pause(10);
    running--;
  };
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({
    requests: { down: down("server"), alone },
    onMessage: async ({ data }) => {
      await audit.pause(5);
      got.push((data as { readonly n: number }).n);
    },
    onError() {},
  }));
  const client = audit.connect("nester", host, {
    token: undefined,
    transports: [transport],
    onMessage() {},
    onError() {},
    requests: { down: down("client"), alone } as never,
  });
  const { near, far } = await audit.meet(client, server);
  ends.client = near;
  ends.server = far;
  for (let chain = 0; chain < CHAINS; chain++) {
    const isDeeper = random() < 0.3;
    const depth = isDeeper
      ? DEEPEST + 1 + Math.floor(4 * random())
      : 2 + Math.floor((DEEPEST - 1) * random());
    const asker = random() < 0.5 ? near : far;
    const about = `(${depth} over ${transport})`;
    const beganMs = audit.nowMs;
    let answer: unknown;
    const asking = outcomeOf(
      asker.request("down", { left: depth - 1 }).then((value) => answer = value),
    );
    got.length = 0;
    for (let n = 1; n <= MESSAGES; n++) near.send("note", { n });
    const outcome = await asking;
    const tookMs = audit.nowMs - beganMs;
    if (isDeeper) {
      const [least, most] = REFUSED_MS;
      audit.examine("waits", `requests nested too deep ${about}`, "too-many", outcome);
      const isInTime = tookMs >= least && tookMs <= most;
      audit.examine("waits", `${tookMs} ms of nested requests ${about}`, true, isInTime);
    } else {
      audit.examine("waits", `nested requests ${about}`, ["fulfilled", depth], [outcome, answer]);
    }
    await audit.until(() => got.length >= MESSAGES, 1_000);
    audit.examine("waits", `messages beside requests ${about}`, range(1, MESSAGES), got);
  }
  for (const [side, session] of Object.entries(ends)) {
    most = 0;
    await Promise.all(Array.from({ length: BESIDES }, () => session.request("alone")));
    audit.examine("queues", `handlers at once, asked by a ${side} over ${transport}`, 1, most);
  }
  await client.close();
  await server.close();
}
