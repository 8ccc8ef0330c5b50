import { assertEquals } from "@std/assert";
import { addressKey, networksOf } from "../network_address.ts";
import { FamiliarUsers, MAX_FAMILIAR, MAX_FAMILIAR_PER_USER } from "./familiar_users.ts";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const OFFICE = "198.51.100.7";

/** A registry, and a clock that tests advance. */
function registry() {
  const users = new FamiliarUsers();
  let now = 0;
  return {
    users,
    tick: (ms: number) => void (now += ms),
    see: (user: string, address: string): boolean => {
      const firstMs = users.see(user, networksOf(addressKey(address)), now);
      return FamiliarUsers.isFamiliar(firstMs, now);
    },
  };
}

Deno.test("FamiliarUsers keeps a user who is seen again and again, and forgets one seen once a day ago", () => {
  const { users, see, tick } = registry();
  see("ann", OFFICE);
  see("bob", OFFICE);
  for (let hour = 0; hour < 24; hour++) {
    tick(HOUR_MS);
    assertEquals(see("ann", OFFICE), true);
  }
  assertEquals(users.size, 1);
  assertEquals(see("bob", OFFICE), false);
  // A user who comes back is familiar after another hour.
  tick(HOUR_MS);
  assertEquals([see("ann", OFFICE), see("bob", OFFICE)], [true, true]);
});

Deno.test("FamiliarUsers lets a /48 displace only its own users, while an office works its day", () => {
  const { users, see, tick } = registry();
  const staff = Array.from({ length: 200 }, (_, i) => `staff ${i}`);
  for (const user of staff) see(user, OFFICE);
  tick(HOUR_MS);
  for (const user of staff) assertEquals(see(user, OFFICE), true);
  for (let i = 0; i < 3 * MAX_FAMILIAR; i++) {
    see(`u${i}`, `2001:db8:66:${(i & 0xffff).toString(16)}::1`);
  }
  assertEquals(users.size, MAX_FAMILIAR);
  // New colleagues become familiar, too.
  assertEquals(see("new", OFFICE), false);
  tick(HOUR_MS);
  for (const user of [...staff, "new"]) assertEquals(see(user, OFFICE), true, user);
});

Deno.test("FamiliarUsers first displaces the users of a large network that are not familiar", () => {
  const { see, tick } = registry();
  see("ann", OFFICE);
  tick(HOUR_MS);
  assertEquals(see("ann", OFFICE), true);
  for (let i = 0; i < 2 * MAX_FAMILIAR; i++) see(`u${i}`, OFFICE);
  assertEquals(see("ann", OFFICE), true);
});

Deno.test("FamiliarUsers displaces the user not seen for longest on a site with more users", () => {
  const { users, see, tick } = registry();
  const homeOf = (i: number) => `192.${i >> 16}.${(i >> 8) & 255}.${i & 255}`;
  see("ann", OFFICE);
  for (let i = 0; i < 3 * MAX_FAMILIAR; i++) {
    if (i % (MAX_FAMILIAR / 2) === 0) see("ann", OFFICE);
    see(`u${i}`, homeOf(i));
  }
  assertEquals(users.size, MAX_FAMILIAR);
  tick(HOUR_MS);
  const last = 3 * MAX_FAMILIAR - 1;
  assertEquals(see("ann", OFFICE), true);
  assertEquals([see("u0", homeOf(0)), see(`u${last}`, homeOf(last))], [false, true]);
});

Deno.test("FamiliarUsers remembers the last addresses of a user who travels", () => {
  const { users, see, tick } = registry();
  for (let i = 0; i <= MAX_FAMILIAR_PER_USER; i++) see("ann", `192.0.2.${i}`);
  assertEquals(users.size, MAX_FAMILIAR_PER_USER);
  tick(HOUR_MS);
  assertEquals([see("ann", "192.0.2.1"), see("ann", "192.0.2.0")], [true, false]);
});

Deno.test("FamiliarUsers remembers the home of a user who is seen there between the journeys", () => {
  const { users, see, tick } = registry();
  see("ann", OFFICE);
  for (let i = 0; i < 4 * MAX_FAMILIAR_PER_USER; i++) {
    tick(MINUTE_MS);
    see("ann", `192.0.2.${i}`);
    see("ann", OFFICE);
  }
  assertEquals(users.size, MAX_FAMILIAR_PER_USER);
  assertEquals(see("ann", OFFICE), true);
});
