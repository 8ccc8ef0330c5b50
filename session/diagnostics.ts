/**
 * Everything that is known of a session, in one snapshot.
 *
 * @module
 */
import type { SessionBase } from "./session_base.ts";

/** A snapshot of a session. */
export interface SessionDiagnostics {
  /** Id of the session. */
  readonly id: string;
}

/** Everything, taken apart. */
export interface SessionDebugState {
  /** The snapshot. */
  readonly diagnostics: SessionDiagnostics;
}

/** See `diagnostics` of a session. */
export function diagnostics(_session: SessionBase): SessionDiagnostics {
  throw new Error("Under construction");
}

/** See `debugState` of a session. */
export function debugState(_session: SessionBase): SessionDebugState {
  throw new Error("Under construction");
}
