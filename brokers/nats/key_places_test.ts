import { assertEquals, assertThrows } from "@std/assert";
import { LimitError } from "../../errors.ts";
import { MAX_TOPIC_KEYS } from "../../pubsub/broker/keys.ts";
import { KeyPlaces } from "./key_places.ts";

Deno.test("KeyPlaces.take() rejects a key of a full topic until the oldest is forgotten", () => {
  const places = new KeyPlaces();
  places.take("a", 0);
  for (let i = 1; i < MAX_TOPIC_KEYS; i++) places.take("a", 60_000);
  for (const nowMs of [60_000, 120_000]) {
    const error = assertThrows(() => places.take("a", nowMs), LimitError, '"a" has as many');
    assertEquals(error.retryAfterMs, 121_000 - nowMs);
  }
  places.take("b", 60_000);
  places.take("a", 121_000);
  assertThrows(() => places.take("a", 121_000), LimitError);
});

Deno.test("KeyPlaces.take() returns a function that gives the place back, unless its time is over", () => {
  const places = new KeyPlaces();
  const early = places.take("a", 0);
  const late = places.take("a", 200_000);
  early();
  for (let i = 1; i < MAX_TOPIC_KEYS; i++) places.take("a", 200_000);
  assertThrows(() => places.take("a", 200_000), LimitError);
  late();
  places.take("a", 200_000);
  assertThrows(() => places.take("a", 200_000), LimitError);
});
