/**
 * The numbered rules of `docs/protocol.md`, and the rules that no vector can show.
 *
 * @module
 */

const FILE = new URL("../../docs/protocol.md", import.meta.url);

/** A rule is a paragraph or a list item that starts with a number. */
const RULE = /^(?:- )?\*\*(\d+\.\d+)\b/gm;

/** Reasons why no vector shows a whole section, by the section's number. */
export const UNSHOWN_SECTIONS: Readonly<Record<string, string>> = {
  "16": "WebTransport has no frames: tests/webtransport_server_test.ts",
  "17": "typed messages are on streams: session/streams/structured_test.ts",
  "18": "records of QMux are below the frames: tests/websocket_streams_test.ts",
  "20": "MoQ has no envelopes",
  "21": "advice",
  "22": "the vectors themselves",
  "26": "HTTP, below the frames: tests/http_transport_test.ts",
};

/** Reasons why no vector cites a rule. */
export const UNSHOWN: Readonly<Record<string, string>> = {
  "1.3": "QMux is below the frames: tests/websocket_streams_test.ts",
  "2.2": "HTTP, before the first frame: tests/origins_test.ts",
  "2.9": "HTTP, before the first frame: tests/server_test.ts",
  "2.10": "HTTP, before the first frame: tests/rate_limits_test.ts",
  "2.11": "HTTP, before the first frame: tests/websocket_handshakes_test.ts",
  "2.12": "HTTP, before the first frame: tests/server_test.ts",
  "4.4": "a record is taken off below the frames: tests/websocket_streams_test.ts",
  "6.14": "needs a contract: tests/misfits_test.ts",
  "7.9": "advice for pages that slept: client/page_watch_test.ts",
  "8.4": "streams before the token: tests/strangers_test.ts",
  "11.21": "needs a server that fails: tests/producers_test.ts",
  "12.9": "needs several nodes: pubsub/presence_data_test.ts",
  "12.10": "needs a room of more than 100 users: pubsub/presence/room_notices_test.ts",
  "12.11": "needs more than 20 updates a second: pubsub/presence_data_test.ts",
  "12.12": "needs a list of more than one page: pubsub/presence/room_notices_test.ts",
  "14.5": "closes by a proxy: tests/oversize_test.ts",
  "15.5": "a fault of an engine: tests/long/session_wires_test.ts",
  "19.1": "nothing is sent",
  "24.7": "the envelopes of sections 9 and 10: tests/durable_sessions_test.ts",
  "24.28": "the envelopes of a keyed stream that exists: tests/unwritten_states_test.ts",
  ...Object.fromEntries(
    ["24.9", "24.10", "24.11", "24.12", "24.13", "24.14"].map((rule) => [
      rule,
      "needs several sessions: tests/resumable_responses_test.ts",
    ]),
  ),
  "25.5": "needs parts of a mebibyte: session/responses/responses_test.ts",
  ...Object.fromEntries(
    ["23.1", "23.3", "23.4", "23.5", "23.6", "23.7", "23.8", "23.9"].map((rule) => [
      rule,
      "needs two sessions: tests/handover_test.ts",
    ]),
  ),
};

/**
 * Reads the rules.
 *
 * @returns The numbers, as in the document.
 */
export function rulesOfProtocol(): string[] {
  return Array.from(Deno.readTextFileSync(FILE).matchAll(RULE), ([, number]) => number!);
}

/**
 * Returns true if a rule is listed in `UNSHOWN` or in `UNSHOWN_SECTIONS`.
 *
 * @param rule The number of the rule.
 * @returns True if no vector should cite the rule.
 */
export function isUnshown(rule: string): boolean {
  return rule in UNSHOWN || rule.split(".")[0]! in UNSHOWN_SECTIONS;
}
