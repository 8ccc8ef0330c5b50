/**
 * Simulates the pages: a camera that sends numbers instead of pictures, and two viewers.
 *
 * @module
 */
import { connectMoq, dialMoq, LiveBroadcast, type MoqServer } from "../../moq/mod.ts";

/** Starts a broadcast, watches it over both transports, and ends it. */
export async function showOnce(server: MoqServer): Promise<void> {
  await using _server = server;
  const url = `http://127.0.0.1:${server.address!.port}`;

  await using camera = connectMoq(url);
  await using broadcast = new LiveBroadcast();
  const video = broadcast.track("video");
  const publication = camera.mux.publish("/live/anna", broadcast);
  const filming = film();
  console.log("anna is on the air");

  for (const address of [url, server.webSocketUrl]) {
    await using session = await dialMoq(address);
    console.log(`a watcher over ${session.connection.transport}`);
    await using announcements = await session.acceptAnnounce("/live");
    const { path } = (await announcements.next())!;
    console.log(`  finds ${path}`);
    await using track = await session.subscribe(path, "video", { priority: 200 });
    const group = await track.nextGroup();
    const pictures = [];
    for await (const frame of group!) pictures.push(new TextDecoder().decode(frame));
    console.log(`  receives a group: ${pictures.join(", ")}`);
    if (address === url) continue;
    publication.end();
    const ended = await announcements.next();
    console.log(`  sees that ${ended?.path} ${ended?.active ? "is on the air" : "has ended"}`);
  }
  clearInterval(filming);

  /** Sends a group: a key frame, and the frames that depend on it. */
  function film(): ReturnType<typeof setInterval> {
    let count = 0;
    let group = video.openGroup();
    return setInterval(() => {
      if (count === 5) {
        group.close();
        group = video.openGroup();
        count = 0;
      }
      group.writeFrame(new TextEncoder().encode(count === 0 ? "key frame" : `+${count}`));
      count++;
    }, 20);
  }
}
