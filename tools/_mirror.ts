/**
 * A mirror of the parts of the JSR registry that this repository needs, on the loopback interface.
 *
 * @module
 */
import { type CheckoutPackage, readCheckout } from "./_checkout.ts";
import {
  buildPackage,
  checksum,
  NPM_PACKAGE,
  npmFolder,
  type Package,
  packageNames,
  readTree,
  VERSION,
} from "./_packages.ts";

/** Base of the ports, below those that systems assign automatically. */
const PORTS = { from: 20_000, count: 12_000 };

/** A running mirror. */
export interface Mirror extends AsyncDisposable {
  /** The value for `JSR_URL`, with a final slash. */
  readonly url: string;
}

/** Options for {@linkcode openMirror}. */
export interface MirrorOptions {
  /** Root of a checkout whose own package is served too; by default, no package. */
  checkout?: URL;
  /** Folder of the types and stand-ins; by default, `tools/std/`. */
  types?: URL;
  /** Folder of the JavaScript; by default, the mirror asks npm on the first request. */
  scripts?: () => Promise<string>;
}

/**
 * Starts a mirror.
 *
 * The port follows from the checkout and the served content. So Deno's cache stays warm from one
 * run to the next, and never holds outdated files. Launchers of one checkout that run at the same
 * time share the port where the system supports sharing (Linux), and take any free port elsewhere.
 *
 * @param options See {@linkcode MirrorOptions}.
 * @returns The running mirror.
 */
export function openMirror(options: MirrorOptions = {}): Mirror {
  const { types: folder = new URL("std", import.meta.url), scripts = npmFolder } = options;
  const types = readTree(folder);
  const own = options.checkout && readCheckout(options.checkout);
  const handler = mirrorHandler(types, async () => readTree(await scripts()), own);
  const server = listenNear(identityOf(folder, [types, own?.files ?? new Map()]), handler);
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/**
 * Answers requests as the registry does: `meta.json` of a package, `<version>_meta.json` with
 * exports and checksums, and the files.
 *
 * @param types The content of `tools/std/`.
 * @param scripts Reads the npm package; called on the first request for JavaScript, and again only
 * after a failure.
 * @param own A further package.
 * @returns The handler.
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

/** Names a checkout and its content; the name also depends on the source of the mirror. */
function identityOf(
  folder: URL,
  served: readonly ReadonlyMap<string, Uint8Array>[],
): string {
  const own = ["_mirror.ts", "_packages.ts"].map((name) =>
    Deno.readTextFileSync(new URL(name, import.meta.url))
  );
  const parts = [folder.href, NPM_PACKAGE, VERSION, ...own];
  for (const files of served) {
    for (const [path, content] of files) parts.push(path, checksum(content));
  }
  return parts.join("\n");
}

/**
 * Listens on the loopback interface, on the port that follows from a name. Processes share the port
 * on Linux; elsewhere, or if the port is taken, the server has any free port.
 *
 * @param identity The name.
 * @param handler Answers requests.
 * @returns The server.
 */
export function listenNear(
  identity: string,
  handler: (request: Request) => Promise<Response>,
): Deno.HttpServer<Deno.NetAddr> {
  const digest = checksum(new TextEncoder().encode(identity));
  const port = PORTS.from + Number.parseInt(digest.slice(-8), 16) % PORTS.count;
  const base = {
    hostname: "127.0.0.1",
    onListen: () => {},
    onError: (error: unknown) => {
      console.error(String(error instanceof Error ? error.message : error));
      return new Response("The local registry failed", { status: 500 });
    },
  };
  try {
    // Sharing a port takes `"unstable": ["net"]`, which deno.json has.
    return Deno.serve({ ...base, port, reusePort: Deno.build.os === "linux" }, handler);
  } catch (error) {
    if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    return Deno.serve({ ...base, port: 0 }, handler);
  }
}
