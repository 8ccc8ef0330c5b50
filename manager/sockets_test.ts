import { assertEquals, assertThrows } from "@std/assert";
import { LimitError } from "../errors.ts";
import { Session } from "../session/session.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { SessionManager } from "./session_manager.ts";

Deno.test("SessionManager.admitSocket() allows twice as many sockets as sessions", () => {
  const manager = new SessionManager({ maxSessions: 2, maxSessionsPerAddress: 1 });
  const [a, b] = [{ address: "192.0.2.1" }, { address: "192.0.2.2" }];
  const taken = [manager.admitSocket(a), manager.admitSocket(a)];
  const perAddress = assertThrows(() => manager.admitSocket(a), LimitError);
  assertEquals(perAddress.limit, "maxSessionsPerAddress");
  taken.push(manager.admitSocket(b), manager.admitSocket());
  const inAll = assertThrows(() => manager.admitSocket(), LimitError);
  assertEquals(inAll.limit, "maxSessions");
  assertEquals(inAll.message, "Cannot upgrade: this server may have at most 4 sockets at once");
  assertEquals(manager.stats().sockets, { open: 4, lingering: 0, rejected: 2 });
  taken[0]![Symbol.dispose]();
  taken.push(manager.admitSocket(a));
  for (const lease of taken) lease[Symbol.dispose]();
  assertEquals(manager.stats().sockets, { open: 0, lingering: 0, rejected: 2 });
});

Deno.test("SessionManager.admitSocket() allows another socket for each client that moves", async () => {
  await using beside = new Session(memoryPair().server, sessionSettings({ side: "server" }));
  const bounds = [
    { limits: { maxSessions: 1 } },
    { limits: { maxSessionsPerAddress: 1 }, address: "192.0.2.1" },
  ];
  for (const { limits, address } of bounds) {
    const manager = new SessionManager(limits);
    const stranger = { address };
    const mover = { ...stranger, beside };
    for (let i = 0; i < 2; i++) manager.admitSocket(stranger);
    assertThrows(() => manager.admitSocket(stranger), LimitError, "at most 2 sockets");
    manager.admitSocket(mover);
    assertThrows(() => manager.admitSocket(mover), LimitError, "at most 3 sockets");
  }
});

Deno.test("SessionManager.admitSocket() counts an IPv6 /64 as one, without a limit by default", () => {
  const strict = new SessionManager({ maxSessionsPerAddress: 1 });
  using _first = strict.admitSocket({ address: "2001:db8::1" });
  using _second = strict.admitSocket({ address: "2001:db8::2" });
  assertThrows(() => strict.admitSocket({ address: "2001:db8::3" }), LimitError);
  const open = new SessionManager({ maxSessionsPerAddress: Infinity });
  for (let i = 0; i < 10_000; i++) open.admitSocket({ address: "192.0.2.1" });
  assertEquals(open.stats().sockets.open, 10_000);
});

Deno.test("SessionManager.admitSocket() counts each step of a socket once", () => {
  const manager = new SessionManager();
  const lease = manager.admitSocket();
  lease.closing();
  lease.closing();
  assertEquals(manager.stats().sockets, { open: 1, lingering: 1, rejected: 0 });
  lease[Symbol.dispose]();
  lease.closing();
  lease[Symbol.dispose]();
  assertEquals(manager.stats().sockets, { open: 0, lingering: 0, rejected: 0 });
});
