/** Histories in depth: at the engine, in replays, and over restarts of a machine. */
import type { Audit } from "../audit.ts";
import { auditEngineHistory } from "./engine_history.ts";
import { auditFailingFile } from "./failing_file.ts";
import { auditReplays } from "./replays.ts";
import { auditRestarts } from "./restarts.ts";

/**
 * Examines histories, on the nodes of the cluster and on machines of their own.
 *
 * @param audit The audit.
 */
export async function auditHistories(audit: Audit): Promise<void> {
  await Promise.all(
    [auditEngineHistory, auditReplays, auditRestarts, auditFailingFile].map((part) => part(audit)),
  );
}
