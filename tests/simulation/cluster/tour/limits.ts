/**
 * Reaches each limit once, and checks that anything above it is rejected and that the space is free
 * again afterwards.
 */
import type { Client } from "../../../../client/client.ts";
import type { ClusterNode } from "../node.ts";
import { GUEST, LIMITS } from "./holds.ts";
import { nameOfError, type Tour } from "./tour.ts";

/** Maximum number of pending requests of one end, which is the default of `session.maxRequests`. */
const MAX_REQUESTS = 64;

/** Maximum size of a message in bytes, which is the default of `session.maxMessageBytes`. */
const MAX_MESSAGE_BYTES = 262_144;

/** Maximum length of a topic in bytes. */
const MAX_TOPIC_BYTES = 255;

/**
 * Timeout for a peer's first envelope in milliseconds, which is the default of
 * `handshakeTimeoutMs`.
 */
const HANDSHAKE_MS = 5_000;

/** Time until a slot becomes free, in milliseconds. */
const FREE_MS = 1_000;

/** Maximum number of users of the workload whose slots are examined. */
const MAX_WORKERS = 5;

/** Reaches the limits of sessions, subscriptions, requests, sizes and times. */
export async function visitLimits(tour: Tour): Promise<void> {
  const { settings } = tour;
  await Promise.all([
    settings.has("limits") && visitUser(tour),
    settings.has("limits") && visitWorkers(tour),
    settings.has("limits") && visitAddress(tour),
    settings.has("limits") && visitTopics(tour),
    settings.has("rates") ? visitRate(tour) : visitRequests(tour),
    visitSizes(tour),
    visitHandshake(tour),
  ]);
}

/** Examines the sessions of one user on all nodes that share the limit. */
async function visitUser(tour: Tour): Promise<void> {
  const { maxSessionsPerUser: max, hasSharedLimits } = tour.settings.terms;
  const node = (number: number) => tour.node(hasSharedLimits ? number : 0);
  const open = (name: string, i: number) => tour.guest(tour.host(name), "user", node(i));
  await visitPlaces(tour, { of: "user", max, open }, async ([first]) => {
    // Both sessions of a moving client share one slot.
    const isMoved = await first!.handOver();
    tour.examine("limits", "move of a client whose user has all slots", true, isMoved);
    await tour.pause(FREE_MS);
  });
  // Ending a connection takes another round trip.
  if (tour.settings.has("hardened")) await tour.pause(FREE_MS);
  const left = await tour.node(0).server.sessions("guest-user");
  tour.examine("limits", "sessions of the user afterwards", "0", left.length);
}

/**
 * Examines users of the workload whose slots survived the faults. Each slot must be free or used by
 * a session.
 */
async function visitWorkers(tour: Tour): Promise<void> {
  const { maxSessionsPerUser: max, hasExactPlaces } = tour.settings.terms;
  // Nodes that share nothing count separately.
  if (!hasExactPlaces || tour.settings.terms.isApart) return;
  const count = new Map<string, number>();
  for (const { server } of tour.nodes) {
    for (const { user } of server.manager.all()) {
      if (!user.startsWith(GUEST)) count.set(user, (count.get(user) ?? 0) + 1);
    }
  }
  await Promise.all(
    [...count].slice(0, MAX_WORKERS).map(async ([user, taken], number) => {
      const open = (i: number) =>
        tour.guest(tour.host(`as-${user}-${i}`), user, tour.node(number + i), {
          token: () => tour.tokens.make(user),
        });
      const clients = Array.from({ length: max - taken }, (_, i) => open(i));
      const outcomes = await Promise.all(clients.map((client) => tour.outcome(client)));
      const expected = clients.map(() => "connected");
      tour.examine(
        "limits",
        `places of ${user}, with ${taken} of ${max} sessions`,
        expected,
        outcomes,
      );
      await Promise.all(clients.map((client) => client.close()));
    }),
  );
}

/** Examines the sessions of one address on one node. */
async function visitAddress(tour: Tour): Promise<void> {
  const host = tour.host("address");
  const node = tour.node(1);
  const max = LIMITS.maxSessionsPerAddress;
  const open = (name: string) => tour.guest(host, name, node);
  await visitPlaces(tour, { of: "address", max, open });
}

/** Limited slots. */
interface Places {
  /** A noun for the owner of the slots. */
  readonly of: string;
  readonly max: number;
  /** Connects a guest. */
  readonly open: (name: string, number: number) => Client;
}

/** Fills all slots twice. Another session is rejected until a slot is free. */
async function visitPlaces(
  tour: Tour,
  { of, max, open }: Places,
  onceFull: (clients: readonly Client[]) => Promise<void> = async () => {},
): Promise<void> {
  const openAll = async (round: number) => {
    const clients: Client[] = [];
    for (let i = 0; i < max; i++) {
      const client = open(`${of}-${round}-${i}`, i + round);
      clients.push(client);
      const outcome = await tour.outcome(client);
      tour.examine("limits", `session ${i + 1} of ${max} of one ${of}`, "connected", outcome);
    }
    return clients;
  };
  const clients = await openAll(0);
  await onceFull(clients);
  const extra = open(`${of}-extra`, max);
  tour.examine(
    "limits",
    `a session beyond those of one ${of}`,
    "rejected 4429",
    await tour.outcome(extra),
  );
  await clients[0]!.close();
  await tour.pause(FREE_MS);
  extra.retryNow();
  const isIn = await tour.until(() => extra.isConnected, FREE_MS);
  tour.examine("limits", `a session in the free slot of one ${of}`, "true", isIn);
  await Promise.all([...clients, extra].map((client) => client.close()));
  if (!tour.settings.terms.hasExactPlaces) return;
  await tour.pause(FREE_MS);
  const again = await openAll(1);
  await Promise.all(again.map((client) => client.close()));
}

/** Examines the subscriptions of one session and the names of topics. */
async function visitTopics(tour: Tour): Promise<void> {
  const client = tour.guest(tour.host("topics"), "topics", tour.node(2));
  await tour.outcome(client);
  const session = client.session;
  if (session === undefined) {
    return tour.examine("limits", "guest with topics", "connected", "none");
  }
  const max = LIMITS.maxTopicsPerSession;
  const long = "talk:".padEnd(MAX_TOPIC_BYTES, "x");
  const subscribe = (topic: string) => outcomeOf(session.subscribe(topic));
  tour.examine("limits", "topic of the longest name", "fulfilled", await subscribe(long));
  tour.examine("limits", "topic of a longer name", "RangeError", await subscribe(`${long}x`));
  for (let i = 1; i < max; i++) {
    tour.examine(
      "limits",
      `subscription ${i + 1}`,
      "fulfilled",
      await subscribe(`talk:guest-${i}`),
    );
  }
  const beyond = await subscribe("talk:guest-beyond");
  tour.examine("limits", `subscription ${max + 1}`, "RequestError too-many", beyond);
  await session.unsubscribe(long);
  const free = await subscribe("talk:guest-beyond");
  tour.examine("limits", "subscription in a free slot", "fulfilled", free);
}

/**
 * Examines pending requests on both sides, with a client that respects the limit and a client that
 * does not.
 */
async function visitRequests(tour: Tour): Promise<void> {
  await Promise.all([
    ask("polite", {}, "QueueFullError"),
    ask("eager", {
      maxRequests: MAX_REQUESTS + 1,
    }, "RequestError too-many"),
  ]);

  async function ask(name: string, options: object, expected: string): Promise<void> {
    const client = tour.guest(tour.host(name), name, tour.node(3), options);
    await tour.outcome(client);
    for (const round of [1, 2]) {
      const outcomes = await Promise.all(
        Array.from(
          { length: MAX_REQUESTS + 1 },
          (_, i) => outcomeOf(client.request("hold", { id: `${name} ${round} ${i}`, ms: 10 })),
        ),
      );
      const rejected = outcomes.filter((outcome) => outcome !== "fulfilled");
      tour.examine(
        "limits",
        `requests of a client (${name}) at once`,
        expected,
        rejected.join(", "),
      );
    }
  }
}

/** Examines a user that sends more messages than its rate allows. */
async function visitRate(tour: Tour): Promise<void> {
  const rate = tour.settings.terms.rates.user;
  if (rate === undefined) return;
  const client = tour.guest(tour.host("rate"), "rate", tour.node(3));
  await tour.outcome(client);
  // The in-band token was a message, too.
  await tour.pause(1_000);
  const ask = async (count: number) => {
    const asked = Array.from({ length: count }, () => outcomeOf(client.request("echo", {})));
    const outcomes = await Promise.all(asked);
    const others = outcomes.filter((name) =>
      name !== "fulfilled" && name !== "RequestError too-many"
    );
    tour.examine("limits", "other outcomes beyond a rate", "none", others[0] ?? "none");
    return outcomes.filter((name) => name === "fulfilled").length;
  };
  const most = rate.burst + 10;
  const first = await ask(most);
  // The bucket refills with some tokens while the requests arrive.
  const isBurst = first >= rate.burst && first <= rate.burst + 2;
  tour.examine("limits", `${first} of ${most} requests within a burst`, "true", isBurst);
  await tour.pause(1_000);
  const second = await ask(most);
  const isRate = second >= rate.perSecond && second <= rate.perSecond + 2;
  tour.examine("limits", `${second} of ${most} requests a second later`, "true", isRate);
}

/** Examines messages of the maximum size and of one byte more. */
async function visitSizes(tour: Tour): Promise<void> {
  for (const extra of [0, 1]) {
    const { socket, closed } = openPage(tour, "sizes", tour.node(0));
    const empty = JSON.stringify({ topic: "page", data: "" }).length;
    socket.onopen = () => {
      const data = "x".repeat(MAX_MESSAGE_BYTES + extra - empty);
      socket.send(JSON.stringify({ topic: "page", data }));
      void tour.pause(FREE_MS).then(() => socket.close(1_000));
    };
    const code = await tour.inTime(closed, 8_000, "no end");
    const expected = extra === 0 ? "1000" : "4413";
    tour.examine("limits", `end of a page with ${extra} bytes too many`, expected, code);
  }
  const client = tour.guest(tour.host("sender"), "large", tour.node(0));
  await tour.outcome(client);
  const send = () => client.send("page", "x".repeat(MAX_MESSAGE_BYTES));
  tour.examine(
    "limits",
    "message that is too large",
    "RangeError",
    await outcomeOf(Promise.try(send)),
  );
}

/** Examines a peer that opens a session and sends nothing. */
async function visitHandshake(tour: Tour): Promise<void> {
  const { closed } = openPage(tour, "mute", tour.node(1), ["skein.1", "skein.auth"], "");
  const startMs = tour.nowMs;
  const code = await tour.inTime(closed, HANDSHAKE_MS + 2_000, "no end");
  const tookMs = tour.nowMs - startMs;
  const isInTime = tookMs >= HANDSHAKE_MS && tookMs <= HANDSHAKE_MS + 200;
  tour.examine(
    "limits",
    "session of a peer that sends no token",
    "4408 in time",
    isInTime ? `${code} in time` : `${code} after ${Math.round(tookMs)} ms`,
  );
}

function openPage(
  tour: Tour,
  name: string,
  node: ClusterNode,
  protocols: readonly string[] = [],
  token: string = tour.token(name),
) {
  const url = new URL(`wss://${node.host.name}/`);
  if (token !== "") url.searchParams.set("token", token);
  const socket = tour.network.sockets(tour.host(name))(url, protocols);
  const { promise: closed, resolve } = Promise.withResolvers<number>();
  socket.onclose = ({ code }) => resolve(code);
  return { socket, closed };
}

function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "fulfilled", nameOfError);
}
