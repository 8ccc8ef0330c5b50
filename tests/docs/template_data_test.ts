/**
 * Tests that the templates of `skein new` lose nothing that was made with them: in a save during
 * `dev`, after a kill, and in a container that is replaced, with the container's user and
 * permissions.
 */
import { assert, assertEquals } from "@std/assert";
import { filesOf, TEMPLATES } from "../../cli/templates/templates.ts";
import config from "../../deno.json" with { type: "json" };
import { type Client, connect, defineContract } from "../../mod.ts";
import { defineMutations, type Mutations } from "../../session/mutations/mod.ts";
import { openMirror } from "../../tools/mirror/mirror.ts";
import { openRegistry } from "../../tools/npm/registry.ts";
import { lowPort } from "../networks/ports.ts";
import { soon } from "../waiting.ts";
import { copyDeno, isInstalled } from "./programs.ts";
import { z } from "zod";

const ROOT = new URL("../../", import.meta.url);

/** The user of the image `denoland/deno`. */
const USER = "1993";

/** A folder in which another user may read; the folder of a test run is closed to other users. */
const SHARED = "/var/tmp";

const canSwitchUser = Deno.uid() === 0 && await isInstalled("setpriv");

/** How a client of a template makes a thing with a text, and reads the texts of all things. */
interface Maker {
  readonly token: string | null;
  make(client: Client, text: string): Promise<unknown>;
  read(client: Client, count: number): Promise<string[]>;
}

/** Reads the newest messages of a topic. */
async function newest<T>(client: Client, topic: string, count: number): Promise<T[]> {
  const seen: T[] = [];
  await using messages = client.subscribe(topic, { last: 100 });
  for await (const { data } of messages) if (seen.push(data as T) === count) break;
  return seen;
}

const CHAT: Maker = {
  token: "Ann",
  make: (client, text) => client.publish("room:lobby", { text, at: 0 }),
  read: async (client, count) =>
    (await newest<{ text: string }>(client, "room:lobby", count)).map(({ text }) => text),
};

const CONVERSATION = crypto.randomUUID();

interface Question {
  readonly id: string;
  readonly question: string;
}

/** Reads an answer to its end. */
async function answerTo(client: Client, { id, question }: Question, after?: string) {
  const prompt = { conversation: CONVERSATION, id, question, before: [] };
  const words = await Array.fromAsync(client.requestStream("ask", prompt, { id, after }));
  return words.join("");
}

const BOARD = defineContract({
  state: { "board:{id}": { collections: { cards: z.unknown() }, mutations: { addCard: z.any() } } },
});

/** The mutations of the template `board`, which only the server runs; the client has no contract. */
const MUTATIONS = defineMutations(BOARD, { addCard() {} }) as unknown as Mutations;

const MAKERS: Readonly<Record<string, Maker>> = {
  chat: CHAT,
  react: CHAT,
  board: {
    token: "Ann",
    async make(client, text) {
      using board = await client.state("board:main", { mutations: MUTATIONS });
      await board.ready;
      await board.mutate["addCard"]!({ key: text, text, column: "To do" });
    },
    async read(client) {
      using board = await client.state("board:main");
      await board.ready;
      return [...board.collection("cards").keys()].sort();
    },
  },
  ai: {
    token: null,
    make: (client, question) => answerTo(client, { id: crypto.randomUUID(), question }),
    async read(client, count) {
      const questions = await newest<Question>(client, `conversation:${CONVERSATION}`, count);
      for (const { id, question } of questions) {
        const answer = await answerTo(client, { id, question }, "-1");
        assert(answer.includes(`“${question}”`) && answer.endsWith("a real model here."), answer);
      }
      return questions.map(({ question }) => question);
    },
  },
};

type ServiceOptions = Pick<Deno.CommandOptions, "cwd" | "env">;

/** A server in a process group of its own. */
class Service {
  readonly #child: Deno.ChildProcess;
  readonly #read: Promise<void>;
  #printed = "";
  #starts = 0;
  #change = Promise.withResolvers<void>();

  constructor(command: readonly string[], options: ServiceOptions) {
    this.#child = new Deno.Command("setsid", {
      ...options,
      args: [...command],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#read = this.#follow();
  }

  /** Waits until the server has listened this many times. */
  async listens(starts: number): Promise<void> {
    while (this.#starts < starts) await soon(this.#change.promise);
  }

  /** Stops the server as `docker stop` does; returns the exit code. */
  async stop(): Promise<number> {
    this.#child.kill("SIGTERM");
    await this.#read;
    return (await this.#child.status).code;
  }

  /** Kills the server, which has no time to clean up. */
  async kill(): Promise<void> {
    const group = `-${this.#child.pid}`;
    await new Deno.Command("kill", { args: ["-KILL", "--", group], stderr: "null" }).output();
    await this.#child.status;
    await this.#read;
  }

  async #follow(): Promise<void> {
    for await (const part of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#printed += part;
      this.#starts = this.#printed.split("Listening on").length - 1;
      this.#change.resolve();
      this.#change = Promise.withResolvers();
    }
    this.#change.reject(new Error(`The server exited:\n${this.#printed}`));
    this.#change.promise.catch(() => {});
  }
}

for (const [name, { token, make, read }] of Object.entries(MAKERS)) {
  Deno.test(`A project from the template ${name} loses nothing`, async () => {
    await using mirror = await openMirror({ checkout: ROOT });
    await using registry = await openRegistry({ checkout: ROOT });
    const home = await Deno.makeTempDir({ prefix: "template-", dir: SHARED });
    const port = lowPort();
    const deno = `${home}/deno`;
    const env = {
      ...registry.env,
      JSR_URL: mirror.url,
      DENO_NO_UPDATE_CHECK: "1",
      NO_COLOR: "1",
      PATH: `${home}:${Deno.env.get("PATH")}`,
      PACE_MS: "1",
      PORT: String(port),
    };
    const client = () => connect(`ws://localhost:${port}/`, { token, transports: ["websocket"] });
    const made: string[] = [];
    const makes = async (text: string, by: Client) => {
      await soon(make(by, text));
      made.push(text);
    };
    const checkAll = async () => {
      await using reader = client();
      assertEquals(await soon(read(reader, made.length)), made);
    };
    // A cache and a home that the container's user can read.
    const readable = { ...env, DENO_DIR: `${home}/cache`, HOME: home };
    const run = async (command: readonly string[], cwd: string, variables = env) => {
      const { success, stderr } = await new Deno.Command(command[0]!, {
        ...{ args: command.slice(1), cwd, env: variables, stdin: "null" },
      }).output();
      assert(success, new TextDecoder().decode(stderr));
    };
    /** Runs a command until a function is done, and kills it. */
    const during = async (
      { command, ...options }: { readonly command: readonly string[] } & ServiceOptions,
      use: (service: Service) => Promise<void>,
    ) => {
      const service = new Service(command, options);
      try {
        await service.listens(1);
        await use(service);
      } finally {
        await service.kill();
      }
    };
    try {
      await copyDeno(deno);
      const files = filesOf(TEMPLATES[name]!, { name: "app", version: config.version });
      const app = `${home}/app`;
      for (const [path, text] of files) {
        const place = `${app}/${path}`;
        await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
        await Deno.writeTextFile(place, text);
      }
      await Deno.copyFile(registry.env["NPM_CONFIG_USERCONFIG"]!, `${app}/.npmrc`);

      const dev = { command: [deno, "task", "dev"], cwd: app, env };
      await during(dev, async (service) => {
        await using ann = client();
        for (const text of ["a first", "b second", "c third"]) await makes(text, ann);
        await Deno.writeTextFile(`${app}/server.ts`, `${files.get("server.ts")}// Saved.\n`);
        await service.listens(2);
        await checkAll();
        await makes("d fourth", ann);
      });
      await during(dev, checkAll);

      // The steps of the Dockerfile, in a folder for each container.
      const dockerfile = files.get("Dockerfile")!.replaceAll("\\\n", "");
      const built = async (image: string) => {
        const cwd = `${home}/${image}`;
        await Deno.mkdir(cwd);
        const copied = [...dockerfile.matchAll(/^COPY (.*) \S+$/gm)].flatMap(([, paths]) =>
          paths!.split(" ").filter((path) => !path.endsWith("*"))
        );
        for (const path of [...copied, ".npmrc"]) await run(["cp", "-r", path, cwd], app);
        const [install] = /(?<=^RUN )deno install.*$/m.exec(dockerfile)!;
        await run(["sh", "-c", install], cwd);
        await run([deno, "install", "--entrypoint", "server.ts"], cwd, readable);
        await run(["chmod", "-R", "a+rX,go-w", home], home);
        await Deno.mkdir(`${cwd}/data`);
        if (canSwitchUser) await run(["chown", `${USER}:${USER}`, "data"], cwd);
        const rights = ["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"];
        const [, ...args] = JSON.parse(/^CMD (.*)$/m.exec(dockerfile)![1]!) as string[];
        const command = [...canSwitchUser ? ["setpriv", ...rights] : [], deno, ...args];
        return { command, cwd, env: readable };
      };
      made.length = 0;
      const container = await built("one");
      await during(container, async () => {
        await using ann = client();
        for (const text of ["a first", "b second", "c third"]) await makes(text, ann);
      });
      await during(container, async (service) => {
        await checkAll();
        {
          await using ann = client();
          await makes("d fourth", ann);
        }
        assertEquals(await service.stop(), 0);
      });
      const next = await built("two");
      await Deno.remove(`${next.cwd}/data`);
      await Deno.rename(`${container.cwd}/data`, `${next.cwd}/data`);
      await during(next, checkAll);
    } finally {
      await Deno.remove(home, { recursive: true });
    }
  });
}
