/**
 * A WebTransport peer for the interop tests, on Deno's own QUIC and WebTransport.
 *
 * ```text
 * peer.ts server --cert CERT.pem --key KEY.pem
 * peer.ts client --url URL --hash HEX --scenario NAME
 * ```
 *
 * @module
 */
import { dial } from "./client.ts";
import { serve } from "./server.ts";

function option(name: string): string {
  const value = Deno.args[Deno.args.indexOf(`--${name}`) + 1];
  if (value === undefined) throw new TypeError(`--${name} is missing`);
  return value;
}

switch (Deno.args[0]) {
  case "server":
    await serve(option("cert"), option("key"));
    break;
  case "client":
    console.log(JSON.stringify(await dial(option("url"), option("hash"), option("scenario"))));
    Deno.exit();
    break;
  default:
    throw new TypeError("usage: peer.ts server|client");
}
