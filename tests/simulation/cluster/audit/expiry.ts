/** Tokens with an end, on a server with a wrong clock: sessions end at the end of the token. */
import { AuthenticationError, CloseCode } from "../../../../errors.ts";
import { SimulatedServer } from "../../../../testing/simulation/programs.ts";
import type { Audit, Expect } from "./audit.ts";

/** Duration of a token without a renewal, in milliseconds. */
const ONCE_MS = 5_000;

/** Duration of a token with renewals, in milliseconds. */
const RENEWED_MS = 4_000;

/** Time of the watch over the renewed session, in milliseconds. */
const WATCH_MS = 11_000;

/** Time for an end and for messages under way, in milliseconds. */
const SLACK_MS = 150;

/**
 * Watches sessions to the end of the tokens, and beyond.
 *
 * @param audit The audit.
 */
export async function auditExpiry(audit: Audit): Promise<void> {
  const host = audit.host("clock-is-wrong");
  host.jumpClock(Math.round(200_000 * (audit.random() - 0.5)));
  host.setDrift(0.01 * (audit.random() - 0.5));
  const { runtime } = host;
  const expect: Expect = (...outcome) => audit.examine("expiry", ...outcome);
  const asked = new Map<string, number>();
  /** Times of the tokens of one client whose tokens are renewed. */
  const renewals: number[] = [];
  let isDenied = false;
  const closes: { readonly user: string; readonly code: number; readonly atMs: number }[] = [];
  const { server } = new SimulatedServer(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }: { readonly token?: string | undefined }) => {
      const [user = "", endsAt] = token.split(" ");
      asked.set(user, (asked.get(user) ?? 0) + 1);
      if (user === "renewed") renewals.push(runtime.now());
      if (Number(endsAt) <= runtime.now()) throw new AuthenticationError("The token has ended");
      return { user, endsAt: Number(endsAt) };
    },
    userOf: ({ user }: { readonly user: string }) => user,
    expiresAt: ({ endsAt }) => endsAt,
    authorize: () => !isDenied,
    onClose: ({ user }, { code }) => void closes.push({ user, code, atMs: runtime.now() }),
  }));
  const endsAt = runtime.now() + ONCE_MS;
  const once = audit.connect("once", host, { token: () => `once ${endsAt}` });
  const renewed = audit.connect("renewed", host, {
    token: () => `renewed ${runtime.now() + RENEWED_MS}`,
  });
  const moved = audit.connect("moved", host, {
    token: () => `moved ${runtime.now() + RENEWED_MS}`,
  });
  // A token that is no function is never renewed, although the server asks.
  const mute = audit.connect("mute", host, { token: `mute ${endsAt}` });
  const subscription = renewed.subscribe("talk");
  let end = "none";
  void (async () => {
    for await (const _ of subscription);
  })().catch(({ failure }) => end = failure?.code ?? "an error");
  await audit.until(() => once.isConnected && renewed.isConnected && moved.isConnected);
  const { session } = renewed;
  expect("move of a client with a token", true, await moved.handOver());
  const movedTo = moved.session;
  await audit.pause(ONCE_MS - 4 * SLACK_MS);
  expect("session shortly before the end of its token", true, once.isConnected);
  await audit.pause(6 * SLACK_MS);
  for (const name of ["once", "mute"]) {
    const close = closes.find(({ user }) => user === name);
    const code = close?.code ?? "none";
    expect(`code at the end of the token of ${name}`, CloseCode.unauthenticated, code);
    const lateMs = (close?.atMs ?? Infinity) - endsAt;
    expect(`end of ${name} in time`, true, lateMs >= 0 && lateMs <= SLACK_MS);
  }
  await audit.until(() => once.status.isEnded, 2_000);
  expect("status after the end of a token", "refused", once.status.current.name);
  // The renewal, the next connection, and one more attempt with a token that may be fresh.
  expect("tokens of a client without a fresh one", "3 to 4", between(asked.get("once"), 3, 4));

  expect("subscription while allowed", "none", end);
  isDenied = true;
  await audit.pause(RENEWED_MS);
  expect("subscription that a renewal denies", "forbidden", end);
  await audit.pause(Math.max(0, WATCH_MS - ONCE_MS - RENEWED_MS));
  expect("session whose token is renewed", true, renewed.session === session);
  expect("session after a move, whose token is renewed", true, moved.session === movedTo);
  for (const name of ["renewed", "moved"]) {
    // The session before the move ends by a normal close.
    const closed = closes.find(({ user, code }) => user === name && code !== CloseCode.normal);
    expect(`end of a session of ${name}`, "none", closed?.code ?? "none");
  }
  // Rule 8.9: after half of the remaining time.
  const early = renewals.slice(1).map((atMs, i) => atMs - renewals[i]! - RENEWED_MS / 2);
  const isInTime = early.every((ms) => Math.abs(ms) <= SLACK_MS);
  expect(`renewals after half of the time, and ${early.map(Math.round)} ms`, true, isInTime);
  expect("renewals", "4 to 8", between(asked.get("renewed"), 4, 8));
  await Promise.all([once, mute, moved, renewed].map((client) => client.close()));
  await server.close();
}

function between(value: number = 0, least: number, most: number): string {
  return value >= least && value <= most ? `${least} to ${most}` : `${value}`;
}
