/** Keys for counting network addresses, and the networks that one customer may control. */

/** A network that one customer may control, with its number of address shares. */
export interface Network {
  /** The key of the network. */
  readonly key: string;
  /** Number of single-address shares that the whole network may use. */
  readonly factor: number;
}

/**
 * Maximum length of the key for a text that is not an address. A key uses memory for as long as its
 * session is open.
 */
const MAX_KEY_LENGTH = 64;

/** IPv4 address: by far the most frequent form, and its own key. */
const IPV4 = /^\d{1,3}(\.\d{1,3}){3}$/;

/** `1.2.3.4:5678` and `[2001:db8::1]:5678`, as some proxies write addresses. */
const WITH_PORT = /^(?:\[([^\]]*)\]|(\d+\.\d+\.\d+\.\d+))(?::\d+)?$/;
const IPV6 = /^[0-9a-f:.]+$/;

/**
 * Converts a network address to the key that identifies it in quotas. A whole IPv6 /64 counts as
 * one address, because one host can use all of it. An IPv4 address and its IPv4-mapped IPv6 form
 * have the same key.
 *
 * @param address An address from the runtime or a proxy; port and zone are ignored.
 * @returns An IPv4 address, a /64, or any other text, truncated to 64 characters.
 *
 * @example Usage
 * ```ts
 * import { addressKey } from "./network_address.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(addressKey("2001:db8::1"), "2001:db8:0:0::/64");
 * assertEquals(addressKey("::ffff:192.0.2.1"), "192.0.2.1");
 * ```
 */
export function addressKey(address: string): string {
  if (address !== lastAddress) {
    lastKey = keyOf(address);
    lastAddress = address;
  }
  return lastKey;
}

/**
 * Lists the networks that one customer may control: the address, and for IPv6 the wider networks
 * that providers assign to one customer.
 *
 * @param key A key of {@linkcode addressKey}; `undefined` if the address is unknown.
 * @returns The networks with their numbers of shares, the narrowest network first.
 *
 * @example Usage
 * ```ts
 * import { addressKey, networksOf } from "./network_address.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(networksOf("192.0.2.1"), [{ key: "192.0.2.1", factor: 1 }]);
 * assertEquals(networksOf(addressKey("2001:db8:1:23ff::1")), [
 *   { key: "2001:db8:1:23ff::/64", factor: 1 },
 *   { key: "2001:db8:1:2300::/56", factor: 4 },
 *   { key: "2001:db8:1::/48", factor: 16 },
 * ]);
 * ```
 */
export function networksOf(key: string | undefined): Network[] {
  if (key === undefined) return [];
  const [a, b, c, d] = key.endsWith("::/64") ? key.slice(0, -"::/64".length).split(":") : [];
  if (d === undefined) return [{ key, factor: 1 }];
  const wide = (Number.parseInt(d, 16) & 0xff00).toString(16);
  return [
    { key, factor: 1 },
    { key: `${a}:${b}:${c}:${wide}::/56`, factor: 4 },
    { key: `${a}:${b}:${c}::/48`, factor: 16 },
  ];
}

/** Key prefixes of private networks: loopback, RFC 1918, link-local and RFC 4193. */
const PRIVATE =
  /^(?:127\.|10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|169\.254\.|0:0:0:0::\/64$|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:)/;

/**
 * Returns true for a loopback or private address. On a server on the internet, such an address
 * belongs to a proxy and represents many clients.
 *
 * @param key A key of {@linkcode addressKey}.
 * @returns True for a loopback, private or link-local address.
 *
 * @example Usage
 * ```ts
 * import { addressKey, isPrivateAddress } from "./network_address.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(isPrivateAddress(addressKey("::1")), true);
 * assertEquals(isPrivateAddress("172.20.0.1"), true);
 * assertEquals(isPrivateAddress("192.0.2.1"), false);
 * ```
 */
export function isPrivateAddress(key: string): boolean {
  return PRIVATE.test(key);
}

// A server needs the key of one address several times in a row.
let lastAddress = "";
let lastKey = "";

function keyOf(address: string): string {
  if (IPV4.test(address)) return address;
  const trimmed = address.trim().toLowerCase();
  const bare = WITH_PORT.exec(trimmed);
  const host = (bare?.[1] ?? bare?.[2] ?? trimmed).replace(/%.*$/, "");
  if (!host.includes(":") || !IPV6.test(host)) return host.slice(0, MAX_KEY_LENGTH);
  const groups = groupsOf(host);
  if (groups === undefined) return host.slice(0, MAX_KEY_LENGTH);
  if (isMapped(groups)) return mappedAddress(groups);
  return `${groups.slice(0, 4).join(":")}::/64`;
}

/** Splits an IPv6 address into eight groups. The platform's URL parser reads every notation. */
function groupsOf(host: string): string[] | undefined {
  const canonical = URL.parse(`http://[${host}]`)?.hostname.slice(1, -1);
  if (canonical === undefined) return undefined;
  const [head = "", tail] = canonical.split("::");
  const first = head === "" ? [] : head.split(":");
  const last = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = new Array<string>(8 - first.length - last.length).fill("0");
  return [...first, ...zeros, ...last];
}

/** Checks for an IPv4 address, which is in `::ffff:0:0/96`. */
function isMapped(groups: readonly string[]): boolean {
  return groups[5] === "ffff" && groups.slice(0, 5).every((group) => group === "0");
}

function mappedAddress(groups: readonly string[]): string {
  return groups.slice(6).flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  }).join(".");
}
