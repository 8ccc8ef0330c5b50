import { assertEquals, assertThrows } from "@std/assert";
import { createServer, type ServeOptions, type SessionRejection } from "../server.ts";
import { listen, portOf, RawSocket } from "./servers.ts";

/**
 * Requests to a server with certain options, each with the expected status. `PORT` stands for the
 * server's port.
 */
interface Site {
  readonly options?: ServeOptions;
  readonly cases: readonly [what: string, origin: string, status: number, host?: string][];
}

const SITES: Readonly<Record<string, Site>> = {
  "its own pages and programs by default": {
    cases: [
      ["a program", "", 101],
      ["its own page", "http://127.0.0.1:PORT", 101],
      ["by name", "http://localhost:PORT", 101, "localhost:PORT"],
      ["by IPv6", "http://[::1]:PORT", 101, "[::1]:PORT"],
      ["a foreign page", "https://evil.example", 403],
      ["another port", "http://127.0.0.1:1", 403],
      ["another name", "http://localhost:PORT", 403],
      ["a file", "null", 403],
      ["nonsense", "http://", 403],
      ["its host as user information", "http://127.0.0.1:PORT@evil.example", 403],
      // DNS rebinding: the origin and the host are the same, but they are not ours.
      [
        "a foreign name that resolves to this host",
        "http://evil.example:PORT",
        403,
        "evil.example:PORT",
      ],
      [
        "a name that starts like ours",
        "http://localhost.evil.example:PORT",
        403,
        "localhost.evil.example:PORT",
      ],
    ],
  },
  "only the configured origins and hosts": {
    options: { origins: ["https://app.example"], hosts: ["live.example"] },
    cases: [
      ["named", "https://app.example", 101],
      ["named, by http", "http://app.example", 403],
      ["its own", "https://live.example", 101, "live.example"],
      ["no longer its own", "http://127.0.0.1:PORT", 403],
      ["a sub-domain", "https://x.app.example", 403],
    ],
  },
  "every page with origins: *": {
    options: { origins: ["*"] },
    cases: [["any", "https://evil.example", 101]],
  },
};

for (const [whom, { options = {}, cases }] of Object.entries(SITES)) {
  Deno.test(`Server admits ${whom}`, async () => {
    const told: number[] = [];
    await using server = listen({
      ...options,
      onSessionRejected: ({ status }) => void told.push(status),
    });
    const port = portOf(server);
    const here = (text: string) => text.replace("PORT", `${port}`);
    for (const [what, origin, status, host = "127.0.0.1:PORT"] of cases) {
      const headers = { origin: here(origin), host: here(host) };
      using raw = await RawSocket.open(port, { headers });
      assertEquals(raw.status, status, what);
    }
    assertEquals(told, cases.map(([, , status]) => status).filter((status) => status === 403));
  });
}

Deno.test("Server rejects a page of a foreign origin before authentication", async () => {
  let asked = 0;
  await using server = listen({ authenticate: () => asked++ });
  const headers = { origin: "https://evil.example" };
  using plain = await RawSocket.open(portOf(server), { headers });
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1", headers });
  assertEquals([plain.status, raw.status, (await raw.closed())?.code], [403, 101, 4403]);
  assertEquals(asked, 0);
});

Deno.test("Server names the option that would admit an origin", async () => {
  const told: SessionRejection[] = [];
  await using server = listen({ onSessionRejected: (rejection) => void told.push(rejection) });
  // A long origin does not truncate the hint.
  const origin = `https://${"x".repeat(60)}.${"y".repeat(60)}.example`;
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1", headers: { origin } });
  const hint = "Origin not allowed: add it to origins, or its host to hosts (";
  const { code, reason = "" } = await raw.closed() ?? {};
  assertEquals([code, reason.startsWith(`${hint}https://xxx`)], [4403, true]);
  assertEquals(told.map(({ reason }) => reason), [`${hint}${origin})`]);
});

Deno.test("createServer() rejects origins and hosts that would admit no client", () => {
  const origins: [origin: string, hint: string][] = [
    ["https://example.com/", 'received "https://example.com/" (write "https://example.com")'],
    ["https://example.com/app", '(write "https://example.com")'],
    ["https://Example.com:443", '(write "https://example.com")'],
    ["http://user@example.com:8000?x", '(write "http://example.com:8000")'],
    ["https://b\u00fccher.example", '(write "https://xn--bcher-kva.example")'],
    ["example.com", 'must hold origins such as https://example.com, received "example.com"'],
    ["localhost:8000", 'received "localhost:8000"'],
    ["", 'received ""'],
  ];
  for (const [origin, hint] of origins) {
    assertThrows(() => createServer({ origins: [origin] }), TypeError, hint);
  }
  const hosts: [host: string, hint: string][] = [
    ["example.com:8000", '(write "example.com")'],
    ["https://example.com/", '(write "example.com")'],
    ["Example.com", '(write "example.com")'],
    ["::1", '(write "[::1]")'],
    ["", 'must hold host names without ports, received ""'],
  ];
  for (const [host, hint] of hosts) {
    assertThrows(() => createServer({ hosts: [host] }), TypeError, hint);
  }
  for (const list of ["https://example.com", [3], 3, null] as never[]) {
    assertThrows(() => createServer({ origins: list }), TypeError, "origins");
    assertThrows(() => createServer({ hosts: list }), TypeError, "hosts");
  }
});

Deno.test("createServer() accepts every origin that a browser sends", async () => {
  const origins = ["*", "null", "https://example.com", "http://[::1]:8000", "tauri://localhost"];
  await createServer({ origins: [...origins, "chrome-extension://abcdef"] }).close();
  await createServer({ hosts: ["example.com", "127.0.0.1", "[::1]", "localhost"] }).close();
});
