import type { ClientStatus } from "../../../client/client_options.ts";
import type { Subscription } from "../../../client/subscriptions/subscription.ts";
import { CloseCode, type CloseInfo, RequestError, TimeoutError } from "../../../errors.ts";
import type { LiveClient } from "../facts.ts";
import { statusesInOrder, subscriptionsInForceStay } from "./statuses.ts";
import { Story } from "./story.ts";

const CONNECTING: ClientStatus = { name: "connecting" };

function connected(session: string): ClientStatus {
  return { name: "connected", session, transport: "websocket" };
}

function reconnecting(code: number, by: CloseInfo["by"]): ClientStatus {
  const cause = { code, reason: "", by };
  return { name: "reconnecting", attempt: 1, delayMs: 10, retryAt: 10, cause };
}

function ended(name: "rejected" | "closed", code: number, by: CloseInfo["by"]): ClientStatus {
  return { name, cause: { code, reason: "", by } };
}

function lives(...statuses: readonly ClientStatus[]): Story {
  const story = new Story(statusesInOrder);
  for (const status of statuses) story.tells("clientStatus", { client: "c", status });
  return story;
}

Deno.test("statusesInOrder holds for losses, moves, expired tokens, and a close", () => {
  lives(
    CONNECTING,
    reconnecting(CloseCode.abnormal, "network"),
    CONNECTING,
    connected("a"),
    connected("b"),
    reconnecting(CloseCode.unauthenticated, "remote"),
    CONNECTING,
    connected("c"),
    ended("closed", CloseCode.normal, "local"),
  ).finds();
  lives(CONNECTING, ended("rejected", CloseCode.unauthenticated, "remote")).finds();
});

Deno.test("statusesInOrder holds for the last of a limited number of attempts", () => {
  const last = ended("closed", CloseCode.abnormal, "network");
  lives(CONNECTING).tells("clientStatus", { client: "c", status: last, isBounded: true }).finds();
  lives(CONNECTING, last).finds(
    "expected c reconnecting after 1006 by network while connecting, received closed",
  );
});

Deno.test("statusesInOrder finds a client that stops after its token expired", () => {
  lives(
    CONNECTING,
    connected("a"),
    ended("rejected", CloseCode.unauthenticated, "remote"),
  ).finds(
    "expected c reconnecting after 4401 by remote while connected, received rejected",
  );
});

Deno.test("statusesInOrder finds a repeated session, and a status after the last one", () => {
  lives(
    CONNECTING,
    connected("a"),
    reconnecting(CloseCode.forbidden, "remote"),
    CONNECTING,
    connected("a"),
    ended("closed", CloseCode.normal, "remote"),
    CONNECTING,
  ).finds(
    "expected c rejected after 4403 by remote while connected, received reconnecting",
    "expected a new session of c, received a again",
    "expected no status of c after closed, received connecting",
  );
});

function follows(...statuses: readonly Subscription["status"]["current"][]): Story {
  const story = new Story(subscriptionsInForceStay);
  for (const status of statuses) {
    story.tells("subscriptionStatus", { client: "c", subscription: "s", topic: "news", status });
  }
  return story;
}

const END = { client: "c", subscription: "s", topic: "news" };

Deno.test("subscriptionsInForceStay holds for a rejection before the first reply, and for a permanent one", () => {
  const unavailable = new RequestError("unavailable", "The broker is unreachable");
  follows("pending", "ended").tells("unsubscribed", { ...END, error: unavailable }).finds();
  const forbidden = new RequestError("forbidden", "No longer allowed");
  follows("pending", "subscribed", "lost", "subscribed", "ended")
    .tells("unsubscribed", { ...END, error: forbidden }).finds();
});

Deno.test("subscriptionsInForceStay finds a live subscription that a temporary rejection ended", () => {
  for (const error of [new RequestError("too-many", "Later"), new TimeoutError("Cannot wait", 1)]) {
    follows("pending", "subscribed", "lost", "ended").tells("unsubscribed", { ...END, error })
      .finds(
        'expected s on "news", once in force, to continue after a rejection for now, received its ' +
          `end: ${error}`,
      );
  }
});

Deno.test("subscriptionsInForceStay finds a live subscription without a session", () => {
  const story = follows("pending", "lost");
  story.subscribes("news");
  (story.cluster.clients[0] as { client: Partial<LiveClient["client"]> }).client = {
    session: undefined as never,
  };
  story.steps().finds(
    'expected no lost after pending of s on "news"',
    'expected s on "news" to be lost without a session, received subscribed',
  );
});
