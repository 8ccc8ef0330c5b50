/** Publications that a server acknowledged, and whose answers are lost with the session: each one settles. */
import { CloseCode } from "../../../../../errors.ts";
import type { SimulatedNetwork } from "../../../../../testing/simulation/network/network.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Frame } from "../../../../../transport/connection.ts";
import { between, oneOf } from "../../chance.ts";
import { type Audit, envelopesOf, hearAll, outcomeOf } from "../audit.ts";
import { range } from "../history.ts";

/** Names of the user who publishes, and of the one who listens. */
const [USER, LISTENER] = ["lost-answers", "lost-answers-listener"] as const;

/** Topic of all publications. */
const TOPIC = "talk:lost-answers";

/** Rounds, and most publications of one round. */
const [ROUNDS, MOST] = [4, 6] as const;

/** Share of rounds in which all publications are acknowledged before the session ends. */
const ACKNOWLEDGED_SHARE = 0.6;

/** Longest time until the end of the session in other rounds, in milliseconds. */
const SOON_MS = 30;

/** Longest time until all publications have an outcome, and time for one that comes twice, in milliseconds. */
const [REST_MS, TRIP_MS] = [6_000, 100] as const;

/** Ends of a session. */
const ENDS = ["a cut", "a cut that no node hears", "a close"] as const;

/**
 * Publishes while acknowledgements arrive and answers do not, and ends the session.
 *
 * @param audit The audit.
 */
export async function auditLostAnswers(audit: Audit): Promise<void> {
  const random = audit.chanceOf(USER);
  const [host, machine] = [audit.host(`${USER}-server`), audit.host(USER)];
  const answers = { areLost: false };
  const { server } = new SimulatedServer(losing(audit.network, answers), host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token,
    userOf: (token) => token,
    authorize: () => true,
    webTransport: false,
    onError() {},
  }));
  const client = audit.connect(USER, host, {
    token: USER,
    delivery: "at-least-once",
    backoff: { firstDelayMs: 50, maxDelayMs: 200 },
    onMessage() {},
    onError() {},
  });
  const listener = audit.connect(LISTENER, host, { token: LISTENER, onMessage() {} });
  const subscription = listener.subscribe(TOPIC);
  const heard: unknown[] = [];
  void hearAll(subscription, ({ data }) => heard.push(data));
  await audit.until(() => client.isConnected && subscription.status.current === "subscribed");
  let next = 0;
  for (let round = 0; round < ROUNDS; round++) {
    answers.areLost = true;
    const { session } = client;
    const outcomes = Array.from(
      { length: Math.ceil(MOST * random()) },
      () => outcomeOf(client.publish(TOPIC, next++)),
    );
    const isAcknowledged = random() < ACKNOWLEDGED_SHARE;
    if (isAcknowledged) await audit.until(() => client.outbox.messages === 0);
    else await audit.pause(between(random, 0, SOON_MS));
    const end = oneOf(random, ENDS);
    const left = client.outbox.messages;
    if (end === "a close") {
      const own = server.manager.sessionsOf(USER);
      for (const one of own) void one.close({ code: CloseCode.draining });
    } else audit.cut(machine, end === "a cut" ? false : "server");
    // In the next session, which may begin at once, an answer that is lost would never come.
    answers.areLost = false;
    await audit.until(() => client.session !== session);
    const about = `${outcomes.length} publications, ${left} not acknowledged before ${end}`;
    const got = await audit.inTime(Promise.all(outcomes), REST_MS, ["no answer"]);
    audit.examine("lives", `outcomes of ${about}`, outcomes.map(() => "fulfilled"), got);
    await audit.until(() => heard.length >= next);
    await audit.pause(TRIP_MS);
    audit.examine("lives", `publications heard behind ${about}`, range(0, next - 1), heard);
    audit.examine("lives", `outbox behind ${about}`, 0, client.outbox.messages);
  }
  await Promise.all([client.close(), listener.close()]);
  await server.close();
}

/** Makes the network of a server whose answers to requests are lost now and then. */
function losing(
  network: SimulatedNetwork,
  answers: { readonly areLost: boolean },
): SimulatedNetwork {
  const lossy: Pick<SimulatedNetwork, "webSocket"> = {
    webSocket: (host) => {
      const http = network.webSocket(host);
      return {
        // Without a handler of upgrades, all upgrades come as requests.
        listen: (options, handler) => http.listen(options, handler),
        accept: (request, options) => {
          const accepted = http.accept(request, options);
          const { frames } = accepted.connection;
          const send = frames?.send.bind(frames);
          const pass = (frame: Frame) => {
            const rest = answers.areLost ? withoutAnswers(frame) : frame;
            if (rest !== "") send!(rest);
          };
          if (frames !== undefined) Object.assign(frames, { send: pass });
          return accepted;
        },
      };
    },
  };
  return lossy as SimulatedNetwork;
}

/** Takes the answers out of a frame. */
function withoutAnswers(frame: Frame): Frame {
  if (typeof frame !== "string") return frame;
  const kept = envelopesOf<{ readonly reply?: unknown }>(frame)
    .filter(({ reply }) => typeof reply !== "number");
  return kept.map((envelope) => JSON.stringify(envelope)).join("\n");
}
