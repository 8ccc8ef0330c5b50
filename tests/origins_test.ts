import { assertEquals } from "@std/assert";
import type { Refusal } from "../server.ts";
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

Deno.test("Server lets in pages of its own host, and programs, by default", async () => {
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

Deno.test("Server refuses a name that was pointed at it: DNS rebinding", async () => {
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

Deno.test("Server lets in the origins and hosts that it is told, and no others", async () => {
  await using server = listen({ origins: ["https://app.example"], hosts: ["live.example"] });
  await check(server, [
    { what: "named", origin: "https://app.example", status: 101 },
    { what: "named, by http", origin: "http://app.example", status: 403 },
    { what: "its own", origin: "https://live.example", host: "live.example", status: 101 },
    { what: "no longer its own", origin: "http://127.0.0.1:PORT", status: 403 },
    { what: "a sub-domain", origin: "https://x.app.example", status: 403 },
  ]);
});

Deno.test("Server lets every page in where it is told so", async () => {
  await using server = listen({ origins: ["*"] });
  await check(server, [{ what: "any", origin: "https://evil.example", status: 101 }]);
});

Deno.test("Server refuses a foreign page before it asks who that is", async () => {
  let asked = 0;
  await using server = listen({ authenticate: () => asked++ });
  await check(server, [{ what: "foreign", origin: "https://evil.example", status: 403 }]);
  using raw = await RawSocket.open(portOf(server), {
    protocol: "skein.1",
    headers: { origin: "https://evil.example" },
  });
  assertEquals([raw.status, (await raw.closed())?.code, asked], [101, 4403, 0]);
});
