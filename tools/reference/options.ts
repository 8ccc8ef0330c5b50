/**
 * Writes the tables of options from the types that declare them.
 *
 * @module
 */
import { type Block, tableOf } from "./blocks.ts";
import { type Call, type Declarations, listOf, type Member } from "./declarations.ts";

const HEADING = ["option", "type", "default", "effect"];

/** An option, by the names that lead to it: `session.maxRequests`. */
interface Option extends Member {
  readonly path: string;
}

/**
 * Writes the table of a block about the options of a type. `*` stands for all members. A row
 * `...Other` leaves out the options that the type shares with another one.
 *
 * @param block The block; its argument is the name of the type.
 * @param declarations The types of the library.
 * @returns The table in Markdown.
 * @throws {TypeError} If a row names an unknown option, or an option has no description.
 */
export function optionsTable({ argument, rows }: Block, declarations: Declarations): string {
  const members = declarations.membersOf(argument);
  const lines = rows.filter(({ name }) => !name.startsWith(REST))
    .flatMap(({ name, links }) => optionsAt(name, members).map((option) => rowOf(option, links)));
  return tableOf([HEADING, ...lines]);
}

/** The options of every call that waits, which the tables of calls leave out. */
const WAITING = "WaitOptions";

/**
 * Writes the headings and tables of a block about calls; each row is a method, such as
 * `Client.request`, and the name to show.
 *
 * @param declarations The types of the library.
 * @returns A heading, a sentence and a table for each call, in Markdown.
 * @throws {TypeError} If a row names an unknown call, or an option has no description.
 */
export function callsTables({ rows }: Block, declarations: Declarations): string {
  const sections = rows.map(({ name, shown, links }) => {
    const [type, method] = name.split(".") as [string, string];
    const call = callsOf(type, declarations).find((call) => call.name === method);
    if (call === undefined) {
      throw new TypeError(`Cannot write table: calls must have options, received ${name}`);
    }
    const options = call.options.map((option) => rowOf({ ...option, path: option.name }, []));
    return { call: `\`${shown}()\``, links, table: tableOf([HEADING, ...options]) };
  });
  return [...Map.groupBy(sections, ({ table }) => table)].map(([table, calls]) => {
    const see = seeAlso(calls.flatMap(({ links }) => links)).trim();
    return `### ${listOf(calls.map(({ call }) => call), "and")}\n\n${see}\n\n${table}`;
  }).join("\n\n");
}

/**
 * Lists the calls of a class with options of their own.
 *
 * @param name The name of the class.
 * @param declarations The types of the library.
 * @returns The calls, without the options of every call that waits.
 */
export function callsOf(name: string, declarations: Declarations): Call[] {
  const common = new Set(declarations.membersOf(WAITING).map(({ summary }) => summary));
  return declarations.callsOf(name)
    .map((call) => ({
      ...call,
      options: call.options.filter(({ name, summary }) =>
        summary === "" ? name !== "signal" : !common.has(summary)
      ),
    }))
    .filter(({ options }) => options.length > 0);
}

/**
 * Lists the options of a type that no block has.
 *
 * @param name The name of the type.
 * @param blocks The blocks about this type.
 * @param declarations The types of the library.
 * @returns The paths of the options.
 */
export function unlisted(
  name: string,
  blocks: readonly Block[],
  declarations: Declarations,
): string[] {
  const members = declarations.membersOf(name);
  const listed = new Set(
    blocks.flatMap(({ rows }) => rows).flatMap((row) =>
      row.name.startsWith(REST)
        ? sharedNames(members, declarations.membersOf(row.name.slice(REST.length)))
        : optionsAt(row.name, members).map(({ path }) => path)
    ),
  );
  const missing = (options: readonly Member[], prefix: string): string[] =>
    options.flatMap((option) => {
      const path = prefix + option.name;
      if (listed.has(path)) return [];
      const isParent = [...listed].some((one) => one.startsWith(`${path}.`));
      return isParent ? missing(option.members(), `${path}.`) : [path];
    });
  return missing(members, "");
}

/** Starts a row that names another type. */
const REST = "...";

/** Lists the members that two types have in common. */
function sharedNames(members: readonly Member[], others: readonly Member[]): string[] {
  const types = new Map(others.map(({ name, type }) => [name, type]));
  return members.filter(({ name, type }) => types.get(name) === type).map(({ name }) => name);
}

function optionsAt(name: string, members: readonly Member[]): Option[] {
  let options = members;
  const names = name.split(".");
  for (const [at, part] of names.entries()) {
    const prefix = names.slice(0, at).map((one) => `${one}.`).join("");
    if (part === "*") return options.map((option) => ({ ...option, path: prefix + option.name }));
    const found = options.filter((option) => option.name === part).at(-1);
    if (found === undefined) {
      throw new TypeError(`Cannot write table: options must exist, received ${name}`);
    }
    if (at === names.length - 1) return [{ ...found, path: name }];
    options = found.members();
  }
  return [];
}

function rowOf(option: Option, links: readonly string[]): string[] {
  const { path, type, summary } = option;
  if (summary === "") {
    throw new TypeError(`Cannot write table: options must have a description, received ${path}`);
  }
  return [`\`${path.replace(".[", "[")}\``, type, defaultOf(option), summary + seeAlso(links)];
}

function seeAlso(links: readonly string[]): string {
  return links.length === 0 ? "" : ` See ${listOf(links, "and")}.`;
}

/** Writes a default: literals as code, with separators in numbers; anything else as it is. */
function defaultOf({ name, default: text, isOptional }: Member): string {
  if (text === undefined || text === "undefined") return isOptional ? "—" : "required";
  if (/^\d{4,}$/.test(text) && name !== "port") {
    return `\`${Number(text).toLocaleString("en-US")}\``;
  }
  return /^(?:-?[\d.]+|Infinity|true|false|null|"[^"]*"|[[{].*|[\w.]+\(\))$/.test(text)
    ? `\`${text}\``
    : text;
}
