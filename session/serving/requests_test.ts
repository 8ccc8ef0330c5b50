import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { Network } from "../../tests/clients.ts";
import { endOf, serverByHand } from "../../tests/sessions.ts";
import { turns } from "../../tests/waiting.ts";
import { RequestService, type SessionServices } from "./requests.ts";

/** Services that note each call at its start and at its end, which `open` allows. */
function held(): { services: RequestService; log: string[]; open: (call: string) => void } {
  const log: string[] = [];
  const gates = new Map<string, PromiseWithResolvers<void>>();
  const call = async (name: string) => {
    log.push(name);
    const gate = Promise.withResolvers<void>();
    gates.set(name, gate);
    await gate.promise;
    log.push(`${name}!`);
    return {};
  };
  const services: SessionServices = {
    subscribe: (_session, topic) => call(`subscribe ${topic}`),
    unsubscribe: (_session, topic) => call(`unsubscribe ${topic}`),
    publish: (_session, topic, data) => call(`publish ${data} ${topic}`),
    authenticate: async (_session, token) => {
      await call(`auth ${token}`);
      return { value: token, user: undefined };
    },
  };
  const open = (name: string) => gates.get(name)!.resolve();
  return { services: new RequestService(platformRuntime(), services), log, open };
}

Deno.test("Publications run in order on a topic, and next to each other on several topics", async () => {
  const { services, log, open } = held();
  await using client = new Network({ services }).client();
  const session = await client.whenConnected();
  const made = Promise.all([
    session.publish("a", 1),
    session.publish("a", 2),
    session.publish("b", 3),
  ]);
  await turns();
  assertEquals(log, ["publish 1 a", "publish 3 b"]);
  open("publish 1 a");
  await turns();
  assertEquals(log.slice(2), ["publish 1 a!", "publish 2 a"]);
  for (const call of ["publish 2 a", "publish 3 b"]) open(call);
  await made;
});

Deno.test("Publications and other requests on the same topic keep their order; tokens come before later publications", async () => {
  const { services, log, open } = held();
  await using client = new Network({ services }).client();
  const session = await client.whenConnected();
  const made = Promise.all([
    session.subscribe("a"),
    session.publish("a", 1),
    session.publish("b", 2),
    session.unsubscribe("a"),
    session.authenticate("t"),
    session.publish("c", 3),
  ]);
  await turns();
  const order = ["subscribe a", "publish 1 a", "unsubscribe a", "auth t", "publish 3 c"];
  assertEquals(log, [order[0]!, "publish 2 b"]);
  for (const [i, call] of order.entries()) {
    assertEquals(log.at(-1), i === 0 ? "publish 2 b" : call);
    open(call);
    await turns();
  }
  open("publish 2 b");
  await made;
});

Deno.test("Other requests overtake a publication that the application decides about, and those after it", async () => {
  const { services: { services }, log, open } = held();
  const holds: (() => void)[] = [];
  const holding = new RequestService(platformRuntime(), {
    ...services,
    publish(session, topic, data, request) {
      holds.push(request.onHeld);
      return services.publish!(session, topic, data, request);
    },
  });
  await using client = new Network({ services: holding }).client();
  const session = await client.whenConnected();
  const made: Promise<unknown>[] = [
    session.publish("a", 1),
    session.publish("a", 2),
    session.unsubscribe("a"),
    session.publish("a", 3),
    session.subscribe("b"),
    session.authenticate("t"),
  ];
  await turns();
  assertEquals(log, ["publish 1 a"]);
  holds[0]!();
  for (const call of ["unsubscribe a", "subscribe b", "auth t"]) {
    await turns();
    assertEquals(log.at(-1), call);
    open(call);
  }
  await turns();
  assertEquals(log.length, 7);
  // The next publication delays other requests until the application decides about it.
  open("publish 1 a");
  await turns();
  made.push(session.subscribe("a"));
  await turns();
  assertEquals(log.slice(7), ["publish 1 a!", "publish 2 a"]);
  holds[1]!();
  await turns();
  assertEquals(log.at(-1), "subscribe a");
  for (const call of ["subscribe a", "publish 2 a", "publish 3 a"]) {
    open(call);
    await turns();
  }
  await Promise.all(made);
});

Deno.test("A publication waits for the second of two earlier requests on its topic", async () => {
  const { services, log, open } = held();
  await using client = new Network({ services }).client();
  const session = await client.whenConnected();
  const made: Promise<unknown>[] = [session.subscribe("a"), session.unsubscribe("a")];
  await turns();
  open("subscribe a");
  await turns();
  made.push(session.publish("a", 1));
  await turns();
  assertEquals(log, ["subscribe a", "subscribe a!", "unsubscribe a"]);
  open("unsubscribe a");
  await turns();
  assertEquals(log.slice(3), ["unsubscribe a!", "publish 1 a"]);
  open("publish 1 a");
  await Promise.all(made);
});

Deno.test("A session has at most 32 publications at once, and lets a bounded number wait", async () => {
  const { services, log, open } = held();
  await using hand = serverByHand({ services, maxRequests: 8 });
  await hand.peer.reach(1);
  // 8 requests and 32 subscriptions may wait.
  for (let id = 0; id < 73; id++) hand.peer.say({ publish: `t${id}`, data: id, id });
  await turns();
  assertEquals(log.length, 32);
  const message = "Too many requests are waiting";
  assertEquals(hand.peer.envelopes.slice(1), [{ reply: 72, error: { code: "too-many", message } }]);
  open("publish 5 t5");
  await turns();
  assertEquals(log.slice(32), ["publish 5 t5!", "publish 32 t32"]);
  // Publications that wait end with the session.
  hand.peer.connection.close();
  await endOf(hand.session);
  for (let n = 0; n < 33; n++) if (n !== 5) open(`publish ${n} t${n}`);
  await turns();
  assertEquals(log.filter((call) => !call.endsWith("!")).length, 33);
});
