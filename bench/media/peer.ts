/**
 * A peer for the MoQ benchmark. It accepts the same arguments as the gomoqt peers:
 *
 * ```text
 * peer.ts -mode server -version moq-lite-04 -groups N -frames N -size BYTES -rate PER_SECOND
 * peer.ts -mode client -version moq-lite-04 -url moqt://127.0.0.1:PORT/moq -hash HEX -groups N
 * ```
 *
 * The server publishes `/bench`. Each frame starts with the time at which it was written
 * (nanoseconds since the epoch, 64 bits), the group number, and the frame's number within the group
 * (32 bits each). The client subscribes, and prints latencies and rates from the first to the last
 * received frame.
 *
 * @module
 */
import type { GroupReader, TrackWriter } from "../../moq/mod.ts";
import { dialMoq, MoqSession, type MoqVersion, TrackMux } from "../../moq/mod.ts";
import { protocolsOf } from "../../moq/wire/versions.ts";
import { devCertificate, listenQuic } from "../../transport/mod.ts";
import {
  emit,
  type EndOptions,
  endOptions,
  pace,
  stamp,
  STAMP_BYTES,
  SubscriberMeter,
  valueOf,
} from "./frames.ts";

async function publish(track: TrackWriter, options: EndOptions): Promise<void> {
  const { frames, size } = options;
  // A group copies each frame, so one buffer serves all, as in gomoqt's program.
  const body = new Uint8Array(size);
  await pace(options, async (number) => {
    const group = await track.openGroup();
    for (let frame = 0; frame < frames; frame++) {
      stamp(body, number, frame);
      const written = group.writeFrame(body);
      // Only a full group has to wait.
      if (group.bufferedBytes > 65_536) await written;
    }
    group.close().catch(() => {});
  });
  // The subscriber disconnects after receiving all frames.
  await new Promise<void>((resolve) => {
    track.signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

async function serve(options: EndOptions, version: MoqVersion): Promise<void> {
  const mux = new TrackMux();
  mux.publish("/bench", (track) => publish(track, options));
  const { cert, key, hashes } = await devCertificate({ cacheFolder: null });
  await using listener = listenQuic({
    hostname: "127.0.0.1",
    port: 0,
    cert,
    key,
    protocols: protocolsOf([version], "quic"),
  });
  emit({ event: "cert", sha256: new Uint8Array(hashes[0]!.value).toHex() });
  emit({ event: "ready", addr: `127.0.0.1:${listener.address.port}` });
  for await (const connection of listener) {
    const session = await MoqSession.open(connection, {
      side: "server",
      mux,
      versions: [version],
      onError: (error) => console.error(error),
    });
    await session.closed;
    emit({ event: "session_closed" });
    return;
  }
}

async function subscribe(options: EndOptions, version: MoqVersion): Promise<void> {
  await using session = await dialMoq(options.url, {
    versions: [version],
    serverCertificateHashes: [{
      algorithm: "sha-256",
      value: Uint8Array.fromHex(options.hash),
    }],
    maxUnidirectionalStreams: 4_096,
  });
  emit({ event: "connected" });
  const track = await session.subscribe("/bench", "video");
  const meter = new SubscriberMeter(options);
  const read = async (group: GroupReader) => {
    while (true) {
      let frame = group.takeFrame();
      if (frame === undefined) frame = await group.readFrame();
      if (frame === null) return meter.group();
      meter.frame(new DataView(frame.buffer, frame.byteOffset, STAMP_BYTES), frame.byteLength);
    }
  };
  const loop = (async () => {
    for (let group; (group = await track.nextGroup()) !== null;) {
      read(group).catch((error) => emit({ event: "group_error", error: String(error) }));
    }
  })().catch((error) => emit({ event: "track_error", error: String(error) }));
  await Promise.race([meter.done, loop]);
  meter.print();
}

if (import.meta.main) {
  const options = endOptions(Deno.args);
  const version = valueOf(Deno.args, "version", "moq-lite-04") as MoqVersion;
  await (options.mode === "client" ? subscribe(options, version) : serve(options, version));
  Deno.exit();
}
