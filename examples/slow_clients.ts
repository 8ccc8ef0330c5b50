/**
 * A client that does not read: what waits for it is bounded, and the policy says
 * what happens then. A camera sends frames to a viewer who stalls.
 *
 * ```sh
 * deno run examples/slow_clients.ts
 * ```
 *
 * It needs no permission: both ends are in this process, so that one of them can
 * be stalled on demand. `serve({ session: { sendQueue } })` takes the same options.
 *
 * @module
 */
import { type OverflowPolicy, QueueFullError, Session } from "../mod.ts";
import { sessionSettings } from "../session/mod.ts";
import { memoryPair } from "../transport/mod.ts"; // jsr:@skein/skein

/** A frame of the camera: 16 KiB, so that four of them fill the wire, which holds 64 KiB. */
const PIXELS = "x".repeat(16_384);

/** Frames that may wait beyond that. */
const MAX_MESSAGES = 4;

for (const policy of ["close", "drop-oldest", "drop-newest", "latest"] as const) {
  console.log(`${policy}: ${await watch(policy)}`);
}

// The policy may differ by topic: old frames are worthless, chat is not.
console.log(`by topic: ${await watch((topic) => topic === "frame" ? "latest" : "close")}`);

// Or there is no overflow at all: whoever waits for `flushed` sends as fast as the viewer reads.
console.log(`with back-pressure: ${await watch("close", { waits: true })}`);

async function watch(
  policy: OverflowPolicy | ((topic: string) => OverflowPolicy),
  { waits = false } = {},
): Promise<string> {
  const { client, server, link } = memoryPair();
  const seen: number[] = [];
  let dropped = 0;
  await using camera = new Session(
    server,
    sessionSettings({ side: "server", sendQueue: { policy, maxMessages: MAX_MESSAGES } }),
  );
  await using viewer = new Session(
    client,
    sessionSettings({
      side: "client",
      onMessage: ({ data }) => void seen.push((data as { number: number }).number),
      // The viewer is told how much it missed, never left to guess.
      onDropped: (count) => void (dropped += count),
    }),
  );
  await viewer.whenReady();

  link.stall("to-client");
  if (waits) setTimeout(() => link.resume("to-client"));
  try {
    for (let number = 1; number <= 12; number++) {
      camera.send("frame", { number, pixels: PIXELS });
      // A frame a turn, as a camera would.
      await (waits ? camera.flushed() : new Promise((resolve) => setTimeout(resolve)));
    }
  } catch (error) {
    if (!(error instanceof QueueFullError)) throw error;
    const { code, reason } = await camera.closed;
    return `closed with ${code} (${reason}), so that the viewer comes back and starts afresh`;
  }
  link.resume("to-client");
  await camera.close();
  await viewer.closed;
  return `frames ${seen.join(" ")}, told of ${dropped} dropped`;
}
