/**
 * Builds the documentation site into `dist/site/`, serves it, or checks it.
 *
 * ```sh
 * deno task docs
 * deno task docs --serve --port 8000
 * deno task docs --check
 * deno task docs --repository https://github.com/owner/name --base /name/
 * deno task docs --origin https://skein.example
 * ```
 *
 * @module
 */
import { parseArgs } from "node:util";
import { buildSite, installPackages, OUT } from "./build.ts";
import { checkDocs } from "./check.ts";
import { siteHandler } from "./serve.ts";
import { SiteError } from "./stage.ts";

/** The parsed command line. */
export interface Arguments {
  /** Serves the built site until Ctrl-C. */
  readonly serve: boolean;
  /** Checks the site, the spelling and the pages' commands. */
  readonly check: boolean;
  /** Port of `--serve`. */
  readonly port: number;
  /** The path at which a host serves the site, with a slash on both sides. */
  readonly base: string;
  /** Scheme and host of the site, for links in the files for coding agents. */
  readonly origin?: string;
  /** Address of the repository on a code host. */
  readonly repository?: string;
}

/**
 * Reads the command line.
 *
 * @param args The arguments after the program's name.
 * @param env Reads an environment variable: `DOCS_REPOSITORY`, `DOCS_ORIGIN` and `DOCS_BASE` are
 * used if `--repository`, `--origin` or `--base` is not given.
 * @returns The parsed command line.
 * @throws {TypeError} If an option is unknown or has an invalid value.
 */
export function parseArguments(
  args: readonly string[],
  env: (name: string) => string | undefined = () => undefined,
): Arguments {
  const { values } = parseArgs({
    args: [...args],
    options: {
      serve: { type: "boolean", default: false },
      check: { type: "boolean", default: false },
      port: { type: "string", default: "8000" },
      base: { type: "string", default: env("DOCS_BASE") ?? "/" },
      origin: { type: "string", default: env("DOCS_ORIGIN") ?? "" },
      repository: { type: "string" },
    },
  });
  const { serve, check, base } = values;
  const port = Number(values.port);
  if (!/^\d+$/.test(values.port) || port > 65_535) {
    throw new TypeError(`Cannot serve site: a port is 0 to 65535, received "${values.port}"`);
  }
  if (!/^\/(?:[^/]+\/)*$/.test(base)) {
    throw new TypeError(`Cannot build site: a base begins and ends with "/", received "${base}"`);
  }
  const { origin } = values;
  if (origin !== "" && (!URL.canParse(origin) || new URL(origin).origin !== origin)) {
    throw new TypeError(
      `Cannot build site: an origin is a scheme and a host, received "${origin}"`,
    );
  }
  const parsed = { serve, check, port, base, ...(origin === "" ? {} : { origin }) };
  const address = values.repository ?? env("DOCS_REPOSITORY");
  if (address === undefined || address === "") return parsed;
  if (!/^https?:\/\//.test(address) || !URL.canParse(address)) {
    throw new TypeError(`Cannot build site: a repository is an address, received "${address}"`);
  }
  return { ...parsed, repository: address.replace(/\/$/, "") };
}

async function main({ serve, check, port, ...options }: Arguments): Promise<boolean> {
  const startMs = performance.now();
  const packages = await installPackages();
  await buildSite(packages, options);
  console.log(`dist/site is built (${((performance.now() - startMs) / 1_000).toFixed(1)} s)`);
  if (check && !await checkDocs(packages, options.base)) return false;
  if (!serve) return true;
  const server = Deno.serve({
    port,
    hostname: "127.0.0.1",
    onListen: ({ port }) => console.log(`http://localhost:${port}${options.base}`),
  }, siteHandler(OUT, options.base));
  Deno.addSignalListener("SIGINT", () => void server.shutdown());
  await server.finished;
  return true;
}

if (import.meta.main) {
  try {
    Deno.exit(await main(parseArguments(Deno.args, (name) => Deno.env.get(name))) ? 0 : 1);
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof SiteError)) throw error;
    console.error(error.message);
    Deno.exit(error instanceof SiteError ? 1 : 2);
  }
}
