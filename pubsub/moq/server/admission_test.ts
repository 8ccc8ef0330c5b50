import { assertEquals, assertThrows } from "@std/assert";
import { SessionLeases } from "./admission.ts";
import { MoqRefusal } from "./admission.ts";

function statusOf(leases: SessionLeases, address?: string): number {
  return assertThrows(() => leases.take(address), MoqRefusal).status;
}

Deno.test("Places.take() refuses beyond each limit, until a place is given back", () => {
  const leases = new SessionLeases({
    maxSessions: 3,
    maxSessionsPerAddress: 2,
    maxPendingSetups: 2,
  });
  const one = leases.take("2001:db8::1");
  const two = leases.take("2001:db8::2"); // The same /64.
  assertEquals(statusOf(leases, "2001:db8::3"), 429);
  assertEquals(statusOf(leases, "192.0.2.1"), 503);
  one.setupEnded();
  one.setupEnded();
  const three = leases.take(undefined);
  two.setupEnded();
  assertEquals([statusOf(leases, "192.0.2.1"), leases.count], [429, 3]);
  one.closing();
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  assertEquals(leases.count, 2);
  leases.take("2001:db8::1")[Symbol.dispose]();
  two[Symbol.dispose]();
  three[Symbol.dispose]();
  assertEquals(leases.count, 0);
});
