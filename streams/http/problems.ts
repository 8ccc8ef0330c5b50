/** Problems of changes and mutations that are rejected. */
import { type Problem, rejectedFor } from "../../server/http/problem.ts";
import type { RequestError } from "../../errors.ts";

/** Status of a rejected change, by code; 403 for others. */
const CHANGE_STATUS: Readonly<Record<string, number>> = {
  conflict: 409,
  ended: 409,
  ephemeral: 400,
  gone: 410,
  invalid: 400,
  malformed: 400,
  "not-found": 404,
  "too-large": 413,
  "too-many": 429,
  unavailable: 503,
  undecided: 503,
  "unknown-collection": 400,
};

/** Status of a rejected mutation, by code; 409 for others, which its function has thrown. */
const MUTATION_STATUS: Readonly<Record<string, number>> = {
  damaged: 500,
  failed: 500,
  forbidden: 403,
  full: 413,
  gone: 410,
  invalid: 422,
  "key-reused": 422,
  malformed: 400,
  "not-found": 404,
  "too-large": 413,
  "too-many": 429,
  unavailable: 503,
  undecided: 503,
  "unknown-mutation": 404,
};

/** The problem of a change that the contract or `authorizeChange` rejects. */
export function rejectedChange(error: RequestError): Problem {
  return rejectedFor(error.failure, CHANGE_STATUS[error.failure.code] ?? 403, error);
}

/** The problem of a mutation that is rejected, by its function or before. */
export function rejectedMutation(error: RequestError): Problem {
  return rejectedFor(error.failure, MUTATION_STATUS[error.failure.code] ?? 409, error);
}
