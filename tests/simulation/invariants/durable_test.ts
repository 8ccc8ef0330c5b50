import { recordsInOrder } from "./durable.ts";
import { Story } from "./story.ts";

/**
 * Stream `d` has three records that were started. Some are stored, and the stream is closed after
 * some of them.
 */
function stream(kept: number, records?: number): Story {
  const story = new Story(recordsInOrder)
    .tells("appending", { stream: "d", first: 0, count: 3 })
    .tells("appended", { stream: "d", first: 0, count: kept });
  if (records !== undefined) story.tells("streamClosed", { stream: "d", records });
  return story;
}

/** Reader `r` receives records and then the end. */
function reads(story: Story, records: readonly number[], code?: string): Story {
  story.tells("readBegan", { stream: "d", reader: "r", after: records[0] ?? 0 });
  for (const record of records) story.tells("readDurable", { stream: "d", reader: "r", record });
  return story.tells("readEnded", { stream: "d", reader: "r", ...(code && { code }) }).ends();
}

Deno.test("recordsInOrder holds for complete streams, and for failed reads", () => {
  reads(stream(3, 3), [0, 1, 2]).finds();
  reads(stream(3, 3), [1, 2]).finds();
  reads(stream(3, 3), [0], "unavailable").finds();
  reads(stream(2), [0, 1], "writer-lost").finds();
  reads(stream(3).tells("brokerLost", { why: "power" }), [0], "writer-lost").finds();
});

Deno.test("recordsInOrder allows a producer's epoch to start after records that the broker lost", () => {
  const story = (...records: number[]) =>
    reads(
      stream(2).tells("brokerLost", { why: "power" })
        .tells("appending", { stream: "d", first: 2, count: 1, isNewEpoch: true })
        .tells("appending", { stream: "d", first: 3, count: 2 }),
      records,
    );
  story(0, 2).finds();
  story(0, 1, 3).finds(); // Record 2 took the position of record 1.
  story(0, 2, 4).finds("expected record 3 of d (r), received record 4");
  stream(3).tells("appending", { stream: "d", first: 2, count: 1, isNewEpoch: true })
    .tells("readDurable", { stream: "d", reader: "r", record: 2 })
    .finds("expected record 0 of d (r), received record 2");
});

Deno.test("recordsInOrder finds missing and repeated records, and early ends", () => {
  reads(stream(3, 3), [0, 2]).finds("expected record 1 of d (r), received record 2");
  reads(stream(3, 3), [0, 1, 1, 2]).finds("expected record 2 of d (r), received record 1");
  reads(stream(3, 3), [0, 1, 2, 3]).finds(
    "expected 3 records of d, received 3",
    "expected 3 records of d, received the end after 4",
  );
  reads(stream(3, 3), [0, 1]).finds("expected 3 records of d, received the end after 2");
  reads(stream(2), [0], "writer-lost")
    .finds('expected 2 kept records of d, received "writer-lost" after 1');
});

Deno.test("recordsInOrder finds records after the end, and appends after the close", () => {
  reads(stream(3, 3), [0, 1, 2])
    .tells("readDurable", { stream: "d", reader: "r", record: 3 })
    .tells("readEnded", { stream: "d", reader: "r" })
    .tells("appended", { stream: "d", first: 3, count: 1 })
    .finds(
      "expected nothing after the end of d, received record 3",
      "expected one end of r, received another one",
      "expected no record after the close of d, one was appended",
    );
});

Deno.test("recordsInOrder finds a rejected append, unless the broker lost records", () => {
  const rejected = (story: Story) => story.tells("appendRejected", { stream: "s", status: 409 });
  rejected(new Story(recordsInOrder)).finds(
    "expected an append to s, repeated with its number, to succeed, received 409",
  );
  const unsure = new Story(recordsInOrder)
    .tells("appending", { stream: "s", first: 0, count: 1 })
    .tells("brokerLost", { why: "power" });
  rejected(unsure).finds();
  const failedOver = (afterMs: number) =>
    new Story(recordsInOrder)
      .tells("brokerLost", { why: "failover" })
      .passes(afterMs)
      .tells("appending", { stream: "s", first: 0, count: 1 });
  // The old primary keeps running for a while.
  rejected(failedOver(3_000)).finds();
  rejected(failedOver(5_000)).finds(
    "expected an append to s, repeated with its number, to succeed, received 409",
  );
});
