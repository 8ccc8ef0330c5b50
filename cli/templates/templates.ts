/** The projects that `skein new` begins; their files load with this module. */
import aiContract from "./ai/contract.ts.txt" with { type: "text" };
import aiHtml from "./ai/index.html.txt" with { type: "text" };
import aiModel from "./ai/model.ts.txt" with { type: "text" };
import aiPage from "./ai/page.ts.txt" with { type: "text" };
import aiReadme from "./ai/README.md.txt" with { type: "text" };
import aiServer from "./ai/server.ts.txt" with { type: "text" };
import aiTest from "./ai/server_test.ts.txt" with { type: "text" };
import aiStyle from "./ai/style.css.txt" with { type: "text" };
import chatContract from "./chat/contract.ts.txt" with { type: "text" };
import chatHtml from "./chat/index.html.txt" with { type: "text" };
import chatPage from "./chat/page.ts.txt" with { type: "text" };
import chatReadme from "./chat/README.md.txt" with { type: "text" };
import chatServer from "./chat/server.ts.txt" with { type: "text" };
import chatTest from "./chat/server_test.ts.txt" with { type: "text" };
import chatStyle from "./chat/style.css.txt" with { type: "text" };
import gameHtml from "./game/index.html.txt" with { type: "text" };
import gamePage from "./game/page.ts.txt" with { type: "text" };
import gameReadme from "./game/README.md.txt" with { type: "text" };
import gameServer from "./game/server.ts.txt" with { type: "text" };
import gameTest from "./game/server_test.ts.txt" with { type: "text" };
import gameStyle from "./game/style.css.txt" with { type: "text" };
import gameWorld from "./game/world.ts.txt" with { type: "text" };
import minimalReadme from "./minimal/README.md.txt" with { type: "text" };
import minimalServer from "./minimal/server.ts.txt" with { type: "text" };
import minimalTest from "./minimal/server_test.ts.txt" with { type: "text" };
import dev from "./shared/dev.ts.txt" with { type: "text" };
import site from "./shared/site.ts.txt" with { type: "text" };
import status from "./shared/status.ts.txt" with { type: "text" };
import style from "./shared/style.css.txt" with { type: "text" };

/** A project to begin with. */
export interface Template {
  /** One line for the list of templates. */
  readonly summary: string;
  /** The files, by path in the project; `NAME` in the README stands for the name of the project. */
  readonly files: Readonly<Record<string, string>>;
  /** True if the project has a page, whose script has to be made. */
  readonly hasPage: boolean;
  /** Packages beside Skein and `@std/assert`. */
  readonly imports: Readonly<Record<string, string>>;
}

const ZOD = { "zod": "npm:zod@^4" };

/** All templates by name, in the order of the list. */
export const TEMPLATES: Readonly<Record<string, Template>> = {
  minimal: {
    summary: "A server of 20 lines, and its test",
    files: {
      "README.md": minimalReadme,
      "server.ts": minimalServer,
      "server_test.ts": minimalTest,
      "dev.ts": dev,
    },
    hasPage: false,
    imports: {},
  },
  chat: {
    summary: "Rooms with presence and history, in a page",
    files: {
      "README.md": chatReadme,
      "contract.ts": chatContract,
      "server.ts": chatServer,
      "server_test.ts": chatTest,
      "site.ts": site,
      "dev.ts": dev,
      "page/index.html": chatHtml,
      "page/page.ts": chatPage,
      "page/status.ts": status,
      "page/style.css": style + chatStyle,
    },
    hasPage: true,
    imports: ZOD,
  },
  ai: {
    summary: "Answers that stream and survive a reload, with a stand-in for a model",
    files: {
      "README.md": aiReadme,
      "contract.ts": aiContract,
      "model.ts": aiModel,
      "server.ts": aiServer,
      "server_test.ts": aiTest,
      "site.ts": site,
      "dev.ts": dev,
      "page/index.html": aiHtml,
      "page/page.ts": aiPage,
      "page/status.ts": status,
      "page/style.css": style + aiStyle,
    },
    hasPage: true,
    imports: ZOD,
  },
  game: {
    summary: "Players on a field: states by datagrams, events by messages",
    files: {
      "README.md": gameReadme,
      "server.ts": gameServer,
      "server_test.ts": gameTest,
      "site.ts": site,
      "dev.ts": dev,
      "world.ts": gameWorld,
      "page/index.html": gameHtml,
      "page/page.ts": gamePage,
      "page/status.ts": status,
      "page/style.css": style + gameStyle,
    },
    hasPage: true,
    imports: {},
  },
};

/** Makes the script of the page. */
const BUNDLE = "deno bundle --quiet --minify --platform browser -o page/page.js page/page.ts";

/** Image of the container, with the version of Deno that the templates are tested with. */
const IMAGE = "denoland/deno:2.9.6";

/** Makes the Dockerfile, which copies the files that the server needs: neither tests, texts nor `dev.ts`. */
function dockerfileOf({ files, hasPage }: Template): string {
  const modules = Object.keys(files).filter((path) =>
    path.endsWith(".ts") && !/\/|_test\.ts$|^dev\.ts$/.test(path)
  );
  return `# docker build -t app . && docker run --rm -p 8000:8000 app
FROM ${IMAGE}

ENV DENO_NO_UPDATE_CHECK=1
WORKDIR /srv/app

# Keep deno.lock in your repository: the image then has the packages of that file.
COPY deno.json deno.lock* ${modules.join(" ")} ./
${hasPage ? "COPY page/ page/\n" : ""}RUN deno install --entrypoint server.ts${
    hasPage ? " && deno task bundle" : ""
  }

# From here on without rights; 1993 is the user "deno" of the image.
USER 1993
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD \\
  ["deno", "eval", "const { ok } = await fetch('http://localhost:8000'); Deno.exit(ok ? 0 : 1)"]

# --cached-only: the container downloads no code.
CMD ["deno", "run", "--no-prompt", "--cached-only", "--unstable-net", \\
     "--allow-net", "--allow-env", "--allow-read=.", "server.ts"]
`;
}

/** Runs the server with the permissions that a server in development needs. */
const RUN = "deno run --allow-net --allow-env --allow-read --allow-write";

/** Runs the server with the addresses of this machine, and again at each change. */
const DEV = `${RUN} --allow-sys=networkInterfaces --watch dev.ts`;

/**
 * Makes the files of a project.
 *
 * @param template The template.
 * @param options Name of the project, and version of Skein.
 * @returns The files, by path in the project.
 */
export function filesOf(
  template: Template,
  { name, version }: { readonly name: string; readonly version: string },
): Map<string, string> {
  const { files, hasPage, imports } = template;
  const tasks = hasPage
    ? {
      dev: `deno task bundle && (${BUNDLE.replace("--quiet", "--quiet --watch")} & ${DEV})`,
      start: `deno task bundle && ${RUN} server.ts`,
      bundle: BUNDLE,
    }
    : { dev: DEV, start: `${RUN} server.ts` };
  const config = {
    imports: {
      "@skein/skein": `jsr:@skein/skein@^${version}`,
      "@std/assert": "jsr:@std/assert@^1",
      ...imports,
    },
    tasks: { ...tasks, test: `deno test --allow-net --allow-env --allow-read --allow-write` },
    // WebTransport needs QUIC, which Deno has behind this name.
    unstable: ["net"],
    ...(hasPage && { exclude: ["page/page.js"] }),
  };
  return new Map([
    ["deno.json", `${JSON.stringify(config, undefined, 2)}\n`],
    ["Dockerfile", dockerfileOf(template)],
    [".gitignore", hasPage ? "node_modules/\npage/page.js\n" : "node_modules/\n"],
    ...Object.entries(files).map(([path, text]) =>
      [path, path === "README.md" ? text.replace("NAME", () => name) : text] as const
    ),
  ]);
}
