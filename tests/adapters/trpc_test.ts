/**
 * Tests the tRPC adapter from the examples with tRPC's own client and server.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { createTRPCClient, TRPCClientError } from "npm:@trpc/client@^11";
import { initTRPC, tracked, TRPCError } from "npm:@trpc/server@^11";
import { observable } from "npm:@trpc/server@^11/observable";
import { z } from "zod";
import { skeinLink } from "../../examples/adapters/trpc_client.ts";
import { trpcRequests } from "../../examples/adapters/trpc_server.ts";
import { type TestServer, testServer } from "../../testing/mod.ts";
import { until } from "../waiting.ts";

/** A transformer that preserves dates. It marks its output so that a test can check that it ran. */
const transformer = {
  serialize: (data: unknown): unknown =>
    data instanceof Date ? { date: data.getTime() } : { plain: data },
  deserialize: (data: { readonly date?: number; readonly plain?: unknown }): unknown =>
    data.date === undefined ? data.plain : new Date(data.date),
};

/** The events that the procedures recorded, in order. */
const events: string[] = [];

const t = initTRPC.context<{ readonly user: string }>().create({
  transformer,
  errorFormatter: ({ shape, error }) => ({ ...shape, data: { ...shape.data, kind: error.name } }),
});

/** Rejects when the call is cancelled. */
function cancelled(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    signal!.addEventListener("abort", () => {
      events.push("cancelled");
      reject(signal!.reason);
    });
  });
}

const router = t.router({
  greet: t.procedure.input(z.object({ name: z.string() })).query(({ input, ctx }) =>
    `${ctx.user} greets ${input.name}`
  ),
  later: t.procedure.input(z.date()).query(({ input }) => new Date(input.getTime() + 1_000)),
  nothing: t.procedure.mutation(() => undefined),
  missing: t.procedure.query(() => {
    throw new TRPCError({ code: "NOT_FOUND", message: "There is no such thing" });
  }),
  broken: t.procedure.query(() => {
    throw new Error("A bug");
  }),
  wait: t.procedure.mutation(({ signal }) => cancelled(signal)),
  nested: t.router({
    count: t.procedure.input(z.number()).subscription(async function* ({ input, signal }) {
      for (let i = 0; i < input; i++) yield i;
      if (input === 3) throw new TRPCError({ code: "CONFLICT", message: "Three is enough" });
      if (input === 7) await cancelled(signal);
    }),
    numbers: t.procedure.input(z.object({ lastEventId: z.string().optional() }))
      .subscription(async function* ({ input, signal }) {
        const first = Number(input.lastEventId ?? 0) + 1;
        for (let i = first; i < first + 3; i++) yield tracked(`${i}`, i);
        if (first < 4) await cancelled(signal);
      }),
    observed: t.procedure.subscription(() =>
      observable<string>((observer) => {
        observer.next("one");
        observer.next("two");
        observer.complete();
      })
    ),
  }),
});

function serveRouter(): { readonly server: TestServer<string>; readonly errors: string[] } {
  const errors: string[] = [];
  const server = testServer({
    authenticate: () => "ann",
    requests: trpcRequests({
      router,
      createContext: ({ user }) => ({ user }),
      onError: ({ error, path }) => errors.push(`${path}: ${error.code}`),
    }),
  });
  return { server, errors };
}

function connect(server: TestServer<string>) {
  const client = server.connect({ backoff: { firstDelayMs: 5 } });
  return {
    client,
    trpc: createTRPCClient<typeof router>({ links: [skeinLink({ client, transformer })] }),
    [Symbol.asyncDispose]: () => client.close(),
  };
}

Deno.test("skeinLink() calls queries and mutations, with context, types and transformer", async () => {
  const { server } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  assertEquals(await page.trpc.greet.query({ name: "bob" }), "ann greets bob");
  const date = new Date(1_700_000_000_000);
  assertEquals(await page.trpc.later.query(date), new Date(date.getTime() + 1_000));
  assertEquals(await page.trpc.nothing.mutate(), undefined);
  const many = Array.from({ length: 40 }, (_, i) => page.trpc.greet.query({ name: `${i}` }));
  assertEquals((await Promise.all(many)).at(-1), "ann greets 39");
});

Deno.test("skeinLink() rejects with the error of the procedure, in the router's shape", async () => {
  const { server, errors } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  const calls = [
    [() => page.trpc.missing.query(), "NOT_FOUND", "There is no such thing"],
    [() => page.trpc.broken.query(), "INTERNAL_SERVER_ERROR", "A bug"],
    // @ts-expect-error The compiler rejects this input, and so does the router.
    [() => page.trpc.greet.query({ name: 7 }), "BAD_REQUEST", "name"],
  ] as const;
  for (const [call, code, text] of calls) {
    const error = await assertRejects(call, TRPCClientError<typeof router>, text);
    assertEquals([error.data?.code, error.data?.kind], [code, "TRPCError"]);
  }
  // deno-lint-ignore no-explicit-any -- Stands for a router of another version.
  const other = page.trpc as any;
  const unknown = await assertRejects(() => other.no.such.query(), TRPCClientError<typeof router>);
  assertEquals(unknown.data?.code, "NOT_FOUND");
  assertEquals(errors, [
    "missing: NOT_FOUND",
    "broken: INTERNAL_SERVER_ERROR",
    "greet: BAD_REQUEST",
    "no.such: NOT_FOUND",
  ]);
});

/** Follows a subscription; resolves with everything received when it ends. */
function follow<T>(
  subscribe: (handlers: {
    onStarted: () => void;
    onData: (data: T) => void;
    onError: (error: { readonly data?: unknown }) => void;
    onComplete: () => void;
  }) => unknown,
): Promise<unknown[]> {
  return new Promise((resolve) => {
    const seen: unknown[] = [];
    subscribe({
      onStarted: () => seen.push("started"),
      onData: (data) => seen.push(data),
      onError: ({ data }) => resolve([...seen, (data as { code: string }).code]),
      onComplete: () => resolve([...seen, "complete"]),
    });
  });
}

Deno.test("skeinLink() delivers all items of a subscription, then its end or its error", async () => {
  const { server } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  const { count, observed } = page.trpc.nested;
  const two = await follow<number>((handlers) => count.subscribe(2, handlers));
  assertEquals(two, ["started", 0, 1, "complete"]);
  const three = await follow<number>((handlers) => count.subscribe(3, handlers));
  assertEquals(three, ["started", 0, 1, 2, "CONFLICT"]);
  const strings = await follow<string>((handlers) => observed.subscribe(undefined, handlers));
  assertEquals(strings, ["started", "one", "two", "complete"]);
  const many = await follow<number>((handlers) => count.subscribe(1_000, handlers));
  assertEquals(many.slice(1, -1), Array.from({ length: 1_000 }, (_, i) => i));
});

Deno.test("skeinLink() cancels a call and a subscription on the server", async () => {
  const { server } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  events.length = 0;
  const stop = new AbortController();
  const call = page.trpc.wait.mutate(undefined, { signal: stop.signal });
  await page.trpc.greet.query({ name: "bob" });
  stop.abort();
  await assertRejects(() => call, TRPCClientError);
  await until(() => events.length === 1);

  const seen: number[] = [];
  const following = page.trpc.nested.count.subscribe(7, { onData: (i) => seen.push(i) });
  await until(() => seen.length === 7);
  following.unsubscribe();
  await until(() => events.length === 2);
});

Deno.test("skeinLink() continues a subscription in the next session, after the last event", async () => {
  const { server } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  const states: string[] = [];
  const seen: unknown[] = [];
  const complete = Promise.withResolvers<void>();
  page.trpc.nested.numbers.subscribe({}, {
    onData: ({ id, data }) => seen.push([id, data]),
    onConnectionStateChange: ({ state }) => states.push(state),
    onComplete: () => complete.resolve(),
  });
  await until(() => seen.length === 3);
  const lost = page.trpc.wait.mutate();
  await page.trpc.greet.query({ name: "bob" });
  server.network.disconnect();
  await assertRejects(() => lost, TRPCClientError);
  await complete.promise;
  assertEquals(seen, [1, 2, 3, 4, 5, 6].map((i) => [`${i}`, i]));
  assert(states.includes("connecting"));
});

Deno.test("skeinLink() ends subscriptions with an error when the client closes", async () => {
  const { server } = serveRouter();
  await using _server = server;
  await using page = connect(server);
  const seen: unknown[] = [];
  const failed = new Promise((resolve) => {
    page.trpc.nested.count.subscribe(7, { onData: (i) => seen.push(i), onError: resolve });
  });
  await until(() => seen.length === 7);
  await page.client.close();
  assert(await failed instanceof TRPCClientError);
});
