/**
 * Sends this page's picture: encodes a canvas as a video track, which a catalog track describes.
 *
 * @module
 */
import { LiveBroadcast } from "@skein/skein/moq";
import { draw } from "./drawing.js";
import { encodeFrame, GROUP_MS, now, pathOf, RATE } from "./frame.js";

/** Settings of the encoder. Every browser with WebCodecs supports VP8. */
const CONFIG = {
  codec: "vp8",
  width: 640,
  height: 360,
  bitrate: 1_500_000,
  framerate: RATE,
  latencyMode: "realtime",
};

/** Maximum pictures that wait for the encoder; further pictures are skipped. */
const MAX_WAITING = 2;

/** On a slow network, groups older than this are dropped for newer ones, in milliseconds. */
const MAX_LATENCY_MS = 2_000;

/** Returns the reason why this browser cannot send, or `undefined` if it can. */
export async function whyNotSend() {
  if (!("VideoEncoder" in globalThis)) return "This browser has no VideoEncoder (WebCodecs).";
  const { supported } = await VideoEncoder.isConfigSupported(CONFIG);
  return supported ? undefined : "This browser does not encode VP8.";
}

/** This page's broadcast, which continues across reconnects. */
export class Broadcast {
  #name;
  #context;
  #camera;
  #tracks = new LiveBroadcast();
  #video;
  #group;
  #publication;
  #encoder;
  #ticker;
  #count = 0;
  #lastKey = -Infinity;

  /**
   * Prepares a broadcast; `onDemand` is called when the first subscriber joins and when the last
   * one leaves.
   */
  constructor(name, canvas, onDemand) {
    this.#name = name;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    this.#video = this.#tracks.track("video", { maxLatencyMs: MAX_LATENCY_MS, onDemand });
  }

  /** True while the server is subscribed, on behalf of all viewers. */
  get isWatched() {
    return this.#video.subscribers > 0;
  }

  /** Starts the broadcast. Throws if the source is the camera and the user denies access. */
  async start(mux, { source, onError }) {
    if (source === "camera") this.#camera = await openCamera();
    this.#encoder = new VideoEncoder({ output: (chunk) => this.#send(chunk), error: onError });
    this.#encoder.configure(CONFIG);
    const { codec, width: codedWidth, height: codedHeight } = CONFIG;
    const catalog = JSON.stringify({ codec, codedWidth, codedHeight });
    const group = this.#tracks.track("catalog").openGroup();
    group.writeFrame(new TextEncoder().encode(catalog));
    group.close();
    this.#publication = mux.publish(pathOf(this.#name), this.#tracks);
    this.#ticker = new Worker("/ticker.js");
    const next = () => this.#ticker.postMessage(1_000 / RATE);
    this.#ticker.addEventListener("message", () => {
      next();
      this.#take();
    });
    next();
  }

  /** Ends the broadcast; viewers are notified. */
  stop() {
    this.#publication?.end();
    this.#tracks.close();
    this.#ticker?.terminate();
    if (this.#encoder?.state === "configured") this.#encoder.close();
    for (const track of this.#camera?.srcObject.getTracks() ?? []) track.stop();
  }

  #take() {
    const at = now();
    this.#count++;
    if (this.#camera === undefined) {
      draw(this.#context, { name: this.#name, count: this.#count, at });
    } else drawCover(this.#context, this.#camera);
    if (this.#encoder.state !== "configured" || this.#encoder.encodeQueueSize > MAX_WAITING) return;
    const frame = new VideoFrame(this.#context.canvas, { timestamp: Math.round(at * 1_000) });
    const keyFrame = at - this.#lastKey >= GROUP_MS;
    if (keyFrame) this.#lastKey = at;
    this.#encoder.encode(frame, { keyFrame });
    frame.close();
  }

  /**
   * Sends an encoded picture. A decoder can only start at a key frame, so each key frame starts a
   * group.
   */
  #send(chunk) {
    if (chunk.type === "key") {
      this.#group?.close();
      this.#group = this.#video.openGroup();
    }
    this.#group?.writeFrame(encodeFrame(chunk));
  }
}

async function openCamera() {
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = await navigator.mediaDevices.getUserMedia({
    video: { width: CONFIG.width, height: CONFIG.height },
  });
  await video.play();
  return video;
}

/** Fills the canvas, cropping both sides. */
function drawCover(context, video) {
  const { width, height } = context.canvas;
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const [w, h] = [video.videoWidth * scale, video.videoHeight * scale];
  context.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
}
