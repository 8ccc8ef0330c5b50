/** Versions of the data that brokers store, so that no version of Skein misreads another one's. */
import { BrokerError } from "../errors.ts";

/** Thrown if another version of Skein, or another program, has stored the data. */
export class OtherVersionError extends BrokerError {}

/**
 * Checks the version mark of stored data.
 *
 * @param found The mark.
 * @param options The version that this version of Skein reads and writes, a verb and a subject for
 * the error, and what to do instead of starting another version.
 * @throws {OtherVersionError} If the mark differs.
 */
export function checkStoredVersion(
  found: string,
  { version, cannot, of, otherwise }: {
    readonly version: number;
    /** The call that fails, such as "use Redis". */
    readonly cannot: string;
    /** The data, such as "the file". */
    readonly of: string;
    readonly otherwise: string;
  },
): void {
  if (found === String(version)) return;
  const isMark = /^\d+$/.test(found);
  const received = isMark ? found : JSON.stringify(found.slice(0, 32));
  throw new OtherVersionError(
    `Cannot ${cannot}: the version of ${of} must be ${version}, received ${received}; ${
      isMark
        ? `${
          Number(found) > version ? "a newer" : "an older"
        } version of Skein wrote it: start that`
        : "another program wrote it: repair it"
    }, or ${otherwise}`,
  );
}
