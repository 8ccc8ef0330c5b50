/**
 * What this page sends: a canvas, encoded, as a track of video and one that says how to decode it.
 *
 * @module
 */
import { LiveBroadcast } from "@skein/skein/moq";
import { draw } from "./drawing.js";
import { encodeFrame, GROUP_MS, now, pathOf, RATE } from "./frame.js";

/** How it is encoded. Every browser with WebCodecs has VP8. */
const CONFIG = {
  codec: "vp8",
  width: 640,
  height: 360,
  bitrate: 1_500_000,
  framerate: RATE,
  latencyMode: "realtime",
};

/** Pictures that wait for the encoder; one more is left out. */
const MAX_WAITING = 2;

/** On a slow network, groups that are older than this give way to newer ones, in milliseconds. */
const MAX_LATENCY_MS = 2_000;

/** Why this browser cannot send; `undefined` if it can. */
export async function whyNotSend() {
  if (!("VideoEncoder" in globalThis)) return "This browser has no VideoEncoder (WebCodecs).";
  const { supported } = await VideoEncoder.isConfigSupported(CONFIG);
  return supported ? undefined : "This browser does not encode VP8.";
}

/** A broadcast of this page; it outlives its connections. */
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

  /** Is not on the air yet; `onDemand` is called when somebody begins to watch, or ends. */
  constructor(name, canvas, onDemand) {
    this.#name = name;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    this.#video = this.#tracks.track("video", { maxLatencyMs: MAX_LATENCY_MS, onDemand });
  }

  /** Whether somebody asked for the picture: the server, for all who watch. */
  get isWatched() {
    return this.#video.subscribers > 0;
  }

  /** Begins; with the camera, once it may be used. Throws where that is refused. */
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
    this.#ticker.addEventListener("message", () => this.#take());
    this.#ticker.postMessage(1_000 / RATE);
  }

  /** Ends; whoever watches is told. */
  stop() {
    this.#publication?.end();
    this.#tracks.close();
    this.#ticker?.terminate();
    if (this.#encoder?.state === "configured") this.#encoder.close();
    for (const track of this.#camera?.srcObject.getTracks() ?? []) track.stop();
  }

  /** Takes a picture. */
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

  /** Nobody can begin but at a key frame, so that one begins a group. */
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

/** Fills the canvas; what does not fit is cut off on both sides. */
function drawCover(context, video) {
  const { width, height } = context.canvas;
  const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
  const [w, h] = [video.videoWidth * scale, video.videoHeight * scale];
  context.drawImage(video, (width - w) / 2, (height - h) / 2, w, h);
}
