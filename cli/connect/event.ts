/** Events of an interactive session, as readable lines and as lines of JSON. */
import { RequestError } from "../../errors.ts";
import type { CloseInfo } from "../../errors.ts";
import { textOf } from "../../base/error_text.ts";
import type { ClientStatus } from "../../client/client_options.ts";
import type { PresenceNotice } from "../../session/wire/presence_notice.ts";
import type { HistoryPosition, Recovery } from "../../session/wire/recovery.ts";
import type { SessionStats } from "../../session/types.ts";
import { type Colors, plainJson, plainText } from "../context.ts";
import { orderHelp, ORDERS, positionText } from "./order.ts";
import { columns } from "../command.ts";
import { SILENT_MS } from "./silence.ts";

/** Status of a connection. */
export type TalkStatus = ClientStatus;

/** The event of a command has the `id` of its line of JSON. */
interface OfOrder {
  readonly id?: unknown;
}

/** A row of a state; without a value if it was deleted. */
interface TalkRow {
  readonly collection: string;
  readonly key: string;
  readonly value?: unknown;
}

/** An event in a session. */
export type TalkEvent =
  | { readonly type: "status"; readonly status: TalkStatus }
  | { readonly type: "silence"; readonly isOver: boolean }
  | {
    readonly type: "message";
    readonly topic: string;
    readonly data: unknown;
    readonly from?: string | undefined;
    readonly position?: HistoryPosition | undefined;
    /** True if the server is waiting for a reply, which this command cannot send. */
    readonly isRequest?: true | undefined;
  }
  | { readonly type: "presence"; readonly topic: string; readonly notice: PresenceNotice }
  | { readonly type: "recovery"; readonly topic: string; readonly recovery: Recovery }
  | OfOrder & {
    readonly type: "subscribed" | "unsubscribed" | "published" | "sent" | "set";
    readonly topic: string;
  }
  | OfOrder & {
    readonly type: "reply" | "item";
    readonly topic: string;
    readonly data: unknown;
    /** Time since the request, in milliseconds. */
    readonly ms: number;
  }
  | OfOrder & {
    readonly type: "end" | "cancelled";
    readonly topic: string;
    /** Number of items received. */
    readonly items: number;
    readonly ms: number;
  }
  | OfOrder & {
    readonly type: "members";
    readonly topic: string;
    readonly members: readonly { readonly user: string; readonly data?: unknown }[];
  }
  | OfOrder & { readonly type: "rows"; readonly topic: string; readonly rows: readonly TalkRow[] }
  | TalkRow & { readonly type: "row"; readonly topic: string }
  | OfOrder & { readonly type: "written"; readonly topic: string; readonly version: number }
  | OfOrder & {
    readonly type: "stats";
    readonly stats: Omit<SessionStats, "toJSON">;
    readonly roundTripMs: number | undefined;
  }
  | OfOrder & {
    readonly type: "state";
    readonly url: string;
    readonly status: TalkStatus;
    readonly topics: readonly {
      readonly topic: string;
      readonly position?: HistoryPosition | undefined;
    }[];
    readonly waiting: number;
  }
  | OfOrder & { readonly type: "help" }
  | OfOrder & {
    readonly type: "error";
    readonly error: unknown;
    readonly topic?: string | undefined;
  };

/**
 * Formats an event as one JSON object.
 *
 * @param at The time, in milliseconds since the Unix epoch.
 * @returns One line, without the line feed. Binary data is in the field `base64` instead of `data`.
 */
export function jsonOf(event: TalkEvent, at: number): string {
  const { type } = event;
  const line = (rest: Record<string, unknown>) => plainJson({ type, at, ...rest });
  if (type === "error") {
    const { error, ...rest } = event;
    const code = error instanceof RequestError ? error.failure.code : undefined;
    return line({ ...rest, code, message: textOf(error) });
  }
  if (type === "status") return line(statusJson(event.status));
  if (type === "state") {
    const { status, ...rest } = event;
    return line({ ...rest, status: statusJson(status) });
  }
  if (type === "help") return line({ ...event, commands: ORDERS });
  if (!("data" in event) || !(event.data instanceof Uint8Array)) return line({ ...event });
  const { data, ...rest } = event;
  return line({ ...rest, base64: data.toBase64() });
}

/** Leaves out error objects, which JSON would write as empty objects; their texts are kept. */
function statusJson(status: TalkStatus): Record<string, unknown> {
  if ("cause" in status) {
    const { code, reason, by } = status.cause;
    return { ...status, cause: { code, reason, by } };
  }
  if (status.name !== "connected" || status.fallback === undefined) return { ...status };
  const { transport, message } = status.fallback;
  return { ...status, fallback: { transport, message } };
}

/**
 * Formats an event for a terminal.
 *
 * @param options The styles, and the time in milliseconds since the Unix epoch.
 * @returns One or more lines, each with a line feed.
 */
export function textOfEvent(
  event: TalkEvent,
  { colors, at }: { readonly colors: Colors; readonly at: number },
): string {
  const { time, mark, text } = { time: colors.dim(timeOf(at)), ...linesOf(event, colors) };
  return `${time} ${mark} ${text.replaceAll("\n", "\n             ").trimEnd()}\n`;
}

/** A mark and a text, which may have several lines. */
interface MarkedText {
  readonly mark: string;
  readonly text: string;
}

function linesOf(event: TalkEvent, colors: Colors): MarkedText {
  const { bold, dim, green, red, cyan, yellow, magenta } = colors;
  const own = green("✓");
  switch (event.type) {
    case "status":
      return statusLines(event.status, colors);
    case "silence":
      return event.isOver ? { mark: green("●"), text: "the server responds again" } : {
        mark: yellow("○"),
        text: `the server is silent: no response in ${SILENT_MS / 1_000} s`,
      };
    case "message": {
      const from = event.from === undefined ? "" : ` ${magenta(plainText(event.from))}`;
      const at = event.position === undefined
        ? ""
        : dim(` ${plainText(positionText(event.position))}`);
      const asks = event.isRequest ? yellow(" (the server waits for a reply)") : "";
      const text = `${topicOf(event, colors)}${from} ${dataText(event.data)}${at}${asks}`;
      return { mark: cyan("←"), text };
    }
    case "presence":
      return { mark: magenta("●"), text: `${topicOf(event, colors)} ${noticeText(event.notice)}` };
    case "recovery": {
      const { recovered, reason } = event.recovery;
      return recovered
        ? { mark: own, text: `${topicOf(event, colors)} recovered: the missed messages follow` }
        : {
          mark: red("!"),
          text: `${topicOf(event, colors)} messages are missing: ${plainText(reason ?? "")}`,
        };
    }
    case "subscribed":
    case "unsubscribed":
    case "published":
    case "sent":
      return { mark: own, text: dim(`${event.type} ${plainText(event.topic)}`) };
    case "set":
      return { mark: own, text: dim(`presence data in ${plainText(event.topic)} is set`) };
    case "reply":
      return {
        mark: green("="),
        text: `${topicOf(event, colors)} ${dataText(event.data)} ${dim(`${round(event.ms)} ms`)}`,
      };
    case "item":
      return { mark: green("+"), text: `${topicOf(event, colors)} ${dataText(event.data)}` };
    case "end":
    case "cancelled": {
      const many = `${event.items} item${event.items === 1 ? "" : "s"}, ${round(event.ms)} ms`;
      const how = event.type === "end" ? "ended" : "was cancelled";
      return { mark: own, text: dim(`the response of ${plainText(event.topic)} ${how}: ${many}`) };
    }
    case "members": {
      const rows = event.members.map(({ user, data }) =>
        [plainText(user), data === undefined ? "" : dataText(data)] as const
      );
      const title = `${topicOf(event, colors)} ${rows.length} present`;
      return { mark: magenta("●"), text: rows.length === 0 ? title : `${title}\n${columns(rows)}` };
    }
    case "rows": {
      const { rows } = event;
      const title = `${topicOf(event, colors)} rows: ${rows.length}`;
      const text = columns(rows.map((row) => [rowText(row), dataText(row.value)] as const));
      return { mark: magenta("●"), text: rows.length === 0 ? title : `${title}\n${text}` };
    }
    case "row": {
      const value = event.value === undefined ? dim("deleted") : dataText(event.value);
      return { mark: cyan("←"), text: `${topicOf(event, colors)} ${rowText(event)} ${value}` };
    }
    case "written":
      return {
        mark: own,
        text: dim(`wrote ${plainText(event.topic)}, version ${event.version}`),
      };
    case "stats": {
      const rows = Object.entries({ roundTripMs: event.roundTripMs, ...event.stats })
        .filter(([, value]) => value !== undefined && value !== 0)
        .map(([name, value]) => [name, plainText(String(value))] as const);
      return { mark: own, text: `counters above 0\n${columns(rows)}` };
    }
    case "state": {
      const { status, topics, url, waiting } = event;
      const rows = topics.map(({ topic, position }) =>
        [plainText(topic), position === undefined ? "" : plainText(positionText(position))] as const
      );
      const many = waiting === 0 ? "" : `, pending requests: ${waiting}`;
      const text = topics.length === 0 ? "no subscriptions" : `subscriptions\n${columns(rows)}`;
      return { mark: own, text: `${url} ${bold(status.name)}${many}\n${text}` };
    }
    case "help":
      return { mark: own, text: `commands\n${orderHelp()}` };
    case "error": {
      const code = event.error instanceof RequestError
        ? ` ${dim(plainText(event.error.failure.code))}`
        : "";
      return { mark: red("✗"), text: `${plainText(textOf(event.error))}${code}` };
    }
  }
}

function statusLines(status: TalkStatus, { green, yellow, red, dim }: Colors): MarkedText {
  switch (status.name) {
    case "connecting":
      return { mark: yellow("○"), text: dim("connecting") };
    case "connected": {
      const { fallback, transport, session } = status;
      const why = fallback === undefined
        ? ""
        : `; not by ${fallback.transport}: ${plainText(fallback.message)}`;
      return {
        mark: green("●"),
        text: `connected by ${transport}${dim(`, session ${plainText(session)}${why}`)}`,
      };
    }
    case "reconnecting": {
      const seconds = (status.delayMs / 1_000).toFixed(1);
      const why = `${causeText(status.cause)}; attempt ${status.attempt} in ${seconds} s`;
      return { mark: yellow("○"), text: `connection lost: ${why}` };
    }
    case "rejected":
    case "closed":
      return { mark: red("●"), text: `${status.name}: ${causeText(status.cause)}` };
  }
}

/**
 * Describes why a connection was closed.
 *
 * @returns The reason, with the close code.
 */
export function causeText({ code, reason, by, error }: CloseInfo): string {
  const words = plainText(reason || textOf(error ?? "")) || `closed by the ${by} side`;
  return error === undefined || code >= 3_000 ? `${words} (code ${code})` : words;
}

function topicOf({ topic }: { readonly topic: string }, { cyan }: Colors): string {
  return cyan(plainText(topic));
}

/** Most bytes of a message that are shown. */
const MAX_HEX_BYTES = 32;

function dataText(data: unknown): string {
  if (data instanceof Uint8Array) {
    const more = data.length > MAX_HEX_BYTES ? "…" : "";
    return `<${data.length} bytes ${data.subarray(0, MAX_HEX_BYTES).toHex()}${more}>`;
  }
  return data === undefined ? "" : plainText(JSON.stringify(data));
}

function rowText({ collection, key }: TalkRow): string {
  return plainText(`${collection}/${key}`);
}

function noticeText(notice: PresenceNotice): string {
  const name = ({ user, data }: { readonly user: string; readonly data?: unknown }) =>
    plainText(user) + (data === undefined ? "" : ` ${dataText(data)}`);
  const count = ({ user, connections }: { readonly user: string; readonly connections: number }) =>
    `${plainText(user)} has ${connections} ${connections === 1 ? "connection" : "connections"}`;
  switch (notice.type) {
    case "members":
      return `present: ${notice.members.map(name).join(", ") || "none"}`;
    case "join":
      return `${name(notice)} joined`;
    case "update":
      return `${name(notice)} changed`;
    case "connections":
      return count(notice);
    case "leave":
      return `${name(notice)} left`;
    case "count":
      return `${notice.users} present`;
    case "changes": {
      const { joined, left, updated = [], connections = [] } = notice;
      const parts = Object.entries({ joined, left, changed: updated })
        .filter(([, users]) => users.length > 0)
        .map(([how, users]) => `${users.map(name).join(", ")} ${how}`);
      return [...parts, ...connections.map(count)].join("; ");
    }
  }
}

function timeOf(at: number): string {
  const date = new Date(at);
  const two = (n: number) => String(n).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

function round(ms: number): string {
  return ms < 10 ? ms.toFixed(1) : String(Math.round(ms));
}
