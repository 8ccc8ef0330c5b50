/** `skein inspect`: opens the inspector of a running server in the browser. */
import { textOf } from "../../base/error_text.ts";
import { within } from "../../base/wait.ts";
import { publicUrl } from "../../transport/url.ts";
import { type Command, CommandError, Exit, usageError } from "../command.ts";
import { type Context, plainText } from "../context.ts";

/** Longest wait for the server's response, in milliseconds. */
const TIMEOUT_MS = 10_000;

/** Text that only the inspector's page contains. */
const MARK = "<title>Skein inspector</title>";

/**
 * Maximum number of characters of a response that are read. The title of the page is near the
 * start.
 */
const MAX_READ = 16_384;

/** Most characters of an error response that are shown. */
const MAX_REASON = 400;

/** The command `skein inspect`. */
export const inspect: Command = {
  name: "inspect",
  summary: "Open the inspector of a running server in the browser",
  usage: "URL [options]",
  details:
    `The server needs the inspector option of serve(). By default the page is at /inspector; if it is
elsewhere, add the path to the URL, such as localhost:8000/ops.`,
  options: [{ name: "no-open", summary: "Print the address without opening a browser" }],
  examples: [
    {
      line: "skein inspect localhost:8000",
      effect: "Open the inspector of a server on this machine",
    },
    {
      line: "skein inspect https://chat.example/ops --no-open",
      effect: "Check an inspector at another path, and print its address",
    },
  ],
  exitCodes: {
    0: "the inspector was opened, or its address printed",
    1: "there is no inspector at this address, or access is denied",
    2: "invalid option",
    3: "the server does not respond",
    130: "interrupted with Ctrl-C",
  },
  async run(args, context) {
    const address = addressOf(args.url());
    const { asksForPassword } = await check(address, context);
    const { stdout, stderr } = context;
    const isOpened = !args.flag("no-open") && await context.openPage(address.href);
    // The printed address may end up in a log, so it does not contain the password.
    stdout.write(`${publicUrl(address)}\n`);
    if (asksForPassword) stderr.write("The browser asks for the user and password.\n");
    if (!isOpened && !args.flag("no-open")) {
      stderr.write("There is no browser to open here: visit the address yourself.\n");
    }
    return Exit.done;
  },
};

function addressOf(url: URL): URL {
  const address = new URL(url);
  address.protocol = /^(?:ws|http):$/.test(url.protocol) ? "http:" : "https:";
  if (address.pathname === "/") address.pathname = "/inspector";
  if (!address.pathname.endsWith("/")) address.pathname += "/";
  address.hash = address.search = "";
  return address;
}

/**
 * Requests the page.
 *
 * @throws {CommandError} If the server does not respond, or does not serve the inspector.
 */
async function check(
  address: URL,
  { runtime, signal }: Context,
): Promise<{ readonly asksForPassword: boolean }> {
  const end = new AbortController();
  const target = new URL(address);
  // `fetch` rejects a URL with a password.
  target.username = target.password = "";
  const { username, password } = address;
  const pair = `${decoded(username)}:${decoded(password)}`;
  const credentials = `Basic ${new TextEncoder().encode(pair).toBase64()}`;
  try {
    const asked = async () => {
      const response = await fetch(target, {
        headers: username === "" ? {} : { authorization: credentials },
        redirect: "manual",
        signal: end.signal,
      });
      return { response, text: await beginningOf(response) };
    };
    const { response, text } = await within(runtime, asked(), {
      signal,
      timeoutMs: TIMEOUT_MS,
      late: "the server did not respond within",
    });
    return judge(response, text, publicUrl(address));
  } catch (error) {
    if (error instanceof CommandError || signal.aborted) throw error;
    throw new CommandError(`Cannot reach ${publicUrl(address)}: ${causeOf(error)}`, {
      cause: error,
      exitCode: Exit.unreachable,
    });
  } finally {
    end.abort();
  }
}

/** Decodes the user or the password of a URL. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw usageError("Cannot read URL: user and password must be percent-encoded as UTF-8");
  }
}

/** Reads the start of a body, which may be endless. */
async function beginningOf({ body }: Response): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length >= MAX_READ) break;
  }
  return text.slice(0, MAX_READ);
}

/** The cause of a failed request, which `fetch` appends to the address. */
function causeOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause ?? error : error;
  return textOf(cause).replace(
    /^error sending request for url \(\S*\): (client error \(\w+\): )?/,
    "",
  );
}

function judge(
  { status, headers }: Response,
  text: string,
  place: string,
): { readonly asksForPassword: boolean } {
  if (status === 200 && text.includes(MARK)) return { asksForPassword: false };
  const reason = plainText(text.slice(0, MAX_REASON)).trim();
  const fail = (why: string): never => {
    throw new CommandError(`Cannot inspect: ${why}`);
  };
  if (status === 401 && headers.has("www-authenticate")) return { asksForPassword: true };
  if (status === 401 || status === 403) {
    return fail(`the server denies access to ${place} with ${status}${reason && `: ${reason}`}`);
  }
  const cure =
    "the feature inspector() of @skein/skein/operations serves it to programs on the same machine";
  // Many apps serve their own page at every path.
  if (status === 200) return fail(`${place} is not the inspector's page; ${cure}`);
  if (status >= 500) return fail(`the server responded with ${status}${reason && `: ${reason}`}`);
  return fail(`there is no inspector at ${place} (status ${status}); ${cure}`);
}
