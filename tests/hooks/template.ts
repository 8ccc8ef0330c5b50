/**
 * The modules of the template `hooks`, for tests: its files are texts until `skein new` writes them.
 *
 * @module
 */
import { pathToFileURL } from "node:url";
import { filesOf, TEMPLATES } from "../../cli/templates/templates.ts";
import type { Broker, ServeOptions, Server } from "../../mod.ts";
import type { PresenceFeedEvent } from "../../pubsub/mod.ts";

/** The environment of a server. */
export interface Environment {
  get(name: string): string | undefined;
}

/** The parsed `skein.json`, as far as tests use it. */
export interface HooksConfig {
  readonly serve: ServeOptions;
  readonly backend: { readonly maxCalls: number };
}

/** A session, as far as decisions need it. */
export interface DecidedSession {
  readonly id: string;
  readonly value: { readonly user: string; readonly info?: unknown } | undefined;
  readonly address: string | undefined;
}

/** The decisions that the template asks for. */
export interface HooksOptions {
  authorize(session: DecidedSession, topic: string, action: string): Promise<boolean>;
}

/** Posts to a backend. */
export interface HooksBackend {
  post(message: object, options: { id: string; signal?: AbortSignal }): Promise<unknown>;
  tell(message: object, options: { id: string; signal?: AbortSignal }): Promise<void>;
  close(): void;
}

/** Sends events. */
export interface HooksEvents {
  follow(server: {
    presence: { events(): AsyncIterable<PresenceFeedEvent> };
    nodes: { others(): readonly unknown[] } | undefined;
  }): Promise<void>;
  publication(
    publication: object,
    options: { id: string; key: string; signal: AbortSignal },
  ): Promise<void>;
  finish(signal: AbortSignal): Promise<void>;
  close(): void;
}

/** The modules of the template. */
export interface HooksTemplate extends AsyncDisposable {
  /** The folder of the project. */
  readonly folder: string;
  checkConfig(text: string, env: Environment): HooksConfig;
  start(
    config: HooksConfig,
    options: { port: number; broker?: Broker; onListen?(): void },
  ): Server;
  isPrivate(address: string): boolean;
  networkOf(address: string): string;
  hooksOf(
    config: HooksConfig,
    parts: { backend: HooksBackend; events: HooksEvents; log(line: string): void },
  ): HooksOptions;
  createLog(print: (line: string) => void, now: () => number): (line: string) => void;
  readonly Backend: new (options: {
    url: string;
    secrets: readonly string[];
    timeoutMs: number;
    resolve?(name: string): Promise<readonly string[]>;
  }) => HooksBackend;
  readonly Events: new (
    backend: Pick<HooksBackend, "tell">,
    options: { kinds: readonly string[]; settleMs: number; log(line: string): void },
  ) => HooksEvents;
}

/**
 * Writes the template into a temporary folder, and loads its modules.
 *
 * @param files Files to write in place of the template's own.
 * @returns The exports of all modules.
 */
export async function loadHooks(
  files: Readonly<Record<string, string>> = {},
): Promise<HooksTemplate> {
  const folder = await Deno.makeTempDir({ prefix: "hooks-" });
  const project = filesOf(TEMPLATES["hooks"]!, { name: "hooks", version: "0.0.0" });
  for (const [path, text] of [...project, ...Object.entries(files)]) {
    if (path !== "deno.json") await Deno.writeTextFile(`${folder}/${path}`, text);
  }
  const modules = ["backend", "config", "events", "hooks", "log", "server", "slots"];
  const loaded = await Promise.all(
    modules.map((name) => import(pathToFileURL(`${folder}/${name}.ts`).href)),
  );
  const remove = () => Deno.remove(folder, { recursive: true });
  return Object.assign({ folder, [Symbol.asyncDispose]: remove }, ...loaded);
}

/** A secret of tests, in the format of the template. */
export const SECRET = `whsec_${new Uint8Array(32).fill(7).toBase64()}`;

/** The key of the HTTP API in tests. */
export const API_KEY = "the-key-of-the-backend-in-tests";

/** The environment of a server in tests. */
export const ENV: Environment = {
  get: (name) => ({ HOOKS_SECRET: SECRET, API_KEY } as Record<string, string>)[name],
};
