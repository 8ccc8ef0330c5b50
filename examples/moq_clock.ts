/**
 * A clock over Media over QUIC. The server publishes the time, one group per second. A subscriber
 * starts at the newest group.
 *
 * ```sh
 * deno run -N --unstable-net examples/moq_clock.ts
 * deno run -N --unstable-net examples/moq_clock.ts --watch http://127.0.0.1:4443
 * ```
 *
 * With `--once` the program watches its own clock for three seconds, and exits.
 *
 * @module
 */
// In your own project: jsr:@skein/skein/moq
import { dialMoq, listenMoq, LiveTrack, TrackMux } from "../moq/mod.ts";
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, watch: watched, once: isOnce } = optionsOf({
  run: "deno run -N --unstable-net examples/moq_clock.ts",
  about: "Publishes the time over Media over QUIC, one group per second.",
}, {
  port: { ...PORT, default: 4443 },
  watch: { value: "URL", help: "watches the clock at this address instead of serving one" },
  once: ONCE,
});

if (watched === undefined) await serve();
else await watch(watched);

async function serve(): Promise<void> {
  const seconds = new LiveTrack();
  const mux = new TrackMux();
  mux.publish("/clock", (track) => seconds.serve(track));
  const ticking = setInterval(() => {
    using group = seconds.openGroup();
    group.writeFrame(new TextEncoder().encode(new Date().toISOString()));
  }, 1000);

  await using server = listenMoq({
    port: isOnce ? 0 : port,
    mux,
    authorize: (_session, _path, action) => action !== "publish",
  });
  // Clients that dial `http:` fetch the hash of the development certificate from this listener.
  const url = server.webSocketUrl.replace("ws:", "http:");
  if (isOnce) {
    await watch(url);
    return clearInterval(ticking);
  }
  console.log(`A clock at ${url} (press Ctrl-C to stop)`);
  await new Promise(() => {});
}

async function watch(url: string): Promise<void> {
  await using session = await dialMoq(url);
  console.log(`${session.version} over ${session.connection.transport}`);

  const announcements = await session.acceptAnnounce("/");
  console.log("there is", (await announcements.next())?.path);

  let count = 0;
  const track = await session.subscribe("/clock", "seconds");
  for await (const group of track) {
    for await (const frame of group) {
      console.log(`group ${group.sequence}: ${new TextDecoder().decode(frame)}`);
    }
    if (isOnce && ++count === 3) break;
  }
}
