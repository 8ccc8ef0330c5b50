import { assertEquals, assertThrows } from "@std/assert";
import { Places } from "./admission.ts";
import { MoqRefusal } from "./admission.ts";

function statusOf(places: Places, address?: string): number {
  return assertThrows(() => places.take(address), MoqRefusal).status;
}

Deno.test("Places.take() refuses beyond each limit, until a place is given back", () => {
  const places = new Places({ maxSessions: 3, maxSessionsPerAddress: 2, maxPendingSetups: 2 });
  const one = places.take("2001:db8::1");
  const two = places.take("2001:db8::2"); // The same /64.
  assertEquals(statusOf(places, "2001:db8::3"), 429);
  assertEquals(statusOf(places, "192.0.2.1"), 503);
  one.begun();
  one.begun();
  const three = places.take(undefined);
  two.begun();
  assertEquals([statusOf(places, "192.0.2.1"), places.count], [429, 3]);
  one.closing();
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  assertEquals(places.count, 2);
  places.take("2001:db8::1")[Symbol.dispose]();
  two[Symbol.dispose]();
  three[Symbol.dispose]();
  assertEquals(places.count, 0);
});

Deno.test("new Places() rejects limits that make no sense", () => {
  for (const limit of [0, -1, 1.5, NaN]) {
    assertThrows(() => new Places({ maxSessions: limit }), RangeError, `${limit}`);
  }
  new Places({ maxSessions: Infinity });
});
