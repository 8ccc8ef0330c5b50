/**
 * Typed messages on a stream of their own: a sensor sends readings as fast as they are taken, and
 * is sent alarms back, while the session's messages go on beside it.
 *
 * ```sh
 * deno run -N --unstable-net examples/structured_stream.ts --once
 * ```
 *
 * Without `--once` the server goes on, on port 8000.
 *
 * @module
 */
import { z } from "zod";
import { dial, type IncomingStream, serve, type Session, StructuredError } from "../mod.ts"; // jsr:@skein/skein

const isOnce = Deno.args.includes("--once");

/** Small numbers stand for messages; both ends import them. In earnest, a module of its own. */
const registry = {
  1: z.object({ sensor: z.string(), celsius: z.number() }),
  2: z.object({ sensor: z.string(), text: z.string() }),
  3: z.object({ readings: z.int(), highest: z.number() }),
};

await using server = serve({
  port: isOnce ? 0 : 8000,
  onStream: answer,
  onError(error) { // It ended this stream only.
    if (error instanceof StructuredError) console.log(`refused: ${error.reason}`);
  },
  onMessage: (message) => message.reply("still here"),
});

if (isOnce) await measure(server.url);
else await new Promise(() => {});

/** Each stream that the client opens has a loop of its own. */
async function answer(stream: IncomingStream, session: Session): Promise<void> {
  if (stream.direction !== "bidirectional") return;
  // Leaving this function closes the stream, which tells the other end that all was said.
  await using messages = await session.structuredStream({ registry, stream });
  let [readings, highest] = [0, -Infinity];
  for await (const message of messages) {
    if (message.type !== 1) continue; // From here on, `data` is a reading.
    const { sensor, celsius } = message.data;
    readings++;
    highest = Math.max(highest, celsius);
    if (celsius > 90) await messages.send(2, { sensor, text: `${celsius} degrees` });
  }
  await messages.send(3, { readings, highest });
}

async function measure(url: string): Promise<void> {
  await using session = await dial(url);

  await using stream = await session.structuredStream({ registry });
  for (const celsius of [20, 95, 40, 91, 18]) {
    // Awaiting is the back-pressure: a server that does not read holds the sensor back.
    await stream.send(1, { sensor: "boiler", celsius });
  }
  await stream.close();
  for await (const message of stream) {
    if (message.type === 2) console.log(`alarm: ${message.data.sensor} has ${message.data.text}`);
    if (message.type === 3) console.log("in all:", message.data);
  }

  // What a schema refuses ends its own stream, and nothing else.
  await using wrong = await session.structuredStream({ registry });
  // @ts-expect-error The compiler refuses it too.
  await wrong.send(1, { sensor: "boiler", celsius: "hot" });
  const ended = await wrong[Symbol.asyncIterator]().next().catch(() => "cut short");
  console.log(`the other stream was ${ended}, and the session is`, await session.request("ask"));
}
