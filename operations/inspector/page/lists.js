/**
 * The lists, with their columns and the details of their rows.
 *
 * @module
 */
import { ask } from "./data.js";
import { badge, bar, el, group, issue } from "./draw.js";
import { bytes, count, duration, milliseconds, plural, rate, time, transport } from "./words.js";

/** The lists by name. A column without `sort` cannot be sorted. */
export const LISTS = {
  sessions: {
    name: "sessions",
    title: "Sessions",
    placeholder: "User, id, transport, state or path",
    keyOf: ({ node, id }) => `${node} ${id}`,
    nameOf: ({ user }) => user,
    toneOf: ({ rank }) => rank >= 1_000 ? "bad" : rank > 0 ? "wait" : "good",
    columns: [
      {
        label: "User",
        sort: "user",
        show: ({ transport: name, nodeName }) =>
          nodeName === undefined ? transport(name) : `${transport(name)} on ${nodeName}`,
      },
      { label: "State", sort: "state", className: "state", show: ({ state }) => [badge(state)] },
      {
        label: "Age",
        sort: "uptimeMs",
        className: "number",
        show: ({ uptimeMs }) => duration(uptimeMs),
      },
      {
        label: "Round trip",
        sort: "roundTripMs",
        className: "number",
        show: ({ roundTripMs }) => milliseconds(roundTripMs),
      },
      {
        label: "In / out",
        sort: "received",
        className: "number minor",
        show: ({ received, sent }) => `${count(received)} / ${count(sent)}`,
      },
      {
        label: "Streams",
        sort: "streams",
        className: "number minor",
        show: ({ streams }) => count(streams),
      },
      {
        label: "Queues",
        sort: "filled",
        className: "queues",
        show: ({ receive, send }) => [...queue("in", receive), ...queue("out", send)],
      },
      {
        label: "Issues",
        sort: "rank",
        className: "issues",
        show: ({ issues }) => issues.map(issue),
      },
    ],
  },
  topics: {
    name: "topics",
    title: "Topics",
    placeholder: "Topic",
    keyOf: ({ topic }) => topic,
    nameOf: ({ topic }) => topic,
    columns: [
      { label: "Topic", sort: "topic", show: ({ nodes }) => onNodes(nodes) },
      {
        label: "Subscribers",
        sort: "subscribers",
        className: "number",
        show: ({ subscribers }) => count(subscribers),
      },
      {
        label: "Rate",
        sort: "perSecond",
        className: "number",
        show: ({ perSecond }) => `${rate(perSecond)} /s`,
      },
      {
        label: "Publications",
        sort: "publications",
        className: "number",
        show: ({ publications }) => count(publications),
      },
      {
        label: "Position",
        sort: "offset",
        className: "number",
        show: ({ offset }) => offset === undefined ? "no history" : count(offset),
      },
    ],
    detail: async ({ topic }) => ({
      title: topic,
      id: "",
      groups: historyGroups(await ask("topic", { id: topic })),
    }),
  },
  rooms: {
    name: "rooms",
    title: "Rooms",
    placeholder: "Room",
    keyOf: ({ room }) => room,
    nameOf: ({ room }) => room,
    columns: [
      { label: "Room", sort: "room", show: ({ nodes }) => onNodes(nodes) },
      { label: "Users", sort: "users", className: "number", show: ({ users }) => count(users) },
      {
        label: "Sessions",
        sort: "sessions",
        className: "number",
        show: ({ sessions }) => count(sessions),
      },
    ],
    detail: async ({ room }) => {
      const { users, members } = await ask("room", { id: room });
      const rest = users - members.length;
      return {
        title: room,
        id: plural(users, "user"),
        groups: [
          group(
            "Users",
            members.map(({ user, connections, joinedAt, data }) => [
              user,
              el(
                "span",
                {},
                connections === 0
                  ? `away, joined at ${time(joinedAt)}`
                  : `${plural(connections, "session")} since ${time(joinedAt)}`,
                data ? el("span", { class: "code block" }, data) : undefined,
              ),
            ]),
          ),
          rest > 0 ? el("p", { class: "soft" }, `and ${count(rest)} more`) : undefined,
        ],
      };
    },
  },
  streams: {
    name: "streams",
    title: "Durable streams",
    placeholder: "Stream id",
    keyOf: ({ id }) => id,
    nameOf: ({ id }) => id,
    columns: [
      {
        label: "Stream",
        sort: "id",
        show: ({ isResponse, nodes }) => isResponse ? "running response" : onNodes(nodes),
      },
      { label: "Readers", sort: "readers", className: "number", show: (row) => count(row.readers) },
      { label: "Writer", show: ({ writer }) => writer ?? "elsewhere or none" },
      {
        label: "Waiting",
        sort: "waiting",
        className: "number",
        show: ({ waiting }) => count(waiting),
      },
    ],
    detail: async ({ id, writer }) => {
      const { info } = await ask("stream", { id });
      return { title: id, id: "", groups: streamGroups(info, writer) };
    },
  },
};

function onNodes(nodes) {
  return nodes > 1 ? `on ${count(nodes)} nodes` : "";
}

function queue(word, level) {
  if (level === undefined || level === null) return [];
  const doing = word === "in" ? "to be handled" : "to be sent";
  const label = `${level.messages} of ${level.maxMessages} messages wait ${doing}`;
  return [
    el(
      "span",
      { class: "queue", title: label },
      el("small", {}, word),
      bar(level.share, label),
      el("small", { class: "amount" }, count(level.messages)),
    ),
  ];
}

function historyGroups({ history }) {
  if (!history) return [el("p", { class: "well" }, "This topic has no history.")];
  if (history.unavailable) return [el("p", { class: "over" }, history.unavailable)];
  const { bounds, epoch, head, oldest, messages, bytes: size, isPartial, newest } = history;
  const least = isPartial ? "at least " : "";
  return [
    group("History", [
      ["Publications", `${least}${count(messages)} of at most ${count(bounds.size)}`],
      ["Bytes", `${least}${bytes(size)} of at most ${bytes(bounds.bytes)}`],
      ["Kept for", duration(bounds.ttlMs)],
      ["Oldest offset", oldest === undefined ? "–" : String(oldest)],
      ["Newest offset", String(head)],
      ["Epoch", el("span", { class: "code" }, epoch)],
    ]),
    newest.length === 0 ? undefined : group(
      "Newest publications",
      newest.map(({ offset, text }) => [String(offset), el("span", { class: "code" }, text)]),
    ),
  ];
}

function streamGroups(info, writer) {
  if (!info) return [el("p", { class: "over" }, "The stream no longer exists.")];
  if (info.unavailable) return [el("p", { class: "over" }, info.unavailable)];
  const { contentType, offset, isEnded, error, code, cancelled, bytes: size, rows } = info;
  const state = !isEnded ? "open" : error === undefined ? "complete" : "incomplete";
  return [
    group("State", [
      ["State", badge(isEnded ? "closed" : "connected", state)],
      ["Writer", writer ?? (isEnded ? "none" : "elsewhere, or none")],
      ["Offset", el("span", { class: "code" }, offset)],
      [rows ? "Size of the tail" : "Size", bytes(size)],
      ["Media type", contentType],
      ["Error", error && `${error}${code ? ` (${code})` : ""}`],
      ["Cancelled", cancelled === undefined ? undefined : cancelled || "yes"],
    ]),
    rows && group("Rows", [
      ["Rows", String(rows.count)],
      ["Deleted rows that are remembered", String(rows.deletions)],
      ["Size", bytes(rows.bytes)],
    ]),
  ];
}
