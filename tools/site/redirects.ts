/**
 * Redirects from the addresses of pages that have moved.
 *
 * @module
 */

/**
 * Maps each old page, below the root of the site, to the page with its content. A key with an
 * anchor is a section that has moved elsewhere than the rest of its page.
 */
export const MOVED: Readonly<Record<string, string>> = {
  "deploy/caddy": "deploy/proxies#caddy",
  "deploy/haproxy": "deploy/proxies#haproxy",
  "deploy/nginx": "deploy/proxies#nginx",
  "deploy/nginx#clients-over-udp-have-no-address": "deploy/proxies#udp-through-nginx",
  "faq": "guide/coming-from#when-not-to-choose-skein",
  "features": "reference/entries",
  "guide/client": "guide/reconnect",
  "guide/client#in-react": "recipes/react#hooks",
  "guide/client#members": "guide/topics#members",
  "guide/client#moving-to-another-session": "guide/reconnect#move-to-another-session",
  "guide/client#node-and-bun": "recipes/npm",
  "guide/durable-streams-http": "reference/durable-streams-http",
  "guide/honest-limits": "reference/known-limits",
  "guide/limits": "reference/limits",
  "guide/quic": "reference/quic",
  "guide/sessions": "reference/sessions",
  "guide/sessions#diagnosis": "guide/testing#look-at-a-running-server",
  "guide/streaming-responses": "guide/messages",
  "guide/structured": "reference/structured",
  "internals/deno-reports": "deploy/webtransport",
  "internals/moq-peers": "guide/moq",
  "internals/qmux-peers": "guide/streams",
  "internals/simulation": "internals/tests",
  "internals/webtransport-peers": "deploy/webtransport",
  "recipes/binary-messages": "guide/messages#bytes",
  "recipes/debugging": "guide/testing#look-at-a-running-server",
  "recipes/files": "guide/streams",
  "recipes/mount-in-express": "recipes/mount#express-and-other-node-servers",
  "recipes/mount-in-fresh": "recipes/mount#fresh",
  "recipes/mount-in-hono": "recipes/mount#hono",
  "recipes/recorded-sessions": "guide/testing#turn-a-bug-report-into-a-test",
  "recipes/rooms-and-presence": "guide/topics",
  "recipes/users-and-jwt": "guide/users",
};

/**
 * Writes the pages for old addresses, which work on any static host.
 *
 * @param base The path of the site, with a slash on both sides.
 * @param moved See {@linkcode MOVED}.
 * @returns Maps the path of each file to its HTML.
 */
export function redirectPages(
  base: string,
  moved: Readonly<Record<string, string>> = MOVED,
): ReadonlyMap<string, string> {
  const pages = new Map<string, string>();
  for (const [from, to] of Object.entries(moved)) {
    if (from.includes("#")) continue;
    const sections = Object.entries(moved).filter(([key]) => key.startsWith(`${from}#`))
      .map(([key, to]) => [key.slice(from.length), base + to] as const);
    pages.set(`${from}.html`, pageTo(base + to, Object.fromEntries(sections)));
  }
  return pages;
}

/** A page that leads to another; the script keeps the anchor. */
function pageTo(to: string, sections: Readonly<Record<string, string>>): string {
  const rest = to.includes("#") ? '""' : "location.hash";
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>This page has moved</title>
<meta name="robots" content="noindex">
<link rel="canonical" href="${to}">
<noscript><meta http-equiv="refresh" content="0; url=${to}"></noscript>
<script>
location.replace(${JSON.stringify(sections)}[location.hash] ?? "${to}" + ${rest});
</script>
</head>
<body><p>This page has <a href="${to}">moved</a>.</p></body>
</html>
`;
}
