/** The worker of a thread that runs a part of a load: executes the calls of the main thread. */
import { textOf } from "../../base/error_text.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { Generator } from "./generator.ts";
import { openLink } from "./links.ts";
import type { ThreadCall, ThreadReply } from "./thread.ts";

interface WorkerScope {
  onmessage: ((event: MessageEvent<ThreadCall>) => void) | null;
  postMessage(reply: ThreadReply): void;
}

const scope = globalThis as unknown as WorkerScope;
const stop = new AbortController();
let generator: Generator | undefined;

scope.onmessage = async ({ data }) => {
  if ("stop" in data) return stop.abort();
  if ("begin" in data) {
    const { plan, part } = data.begin;
    const runtime = platformRuntime();
    generator = new Generator(plan, { runtime, part, openLink, signal: stop.signal });
    return;
  }
  const { id, step } = data;
  try {
    scope.postMessage({ id, value: await generator![step]() });
  } catch (error) {
    scope.postMessage({ id, error: textOf(error) });
  }
};
