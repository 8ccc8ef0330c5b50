/**
 * Tests Skein with other implementations of WebTransport: their clients with Skein's server, and
 * Skein's client with their servers. The tests also assert expected failures.
 */
import { assertEquals, assertInstanceOf } from "@std/assert";
import { StreamError } from "../../errors.ts";
import { buildPeers, builtPeers, type Peer, type Scenario } from "./peers.ts";
import { CertificateFolder, MAX_STREAMS, playSkein, SkeinServer } from "./peers/skein.ts";

/** Expected results of a peer with every feature. */
const SEEN = {
  echo: { sequential: 500, concurrent: 200 },
  uni: { returned: 50 },
  datagrams: { returned: 300 },
  big: { bytes: 5_000_000, same: true },
  "opened-by-server": { opened: 20, code: 4020 },
  reset: { done: true },
  "closed-by-server": { code: 4009, reason: "bye — tschüß" },
  close: { done: true },
  rejected: { status: 401, authenticate: "Bearer" },
  protocol: { protocol: "skein.1" },
} as const satisfies Record<Scenario, unknown>;

const SCENARIOS = Object.keys(SEEN) as Scenario[];

/** A deviating result, for a reason of the peer. */
interface Exception {
  readonly because: string;
  readonly seen?: unknown;
  /** Codes of broken streams, as our server reads them. */
  readonly streamCodes?: readonly number[];
  /** The line that the foreign server prints about the close. */
  readonly closed?: unknown;
}

type Exceptions = Readonly<Record<string, Partial<Record<Scenario, Exception>>>>;

/** Peers whose client never starts a scenario. */
const UNREACHABLE: Readonly<Record<string, Exception>> = {
  "webtransport-go 0.13": {
    because: "it requires RESET_STREAM_AT, which the runtime's QUIC does not have",
    seen: { unsupported: "server didn't enable QUIC stream reset partial delivery" },
  },
};

const NO_HEADERS: Exception = {
  because: "it reports no headers",
  seen: { status: 401, authenticate: null },
};

const CLIENTS: Exceptions = {
  wtransport: {
    reset: { because: "it does not map codes to WebTransport's", streamCodes: [0, 0] },
    rejected: {
      because: "it reports neither status nor header",
      seen: { status: null, authenticate: null },
    },
    protocol: {
      because: "it reports no response headers",
      seen: { unsupported: "the header fields of the answer are not told" },
    },
  },
  "web-transport-quinn": { rejected: NO_HEADERS },
  "web-transport-quiche": {
    "opened-by-server": {
      because: "it reads no close capsules",
      seen: { opened: 20, code: null },
    },
    "closed-by-server": {
      because: "it reads no close capsules",
      seen: { code: null, reason: null },
    },
    rejected: NO_HEADERS,
  },
  pywebtransport: {
    rejected: {
      because: "it reports neither status nor header",
      seen: { status: null, authenticate: null },
    },
  },
  aiopquic: { rejected: NO_HEADERS },
  "Deno's WebTransport": {
    echo: {
      because: "it does not close streams, so no credit is returned",
      seen: { sequential: MAX_STREAMS, concurrent: 0 },
    },
    uni: {
      because: "it does not close streams",
      seen: { unsupported: "the end of a stream is not sent" },
    },
    "opened-by-server": {
      because: "it does not close streams",
      seen: { unsupported: "the end of a stream is not sent" },
    },
    reset: {
      because: "it does not reset streams",
      seen: { unsupported: "a stream is not reset" },
      streamCodes: [],
    },
    "closed-by-server": {
      because: "it reads no close capsules",
      seen: { unsupported: "a close by the server is not noticed" },
    },
    rejected: NO_HEADERS,
    protocol: {
      because: "it has no such option",
      seen: { unsupported: "there is no option for subprotocols" },
    },
  },
};

const SERVERS: Exceptions = {
  "web-transport-quiche": {
    close: {
      because: "it reads no close capsules",
      closed: { lost: "connection error: remote CONNECTION_CLOSE: code=256 reason=" },
    },
  },
  aiopquic: {
    rejected: { because: "it rejects only unknown paths", seen: { status: 404 } },
  },
  wtransport: {
    rejected: { because: "it rejects only with 403, 404 and 429", seen: { status: 403 } },
  },
  "Deno's WebTransport": {
    echo: {
      because: "it does not close streams, so no credit is returned",
      seen: { sequential: 99, concurrent: 0 },
    },
    close: {
      because: "it reads no close capsules",
      closed: { closed: { code: 0x100, reason: "" } },
    },
    rejected: { because: "it rejects nothing", seen: { status: 200 } },
    protocol: { because: "it supports no subprotocols", seen: { protocol: "" } },
  },
};

const PATHS: Partial<Record<Scenario, string>> = {
  "opened-by-server": "/open",
  "closed-by-server": "/close",
  rejected: "/reject",
};

function pathOf(scenario: Scenario): string {
  return PATHS[scenario] ?? "/echo";
}

function titleOf(scenario: Scenario, exception: Exception | undefined): string {
  return exception === undefined ? scenario : `${scenario} (${exception.because})`;
}

function testClient(peer: Peer, scenario: Scenario): void {
  const exception = UNREACHABLE[peer.name] ?? CLIENTS[peer.name]?.[scenario];
  Deno.test(`a client of ${peer.name} with our server: ${titleOf(scenario, exception)}`, async () => {
    await using server = new SkeinServer();
    const { hash } = server;
    const seen = await peer.play(scenario, { url: server.url(pathOf(scenario)), hash });
    assertEquals(seen, exception?.seen ?? SEEN[scenario]);
    if (scenario === "close") {
      assertEquals(await server.closes[0], { closeCode: 4010, reason: "grüße" });
    } else if (scenario === "reset") {
      const codes = server.streamErrors.map((error) => {
        assertInstanceOf(error, StreamError);
        return error.streamErrorCode;
      });
      assertEquals(codes, exception?.streamCodes ?? [42, 43]);
    }
  });
}

function testServer(peer: Peer, scenario: Exclude<Scenario, "reset">): void {
  const exception = SERVERS[peer.name]?.[scenario];
  Deno.test(`our client with a server of ${peer.name}: ${titleOf(scenario, exception)}`, async () => {
    await using files = await CertificateFolder.create();
    await using server = await peer.serve(files);
    const seen = await playSkein(scenario, {
      url: server.url(pathOf(scenario)),
      hash: files.hash,
      isRuntimes: peer.name === "Deno's WebTransport",
    });
    // The headers of a rejection do not reach the user.
    const usual = scenario === "rejected" ? { status: 401 } : SEEN[scenario];
    assertEquals(seen, exception?.seen ?? usual);
    if (scenario === "close") {
      const closed = exception?.closed ?? { closed: { code: 4010, reason: "grüße" } };
      assertEquals(await server.next(), closed);
    }
  });
}

for (const peer of builtPeers(await buildPeers())) {
  const isUnreachable = peer.name in UNREACHABLE;
  for (const scenario of isUnreachable ? ["echo"] as const : SCENARIOS) testClient(peer, scenario);
  // Our streams cannot be reset.
  for (const scenario of SCENARIOS) if (scenario !== "reset") testServer(peer, scenario);
}
