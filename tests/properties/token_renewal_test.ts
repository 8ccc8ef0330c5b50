/**
 * Tokens that expire. The property covers renewals, their failures, and the rights that a later
 * token removes.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { AuthenticationError, CloseCode, RequestError } from "../../errors.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import { areSubscribed, read } from "./readings.ts";
import type { World } from "./world.ts";

/** Time for a close and for messages in flight, in milliseconds. */
const SLACK_MS = 150;

/**
 * Time for which a client is observed, and maximum time until it has read everything, in
 * milliseconds.
 */
const [WATCH_MS, BACK_MS] = [6_000, 4_000] as const;

/** The identity of a token. */
interface Identity {
  readonly user: string;
  readonly endsAt: number;
  /** Number of earlier tokens. */
  readonly number: number;
}

/**
 * Kinds of the second token, with the result: the session continues, or it ends with its token. All
 * other tokens are valid.
 */
const SECOND = {
  good: { ends: false, token: (good: string) => good },
  failing: {
    ends: true,
    token() {
      throw new AuthenticationError("The token provider is unreachable");
    },
  },
  rejected: { ends: true, token: (good: string) => `${good} rejected` },
  "of another user": { ends: true, token: (good: string) => `other-${good}` },
  missing: { ends: true, token: () => undefined },
} as const;

property("a session ends with its token unless that is renewed, and its client returns", {
  cases: fc.record({
    tokenMs: fc.integer({ min: 1_000, max: 1_600 }),
    second: fc.constantFrom("good", ...Object.keys(SECOND) as (keyof typeof SECOND)[]),
    /**
     * If true, the client is offline for longer than a token's lifetime after the first renewal.
     */
    isAway: fc.boolean(),
    /** How long the provider, the token check and the renewal hooks take. */
    providerMs: fc.constantFrom(0, 30, 60),
    checkMs: fc.constantFrom(0, 60, 120),
    hookMs: fc.constantFrom(0, 60, 120),
    /** The decision about a topic, which applies from some token on. */
    verdict: fc.constantFrom("grants", "denies", "rejects", "fails"),
    deniedFrom: fc.integer({ min: 1, max: 2 }),
    /** The error of the server's clock. */
    jumpMs: fc.integer({ min: -100_000, max: 100_000 }),
    drift: fc.double({ min: -0.005, max: 0.005, noNaN: true }),
  }),
  async check(world, { tokenMs, second, isAway, ...times }) {
    const { providerMs, checkMs, hookMs, verdict, deniedFrom, jumpMs, drift } = times;
    const host = world.host("server");
    host.jumpClock(jumpMs);
    host.setDrift(drift);
    const now = () => host.runtime.now();
    const seen: string[] = [];
    const renewedMs: number[] = [];
    const lateMs: number[] = [];
    const { server } = world.serve<Identity>("server", () => ({
      authenticate: async ({ token = "" }) => {
        assert(!seen.includes(token), "a token that was used before");
        seen.push(token);
        await world.pause(checkMs);
        const [user = "", endsAt, number, rejected] = token.split(" ");
        if (rejected !== undefined) throw new AuthenticationError("Not this token");
        return { user, endsAt: Number(endsAt), number: Number(number) };
      },
      userOf: ({ user }) => user,
      authorize: async ({ value }, topic) => {
        // Requests take turns, so the first token could expire before its renewal is read.
        if (topic === "kept:a" || value.number > 0) await world.pause(hookMs);
        if (topic === "kept:a" || value.number < deniedFrom || verdict === "grants") return true;
        if (verdict === "rejects") throw new RequestError("forbidden", "No longer");
        if (verdict === "fails") throw new Error("The rights are unknown");
        return false;
      },
      history: { "kept:{name}": {} },
      tokens: {
        inMessage: true,
        expiresAt: ({ endsAt }) => endsAt,
        onRenewed: async ({ value }, before) => {
          renewedMs.push(now());
          assert(value.endsAt > (before as Identity).endsAt && value.user === "ada");
          await world.pause(hookMs);
        },
      },
      onClose: ({ value: { endsAt } }, { code }) => {
        if (code === CloseCode.unauthenticated) lateMs.push(now() - endsAt);
      },
      onError() {},
    }));
    let tokens = 0;
    const client = world.connect("ada", host, {
      backoff: { firstDelayMs: 100, maxDelayMs: 300 },
      connectTimeoutMs: 1_000,
      token: async () => {
        const number = tokens++;
        await world.pause(providerMs);
        const good = `ada ${now() + tokenMs} ${number}`;
        return number === 1 ? SECOND[second].token(good) : good;
      },
      onError() {},
    });
    const causes: number[] = [];
    client.status.observe((status) => {
      if (status.name === "reconnecting") causes.push(status.cause.code);
    });
    const readings = [read(client, "kept:a"), read(client, "right")] as const;
    const [{ got }, { subscription: right }] = readings;
    await world.until("subscriptions", () => areSubscribed(readings), BACK_MS);
    const startMs = world.nowMs;
    const away = isAway ? beAway(world, { renewedMs, tokenMs }) : undefined;
    let count = 0;
    while (world.nowMs < startMs + WATCH_MS) {
      server.publish("kept:a", count++);
      await world.pause(SLACK_MS);
    }
    await away;
    await world.until(
      "all publications",
      () => client.isConnected && got.length >= count,
      BACK_MS,
    );
    assertEquals(got, range(0, count - 1));
    const { ends } = SECOND[second];
    if (!isAway) {
      assertEquals(causes, ends ? [CloseCode.unauthenticated] : []);
      assertEquals(lateMs.length, ends ? 1 : 0, "ends of sessions with a token");
      const isIn = verdict === "grants";
      assertEquals(server.topics.subscribers("right").length, isIn ? 1 : 0);
      // An error is not a decision, so the client retries.
      const expected = isIn ? "subscribed" : verdict === "fails" ? "lost" : "ended";
      if (!ends) assertEquals(right.status.current, expected);
    }
    assert(lateMs.every((ms) => ms >= 0 && ms <= SLACK_MS), `ends ${lateMs} ms late`);
    assert(renewedMs.length > 0, "no renewal");
    if (ends || isAway || hookMs > 0) return;
    const early = renewedMs.slice(1).map((atMs, i) => atMs - renewedMs[i]! - tokenMs / 2);
    assert(
      early.every((ms) => Math.abs(ms) <= SLACK_MS),
      `renewals ${early} ms off half the time`,
    );
  },
});

/** Keeps the client offline once, for longer than a token's lifetime after a renewal. */
async function beAway(
  world: World,
  { renewedMs, tokenMs }: { readonly renewedMs: readonly number[]; readonly tokenMs: number },
): Promise<void> {
  const [client, server] = [world.host("ada"), world.host("server")];
  await world.until("a renewal", () => renewedMs.length > 0);
  world.change(client, server, { isBlocked: true });
  await world.pause(tokenMs + 2 * SLACK_MS);
  world.cut(client);
  world.change(client, server, { isBlocked: false });
}
