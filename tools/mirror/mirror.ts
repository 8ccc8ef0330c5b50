/**
 * A mirror of the parts of the JSR registry that this repository needs, on the loopback interface.
 *
 * @module
 */
import { type CheckoutPackage, readCheckout } from "./checkout.ts";
import {
  buildPackage,
  checksum,
  NPM_PACKAGE,
  npmFolder,
  type Package,
  packageNames,
  readTree,
  VERSION,
} from "./packages.ts";

/** Base of the ports, below those that systems assign automatically. */
const PORTS = { from: 20_000, count: 12_000 };

/** Timeout for a reply from the server that already uses a port, in milliseconds. */
const RESPONSE_MS = 5_000;

/**
 * Environment variable with URLs, separated by spaces, of local registries that outlive the
 * process. {@linkcode listenNear} returns one of them if it has the requested name.
 */
export const OPENED = "SKEIN_LOCAL_REGISTRIES";

/** A running mirror. */
export interface Mirror extends AsyncDisposable {
  /** The value for `JSR_URL`, with a final slash. */
  readonly url: string;
}

/** Options for {@linkcode openMirror}. */
export interface MirrorOptions {
  /** Root of a checkout whose package is also served; none by default. */
  checkout?: URL;
  /** Folder of the types and stand-ins; by default, `tools/std/`. */
  types?: URL;
  /**
   * Returns the folder of the JavaScript; by default, the mirror fetches it from npm on the first
   * request.
   */
  scripts?: () => Promise<string>;
}

/**
 * Starts a mirror.
 *
 * The port is derived from the checkout and the served content, so Deno's cache stays warm between
 * runs and never contains outdated files. Concurrent launchers of a checkout share the port if the
 * system supports it, as Linux does, and use any free port otherwise.
 *
 * @param options See {@linkcode MirrorOptions}.
 * @returns The running mirror.
 */
export async function openMirror(options: MirrorOptions = {}): Promise<Mirror> {
  const { types: folder = new URL("../std", import.meta.url), scripts = npmFolder } = options;
  const types = readTree(folder);
  const own = options.checkout && readCheckout(options.checkout);
  const handler = mirrorHandler(types, async () => readTree(await scripts()), own);
  return await listenNear(identityOf(folder, [types, own?.files ?? new Map()]), handler);
}

/**
 * Responds to requests as the registry does: `meta.json` of a package, `<version>_meta.json` with
 * exports and checksums, and the files.
 *
 * @param types The content of `tools/std/`.
 * @param scripts Reads the npm package; called on the first request for JavaScript, and again only
 * after a failure.
 * @param own A further package.
 */
export function mirrorHandler(
  types: ReadonlyMap<string, Uint8Array>,
  scripts: () => Promise<ReadonlyMap<string, Uint8Array>>,
  own?: CheckoutPackage,
): (request: Request) => Promise<Response> {
  const names = new Set(packageNames(types).map((name) => `@std/${name}`));
  const packages = new Map<string, Package>();
  let reading: Promise<ReadonlyMap<string, Uint8Array>> | undefined;

  const load = async (name: string): Promise<Package> => {
    let found = packages.get(name);
    if (found === undefined) {
      reading ??= scripts();
      reading.catch(() => reading = undefined);
      found = buildPackage(name.slice("@std/".length), types, await reading)!;
      packages.set(name, found);
    }
    return found;
  };
  if (own !== undefined) packages.set(own.name, own);

  return async (request) => {
    const [scope = "", base = "", ...rest] = new URL(request.url).pathname.slice(1).split("/");
    const name = `${scope}/${base}`;
    const path = rest.join("/");
    if (name !== own?.name && !names.has(name)) return notFound();
    const version = name === own?.name ? own.version : VERSION;
    if (path === "meta.json") {
      return Response.json({
        scope: scope.slice(1),
        name: base,
        latest: version,
        versions: { [version]: {} },
      });
    }
    const { exports, files } = await load(name);
    if (path === `${version}_meta.json`) {
      const manifest = Object.fromEntries(
        [...files].map(([file, content]) => [
          `/${file}`,
          { size: content.length, checksum: checksum(content) },
        ]),
      );
      return Response.json({ exports, manifest });
    }
    const content = path.startsWith(`${version}/`)
      ? files.get(path.slice(version.length + 1))
      : undefined;
    if (content === undefined) return notFound();
    return new Response(content as Uint8Array<ArrayBuffer>, {
      headers: { "content-type": contentType(path) },
    });
  };
}

function contentType(path: string): string {
  if (path.endsWith(".js")) return "text/javascript";
  if (path.endsWith(".json")) return "application/json";
  return /\.tsx?$/.test(path) ? "text/typescript" : "text/plain";
}

function notFound(): Response {
  return new Response("Not found", { status: 404 });
}

/** Returns a name for a checkout and its content; it also depends on the mirror's source. */
function identityOf(
  folder: URL,
  served: readonly ReadonlyMap<string, Uint8Array>[],
): string {
  const own = ["mirror.ts", "packages.ts"].map((name) =>
    Deno.readTextFileSync(new URL(name, import.meta.url))
  );
  const parts = [folder.href, NPM_PACKAGE, VERSION, ...own];
  for (const files of served) {
    for (const [path, content] of files) parts.push(path, checksum(content));
  }
  return parts.join("\n");
}

/**
 * Listens on the loopback interface, on a port derived from a name. On Linux, processes with the
 * same name share the port; elsewhere, or if another program uses it, the server listens on any
 * free port.
 *
 * When a server on a shared port ends, the system resets the connections that wait for it. A
 * program that starts others therefore opens a server for all and names it in {@linkcode OPENED}.
 *
 * @param identity The name.
 * @param handler Responses requests, except those for `/`.
 * @param opened The content of {@linkcode OPENED}.
 * @returns The running server.
 */
export async function listenNear(
  identity: string,
  handler: (request: Request) => Promise<Response>,
  opened: string | undefined = Deno.env.get(OPENED),
): Promise<Mirror> {
  const digest = checksum(new TextEncoder().encode(identity));
  for (const url of opened?.split(" ") ?? []) {
    if (await respondsAs(url, digest)) return { url, [Symbol.asyncDispose]: async () => {} };
  }
  const server = await listen(digest, handler);
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

async function listen(
  digest: string,
  handler: (request: Request) => Promise<Response>,
): Promise<Deno.HttpServer<Deno.NetAddr>> {
  const port = PORTS.from + Number.parseInt(digest.slice(-8), 16) % PORTS.count;
  const base = {
    hostname: "127.0.0.1",
    onListen: () => {},
    onError: (error: unknown) => {
      console.error(String(error instanceof Error ? error.message : error));
      return new Response("The local registry failed", { status: 500 });
    },
  };
  const response = async (request: Request) => {
    const isProbe = new URL(request.url).pathname === "/";
    const response = isProbe ? new Response(digest) : await handler(request);
    // The system spreads connections over all servers on the port. A client that reused a
    // connection would lose a request if that server ends, although others go on.
    response.headers.set("connection", "close");
    return response;
  };
  const isShared = Deno.build.os === "linux";
  if (isShared && !await isFreeFor(port, digest)) return Deno.serve({ ...base, port: 0 }, response);
  try {
    // Sharing a port requires `"unstable": ["net"]`, which is in deno.json.
    return Deno.serve({ ...base, port, reusePort: isShared }, response);
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    return Deno.serve({ ...base, port: 0 }, response);
  }
}

/**
 * Returns true if a port is free, or used by servers with the same name: different names may share
 * a port.
 */
async function isFreeFor(port: number, digest: string): Promise<boolean> {
  try {
    return await respondsAs(`http://127.0.0.1:${port}/`, digest);
  } catch (error) {
    // The connection was refused, so the port is free; a timeout means that another program uses
    // it.
    return error instanceof TypeError;
  }
}

/** Returns true if the name of a server has this checksum. */
async function respondsAs(url: string, digest: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(RESPONSE_MS) });
  return await response.text() === digest;
}
