/**
 * Tests the errors for wrong arguments of a server's calls: each names the call, the argument and
 * what was received.
 *
 * @module
 */
import { assertRejects } from "@std/assert";
import { liveState } from "../streams/mod.ts";
import { testServer } from "../testing/mod.ts";

Deno.test("A server's calls reject arguments of another type by name", async () => {
  const states = liveState();
  await using server = testServer({ features: [states] });
  await using state = await states.open("board");
  const rows = state.collection<object>("cards");
  await rows.set("k", { n: 1 });
  const ann = "ann" as never;
  const missing = undefined as never;
  const session =
    'session must be a Session, received "ann"; server.sessions("ann") lists a user\'s sessions';
  const cases: [call: () => unknown, message: string][] = [
    [() => server.subscribe(ann, "chat"), `Cannot subscribe: ${session}`],
    [() => server.unsubscribe(ann, "chat"), `Cannot unsubscribe: ${session}`],
    [() => server.rooms.join(ann, "tea"), `Cannot join: ${session}`],
    [() => server.rooms.leave(ann, "tea"), `Cannot leave: ${session}`],
    [() => server.rooms.update(ann, "tea"), `Cannot update: ${session}`],
    [
      () => server.subscribe(missing, "chat"),
      "Cannot subscribe: session must be a Session, received undefined",
    ],
    [() => server.to(missing).send("x"), "Cannot send: user must be a string, received undefined"],
    [() => server.sessions(5 as never), "Cannot list sessions: user must be a string, received 5"],
    [() => server.disconnect(5 as never), "Cannot disconnect: user must be a string, received 5"],
    [() => states.open(missing), "Cannot open state: id must be a string, received undefined"],
    [
      () => state.transaction(missing),
      "Cannot run transaction: change must be a function, received undefined",
    ],
    [
      () => rows.update("k", { n: 1 } as never),
      'Cannot update "k": change must be a function, received Object',
    ],
    [
      () => rows.update("k", (() => {}) as never),
      'Cannot update "k": its function must return the changed row, received undefined',
    ],
    [
      () => rows.update("k", (async () => {}) as never),
      'Cannot update "k": its function must return the changed row, received undefined',
    ],
  ];
  for (const [call, message] of cases) {
    await assertRejects(async () => await call(), TypeError, message);
  }
});
