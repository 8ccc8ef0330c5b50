/** The commands of an interactive session, as typed or as lines of JSON. */
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import { columns, suggestion } from "../command.ts";

/** A command of a session. */
interface OrderKind {
  readonly aliases: readonly string[];
  /** Arguments, as in the help. */
  readonly usage: string;
  readonly summary: string;
  /** Arguments of the command; `data` includes a topic. */
  readonly takes: "nothing" | "topic" | "data";
}

/** All commands by name, in the order of the help. */
export const ORDERS = {
  subscribe: {
    aliases: ["sub"],
    usage: "TOPIC",
    summary: "Show the publications of a topic",
    takes: "topic",
  },
  unsubscribe: {
    aliases: ["unsub"],
    usage: "TOPIC",
    summary: "Unsubscribe from a topic",
    takes: "topic",
  },
  publish: {
    aliases: ["pub"],
    usage: "TOPIC [JSON]",
    summary: "Publish to all subscribers of a topic",
    takes: "data",
  },
  request: {
    aliases: ["ask"],
    usage: "TOPIC [JSON]",
    summary: "Send a request, and show the reply or the streamed items",
    takes: "data",
  },
  send: {
    aliases: [],
    usage: "TOPIC [JSON]",
    summary: "Send a message to the server, without a reply",
    takes: "data",
  },
  presence: {
    aliases: [],
    usage: "TOPIC [JSON]",
    summary: "Join a room and show its users, or set your presence data",
    takes: "data",
  },
  rows: {
    aliases: [],
    usage: "ID [JSON]",
    summary: "Show a state's rows and changes, or write [collection, key, value]",
    takes: "data",
  },
  stats: { aliases: [], usage: "", summary: "Show the counters of the session", takes: "nothing" },
  status: {
    aliases: [],
    usage: "",
    summary: "Show the connection and the subscriptions",
    takes: "nothing",
  },
  help: { aliases: ["?"], usage: "", summary: "Show this list", takes: "nothing" },
  quit: { aliases: ["exit"], usage: "", summary: "Close the session", takes: "nothing" },
} as const satisfies Record<string, OrderKind>;

/** Name of a command. */
export type OrderName = keyof typeof ORDERS;

const NAMES = Object.keys(ORDERS) as OrderName[];

/** Names and aliases of commands, each mapped to its name. */
const BY_WORD: ReadonlyMap<string, OrderName> = new Map(
  NAMES.flatMap((name) => [name, ...ORDERS[name].aliases].map((word) => [word, name] as const)),
);

/**
 * Lists all commands with their arguments.
 *
 * @returns A line for each command.
 */
export function orderHelp(): string {
  return columns(
    Object.entries(ORDERS).map(([name, { aliases, usage, summary }]) => [
      `${[name, ...aliases].join(", ")} ${usage}`.trimEnd(),
      summary,
    ]),
  );
}

/** A command with its arguments. */
export interface Order {
  readonly name: OrderName;
  /** The topic; empty if the command has none. */
  readonly topic: string;
  /** The data, if any. */
  readonly data?: unknown;
  /** Position after which a subscription starts. */
  readonly after?: HistoryPosition | undefined;
  /** Number of earlier publications with which a subscription starts. */
  readonly last?: number | undefined;
  /** Id for the results of the command; only if the command is a line of JSON. */
  readonly id?: unknown;
}

/**
 * Parses a line: a command with its arguments, or a JSON object such as `{"command": "publish",
 * "topic": "chat", "data": 1, "id": 7}`.
 *
 * @returns The command; `undefined` if the line is empty or is a comment that starts with `#`.
 * @throws {SyntaxError} If the line is not a valid command.
 */
export function parseOrder(line: string): Order | undefined {
  const text = line.trim();
  if (text === "" || text.startsWith("#")) return undefined;
  return text.startsWith("{") ? fromJson(text) : fromWords(text);
}

/**
 * Reads the `id` of an invalid line, so that its error can include the same id.
 *
 * @returns The id; `undefined` if the line has none.
 */
export function idOf(line: string): unknown {
  try {
    return Object(JSON.parse(line)).id;
  } catch {
    return undefined; // Not JSON.
  }
}

/**
 * Formats a position in a history as a single word.
 *
 * @returns Epoch, offset and tag, separated by slashes.
 */
export function positionText({ epoch, offset, tag }: HistoryPosition): string {
  return `${epoch}/${offset}${tag === undefined ? "" : `/${tag}`}`;
}

function parsePosition(text: unknown): HistoryPosition {
  const found = typeof text === "string" ? /^(.+?)\/(\d{1,15})(?:\/(.+))?$/.exec(text) : null;
  if (found === null) {
    throw new SyntaxError(
      `Cannot subscribe: a position must be epoch/offset, received ${JSON.stringify(text)}`,
    );
  }
  const [, epoch = "", offset, tag] = found;
  return { epoch, offset: Number(offset), tag };
}

function parseLast(value: unknown): number {
  const last = typeof value === "string" ? Number(value) : value;
  if (Number.isSafeInteger(last) && last as number > 0) return last as number;
  throw new SyntaxError(
    `Cannot subscribe: last must be a positive integer, received ${JSON.stringify(value)}`,
  );
}

function nameOf(word: unknown): OrderName {
  const name = typeof word === "string" ? BY_WORD.get(word) : undefined;
  if (name !== undefined) return name;
  if (typeof word !== "string") throw new SyntaxError('Cannot run: "command" must be a string');
  const hint = suggestion(word, [...BY_WORD.keys()]) || '; "help" lists all commands';
  throw new SyntaxError(`Cannot run: unknown command "${word}"${hint}`);
}

function fromJson(text: string): Order {
  const given = parseJson(text, "run") as Record<string, unknown>;
  const { command, topic = "", data, after, last, id } = given;
  const name = nameOf(command);
  if (typeof topic !== "string") throw new SyntaxError(`Cannot ${name}: topic must be a string`);
  return checked({
    name,
    topic,
    data,
    after: after === undefined ? undefined : parsePosition(after),
    last: last === undefined ? undefined : parseLast(last),
    id,
  });
}

function fromWords(text: string): Order {
  const [, word = "", rest = ""] = /^(\S+)\s*(.*)$/s.exec(text)!;
  const name = nameOf(word);
  if (ORDERS[name].takes === "nothing") return noMore({ name, topic: "" }, rest);
  // A topic with a space is quoted.
  const [, quoted, bare, more = ""] = /^(?:("(?:[^"\\]|\\.)*")|(\S+))?\s*(.*)$/s.exec(rest)!;
  const topic = quoted === undefined ? bare ?? "" : String(parseJson(quoted, name));
  if (name === "subscribe") return checked({ name, topic, ...parseStart(more) });
  if (ORDERS[name].takes === "topic") return noMore({ name, topic }, more);
  return checked({ name, topic, data: more === "" ? undefined : parseJson(more, name) });
}

function parseStart(text: string): Pick<Order, "after" | "last"> {
  let start: Pick<Order, "after" | "last"> = {};
  const words = text.split(/\s+|=/).filter((word) => word !== "");
  for (let i = 0; i < words.length; i += 2) {
    const [option, value] = [words[i], words[i + 1]];
    if (option === "--after") start = { ...start, after: parsePosition(value ?? "") };
    else if (option === "--last") start = { ...start, last: parseLast(value ?? "") };
    else {
      const hint = suggestion(option!.replace(/^-+/, ""), ["after", "last"], "--");
      throw new SyntaxError(`Cannot subscribe: unknown option "${option}"${hint}`);
    }
  }
  return start;
}

function parseJson(text: string, verb: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const isWord = /^[^"[{\d\s-]\S*$/.test(text);
    throw new SyntaxError(
      `Cannot ${verb}: data must be JSON, received ${text.slice(0, 80)}${
        isWord ? `; did you mean "${text.slice(0, 80)}" in quotes?` : ""
      }`,
    );
  }
}

function noMore(order: Order, rest: string): Order {
  if (rest === "") return checked(order);
  throw new SyntaxError(`Cannot ${order.name}: unexpected "${rest.slice(0, 80)}"`);
}

function checked(order: Order): Order {
  const { name, topic } = order;
  if (ORDERS[name].takes !== "nothing" && topic === "") {
    throw new SyntaxError(
      `Cannot ${name}: the topic is missing; usage: ${name} ${ORDERS[name].usage}`,
    );
  }
  return order;
}

/** A topic without quotes, spaces and control characters. */
const PLAIN_WORD = /^[^"\s\p{Cc}\p{Cf}][^\s\p{Cc}\p{Cf}]*$/u;

/**
 * Completes the last word of a line: the name of a command, or a topic after it.
 *
 * @param line The line up to the cursor.
 * @param topics Known topics.
 * @returns The possible words, and the part of the line that they replace.
 */
export function completions(line: string, topics: Iterable<string>): [string[], string] {
  const [, word = "", gap, topic = ""] = /^\s*(\S*)(\s+)?(\S*)$/.exec(line) ?? [];
  if (gap === undefined) {
    const found = NAMES.filter((name) => name.startsWith(word)).map((name) =>
      ORDERS[name].takes === "nothing" ? name : `${name} `
    );
    return [word === "" && line !== "" ? [] : found, word];
  }
  const name = BY_WORD.get(word);
  if (name === undefined || ORDERS[name].takes === "nothing") return [[], topic];
  // Topics may come from the server. A topic that is not a plain word cannot be completed.
  const fits = (one: string) => one.startsWith(topic) && PLAIN_WORD.test(one);
  return [[...topics].filter(fits).sort(), topic];
}
