import { assert, assertEquals } from "@std/assert";
import { bounds, LIMITS_PAGE, MAX_CELL_LENGTH, withTable } from "./limits_table.ts";

Deno.test("bounds() lists the quotas of a server with the documented defaults", async () => {
  const rows = (await bounds()).filter(({ shares }) => shares !== undefined);
  const shares = rows.map(({ id, max, shares }) => [id, max, shares]);
  assertEquals(shares, [
    ["maxSessions", "10,000", { address: "1,000", user: "100" }],
    ["sockets", "20,000", { address: "2,000" }],
    ["responses.maxRunning", "10,000", { address: "32", user: "8" }],
    ["maxReaders", "10,000", { address: "1,024", user: "128" }],
    [
      "publications.waitingBytes",
      "128 MiB",
      { address: "32 MiB", user: "16 MiB", session: "8 MiB" },
    ],
    [
      "publications.rememberedBytes",
      "64 MiB",
      { address: "16 MiB", user: "8 MiB", session: "4 MiB" },
    ],
    ["states.copies", "4", { address: "1", user: "1" }],
    ["states.waiting", "10,000", { address: "1,000", user: "128" }],
    ["states.mutations", "10,000", { address: "1,000", user: "128" }],
    ["states.ephemeral", "20,000", { address: "2,000", user: "256" }],
    ["durableStreams.requests", "11,024", { address: "2,756" }],
    ["durableStreams.maxRequests", "1,024", { address: "64" }],
    ["durableStreams.mutations", "1,024", { address: "64" }],
    ["api.requests", "256", { address: "64" }],
    ["api.maxRequests", "256", { address: "64" }],
    ["api.maxReaders", "10,000", { address: "256", user: "32" }],
    ["http.unreadBytes", "1,536 MiB", { address: "375 MiB" }],
    ["http.posts", "4,096", { address: "256" }],
    ["calls.http", "10,000", { address: "1,000" }],
    ["unknownConnections", "1,024", { address: "16" }],
    ["unreadStreams", "512", { address: "64", session: "48" }],
    ["quic.connections", "20,000", { address: "2,000" }],
    ["connections", "22,048", { address: "2,200" }],
    ["maxPending", "2,048", { address: "200" }],
    ["moq.maxSessions", "10,000", { address: "1,000" }],
    ["moq.maxPendingSetups", "1,024", { address: "128" }],
    ["moq.maxStreams", "80,000", { address: "8,000" }],
    ["moq.maxBroadcasts", "100,000", { address: "1,000" }],
    ["moq.waitingBroadcasts", "100,000", { address: "1,000" }],
    ["moq.maxTracks", "10,000", { address: "1,000" }],
    ["moq.maxFetches", "256", { address: "32" }],
    ["moq.maxFetchBytes", "128 MiB", { address: "16 MiB" }],
    ["responses.maxRetained", "100,000, 24 h each", { address: "1,000", user: "100" }],
    ["durableStreams.maxStreams", "10,000", { address: "1,000", user: "256" }],
    ["histories", "10,000", { address: "256 an hour", user: "256 an hour" }],
    ["histories", "100,000", { address: "256 an hour", user: "256 an hour" }],
    [
      "histories.bytes",
      "512 MiB, or a quarter of the memory",
      { address: "an eighth", user: "an eighth" },
    ],
    ["histories.bytes", "1 GiB", { address: "an eighth", user: "an eighth" }],
    ["streams.bytes", "512 MiB, 1 GiB", { address: "an eighth", user: "an eighth" }],
    ["rates.perAddress.connections", "none", { address: "a burst of 1,000, 100 a second" }],
    [
      "rates.perAddress.cost",
      "none",
      { address: "a burst of 64, 5 a second", user: "a burst of 10, 1 a second" },
    ],
    ["rates.perSession.publications", "none", { session: "a burst of 1,000, 200 a second" }],
    [
      "rates.perSession.publications over HTTP",
      "none",
      { address: "a burst of 1,000, 200 a second", user: "a burst of 1,000, 200 a second" },
    ],
    ["rates.perSession.subscriptions", "none", { session: "a burst of 256, 20 a second" }],
    ["states.ephemeral", "2,000", { address: "500", user: "128" }],
  ]);
});

Deno.test("bounds() has cells that fit the page", async () => {
  for (const { name, max, full } of await bounds()) {
    for (const cell of [name, max, full]) {
      const text = cell.replace(/\]\([^)]*\)/g, "]");
      assert(text.length <= MAX_CELL_LENGTH, `${text.length} characters: ${text}`);
    }
  }
});

Deno.test("docs/reference/limits.md has the current tables", async () => {
  const page = await Deno.readTextFile(LIMITS_PAGE);
  assertEquals(await withTable(page, await bounds()), page, "run tools/limits_table.ts");
});
