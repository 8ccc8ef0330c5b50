/**
 * Typed messages on their own stream. A sensor sends readings as fast as the server reads them, and
 * receives alarms on the same stream. The session's other messages are independent of this stream.
 *
 * ```sh
 * deno run -N --unstable-net examples/structured_stream.ts --once
 * ```
 *
 * Without `--once` the server keeps running, on port 8000.
 *
 * @module
 */
import * as z from "zod";
import { dial, type IncomingStream, serve, type Session, StructuredError } from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once: isOnce } = optionsOf({
  run: "deno run -N --unstable-net examples/structured_stream.ts",
  about: "Sends typed messages on their own stream.",
}, { port: PORT, once: ONCE });

/**
 * Message types by number. Both sides use this registry; a real project keeps it in a shared
 * module.
 */
const registry = {
  1: z.object({ sensor: z.string(), celsius: z.number() }),
  2: z.object({ sensor: z.string(), text: z.string() }),
  3: z.object({ readings: z.int(), highest: z.number() }),
};

await using server = serve({
  port: isOnce ? 0 : port,
  onStream: answer,
  onError(error) { // Only this stream ended.
    if (error instanceof StructuredError) console.log(`rejected: ${error.reason}`);
  },
  onMessage: (message) => message.reply("still here"),
});

if (isOnce) await measure(server.url);
else await new Promise(() => {});

/** Runs one loop for each stream that the client opens. */
async function answer(stream: IncomingStream, session: Session): Promise<void> {
  if (stream.direction !== "bidirectional") return;
  // Leaving this function closes the stream, so that the other side knows that no message follows.
  await using messages = await session.structuredStream({ registry, stream });
  let [readings, highest] = [0, -Infinity];
  for await (const message of messages) {
    if (message.type !== 1) continue; // Narrows `data` to a reading.
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
    // Awaiting applies back-pressure: a server that does not read pauses the sensor.
    await stream.send(1, { sensor: "boiler", celsius });
  }
  await stream.close();
  for await (const message of stream) {
    if (message.type === 2) console.log(`alarm: ${message.data.sensor} has ${message.data.text}`);
    if (message.type === 3) console.log("in all:", message.data);
  }

  // A message that violates the schema ends only its stream.
  await using wrong = await session.structuredStream({ registry });
  // @ts-expect-error The compiler rejects the string too.
  await wrong.send(1, { sensor: "boiler", celsius: "hot" });
  const ended = await wrong[Symbol.asyncIterator]().next().catch(() => "cut short");
  console.log(`the other stream was ${ended}, and the session is`, await session.request("ask"));
}
