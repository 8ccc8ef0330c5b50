import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { base64url, errors, exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";
import { platformRuntime } from "../../base/runtime.ts";
import { dial } from "../../client.ts";
import { AuthenticationError, RequestError, SessionClosedError } from "../../errors.ts";
import { jwt, type JwtAuthentication, type JwtOptions } from "./jwt.ts";
import { createServer } from "../server.ts";
import { TestServer } from "../../testing/test_server.ts";
import { listen } from "../../tests/servers.ts";

const ISSUER = "https://login.example.com/";
const SECRET = new Uint8Array(64).fill(7);

interface IssuerKey {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: CryptoKey;
  readonly jwk: Readonly<Record<string, unknown>>;
}

async function makeKey(kid: string, alg = "ES256", names = true): Promise<IssuerKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg);
  const { kty, crv, x, y, n, e } = await exportJWK(publicKey);
  const named = names ? { kid } : {};
  return { kid, alg, privateKey, jwk: { kty, crv, x, y, n, e, alg, use: "sig", ...named } };
}

/** A server for public keys. */
class KeyServer implements AsyncDisposable {
  /** The key set in the responses. */
  keys: readonly IssuerKey[];
  /** Responds instead of the key set. */
  response: (() => Response) | undefined;
  /** Requests so far. */
  requests = 0;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor(...keys: IssuerKey[]) {
    this.keys = keys;
    this.#http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, () => {
      this.requests++;
      return this.response?.() ?? Response.json({ keys: this.keys.map(({ jwk }) => jwk) });
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/jwks.json`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http.shutdown();
  }
}

/** Accepted claims, with changes of the test. */
function claimsOf(wrong: JWTPayload = {}): JWTPayload {
  const exp = Math.floor(Date.now() / 1_000) + 3_600;
  return { sub: "ann", iss: ISSUER, aud: "chat", exp, ...wrong };
}

async function sign(
  { privateKey, alg, kid }: IssuerKey,
  claims: JWTPayload = claimsOf(),
  header: object = { kid },
): Promise<string> {
  return await new SignJWT(claims).setProtectedHeader({ alg, ...header }).sign(privateKey);
}

async function signBySecret(claims: JWTPayload = claimsOf(), alg = "HS256", secret = SECRET) {
  return await new SignJWT(claims).setProtectedHeader({ alg }).sign(secret);
}

async function rejection(
  { authenticate }: JwtAuthentication,
  token: string | undefined,
): Promise<[status: number, text: string, cause: unknown]> {
  const { status, message, cause } = await assertRejects(
    () => authenticate({ token }),
    AuthenticationError,
  );
  return [status, message, cause];
}

/** Each kind of key, with the signing and the verifying key. */
const KINDS: Record<
  string,
  (rules: JwtOptions) => Promise<{
    readonly auth: JwtAuthentication;
    readonly sign: (claims?: JWTPayload) => Promise<string>;
    readonly end: () => Promise<void>;
  }>
> = {
  "a secret": (rules) =>
    Promise.resolve({
      auth: jwt({ secret: SECRET, algorithms: ["HS256"], ...rules }),
      sign: (claims) => signBySecret(claims),
      end: () => Promise.resolve(),
    }),
  async "a key set"(rules) {
    const key = await makeKey("a");
    const server = new KeyServer(key);
    return {
      auth: jwt({ jwks: server.url, algorithms: ["ES256"], ...rules }),
      sign: (claims) => sign(key, claims),
      end: () => server[Symbol.asyncDispose](),
    };
  },
};

for (const [kind, make] of Object.entries(KINDS)) {
  Deno.test(`jwt() with ${kind} checks times, issuer, audience and user`, async () => {
    const { auth, sign, end } = await make({ issuer: ISSUER, audience: ["chat", "news"] });
    const nowS = Math.floor(Date.now() / 1_000);
    for (const good of [{}, { aud: ["mail", "news"] }, { nbf: nowS + 4 }, { role: "admin" }]) {
      const claims = await auth.authenticate({ token: await sign(claimsOf(good)) });
      assertEquals([auth.userOf(claims), claims.role], ["ann", (good as JWTPayload).role]);
      assertEquals(auth.tokens.expiresAt(claims), claims.exp * 1_000);
    }
    const bad: [wrong: JWTPayload, text: string][] = [
      [{ exp: nowS - 1 }, "The token has expired"],
      [{ exp: nowS }, "The token has expired"],
      [{ exp: "soon" as never }, "The token was not accepted"],
      [{ exp: undefined } as never, "The token must have the claim exp"],
      [{ iss: "https://login.example.org/" }, "The token is of another issuer"],
      [{ iss: undefined } as never, "The token must have the claim iss"],
      [{ aud: "mail" }, "The token is for another audience"],
      [{ aud: [] }, "The token is for another audience"],
      [{ aud: undefined } as never, "The token must have the claim aud"],
      [{ sub: undefined } as never, "The token must have the claim sub"],
      [{ sub: "" }, "The token must name a user in the claim sub"],
      [{ sub: 7 as never }, "The token must name a user in the claim sub"],
    ];
    for (const [wrong, text] of bad) {
      const claims = JSON.parse(JSON.stringify(claimsOf(wrong)));
      const [status, message] = await rejection(auth, await sign(claims));
      assertEquals([status, message], [401, text], JSON.stringify(wrong));
    }
    // The client comes back when the token is valid.
    const early = await rejection(auth, await sign(claimsOf({ nbf: nowS + 60 })));
    assertEquals(early.slice(0, 2), [503, "The token is not valid yet"]);
    await end();
  });

  Deno.test(`jwt() with ${kind} rejects foreign and malformed tokens`, async () => {
    const { auth, sign, end } = await make({});
    const token = await sign();
    const [header, payload, signature] = token.split(".") as [string, string, string];
    const encode = (value: unknown) => base64url.encode(JSON.stringify(value));
    const other = await makeKey("a");
    const forged = [
      "",
      "a.b.c",
      `${header}.${payload}.`,
      `${header}.${encode(claimsOf({ sub: "root" }))}.${signature}`,
      `${encode({ alg: "none" })}.${payload}.`,
      `${encode({ alg: "none" })}.${payload}.${signature}`,
      `${encode({ alg: "None", kid: "a" })}.${payload}.`,
      await new SignJWT(claimsOf()).setProtectedHeader({ alg: "ES256", kid: "a" })
        .sign(other.privateKey),
      await signBySecret(claimsOf(), "HS256", new Uint8Array(64).fill(8)),
    ];
    for (const token of forged) {
      const [status, text, cause] = await rejection(auth, token);
      assertEquals([status, text], [401, "The token was not accepted"], token);
      assert(cause instanceof errors.JOSEError, token);
    }
    assertEquals(await rejection(auth, undefined), [401, "A token is needed", undefined]);
    await end();
  });
}

Deno.test("jwt() reads the injected clock at each check", async () => {
  const runtime = platformRuntime();
  runtime.now = () => 1_000_000;
  const auth = jwt({ secret: SECRET, algorithms: ["HS256"], runtime });
  const token = await new SignJWT(claimsOf({ exp: 2_000 })).setProtectedHeader({ alg: "HS256" })
    .sign(SECRET);
  assertEquals((await auth.authenticate({ token })).sub, "ann");
  runtime.now = () => 2_000_000;
  assertEquals((await rejection(auth, token)).slice(0, 2), [401, "The token has expired"]);
});

Deno.test("jwt() accepts only the given algorithms", async () => {
  const bySecret = jwt({ secret: SECRET, algorithms: ["HS384", "HS512"] });
  for (const alg of ["HS384", "HS512"]) {
    await bySecret.authenticate({ token: await signBySecret(claimsOf(), alg) });
  }
  assertEquals((await rejection(bySecret, await signBySecret()))[1], "The token was not accepted");

  const [es, rs] = [await makeKey("es"), await makeKey("rs", "RS256")];
  await using server = new KeyServer(es, rs);
  const all = jwt({ jwks: server.url });
  for (const key of [es, rs]) await all.authenticate({ token: await sign(key) });
  const one = jwt({ jwks: server.url, algorithms: ["RS256"] });
  await one.authenticate({ token: await sign(rs) });
  const [status, , cause] = await rejection(one, await sign(es));
  assertEquals([status, cause instanceof errors.JOSEAlgNotAllowed], [401, true]);
  // A public key is not a secret: a token signed with it as a shared secret must not pass.
  const published = new TextEncoder().encode(JSON.stringify(rs.jwk));
  for (const auth of [all, one]) {
    const forged = await new SignJWT(claimsOf()).setProtectedHeader({ alg: "HS256", kid: "rs" })
      .sign(published);
    assertEquals((await rejection(auth, forged))[0], 401);
  }
});

Deno.test("jwt() accepts a new key of the issuer, and fetches keys at most once in ten seconds", async () => {
  const [old, next, never] = await Promise.all(["old", "next", "never"].map((kid) => makeKey(kid)));
  await using server = new KeyServer(old!);
  const auth = jwt({ jwks: new URL(server.url) });
  assertEquals(server.requests, 0);
  using time = new FakeTime(Date.now());
  await Promise.all(Array.from({ length: 10 }, async () => {
    await auth.authenticate({ token: await sign(old!) });
  }));
  assertEquals(server.requests, 1);

  server.keys = [next!];
  // The key set is too new to be fetched again, so the client should retry.
  assertEquals((await rejection(auth, await sign(next!)))[0], 503);
  assertEquals(server.requests, 1);
  time.tick(10_000);
  await auth.authenticate({ token: await sign(next!) });
  assertEquals(server.requests, 2);
  time.tick(10_000);
  // A withdrawn or unknown key is rejected permanently once the key set was fetched.
  assertEquals((await rejection(auth, await sign(old!)))[0], 401);
  assertEquals(server.requests, 3);
  for (let i = 0; i < 100; i++) {
    assertEquals((await rejection(auth, await sign(never!)))[0], 503);
  }
  assertEquals(server.requests, 3);
  await auth.authenticate({ token: await sign(next!) });
});

Deno.test("jwt() forgets a withdrawn key within ten minutes", async () => {
  const key = await makeKey("a");
  await using server = new KeyServer(key);
  const auth = jwt({ jwks: server.url });
  using time = new FakeTime(Date.now());
  const token = await sign(key);
  await auth.authenticate({ token });
  server.keys = [];
  time.tick(599_000);
  await auth.authenticate({ token });
  time.tick(1_000);
  await assertRejects(() => auth.authenticate({ token }), AuthenticationError);
  assertEquals(server.requests, 2);
});

Deno.test("jwt() rejects with 503 while keys cannot be fetched, and continues afterwards", async () => {
  const key = await makeKey("a");
  await using server = new KeyServer(key);
  const auth = jwt({ jwks: server.url });
  const token = await sign(key);
  const responses = [
    () => new Response("Broken", { status: 500 }),
    () => new Response("no JSON"),
    () => Response.json({ keys: "none" }),
    () => Response.redirect(`${server.url}/elsewhere`),
  ];
  for (const response of responses) {
    server.response = response;
    const [status, text, cause] = await rejection(auth, token);
    assertEquals([status, text], [503, "Tokens cannot be checked now, try again later"]);
    assert(cause instanceof Error);
  }
  server.response = undefined;
  await auth.authenticate({ token });
  const gone = jwt({ jwks: "http://127.0.0.1:1/jwks.json" });
  assertEquals((await rejection(gone, token))[0], 503);
});

Deno.test("jwt() tries the matching keys for a token without a key id", async () => {
  const keys = await Promise.all(["a", "b", "c"].map((kid) => makeKey(kid, "ES256", false)));
  await using server = new KeyServer(keys[0]!, keys[1]!);
  const auth = jwt({ jwks: server.url });
  for (const key of keys.slice(0, 2)) {
    await auth.authenticate({ token: await sign(key, claimsOf(), {}) });
  }
  const expired = claimsOf({ exp: 1 });
  assertEquals(
    (await rejection(auth, await sign(keys[1]!, expired, {})))[1],
    "The token has expired",
  );
  assertEquals((await rejection(auth, await sign(keys[2]!, claimsOf(), {})))[0], 401);
});

Deno.test("jwt() allows for clocks that differ", async () => {
  const nowS = Math.floor(Date.now() / 1_000);
  const auth = jwt({ secret: SECRET, algorithms: ["HS256"], clockToleranceMs: 30_000 });
  const claims = await auth.authenticate({
    token: await signBySecret(claimsOf({ exp: nowS - 10, nbf: nowS + 10 })),
  });
  assertEquals(auth.tokens.expiresAt(claims), (nowS - 10) * 1_000 + 30_000);
  assertEquals((await rejection(auth, await signBySecret(claimsOf({ exp: nowS - 60 }))))[0], 401);
  assertEquals(auth.tokens.expiresAt({ sub: "ann", exp: 1e300 }), 8.64e15);
});

Deno.test("jwt() rejects contradictory options", () => {
  const jwks = "https://login.example.com/jwks.json";
  const types: [options: JwtOptions, text: string][] = [
    [{}, "jwks or secret is missing"],
    [{ jwks, secret: SECRET }, "jwks and secret exclude each other"],
    [{ secret: {} } as JwtOptions, "secret must be a string or a Uint8Array, received Object"],
    [{ secret: SECRET.buffer } as object, "or a Uint8Array, received ArrayBuffer"],
    [{ secret: SECRET }, "a secret needs algorithms"],
    [{ secret: SECRET, algorithms: [] }, "a secret needs algorithms"],
    [{ secret: SECRET, algorithms: ["none"] }, 'received "none"'],
    [{ secret: SECRET, algorithms: ["HS256", "RS256"] }, 'received "RS256"'],
    [{ jwks, algorithms: [] }, "received []"],
    [{ jwks, algorithms: ["RS256", "none"] }, 'received "none"'],
    [{ jwks, algorithms: ["HS256"] }, 'received "HS256"'],
    [{ jwks: "/jwks.json" }, 'jwks must be a URL of HTTP, received "/jwks.json"'],
    [{ jwks: "file:///jwks.json" }, "jwks must be a URL of HTTP"],
    [{ jwks, audiense: "chat" } as JwtOptions, 'did you mean "audience"?'],
  ];
  for (const [options, text] of types) {
    assertThrows(() => jwt(options), TypeError, `Cannot create jwt: `);
    assertThrows(() => jwt(options), TypeError, text);
  }
  const ranges: [options: JwtOptions, text: string][] = [
    [{ secret: "x".repeat(31), algorithms: ["HS256"] }, "at least 32 bytes for HS256, received 31"],
    [{ secret: "x".repeat(63), algorithms: ["HS256", "HS512"] }, "64 bytes for HS512"],
    [{ jwks, clockToleranceMs: -1 }, "clockToleranceMs must be 0 or more, received -1"],
    [{ jwks, clockToleranceMs: NaN }, "received NaN"],
  ];
  for (const [options, text] of ranges) assertThrows(() => jwt(options), RangeError, text);
});

Deno.test("serve() admits users with tokens, in a header and in a message, and rejects others", async () => {
  const key = await makeKey("a");
  await using keys = new KeyServer(key);
  const auth = jwt({ jwks: keys.url, issuer: ISSUER, audience: "chat" });
  const onSessionRejected = () => {};
  await using server = listen({ ...auth, onSessionRejected });
  const token = await sign(key);
  await using byHeader = await dial(server.url, { headers: { authorization: `Bearer ${token}` } });
  await using inBand = await dial(server.url, { token });
  assertEquals(server.manager.sessionsOf("ann").length, 2);
  const [near] = server.manager.sessionsOf("ann");
  assertEquals((near!.value as JWTPayload).iss, ISSUER);
  await inBand.authenticate(await sign(key, claimsOf({ jti: "2" })));
  await assertRejects(
    async () => await inBand.authenticate(await sign(key, claimsOf({ exp: 1 }))),
    RequestError,
    "The token has expired",
  );
  assertEquals([byHeader.state, inBand.state], ["connected", "connected"]);
  const { info } = await assertRejects(
    async () => await dial(server.url, { token: await sign(key, claimsOf({ aud: "mail" })) }),
    SessionClosedError,
  );
  assertEquals([info?.code, info?.reason], [4401, "The token is for another audience"]);
});

Deno.test("serve() closes the session of an expired token, and requests a new one if the client can renew", async () => {
  // A millisecond after the full second, half of the remaining time is not an integer.
  using time = new FakeTime(Math.ceil(Date.now() / 1_000) * 1_000 + 1);
  const auth = jwt({ secret: SECRET, algorithms: ["HS256"] });
  const lasting = () => signBySecret(claimsOf({ exp: Math.floor(Date.now() / 1_000) + 60 }));
  let verified = 0;
  const authenticate: typeof auth.authenticate = async (context) => {
    const claims = await auth.authenticate(context);
    verified++;
    return claims;
  };
  const options = { ...auth, authenticate, onSessionRejected() {} };
  await using server = new TestServer(options);
  await using fixed = await server.dial({
    headers: { authorization: `Bearer ${await lasting()}` },
  });
  let asked = 0;
  await using client = server.connect({
    token: () => {
      asked++;
      return lasting();
    },
  });
  const session = await client.whenConnected();
  assertEquals(asked, 1);
  // Signing and verifying take turns of the event loop, but no timers.
  const turns = async () => {
    for (let turn = 0; turn < 20; turn++) await signBySecret();
  };
  // In steps shorter than the silence after which a client reconnects.
  for (let passed = 0; passed < 90_000; passed += 500) {
    await time.tickAsync(500);
    await turns();
    // Time stops until the server has verified the fixed token and all other tokens.
    while (verified < 1 + asked) await turns();
    await turns();
  }
  const { code } = await fixed.closed;
  assertEquals({ code, state: session.state, hasRenewed: asked >= 3 }, {
    code: 4401,
    state: "connected",
    hasRenewed: true,
  });
});

Deno.test("serve() rejects tokens that would replace the expiry of jwt()", async () => {
  const auth = jwt({ secret: SECRET, algorithms: ["HS256"] });
  const error = assertThrows(
    () => createServer({ ...auth, tokens: { inMessage: true, maxBytes: 65_536 } }),
    TypeError,
  );
  assertStringIncludes(error.message, "tokens must have expiresAt; write tokens: { ...auth.tokens");
  await using server = createServer({ ...auth, tokens: { ...auth.tokens, maxBytes: 65_536 } });
  assertEquals(server.manager.count, 0);
});
