/**
 * Typed and raw streams and datagrams next to a session's messages. The raw streams are opened by
 * nodes.
 */
import { z } from "zod";
import type { IncomingStream } from "../../../../session/streams/incoming_streams.ts";
import type { StructuredStream } from "../../../../session/streams/structured.ts";
import type { Session } from "../../../../session/session.ts";
import { pause } from "../../../../base/wait.ts";
import type { Journal } from "../journal.ts";
import { nameOf, type Program } from "../program.ts";
import type { Identity } from "../tokens.ts";

/** Mean interval between a client's streams, in milliseconds. */
const OPEN_EVERY_MS = 9_000;

/** Mean interval between a client's datagrams, in milliseconds. */
const DATAGRAM_EVERY_MS = 3_000;

/** Maximum number of items in a flow. */
const MAX_ITEMS = 8;

/** Maximum length of an item's text. It exceeds part of a stream's credit. */
const MAX_TEXT = 1_500;

/** Maximum pause of a slow reader, in milliseconds. */
const SLOW_MS = 300;

/** Maximum duration of a whole stream, in milliseconds. A session without a peer ends earlier. */
const STREAM_MS = 90_000;

/** A credit so small that a complete stream needs a grant. */
export const SMALL_CREDIT = { maxData: 16_384, maxStreamData: 4_096, maxStreamsBidi: 4 } as const;

/** Modes of a stream. The mode determines which end closes or aborts, and which end sends. */
const MODES = ["echo", "both", "abort", "reject", "invalid", "push"] as const;

/** Messages of a stream, by number. The first message says how both sides use the stream. */
const REGISTRY = {
  1: z.object({
    id: z.string(),
    mode: z.enum(MODES),
    count: z.int(),
    breakAt: z.int(),
    isSlow: z.boolean(),
  }),
  2: z.object({ index: z.int(), text: z.string() }),
};

/** Messages in datagrams. */
const DATAGRAMS = { 1: z.object({ number: z.int() }) };

/** The first message of a stream. */
type Head = z.infer<(typeof REGISTRY)[1]>;

/** An end of a stream. */
type Messages = StructuredStream<typeof REGISTRY>;

/** A program or a node, to which that end reports its facts. */
type End = Pick<Program, "host" | "tell">;

/** The node of a session. */
interface NodeEnd extends End {
  readonly journal: Journal;
  failed(what: string, error: unknown): void;
}

/** One direction of a stream, as its writer plans it. */
interface Flow {
  readonly flow: string;
  readonly count: number;
  /**
   * Index of the item at which the flow breaks off. If it is negative, the flow does not break off.
   */
  readonly breakAt?: number;
  /** True if the flow breaks off with an item that the schema rejects, false if it is aborted. */
  readonly isInvalid?: boolean;
}

/** Returns the text of an item, which the reader also knows. */
function textOf(flow: string, index: number): string {
  return `${flow} ${index} `.padEnd(1 + (index * 577 + flow.length * 131) % MAX_TEXT, "x");
}

/** Returns the code with which an end aborts a flow. */
function codeOf(flow: string): number {
  return 1_000 + flow.length;
}

/** Opens streams to the node from time to time, sends datagrams, and reads the node's streams. */
export function useStreams(program: Program): void {
  const { client } = program;
  client.status.subscribe(({ name }) => {
    const { session } = client;
    if (name !== "connected" || !session?.connection.capabilities.streams) return;
    void takeStreams(program, session);
    void sendDatagrams(program, session);
  });
  program.every(OPEN_EVERY_MS, "streams-and-datagrams", (random) => {
    const { session } = client;
    const drawn = [random(), random(), random(), random()] as const;
    if (!session?.connection.capabilities.streams || session.state !== "connected") return;
    const head = {
      id: program.newId("st"),
      mode: MODES[Math.floor(drawn[0] * MODES.length)]!,
      count: 1 + Math.floor(MAX_ITEMS * drawn[1]),
      breakAt: Math.floor(MAX_ITEMS * drawn[2] / 2),
      isSlow: drawn[3] < 0.3,
    };
    program.note(`opens ${head.id}, ${head.mode}, ${head.count} items`);
    program.wait(`stream ${head.id}`, openStream(program, session, head), STREAM_MS).catch(
      (error) => program.tell("unhandled", { error }),
    );
  });
}

/** Opens a stream and uses both directions as its head instructs. */
async function openStream(
  program: Program,
  session: NonNullable<Program["client"]["session"]>,
  head: Head,
): Promise<void> {
  const { id, mode, count, breakAt } = head;
  let stream: Messages;
  try {
    stream = await session.structuredStream({ registry: REGISTRY });
    await stream.send(1, head);
  } catch (error) {
    program.failed("opening of a stream failed", error);
    program.tell("streamFailed", { flow: `${id} up`, session: session.id, error });
    return;
  }
  const up = { flow: `${id} up`, count };
  const down = `${id} down`;
  if (mode === "abort") {
    await Promise.all([
      write(program, session.id, stream, { ...up, breakAt }, [down]),
      read(program, session.id, stream, down, head.isSlow),
    ]);
  } else if (mode === "invalid") {
    await Promise.all([
      write(program, session.id, stream, { ...up, breakAt, isInvalid: true }, [down]),
      read(program, session.id, stream, down, false),
    ]);
  } else {
    await Promise.all([
      write(program, session.id, stream, up, []),
      read(program, session.id, stream, down, head.isSlow),
    ]);
  }
  await stream.closed.catch(() => {});
}

/** Serves a stream that a client opened. */
export async function serveStream(
  node: NodeEnd,
  session: Session<Identity>,
  incoming: IncomingStream,
): Promise<void> {
  if (incoming.direction !== "bidirectional") return;
  const serving = serve(node, session, incoming);
  await node.journal.wait(node.host, "stream of a client", STREAM_MS, serving);
}

async function serve(
  node: NodeEnd,
  session: Session<Identity>,
  stream: IncomingStream & { readonly direction: "bidirectional" },
): Promise<void> {
  const messages = await session.structuredStream({ registry: REGISTRY, stream });
  let head: Head | undefined;
  try {
    for await (const message of messages) {
      if (message.type === 1) head = message.data;
      break; // Another loop continues with the next message.
    }
  } catch (error) {
    // The client aborted with the first bytes, or the session ended.
    node.failed("beginning of a stream failed", error);
  }
  if (head === undefined) return;
  const { id, mode, count, breakAt, isSlow } = head;
  const [up, down] = [`${id} up`, `${id} down`];
  const flow = { flow: down, count };
  const reading = () => read(node, session.id, messages, up, isSlow);
  switch (mode) {
    case "echo":
      await reading();
      await write(node, session.id, messages, flow, []);
      break;
    case "push":
      await Promise.all([
        reading(),
        write(node, session.id, messages, { flow: down, count: 0 }, []),
        push(node, session, `${id} push`, count),
      ]);
      break;
    case "reject":
      await Promise.all([
        reading(),
        write(node, session.id, messages, { ...flow, breakAt }, [up]),
      ]);
      break;
    case "both":
      await Promise.all([reading(), write(node, session.id, messages, flow, [])]);
      break;
    case "abort":
    case "invalid": // The client breaks off the stream, so nothing needs to come back.
      await reading();
  }
}

/** Sends a flow, and then closes it or breaks it off. The flows in `others` break off with it. */
async function write(
  end: End,
  session: string,
  stream: Messages,
  { flow, count, breakAt = -1, isInvalid = false }: Flow,
  others: readonly string[],
): Promise<void> {
  const last = breakAt < 0 ? count : Math.min(count, breakAt);
  try {
    for (let index = 0; index < last; index++) {
      end.tell("streamSent", { flow, index });
      await stream.send(2, { index, text: textOf(flow, index) });
    }
    if (breakAt < 0) {
      end.tell("streamEnds", { flow, count });
      return await stream.close();
    }
    const code = isInvalid ? 4_400 : codeOf(flow);
    for (const broken of [flow, ...others]) {
      end.tell("streamBreaks", { flow: broken, code, by: end.host.name, isInvalid });
    }
    if (isInvalid) await stream.send(2, { index: "none", text: 7 } as never);
    else stream.abort(code);
  } catch (error) {
    end.tell("streamFailed", { flow, session, error });
  }
}

/** Reads a flow to the end. */
async function read(
  end: End,
  session: string,
  stream: Messages,
  flow: string,
  isSlow: boolean,
): Promise<void> {
  try {
    for await (const message of stream) {
      const { index, text } = message.data as { readonly index: number; readonly text: string };
      end.tell("streamGot", { flow, index, isWhole: text === textOf(flow, index) });
      if (isSlow) await pause(end.host.runtime, SLOW_MS * (index % 3) / 2);
    }
    end.tell("streamOver", { flow });
  } catch (error) {
    end.tell("streamFailed", { flow, session, error, isReader: true });
  }
}

/**
 * Opens a stream of bytes to the client and sends a line that describes the flow, followed by the
 * items.
 */
async function push(
  node: NodeEnd,
  session: Session<Identity>,
  flow: string,
  count: number,
): Promise<void> {
  const encoder = new TextEncoder();
  try {
    const stream = await session.createUnidirectionalStream();
    const writer = stream.getWriter();
    await writer.write(encoder.encode(`${flow}\n`));
    for (let index = 0; index < count; index++) {
      node.tell("streamSent", { flow, index });
      await writer.write(encoder.encode(`${textOf(flow, index)}\n`));
    }
    node.tell("streamEnds", { flow, count });
    await writer.close();
  } catch (error) {
    node.tell("streamFailed", { flow, session: session.id, error });
  }
}

/** Reads the node's streams, which contain raw bytes. */
async function takeStreams(
  program: Program,
  session: NonNullable<Program["client"]["session"]>,
): Promise<void> {
  try {
    for await (const stream of session.incomingStreams()) {
      if (stream.direction === "unidirectional") void take(program, session.id, stream.readable);
    }
  } catch (error) {
    program.event(`streams of the node over: ${nameOf(error)}`, `${error}`);
  }
}

async function take(
  program: Program,
  session: string,
  readable: ReadableStream<Uint8Array>,
): Promise<void> {
  const decoder = new TextDecoder();
  let flow: string | undefined;
  let rest = "";
  let index = 0;
  try {
    for await (const chunk of readable) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (flow === undefined) {
          flow = line;
          continue;
        }
        program.tell("streamGot", { flow, index, isWhole: line === textOf(flow, index) });
        index++;
      }
    }
    if (flow !== undefined) program.tell("streamOver", { flow });
  } catch (error) {
    program.tell("streamFailed", { flow: flow ?? "a push", session, error, isReader: true });
  }
}

/** Sends numbered datagrams for as long as the session lives, and reads the node's datagrams. */
async function sendDatagrams(
  program: Program,
  session: NonNullable<Program["client"]["session"]>,
): Promise<void> {
  if (session.connection.capabilities.datagrams === "none") return;
  const random = program.chanceOf(`datagrams/${session.id}`);
  const isReliable = session.connection.capabilities.datagrams === "reliable";
  try {
    await using datagrams = await session.structuredDatagrams({ registry: DATAGRAMS });
    const reading = (async () => {
      for await (const { data } of datagrams) {
        const { number } = data;
        program.tell("datagramGot", { way: `${session.id} down`, number, isReliable });
      }
    })();
    for (let number = 1; session.state === "connected" && program.isWorking; number++) {
      program.tell("datagramSent", { way: `${session.id} up`, number });
      await datagrams.send(1, { number });
      await program.sleep(DATAGRAM_EVERY_MS * (0.5 + random()));
    }
    await program.sleep(DATAGRAM_EVERY_MS);
    if (session.isClosed) await reading;
    else reading.catch(() => {}); // Disposing `datagrams` ends the loop.
  } catch (error) {
    program.event(`datagrams over: ${nameOf(error)}`, `${error}`);
  }
}

/** Echoes a client's datagrams. */
export async function echoDatagrams(node: NodeEnd, session: Session<Identity>): Promise<void> {
  const { datagrams: kind } = session.connection.capabilities;
  if (kind === "none" || session.protocol === "") return;
  try {
    await using datagrams = await session.structuredDatagrams({ registry: DATAGRAMS });
    for await (const { data: { number } } of datagrams) {
      node.tell("datagramGot", {
        way: `${session.id} up`,
        number,
        isReliable: kind === "reliable",
      });
      node.tell("datagramSent", { way: `${session.id} down`, number });
      await datagrams.send(1, { number });
    }
  } catch (error) {
    node.journal.event(`datagrams of a client over: ${nameOf(error)}`, node.host.name);
  }
}
