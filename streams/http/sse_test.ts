import { assertEquals } from "@std/assert";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { unreadQuota, UnreadResponse } from "../../server/http/unread.ts";
import type { StreamPage, StreamRead } from "../logs/stream_logs.ts";
import { EventStreams } from "./sse.ts";

Deno.test("EventStreams.open() ends after a page that was pending when the pages ended", async () => {
  const page = (position: number): StreamPage => ({
    kind: "page",
    info: {
      contentType: "text/plain",
      identity: "identity",
      first: 0,
      start: 0,
      tail: position,
      bytes: position,
    },
    records: ["x"],
    after: 0,
    next: position,
    isUpToDate: true,
  });
  const ended = new AbortController();
  const asked = Promise.withResolvers<void>();
  const response = Promise.withResolvers<void>();
  async function* pages(): AsyncGenerator<StreamRead, void, undefined> {
    asked.resolve();
    await response.promise;
    yield page(2);
  }
  let ends = 0;
  const events = new EventStreams({
    runtime: platformRuntime(),
    onError(error) {
      throw error;
    },
  });
  const body = events.open({
    first: page(1),
    rest: pages(),
    ended,
    cursor: undefined,
    unread: new UnreadResponse({
      quota: unreadQuota(new Quotas(platformRuntime())),
      accountOf: () => NOBODY,
      info: {},
    }),
    onEnd: () => ends++,
  });
  const reader = body.getReader();
  await reader.read();
  const second = reader.read();
  await asked.promise;
  ended.abort();
  response.resolve();
  assertEquals((await second).done, false);
  // Without another read, because a reader that left requests nothing more.
  assertEquals(ends, 1);
  assertEquals((await reader.read()).done, true);
});
