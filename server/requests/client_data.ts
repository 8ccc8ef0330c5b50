/** Checks of data that clients send. */
import { type StandardSchema, validate } from "../../base/standard_schema.ts";
import { misfitOf } from "../../session/contract.ts";
import { toRequestError } from "../../session/sending.ts";
import { internals, type Session } from "../../session/session.ts";
import { encodeMessage } from "../../session/wire/encode.ts";

/**
 * Validates data by a schema of the contract, with a time limit.
 *
 * @param schema The schema; without one, all data is valid.
 * @returns The output of the schema.
 * @throws {RequestError} With the code `invalid` if the data does not fit.
 */
export async function checkData(
  session: Session,
  schema: StandardSchema | undefined,
  { topic, data }: { readonly topic: string; readonly data: unknown },
): Promise<unknown> {
  if (schema === undefined) return data;
  const checking = validate(schema, data);
  const outcome = checking instanceof Promise
    ? await session[internals].inTime("the schema of a publication", checking)
    : checking;
  if (outcome.ok) return outcome.value;
  throw toRequestError(misfitOf(topic, outcome));
}

/** Checks whether a message can hold the data. */
export function isEncodable(topic: string, data: unknown): boolean {
  try {
    encodeMessage(topic, data);
    return true;
  } catch {
    return false;
  }
}
