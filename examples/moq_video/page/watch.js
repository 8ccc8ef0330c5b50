/**
 * Shows a broadcast on a canvas: subscribes to the groups of a track and decodes them.
 *
 * @module
 */
import { decodeFrame, now, pathOf } from "./frame.js";

/** Maximum wait for the rest of a group once a newer group has started, in milliseconds. */
const REST_MS = 150;

/** Waits without a limit for the broadcast, and for its return. */
const PATIENT = { waitForBroadcast: true, resumeTimeoutMs: Infinity };

/** Returns the reason why this browser cannot watch, or `undefined` if it can. */
export function whyNotWatch() {
  return "VideoDecoder" in globalThis
    ? undefined
    : "This browser has no VideoDecoder (WebCodecs). Use a current Chromium, Firefox or Safari.";
}

/**
 * Watches a broadcast until the signal is aborted, across reconnects of the client and restarts of
 * the broadcast.
 *
 * `onPicture` is called for each picture on the canvas, with its latency, size in bytes and group
 * number; `onSkipped` receives the number of groups that did not arrive.
 */
export async function watch(client, name, { canvas, signal, onPicture, onSkipped }) {
  const path = pathOf(name);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  /** Metadata of the pictures in the decoder, by timestamp. */
  const known = new Map();
  const failure = Promise.withResolvers();
  failure.promise.catch(() => {});
  let last, track;
  const decoder = new VideoDecoder({
    output(picture) {
      const { displayWidth, displayHeight, timestamp } = picture;
      if (canvas.width !== displayWidth) canvas.width = displayWidth;
      if (canvas.height !== displayHeight) canvas.height = displayHeight;
      context.drawImage(picture, 0, 0);
      picture.close();
      onPicture({ latencyMs: now() - timestamp / 1_000, ...known.get(timestamp) });
      known.delete(timestamp);
    },
    error: failure.reject,
  });
  try {
    decoder.configure({ ...await readCatalog(client, path, signal), optimizeForLatency: true });
    track = client.subscribe(path, "video", {
      ...PATIENT,
      signal,
      // Pictures are more urgent than all other tracks here.
      priority: 200,
      // A restarted broadcast may start at a lower number.
      onResumed: () => last = undefined,
    });
    let next = nextGroup(track);
    for (let group; (group = await Promise.race([next, failure.promise])) !== null;) {
      next = nextGroup(track);
      // A group that arrives after a newer one is too late.
      if (last !== undefined && group.sequence <= last) {
        group.cancel();
        continue;
      }
      if (last !== undefined && group.sequence > last + 1) onSkipped(group.sequence - last - 1);
      last = group.sequence;
      const rest = next.then(
        () => new Promise((resolve) => setTimeout(resolve, REST_MS)),
        () => {},
      );
      await Promise.race([play(group), rest, failure.promise]);
      group.cancel();
    }
  } finally {
    track?.close();
    if (decoder.state !== "closed") decoder.close();
  }

  async function play(group) {
    let isFirst = true;
    try {
      for (let frame; (frame = await group.readFrame()) !== null; isFirst = false) {
        if (decoder.state !== "configured") return;
        const { timestamp, data } = decodeFrame(frame);
        known.set(timestamp, { byteLength: data.byteLength, group: group.sequence });
        const type = isFirst ? "key" : "delta";
        decoder.decode(new EncodedVideoChunk({ type, timestamp, data }));
      }
    } catch (error) {
      // The group or the session was cancelled; the next group starts with a key frame.
      if (error.code !== "moq") throw error;
    }
  }
}

/** Returns the next group. A page that fell too far behind continues at the newest group. */
async function nextGroup(track) {
  while (true) {
    try {
      return await track.nextGroup();
    } catch (error) {
      if (error.reason !== "tooFarBehind") throw error;
    }
  }
}

async function readCatalog(client, path, signal) {
  const track = client.subscribe(path, "catalog", { ...PATIENT, signal });
  try {
    const group = await track.nextGroup();
    return JSON.parse(new TextDecoder().decode(await group.readFrame()));
  } finally {
    track.close();
  }
}
