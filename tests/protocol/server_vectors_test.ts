import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { DrainOptions } from "../../manager/drain.ts";
import { AuthenticationError, RequestError } from "../../errors.ts";
import type { AnyContract } from "../../session/contract.ts";
import type { Session } from "../../session/session.ts";
import { passTime, turns } from "../../testing/turns.ts";
import { type TestServer, testServer } from "../../testing/test_server.ts";
import { Peer } from "../sessions.ts";
import { Envelopes } from "./asyncapi.ts";
import { Names, Outgoing, type Vector, vectorFiles } from "./vectors.ts";

/** The settings that vectors for servers use. */
interface Given {
  /** Offered by the client; `skein.1` where it is left out. */
  readonly protocols?: readonly string[];
  /** In the upgrade request. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Path and query of the upgrade request. */
  readonly path?: string;
  /** Tokens that are accepted, with the user of each; without them no token is asked for. */
  readonly tokens?: Readonly<Record<string, string>>;
  /** Whether tokens are taken in band. */
  readonly acceptsTokenInBand?: boolean;
  /** The user of a client without a token; without one it is refused. */
  readonly guest?: string;
  /** Topics that clients may subscribe to and publish on. */
  readonly allowed?: readonly string[];
  /** Patterns of topics with a history, with the number of messages that each keeps. */
  readonly history?: Readonly<Record<string, number>>;
  /** Whether what clients publish carries their users. */
  readonly namesPublishers?: boolean;
  /** Patterns of topics that are rooms. */
  readonly rooms?: readonly string[];
}

const envelopes = new Envelopes();

type ServerSession = Session<string | undefined, AnyContract, "server">;

/** The server of all vectors: what its application does is in the README of the vectors. */
function serverOf(
  given: Given,
  { seen, onOpen }: { seen: unknown[]; onOpen: (session: ServerSession) => void },
): TestServer<string | undefined> {
  const { tokens, guest, allowed, history = {}, rooms = [] } = given;
  return testServer<string | undefined>({
    onRefusal() {},
    onError() {},
    onOpen: (session) => void onOpen(session),
    rooms: [...rooms],
    namesPublishers: given.namesPublishers ?? false,
    history: Object.fromEntries(
      Object.entries(history).map(([pattern, size]) => [pattern, { size }]),
    ),
    ...(allowed && { authorize: (_, topic) => allowed.includes(topic) }),
    ...(tokens && {
      authenticate: ({ token }) => {
        const user = token === undefined ? guest : tokens[token];
        if (user === undefined) throw new AuthenticationError("Unknown token");
        return user;
      },
    }),
    acceptsTokenInBand: given.acceptsTokenInBand ?? false,
    onMessage: async (message) => {
      seen.push({ topic: message.topic, data: message.data });
      switch (message.topic) {
        case "echo":
          return void message.reply(message.data);
        case "deny":
          throw new RequestError("denied", "Not today");
        case "fail":
          throw new Error("Internal detail");
        case "hang":
          await new Promise<void>((resolve) =>
            message.signal.addEventListener("abort", () => resolve(), { once: true })
          );
      }
    },
  });
}

async function run({ given = {}, steps }: Vector): Promise<void> {
  using time = new FakeTime();
  const seen: unknown[] = [];
  let session: ServerSession | undefined;
  const names = new Names();
  const setup = given as Given;
  await using server = serverOf(setup, { seen, onOpen: (opened) => session = opened });
  const connection = await server.open({
    ...(setup.headers && { headers: setup.headers }),
    ...(setup.path && { path: setup.path }),
    ...(setup.protocols && { protocols: setup.protocols }),
  });
  const peer = new Peer(connection);
  const outgoing = new Outgoing(peer.frames);
  await turns();
  for (const [i, step] of steps.entries()) {
    const where = `step ${i}: ${JSON.stringify(step)}`;
    if ("receive" in step) {
      peer.say(step.receive.map((template) => JSON.stringify(names.fill(template))).join("\n"));
    } else if ("receiveText" in step) peer.say(step.receiveText);
    else if ("receiveBinary" in step) peer.say(Uint8Array.fromHex(step.receiveBinary));
    else if ("send" in step) {
      for (const template of step.send) names.check(outgoing.next(), template, where);
    } else if ("sendBinary" in step) {
      const frame = outgoing.next();
      assert(frame instanceof Uint8Array, `${where}: a binary frame`);
      assertEquals(frame.toHex(), step.sendBinary, where);
    } else if ("sees" in step) names.check(seen.splice(0), step.sees, where);
    else if ("closes" in step) {
      await turns();
      assertEquals((await peer.closed).closeCode, step.closes, where);
    } else if ("closed" in step) {
      connection.close({ closeCode: step.closed, reason: "" });
    } else if ("waitMs" in step) await passTime(time, step.waitMs);
    else if ("do" in step) act(step.do, server);
    else throw new TypeError(`Cannot run a step for a server: ${where}`);
    await turns();
  }
  assertEquals(outgoing.rest(), [], "Nothing else went out");
  for (const envelope of peer.envelopes) {
    assertEquals(envelopes.faults("server", envelope), [], JSON.stringify(envelope));
  }

  function act(
    verbs: Readonly<Record<string, unknown>>,
    server: TestServer<string | undefined>,
  ): void {
    for (const [verb, value] of Object.entries(verbs)) {
      const [topic, data] = value as [string, unknown];
      if (verb === "publish") server.publish(topic, data);
      else if (verb === "send") session!.send(topic, data);
      else if (verb === "subscribe") server.subscribe(session!, topic);
      else if (verb === "unsubscribe") server.unsubscribe(session!, topic);
      else if (verb === "drain") void server.drain(value as DrainOptions);
      else if (verb === "request") {
        session!.request(topic, data).then(
          (answer: unknown) => void seen.push({ answer }),
          (error) =>
            void seen.push({
              error: error instanceof RequestError ? error.failure.code : error.name,
            }),
        );
      } else throw new TypeError(`Cannot do: ${verb} is no verb of a server`);
    }
  }
}

for (const [file, { vectors }] of vectorFiles("server")) {
  for (const vector of vectors) {
    Deno.test(`Server passes ${file}: ${vector.name}`, () => run(vector));
  }
}
