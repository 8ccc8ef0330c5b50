/** `skein connect`: a session with a server, for people and for pipes. */
import type { Command } from "../command.ts";
import { orderHelp } from "../connect/order.ts";
import { CERT_HASH_OPTION, HEADER_OPTION } from "../values.ts";

/** The command `skein connect`. */
export const connect: Command = {
  name: "connect",
  summary: "Open a session with a server, and type commands",
  usage: "URL [options]",
  details: `In a terminal, commands are completed by the Tab key and kept for later sessions. Ctrl-C
cancels an answer that is awaited, Ctrl-D leaves. Where input or output is no terminal, commands
are read line by line, and the session ends at the end of the input, once all answers are there.

Commands of a session:
${orderHelp().trimEnd()}

"sub TOPIC --last N" begins with the newest N publications of a history, and "sub TOPIC --after
POSITION" behind a position, as shown behind a publication. Data is JSON. With --json a command
may also be one JSON object a line, such as
{"command": "ask", "topic": "sum", "data": [1, 2], "id": 7}; its results have the same id.`,
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
      summary: "webtransport, websocket or http; the preferred one first",
    },
    {
      name: "protocol",
      value: "NAME",
      choices: ["skein.1", "plain"],
      summary: "skein.1, or plain for messages without Skein (skein.1)",
    },
    HEADER_OPTION,
    CERT_HASH_OPTION,
    { name: "timeout", value: "TIME", summary: "Time for an answer (30s)" },
    { name: "json", summary: "Print one JSON object for each event" },
    { name: "follow", summary: "Stay at the end of the input, until Ctrl-C" },
    { name: "no-history", summary: "Neither read nor write the typed commands" },
  ],
  examples: [
    { line: "skein connect localhost:8000", effect: "Talk to a server on this machine" },
    {
      line: "echo 'ask sum [1, 2]' | skein connect localhost:8000 --json",
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
    0: "the session ended as it should",
    1: "a command in a pipe failed",
    2: "an option is wrong",
    3: "there was no connection, or the server refused the client",
    130: "ended by Ctrl-C",
  },
  async run(args, context) {
    const { talk } = await import("../connect/talk.ts");
    return await talk(args, context);
  },
};
