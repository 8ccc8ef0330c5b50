/**
 * Feeds arbitrary headers to `forwardedAddress()`, and its results to the keys of quotas.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { forwardedAddress } from "../../mod.ts";
import { addressKey, networksOf } from "../../base/network_address.ts";
import type { Random } from "../random.ts";
import { mutateText } from "./mutate.ts";

/** Headers as clients, and proxies before a trusted one, write them. */
const LISTS = [
  "192.0.2.1",
  "10.9.8.7, 192.0.2.1",
  "2001:db8::1, ::ffff:192.0.2.1, unknown",
  "[2001:db8::1]:443,1.2.3.4:5678",
  "for=192.0.2.1",
  'for=10.9.8.7;by="a,b", for="[2001:db8::1]:4711"',
  'For="_hidden\\", secret";proto=https, for=unknown',
  'for="',
  'x", for="',
  'for=10.9.8.7;by="',
  "\\",
];

/** Entries that an honest proxy appends, and the address in each. */
const APPENDED: readonly (readonly [header: string, entry: string, address: string])[] = [
  ["x-forwarded-for", "192.0.2.1", "192.0.2.1"],
  ["x-forwarded-for", "2001:db8::1", "2001:db8::1"],
  ["forwarded", "for=192.0.2.1", "192.0.2.1"],
  ["forwarded", 'for="[2001:db8::1]:4711"', "[2001:db8::1]:4711"],
  ["forwarded", 'by="a,b";for="192.0.2.1";host="x\\"y, z\\\\"', "192.0.2.1"],
];

/**
 * Reads the address of a client behind one or two proxies. The client's part of the header must not
 * change the address.
 *
 * @param random Source of the random choices.
 * @param rounds Number of headers.
 */
export function fuzzAddresses(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const forged = latin1(mutateText(random, LISTS));
    const proxies = 1 + random.below(2);
    const [header, ...entries] = random.below(4) === 0
      ? [random.pick(["x-forwarded-for", "forwarded"])]
      : appended(random, proxies);
    const value = [forged, ...entries.map(({ entry }) => entry)].join(random.pick([", ", ","]));
    const clientAddress = forwardedAddress({ trusted: proxies, header: header as string });
    const headers = new Headers({ [header as string]: value });
    const found = clientAddress(headers, {
      remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 1 },
    });
    const what = `${header}: ${value}`;
    assert(found === undefined || found !== "" && found === found.trim(), what);
    if (entries.length > 0) assertEquals(found, entries[0]!.address, what);
    checkKeys(found ?? forged);
  }
}

/** The entries of proxies, the outermost first. */
function appended(
  random: Random,
  count: number,
): readonly [header: string, ...{ readonly entry: string; readonly address: string }[]] {
  const header = random.pick(APPENDED)[0];
  const entries = Array.from({ length: count }, () => {
    const [, entry, address] = random.pick(APPENDED.filter(([name]) => name === header));
    return { entry, address };
  });
  return [header, ...entries];
}

/** Checks that an address has a short key, which is its own key, and networks around it. */
function checkKeys(address: string): void {
  const key = addressKey(address);
  assert(key.length <= 64, `${address} has the key ${key}`);
  const networks = networksOf(key);
  assertEquals(networks[0]?.key, key);
  assert(networks.length === 1 || networks.length === 3, address);
  for (const [i, { factor }] of networks.entries()) assertEquals(factor, 4 ** i);
}

/** Keeps the characters that a header may have. */
function latin1(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[^\t\x20-\x7e\x80-\xff]/g, "").trim();
}
