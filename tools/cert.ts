/**
 * Creates the development certificate, or shows the existing one.
 *
 * ```sh
 * deno task cert
 * deno task cert --names localhost,192.168.1.7 --renew
 * ```
 *
 * @module
 */
import { type DevCertificate, devCertificate } from "../transport/certificate/dev_certificate.ts";

/** The parsed command line. */
interface Arguments {
  readonly names?: readonly string[];
  readonly renew: boolean;
}

/**
 * Reads the command line.
 *
 * @param args The arguments after the name of the program.
 * @returns The parsed command line.
 * @throws {TypeError} If an argument is unknown or lacks its value.
 */
export function parseArguments(args: readonly string[]): Arguments {
  let names: string[] | undefined;
  let renew = false;
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    const [flag, inline] = arg.split("=", 2);
    if (flag === "--renew" && inline === undefined) renew = true;
    else if (flag === "--names") {
      names = (inline ?? rest.shift() ?? "").split(",").map((name) => name.trim());
    } else {
      throw new TypeError(
        `Cannot create certificate: use --names a,b and --renew, received "${arg}"`,
      );
    }
  }
  return { renew, ...(names === undefined ? {} : { names }) };
}

/**
 * Describes the certificate.
 *
 * @returns Lines to print.
 */
export function describe({ file, names, notAfter, renewAt, hashes }: DevCertificate): string {
  const hash = hashes[0]?.value.toBase64() ?? "";
  return `Certificate and key: ${file ?? "in memory alone, since no folder may be written"}
Names:               ${names.join(", ")}
Valid until:         ${notAfter.toISOString()}, made anew from ${renewAt.toISOString()} on
SHA-256, in base64:  ${hash}

Browsers trust it by its hash, without flags or an authority:

  const value = Uint8Array.from(atob("${hash}"), (char) => char.charCodeAt(0));
  new WebTransport("https://${hostOf(names)}:8000/", {
    serverCertificateHashes: [{ algorithm: "sha-256", value }],
  });`;
}

/**
 * Prefers `127.0.0.1` to `localhost`, because `localhost` may mean `::1` while the server listens
 * on `127.0.0.1`.
 */
function hostOf(names: readonly string[]): string {
  const [first = "localhost"] = names;
  if (names.includes("127.0.0.1")) return "127.0.0.1";
  return first.includes(":") ? `[${first}]` : first;
}

if (import.meta.main) {
  try {
    console.log(describe(devCertificate(parseArguments(Deno.args))));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}
