/**
 * Draws the details of one session.
 *
 * @module
 */
import { badge, el, gauge, group, issue } from "./draw.js";
import { bytes, count, duration, milliseconds, plural, time, transport } from "./words.js";

/** Draws the details of a session. */
export function sessionGroups({ row, state, topics = [], rooms = [] }) {
  const { diagnostics: d, stats, limits, credit, capabilities, issues } = state;
  return [
    issues.length === 0
      ? el("p", { class: "well" }, "This session has no issues.")
      : el("div", { class: "found" }, ...issues.map(issue)),
    group("Life", [
      ["State", badge(d.state)],
      ["Established", `${time(d.readyAt)}, ${duration(row.uptimeMs)} ago`],
      ["Last received", time(d.lastReceivedAt)],
      ["Round trip", milliseconds(d.roundTripMs)],
      ["Heartbeat", limits.heartbeatIntervalMs && `every ${duration(limits.heartbeatIntervalMs)}`],
    ]),
    group("Topics", [
      ["Subscribed", names(topics)],
      ["Rooms", rooms.length === 0 ? undefined : names(rooms)],
    ]),
    group("Queues", [
      ["Receive", queue(d.queues.receive)],
      ["Send", d.queues.send ? queue(d.queues.send) : "none on this transport"],
    ]),
    group(
      "Credit",
      credit
        ? [
          ["Peer: bytes", used(credit.data.received, credit.data.granted, bytes)],
          ["Here: bytes", used(credit.data.sent, credit.data.allowed, bytes)],
          ...["bidirectional", "unidirectional"].flatMap((kind) => [
            [`Peer: ${kind}`, used(credit[kind].received, credit[kind].granted, count)],
            [`Here: ${kind}`, used(credit[kind].sent, credit[kind].allowed, count)],
          ]),
        ]
        : [[
          "Counted by",
          capabilities.streams ? "only the runtime" : "not counted: no streams",
        ]],
    ),
    group("Streams", [
      ["Open", count(stats.activeStreams)],
      ["Opened by this side", opened(d.localStreamsBidiOpened, d.localStreamsUniOpened)],
      ["Opened by the peer", opened(d.peerStreamsBidiOpened, d.peerStreamsUniOpened)],
      ["Unread", d.unreadStreams === undefined ? "–" : count(d.unreadStreams)],
      ["Reset", count(stats.streamErrors)],
      ["Bytes", `${bytes(stats.streamBytesReceived)} in, ${bytes(stats.streamBytesSent)} out`],
    ]),
    group("Counters", [
      ["In", `${count(stats.receivedMessages)}, ${bytes(stats.receivedBytes)}`],
      ["Out", `${count(stats.sentMessages)}, ${bytes(stats.sentBytes)}`],
      ["Dropped", count(stats.droppedMessages)],
      ["Invalid", count(stats.invalidMessages)],
      ["Failed handlers", count(stats.handlerFailures)],
      ["Pending replies", count(stats.pendingReplies)],
      ["Largest", `${bytes(limits.maxMessageBytes)} in, ${bytes(limits.maxSendBytes)} out`],
    ]),
    group("Datagrams", [
      ["Delivery", capabilities.datagrams],
      ["In", `${count(d.datagramsReceived)}, ${bytes(d.datagramBytesReceived)}`],
      ["Out", `${count(d.datagramsSent)}, ${bytes(d.datagramBytesSent)}`],
      ["Dropped", count(d.datagramsDropped)],
    ]),
    group("Where", [
      ["Transport", transport(d.transport)],
      ["Protocol", d.protocol || "none"],
      ["Node", row.nodeName],
      ["URL", el("span", { class: "code" }, d.url)],
      ...Object.entries(d.headers).map(([name, value]) => [
        name,
        el("span", { class: "code" }, value),
      ]),
    ]),
  ];
}

function names(all) {
  if (all.length === 0) return "none";
  return el("span", { class: "code" }, all.join(", "));
}

function queue({ messages, maxMessages, bytes: size, maxBytes }) {
  return el(
    "span",
    { class: "stack" },
    gauge(messages / maxMessages, `${count(messages)} of ${plural(maxMessages, "message")}`),
    gauge(size / maxBytes, `${bytes(size)} of ${bytes(maxBytes)}`),
  );
}

/** Warns only when little credit is left. */
function used(part, whole, say) {
  if (whole === 0) return "none so far";
  const share = part / whole;
  const tone = share >= 1 ? "bad" : share > 0.9 ? "wait" : "good";
  return gauge(share, `${say(part)} of ${say(whole)}`, tone);
}

function opened(bidi, uni) {
  return `${count(bidi)} bidirectional, ${count(uni)} unidirectional`;
}
