import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { memoryPair } from "../memory/memory.ts";
import { type CertificateHash, type DialWebTransportOptions, TOKEN_MARK } from "../webtransport.ts";
import { webTransportLeg } from "./webtransport_leg.ts";

const HASHES: readonly CertificateHash[] = [{ algorithm: "sha-256", value: Uint8Array.of(1, 2) }];

/** A dialer of a server in memory that speaks a protocol. */
function dialer(protocol: string) {
  const calls: { readonly url: string; readonly options: DialWebTransportOptions }[] = [];
  const pair = memoryPair({ frames: false, protocol });
  const dial = (url: URL, options: DialWebTransportOptions) => {
    calls.push({ url: url.href, options });
    return Promise.resolve(pair.client);
  };
  return { calls, dial, pair };
}

Deno.test("webTransportLeg() dials where the server has it, with all that it was given", async () => {
  const { calls, dial, pair } = dialer("chat");
  await using _pair = pair;
  const options = {
    protocols: ["chat"],
    headers: { a: "b" },
    timeoutMs: 1_000,
    signal: new AbortController().signal,
    serverCertificateHashes: HASHES,
  };
  await webTransportLeg(dial)(new URL("ws://example.com/a?b"), options);
  assertEquals(calls, [{ url: "https://example.com:80/a?b", options }]);
});

Deno.test("webTransportLeg() gives messages to skein.1 alone", async () => {
  for (const [protocol, expected] of [["skein.1", true], ["chat", false]] as const) {
    const { dial, pair } = dialer(protocol);
    await using _pair = pair;
    const url = new URL("wss://example.com/");
    const connection = await webTransportLeg(dial)(url, { protocols: [protocol] });
    assertEquals(connection.frames !== undefined, expected, protocol);
    assertEquals(connection.protocol, protocol);
  }
});

Deno.test("webTransportLeg() closes a connection without any of the protocols offered", async () => {
  const { dial, pair } = dialer("");
  const url = new URL("wss://example.com/");
  await assertRejects(
    () => webTransportLeg(dial)(url, { protocols: ["skein.1", "b"] }),
    ConnectionError,
    "The server does not speak skein.1 or b over WebTransport",
  );
  assertEquals(await pair.server.closed, { closeCode: 0, reason: "" });
  assertStrictEquals(await webTransportLeg(dial)(url, {}), pair.client);
});

Deno.test("webTransportLeg() dials nothing where there is no WebTransport", async () => {
  const { calls, dial, pair } = dialer("");
  await using _pair = pair;
  const opening = webTransportLeg(dial)(new URL("ws://example.com/"), {});
  await assertRejects(() => opening, UnsupportedError);
  assertEquals(calls, []);
});

Deno.test("webTransportLeg() takes a server without an answer to agree where the URL asks for skein.1", async () => {
  const cases: [url: string, protocols: string[], dialed: string][] = [
    ["?protocol=skein.1", ["skein.1"], "?protocol=skein.1"],
    ["?a=b&protocol=skein.1", ["skein.1", TOKEN_MARK], "?a=b&protocol=skein.1&auth=in-band"],
  ];
  for (const [query, protocols, dialed] of cases) {
    const { calls, dial, pair } = dialer("");
    await using _pair = pair;
    const url = new URL(`wss://example.com/${query}`);
    const connection = await webTransportLeg(dial)(url, { protocols });
    assertEquals([connection.frames !== undefined, connection.protocol], [true, "skein.1"]);
    assertEquals(calls.map(({ url }) => new URL(url).search), [dialed]);
    assertEquals(url.search, query);
  }
  // The protocol in the answer of the server counts before that in the URL.
  const { dial, pair } = dialer("chat");
  await using _pair = pair;
  const url = new URL("wss://example.com/?protocol=skein.1");
  const connection = await webTransportLeg(dial)(url, { protocols: ["skein.1", "chat"] });
  assertEquals([connection.frames, connection.protocol], [undefined, "chat"]);
});
