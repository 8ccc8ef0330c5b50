/** `skein doctor`: checks which transports work from here, and why others fail. */
import { originOf } from "../../transport/origins.ts";
import { type Arguments, type Command, Exit, usageError } from "../command.ts";
import { type Context, plainJson } from "../context.ts";
import {
  CERT_HASH_OPTION,
  duration,
  hashesOf,
  HEADER_OPTION,
  headersOf,
  tokenOf,
} from "../values.ts";

async function run(args: Arguments, context: Context): Promise<number> {
  const { runtime, signal, stdout } = context;
  const url = args.url();
  const [{ examine }, { conclusion, DoctorView }] = await Promise.all([
    import("../doctor/examine.ts"),
    import("../doctor/report.ts"),
  ]);
  const hashes = hashesOf(args);
  const isJson = args.flag("json");
  const view = new DoctorView(context);
  const given = {
    timeoutMs: duration(args, "timeout", 5_000),
    token: tokenOf(args, context.env),
    origin: pageOrigin(args),
    headers: headersOf(args),
    hashes: hashes.length === 0 ? undefined : hashes,
  };
  if (!isJson) stdout.write(`Examining ${context.colors.bold(url.host)}\n`);
  const examination = await examine(url, {
    ...given,
    runtime,
    signal,
    onCheck: (check) => isJson || view.show(check),
  });
  if (isJson) stdout.write(`${plainJson(examination, 2)}\n`);
  else stdout.write(conclusion(examination, context));
  return examination.isReachable ? Exit.done : Exit.failed;
}

/** Reads `--origin` as a browser sends it, also from the URL of a page. */
function pageOrigin(args: Arguments): string | undefined {
  const text = args.value("origin");
  // A sandboxed page has the origin "null".
  if (text === undefined || text === "null") return text;
  const origin = originOf(text);
  if (origin !== undefined) return origin;
  throw usageError(
    `Cannot read --origin: the origin must be like https://app.example.com, received "${text}"`,
  );
}

/** The command `skein doctor`. */
export const doctor: Command = {
  name: "doctor",
  summary: "Find out which transports work from here, and why others fail",
  usage: "URL [options]",
  details:
    `Checks DNS, TCP, TLS and the certificate, HTTP, the clock, the WebSocket upgrade, the first
message of Skein, UDP, QUIC, WebTransport, and HTTP as the last transport. Each failure includes
its cause and how to fix it.`,
  options: [
    { name: "token", short: "t", value: "TOKEN", summary: "Token of the sessions (SKEIN_TOKEN)" },
    {
      name: "origin",
      value: "ORIGIN",
      summary: "Also check that pages of this origin may connect",
    },
    HEADER_OPTION,
    CERT_HASH_OPTION,
    { name: "timeout", value: "TIME", summary: "Time limit of each check (5s)" },
    { name: "json", summary: "Print the result as JSON" },
  ],
  examples: [
    { line: "skein doctor https://example.com/chat", effect: "Examine a server" },
    {
      line: "skein doctor https://example.com --origin https://app.example.com",
      effect: "Also check pages of another origin",
    },
    {
      line: "skein doctor localhost:8000 --json",
      effect: "Examine a server on this machine, with JSON output",
    },
  ],
  exitCodes: {
    0: "a session opened on at least one transport",
    1: "no session opened on any transport",
    2: "invalid option",
    130: "interrupted with Ctrl-C",
  },
  run,
};
