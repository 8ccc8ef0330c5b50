/** Limits and redacts the texts and payloads that the inspector shows. */
import { isSecretName, redactText } from "../../session/insight/diagnostics.ts";

/** Most characters of a peer's text, such as a header. */
const MAX_TEXT_LENGTH = 512;

/** Most characters of a shown payload. */
const MAX_PAYLOAD_LENGTH = 1_024;

/** Maximum depth of shown data, because a peer may nest data deeper than the stack allows. */
const MAX_DEPTH = 32;

/**
 * Names that mean secrets in URLs and headers, but ordinary data in payloads: an error code, a
 * keyboard key, an author. Authorization is not among them.
 */
const ORDINARY_NAME = /^(?:key|code|author(?!i[sz]).*)$/i;

const REDACTED = "[redacted]";

/** Cuts a text. */
export function clip(text: string, maxLength: number = MAX_TEXT_LENGTH): string {
  return text.length <= maxLength ? text : `${text.slice(0, maxLength - 1)}…`;
}

/**
 * Copies a value through JSON and limits the length of its texts, because peers choose the headers.
 */
export function clipped<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_key, part: unknown) => {
    return typeof part === "string" ? clip(part) : part;
  });
}

/**
 * Formats data as JSON. Values with secret names are removed at any depth, and so are secrets in
 * URLs. Parts nested deeper than 32 levels are omitted. Never throws for data from JSON.
 *
 * @param data Any value from JSON.
 * @returns The text, cut after {@linkcode MAX_PAYLOAD_LENGTH}.
 */
export function payloadText(data: unknown): string {
  return clip(JSON.stringify(shownPart(data, 0)) ?? "", MAX_PAYLOAD_LENGTH);
}

/** Copies data without secrets. */
function shownPart(part: unknown, depth: number): unknown {
  // Cutting the text before the search limits the work. If a secret is cut, the remaining part is
  // redacted.
  if (typeof part === "string") return redactText(clip(part, MAX_PAYLOAD_LENGTH));
  if (typeof part !== "object" || part === null) return part;
  if (depth === MAX_DEPTH) return "…";
  // Each element takes at least one character, so further elements would be cut anyway.
  if (Array.isArray(part)) {
    return part.slice(0, MAX_PAYLOAD_LENGTH).map((one) => shownPart(one, depth + 1));
  }
  return Object.fromEntries(
    Object.entries(part).slice(0, MAX_PAYLOAD_LENGTH).map(([name, value]) => {
      const isSecret = value !== null && isSecretName(name) && !ORDINARY_NAME.test(name);
      return [name, isSecret ? REDACTED : shownPart(value, depth + 1)];
    }),
  );
}
