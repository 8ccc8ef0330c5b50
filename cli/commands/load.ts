/** `skein load`: a load generator for Skein servers and plain WebSockets. */
import { type Arguments, type Command, CommandError, Exit } from "../command.ts";
import { type Context, plainJson } from "../context.ts";
import { CERT_HASH_OPTION, HEADER_OPTION, tokenOf } from "../values.ts";

/** Time limit of the command that prints tokens, in milliseconds. */
const TOKEN_COMMAND_MS = 30_000;

async function run(args: Arguments, context: Context): Promise<number> {
  const { runtime, signal, stdout, stderr } = context;
  const { planOf } = await import("../load/plan.ts");
  const [{ checkPlan }, { runLoad }, { hasFailed, LoadView, resultText }] = await Promise.all([
    import("../load/check.ts"),
    import("../load/run.ts"),
    import("../load/report.ts"),
  ]);
  const plan = { ...planOf(args), tokens: await tokensOf(args, context) };
  await checkPlan(plan, { runtime, signal });
  const view = new LoadView(plan, context);
  const result = await runLoad(plan, {
    runtime,
    signal,
    onProgress: (progress) => view.show(progress),
  });
  view.end();
  if (args.flag("json")) {
    stdout.write(`${plainJson(result, 2)}\n`);
    for (const warning of result.warnings) stderr.write(`Warning: ${warning}\n`);
  } else stdout.write(resultText(result, context));
  if (result.isInterrupted) return Exit.interrupted;
  if (result.sessions.opened === 0) return Exit.unreachable;
  return hasFailed(result) ? Exit.failed : Exit.done;
}

/** Reads one token for all sessions, or one token from each line that a command prints. */
async function tokensOf(args: Arguments, { env, runtime, signal }: Context): Promise<string[]> {
  const line = args.value("token-command");
  const hasOwn = line !== undefined || args.flag("plain");
  const token = hasOwn ? args.value("token") : tokenOf(args, env);
  if (token !== undefined) return [token];
  if (line === undefined) return [];
  const { within } = await import("../../base/wait.ts");
  const [shell, flag] = Deno.build.os === "windows" ? ["cmd", "/c"] : ["sh", "-c"];
  const stop = new AbortController();
  const command = new Deno.Command(shell!, {
    args: [flag!, line],
    stdin: "null",
    stderr: "inherit",
    signal: stop.signal,
  });
  try {
    const { success, code, stdout } = await within(runtime, command.output(), {
      late: "Cannot read tokens: --token-command did not end within",
      timeoutMs: TOKEN_COMMAND_MS,
      signal,
    });
    const tokens = new TextDecoder().decode(stdout).split("\n").map((one) => one.trim())
      .filter((one) => one !== "");
    if (success && tokens.length > 0) return tokens;
    throw new CommandError(
      `Cannot read tokens: --token-command ${
        success ? "printed no line with a token" : `ended with the exit code ${code}`
      }`,
    );
  } finally {
    stop.abort();
  }
}

/** The command `skein load`. */
export const load: Command = {
  name: "load",
  summary: "Generate load on a server, and measure latency, rates and errors",
  usage: "URL [options]",
  details: `Modes:
  echo     sends messages that the server sends back (its onMessage must echo)
  request  sends requests on --topic and waits for the replies
  publish  publishes on topics, with subscribers among the same sessions
  idle     opens sessions and holds them; works with every server

Latency is measured from when a message is due, not when it is sent, so a stall of the server
shows in full.`,
  options: [
    {
      name: "mode",
      value: "MODE",
      choices: ["echo", "publish", "request", "idle"],
      summary: "Kind of load: echo, request, publish or idle (echo)",
    },
    { name: "sessions", short: "n", value: "N", summary: "Sessions to open (10)" },
    {
      name: "ramp",
      value: "TIME",
      summary: "Time in which the sessions open (100 sessions a second)",
    },
    {
      name: "rate",
      short: "r",
      value: "R",
      summary: "Messages a second, all sessions together, or max (1 per session)",
    },
    { name: "window", value: "N", summary: "With --rate max: messages in flight per session (1)" },
    {
      name: "duration",
      short: "d",
      value: "TIME",
      summary: "Measured time, such as 30s or 2m (10s)",
    },
    { name: "warmup", value: "TIME", summary: "Time before the measurement starts (1s)" },
    { name: "payload", value: "BYTES", summary: "Size of the data of a message (128)" },
    { name: "topic", value: "TOPIC", summary: "Topic of the messages (load)" },
    {
      name: "data",
      value: "JSON",
      summary: "Data of each request; by default a stamp padded to --payload",
    },
    {
      name: "topics",
      value: "N",
      summary: "With --mode publish: topics, each with a publisher (1)",
    },
    {
      name: "subscribers",
      value: "K",
      summary: "With --mode publish: subscribers of each topic (sessions / topics)",
    },
    {
      name: "transport",
      value: "NAME",
      choices: ["websocket", "webtransport", "http"],
      summary: "websocket, webtransport or http (websocket)",
    },
    { name: "plain", summary: "Measure any WebSocket server, without Skein" },
    { name: "token", short: "t", value: "TOKEN", summary: "Token of all sessions (SKEIN_TOKEN)" },
    {
      name: "token-command",
      value: "LINE",
      summary: "Command that prints one token per line; the sessions use them in turn",
    },
    HEADER_OPTION,
    CERT_HASH_OPTION,
    { name: "timeout", value: "TIME", summary: "Longest wait for a reply (10s)" },
    { name: "workers", short: "w", value: "N", summary: "Threads that generate load (1)" },
    { name: "interval", value: "TIME", summary: "Time between reports (1s)" },
    { name: "json", summary: "Print the result as JSON" },
  ],
  examples: [
    {
      line: "skein load http://localhost:8000 --mode idle -n 1000 -d 30s",
      effect: "Hold 1,000 sessions",
    },
    {
      line: "skein load http://localhost:8000 --mode publish -n 200 --topics 2 -r 400",
      effect: "Publish 400 messages a second to 200 subscribers",
    },
    {
      line: "skein load ws://localhost:8080 --plain -n 64 -r max",
      effect: "Measure any WebSocket server that echoes",
    },
    {
      line: "skein load https://example.com --transport webtransport --json > load.json",
      effect: "Measure over WebTransport, and save the result",
    },
  ],
  exitCodes: {
    0: "the load ran without errors",
    1: "messages or sessions failed, or the server does not support the mode",
    2: "invalid option",
    3: "no connection",
    130: "interrupted with Ctrl-C, after printing the result so far",
  },
  run,
};
