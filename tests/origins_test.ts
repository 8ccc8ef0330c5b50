import { assertEquals, assertThrows } from "@std/assert";
import { createServer, type Refusal } from "../server.ts";
import { listen, portOf, RawSocket } from "./servers.ts";

interface Case {
  readonly what: string;
  readonly origin?: string;
  readonly host?: string;
  readonly status: number;
}

/** `PORT` stands for the server's port. */
async function check(
  server: { readonly address: Deno.NetAddr | undefined },
  cases: readonly Case[],
): Promise<void> {
  const port = portOf(server as never);
  const here = (text: string) => text.replace("PORT", `${port}`);
  for (const { what, origin = "", host = "127.0.0.1:PORT", status } of cases) {
    using raw = await RawSocket.open(port, {
      headers: { origin: here(origin), host: here(host) },
    });
    assertEquals(raw.status, status, what);
  }
}

Deno.test("Server admits pages of its own host, and programs, by default", async () => {
  const told: Refusal[] = [];
  await using server = listen({ onRefusal: (refusal) => void told.push(refusal) });
  await check(server, [
    { what: "no origin", status: 101 },
    { what: "its own page", origin: "http://127.0.0.1:PORT", status: 101 },
    { what: "by name", origin: "http://localhost:PORT", host: "localhost:PORT", status: 101 },
    { what: "by IPv6", origin: "http://[::1]:PORT", host: "[::1]:PORT", status: 101 },
    { what: "a foreign page", origin: "https://evil.example", status: 403 },
    { what: "another port", origin: "http://127.0.0.1:1", status: 403 },
    { what: "another name", origin: "http://localhost:PORT", status: 403 },
    { what: "a file", origin: "null", status: 403 },
    { what: "nonsense", origin: "http://", status: 403 },
    {
      what: "a name in the user's part",
      origin: "http://127.0.0.1:PORT@evil.example",
      status: 403,
    },
  ]);
  assertEquals(new Set(told.map(({ status }) => status)), new Set([403]));
});

Deno.test("Server refuses a name that was pointed at its address: DNS rebinding", async () => {
  await using server = listen();
  await check(server, [
    {
      what: "origin and host agree, and are not ours",
      origin: "http://evil.example:PORT",
      host: "evil.example:PORT",
      status: 403,
    },
    {
      what: "a name that ends like ours",
      origin: "http://localhost.evil.example:PORT",
      host: "localhost.evil.example:PORT",
      status: 403,
    },
  ]);
});

Deno.test("Server admits the configured origins and hosts, and no others", async () => {
  await using server = listen({ origins: ["https://app.example"], hosts: ["live.example"] });
  await check(server, [
    { what: "named", origin: "https://app.example", status: 101 },
    { what: "named, by http", origin: "http://app.example", status: 403 },
    { what: "its own", origin: "https://live.example", host: "live.example", status: 101 },
    { what: "no longer its own", origin: "http://127.0.0.1:PORT", status: 403 },
    { what: "a sub-domain", origin: "https://x.app.example", status: 403 },
  ]);
});

Deno.test("Server admits every page with the option for that", async () => {
  await using server = listen({ origins: ["*"] });
  await check(server, [{ what: "any", origin: "https://evil.example", status: 101 }]);
});

Deno.test("Server refuses a foreign page before authentication", async () => {
  let asked = 0;
  await using server = listen({ authenticate: () => asked++ });
  await check(server, [{ what: "foreign", origin: "https://evil.example", status: 403 }]);
  using raw = await RawSocket.open(portOf(server), {
    protocol: "skein.1",
    headers: { origin: "https://evil.example" },
  });
  assertEquals([raw.status, (await raw.closed())?.code, asked], [101, 4403, 0]);
});

Deno.test("Server says which option would let an origin in", async () => {
  const told: Refusal[] = [];
  await using server = listen({ onRefusal: (refusal) => void told.push(refusal) });
  // A long origin does not cut the hint off.
  const origin = `https://${"x".repeat(60)}.${"y".repeat(60)}.example`;
  using raw = await RawSocket.open(portOf(server), { protocol: "skein.1", headers: { origin } });
  const hint = "Origin not allowed: add it to origins, or its host to hosts (";
  const { code, reason = "" } = await raw.closed() ?? {};
  assertEquals([code, reason.startsWith(`${hint}https://xxx`)], [4403, true]);
  assertEquals(told.map(({ reason }) => reason), [`${hint}${origin})`]);
});

Deno.test("createServer() refuses origins and hosts that would admit no client", () => {
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

Deno.test("createServer() takes every origin that a browser sends", async () => {
  const origins = ["*", "null", "https://example.com", "http://[::1]:8000", "tauri://localhost"];
  await createServer({ origins: [...origins, "chrome-extension://abcdef"] }).close();
  await createServer({ hosts: ["example.com", "127.0.0.1", "[::1]", "localhost"] }).close();
});
