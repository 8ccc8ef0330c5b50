/**
 * Tests `docs/deploy/proxies.md`: nginx, Caddy and HAProxy run with the exact files of the page, in
 * front of two nodes and Redis.
 *
 * @module
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import type { connect, dial } from "../../client.ts";
import { isRedisMissing } from "../brokers/redis_server.ts";
import { BROWSERS, findBrowser, launchBrowser, newPage } from "../browser/browsers.ts";
import { isInstalled } from "./programs.ts";
import {
  type Access,
  ProxiedSite,
  type ProxyKind,
  SHORT_TIMEOUT_MS,
  type Watcher,
} from "./proxied_site.ts";

/** Globals of the browser's page. */
declare global {
  var skein: { readonly connect: typeof connect; readonly dial: typeof dial };
}

const TRANSPORTS = ["websocket", "http", "webtransport"] as const;

const PROXIES: readonly ProxyKind[] = [
  {
    program: "nginx",
    file: "nginx.conf",
    added: "stream.conf",
    nodes(text, page) {
      const [passed] = /^clientAddress: [^]*?(?=^```$)/m.exec(page)!;
      return text.replace(/^ *(?:hostname: "::"|port: 443),.*\n/gm, "")
        .replace(/^ *clientAddress: .*\n/m, passed);
    },
    adapt: (text, { folder }) =>
      text.replace("/run/nginx.pid", `${folder}/nginx.pid`)
        .replaceAll("/var/log/nginx/", `${folder}/`),
    without: {
      "HTTP/1.1": (text) => text.replaceAll(" ssl http2;", " ssl;"),
      "no TLS": (text) =>
        text.replaceAll(" ssl http2;", ";").replace(/^ *ssl_certificate.*\n/gm, "")
          .replace("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for"),
    },
    check: (path, folder) => ["-t", "-c", path, "-e", `${folder}/error.log`],
    run: (path, folder) => ["-c", path, "-e", `${folder}/error.log`, "-g", "daemon off;"],
    async reload(site) {
      await site.run("nginx", ["-s", "reload", "-c", site.file, "-e", `${site.folder}/error.log`]);
    },
  },
  {
    program: "caddy",
    file: "Caddyfile",
    adapt: (text, { port, adminPort }) =>
      text.replace("{\n", `{\n\tadmin localhost:${adminPort}\n\tauto_https disable_redirects\n`)
        .replace("\nlocalhost {", `\nlocalhost:${port} {`)
        .replace("\nhttp://localhost {", `\nhttp://localhost:${port} {`),
    without: {
      "HTTP/1.1": (text) => text.replace("protocols h1 h2", "protocols h1"),
      "no TLS": (text) =>
        text.replace(/^\ttls.*\n/m, "").replace("\nchat.ex", "\nhttp://chat.ex")
          .replace("lb_policy", "trusted_proxies private_ranges\n\t\tlb_policy"),
    },
    check: (path) => ["validate", "--config", path, "--adapter", "caddyfile"],
    run: (path) => ["run", "--config", path, "--adapter", "caddyfile"],
    async reload(site) {
      const args = ["--force", "--config", site.file, "--adapter", "caddyfile"];
      await site.run("caddy", ["reload", ...args, "--address", `localhost:${site.adminPort}`]);
    },
  },
  {
    program: "haproxy",
    file: "haproxy.cfg",
    // Test machines may not raise their limit of open files.
    adapt: (text) => text.replace("maxconn 20000", "maxconn 1000"),
    without: {
      "HTTP/1.1": (text) => text.replaceAll("alpn h2,http/1.1", "alpn http/1.1"),
      "no TLS": (text) =>
        text.replace(/ ssl crt .*/g, "")
          .replace("set-header X-Forwarded-For", "add-header X-Forwarded-For"),
    },
    check: (path) => ["-c", "-f", path],
    run: (path) => ["-W", "-f", path],
    reload(site) {
      Deno.kill(site.proxyPid, "SIGUSR2");
      return Promise.resolve();
    },
  },
];

/** Checks that each client received the numbers from 1 exactly once, in order. */
async function assertHeard(watchers: readonly Watcher[], count: number): Promise<void> {
  for (const watcher of watchers) {
    await watcher.whenHeard(count);
    assertEquals(watcher.heard, Array.from({ length: count }, (_, i) => i + 1));
    assertEquals(watcher.recoveries.filter((recovered) => !recovered), []);
  }
}

/**
 * Opens a plain WebSocket with a header that only a proxy should write; resolves with the response.
 */
async function replyToForger(site: ProxiedSite): Promise<unknown> {
  const program = `
    const socket = new WebSocket(Deno.args[0], { headers: { "x-forwarded-for": "192.0.2.66" } });
    socket.onopen = () => socket.send('{"topic":"who","id":1,"data":null}');
    socket.onmessage = ({ data }) => (console.log(data), socket.close());
  `;
  await Deno.writeTextFile(`${site.folder}/forger.ts`, program);
  const args = ["run", "-A", "--cert", "cert.pem", "forger.ts"];
  const url = site.url.replace("https:", "wss:");
  return JSON.parse(await site.run(Deno.execPath(), [...args, url])).data;
}

/** Longest delay that a proxy may add to an event, in milliseconds. Corked packets wait 200 ms. */
const MAX_ADDED_MS = 100;

/**
 * How each proxy may be reached, with its reply to a client that sends a forwarded address: the
 * addresses that the server receives, and the version of HTTP. Without TLS, the client is a load
 * balancer.
 */
const ACCESS = {
  "HTTP/2": "127.0.0.1 2",
  "HTTP/1.1": "127.0.0.1 1.1",
  "no TLS": "192.0.2.66, 127.0.0.1 1.1",
} as const;

/** Returns the median with one decimal. */
function median(numbers: readonly number[]): number {
  const [low, high] = [Math.ceil(numbers.length / 2) - 1, Math.floor(numbers.length / 2)];
  const sorted = numbers.toSorted((a, b) => a - b);
  return Math.round((sorted[low]! + sorted[high]!) * 5) / 10;
}

for (const kind of PROXIES) {
  const { program } = kind;
  const isMissing = !await isInstalled(program);
  const ignore = isRedisMissing || isMissing;
  const passesUdp = program === "nginx";

  Deno.test({
    name:
      `the files of the page carry sessions through ${program}, even over a reload and a killed node`,
    ignore,
    async fn() {
      await using site = await ProxiedSite.start(kind);
      await site.complaints();

      // The page's client: three transports, and the client's address if it is known.
      const lines = (await site.check()).trim().split("\n");
      assertEquals(lines.length, TRANSPORTS.length);
      for (const [i, transport] of TRANSPORTS.entries()) {
        assertStringIncludes(lines[i]!, `transport: "${transport}"`);
        const isLost = transport === "webtransport" && passesUdp;
        assertStringIncludes(lines[i]!, isLost ? "address: null" : 'address: "127.0.0.1"');
      }
      const forged = await replyToForger(site) as { readonly address: string };
      assertEquals(forged.address, "127.0.0.1");
      const metrics = await site.run("curl", ["-sk", "-o", "-", `${site.url}/metrics`]);
      assert(!metrics.includes("skein_sessions"), metrics);

      const watchers = await Promise.all(TRANSPORTS.map((transport) => site.watch(transport)));
      const [speaker] = watchers as [Watcher, ...Watcher[]];

      // The application is silent for longer than the proxy's timeouts.
      await delay(SHORT_TIMEOUT_MS + 2_000);
      for (const { sessions, events } of watchers) {
        assertEquals(sessions.length, 1, JSON.stringify(events));
      }
      await speaker.say(1, 10);
      await assertHeard(watchers, 10);

      await kind.reload(site);
      await speaker.say(11, 40);
      await assertHeard(watchers, 40);
      await delay(4_000); // The old workers close their sessions.
      await speaker.say(41, 50);
      await assertHeard(watchers, 50);

      // Each node in turn: one is killed, the other is drained.
      const [one, two] = site.nodes;
      await site.endNode(one, "SIGKILL");
      await speaker.say(51, 60);
      await assertHeard(watchers, 60);
      await site.startNode(one);
      await delay(3_000); // Until the proxy's next health check, or its next attempt.
      assertEquals(await site.endNode(two, "SIGTERM"), 0);
      await speaker.say(61, 70);
      await assertHeard(watchers, 70);
      for (const watcher of watchers) assertEquals((await watcher.who()).node, one);
    },
  });

  Deno.test({
    name: `${program} forwards each event of HTTP immediately, with and without TLS`,
    ignore: isMissing,
    async fn() {
      const late: string[] = [];
      for (const [access, expected] of Object.entries(ACCESS) as [Access, string][]) {
        const { reply, rows } = await ProxiedSite.measure(kind, access);
        assertEquals(reply, expected, access);
        for (const { kind, proxied, direct } of rows) {
          const [through, without] = [median(proxied), median(direct)];
          // A busy machine delays an event on both paths.
          const added = median(proxied.map((ms, i) => ms - direct[i]!));
          const row = `${program}, ${access}, ${kind}: ${through} ms, directly ${without} ms`;
          console.log(row);
          if (added >= MAX_ADDED_MS) late.push(row);
        }
      }
      assertEquals(late, []);
    },
  });

  Deno.test({
    name: `${program} logs no token, ticket or secret, even if both nodes are dead`,
    ignore,
    async fn() {
      await using site = await ProxiedSite.start(kind);
      const request = async (path: string, headers: readonly string[] = []) => {
        const given = [
          ...headers,
          "authorization: Bearer leaked",
          "cookie: token=leaked",
          "referer: https://localhost/?token=leaked",
          "skein-secret: leaked",
        ];
        return await site.run("curl", [
          ...["-sk", "--http1.1", "-o", `${site.folder}/body`, "-w", "%{http_code}"],
          ...given.flatMap((header) => ["-H", header]),
          `${site.url}${path}?protocol=skein.1&token=leaked&ticket=leaked`,
        ]);
      };
      assertEquals(await request("/served"), "200");
      // The node rejects the version, so that the request ends.
      const upgrade = [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 12",
      ];
      assertEquals(await request("/upgrade", upgrade), "426");
      for (const node of site.nodes) await site.endNode(node, "SIGKILL");
      assertMatch(await request("/failed"), /^50\d$/);
      await site.endProxy();
      const logs = await site.logs();
      for (const path of ["/served", "/upgrade", "/failed"]) assertStringIncludes(logs, path);
      assert(!logs.includes("leaked"), logs);
    },
  });

  const chromium = BROWSERS.find(({ name }) => name === "Chromium")!;
  const isWithout = findBrowser(chromium) === undefined && Deno.env.get("CI") !== "true";
  Deno.test({
    name: `a page in Chromium reaches the nodes through ${program} over each transport`,
    ignore: ignore || isWithout,
    // Puppeteer keeps the browser's process, pipes and timers until after the close.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      await using site = await ProxiedSite.start(kind);
      const browser = await launchBrowser(chromium, ["--ignore-certificate-errors"]);
      try {
        const page = await newPage(browser);
        await page.goto(`${site.url}/page`);
        await page.waitForFunction(() => globalThis.skein !== undefined, { polling: 10 });
        const seen = await page.evaluate(
          async (transports, hash) => {
            const value = new Uint8Array(hash);
            const seen: string[] = [];
            for (const transport of transports) {
              const client = skein.connect(location.origin, {
                transports: [transport],
                serverCertificateHashes: [{ algorithm: "sha-256", value }],
              });
              try {
                const who = await client.request("who", null, { timeoutMs: 60_000 });
                seen.push((who as { transport: string }).transport);
              } catch (error) {
                // The status includes the reason, which a failing test must report.
                const { cause } = { cause: undefined, ...client.status.current } as {
                  readonly cause?: { readonly reason?: string };
                };
                seen.push(`${transport}: ${error} (${cause?.reason})`);
              }
              await client.close();
            }
            return seen;
          },
          TRANSPORTS,
          [...site.hash],
        );
        assertEquals(seen, [...TRANSPORTS]);
      } finally {
        await browser.close();
      }
    },
  });
}
