/**
 * Tests the seam of features: mounting, errors of a feature in each of its members, and order.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  connect,
  createServer,
  defineContract,
  dial,
  type Feature,
  type FeatureHost,
  MemoryBroker,
  Mount,
  type Mounted,
  RequestError,
  serve,
  Session,
} from "../mod.ts";
import { recordSessions, sessionSettings } from "../session/mod.ts";
import { memoryPair } from "../transport/mod.ts";
import { prometheusText } from "../server.ts";
import { turns } from "../testing/mod.ts";
import { z } from "zod";

/** Creates a feature from its members. */
function feature(name: string, mounted: Mounted | ((host: FeatureHost) => Mounted) = {}): Feature {
  return { name, mount: (host) => typeof mounted === "function" ? mounted(host) : mounted };
}

/** A feature with a method that needs a server. */
class Greeter implements Feature {
  readonly name = "greeter";
  readonly #mount = new Mount("new Greeter()");

  mount(host: FeatureHost): Mounted {
    this.#mount.set(host);
    return {};
  }

  greet(topic: string): void {
    this.#mount.host.topics.publish(topic, "hello");
  }
}

/** Topics that do not exist. */
const TOPICS: NonNullable<Mounted["topics"]> = {
  prefix: "stream:",
  subjectOf: (_session, topic) => Promise.resolve(topic),
  actionOf: () => "publish",
  publish: (_session, topic) => Promise.reject(new RequestError("not-found", `No "${topic}"`)),
  open(topic) {
    throw new TypeError(`No "${topic}"`);
  },
};

/** Collects the lines that are printed during a test. */
function printed(): { readonly lines: string[] } & Disposable {
  const lines: string[] = [];
  const { console } = globalThis;
  const { warn, error } = console;
  console.warn = (...line) => void lines.push(line.map(String).join(" "));
  console.error = console.warn;
  return { lines, [Symbol.dispose]: () => void Object.assign(console, { warn, error }) };
}

const at = (path: string) => new Request(`http://localhost${path}`);

Deno.test("A feature belongs to one server, and says how to mount it", async () => {
  const greeter = new Greeter();
  assertThrows(
    () => greeter.greet("news"),
    TypeError,
    "Cannot use new Greeter(): it has no server yet; pass it to serve({ features: [...] })",
  );
  await using _server = createServer({ features: [greeter] });
  greeter.greet("news");
  assertThrows(
    () => createServer({ features: [greeter] }),
    TypeError,
    "Cannot mount new Greeter(): it belongs to one server; create another with new Greeter()",
  );
});

Deno.test("createServer() mounts no feature if two of them have the same name", async () => {
  const greeter = new Greeter();
  assertThrows(
    () => createServer({ features: [greeter, feature("greeter")] }),
    TypeError,
    'Cannot create server: features must have different names, received "greeter" twice',
  );
  for (const name of ["", "a b", "1", "x".repeat(65), undefined as never]) {
    assertThrows(
      () => createServer({ features: [greeter, feature(name)] }),
      TypeError,
      "Cannot create server: the name of a feature must consist of 1 to 64 letters",
    );
  }
  await using _server = createServer({ features: [greeter] });
});

Deno.test("createServer() mounts no feature if another option is invalid", async () => {
  const greeter = new Greeter();
  assertThrows(
    () => createServer({ features: [greeter], origins: ["example.com/path"] }),
    TypeError,
  );
  await using _server = createServer({ features: [greeter] });
});

Deno.test("createServer() rejects overlapping paths, topics and raw QUIC with both names", () => {
  const http = (path: string): Mounted => ({
    http: { paths: [path], fetch: () => new Response() },
  });
  const topics = (prefix: string): Mounted => ({
    topics: { ...TOPICS, prefix },
  });
  const quic: Mounted = { quic: { protocols: ["raw"], accept: () => Promise.resolve() } };
  const cases: [Mounted, Mounted, string][] = [
    [http("/a"), http("/a"), "the path of two must not overlap one of one, received /a"],
    [http("/a"), http("/a/b"), "the path of two must not overlap one of one, received /a/b"],
    [http("/a/b"), http("/a"), "the path of two must not overlap one of one, received /a"],
    [topics("stream:"), topics("stream:x"), "the topics of two must not be those of one"],
    [topics("news:"), {}, 'the topics of one must start with "stream:", received "news:"'],
    [quic, quic, "only one feature can accept raw QUIC, received one and two"],
    [http("a"), {}, 'the path of feature "one" must be spelled as in a URL'],
    [http("/a/"), {}, 'the path of feature "one" must be spelled as in a URL'],
    [http("/a b"), {}, 'the path of feature "one" must be spelled as in a URL'],
  ];
  for (const [one, two, expected] of cases) {
    const features = [feature("one", one), feature("two", two)];
    const { message } = assertThrows(() => createServer({ features }), TypeError);
    assertStringIncludes(message, expected);
  }
});

Deno.test("createServer() closes the features that are mounted if another one throws", async () => {
  await using broker = new MemoryBroker();
  const closed = Promise.withResolvers<void>();
  const mounted: string[] = [];
  const features = [
    feature("first", () => {
      mounted.push("first");
      return { close: () => Promise.resolve(closed.resolve()) };
    }),
    feature("second", () => {
      throw new Error("no disk");
    }),
    feature("third", () => {
      mounted.push("third");
      return {};
    }),
  ];
  assertThrows(() => createServer({ broker, features }), Error, "no disk");
  await closed.promise;
  assertEquals(mounted, ["first"]);
});

Deno.test("createServer() says what mount() of a feature must return", async () => {
  const fetch = () => new Response();
  const cases: [unknown, string][] = [
    [undefined, "mount() of odd must return an object, received undefined"],
    [null, "mount() of odd must return an object, received null"],
    [Promise.resolve({}), "mount() of odd must return an object, received a promise"],
    [{ http: { fetch } }, "http of odd has neither paths nor wants"],
  ];
  const additions: [unknown, string][] = [
    [{ measurs: () => [] }, 'unknown option "measurs" in additions; did you mean "measures"?'],
    [
      { sessionOpened() {} },
      'unknown option "sessionOpened" in additions; did you mean "instrumentation.sessionOpened"?',
    ],
    [{ close: true }, "additions.close must be a function, received true"],
    [
      { instrumentation: { sessionOpend() {} } },
      'unknown option "sessionOpend" in additions.instrumentation; ' +
      'did you mean "sessionOpened"?',
    ],
    [{ instrumentation: { handle: 1 } }, "instrumentation.handle must be a function"],
    [
      { http: { path: "/a", fetch } },
      'unknown option "path" in additions.http; did you mean "paths"?',
    ],
    [{ http: { paths: ["/a"] } }, "additions.http.fetch must be given"],
    [
      { quic: { protocol: ["a"] } },
      'unknown option "protocol" in additions.quic; did you mean "protocols"?',
    ],
  ];
  for (const [mounted, expected] of additions) {
    const features = [{ name: "odd", mount: () => mounted as Mounted }];
    const { message } = assertThrows(() => createServer({ features }), TypeError);
    assertMatch(message, /^Cannot mount odd: .*additions/);
    assertStringIncludes(message, expected);
  }
  /** A class may have members of its own. */
  class Own {
    readonly ownName = "own";
    readonly instrumentation = this;
  }
  await createServer({ features: [feature("own", new Own() as Mounted)] }).close();
  using output = printed();
  for (const [mounted, expected] of cases) {
    const closed = Promise.withResolvers<void>();
    const first = feature("first", { close: () => Promise.resolve(closed.resolve()) });
    const odd: Feature = { name: "odd", mount: () => mounted as Mounted };
    const features = [first, odd];
    assertThrows(() => createServer({ features }), TypeError, `Cannot create server: ${expected}`);
    await closed.promise;
  }
  assertEquals(output.lines, []);
});

Deno.test("createServer() throws if a feature fails to start, and closes all features", async () => {
  const closed = Promise.withResolvers<void>();
  const features = [
    feature("first", { close: () => Promise.resolve(closed.resolve()) }),
    feature("second", {
      started() {
        throw new Error("no key");
      },
    }),
  ];
  assertThrows(() => createServer({ features }), Error, "no key");
  await closed.promise;
});

Deno.test("A member of a feature that is asynchronous by mistake ends nothing", async () => {
  using output = printed();
  /** An asynchronous function, which the type of a member without a result allows. */
  const fails = (where: string) => () => Promise.reject(new Error(`in ${where}`)) as never;
  await using server = createServer({
    features: [
      feature("odd", {
        started: fails("started"),
        unsubscribed: fails("unsubscribed"),
        disconnected: fails("disconnected"),
        measures: fails("measures"),
        quotaStats: fails("quotaStats"),
        http: { wants: fails("wants"), fetch: () => new Response("odd") },
      }),
    ],
    fetch: () => new Response("application"),
  });
  assertEquals(await (await server.fetch(at("/"))).text(), "application");
  assertStringIncludes(prometheusText(server), "skein_sessions");
  const { server: side } = memoryPair();
  await using session = new Session(side, sessionSettings({ side: "server" }));
  assertEquals(server.unsubscribe(session as never, "news"), false);
  await server.disconnect("ann");
  for (
    const where of ["started", "unsubscribed", "disconnected", "measures", "quotaStats", "wants"]
  ) {
    const line = `${where}() of the feature odd failed: Error: in ${where}`;
    assert(output.lines.some((printed) => printed.startsWith(line)), where);
  }
});

Deno.test("createServer() starts features in order, after all have been mounted", async () => {
  const calls: string[] = [];
  const one = (name: string) =>
    feature(name, () => {
      calls.push(`mount ${name}`);
      return { started: () => void calls.push(`start ${name}`) };
    });
  await using _server = createServer({ features: [one("b"), one("a")] });
  assertEquals(calls, ["mount b", "mount a", "start b", "start a"]);
});

Deno.test("FeatureHost.share() creates one part for all features of a server", async () => {
  class Part {}
  const parts: Part[] = [];
  const one = (name: string) =>
    feature(name, (host) => {
      parts.push(host.share(Part, () => new Part()));
      return {};
    });
  await using _first = createServer({ features: [one("a"), one("b")] });
  await using _second = createServer({ features: [one("a")] });
  assert(parts[0] === parts[1]);
  assert(parts[0] !== parts[2]);
});

Deno.test("Server.fetch() asks features in order, then the application", async () => {
  const by = (name: string, paths?: readonly string[]) =>
    feature(name, {
      http: {
        ...(paths && { paths }),
        ...(paths === undefined && { wants: ({ url }) => url.includes("wanted") }),
        fetch: () => new Response(name),
      },
    });
  await using server = createServer({
    features: [by("paths", ["/a", "/b"]), by("first"), by("second"), feature("none")],
    fetch: () => new Response("application"),
  });
  const ask = async (path: string) => await (await server.fetch(at(path))).text();
  assertEquals(await ask("/a"), "paths");
  assertEquals(await ask("/b/c?wanted"), "paths");
  assertEquals(await ask("/c/wanted"), "first");
  assertEquals(await ask("/ab"), "application");
});

Deno.test("Server.fetch() responds with 500 if a feature fails, and prints the error", async () => {
  using output = printed();
  await using server = createServer({
    features: [
      feature("odd", {
        http: {
          wants({ url }) {
            if (url.endsWith("/wants")) throw new Error("in wants");
            return true;
          },
          fetch({ url }) {
            if (url.endsWith("/sync")) throw new Error("in fetch");
            return Promise.reject(new Error("in the promise"));
          },
        },
      }),
    ],
    fetch: () => new Response("application"),
  });
  const ask = async (path: string) => {
    const response = await server.fetch(at(path));
    return [response.status, await response.text()];
  };
  assertEquals(await ask("/sync"), [500, "Internal server error"]);
  assertEquals(await ask("/async"), [500, "Internal server error"]);
  assertEquals(await ask("/wants"), [200, "application"]);
  for (const where of ["in fetch", "in the promise", "in wants"]) {
    assert(output.lines.some((line) => line.includes(where)), where);
  }
});

Deno.test("Server.fetch() responds with 500 if a feature returns no Response", async () => {
  using output = printed();
  const fetches: ((request: Request) => unknown)[] = [
    () => undefined,
    () => "text",
    () => Promise.resolve(undefined),
    () => Promise.resolve({ status: 200 }),
  ];
  for (const fetch of fetches) {
    for (const isGuarded of [false, true]) {
      const options = { path: "/odd", authorize: () => true };
      const odd = feature("odd", (host) => ({
        http: isGuarded
          ? host.guard(options, async ({ authorize, request }) => {
            await authorize("read", "");
            return fetch(request) as Response;
          })
          : { paths: ["/odd"], fetch: fetch as () => Response },
      }));
      await using server = createServer({ features: [odd] });
      const response = await server.fetch(at("/odd"));
      await response.body?.cancel();
      assertEquals(response.status, 500);
      const [by, line] = [isGuarded ? "the handler" : "fetch", output.lines.pop() ?? ""];
      assertStringIncludes(
        line,
        `A request to odd failed: TypeError: ${by} must return a Response, `,
      );
    }
  }
});

Deno.test("A feature with invalid metrics loses only its own, and the console says it once", async () => {
  const measure = {
    name: "chat.rooms",
    description: "Rooms",
    unit: "{room}",
    kind: "sum",
    values: [{ value: 1, attributes: { "chat.kind": "open" } }],
  };
  const valued = (one: unknown) => ({ ...measure, values: [one] });
  const cases: [unknown, string][] = [
    [{ ...measure, name: "skein.sessions" }, 'must not start with "skein.", received "skein.sess'],
    [{ ...measure, name: "skein_x" }, 'measures[0].name must not start with "skein."'],
    [{ ...measure, name: "notes.count" }, 'must be unique on a server, received "notes.count"'],
    [{ ...measure, name: "notes/count" }, "which is notes_count in Prometheus"],
    [{ ...measure, name: "a b" }, "measures[0].name must be a letter followed by"],
    [{ ...measure, name: undefined }, "measures[0].name must be given"],
    [
      { ...measure, kind: "histogram" },
      'kind must be "counter", "sum" or "gauge", received "histogram"',
    ],
    [{ ...measure, description: 1 }, "measures[0].description must be a string"],
    [{ ...measure, value: 1 }, 'unknown option "value" in measures[0]'],
    [{ ...measure, values: undefined }, "measures[0].values must be given"],
    [{ ...measure, values: [1] }, "measures[0].values[0] must be an object"],
    [valued({ value: "1" }), "measures[0].values[0].value must be a number"],
    [valued({ value: 1, attributes: { a: 1 } }), '.attributes["a"] must be a string'],
    [valued({ value: 1, attributes: { "a.1": "" } }), "must be a label of its own"],
    [valued({ value: 1, attributes: { "a.x": "", "b.x": "" } }), "must be a label of its own"],
    [valued({ value: 1, attributes: "x" }), ".attributes must be an object"],
    [null, "measures[0] must be an object"],
  ];
  const measures = (...all: unknown[]): Mounted => ({ measures: () => all as never });
  const notes = measures({ ...measure, name: "notes.count" });
  for (const [odd, expected] of cases) {
    using output = printed();
    await using server = createServer({
      features: [
        feature("notes", notes),
        feature("odd", measures(odd, { ...measure, name: "other" })),
        feature("last", measures({ ...measure, name: "other" })),
      ],
    });
    for (let scrape = 0; scrape < 2; scrape++) {
      const text = prometheusText(server);
      const types = text.match(/^# TYPE .*/gm)!;
      assertEquals(new Set(types).size, types.length);
      for (const name of ["skein_sessions", "notes_count", "other"]) {
        assert(types.includes(`# TYPE ${name} gauge`), `${name}: ${expected}`);
      }
    }
    assertEquals(output.lines.length, 1, expected);
    const [line] = output.lines as [string];
    assertStringIncludes(line, "measures() of the feature odd failed: Cannot export metrics: ");
    assertStringIncludes(line, expected);
  }
});

Deno.test("A feature with invalid counters of requests or limits breaks no scrape", async () => {
  using output = printed();
  const quota = { max: 1, taken: 1, rejected: { all: 0 } };
  await using server = createServer({
    features: [
      feature("sound", {
        http: {
          paths: ["/sound"],
          fetch: () => new Response(),
          stats: { active: 0, responses: { 200: 3 } },
        },
        quotaStats: () => ({ sound: quota as never }),
      }),
      feature("odd", {
        http: {
          paths: ["/odd"],
          fetch: () => new Response(),
          stats: { active: 0, responses: { 200: "many" as never } },
        },
        quotaStats: () => ({ odd: undefined as never }),
      }),
    ],
  });
  for (let scrape = 0; scrape < 2; scrape++) {
    const text = prometheusText(server);
    assertStringIncludes(text, 'skein_http_requests_total{feature="sound",status="200"} 3');
    assertStringIncludes(text, 'skein_quota_taken{quota="sound"} 1');
    assert(!text.includes('"odd"'));
  }
  assertEquals(output.lines.map((line) => line.slice(0, 60)).sort(), [
    "Skein: quotaStats() of the feature odd failed: Cannot export",
    "Skein: stats() of the feature odd failed: Cannot export metr",
  ]);
});

Deno.test("FeatureHost.guard() checks permission, and counts requests", async () => {
  using output = printed();
  await using server = createServer({
    features: [
      feature("notes", (host) => ({
        http: host.guard(
          { path: "/notes", authorize: ({ id }) => id === "mine" },
          async ({ authorize, request }) => {
            await authorize("read", request.url.split("/").at(-1)!);
            if (request.method === "HEAD") throw new Error("no note");
            return new Response("a note");
          },
        ),
      })),
      feature("local", (host) => ({
        http: host.guard({ path: "/local" }, async ({ authorize }) => {
          await authorize("read", "");
          return new Response("local");
        }),
      })),
    ],
  });
  const ask = async (path: string, method = "GET", hostname = "127.0.0.1") => {
    const request = new Request(`http://localhost${path}`, { method });
    const remoteAddr = { transport: "tcp", hostname, port: 1 } as const;
    const response = await server.fetch(request, { remoteAddr });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await ask("/notes/mine"), 200);
  assertEquals(await ask("/notes/other"), 403);
  assertEquals(await ask("/notes/mine", "HEAD"), 500);
  assertEquals(await ask("/local"), 200);
  assertEquals(await ask("/local", "GET", "192.0.2.1"), 403);
  assertEquals(server.httpStats.notes?.responses, { 200: 1, 403: 1, 500: 1 });
  assert(output.lines.some((line) => line.includes("no note")));
});

Deno.test("FeatureHost.guard() requires a call of authorize, and accepts any response", async () => {
  using output = printed();
  const responses: Record<string, () => Response> = {
    "/r/open": () => new Response("secret"),
    "/r/moved": () => Response.redirect("http://localhost/r"),
    "/r/none": () => new Response("none", { status: 404 }),
    "/r/error": () => Response.error(),
  };
  const guarded = (path: string, authorizes: boolean) =>
    feature("r", (host) => ({
      http: host.guard({ path, authorize: () => true }, async ({ authorize, request }) => {
        if (authorizes) await authorize("read", "");
        return responses[new URL(request.url).pathname]!();
      }),
    }));
  const statuses = async (authorizes: boolean) => {
    await using server = createServer({ features: [guarded("/r", authorizes)] });
    return await Promise.all(
      Object.keys(responses).map(async (path) => {
        const response = await server.fetch(at(path));
        await response.body?.cancel();
        assertEquals(response.headers.get("x-content-type-options"), "nosniff", path);
        return response.status;
      }),
    );
  };
  assertEquals(await statuses(true), [200, 302, 404, 500]);
  assertEquals(await statuses(false), [500, 500, 404, 500]);
  const missed = "The handler of r responded without calling authorize()";
  assert(output.lines.some((line) => line.includes(missed)));
});

Deno.test("FeatureHost.guard() responds with 500 if the handler does not wait for authorize()", async () => {
  using output = printed();
  const decided = Promise.withResolvers<boolean>();
  const bodies: string[] = [];
  await using server = createServer({
    authenticate: () => "ann",
    features: [
      feature("r", (host) => ({
        http: host.guard(
          { path: "/r", methods: ["GET", "POST"], authorize: () => decided.promise },
          ({ authorize, request }) => {
            void authorize("read", "");
            const body = new ReadableStream({ cancel: () => void bodies.push(request.method) });
            return new Response(body);
          },
        ),
      })),
    ],
  });
  for (const method of ["GET", "POST"]) {
    const request = new Request("http://localhost/r", { method });
    const response = await server.fetch(request);
    assertEquals(response.status, 500);
    await response.body?.cancel();
  }
  assertEquals(bodies, ["GET", "POST"]);
  const mistake = "The handler of r responded before authorize() had decided";
  assertStringIncludes(output.lines[0]!, mistake);
  // A denial that nobody waits for is no unhandled rejection, and a permission uses no slot.
  decided.resolve(true);
  const allowed = await server.fetch(new Request("http://localhost/r", { method: "POST" }));
  await allowed.body?.cancel();
  assertEquals(server.quotaStats["r.maxRequests"]?.taken, 0);
});

Deno.test("FeatureHost.guard() lets a body ask for further permissions", async () => {
  await using server = createServer({
    features: [
      feature("r", (host) => ({
        http: host.guard(
          { path: "/r", authorize: ({ id }) => Promise.resolve(id === "") },
          async ({ authorize }) => {
            await authorize("read", "");
            const item = authorize("read", "secret").then(() => "secret", () => "hidden");
            return new Response(ReadableStream.from([item]).pipeThrough(new TextEncoderStream()));
          },
        ),
      })),
    ],
  });
  const response = await server.fetch(at("/r"));
  assertEquals({ status: response.status, text: await response.text() }, {
    status: 200,
    text: "hidden",
  });
});

Deno.test("FeatureHost.guard() responds with the denial that a handler does not wait for", async () => {
  using output = printed();
  await using server = createServer({
    features: [
      feature("r", (host) => ({
        http: host.guard({ path: "/r", authorize: () => false }, async ({ authorize }) => {
          void authorize("read", "");
          await turns(20);
          return new Response("secret");
        }),
      })),
    ],
  });
  const response = await server.fetch(at("/r"));
  assertEquals(response.status, 403);
  assert(!(await response.text()).includes("secret"));
  const mistake = "The handler of r responded although authorize() denied its actions";
  assertStringIncludes(output.lines[0]!, mistake);
});

for (const outcome of ["denies", "fails"] as const) {
  Deno.test(`FeatureHost.guard() leaves no unhandled rejection if an authorize() that no one waits for ${outcome}`, async () => {
    using _output = printed();
    const decided = Promise.withResolvers<boolean>();
    await using server = createServer({
      features: [
        feature("r", (host) => ({
          http: host.guard({ path: "/r", authorize: () => decided.promise }, ({ authorize }) => {
            void authorize("read", "");
            return new Response("secret");
          }),
        })),
      ],
    });
    assertEquals((await server.fetch(at("/r"))).status, 500);
    if (outcome === "denies") decided.resolve(false);
    else decided.reject(new Error("the database is down"));
    await turns(20);
  });
}

Deno.test("Features receive revocations, and an error in one reaches no other", async () => {
  using output = printed();
  const calls: string[] = [];
  await using server = serve({
    port: 0,
    onListen() {},
    authenticate: ({ token }) => token ?? null,
    authorize: () => true,
    features: [
      feature("broken", {
        unsubscribed() {
          throw new Error("in unsubscribed");
        },
        disconnected() {
          throw new Error("in disconnected");
        },
        measures() {
          throw new Error("in measures");
        },
      }),
      feature("sound", {
        unsubscribed: (session, topic, { code }) =>
          calls.push(`${session.user} lost ${topic}: ${code}`) > 0,
        disconnected: (user) => void calls.push(`${user} left`),
        measures: () => [{
          name: "notes.count",
          description: "Notes",
          unit: "{note}",
          kind: "sum",
          values: [{ value: 3 }],
        }],
      }),
    ],
  });
  await using client = connect(`${server.url}?token=ann`, { backoff: { maxAttempts: 1 } });
  const news = client.subscribe("news");
  await news.ready;
  const [session] = server.topics.subscribers("news");
  assert(server.unsubscribe(session as never, "news", { code: "banned" }));
  const error = await assertRejects(() => Array.fromAsync(news));
  assertEquals((error as RequestError).failure.code, "banned");
  // A feature may have ended something of a session without a subscription.
  assert(server.unsubscribe(session as never, "other"));
  await server.disconnect("ann", { code: 4000 });
  assertEquals(calls, ["ann lost news: banned", "ann lost other: undefined", "ann left"]);
  assertStringIncludes(prometheusText(server), "notes_count 3\n");
  for (const where of ["in unsubscribed", "in disconnected", "in measures"]) {
    assert(output.lines.some((line) => line.includes(where)), where);
  }
});

Deno.test("Hooks of several features nest in the order of the features", async () => {
  const calls: string[] = [];
  const hooks = (name: string) =>
    feature(name, {
      instrumentation: {
        sessionOpened: () => void calls.push(`${name} opened`),
        sessionClosed: () => void calls.push(`${name} closed`),
        handle(_session, { topic }, run) {
          calls.push(`${name} before ${topic}`);
          run();
          calls.push(`${name} after ${topic}`);
        },
      },
    });
  await using server = serve({
    port: 0,
    onListen() {},
    onMessage(message) {
      calls.push("handler");
      message.reply("pong");
    },
    features: [hooks("a"), hooks("b")],
  });
  const session = await dial(server.url);
  assertEquals(await session.request("ping"), "pong");
  const [own] = server.manager.all();
  await session.close();
  await own!.closed;
  assertEquals(calls, [
    "a opened",
    "b opened",
    "a before ping",
    "b before ping",
    "handler",
    "b after ping",
    "a after ping",
    "a closed",
    "b closed",
  ]);
});

Deno.test("Features receive the publications of clients that the server published", async () => {
  const published: string[] = [];
  const counting = (name: string) =>
    feature(name, {
      instrumentation: {
        published: ({ user }, topic) => void published.push(`${name}: ${user} on ${topic}`),
      },
    });
  await using server = serve({
    port: 0,
    onListen() {},
    authenticate: ({ token }) => token ?? null,
    authorize: (_session, topic) => topic !== "secret",
    history: { log: {} },
    contract: defineContract({
      toClient: { news: z.number(), log: z.number(), secret: z.number(), typed: z.number() },
    }),
    features: [
      counting("a"),
      feature("none"),
      feature("other", { instrumentation: {} }),
      counting("b"),
    ],
  });
  await using session = await dial(`${server.url}?token=ann`);
  for (const topic of ["news", "log"]) {
    await session.publish(topic, 1);
    assertEquals(published.splice(0), [`a: ann on ${topic}`, `b: ann on ${topic}`]);
  }
  await assertRejects(() => session.publish("secret", 1), RequestError);
  await assertRejects(() => session.publish("typed", "text"), RequestError);
  server.publish("news", 1);
  await server.topics.append("log", 1);
  assertEquals(published, []);
});

Deno.test("A hook that fails names its feature, and the publication succeeds", async () => {
  using output = printed();
  const fail = () => {
    throw new Error("broken");
  };
  await using server = serve({
    port: 0,
    onListen() {},
    authorize: () => true,
    features: [
      feature("sound", { instrumentation: { published() {} } }),
      feature("odd", {
        instrumentation: { handshake: () => ({}) as never, sessionOpened: fail, published: fail },
      }),
    ],
  });
  await using session = await dial(server.url);
  await session.publish("news", 1);
  for (
    const line of [
      "handshake() of the feature odd failed: TypeError: handshake must return { ended }, received Object",
      "sessionOpened() of the feature odd failed: Error: broken",
      "published() of the feature odd failed: Error: broken",
    ]
  ) {
    assert(output.lines.some((printed) => printed.startsWith(line)), line);
  }
});

Deno.test("Server.drain() and close() wait for features that fail or hang only until their limits", async () => {
  using output = printed();
  using time = new FakeTime();
  const calls: string[] = [];
  const server = createServer({
    features: [
      feature("throws", {
        drain() {
          throw new Error("in drain");
        },
        close() {
          throw new Error("in close");
        },
      }),
      feature("rejects", {
        drain: () => Promise.reject(new Error("in the drain's promise")),
        close: () => Promise.reject(new Error("in the close's promise")),
      }),
      feature("hangs", {
        drain: ({ withinMs }) => {
          calls.push(`drain within ${withinMs}`);
          return new Promise(() => {});
        },
        close: () => {
          calls.push("close");
          return new Promise(() => {});
        },
      }),
    ],
  });
  const drained = server.drain({ withinMs: 3_000 });
  let isDrained = false;
  void drained.then(() => isDrained = true);
  const pass = async (seconds: number) => {
    for (let second = 0; second < seconds; second++) await time.tickAsync(1_000);
  };
  // The time limit of the drain, and ten seconds for the close.
  await pass(12);
  assertEquals(isDrained, false);
  await pass(2);
  await drained;
  assertEquals(calls, ["drain within 3000", "close"]);
  const lines = [
    "in drain",
    "in close",
    "in the drain's promise",
    "in the close's promise",
    "close() of the feature hangs failed: TimeoutError: No result within 10000 ms",
  ];
  for (const where of lines) {
    assert(output.lines.some((line) => line.includes(where)), where);
  }
  await server.close();
  assertEquals(calls.length, 2);
});

Deno.test("Server.drain() stops waiting for a feature when its signal aborts", async () => {
  const closing = Promise.withResolvers<void>();
  const draining = Promise.withResolvers<void>();
  const server = createServer({
    features: [
      feature("slow", {
        drain: () => {
          draining.resolve();
          return new Promise(() => {});
        },
        close: () => Promise.resolve(closing.resolve()),
      }),
    ],
  });
  const ending = new AbortController();
  const drained = server.drain({ withinMs: 60_000, signal: ending.signal });
  await draining.promise;
  ending.abort();
  await closing.promise;
  await drained;
});

Deno.test("Built-in prefixes stay reserved with and without features", async () => {
  const streams = feature("streams", { topics: TOPICS });
  for (const features of [[], [streams]]) {
    await using server = serve({ port: 0, onListen() {}, authorize: () => true, features });
    await using client = connect(server.url);
    for (const topic of ["stream:a", "stream:$skein:a", "$skein:nodes", "presence:lobby"]) {
      await assertRejects(() => client.publish(topic, "x", {}), Error, "", topic);
      if (topic.startsWith("presence:")) continue; // The application may use the prefix.
      assertThrows(() => server.publish(topic, "x"), TypeError, "Cannot publish", topic);
    }
  }
});

Deno.test("connect() and dial() reject a misspelled hook, and accept a feature as instrumentation", async () => {
  const misspelled = { instrumentation: { sesionOpened() {} } as object };
  const expected = 'unknown option "sesionOpened" in instrumentation; did you mean';
  assertThrows(() => connect("ws://localhost:1", misspelled), TypeError, expected);
  await assertRejects(() => dial("ws://localhost:1", misspelled), TypeError, expected);
  await using server = serve({ port: 0, onListen() {} });
  const instrumentation = recordSessions({ write() {} });
  await using _session = await dial(server.url, { instrumentation });
});
