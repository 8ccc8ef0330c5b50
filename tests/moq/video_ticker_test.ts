import { assertEquals } from "@std/assert";

Deno.test("the ticker of the video page ticks once for each request", async () => {
  const ticker = new Worker(new URL("../../examples/moq_video/page/ticker.js", import.meta.url), {
    type: "module",
  });
  let ticks = 0;
  let ticked = Promise.withResolvers<void>();
  ticker.addEventListener("message", () => {
    ticks++;
    ticked.resolve();
  });
  for (let asked = 1; asked <= 3; asked++) {
    ticked = Promise.withResolvers();
    ticker.postMessage(1);
    await ticked.promise;
    assertEquals(ticks, asked);
  }
  // Time for ticks that nobody has asked for.
  await new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals(ticks, 3);
  ticker.terminate();
});
