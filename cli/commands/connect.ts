/** `skein connect`: opens a session with a server, at a prompt or in a pipe. */
import type { Command } from "../command.ts";
import { orderHelp } from "../connect/order.ts";
import { CERT_HASH_OPTION, HEADER_OPTION } from "../values.ts";

/** The command `skein connect`. */
export const connect: Command = {
  name: "connect",
  summary: "Open a session with a server, and type commands",
  usage: "URL [options]",
  details:
    `In a terminal, the Tab key completes commands, and typed commands are kept for later sessions.
Ctrl-C cancels a request that waits for its reply; Ctrl-D quits. If input or output is not a
terminal, commands are read line by line; the session closes when the input ends and all replies
and requested histories have arrived.

Commands of a session:
${orderHelp().trimEnd()}

"sub TOPIC --last N" starts with the newest N publications of the history, and "sub TOPIC --after
POSITION" after the position that is printed next to a publication. Data is JSON. With --json, a
command can also be a JSON object on one line, such as
{"command": "request", "topic": "sum", "data": [1, 2], "id": 7}; its results have this id.`,
  options: [
    {
      name: "token",
      short: "t",
      value: "TOKEN",
      summary: "Token of the session (SKEIN_TOKEN)",
    },
    {
      name: "transport",
      value: "NAME",
      choices: ["webtransport", "websocket", "http"],
      isRepeatable: true,
      summary: "webtransport, websocket or http, in order of preference",
    },
    {
      name: "protocol",
      value: "NAME",
      choices: ["skein.1", "plain"],
      summary: "skein.1, or plain for a WebSocket without Skein (skein.1)",
    },
    HEADER_OPTION,
    CERT_HASH_OPTION,
    { name: "timeout", value: "TIME", summary: "Longest wait for a reply (30s)" },
    { name: "json", summary: "Print one JSON object for each event" },
    { name: "follow", summary: "Stay connected after the end of the input, until Ctrl-C" },
    { name: "no-history", summary: "Neither load nor save typed commands" },
  ],
  examples: [
    { line: "skein connect localhost:8000", effect: "Talk to a server on this machine" },
    {
      line: "echo 'request sum [1, 2]' | skein connect localhost:8000 --json",
      effect: "Send one request, and print the reply as JSON",
    },
    {
      line: "echo 'sub chat' | skein connect wss://chat.example --json --follow | jq .data",
      effect: "Follow a topic",
    },
    {
      line: "skein connect localhost:8000 --transport websocket --token ann",
      effect: "Choose the transport, and authenticate",
    },
  ],
  exitCodes: {
    0: "the session closed normally",
    1: "a command in a pipe failed",
    2: "invalid option",
    3: "no connection, or the server rejected the session",
    130: "interrupted with Ctrl-C",
  },
  async run(args, context) {
    const { talk } = await import("../connect/talk.ts");
    return await talk(args, context);
  },
};
