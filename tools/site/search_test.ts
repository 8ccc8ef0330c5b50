import { assert, assertEquals } from "@std/assert";
import MiniSearch from "npm:minisearch@7.2.0";
import { readPages } from "../pages.ts";
import { SEARCH, type SearchDocument, sectionsOf } from "./search.ts";
import { stage } from "./stage.ts";

/** Number of results that a reader sees without scrolling. */
const FIRST = 3;

/** Queries as readers type them, with pages of which one must be among the first results. */
const QUERIES: Readonly<Record<string, readonly string[]>> = {
  "logout": ["guide/users"],
  "kick": ["guide/users", "guide/topics"],
  "throttle": ["reference/limits"],
  "cloudflare": ["deploy/cloudflare"],
  "fly": ["deploy/fly"],
  "encryption": ["recipes/encryption"],
  "ack": ["guide/reconnect", "guide/messages", "guide/coming-from"],
  "binary": ["guide/messages"],
  "broadcast except sender": ["guide/topics", "guide/coming-from"],
  "private message": ["guide/topics", "guide/users", "guide/coming-from"],
  "limit size": ["reference/limits"],
  "reconnect": ["guide/reconnect"],
  "offline queue": ["guide/reconnect"],
  "shared state": ["guide/state", "concepts/ways-to-share"],
  "optimistic update": ["guide/state", "guide/mutations", "guide/coming-from"],
  "mutations": ["guide/mutations"],
  "custom mutators": ["guide/mutations", "guide/coming-from"],
  "replicache": ["guide/coming-from", "guide/mutations"],
  "crdt": ["concepts/ways-to-share", "guide/adapters"],
  "jwt refresh": ["guide/users"],
  "cors error": ["recipes/vite-and-cors"],
  "nginx websocket": ["deploy/proxies"],
  "haproxy delay": ["deploy/proxies"],
  "docker": ["deploy/docker"],
  "typing indicator": ["guide/topics"],
  "online users": ["guide/topics", "concepts/presence", "start/6-presence"],
  "rate limit": ["reference/limits"],
  "file upload": ["guide/streams"],
  "redis cluster": ["deploy/redis", "deploy/many-nodes"],
  "sticky sessions": ["deploy/many-nodes"],
  "react hook": ["recipes/react", "guide/reconnect"],
  "svelte store": ["recipes/svelte"],
  "vue": ["recipes/vue"],
  "vite proxy": ["recipes/vite-and-cors"],
  "message order": ["concepts/history", "reference/sessions"],
  "exactly once": ["concepts/history", "guide/reconnect", "concepts/history"],
  "missed messages": ["concepts/history", "guide/reconnect", "start/7-history"],
  "streaming llm response": [
    "guide/ai-responses",
    "guide/messages",
    "start/9-streaming-responses",
  ],
  "vercel ai sdk": ["guide/ai-libraries", "guide/coming-from"],
  "game state udp": ["recipes/games"],
  "webrtc": ["guide/moq"],
  "room": ["guide/topics"],
  "namespaces": ["guide/coming-from", "guide/topics"],
  "middleware": ["guide/coming-from", "guide/users"],
  "disconnect reason": ["reference/close-codes"],
  "close code 1008": ["reference/close-codes"],
  "heartbeat ping interval": ["reference/limits", "reference/serve-options", "reference/sessions"],
  "compression": ["deploy/websocket-engines"],
  "self signed certificate": ["deploy/webtransport"],
  "durable objects": ["recipes/cloudflare-workers"],
  "next.js": ["recipes/nextjs"],
  "supabase realtime": ["recipes/postgres-source"],
  "read receipts": ["recipes/read-receipts"],
  "wildcard subscription": ["recipes/audiences", "guide/topics"],
  "shared worker": ["recipes/shared-tabs"],
  "python": ["recipes/python"],
  "hono session": ["recipes/hono-sign-in", "recipes/mount"],
  "postgres transaction": ["recipes/postgres-outbox"],
  "mobile background": ["guide/reconnect", "recipes/react-native"],
  "test handler": ["guide/testing"],
  "horizontal scaling": ["deploy/many-nodes", "concepts/nodes"],
  "graceful shutdown": ["deploy/operations", "deploy/rolling-restarts"],
  "metrics prometheus": ["reference/metrics", "deploy/observability"],
  "mutate a row": ["guide/state", "guide/mutations"],
  "send to one user": ["guide/messages"],
  "push notification": ["guide/messages"],
  "ban user": ["guide/users"],
  "upgrade version": ["deploy/upgrading"],
  "upgrade": ["deploy/upgrading"],
  "multi region": ["deploy/regions"],
  "liveblocks": ["guide/coming-from"],
  "partykit": ["guide/coming-from"],
  "supabase": ["guide/coming-from"],
  "convex": ["guide/coming-from"],
  "colyseus": ["guide/coming-from"],
  "centrifugo": ["guide/coming-from"],
  "when not to use": ["guide/coming-from"],
  "limitations": ["reference/known-limits"],
  "flutter": ["reference/known-limits"],
  "delete a message": ["concepts/ways-to-share"],
  "load older messages": ["concepts/history"],
  "server sent events": ["guide/http-api"],
  "admin page": ["deploy/observability"],
  "save messages to database": ["guide/topics"],
  "benchmark": ["deploy/sizing", "reference/cli"],
};

/** The index of the site, with the pages as the site shows them. */
async function indexOfSite(): Promise<MiniSearch<SearchDocument>> {
  const { pages } = stage(await readPages(new URL("../../", import.meta.url)));
  const index = new MiniSearch<SearchDocument>({
    ...SEARCH.options,
    searchOptions: SEARCH.searchOptions,
  });
  for (const [route, page] of pages) {
    const address = `/${route.replace(/(^|\/)index\.md$/, "$1").replace(/\.md$/, "")}`;
    for (const { anchor, titles, text } of sectionsOf(page)) {
      const id = `${address}#${anchor}`;
      index.add({ id, text, title: titles.at(-1)!, titles: titles.slice(0, -1) });
    }
  }
  return index;
}

const index = await indexOfSite();

/** The pages of the first results, without anchors. */
function found(query: string): string[] {
  return index.search(query).slice(0, FIRST).map(({ id }) =>
    String(id).slice(1).replace(/#.*/, "")
  );
}

Deno.test("search finds the right page among the first three results", () => {
  const misses = Object.entries(QUERIES).flatMap(([query, right]) => {
    const first = found(query);
    return first.some((page) => right.includes(page)) ? [] : [`${query}: ${first.join(", ")}`];
  });
  assertEquals(misses, []);
  assert(Object.keys(QUERIES).length >= 47);
});

Deno.test("search shows no page for maintainers or implementers first", () => {
  const inner = /^(?:bench|changelog|contributing|internals|protocol)\b/;
  const shown = Object.keys(QUERIES).flatMap((query) =>
    found(query).filter((page) => inner.test(page)).map((page) => `${query}: ${page}`)
  );
  assertEquals(shown, []);
});

Deno.test("search still finds pages for implementers by words that no other page has", () => {
  assertEquals(found("asyncapi")[0], "protocol");
});

Deno.test("sectionsOf() splits at headings and reads words from a comment", () => {
  const page = `---
description: ""
---

# A *page* of A<B>

<!-- search: logout,
kick -->

See [the client](client.md).

## Part

\`\`\`sh
# No heading.
\`\`\`

## Part
`;
  assertEquals(sectionsOf(page), [
    {
      anchor: "a-page-of-a",
      titles: ["A page of A&lt;B>"],
      text: "See [the client].\flogout,\nkick",
    },
    { anchor: "part", titles: ["A page of A&lt;B>", "Part"], text: "# No heading.\f" },
    { anchor: "part-1", titles: ["A page of A&lt;B>", "Part"], text: "\f" },
  ]);
});

Deno.test("sectionsOf() returns no sections of a page that search excludes", () => {
  assertEquals(sectionsOf("---\nsearch: false\n---\n\n# Home\n"), []);
});
