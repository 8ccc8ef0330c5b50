/**
 * Feeds arbitrary input from many clients to a server at the same time.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { AuthenticationError, ConnectionError, SkeinError } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import { assertNoLeaks, testServer, turns } from "../../testing/mod.ts";
import type { Connection } from "../../transport/connection.ts";
import type { Random } from "../random.ts";
import { rejectsOnlyBy } from "./expect.ts";
import { mutateText } from "./mutate.ts";
import { anyFrame, checkFaults } from "./session.ts";

/** The number of inputs for one server before it closes. */
const INPUTS_PER_SERVER = 250;

const PATHS = ["/", "/?token=ann", "/?token=bob&x=1", "/?protocol=skein.1", "/rooms/a"];

/**
 * Feeds session requests, frames, faults and publications to a real server.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export async function fuzzServer(random: Random, rounds: number): Promise<void> {
  for (let done = 0; done < rounds; done += INPUTS_PER_SERVER) {
    await oneServer(random, Math.min(INPUTS_PER_SERVER, rounds - done));
  }
}

async function oneServer(random: Random, inputs: number): Promise<void> {
  let opened = 0;
  let closed = 0;
  const faults: unknown[] = [];
  const server = testServer<string>({
    limits: { maxSessions: 12, maxSessionsPerUser: 4, maxTopicsPerSession: 3 },
    session: {
      maxMessageBytes: 2_048,
      sendQueue: { maxMessages: 16, policy: random.pick(["close", "drop-oldest"]) },
      closeTimeoutMs: 20,
      handshakeTimeoutMs: 20,
    },
    presence: { graceMs: 0 },
    rooms: ["room:{name}"],
    tokens: { inMessage: random.below(2) === 0 },
    ...(random.below(2) === 0 ? {} : {
      authenticate: async ({ token }) => {
        if (random.below(4) === 0) await turns(random.below(3));
        if (token === undefined || random.below(8) === 0) throw new AuthenticationError("No");
        return token;
      },
    }),
    authorize: async () => {
      if (random.below(4) === 0) await turns(random.below(3));
      if (random.below(64) === 0) throw new Error("authorize failed");
      return random.below(4) > 0;
    },
    onOpen: () => void opened++,
    onClose: () => void closed++,
    onMessage: (message, session) => {
      if (random.below(16) === 0) throw new Error("A handler failed");
      if (message.isRequest) message.reply(1);
      if (random.below(4) === 0 && message.topic.length < 64) server.subscribe(session, "news");
    },
    onError: (error) => void faults.push(error),
    onSessionRejected() {},
  });
  const peers = new Set<Connection>();
  const asked = new Set<Promise<unknown>>();
  const ask = async () => {
    const made = await rejectsOnlyBy(
      () =>
        server.open({
          path: random.below(4) === 0
            ? encodeURI(mutateText(random, PATHS).toWellFormed())
            : random.pick(PATHS),
          protocols: random.pick([["skein.1"], ["skein.1", "other"], [], ["other"]]),
          headers: random.pick<HeadersInit>([{}, { authorization: "Bearer ann" }, {
            cookie: "a=b",
          }]),
          address: random.pick(["192.0.2.1", "2001:db8::1", "nowhere"]),
        }),
      ConnectionError,
      TypeError,
    );
    if (!made.ok) return;
    const connection = made.value;
    peers.add(connection);
    connection.frames?.receive({ receiveFrame() {}, framesEnded() {} });
    const leave = () => void peers.delete(connection);
    connection.closed.then(leave, leave);
  };
  for (let i = 0; i < inputs; i++) {
    const [peer] = peers.size > 0 ? [random.pick([...peers])] : [];
    const kind = peer === undefined ? 0 : random.below(32);
    if (kind < 2) {
      const asking = ask();
      asked.add(asking);
      void asking.then(() => asked.delete(asking));
      if (random.below(2) === 0) await turns(1);
    } else if (kind < 26) peer!.frames?.send(anyFrame(random));
    else if (kind < 27) peer!.close({ closeCode: random.pick([0, 3_000, 4_999]) });
    else if (kind < 28) disturbServer(random, server.network);
    else if (kind < 29) server.publish("news", i);
    else if (kind < 30) server.to("ann").send("letter", i);
    else await turns(1);
    assert(server.manager.count + server.manager.stats().reserved <= 12);
    const held = server.manager.all().every((session: Session) =>
      server.topics.topicsOf(session).length <= 3
    );
    assert(held, "a session has at most three topics");
  }
  server.network.resume();
  await Promise.all(asked);
  if (random.below(4) === 0) {
    const drained = await rejectsOnlyBy(() => server.drain({ withinMs: 5 }), SkeinError);
    assert(drained.ok);
  }
  for (const peer of peers) peer.close();
  server.network.disconnect();
  await assertNoLeaks(server, { withinMs: 2_000 });
  assertEquals(closed, opened);
  checkFaults(faults);
  await server.close();
}

function disturbServer(
  random: Random,
  network: { stall(): void; resume(): void; disconnect(options: { silent: boolean }): void },
): void {
  switch (random.below(12)) {
    case 0:
      return network.stall();
    case 1:
      return network.disconnect({ silent: random.below(2) === 0 });
    default:
      return network.resume();
  }
}
