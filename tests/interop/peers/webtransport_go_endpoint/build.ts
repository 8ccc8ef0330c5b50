/**
 * Builds an endpoint of webtransport-go for the QUIC interop runner from the Go module.
 *
 * ```text
 * build.ts --version 0.13.0 --sum h1:… --role server --into FOLDER
 * ```
 *
 * The endpoint expects the folders of a container and port 443. Here, environment variables name
 * them: `WWW`, `DOWNLOADS`, `CERTS`, `LOGS` and `ADDRESS`.
 *
 * @module
 */

const MODULE = "github.com/quic-go/webtransport-go";

/** String literals of Go that name a folder or a file of the container. */
const FOLDER = /"\/(www|downloads|certs|logs)(\/[^"]*)?"/g;

/** The literal that names the server's address. */
const ADDRESS = /":443"/g;

/** Literals of both kinds in the sources. */
const LITERALS = 10;

function option(name: string): string {
  const at = Deno.args.indexOf(`--${name}`);
  const value = at < 0 ? undefined : Deno.args[at + 1];
  if (value === undefined) throw new TypeError(`--${name} is missing`);
  return value;
}

async function go(args: string[], cwd: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("go", { args, cwd }).output();
  if (!success) throw new Error(`go ${args[0]} failed:\n${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** Copies a folder of the module cache; files there are read-only. */
async function copy(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    if (isDirectory) await copy(`${from}/${name}`, `${to}/${name}`);
    else await Deno.writeFile(`${to}/${name}`, await Deno.readFile(`${from}/${name}`));
  }
}

/** Makes the sources of the endpoint read folders and address from the environment. */
async function relocate(folder: string): Promise<void> {
  let count = 0;
  const variable = (name: string) => {
    count++;
    return `os.Getenv("${name}")`;
  };
  for (const name of ["interop.go", "client.go", "server.go"]) {
    const source = await Deno.readTextFile(`${folder}/${name}`);
    const relocated = source
      .replace(FOLDER, (_, name: string, rest = "") => `${variable(name.toUpperCase())}+"${rest}"`)
      .replace(ADDRESS, () => variable("ADDRESS"));
    await Deno.writeTextFile(`${folder}/${name}`, relocated);
  }
  if (count !== LITERALS) {
    throw new Error(
      `Cannot relocate the endpoint: it must name ${LITERALS} places, found ${count}`,
    );
  }
}

const into = option("into");
const answer = await go(["mod", "download", "-json", `${MODULE}@v${option("version")}`], into);
const { Dir: source, Sum: sum } = JSON.parse(answer) as { Dir: string; Sum: string };
if (sum !== option("sum")) {
  throw new Error(`Cannot build the endpoint: the module's sum must be as given, received ${sum}`);
}
await copy(source, `${into}/module`);
await relocate(`${into}/module/interop`);
const role = option("role");
await go(
  ["build", "-buildvcs=false", "-o", `${into}/endpoint`, `./interop/${role}`],
  `${into}/module`,
);
await Deno.remove(`${into}/module`, { recursive: true });
