/**
 * A process that runs plans. Each request and each reply is a line of JSON.
 *
 * ```sh
 * deno run -A child.ts file:///PATH/TO/run.ts
 * ```
 *
 * @module
 */
import { TextLineStream } from "../../soak/processes/lines.ts";
import { textOf } from "../../../base/error_text.ts";
import { coverageOf } from "./coverage.ts";
import { NOTHING, type PlanRunner, REPLY, type RunReply, type RunRequest } from "./runners.ts";

async function answer({ runPlan }: PlanRunner, { plan, trace }: RunRequest): Promise<RunReply> {
  try {
    const { plan: _, ...outcome } = await runPlan(plan);
    const coverage = coverageOf(outcome);
    return trace ? { ...outcome, coverage } : { ...outcome, coverage, trace: [], checkpoints: [] };
  } catch (error) {
    const text = error instanceof Error ? error.stack ?? textOf(error) : textOf(error);
    const findings = [{ invariant: "a run ends", atMs: 0, host: "", text: `received ${text}` }];
    return { ...NOTHING, findings };
  }
}

/** Writes a whole text, because `writeSync` may write only a part of it. */
function write(text: string): void {
  let bytes = new TextEncoder().encode(text);
  while (bytes.length > 0) bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
}

if (import.meta.main) {
  // Ctrl-C in a terminal reaches all processes. The searching process ends the others.
  Deno.addSignalListener("SIGINT", () => {});
  const program: PlanRunner = await import(Deno.args[0]!);
  const requests = Deno.stdin.readable.pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream());
  for await (const request of requests) {
    write(`\n${REPLY}${JSON.stringify(await answer(program, JSON.parse(request)))}\n`);
  }
}
