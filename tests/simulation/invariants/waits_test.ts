import { Story } from "./story.ts";
import { everyWaitEnds } from "./waits.ts";

const WAIT = { wait: 1, life: 0, what: "request r1", withinMs: 30_000 };

/** Host `h` waits since second 1. */
function waits(): { story: Story; host: ReturnType<Story["host"]> } {
  const story = new Story(everyWaitEnds);
  const host = story.host("h");
  story.tells("waits", WAIT);
  return { story, host };
}

Deno.test("everyWaitEnds holds for waits in time, and for those of a life that ended", () => {
  waits().story.passes(30_000).steps().tells("waited", { wait: 1 }).passes(60_000).ends().finds();
  const { story, host } = waits();
  host.kill();
  story.passes(60_000).steps().ends().finds();
});

Deno.test("everyWaitEnds holds while a host is frozen, and counts from there", () => {
  const { story, host } = waits();
  host.freeze();
  story.passes(40_000).steps();
  host.thaw();
  story.passes(30_000).steps().finds();
  story.passes(10_000).steps().steps().finds(
    "expected request r1, begun at 1.000 s, to settle within 30000 ms, received nothing until now",
  );
});

Deno.test("everyWaitEnds finds a wait that is late", () => {
  waits().story.passes(40_000).ends().finds(
    "expected request r1, begun at 1.000 s, to settle within 30000 ms, received nothing until now",
  );
});
