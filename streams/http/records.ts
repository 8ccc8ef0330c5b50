/** Encodes and parses records of durable streams in the bodies of HTTP requests and responses. */
import { badRequest } from "./request.ts";
import { concat } from "../../base/bytes.ts";
import { textOf } from "../../base/error_text.ts";
import { Problem } from "../../server/http/problem.ts";
import type { LogRecord } from "../logs/log.ts";
import { isJson, mediaType } from "../logs/rules.ts";
import { exceedsBytes, utf8Length } from "../../session/wire/utf8.ts";

/** Most elements of one JSON array; each becomes a record. */
const MAX_RECORDS = 10_000;

const encoder = new TextEncoder();
/** Keeps a byte order mark, because it belongs to the record. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenientDecoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * Checks whether server-sent events contain the records of a media type as text instead of base64.
 */
export function isText(contentType: string): boolean {
  return isJson(contentType) || mediaType(contentType).startsWith("text/");
}

/**
 * Reads the body of a request as records.
 *
 * - `application/json`: each element of an array is a record, or a single value is one record. A
 *   record is the text of its element, byte for byte.
 * - `text/*`: the body is one record, which is a text if the bytes are UTF-8.
 * - Other types: the body is one record of bytes.
 *
 * @param contentType The content type of the stream.
 * @param maxElementBytes Maximum size of an element in bytes, so that it fits into a session
 * message.
 * @returns The records; none if the body or the array is empty.
 * @throws {Problem} With 400 for malformed JSON, and 413 for too many elements or a large element.
 */
export function readRecords(
  body: Uint8Array,
  contentType: string,
  maxElementBytes: number = Infinity,
): readonly LogRecord[] {
  if (body.length === 0) return [];
  if (isJson(contentType)) return checkSizes(readJson(body), maxElementBytes);
  return [isText(contentType) ? strictText(body) ?? body : body];
}

function checkSizes(records: readonly string[], maxBytes: number): readonly string[] {
  const large = records.find((record) => exceedsBytes(record, maxBytes));
  if (large === undefined) return records;
  const received = utf8Length(large);
  throw new Problem(413, {
    code: "too-large",
    detail: `Cannot append: a record must have at most ${maxBytes} bytes, received ${received}`,
  });
}

function readJson(body: Uint8Array): readonly string[] {
  const text = strictText(body);
  if (text === undefined) {
    throw badRequest("bad-json", "Cannot append: the body is not UTF-8, as JSON must be");
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new Problem(400, {
      code: "bad-json",
      detail: `Cannot append: the body is not valid JSON: ${textOf(cause)}`,
      cause,
    });
  }
  if (!Array.isArray(value)) return detached(text, [text.trim()]);
  const { length } = value;
  if (length > MAX_RECORDS) {
    throw new Problem(413, {
      code: "too-large",
      detail:
        `Cannot append: an array must have at most ${MAX_RECORDS} elements, received ${length}`,
    });
  }
  return detached(text, elementsOf(text, length));
}

/**
 * Copies the parts of a text that is mostly white space. Otherwise, each part would keep the whole
 * text in memory, which no stream limit accounts for.
 */
function detached(text: string, parts: string[]): string[] {
  const kept = parts.reduce((sum, { length }) => sum + length, 0);
  if (text.length <= 2 * kept) return parts;
  return parts.map((part) => decoder.decode(encoder.encode(part)));
}

/** Splits the text of a valid JSON array into the texts of its elements, without parsing again. */
function elementsOf(text: string, count: number): string[] {
  const elements: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; elements.length < count; at++) {
    switch (text.charCodeAt(at)) {
      case 0x22: // A quotation mark: the string ends at the next one that is not escaped.
        do at = text.indexOf('"', at + 1); while (isEscaped(text, at));
        break;
      case 0x5b: // [
      case 0x7b: // {
        if (depth++ === 0) start = at + 1;
        break;
      case 0x2c: // A comma.
        if (depth > 1) break;
        elements.push(text.slice(start, at).trim());
        start = at + 1;
        break;
      case 0x5d: // ]
      case 0x7d: // }
        if (--depth === 0) elements.push(text.slice(start, at).trim());
    }
  }
  return elements;
}

/** Checks whether an odd number of backslashes precedes a position. */
function isEscaped(text: string, at: number): boolean {
  let before = at;
  while (text.charCodeAt(before - 1) === 0x5c) before--;
  return (at - before) % 2 === 1;
}

/** Decodes UTF-8; `undefined` for other bytes. */
function strictText(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Formats records as a response body: a JSON array, or concatenated bytes. */
export function bodyOf(
  records: readonly LogRecord[],
  contentType: string,
): string | Uint8Array<ArrayBuffer> {
  if (isJson(contentType)) return `[${records.map(asText).join(",")}]`;
  return records.every((record) => typeof record === "string")
    ? records.join("")
    : bytesOf(records);
}

/** Formats records as the data of a server-sent event: text, or base64 for other types. */
export function eventDataOf(records: readonly LogRecord[], contentType: string): string {
  if (isJson(contentType)) return `[${records.map(asText).join(",")}]`;
  if (!isText(contentType)) return bytesOf(records).toBase64();
  return records.every((record) => typeof record === "string")
    ? records.join("")
    : asText(bytesOf(records));
}

function asText(record: LogRecord): string {
  return typeof record === "string" ? record : lenientDecoder.decode(record);
}

function bytesOf(records: readonly LogRecord[]): Uint8Array<ArrayBuffer> {
  return concat(records.map((one) => typeof one === "string" ? encoder.encode(one) : one));
}
