/** Streaming responses. Some end with the session, and others survive sessions and nodes. */
import type { ServerOptions } from "../../../../server.ts";
import { pause } from "../../../../base/wait.ts";
import type { Host } from "../../../simulator/host.ts";
import type { Program } from "../program.ts";
import type { Identity } from "../tokens.ts";
import { patienceOf } from "./patience.ts";
import { resumable } from "../../../../streams/mod.ts";

/** Mean interval between a client's requests, in milliseconds. */
const ASK_EVERY_MS = 15_000;

/** Maximum number of items in a response. */
const MAX_ITEMS = 20;

/** Mean time between two items, in milliseconds. */
const ITEM_MS = 300;

/** Maximum wait for an item of a response that survives its session, in milliseconds. */
const KEPT_ITEM_MS = 60_000;

/** Maximum duration of a whole response, in milliseconds. */
const RESPONSE_MS = 120_000;

/**
 * Creates the handlers of requests for streaming responses.
 *
 * @param host The host of the node.
 */
export function responseHandlers(host: Host): NonNullable<ServerOptions<Identity>["requests"]> {
  async function* count(from: number, data: unknown, signal?: AbortSignal) {
    const { items } = data as { readonly items: number };
    for (let index = from; index < items && !signal?.aborted; index++) {
      if (index > from) await pause(host.runtime, ITEM_MS);
      yield { index };
    }
  }
  return {
    count: ({ data, signal }) => count(0, data, signal),
    keep: {
      resumable,
      cost: 0,
      handle: ({ data, signal }) => count(0, data, signal),
      resume: ({ data }, { count: from, signal }) => count(from, data, signal),
    },
  };
}

/** Requests responses, reads most of them to the end, and stops reading some of them. */
export function requestResponses(program: Program): void {
  program.every(ASK_EVERY_MS, "answers", (random) => {
    const items = 1 + Math.floor(MAX_ITEMS * random());
    const leavesAt = random() < 0.2 ? Math.floor(items * random()) : undefined;
    const isKept = random() < 0.5;
    const name = program.newId("a");
    void readResponse(program, { response: name, items, isKept, leavesAt });
  });
  for (const [name, { items, index, offset }] of program.storage.responses) {
    void readResponse(program, { response: name, items, isKept: true, index, offset });
  }
}

/** A response to read. */
interface Asked {
  readonly response: string;
  readonly items: number;
  readonly isKept: boolean;
  /** Index of the item at which the program leaves the loop. */
  readonly leavesAt?: number | undefined;
  /** The index and offset after which to continue. */
  readonly index?: number;
  readonly offset?: string | undefined;
}

async function readResponse(program: Program, asked: Asked): Promise<void> {
  const { client, storage, name, host } = program;
  const { response, items, isKept, leavesAt, offset } = asked;
  const reader = `${response} by ${name}`;
  program.tell("responseBegan", { response, client: name, items, ...(isKept && { isKept }) });
  program.note(`requests ${response}, ${items} items${isKept ? ", kept" : ""}`);
  const id = response.replace(/\W/g, "-").padStart(16, "0");
  const patience = patienceOf(host.runtime, program.chanceOf(`patience/${response}`), RESPONSE_MS);
  const { options: { signal, timeoutMs }, withinMs } = patience;
  const aborts = signal && { signal };
  const stream = isKept
    ? client.requestStream("keep", { items }, {
      id,
      after: offset,
      itemTimeoutMs: KEPT_ITEM_MS,
      ...aborts,
    })
    : client.requestStream("count", { items }, {
      ...aborts,
      ...(timeoutMs && { itemTimeoutMs: timeoutMs }),
    });
  let left: { readonly isLeft: true } | undefined;
  const read = async () => {
    for await (const item of stream) {
      const { index } = item as { readonly index: number };
      program.tell("responseItem", { response, reader, index });
      if (isKept) storage.responses.set(response, { items, index, offset: stream.offset });
      if (index === leavesAt) {
        left = { isLeft: true };
        break;
      }
    }
  };
  try {
    const longestMs = signal === undefined ? RESPONSE_MS : withinMs;
    await program.wait(`answer ${response}`, read(), longestMs);
    program.tell("responseEnded", { response, reader, ...left });
  } catch (error) {
    program.failed(`answer${isKept ? " (kept)" : ""} failed`, error);
    program.tell("responseEnded", { response, reader, error });
  }
  storage.responses.delete(response);
}
