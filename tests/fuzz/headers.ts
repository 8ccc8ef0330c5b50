/**
 * Feeds arbitrary headers to the code that finds out who a client is: tokens, cookies and addresses.
 *
 * @module
 */
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { createServer, forwardedAddress } from "../../mod.ts";
import { AuthenticationError } from "../../errors.ts";
import { addressKey, networksOf } from "../../base/network_address.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { jwt, type JwtClaims } from "../../server/admission/jwt.ts";
import type { Random } from "../random.ts";
import { anyJson, mutateText } from "./mutate.ts";

const SECRET = new TextEncoder().encode("0123456789abcdef0123456789abcdef");

/** The time of the checks, in milliseconds. */
const NOW = Date.UTC(2027, 0, 1);

const SECOND = NOW / 1_000;

const CLAIMS = { sub: "ann", iss: "login", aud: "chat", exp: SECOND + 60 };

/** Claims of tokens whose signature is right. */
const SIGNED: readonly unknown[] = [
  CLAIMS,
  { ...CLAIMS, exp: SECOND - 60 },
  { ...CLAIMS, nbf: SECOND + 60 },
  { ...CLAIMS, exp: "9999999999" },
  { ...CLAIMS, exp: 1e300 },
  { ...CLAIMS, exp: -1 },
  { ...CLAIMS, sub: "" },
  { ...CLAIMS, sub: ["ann"] },
  { ...CLAIMS, aud: ["other", "chat"] },
  { ...CLAIMS, aud: "other" },
  { ...CLAIMS, iss: null },
  { sub: "ann" },
  [],
  null,
];

const TOKEN_HEADERS: readonly unknown[] = [
  { alg: "HS256" },
  { alg: "HS256", typ: "JWT", kid: "../../key" },
  { alg: "none" },
  { alg: "HS512" },
  { alg: "RS256" },
  { alg: "HS256", crit: ["b64"], b64: false },
  { alg: "HS256", jwk: { kty: "oct", k: "AAAA" } },
  {},
];

const BASE64_URL = { alphabet: "base64url", omitPadding: true } as const;

function encoded(text: string): string {
  return new TextEncoder().encode(text).toBase64(BASE64_URL);
}

/** Creates a token with the right signature, whatever the header says. */
async function signed(head: unknown, claims: unknown, key: CryptoKey): Promise<string> {
  const content = `${encoded(JSON.stringify(head))}.${encoded(JSON.stringify(claims) ?? "")}`;
  const signature = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(content));
  return `${content}.${new Uint8Array(signature).toBase64(BASE64_URL)}`;
}

/**
 * Checks tokens: those with the right signature, and mutations of them. A token is accepted only
 * with the claims that were signed, and while they are valid.
 *
 * @param random Source of the random choices.
 * @param rounds Number of tokens.
 */
export async function fuzzTokens(random: Random, rounds: number): Promise<void> {
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", SECRET, hmac, false, ["sign"]);
  const { authenticate, userOf, tokens } = jwt({
    secret: SECRET,
    algorithms: ["HS256"],
    issuer: "login",
    audience: "chat",
    runtime: Object.assign(platformRuntime(), { now: () => NOW }),
  });
  const known: string[] = [];
  for (const head of TOKEN_HEADERS) {
    for (const claims of SIGNED) known.push(await signed(head, claims, key));
  }
  for (let i = 0; i < rounds; i++) {
    const kind = random.below(4);
    const token = kind === 0
      ? await signed(random.pick(TOKEN_HEADERS), anyClaims(random), key)
      : kind === 1
      ? random.pick(known)
      : mutateText(random, known);
    let claims: JwtClaims;
    try {
      claims = await authenticate({ token });
    } catch (error) {
      assertInstanceOf(error, AuthenticationError, `${error}`);
      assert(error.status === 401 || error.status === 503, `${error.status}`);
      assert(error.message.length < 200, error.message);
      const [, , signature = ""] = token.split(".");
      assert(signature.length < 16 || !error.message.includes(signature), error.message);
      continue;
    }
    // Base64 has several spellings of the same bytes, but the signature covers the text.
    const [head, body] = token.split(".");
    const content = new TextEncoder().encode(`${head}.${body}`);
    const expected = new Uint8Array(await crypto.subtle.sign("HMAC", key, content));
    assertEquals(Uint8Array.fromBase64(token.split(".")[2]!, BASE64_URL), expected, token);
    const { sub, exp, iss, aud } = claims;
    assert(typeof sub === "string" && sub !== "", token);
    assertEquals(userOf(claims), sub);
    assert(Number.isFinite(exp) && exp * 1_000 > NOW, token);
    assert(Number.isSafeInteger(tokens.expiresAt(claims)), token);
    assertEquals([iss, [aud].flat().includes("chat")], ["login", true], token);
  }
}

/** Claims that an issuer with a bug may sign. */
function anyClaims(random: Random): unknown {
  if (random.below(4) === 0) return anyJson(random);
  const claims: Record<string, unknown> = { ...CLAIMS };
  for (const name of Object.keys(CLAIMS)) {
    if (random.below(4) === 0) claims[name] = anyJson(random);
  }
  if (random.below(2) === 0) claims["nbf"] = random.pick([SECOND, "x", -1, SECOND + 4, 1e300]);
  return claims;
}

const COOKIES = [
  "sid=ann",
  "login=eve; login",
  "a=1; sid=bob; b",
  "=v; ;; sid = x =y",
  "__proto__=x; constructor=y; toString",
  'sid="quo;ted"',
  "sid=%00%zz",
];

/**
 * Sends cookies to a server, and a last one that a browser would send. All of them arrive, by name,
 * and none of them changes the last one.
 *
 * @param random Source of the random choices.
 * @param rounds Number of headers.
 */
export async function fuzzCookies(random: Random, rounds: number): Promise<void> {
  let seen: Readonly<Record<string, string | undefined>> = {};
  await using server = createServer({
    authenticate: ({ cookies }) => {
      seen = cookies;
      throw new AuthenticationError("Only the cookies matter");
    },
    onSessionRejected() {},
  });
  for (let i = 0; i < rounds; i++) {
    const others = inHeader(mutateText(random, COOKIES));
    const cookie = `${others}; login=ann`;
    seen = {};
    const response = await server.fetch(
      new Request("http://localhost:8000/?protocol=skein.1", {
        headers: { "skein-transport": "http", cookie },
      }),
    );
    await response.body?.cancel();
    assertEquals(response.status, 401, cookie);
    assertEquals(seen["login"], "ann", cookie);
    assertEquals(Object.getPrototypeOf(seen), null);
    for (const [name, value] of Object.entries(seen)) {
      assert(name !== "" && name === name.trim() && !name.includes(";"), cookie);
      assert(cookie.includes(value!), cookie);
    }
  }
}

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
    const forged = inHeader(mutateText(random, LISTS));
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

/**
 * Keeps the characters that a header may have.
 *
 * @param text Any text.
 * @returns A value for a header.
 */
export function inHeader(text: string): string {
  return text.replace(/[^\t\x20-\x7e\x80-\xff]/g, "").trim();
}
