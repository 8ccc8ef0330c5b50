/** Messages between nodes, as JSON. */

/** A message of a node; the JSON object has the sender too, as `node`. */
export type NodeMessage =
  | { readonly type: "beat"; readonly name: string; readonly isHello: boolean }
  | { readonly type: "bye" }
  | { readonly type: "tell"; readonly kind: string; readonly data?: unknown }
  | { readonly type: "ask"; readonly kind: string; readonly data?: unknown; readonly id: number }
  | {
    readonly type: "answer";
    readonly id: number;
    readonly isDone: boolean;
    readonly data?: unknown;
  };

/** Reads a message and the id of the node that sent it; `undefined` if malformed. */
export function parseNodeMessage(
  payload: string | Uint8Array,
): (NodeMessage & { readonly node: string }) | undefined {
  const fields = parseFields(payload);
  if (fields === undefined) return undefined;
  const { node, type, name, kind, data, id } = fields;
  if (typeof node !== "string" || node === "") return undefined;
  switch (type) {
    case "beat":
      if (typeof name !== "string") return undefined;
      return { node, type, name, isHello: fields.isHello === true };
    case "bye":
      return { node, type };
    case "tell":
      return typeof kind === "string" ? { node, type, kind, data } : undefined;
    case "ask":
      if (typeof kind !== "string" || !isNumber(id)) return undefined;
      return { node, type, kind, data, id };
    case "answer":
      if (!isNumber(id)) return undefined;
      return { node, type, id, isDone: fields.isDone === true, data };
    default:
      return undefined;
  }
}

/** Reads a JSON object; `undefined` if the payload holds anything else. */
export function parseFields(payload: string | Uint8Array): Record<string, unknown> | undefined {
  if (typeof payload !== "string") return undefined;
  try {
    const value: unknown = JSON.parse(payload);
    return isFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Tells whether a value is an object with fields. */
export function isFields(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Tells whether a value is a safe integer from 0 on. */
export function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
