/**
 * A client that stops reading. The server's queue for the client is bounded, and the overflow
 * policy decides how a full queue behaves. In the example a camera sends frames to a viewer that
 * stalls.
 *
 * ```sh
 * deno run examples/slow_clients.ts
 * ```
 *
 * Both sides run in this process, so that the example can stall the link between them and needs no
 * permissions. `serve({ session: { sendQueue } })` takes the same options.
 *
 * @module
 */
import { type OverflowPolicy, QueueFullError, Session } from "../mod.ts";
import { sessionSettings } from "../session/mod.ts";
import { memoryPair } from "../transport/mod.ts"; // jsr:@skein/skein
import { optionsOf } from "./shared/options.ts";

optionsOf({
  run: "deno run examples/slow_clients.ts",
  about: "Shows the overflow policies of a bounded queue, with a client that stops reading.",
}, {});

/** Pixels of one frame: 16 KiB, so that four frames fill the link, which holds 64 KiB. */
const PIXELS = "x".repeat(16_384);

/** Frames that may wait in the queue, beyond those on the link. */
const MAX_MESSAGES = 4;

for (const policy of ["close", "drop-oldest", "drop-newest", "latest"] as const) {
  console.log(`${policy}: ${await watch(policy)}`);
}

// The policy may depend on the topic: old frames are worthless, chat messages are not.
console.log(`by topic: ${await watch((topic) => topic === "frame" ? "latest" : "close")}`);

// A sender that awaits `flushed` never overflows the queue: frames go as fast as the viewer reads.
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
      // The session counts the dropped messages for the viewer.
      onDropped: (count) => void (dropped += count),
    }),
  );
  await viewer.whenReady();

  link.stall("to-client");
  if (waits) setTimeout(() => link.resume("to-client"));
  try {
    for (let number = 1; number <= 12; number++) {
      camera.send("frame", { number, pixels: PIXELS });
      // One frame per turn, as a camera would send.
      await (waits ? camera.flushed() : new Promise((resolve) => setTimeout(resolve)));
    }
  } catch (error) {
    if (!(error instanceof QueueFullError)) throw error;
    const { code, reason } = await camera.closed;
    return `closed with ${code} (${reason}), so the viewer reconnects and starts over`;
  }
  link.resume("to-client");
  await camera.close();
  await viewer.closed;
  return `frames ${seen.join(" ")}, notified of ${dropped} dropped`;
}
