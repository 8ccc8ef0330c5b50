/** End marks that cross a close: all frames from before the close go first, then the mark and the code. */
import { CloseCode } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type {
  Connection,
  ConnectionCloseInfo,
  Frame,
} from "../../../../../transport/connection.ts";
import { directStream } from "../../../../../transport/direct.ts";
import { FrameParser, FrameQueue } from "../../../../../transport/message_stream/frames.ts";
import { MAX_FRAME_BYTES } from "../../../../../transport/message_stream/connection.ts";
import { withMessages } from "../../../../../transport/message_stream/server.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";

/** Fewest and most frames of the library, and of the peer, whose mark comes before the last of those. */
const [FRAMES, FEW] = [[4, 10], [0, 4]] as const;

/** Characters of the frames of the library, and of the peer. */
const [LARGE, SMALL] = [[10, 60_000, 60_000], [10, 10_000]] as const;

/** Bytes that pass in a second, so that all frames take less time than a close. */
const SPEEDS = [900_000, 1_500_000] as const;

/** Longest time between the frames, the end mark of the peer, and the close, in milliseconds. */
const APART_MS = 60;

/** Longest time of an end, in milliseconds: both waits of a close, and the frames. */
const END_MS = 4_000;

/** Longest time of a close whose peer has ended before, in milliseconds: below the wait for a peer. */
const PROMPT_MS = 950;

/** Time in which an end waits for the code of a peer that was first to end, in milliseconds (rule 16.9). */
const CODE_MS = 2_000;

/** Ends that close: the one with the library's frames, or the peer behind all frames. */
const CLOSERS = ["library", "library", "peer"] as const;

/** Port of the server. */
const PORT = 4_433;

/** Frames and the end of a connection, as one end has these; the lengths stand for the frames. */
interface Heard {
  readonly frames: string[];
  closed: string | undefined;
}

/**
 * Lets one end close while the peer, without the code of the library, ends its half.
 *
 * @param audit The audit.
 */
export async function auditEarlyMarks(audit: Audit): Promise<void> {
  const random = audit.chanceOf("early marks");
  const hosts = { server: audit.host("early-marks"), client: audit.host("early-marker") };
  audit.change(hosts.server, hosts.client, { bytesPerSecond: oneOf(random, SPEEDS) });
  const inner = await connect(audit, hosts);
  const side = oneOf(random, ["client", "server"] as const);
  const other = side === "client" ? "server" : "client";
  const closer = oneOf(random, CLOSERS);
  const expect: Expect = (what, ...outcome) =>
    audit.examine("lives", `${what} (${closer} closes, library at the ${side})`, ...outcome);

  const end = withMessages(inner[side], { side, runtime: hosts[side].runtime });
  let unwritten: number | undefined;
  const close = inner[side].close.bind(inner[side]);
  inner[side].close = (info) => {
    unwritten ??= end.frames!.bufferedAmount;
    close(info);
  };
  const near: Heard = { frames: [], closed: undefined };
  end.frames!.receive({
    receiveFrame: (frame) => void near.frames.push(nameOf(frame)),
    framesEnded() {},
  });
  void hear(end, near);
  const peer = inner[other];
  const stream = directStream(
    other === "client" ? await peer.createBidirectionalStream() : await firstStream(peer),
  );
  const far: Heard = { frames: [], closed: undefined };
  void hear(peer, far);
  let marks = 0;
  const parser = new FrameParser({
    onFrame: (frame) => void far.frames.push(nameOf(frame)),
    onEnd: () => marks++,
    onRefused: (code) => void far.frames.push(`refused with ${code}`),
  }, MAX_FRAME_BYTES);
  const reading = (async () => {
    while (true) {
      // At once: a wire forgets the bytes that are unread at its end.
      const bytes = await stream.read().catch(() => null);
      if (bytes === null) return;
      parser.push(bytes);
    }
  })();
  const draw = (name: string, [least, most]: readonly [number, number], sizes: readonly number[]) =>
    Array.from(
      { length: Math.round(between(random, least, most)) },
      (_, i) => `${name}${i} `.padEnd(oneOf(random, sizes), "x"),
    );
  const [own, others] = [draw("own", FRAMES, LARGE), draw("other", FEW, SMALL)];

  // A stream of a client is there once the first bytes are, which are the empty greeting.
  const queue = new FrameQueue();
  if (other === "client") queue.add("");
  for (const frame of others) queue.add(frame);
  queue.addEnd();
  let [written, hasWritten] = [0, false];
  const writeAll = async () => {
    for (let bytes; (bytes = queue.next()) !== undefined;) {
      written += bytes.length;
      await stream.write(bytes);
      queue.confirm();
    }
    hasWritten = true;
    await stream.close();
  };
  for (const frame of own) end.frames!.send(frame);
  // Either is first, or both are on the way at once.
  const [markMs, closeMs] = [APART_MS * random(), APART_MS * random()];
  const writing = audit.pause(markMs).then(writeAll).catch(() => {});
  const info = {
    closeCode: oneOf(random, [CloseCode.draining, 3_000, 4_000]),
    reason: `${closer} closes`,
  };
  const beganMs = audit.nowMs + closeMs;
  let mostMs = PROMPT_MS;
  if (closer === "library") {
    await audit.pause(closeMs);
    const { bytesReceived } = await end.getStats();
    // Both halves have ended before: the code of the peer counts if it comes in time.
    const isSecond = hasWritten && bytesReceived === written && end.frames!.bufferedAmount === 0;
    if (isSecond) mostMs += CODE_MS;
    end.close(info);
    await writing;
  } else {
    await Promise.all([writing, audit.inTime(reading, END_MS, undefined)]);
    peer.close(info);
  }
  const isOver = () => near.closed !== undefined && far.closed !== undefined;
  await audit.until(isOver, END_MS);
  const tookMs = Math.round(audit.nowMs - beganMs);
  await audit.inTime(reading, END_MS, undefined);
  const [sent, got] = [own.map(nameOf), far.frames.filter((name) => name !== "")];
  const told = shown(info);
  expect("ends of a connection", [told, told], [near.closed, far.closed]);
  const names = others.map(nameOf);
  if (closer === "library") {
    expect(`close after ${tookMs} ms`, true, tookMs < mostMs);
    expect("bytes that are not written before a close", 0, unwritten);
    // The code may overtake bytes that are on their way to a peer that ended before.
    expect("frames before a close", sent.slice(0, got.length), got);
    // Frames that come behind the close of this end are not delivered.
    expect("frames of the peer before a close", names.slice(0, near.frames.length), near.frames);
  } else {
    expect("frames before the end mark, and the marks", [sent, 1], [got, marks]);
    expect("frames of the peer", names, near.frames);
  }
  end.close();
  peer.close();
}

/** Connects both hosts, without messages. */
async function connect(
  { network }: Audit,
  { server, client }: Readonly<Record<"server" | "client", Host>>,
): Promise<Readonly<Record<"server" | "client", Connection>>> {
  const source = network.webTransport(server)({ port: PORT } as never);
  const accepting = (async () => {
    for await (const request of source) return request.accept();
    throw new TypeError("Cannot connect: the server must take requests");
  })();
  const url = new URL(`https://${server.name}:${PORT}/`);
  const dialing = network.dialWebTransport(client)(url, { runtime: client.runtime });
  return { client: await dialing, server: await accepting };
}

async function firstStream(connection: Connection) {
  const reader = connection.incomingBidirectionalStreams.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  return value!;
}

/** Notes the end of a connection. */
async function hear({ closed }: Connection, heard: Heard): Promise<void> {
  heard.closed = await closed.then(shown, (error) => `${error}`);
}

function shown({ closeCode, reason }: ConnectionCloseInfo): string {
  return `${closeCode} ${reason}`;
}

/** Name of a frame, with the number of characters. */
function nameOf(frame: Frame): string {
  return frame === "" ? "" : `${`${frame}`.split(" ", 1)[0]} ${frame.length}`;
}
