import { assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { LimitError } from "../../errors.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { until } from "../../tests/waiting.ts";
import { EventBodies, STALLED_MS } from "./event_bodies.ts";
import { MIN_UNREAD_BYTES, PIECE_BYTES, unreadQuota, UnreadResponse } from "./unread.ts";

/** Creates responses for clients at addresses, of which each may have 1,000 that it doesn't read. */
function clients() {
  const quotas = new Quotas(platformRuntime());
  const quota = unreadQuota(quotas);
  const responseTo = (address: string, completed?: Promise<unknown>) =>
    new UnreadResponse({
      quota,
      accountOf: () => quotas.accounts.of({ address }),
      info: completed === undefined ? {} : { completed },
    });
  const fill = (address: string): number => {
    for (let count = 0;; count++) {
      try {
        responseTo(address).take(1);
      } catch (error) {
        assertEquals(error instanceof LimitError && error.level, "address");
        return count;
      }
    }
  };
  return { quota, responseTo, fill };
}

/** Opens a response with events, whose pages a test gives one by one. */
function events(unread: UnreadResponse) {
  const bodies = new EventBodies({
    runtime: platformRuntime(),
    lifeMs: 600_000,
    onError(error) {
      throw error;
    },
  });
  const pages: PromiseWithResolvers<string>[] = [Promise.withResolvers()];
  let at = 0;
  const give = (text: string) => {
    pages.push(Promise.withResolvers());
    pages.at(-2)!.resolve(text);
  };
  const ended = new AbortController();
  async function* rest() {
    while (true) yield await pages[at++]!.promise;
  }
  const bytes = (text: string) => new TextEncoder().encode(text);
  const body = bodies.open({
    first: "first, and more follow",
    rest: rest(),
    write: (page) => ({ bytes: bytes(page), isLast: false, isUpToDate: !page.includes("more") }),
    ended,
    unread,
    onEnd() {},
  });
  return { bodies, give, reader: body.getReader(), ended };
}

Deno.test("UnreadResponse lets an address have 1,000 unread responses, and another one the rest", () => {
  const { quota, responseTo, fill } = clients();
  assertEquals(fill("203.0.113.66"), 1_000);
  const ann = responseTo("198.51.100.7");
  ann.take(1);
  assertEquals(quota.taken, 1_001 * MIN_UNREAD_BYTES);
  ann.release();
  // A /48 has the shares of several addresses, and at most half of all.
  const networks = Array.from({ length: 0x200 }, (_, i) => `2001:db8:66:${i.toString(16)}00::1`);
  assertEquals(networks.slice(0, 8).map(fill).reduce((sum, count) => sum + count), 2_048);
  ann.take(1);
});

Deno.test("UnreadResponse.respond() counts the bytes of a large body until they are read", async () => {
  const { quota, responseTo } = clients();
  const short = responseTo("192.0.2.1").respond("x".repeat(PIECE_BYTES));
  assertEquals(quota.taken, 0);
  assertEquals((await short.text()).length, PIECE_BYTES);

  const text = "é".repeat(500_000);
  const response = responseTo("192.0.2.1").respond(text, { status: 203 });
  assertEquals(response.status, 203);
  assertEquals(response.headers.get("content-length"), "1000000");
  assertEquals(response.headers.get("content-type"), "text/plain;charset=UTF-8");
  assertEquals(quota.taken, MIN_UNREAD_BYTES - PIECE_BYTES + 1_000_000);
  assertEquals(await response.text() === text, true);
  assertEquals(quota.taken, 0);

  await responseTo("192.0.2.1").respond(text).body!.cancel();
  assertEquals(quota.taken, 0);
});

for (const outcome of ["resolves", "rejects"] as const) {
  Deno.test(`UnreadResponse counts a body that was taken until the HTTP server's report ${outcome}`, async () => {
    const { quota, responseTo } = clients();
    const completed = Promise.withResolvers<void>();
    const response = responseTo("192.0.2.1", completed.promise).respond("x".repeat(100_000));
    await response.text();
    assertEquals(quota.taken > 0, true);
    if (outcome === "resolves") completed.resolve();
    else completed.reject(new Error("The client left"));
    await completed.promise.catch(() => {});
    await Promise.resolve();
    assertEquals(quota.taken, 0);
  });
}

Deno.test("EventBodies.open() counts a reader until it has caught up, and rejects those beyond the share", async () => {
  const { quota, responseTo, fill } = clients();
  const first = events(responseTo("203.0.113.66"));
  assertEquals(quota.taken, MIN_UNREAD_BYTES);
  await first.reader.read();
  first.give("second, and more follow");
  await first.reader.read();
  assertEquals(quota.taken, MIN_UNREAD_BYTES);
  first.give("third");
  await first.reader.read();
  const next = first.reader.read();
  await until(() => quota.taken === 0);
  assertEquals(fill("203.0.113.66"), 1_000);
  assertThrows(() => events(responseTo("203.0.113.66")), LimitError, "your address");
  // A reader that has caught up is served.
  first.give("fourth");
  assertEquals((await next).done, false);
  first.ended.abort();
});

Deno.test("EventBodies.open() ends readers that leave a page unread if their address has too many", async () => {
  using time = new FakeTime();
  const { quota, responseTo, fill } = clients();
  const sent = Promise.withResolvers<void>();
  const { bodies, give, reader } = events(responseTo("203.0.113.66", sent.promise));
  await reader.read();
  const second = reader.read();
  // A reader that waits for the next page for a second has caught up.
  await time.tickAsync(1_000);
  assertEquals(quota.taken, 0);
  give("second");
  assertEquals((await second).done, false);
  assertEquals(fill("203.0.113.66"), 1_000);
  await time.tickAsync(999);
  assertEquals(bodies.stalled, 0);
  await time.tickAsync(1);
  assertEquals(bodies.stalled, 1);
  // The connection has the page until the client reads it or leaves.
  assertEquals(quota.taken, 1_001 * MIN_UNREAD_BYTES);
  sent.resolve();
  await time.tickAsync(0);
  assertEquals(quota.taken, 1_000 * MIN_UNREAD_BYTES);
});

Deno.test("EventBodies.open() counts a stalled reader until its client has left", async () => {
  using time = new FakeTime();
  const { quota, responseTo } = clients();
  const sent = Promise.withResolvers<void>();
  const { bodies, give, reader } = events(responseTo("203.0.113.66", sent.promise));
  await reader.read();
  give("second, and more follow");
  await reader.read();
  await time.tickAsync(STALLED_MS);
  assertEquals([bodies.stalled, quota.taken], [1, MIN_UNREAD_BYTES]);
  sent.resolve();
  await time.tickAsync(0);
  assertEquals(quota.taken, 0);
});
