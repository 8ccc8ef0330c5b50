import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { Random } from "../../tests/random.ts";
import {
  broadcastPath,
  joinPath,
  MAX_PATH_BYTES,
  MAX_PATH_PARTS,
  receivedPath,
  suffixOf,
  wirePath,
  wirePrefix,
} from "./path.ts";

Deno.test("broadcastPath() normalizes every spelling", () => {
  const cases = [
    ["", "/"],
    ["/", "/"],
    ["///", "/"],
    ["live", "/live"],
    ["/live/", "/live"],
    ["//live///alice//", "/live/alice"],
    ["/grüße/ /😀", "/grüße/ /😀"],
    ["/.././a", "/.././a"],
  ] as const;
  for (const [text, path] of cases) assertEquals<string>(broadcastPath(text), path);
});

Deno.test("broadcastPath() rejects invalid paths", () => {
  assertThrows(() => broadcastPath(7 as unknown as string), TypeError, "must be a string");
  const parts = Array.from({ length: MAX_PATH_PARTS + 1 }, () => "a");
  assertThrows(() => broadcastPath(parts.join("/")), RangeError, "33");
  assertEquals(broadcastPath(parts.slice(1).join("//")).length, MAX_PATH_PARTS * 2);
  assertThrows(() => broadcastPath("€".repeat(342)), RangeError, "1026");
  assertEquals(broadcastPath("€".repeat(341)).length, 342);
});

Deno.test("receivedPath() throws a ProtocolError for invalid paths", () => {
  assertEquals<string>(receivedPath("live/alice"), "/live/alice");
  assertThrows(() => receivedPath("a".repeat(MAX_PATH_BYTES + 1)), ProtocolError, "1025");
  assertThrows(() => receivedPath("a/".repeat(33)), ProtocolError, "33");
});

Deno.test("wirePath() and wirePrefix() write the form of each family", () => {
  assertEquals(wirePath("/live/alice", true), "/live/alice");
  assertEquals(wirePath("/live/alice", false), "live/alice");
  assertEquals(wirePrefix("/live", true), "/live/");
  assertEquals(wirePrefix("/live", false), "live");
  // An empty prefix crashes gomoqt.
  assertEquals(wirePrefix("/", true), "/");
  assertEquals(wirePrefix("/", false), "");
});

Deno.test("suffixOf() splits at a part boundary", () => {
  assertEquals(suffixOf("/", "/live"), "live");
  assertEquals(suffixOf("/", "/"), "");
  assertEquals(suffixOf("/live", "/live"), "");
  assertEquals(suffixOf("/live", "/live/a/b"), "a/b");
  assertEquals(suffixOf("/live", "/lively"), undefined);
  assertEquals(suffixOf("/live/a", "/live"), undefined);
});

Deno.test("joinPath() appends a peer's path to a prefix", () => {
  assertEquals<string>(joinPath("/", "live"), "/live");
  assertEquals<string>(joinPath("/live", "/alice/"), "/live/alice");
  assertEquals<string>(joinPath("/live", ""), "/live");
  assertThrows(() => joinPath("/a", "b/".repeat(32)), ProtocolError, "33");
});

Deno.test("random paths keep their form over every version", () => {
  const random = new Random(6);
  const part = () => random.pick(["a", "live", "é", "😀", ".", "..", "", "*", " "]);
  const path = () => broadcastPath(Array.from({ length: random.below(9) }, part).join("/"));
  for (let i = 0; i < 2_000; i++) {
    const [one, other] = [path(), path()];
    assertEquals(broadcastPath(one), one);
    for (const isSlashed of [true, false]) {
      assertEquals(receivedPath(wirePath(one, isSlashed)), one);
      assertEquals(receivedPath(wirePrefix(one, isSlashed)), one);
    }
    const whole = joinPath(one, wirePath(other, false));
    assertEquals(suffixOf(one, whole), wirePath(other, false));
    assertEquals(joinPath(one, suffixOf(one, whole)!), whole);
    const suffix = suffixOf(one, other);
    if (suffix !== undefined) assertEquals(joinPath(one, suffix), other);
  }
});
