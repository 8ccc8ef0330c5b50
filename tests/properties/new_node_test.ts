/**
 * A node that has just started. It must reach the users on the other nodes and enforce their
 * limits.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { range } from "./outcomes.ts";
import { BEAT_MS, GONE_MS, TRIP_MS } from "./nodes.ts";
import { property } from "./property.ts";
import { byToken } from "./world.ts";

const TOPIC = "note";

property("a node that has just started reaches and limits the sessions of other nodes", {
  cases: fc.record({
    sessions: fc.integer({ min: 1, max: 2 }),
    /** Pauses before each message to the user, starting when the new node starts. */
    pausesMs: fc.array(fc.nat(175), { minLength: 1, maxLength: 4 }),
    actMs: fc.nat(700),
    ends: fc.boolean(),
  }),
  async check(world, { sessions, pausesMs, actMs, ends }) {
    const store = await world.store("memory");
    const start = (name: string) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: store.broker(host)!,
        node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
        limits: { maxSessionsPerUser: sessions },
        onMessage() {},
      }));
    const first = start("first");
    const got: unknown[][] = [];
    const codes: number[] = [];
    const clients = range(1, sessions).map((i) => {
      const own: unknown[] = got[i - 1] = [];
      return world.connect(`client-${i}`, first.host, {
        token: "ada",
        onMessage: ({ topic, data }) => void (topic === TOPIC && own.push(data)),
        onMessageRejected() {},
      });
    });
    await world.until("sessions", () => clients.every(({ isConnected }) => isConnected));
    for (const client of clients) {
      void client.session!.closed.then(({ code }) => codes.push(code));
    }
    await world.pause(TRIP_MS);

    const young = start("young");
    const sending = (async () => {
      for (const [n, pauseMs] of pausesMs.entries()) {
        young.server.to("ada").send(TOPIC, n);
        await world.pause(pauseMs);
      }
    })();
    await world.pause(actMs);
    const listed = young.server.sessions("ada");
    const beyond = world.connect("beyond", young.host, { token: "ada", onMessageRejected() {} });
    await world.until("a rejection", () => "cause" in beyond.status.current);
    assert(!beyond.isConnected);
    await beyond.close();
    assertEquals((await listed).length, sessions);
    await sending;
    await world.pause(TRIP_MS);
    assertEquals(got, clients.map(() => [...pausesMs.keys()]));
    if (!ends) return;
    const ended = await young.server.disconnect("ada", { code: CloseCode.forbidden });
    assertEquals(ended, { closed: sessions, isComplete: true });
    await world.pause(TRIP_MS);
    assertEquals(codes, clients.map(() => CloseCode.forbidden));
    const next = world.connect("next", young.host, { token: "ada" });
    await world.until("a session in a free slot", () => next.isConnected);
  },
});
