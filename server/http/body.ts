/** Bodies of HTTP requests, read with a size limit and a deadline. */
import { concat } from "../../base/bytes.ts";
import { textOf } from "../../base/error_text.ts";
import { Problem } from "./problem.ts";
import { UsedBodyError } from "../broker_services.ts";
import type { Runtime } from "../../base/runtime.ts";
import { startTimer } from "../../base/wait.ts";

/** Options for {@linkcode readBody}. */
export interface ReadBodyOptions {
  readonly runtime: Runtime;
  /** Most bytes of the body. */
  readonly maxBytes: number;
  /** Time limit for the whole body, in milliseconds. */
  readonly timeoutMs: number;
  /** Cancels the body with the reason, or with 503 if the reason is not a {@linkcode Problem}. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads the body of a request.
 *
 * - A body whose `Content-Length` is too large is rejected before the first byte is read. A body
 *   without this header is rejected once too many bytes have arrived.
 * - A body that is not complete after `timeoutMs` is rejected.
 * - In both cases the rest of the body is not read.
 *
 * @returns The body; empty if the request has none.
 * @throws {UsedBodyError} If the body has already been read.
 * @throws {Problem} With 413 if the body is too large, 408 if it is late, or 400 if the client left
 * before the end. If `signal` aborted, its reason is thrown, or a problem with 503.
 */
export async function readBody(
  request: Request,
  { runtime, maxBytes, timeoutMs, signal }: ReadBodyOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  const announced = Number(request.headers.get("content-length") ?? 0);
  if (announced > maxBytes) throw tooLarge(maxBytes, announced);
  const { body, bodyUsed } = request;
  if (bodyUsed || body?.locked) throw new UsedBodyError();
  if (body === null) return new Uint8Array();
  const reader = body.getReader();
  let problem: Problem | undefined;
  // A cancelled stream ends the pending read.
  const giveUp = (reason: Problem) => {
    problem = reason;
    reader.cancel(reason).catch(() => {}); // The connection is already closed.
  };
  const timer = startTimer(runtime, timeoutMs, () => giveUp(tooSlow(timeoutMs)));
  const onAbort = () => {
    const { reason } = signal!;
    giveUp(reason instanceof Problem ? reason : closing());
  };
  if (signal?.aborted) onAbort();
  else signal?.addEventListener("abort", onAbort);
  const chunks: Uint8Array<ArrayBuffer>[] = []; // At most `maxBytes`.
  let bytes = 0;
  try {
    while (problem === undefined) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.length;
      if (bytes > maxBytes) giveUp(tooLarge(maxBytes, bytes));
      else chunks.push(value);
    }
  } catch (cause) {
    throw problem ?? incomplete(cause);
  } finally {
    runtime.clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
  if (problem !== undefined) throw problem;
  // A chunk may be part of a large buffer, which would stay in memory as long as the body.
  const isWhole = chunks.length === 1 && chunks[0]!.buffer.byteLength === bytes;
  return isWhole ? chunks[0]! : concat(chunks);
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * Parses a body as JSON.
 *
 * @param request The request, for its headers.
 * @param bytes The body.
 * @returns The value; `undefined` without a body and without a `Content-Type`.
 * @throws {Problem} With 415 for another `Content-Type` or a `Content-Encoding`, and 400 for a text
 * that is not JSON.
 */
export function jsonOf({ headers }: Request, bytes: Uint8Array): unknown {
  const type = headers.get("content-type");
  if (bytes.length === 0 && type === null) return undefined;
  if (type === null || !/^application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i.test(type)) {
    throw new Problem(415, {
      code: "unsupported-type",
      detail: `Cannot read body: Content-Type must be application/json, received ${type}`,
      headers: { accept: "application/json" },
    });
  }
  const encoding = headers.get("content-encoding");
  if (encoding !== null) {
    throw new Problem(415, {
      code: "unsupported-encoding",
      detail: `Cannot read body: Content-Encoding must be absent, received ${encoding}`,
      headers: { "accept-encoding": "identity" },
    });
  }
  try {
    return JSON.parse(decoder.decode(bytes));
  } catch (cause) {
    throw new Problem(400, {
      code: "malformed",
      detail: `Cannot read body: it is not valid JSON: ${textOf(cause)}`,
      cause,
    });
  }
}

function tooLarge(maxBytes: number, bytes: number): Problem {
  return new Problem(413, {
    code: "too-large",
    detail: `Cannot read body: it must have at most ${maxBytes} bytes, received ${bytes}`,
    members: { maxBytes },
  });
}

function tooSlow(timeoutMs: number): Problem {
  return new Problem(408, {
    code: "too-slow",
    detail: `Cannot read body: it was incomplete after ${timeoutMs} ms`,
  });
}

/**
 * The problem for a body that was interrupted because the server shut down; the request was not
 * executed.
 */
export function closing(): Problem {
  return new Problem(503, {
    code: "unavailable",
    detail: "The server is shutting down",
  });
}

function incomplete(cause: unknown): Problem {
  return new Problem(400, {
    code: "incomplete",
    detail: "Cannot read body: it ended before it was complete",
    cause,
  });
}
