import { assertEquals, assertThrows } from "@std/assert";
import { readCreation, readId, readProducer, readQuery, readSequence } from "./request.ts";
import { Problem } from "../../server/http/problem.ts";

Deno.test("readId() decodes an id of one or more segments", () => {
  const cases: [path: string, id: string][] = [
    ["/a", "a"],
    ["/a/b.c/d", "a/b.c/d"],
    ["/a%20b/%C3%A9", "a b/é"],
    ["/...", "..."],
    ["/__ds2/a", "__ds2/a"],
    ["/a:b*c>d", "a:b*c>d"],
  ];
  for (const [path, id] of cases) assertEquals(readId(path), id, path);
});

Deno.test("readId() rejects empty segments, dots, encoded slashes and control characters", () => {
  const paths = ["", "/", "//", "/a/", "/a//b", "/%2e%2e/a", "/a/%2E", "/a%2Fb", "/a%5cb"];
  const others = ["/a%00", "/a%0d%0ab", "/%C2%85", "/%7f", "/%", "/%ff"];
  for (const path of [...paths, ...others]) {
    const problem = assertThrows(() => readId(path), Problem, "The id of a stream must have", path);
    assertEquals([problem.status, problem.code], [400, "bad-id"]);
  }
  assertEquals(assertThrows(() => readId("/__ds/subscriptions/a"), Problem).status, 404);
});

Deno.test("readQuery() rejects malformed, repeated and missing parameters", () => {
  const queries = [
    "offset=",
    "offset=7",
    "offset=-2",
    "offset=now&offset=now",
    "offset=0000000000000001_ABCDEFGH",
    "offset=9999999999999999_abcdefgh",
    "offset=0000000000000001_abcdefgh%0d%0a",
    "live=sse",
    "offset=-1&live=",
    "offset=-1&live=websocket",
    "offset=-1&live=sse&live=sse",
    "offset=-1&live=sse&cursor=x",
    "offset=-1&changes=",
    "offset=-1&changes=newest",
    "offset=-1&changes=all&live=sse",
  ];
  for (const query of queries) {
    const problem = assertThrows(() => readQuery(new URLSearchParams(query)), Problem, "", query);
    assertEquals(problem.status, 400, query);
  }
  assertEquals(readQuery(new URLSearchParams("offset=0000000000000007_a1b2c3d4&live=sse")), {
    mode: "sse",
    position: 7,
    offset: "0000000000000007_a1b2c3d4",
    startsAtOldest: false,
    snapshot: undefined,
    isTail: false,
    cursor: undefined,
  });
});

Deno.test("readCreation() reads the properties of a stream", () => {
  const headers = new Headers({
    "content-type": "application/json",
    "stream-ttl": "60",
    "stream-closed": "TRUE",
    "stream-forked-from": "/streams/a%20b",
    "stream-fork-offset": "0000000000000000_0000000000000000",
    "stream-fork-sub-offset": "3",
  });
  assertEquals(readCreation(headers, "/streams"), {
    contentType: "application/json",
    ttlMs: 60_000,
    expiresAt: undefined,
    end: {},
    isKeyed: false,
    fork: { source: "a b", offset: "-1", subOffset: 3 },
  });
  const until = new Headers({ "stream-expires-at": "2026-01-02T03:04:05.678+01:00" });
  assertEquals(readCreation(until, "/streams").expiresAt, Date.UTC(2026, 0, 2, 2, 4, 5, 678));
});

Deno.test("readCreation(), readProducer() and readSequence() reject malformed headers", () => {
  const cases: Record<string, string>[] = [
    ...["text", "text/plain; x=\u00e9", "a b/c"]
      .map((type) => ({ "content-type": type })),
    ...["-1", "01", "+1", "1.0", "1e3", "", "99999999999999999999"]
      .map((ttl) => ({ "stream-ttl": ttl })),
    ...["tomorrow", "2026-01-02", "2026-13-02T00:00:00Z", "2026-01-02T00:00:00"]
      .map((time) => ({ "stream-expires-at": time })),
    { "stream-ttl": "1", "stream-expires-at": "2026-01-02T00:00:00Z" },
    ...[
      "",
      "a",
      "streams/a",
      "//evil/streams/a",
      "/other/a",
      "/streams",
      "/streams/../a",
      "/streams/%2e",
    ]
      .map((from) => ({ "stream-forked-from": from })),
    { "stream-fork-offset": "-1" },
    { "stream-fork-sub-offset": "0" },
    { "stream-forked-from": "/streams/a", "stream-fork-sub-offset": "1" },
    {
      "stream-forked-from": "/streams/a",
      "stream-fork-offset": "-1",
      "stream-fork-sub-offset": "-1",
    },
    { "producer-id": "a" },
    { "producer-id": "", "producer-epoch": "0", "producer-seq": "0" },
    { "producer-id": "a", "producer-epoch": "01", "producer-seq": "0" },
    { "stream-seq": "" },
  ];
  for (const header of cases) {
    const read = () => {
      const headers = new Headers(header);
      readCreation(headers, "/streams");
      readProducer(headers);
      readSequence(headers);
    };
    const problem = assertThrows(read, Problem, "", JSON.stringify(header));
    assertEquals(problem.status, 400, JSON.stringify(header));
  }
});

Deno.test("each part of a request is accepted up to its limit", () => {
  const creation = (header: string) => (value: string) =>
    readCreation(new Headers({ [header]: value }), "/streams");
  const producer = (part: "id" | "epoch" | "seq") => (value: string) =>
    readProducer(
      new Headers({
        "producer-id": "a",
        "producer-epoch": "0",
        "producer-seq": "0",
        [`producer-${part}`]: value,
      }),
    );
  const cases: [read: (value: string) => unknown, fits: string, tooLarge: string][] = [
    [(id) => readId(`/${id}`), "é".repeat(120), "é".repeat(120) + "i"],
    [
      (digits) => readQuery(new URLSearchParams({ cursor: digits })),
      "9".repeat(15),
      "1".repeat(16),
    ],
    [creation("stream-ttl"), "3153600000", "3153600001"],
    [creation("content-type"), `text/${"x".repeat(251)}`, `text/${"x".repeat(252)}`],
    [producer("id"), "p".repeat(256), "p".repeat(257)],
    [producer("epoch"), `${2 ** 53 - 1}`, `${2 ** 53}`],
    [producer("seq"), `${2 ** 53 - 1}`, `${2 ** 53}`],
    [(seq) => readSequence(new Headers({ "stream-seq": seq })), "s".repeat(256), "s".repeat(257)],
  ];
  for (const [read, fits, tooLarge] of cases) {
    read(fits);
    assertEquals(assertThrows(() => read(tooLarge), Problem, "", tooLarge).status, 400);
  }
});
