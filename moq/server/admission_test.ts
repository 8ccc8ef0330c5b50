import { assertEquals, assertThrows } from "@std/assert";
import { MoqRejection, SessionLeases } from "./admission.ts";
import { isPrivateAddress } from "../../base/network_address.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import type { MoqServerOptions } from "./server_options.ts";

function leasesOf(limits: MoqServerOptions["limits"]): SessionLeases {
  return new SessionLeases(new Quotas(platformRuntime(), { isProxy: isPrivateAddress }), limits);
}

function rejectionOf(leases: SessionLeases, address?: string): MoqRejection {
  return assertThrows(() => leases.take(address), MoqRejection);
}

function statusOf(leases: SessionLeases, address?: string): number {
  return rejectionOf(leases, address).status;
}

Deno.test("SessionLeases.take() rejects beyond each limit, until a slot is released", () => {
  const leases = leasesOf({ maxSessions: 3, maxSessionsPerAddress: 2, maxPendingSetups: 2 });
  const one = leases.take("2001:db8::1");
  one.setupEnded();
  one.setupEnded();
  const two = leases.take("2001:db8::2"); // The same /64.
  assertEquals(statusOf(leases, "2001:db8::3"), 429);
  const three = leases.take(undefined);
  assertEquals([statusOf(leases, "192.0.2.1"), leases.count], [429, 3]);
  one.closing();
  one[Symbol.dispose]();
  one[Symbol.dispose]();
  assertEquals([statusOf(leases, "192.0.2.1"), leases.count], [503, 2]);
  two.setupEnded();
  leases.take("192.0.2.1")[Symbol.dispose]();
  two[Symbol.dispose]();
  three[Symbol.dispose]();
  assertEquals(leases.count, 0);
});

Deno.test("SessionLeases.take() applies shares per address once half is in use, and names the level", () => {
  const leases = leasesOf({ maxSessions: 2_400, maxPendingSetups: 16 });
  const connect = (address: string) => leases.take(address).setupEnded();
  for (let i = 0; i < 1_200; i++) connect("192.0.2.1");
  const { status, message } = rejectionOf(leases, "192.0.2.1");
  assertEquals(
    [status, message],
    [
      429,
      "Cannot begin session: your address may have at most 1000 sessions at once while the server is busy",
    ],
  );
  // Eight setups, half of all.
  for (let i = 0; i < 8; i++) leases.take("192.0.2.2");
  const { status: later, message: why } = rejectionOf(leases, "192.0.2.2");
  assertEquals(
    [later, why],
    [
      503,
      "Cannot begin session: your address may have at most 2 setups at once while the server is busy",
    ],
  );
  assertEquals(leases.count, 1_208);
  connect("192.0.2.3");
  // The address of a proxy has no share; only the server's limit applies.
  for (let i = 0; i < 1_191; i++) connect("10.0.0.1");
  assertEquals(
    rejectionOf(leases, "192.0.2.3").message,
    "Cannot begin session: this server may have at most 2400 sessions at once",
  );
});
