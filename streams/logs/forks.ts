/** Forks of durable streams: where a fork starts in its source, and what it inherits. */
import type { CreateLogOptions, LogConfig, LogInfo, LogOrigin, LogRecord, LogTail } from "./log.ts";
import { lineageOf, oldestPosition, parseOffset } from "./offset.ts";
import { DEFAULT_CONTENT_TYPE, isJson, mediaType, recordBytes } from "./rules.ts";

/** Maximum number of logs that a fork inherits from. */
const MAX_FORK_DEPTH = 64;

/** The stream that a new stream continues, and the position at which the new one starts. */
export interface ForkRequest {
  /** Id of the source. */
  readonly source: string;
  /** Offset in the source, or `-1` for its oldest record; by default, the end of the source. */
  readonly offset?: string | undefined;
  /**
   * Number of messages (for JSON) or bytes (for other types) after the offset that also belong to
   * the fork.
   */
  readonly subOffset?: number | undefined;
}

/** Settings of a new stream, as the caller gave them. */
export interface StreamFacts {
  /** Media type of the records. By default, a fork has the media type of its source. */
  readonly contentType?: string | undefined;
  readonly ttlMs?: number | undefined;
  readonly expiresAt?: number | undefined;
  /** See {@linkcode LogConfig.owner}. */
  readonly owner?: string | undefined;
  readonly records?: readonly LogRecord[] | undefined;
  /** The rows after the first records of a keyed stream, which are transactions. */
  readonly rows?: CreateLogOptions["rows"] | undefined;
  /** See {@linkcode LogConfig.keyed}. */
  readonly keyed?: LogTail | undefined;
}

/** Settings, and first records or rows of a new stream. */
export interface StreamPlan extends Pick<CreateLogOptions, "config" | "records" | "rows"> {}

/** Reason why a fork cannot be created; see `StreamCreated`. */
export type ForkRejection = "other-type" | "bad-offset" | "gone" | "keyed" | "too-deep";

/**
 * Plans a stream without a source.
 *
 * @param facts Settings of the stream.
 */
export function planStream(
  { contentType = DEFAULT_CONTENT_TYPE, records = [], rows, ...facts }: StreamFacts,
): StreamPlan {
  const { ttlMs, expiresAt, owner, keyed } = facts;
  return { config: { contentType, owner, ttlMs, expiresAt, keyed }, records, rows };
}

/**
 * Plans a fork of a keyed stream, which starts with a copy of the rows.
 *
 * @param fork The fork's name in its source.
 * @param facts Settings of the fork.
 * @param source The state of the source.
 * @returns The settings of the fork.
 */
export function planCopy(
  fork: string,
  facts: StreamFacts,
  { request, info }: { readonly request: ForkRequest; readonly info: LogInfo },
): LogConfig | ForkRejection {
  const { contentType = info.contentType, keyed = info.keyed } = facts;
  if (mediaType(contentType) !== mediaType(info.contentType)) return "other-type";
  if (facts.records !== undefined && facts.records.length > 0) return "keyed";
  const position = positionOf(info, request.offset);
  if (typeof position === "string") return position;
  if (request.subOffset) return "bad-offset";
  // The source may no longer have the rows as they were then.
  if (position < info.tail) return "gone";
  return configOf(fork, { ...facts, contentType, keyed }, { request, info, position });
}

/** The source of a new fork. */
interface ForkSource {
  readonly request: ForkRequest;
  /** State of the source. */
  readonly info: LogInfo;
  /** Reads one record of the source, if there is one; `undefined` if it is no longer kept. */
  readonly recordsAt: (position: number) => Promise<readonly LogRecord[] | undefined>;
}

/**
 * Plans a fork.
 *
 * @param fork The fork's name in its source.
 * @param facts Settings of the fork.
 */
export async function planFork(
  fork: string,
  facts: StreamFacts,
  source: ForkSource,
): Promise<StreamPlan | ForkRejection> {
  const { request, info } = source;
  const { contentType = info.contentType, records = [] } = facts;
  if (mediaType(contentType) !== mediaType(info.contentType)) return "other-type";
  if (facts.keyed !== undefined) return "keyed";
  const beginning = await beginningOf(source);
  if (typeof beginning === "string") return beginning;
  const { position, partial } = beginning;
  const subOffset = partial.length > 0 ? request.subOffset : undefined;
  const config = configOf(fork, { ...facts, contentType }, { request, info, position, subOffset });
  return config === "too-deep" ? config : { config, records: [...partial, ...records] };
}

/** The settings of a fork. */
function configOf(
  fork: string,
  facts: StreamFacts,
  { request, info, position, subOffset }: Pick<ForkSource, "info" | "request"> & {
    readonly position: number;
    readonly subOffset?: number | undefined;
  },
): LogConfig | "too-deep" {
  const lineage = lineageOf(info)
    .filter((_, i, all) => i === 0 || all[i - 1]!.until < position)
    .map(({ identity, until }) => ({ identity, until: Math.min(until, position) }));
  if (lineage.length >= MAX_FORK_DEPTH) return "too-deep";
  const origin: LogOrigin = {
    id: request.source,
    identity: info.identity,
    position,
    fork,
    lineage,
    subOffset,
  };
  // A fork without a lifetime lives as long as the source would.
  const isMortal = facts.ttlMs !== undefined || facts.expiresAt !== undefined;
  const { ttlMs, expiresAt } = isMortal ? facts : info;
  return { ...planStream({ ...facts, ttlMs, expiresAt }).config, origin };
}

/** Finds the position at which a fork starts, without the `subOffset`. */
function positionOf(info: LogInfo, offset: string | undefined): number | "gone" | "bad-offset" {
  const position = offset === undefined
    ? info.tail
    : offset === "-1"
    ? oldestPosition(info)
    : parseOffset(info, offset);
  if (position === "malformed") return "bad-offset";
  return position !== "gone" && position > info.tail ? "bad-offset" : position;
}

/** Finds where a fork starts, and the part of a record that the fork repeats. */
async function beginningOf(
  { request: { offset, subOffset = 0 }, info, recordsAt }: ForkSource,
): Promise<{ readonly position: number; readonly partial: readonly LogRecord[] } | ForkRejection> {
  let position = positionOf(info, offset);
  if (typeof position === "string") return position;
  let partial: readonly LogRecord[] = [];
  if (subOffset > 0 && isJson(info.contentType)) position += subOffset;
  else if (subOffset > 0) {
    const found = await recordsAt(position);
    if (found === undefined) return "gone";
    const bytes = recordBytes(found);
    if (found.length === 0 || subOffset > bytes) return "bad-offset";
    if (subOffset === bytes) position++;
    else partial = [firstBytes(found[0]!, subOffset)];
  }
  if (position > info.tail) return "bad-offset";
  if (position < oldestPosition(info)) return "gone";
  return { position, partial };
}

/** Settings that a creation requests. */
export interface WantedStream extends Pick<CreateLogOptions, "config"> {
  readonly end: CreateLogOptions["end"] | undefined;
  readonly fork: ForkRequest | undefined;
}

/** True if a stream has the settings that another creation requests. */
export function isSame(info: LogInfo, { config, end, fork }: WantedStream): boolean {
  const { origin } = config;
  // Without an offset, the start of a fork moves with the source.
  const isSamePlace = fork?.offset === undefined || origin?.position === info.origin?.position;
  return mediaType(info.contentType) === mediaType(config.contentType) &&
    info.ttlMs === config.ttlMs && info.expiresAt === config.expiresAt &&
    (info.keyed === undefined) === (config.keyed === undefined) &&
    (info.end === undefined) === (end === undefined) &&
    info.origin?.id === origin?.id && info.origin?.identity === origin?.identity &&
    info.origin?.subOffset === origin?.subOffset && isSamePlace;
}

/** The first bytes of a record, as text unless they end within a character. */
function firstBytes(record: LogRecord, bytes: number): LogRecord {
  if (typeof record !== "string") return record.slice(0, bytes);
  const part = new TextEncoder().encode(record).slice(0, bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(part);
  } catch {
    return part;
  }
}
