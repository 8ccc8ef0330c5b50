/** Durable streams that nodes write and clients read over sessions. */
import { RequestError } from "../../../../errors.ts";
import { pause } from "../../../../base/wait.ts";
import type { ClusterNode } from "../node.ts";
import { nameOf, type Program } from "../program.ts";
import { streamsOf } from "../../../stream_features.ts";

/** Maximum number of records in a stream. */
const MAX_RECORDS = 30;

/** Mean time between two records, in milliseconds. */
const RECORD_MS = 400;

/**
 * Maximum wait for the store to store a record, in milliseconds. It is a little longer than a
 * writer's wait.
 */
const APPEND_MS = 40_000;

/** Streams that exist in a run, in the order of creation. */
export class DurableNames {
  readonly #names: string[] = [];

  /**
   * Adds a stream.
   *
   * @param name Id of the stream.
   */
  add(name: string): void {
    this.#names.push(name);
  }

  /**
   * Picks a stream, preferring new ones.
   *
   * @param chance A random number in [0, 1).
   * @returns The id, or `undefined` if there is no stream.
   */
  pick(chance: number): string | undefined {
    return this.#names.at(-1 - Math.floor(chance * Math.min(4, this.#names.length)));
  }
}

/**
 * Creates a stream on a node, appends records and closes the stream.
 *
 * @param names Receives the stream once it is created.
 * @param random Returns random numbers in [0, 1).
 */
export async function writeStream(
  node: ClusterNode,
  names: DurableNames,
  random: () => number,
): Promise<void> {
  const { journal, host } = node;
  const stream = node.newId("s");
  const records = 1 + Math.floor(MAX_RECORDS * random());
  const gapMs = RECORD_MS * (0.5 + random());
  try {
    const writer = await journal.wait(
      host,
      `creation of ${stream}`,
      APPEND_MS,
      streamsOf(node.server).create<{ readonly record: number }>(stream),
    );
    names.add(stream);
    journal.event("stream created", host.name, stream);
    for (let record = 0; record < records; record++) {
      node.tell("appending", { stream, first: record, count: 1 });
      const kept = journal.wait(host, `append to ${stream}`, APPEND_MS, writer.append({ record }));
      kept.then(
        () => node.tell("appended", { stream, first: record, count: 1 }),
        () => {}, // The close rejects with the same error.
      );
      await pause(host.runtime, gapMs);
    }
    await journal.wait(host, `close of ${stream}`, APPEND_MS, writer.close());
    node.tell("streamClosed", { stream, records });
  } catch (error) {
    node.failed("stream failed", error);
  }
}

/**
 * Reads a stream to its end, or to a record at which the program leaves.
 *
 * @param stream Id of the stream.
 * @param random Returns random numbers in [0, 1).
 */
export async function readStream(
  program: Program,
  stream: string,
  random: () => number,
): Promise<void> {
  const reader = program.newId("reader");
  const leavesAt = random() < 0.2 ? Math.floor(MAX_RECORDS * random()) : -1;
  program.tell("readBegan", { stream, reader, after: 0 });
  program.readers.set(reader, stream);
  try {
    for await (const item of program.client.durableStream<{ readonly record: number }>(stream)) {
      const { record } = item;
      program.tell("readDurable", { stream, reader, record });
      if (record === leavesAt) {
        program.tell("readEnded", { stream, reader, isLeft: true });
        return;
      }
    }
    program.event("stream read to its end", stream);
    program.tell("readEnded", { stream, reader });
  } catch (error) {
    program.event(`reading of stream failed: ${nameOf(error)}`, stream);
    const code = error instanceof RequestError ? error.failure.code : "closed";
    program.tell("readEnded", { stream, reader, code });
  } finally {
    program.readers.delete(reader);
  }
}
