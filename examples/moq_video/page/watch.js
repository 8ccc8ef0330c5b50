/**
 * What this page watches: groups of a track, decoded onto a canvas.
 *
 * @module
 */
import { decodeFrame, now, pathOf } from "./frame.js";

/** How long the rest of a group is waited for once a newer one is here, in milliseconds. */
const REST_MS = 150;

/** It is waited for the broadcast as long as the page is open, and for it to come back. */
const PATIENT = { waitForBroadcast: true, resumeTimeoutMs: Infinity };

/** Why this browser cannot watch; `undefined` if it can. */
export function whyNotWatch() {
  return "VideoDecoder" in globalThis
    ? undefined
    : "This browser has no VideoDecoder (WebCodecs). Current ones have it: Chromium, Firefox, Safari.";
}

/**
 * Watches a broadcast until the signal says so: over all connections of the client, and whenever the
 * broadcast is there.
 *
 * `onPicture` gets each picture when it was drawn: how old it is, how many bytes it had, and the
 * number of its group; `onSkipped` how many groups did not come.
 */
export async function watch(client, name, { canvas, signal, onPicture, onSkipped }) {
  const path = pathOf(name);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  /** What is known of pictures in the decoder, by their time. */
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
      // Pictures are more urgent than anything else here.
      priority: 200,
      // After a loss the numbers may be lower, if the broadcast began anew.
      onResumed: () => last = undefined,
    });
    let next = nextGroup(track);
    for (let group; (group = await Promise.race([next, failure.promise])) !== null;) {
      next = nextGroup(track);
      // One that comes after a newer one is too late.
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
      // A group that was given up, or the session: the next one begins with a key frame.
      if (error.code !== "moq") throw error;
    }
  }
}

/** The next group; a page that was too slow goes on where the network is. */
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
