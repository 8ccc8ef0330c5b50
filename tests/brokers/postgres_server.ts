/**
 * Starts Postgres servers on loopback for tests, from Debian's package.
 *
 * @module
 */
import { dirname } from "node:path";
import { lowPort } from "../networks/ports.ts";
import type { PageServer } from "../programs/page_server.ts";
import { until } from "../waiting.ts";
import { isMissing } from "./programs.ts";

/** Where Debian installs the programs of each version. They are not in the path. */
const VERSIONS = "/usr/lib/postgresql";

/** The folder with the programs of the newest version, or an empty text to use the path. */
const BIN = await newestBin();

/** True if Postgres is not installed and its tests are skipped, as `isRedisMissing` is for Redis. */
export const isPostgresMissing: boolean = await isMissing(`${BIN}postgres`, "Postgres");

async function newestBin(): Promise<string> {
  try {
    const versions = await Array.fromAsync(Deno.readDir(VERSIONS), ({ name }) => Number(name));
    return `${VERSIONS}/${Math.max(...versions)}/bin/`;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return "";
  }
}

/** Postgres does not run as root, so root starts it as the user of Debian's package. */
async function postgresUser(): Promise<{ uid?: number; gid?: number }> {
  if (Deno.uid() !== 0) return {};
  const of = async (flag: string) => Number(await output("id", [flag, "postgres"]));
  return { uid: await of("-u"), gid: await of("-g") };
}

/** Lets other users pass through the folders above a folder, such as that of all temporary files. */
async function admit(folder: string): Promise<void> {
  for (let path = dirname(folder); path !== dirname(path); path = dirname(path)) {
    const mode = (await Deno.stat(path)).mode! & 0o7777;
    if ((mode & 0o001) === 0) await Deno.chmod(path, mode | 0o001);
  }
}

async function output(program: string, args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim();
}

/** A server with a temporary folder, which is removed when the server is disposed of. */
export class PostgresServer implements AsyncDisposable {
  readonly port: number = lowPort();
  readonly #folder: string;
  readonly #user: { readonly uid?: number; readonly gid?: number };
  #process: Deno.ChildProcess | undefined;

  private constructor(folder: string, user: { readonly uid?: number; readonly gid?: number }) {
    this.#folder = folder;
    this.#user = user;
  }

  /** Starts a server on a free port, with an empty database. */
  static async start(): Promise<PostgresServer> {
    const folder = await Deno.makeTempDir({ prefix: "skein-postgres-" });
    const user = await postgresUser();
    if (user.uid !== undefined) {
      await Deno.chown(folder, user.uid, user.gid!);
      await admit(folder);
    }
    const server = new PostgresServer(folder, user);
    await server.#run("initdb", ["-D", folder, "-U", "skein", "-A", "trust", "--no-sync"]);
    await server.restart();
    return server;
  }

  get url(): string {
    return `postgres://skein@127.0.0.1:${this.port}/postgres`;
  }

  /** Starts the process; resolves once the server accepts connections. */
  async restart(): Promise<void> {
    const settings = {
      port: this.port,
      listen_addresses: "127.0.0.1",
      unix_socket_directories: "",
      wal_level: "logical",
    };
    this.#process = new Deno.Command(`${BIN}postgres`, {
      args: ["-D", this.#folder, ...Object.entries(settings).flatMap((it) => ["-c", it.join("=")])],
      ...this.#user,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await until(() => this.#isReady());
  }

  /** Kills the process and those of its sessions, as a crash does. */
  async kill(): Promise<void> {
    // SIGQUIT ends all processes without a checkpoint. SIGKILL would leave them behind for a while.
    this.#process?.kill("SIGQUIT");
    await this.#process?.status;
    this.#process = undefined;
  }

  /** Runs SQL with `psql`; returns its output. */
  run(sql: string): Promise<string> {
    return output(`${BIN}psql`, [this.url, "-qtA", "-v", "ON_ERROR_STOP=1", "-c", sql]);
  }

  /** The faults of a test: broken connections, killed programs, and a killed database. */
  faultsWith(nodes: readonly PageServer[]): (() => Promise<unknown>)[] {
    return [
      // Ends the connections of all clients.
      () =>
        this.run(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`),
      ...nodes.map((node) => async () => {
        await node.kill();
        await node.start();
      }),
      async () => {
        await this.kill();
        await this.restart();
      },
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.#folder, { recursive: true });
  }

  async #isReady(): Promise<boolean> {
    const args = ["-q", "-h", "127.0.0.1", "-p", `${this.port}`];
    return (await new Deno.Command(`${BIN}pg_isready`, { args }).output()).success;
  }

  async #run(program: string, args: string[]): Promise<void> {
    const { success, stderr } = await new Deno.Command(`${BIN}${program}`, {
      args,
      ...this.#user,
      cwd: this.#folder,
      stdout: "null",
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  }
}
