/** Opens connections with the transports that an application passes as values. */
import { describe, textOf } from "../../base/error_text.ts";
import { ConnectionError, SkeinError } from "../../errors.ts";
import type { Connection } from "../connection.ts";
import { parseUrl, publicUrl, withoutToken } from "../url.ts";
import { TOKEN_MARK } from "../webtransport.ts";
import type { CheckedTransports, Transport, TransportDialOptions } from "./options.ts";

/**
 * Opens a connection with a transport. A transport to another host than that of the URL gets
 * nothing secret, and its connection is noted in `elsewhere`.
 *
 * @param transport The application's transport.
 * @param checked The client's transports.
 * @param url The server's URL, which may contain a ticket.
 * @throws {SkeinError} The transport's error if it is one of these; otherwise a
 * {@linkcode ConnectionError} with the transport's error as its cause.
 */
export async function dialValue(
  transport: Transport,
  { elsewhere }: Pick<CheckedTransports, "elsewhere">,
  url: URL,
  options: TransportDialOptions,
): Promise<Connection> {
  const { name, host, isBuiltIn } = transport;
  const isElsewhere = host !== undefined && originOf(host) !== originOf(url);
  try {
    const connection = isElsewhere
      ? await transport.dial(new URL(withoutToken(url.href.replace(/\/\/[^/]*@/, "//"))), {
        ...options,
        headers: undefined,
        protocols: options.protocols.filter((name) => name !== TOKEN_MARK),
      })
      : await transport.dial(url, options);
    if (typeof connection?.close !== "function") {
      throw new TypeError(`dial must return a connection, received ${describe(connection)}`);
    }
    if (isElsewhere) elsewhere.add(connection);
    return connection;
  } catch (cause) {
    if (options.signal.aborted || isBuiltIn || cause instanceof SkeinError) throw cause;
    const place = isElsewhere ? ` to ${publicUrl(host)}` : "";
    throw new ConnectionError(`Cannot open ${name}${place}: ${textOf(cause)}`, { cause });
  }
}

/** The origin of a URL, the same for `ws:` as for `http:`; "null" for schemes without a host. */
function originOf(url: string | URL): string | undefined {
  return parseUrl(String(url).replace(/^ws/i, "http"))?.origin;
}
