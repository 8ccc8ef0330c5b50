/**
 * How a session is, and what is wrong with it.
 *
 * @module
 */
import type { SessionBase } from "./session_base.ts";
import type { WaitOptions } from "./session.ts";

/** Options for looking at a session again and again. */
export interface HealthOptions {
  /** How often, in milliseconds. @default {60000} */
  readonly intervalMs?: number;
  /** Ends it. */
  readonly signal?: AbortSignal;
}

/** Something that is wrong. */
export interface SessionIssue {
  /** What it is, for programs. */
  readonly code: string;
  /** What it is and what to do, for people. */
  readonly message: string;
}

/** How a session is. */
export interface SessionHealth {
  /** What is wrong. */
  readonly issues: readonly SessionIssue[];
}

/** A session in short. */
export interface SessionSummary {
  /** Id of the session. */
  readonly id: string;
}

/** See `issues` of a session. */
export function issues(_session: SessionBase): SessionIssue[] {
  throw new Error("Under construction");
}

/** See `summary` of a session. */
export function summary(_session: SessionBase): SessionSummary {
  throw new Error("Under construction");
}

/** See `ping` of a session. */
export function ping(_session: SessionBase, _options: WaitOptions): Promise<number> {
  throw new Error("Under construction");
}

/** See `monitorHealth` of a session. */
export async function* monitorHealth(
  _session: SessionBase,
  _options: HealthOptions,
): AsyncGenerator<SessionHealth, void, undefined> {
  await Promise.reject(new Error("Under construction"));
}
