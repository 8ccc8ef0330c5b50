/**
 * Authentication by JSON Web Token: the signature, times, issuer and audience are checked before a
 * session opens. This is a separate module so that no other module loads the package `npm:jose`.
 *
 * @example Tokens of an identity provider
 * ```ts ignore
 * import { serve } from "@skein/skein";
 * import { jwt } from "@skein/skein/jwt";
 *
 * await using server = serve({
 *   ...jwt({
 *     jwks: "https://login.example.com/.well-known/jwks.json",
 *     issuer: "https://login.example.com/",
 *     audience: "chat",
 *   }),
 * });
 * ```
 *
 * @module
 */
import {
  createRemoteJWKSet,
  customFetch,
  errors,
  jwtVerify,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
} from "jose";
import { describe } from "../../base/error_text.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { AuthenticationError } from "../../errors.ts";
import { checkOptions, listOf, RUNTIME, TIME } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { EXPIRES } from "./admission_options.ts";

/** Longest wait for the key server, in milliseconds. */
const FETCH_TIMEOUT_MS = 5_000;

/** Minimum time between two fetches caused by unknown keys, in milliseconds. */
const COOLDOWN_MS = 10_000;

/** Longest time for which a withdrawn key is still accepted, in milliseconds. */
const MAX_AGE_MS = 600_000;

/** Most keys that are tried for a token without a key id. */
const MAX_TRIED_KEYS = 16;

/**
 * Minimum size of a secret in bytes, by algorithm (RFC 7518, 3.2). Shorter secrets can be guessed.
 */
const MIN_SECRET_BYTES: Readonly<Record<string, number>> = { HS256: 32, HS384: 48, HS512: 64 };

const PUBLIC_KEY_ALGORITHM = /^(?:[RPE]S(?:256|384|512)|EdDSA|Ed25519)$/;

/**
 * Time before `nbf` at which a token is already accepted, because clocks differ by some seconds.
 */
const EARLY_MS = 5_000;

/** The latest time that a `Date` can represent. */
const MAX_TIME_MS = 8.64e15;

/** Options for {@linkcode jwt}. */
export interface JwtOptions {
  /**
   * URL of the issuer's public keys (a JSON Web Key Set). Exactly one of `jwks` and `secret` is
   * required.
   *
   * The keys are fetched for the first token and kept for ten minutes. If a token has an unknown
   * key, they are fetched again, at most every ten seconds.
   */
  readonly jwks?: string | URL | undefined;
  /**
   * Secret shared with the issuer, as bytes or as a string in UTF-8: at least 32 bytes for HS256,
   * 48 for HS384, and 64 for HS512.
   *
   * Exactly one of `jwks` and `secret` is required.
   */
  readonly secret?: string | Uint8Array | undefined;
  /**
   * Allowed signature algorithms. Required with `secret`: HS256, HS384 or HS512.
   *
   * @default {with `jwks`, every public-key algorithm that fits the key}
   */
  readonly algorithms?: readonly string[] | undefined;
  /**
   * Required issuer of tokens (`iss`).
   *
   * @default {not checked}
   */
  readonly issuer?: string | undefined;
  /**
   * Required audience of tokens (`aud`). If there are several, a token needs only one of them.
   *
   * @default {not checked}
   */
  readonly audience?: string | readonly string[] | undefined;
  /**
   * Largest accepted difference between the clocks of the issuer and the server, in milliseconds. A
   * token that becomes valid within the next five seconds is always accepted.
   *
   * @default {0}
   */
  readonly clockToleranceMs?: number | undefined;
  /**
   * Clock that decides when tokens are valid.
   *
   * The age of fetched keys is always measured by the platform's clock.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** Claims of an accepted token. */
export interface JwtClaims {
  /** The user. */
  readonly sub: string;
  /** Expiry of the token, in seconds since the Unix epoch. */
  readonly exp: number;
  /** Any other claim, as written by the issuer. */
  readonly [claim: string]: unknown;
}

/** Options of a server, created by {@linkcode jwt}. */
export interface JwtAuthentication {
  /**
   * Checks a token.
   *
   * @param context The token, as passed to a server's `authenticate`.
   * @returns The claims, which become `session.value`.
   * @throws {AuthenticationError} With 401 if there is no token or the token is not accepted. With
   * 503, so that clients retry, if the token is not valid yet or the keys cannot be fetched now.
   */
  readonly authenticate: (context: { readonly token: string | undefined }) => Promise<JwtClaims>;
  /** Returns the user: the claim `sub`. */
  readonly userOf: (claims: JwtClaims) => string;
  /** Options of tokens. If you set others, spread these: `tokens: { ...auth.tokens, maxBytes }`. */
  readonly tokens: {
    /** Returns the expiry of the token, in milliseconds since the Unix epoch. */
    readonly expiresAt: (claims: JwtClaims) => number;
    /** Accepts the `token` of `connect()`. */
    readonly inMessage: true;
  };
}

const OPTIONS: OptionKinds<JwtOptions> = {
  algorithms: listOf("string"),
  audience: listOf("string", "string"),
  clockToleranceMs: TIME,
  issuer: "string",
  jwks: "string or object",
  runtime: RUNTIME,
  secret(value) {
    if (typeof value === "string" || value instanceof Uint8Array) return;
    throw new TypeError(
      `Cannot create jwt: secret must be a string or a Uint8Array, received ${describe(value)}`,
    );
  },
};

type Claims = Readonly<Record<string, unknown>>;

type Verify = (token: string) => Promise<Claims>;

/**
 * Creates server options that authenticate users by JSON Web Token. Spread them into the options of
 * `serve()`.
 *
 * - **Checks:** the signature, `exp` and `nbf` are checked, and also `iss` and `aud` if the options
 *   require them. A token must have a user (`sub`) and an expiry (`exp`); `alg: none` is never
 *   accepted.
 * - **Rotation:** a new key of the issuer is accepted immediately. An old key is accepted for at
 *   most ten minutes.
 * - **Outages:** if keys cannot be fetched, sessions are rejected with 503, and clients retry.
 *
 * @param options Keys of the issuer, and the claims to check.
 * @returns `authenticate`, `userOf` and `tokens`.
 * @throws {TypeError} If an option is unknown, if not exactly one of `jwks` and `secret` is given,
 * if `jwks` is not an HTTP URL, or if `algorithms` do not fit the keys.
 * @throws {RangeError} If `secret` is too short, or `clockToleranceMs` is negative or not a number.
 *
 * @example Tokens with a shared secret
 * ```ts
 * import { dial, serve } from "@skein/skein";
 * import { jwt } from "@skein/skein/jwt";
 * import { assertEquals } from "@std/assert";
 * import { SignJWT } from "jose";
 *
 * const secret = crypto.getRandomValues(new Uint8Array(32));
 * const auth = jwt({ secret, algorithms: ["HS256"], audience: "chat" });
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   ...auth,
 *   onMessage: (message, session) => message.reply(session.user),
 * });
 *
 * const token = await new SignJWT().setProtectedHeader({ alg: "HS256" })
 *   .setSubject("ann").setAudience("chat").setExpirationTime("1h").sign(secret);
 * await using session = await dial(server.url, { headers: { authorization: `Bearer ${token}` } });
 * assertEquals(await session.request("who"), "ann");
 * ```
 */
export function jwt(options: JwtOptions): JwtAuthentication {
  checkOptions("create jwt", options, OPTIONS);
  const { jwks, secret, clockToleranceMs = 0 } = options;
  if ((jwks === undefined) === (secret === undefined)) {
    throw new TypeError(
      jwks === undefined
        ? "Cannot create jwt: jwks or secret is missing"
        : "Cannot create jwt: jwks and secret exclude each other",
    );
  }
  const runtime = options.runtime ?? platformRuntime();
  const rules = rulesOf(options, runtime);
  const verify = secret === undefined
    ? byKeySet(urlOf(jwks!), rules, options.algorithms)
    : bySecret(secret, rules, options.algorithms);
  const authenticate: JwtAuthentication["authenticate"] = async ({ token }) => {
    if (token === undefined) throw new AuthenticationError("A token is needed");
    const claims = checkedClaims(await verified(verify, token));
    if (claims.exp * 1_000 + clockToleranceMs > runtime.now()) return claims;
    throw new AuthenticationError("The token has expired");
  };
  return {
    authenticate: Object.assign(authenticate, { [EXPIRES]: true }),
    userOf: ({ sub }) => sub,
    tokens: {
      // The expiry includes the tolerance within which the token is accepted.
      expiresAt: ({ exp }) => Math.min(Math.floor(exp * 1_000) + clockToleranceMs, MAX_TIME_MS),
      inMessage: true,
    },
  };
}

function rulesOf(
  { algorithms, issuer, audience, clockToleranceMs = 0 }: JwtOptions,
  runtime: Runtime,
): JWTVerifyOptions {
  return {
    // Read for each token.
    get currentDate() {
      return new Date(runtime.now());
    },
    requiredClaims: ["exp", "sub"],
    // The smaller tolerance of the expiry is checked afterwards.
    clockTolerance: Math.max(clockToleranceMs, EARLY_MS) / 1_000,
    algorithms: algorithms && [...algorithms],
    issuer,
    audience: typeof audience === "object" ? [...audience] : audience,
  };
}

function urlOf(jwks: string | URL): URL {
  const url = URL.parse(jwks);
  if (url?.protocol === "https:" || url?.protocol === "http:") return url;
  throw new TypeError(`Cannot create jwt: jwks must be a URL of HTTP, received "${jwks}"`);
}

function bySecret(
  secret: string | Uint8Array,
  rules: JWTVerifyOptions,
  algorithms: readonly string[] = [],
): Verify {
  const key = typeof secret === "string" ? new TextEncoder().encode(secret) : secret.slice();
  if (algorithms.length === 0) {
    throw new TypeError('Cannot create jwt: a secret needs algorithms, such as ["HS256"]');
  }
  for (const algorithm of algorithms) {
    if (!Object.hasOwn(MIN_SECRET_BYTES, algorithm)) {
      throw new TypeError(
        "Cannot create jwt: algorithms must be HS256, HS384 or HS512 with a secret, received " +
          `"${algorithm}"`,
      );
    }
    const least = MIN_SECRET_BYTES[algorithm]!;
    if (key.length >= least) continue;
    throw new RangeError(
      `Cannot create jwt: secret must have at least ${least} bytes for ${algorithm}, received ` +
        `${key.length}`,
    );
  }
  return async (token) => (await jwtVerify(token, key, rules)).payload;
}

function byKeySet(
  url: URL,
  rules: JWTVerifyOptions,
  algorithms: readonly string[] | undefined,
): Verify {
  const unfit = algorithms?.find((algorithm) => !PUBLIC_KEY_ALGORITHM.test(algorithm));
  if (unfit !== undefined || algorithms?.length === 0) {
    throw new TypeError(
      "Cannot create jwt: algorithms must be those of public keys with jwks, such as RS256, received " +
        (unfit === undefined ? "[]" : `"${unfit}"`),
    );
  }
  const keySet = createRemoteJWKSet(url, {
    cacheMaxAge: MAX_AGE_MS,
    cooldownDuration: COOLDOWN_MS,
    timeoutDuration: FETCH_TIMEOUT_MS,
    [customFetch]: fetchKeys,
  });
  const keyOf: JWTVerifyGetKey = async (...asked) => {
    const mayFetch = !keySet.coolingDown;
    try {
      return await keySet(...asked);
    } catch (cause) {
      const isOfToken = cause instanceof errors.JWKSNoMatchingKey && mayFetch ||
        cause instanceof errors.JWKSMultipleMatchingKeys ||
        cause instanceof errors.JOSENotSupported;
      if (isOfToken) throw cause;
      // The key may be newer than the key set, or the key set may be unreachable, neither of which
      // is the token's fault.
      throw new AuthenticationError("Tokens cannot be checked now, try again later", {
        status: 503,
        cause,
      });
    }
  };
  return async (token) => {
    try {
      return (await jwtVerify(token, keyOf, rules)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
      return await tryEach(error, token, rules);
    }
  };
}

/** Fetches a key set. Cancels the body of an error response, which would stay open. */
async function fetchKeys(url: string, options: RequestInit): Promise<Response> {
  const response = await fetch(url, options);
  if (response.status !== 200) await response.body?.cancel();
  return response;
}

/** Tries the keys that fit a token without a key id. */
async function tryEach(
  keys: errors.JWKSMultipleMatchingKeys,
  token: string,
  rules: JWTVerifyOptions,
): Promise<Claims> {
  let tried = 0;
  for await (const key of keys) {
    if (++tried > MAX_TRIED_KEYS) break;
    try {
      return (await jwtVerify(token, key, rules)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw error;
    }
  }
  throw keys;
}

/** Verifies a token. The peer receives only the kind of failure. */
async function verified(verify: Verify, token: string): Promise<Claims> {
  try {
    return await verify(token);
  } catch (cause) {
    // Any other error is the fault of this server or of the keys, not of the token.
    if (!(cause instanceof errors.JOSEError)) throw cause;
    const isEarly = cause instanceof errors.JWTClaimValidationFailed && cause.claim === "nbf" &&
      cause.reason !== "missing";
    throw new AuthenticationError(faultText(cause), { cause, status: isEarly ? 503 : undefined });
  }
}

function faultText(error: unknown): string {
  if (error instanceof errors.JWTExpired) return "The token has expired";
  if (error instanceof errors.JWTClaimValidationFailed) {
    const { claim, reason } = error;
    if (reason === "missing") return `The token must have the claim ${claim}`;
    if (claim === "nbf") return "The token is not valid yet";
    if (claim === "iss") return "The token is of another issuer";
    if (claim === "aud") return "The token is for another audience";
  }
  return "The token was not accepted";
}

function checkedClaims(claims: Claims): JwtClaims {
  const { sub } = claims;
  if (typeof sub === "string" && sub !== "") return claims as unknown as JwtClaims;
  throw new AuthenticationError("The token must name a user in the claim sub");
}
