/** Checks of what a feature adds to a server. */
import type { Mounted } from "./feature.ts";
import { PATH } from "../base/options/option_checks.ts";
import { STREAM_PREFIX } from "../session/wire/recovery.ts";

/** A feature that is mounted. */
export interface MountedFeature {
  readonly name: string;
  readonly added: Mounted;
}

/** Checks what `mount` returned; a feature without types may return anything. */
export function checkMounted(
  { name, added }: { readonly name: string; readonly added: unknown },
): void {
  if (typeof added !== "object" || added === null || added instanceof Promise) {
    throw new TypeError(
      `Cannot create server: mount() of ${name} must return an object, received ` +
        (added instanceof Promise ? "a promise" : String(added)),
    );
  }
  const { http } = added as Mounted;
  if (http !== undefined && http.paths === undefined && http.wants === undefined) {
    throw new TypeError(
      `Cannot create server: http of ${name} must have paths or wants, received neither`,
    );
  }
}

/** Checks that a feature claims nothing that another one has. */
export function checkClaims(
  { name, added }: MountedFeature,
  others: readonly MountedFeature[],
): void {
  const { http, topics, quic } = added;
  for (const path of http?.paths ?? []) {
    PATH(path, { verb: "create server", path: `the path of feature "${name}"` });
  }
  if (topics !== undefined && !topics.prefix.startsWith(STREAM_PREFIX)) {
    throw new TypeError(
      `Cannot create server: the topics of ${name} must start with "${STREAM_PREFIX}", received ` +
        `"${topics.prefix}"`,
    );
  }
  for (const { name: otherName, added: other } of others) {
    const path = http?.paths?.find((one) =>
      other.http?.paths?.some((known) => overlap(`${one}/`, `${known}/`))
    );
    if (path !== undefined) {
      throw new TypeError(
        `Cannot create server: the path of ${name} must not overlap one of ${otherName}, ` +
          `received ${path}`,
      );
    }
    const prefix = topics?.prefix;
    if (prefix !== undefined && other.topics && overlap(prefix, other.topics.prefix)) {
      throw new TypeError(
        `Cannot create server: the topics of ${name} must not be those of ${otherName}, ` +
          `received "${prefix}"`,
      );
    }
    if (added.responses !== undefined && other.responses !== undefined) {
      throw new TypeError(
        `Cannot create server: only one feature can store responses, received ${otherName} and ` +
          name,
      );
    }
    if (quic !== undefined && other.quic !== undefined) {
      throw new TypeError(
        "Cannot create server: only one feature can accept raw QUIC, received " +
          `${otherName} and ${name}`,
      );
    }
  }
}

function overlap(a: string, b: string): boolean {
  return a.startsWith(b) || b.startsWith(a);
}
