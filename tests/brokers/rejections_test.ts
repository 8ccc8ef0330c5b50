/**
 * Tests stores that reject a node after its connection has opened, either from the start or when
 * credentials change. The process must keep running, `issues()` must name the cause, and the node
 * must reconnect by itself.
 */
import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { credsAuthenticator, nkeyAuthenticator, nkeys } from "@nats-io/nats-core";
import { Redis } from "ioredis";
import { BrokerError } from "../../errors.ts";
import type { Broker } from "../../pubsub/broker.ts";
import { NatsBroker } from "../../brokers/nats/mod.ts";
import type { NatsServers } from "../../brokers/nats/options.ts";
import { RedisBroker } from "../../brokers/redis/mod.ts";
import { append, BOUNDS, Hearing, noTimers } from "./receiving.ts";
import { isNatsMissing, NatsServer } from "./nats_server.ts";
import { isRedisMissing, RedisCluster, RedisServer } from "./redis_server.ts";
import { until } from "../waiting.ts";

/**
 * The number of attempts rejected in a row. The npm transports crashed the Deno process after
 * fewer.
 */
const ATTEMPTS = 15;

/** Publishes and appends until both succeed: an operator's command may still break a connection. */
async function serves(broker: Broker): Promise<void> {
  await using hearing = new Hearing(broker, "news");
  await hearing.ready;
  await until(() => {
    broker.publish({ topic: "news", payload: "1" });
    return hearing.publications.length > 0;
  });
  assertEquals((await append(broker, "kept", 1)).length, 1);
  await until(() => broker.issues().length === 0);
}

/** One kind of NATS credentials. */
interface NatsCredentials {
  readonly kind: string;
  readonly login: Partial<NatsServers>;
  /** Server settings that accept these credentials, and settings that reject them. */
  readonly accepts: string;
  readonly rejects: string;
}

function natsCredentials(): NatsCredentials[] {
  const [own, other] = [nkeys.createUser(), nkeys.createUser()];
  const nkey = (key: typeof own) => `authorization { users: [{ nkey: "${key.getPublicKey()}" }] }`;
  return [
    {
      kind: "user",
      login: { user: "app", pass: "one" },
      accepts: "authorization { users: [{ user: app, password: one }] }",
      rejects: "authorization { users: [{ user: app, password: two }] }",
    },
    {
      kind: "token",
      login: { token: "one" },
      accepts: "authorization { token: one }",
      rejects: "authorization { token: two }",
    },
    {
      kind: "nkey",
      login: { authenticator: nkeyAuthenticator(own.getSeed()) },
      accepts: nkey(own),
      rejects: nkey(other),
    },
    jwtCredentials(),
  ];
}

/** Credentials for an account whose key the server may or may not know. */
function jwtCredentials(): NatsCredentials {
  const [operator, user] = [nkeys.createOperator(), nkeys.createUser()];
  const [system, account] = [nkeys.createAccount(), nkeys.createAccount()];
  const operatorToken = natsToken(operator, operator, { type: "operator" });
  const limits = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, conn: -1, leaf: -1 };
  const storage = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };
  const systemToken = natsToken(operator, system, { type: "account", limits });
  const settings = (revocations: Record<string, number>) => {
    const claims = { type: "account", limits: { ...limits, ...storage }, revocations };
    return `operator: ${operatorToken}
      system_account: ${system.getPublicKey()}
      resolver: MEMORY
      resolver_preload: {
        ${system.getPublicKey()}: ${systemToken}
        ${account.getPublicKey()}: ${natsToken(operator, account, claims)}
      }`;
  };
  const userToken = natsToken(account, user, {
    type: "user",
    subs: -1,
    data: -1,
    payload: -1,
  });
  const creds = `-----BEGIN NATS USER JWT-----\n${userToken}\n------END NATS USER JWT------\n\n` +
    `-----BEGIN USER NKEY SEED-----\n${new TextDecoder().decode(user.getSeed())}\n` +
    `------END USER NKEY SEED------\n`;
  return {
    kind: "jwt",
    login: { authenticator: credsAuthenticator(new TextEncoder().encode(creds)) },
    accepts: settings({}),
    rejects: settings({ [user.getPublicKey()]: 4_000_000_000 }),
  };
}

/** Signs a NATS token about a subject. */
function natsToken(
  issuer: ReturnType<typeof nkeys.createUser>,
  subject: ReturnType<typeof nkeys.createUser>,
  nats: object,
): string {
  const encode = (value: object) =>
    new TextEncoder().encode(JSON.stringify(value)).toBase64({
      alphabet: "base64url",
      omitPadding: true,
    });
  const body = `${encode({ typ: "JWT", alg: "ed25519-nkey" })}.${
    encode({
      jti: crypto.randomUUID(),
      iat: 1_700_000_000,
      iss: issuer.getPublicKey(),
      name: "test",
      sub: subject.getPublicKey(),
      nats: { version: 2, ...nats },
    })
  }`;
  const signature = issuer.sign(new TextEncoder().encode(body));
  return `${body}.${signature.toBase64({ alphabet: "base64url", omitPadding: true })}`;
}

/** Connects with the credentials and counts the attempts. */
function natsNode({ servers }: NatsServer, { login }: NatsCredentials): [NatsBroker, () => number] {
  let attempts = 0;
  const authenticators = [login.authenticator ?? []].flat();
  const count = () => void attempts++;
  const broker = new NatsBroker({
    servers,
    reconnectTimeWait: 10,
    reconnectJitter: 10,
    ...login,
    authenticator: [...authenticators, count],
  });
  return [broker, () => attempts];
}

for (const credentials of natsCredentials()) {
  const { kind, accepts, rejects } = credentials;
  for (const way of ["reload", "restart"] as const) {
    Deno.test({
      name: `NatsBroker reconnects after a ${way} rejected the ${kind}, and names the cause`,
      // A server with in-memory JWT accounts reads them only when it starts.
      ignore: isNatsMissing || (kind === "jwt" && way === "reload"),
      async fn() {
        await using server = await NatsServer.start({ settings: accepts });
        const change = async (settings: string) => {
          if (way === "reload") return await server.reload({ settings });
          await server.kill();
          await server.restart({ settings });
        };
        const [broker, attempts] = natsNode(server, credentials);
        await using _broker = broker;
        await serves(broker);
        const before = attempts();
        await change(rejects);
        await until(() => attempts() > before + ATTEMPTS);
        await until(() => /Authorization Violation/.test(broker.issues().join()));
        assertMatch(
          broker.issues().join(),
          /NATS has been unreachable.*: Authorization Violation/,
        );
        await change(accepts);
        await serves(broker);
        assertEquals(broker.stats.interruptions > 0, true);
      },
    });
  }

  Deno.test({
    name: `NatsBroker waits if the ${kind} is rejected from the start, and names the cause`,
    ignore: isNatsMissing,
    async fn() {
      await using server = await NatsServer.start({ settings: rejects });
      const [broker, attempts] = natsNode(server, credentials);
      await using _broker = broker;
      await until(() => attempts() > 3);
      const issue = /NATS has not been reached since the start: Authorization Violation/;
      await until(() => issue.test(broker.issues().join()));
      await server.kill();
      await server.restart({ settings: accepts });
      await serves(broker);
    },
  });
}

Deno.test({
  name: "NatsBroker waits while the server accepts no more connections, and names the cause",
  ignore: isNatsMissing,
  async fn() {
    await using server = await NatsServer.start({ settings: "max_connections: 1" });
    await using first = new NatsBroker({ servers: server.servers });
    await serves(first);
    await using second = new NatsBroker({ servers: server.servers });
    await until(() => /maximum connections exceeded/.test(second.issues().join()));
    await first.close();
    await serves(second);
  },
});

/** One reason why Redis rejects a node. */
interface RedisRejection {
  readonly kind: string;
  readonly code: RegExp;
  readonly login: string;
  /** Operator commands that admit the node, and commands that reject it. */
  readonly accept: readonly (readonly string[])[];
  readonly reject: readonly (readonly string[])[];
  /** `false` if the login succeeds. */
  readonly isLogin?: false;
}

const RULES = ["on", "~*", "&*", "+@all"];

const REDIS_REJECTIONS: readonly RedisRejection[] = [
  {
    kind: "password",
    code: /WRONGPASS/,
    login: ":one@",
    accept: [["ACL", "SETUSER", "default", "resetpass", ">one"]],
    reject: [["ACL", "SETUSER", "default", "resetpass", ">two"]],
  },
  {
    kind: "missing password",
    code: /NOAUTH/,
    login: "",
    accept: [["ACL", "SETUSER", "default", "nopass"]],
    reject: [["ACL", "SETUSER", "default", "resetpass", ">two"]],
  },
  {
    kind: "user",
    code: /WRONGPASS/,
    login: "app:one@",
    accept: [["ACL", "SETUSER", "app", "reset", ">one", ...RULES]],
    reject: [["ACL", "DELUSER", "app"]],
  },
  {
    kind: "user's commands",
    code: /NOPERM/,
    login: "app:one@",
    accept: [["ACL", "SETUSER", "app", "reset", ">one", ...RULES]],
    reject: [["ACL", "SETUSER", "app", "reset", ">one", "on", "~*", "&*", "-@all"]],
    isLogin: false,
  },
];

/** Runs commands as an operator who is not affected by changes to the default user. */
async function operate(server: RedisServer, commands: readonly (readonly string[])[]) {
  for (const command of [...commands, ["CLIENT", "KILL", "TYPE", "normal"], PUBSUB]) {
    await server.run("--user", "root", "--pass", "root", "--no-auth-warning", ...command);
  }
}

/** Waits at the end of a test for the timers that a Redis client leaves running. */
const TIMERS: AsyncDisposable = { [Symbol.asyncDispose]: noTimers };

const PUBSUB = ["CLIENT", "KILL", "TYPE", "pubsub"];

/** Starts a server that has this operator. */
async function startRedis(): Promise<RedisServer> {
  const server = await RedisServer.start();
  await server.run("ACL", "SETUSER", "root", ">root", ...RULES);
  return server;
}

for (const { kind, code, login, accept, reject, isLogin = true } of REDIS_REJECTIONS) {
  Deno.test({
    name: `RedisBroker reconnects after the ${kind} was rejected, and names the cause`,
    ignore: isRedisMissing,
    async fn() {
      await using _timers = TIMERS;
      await using server = await startRedis();
      await operate(server, accept);
      await using broker = new RedisBroker({ url: `redis://${login}127.0.0.1:${server.port}` });
      await using hearing = new Hearing(broker, "other");
      await hearing.ready;
      await serves(broker);
      await operate(server, reject);
      await until(() => code.test(broker.issues().join()));
      await until(async () => await rejections(server) > ATTEMPTS / 3);
      assertMatch(broker.issues().join(), /Redis has been unreachable/);
      await operate(server, accept);
      await serves(broker);
    },
  });

  Deno.test({
    name: `RedisBroker waits if the ${kind} is rejected from the start, and names the cause`,
    ignore: isRedisMissing || !isLogin,
    async fn() {
      await using _timers = TIMERS;
      await using server = await startRedis();
      await operate(server, reject);
      await using broker = new RedisBroker({ url: `redis://${login}127.0.0.1:${server.port}` });
      await until(() => code.test(broker.issues().join()));
      assertMatch(broker.issues().join(), /Redis has not been reached since the start/);
      await operate(server, accept);
      await serves(broker);
    },
  });
}

/** The number of commands and logins that the server rejected. */
async function rejections(server: RedisServer): Promise<number> {
  const stats = await server.run(
    ...["--user", "root", "--pass", "root", "--no-auth-warning", "INFO", "errorstats"],
  );
  const counts = stats.matchAll(/errorstat_\w+:count=(\d+)/g).map(([, count]) => Number(count));
  return counts.reduce((sum, count) => sum + count, 0);
}

Deno.test({
  name: "RedisBroker names a channel that its user may not subscribe to, until the user may",
  ignore: isRedisMissing,
  async fn() {
    await using _timers = TIMERS;
    await using server = await startRedis();
    const narrow = ["ACL", "SETUSER", "app", "reset", ">one", "on", "~*", "resetchannels", "+@all"];
    await operate(server, [[...narrow, "&skein:*allowed*"]]);
    await using broker = new RedisBroker({ url: `redis://app:one@127.0.0.1:${server.port}` });
    await using denied = new Hearing(broker, "denied");
    await until(() => /rejects a subscription: NOPERM/.test(broker.issues().join()));
    await operate(server, [["ACL", "SETUSER", "app", "reset", ">one", ...RULES]]);
    await denied.ready;
    await serves(broker);
  },
});

for (const [kind, rules] of [["channels", ["resetchannels"]], ["INFO", ["-info"]]] as const) {
  Deno.test({
    name: `RedisBroker rejects appends without the permission for ${kind}, and stores none of them`,
    ignore: isRedisMissing,
    async fn() {
      await using _timers = TIMERS;
      await using server = await startRedis();
      await operate(server, [["ACL", "SETUSER", "app", "reset", ">one", ...RULES, ...rules]]);
      await using broker = new RedisBroker({ url: `redis://app:one@127.0.0.1:${server.port}` });
      await assertRejects(
        () => append(broker, "kept", 1),
        BrokerError,
        "Redis rejected the publication: NOPERM the Redis user needs",
      );
      assertMatch(
        broker.issues().join(),
        /Redis rejects a publication: NOPERM the Redis user needs/,
      );
      await operate(server, [["ACL", "SETUSER", "app", "reset", ">one", ...RULES]]);
      await serves(broker);
      const page = { bounds: BOUNDS, maxMessages: 10, maxBytes: 1_000 };
      assertEquals((await broker.history.read("kept", page)).publications.length, 1);
    },
  });
}

Deno.test({
  name: "RedisBroker names a publication that its user may not publish, until the user may",
  ignore: isRedisMissing,
  async fn() {
    await using _timers = TIMERS;
    await using server = await startRedis();
    await operate(server, [["ACL", "SETUSER", "app", "reset", ">one", ...RULES, "-publish"]]);
    await using broker = new RedisBroker({ url: `redis://app:one@127.0.0.1:${server.port}` });
    broker.publish({ topic: "news", payload: "1" });
    await until(() => /rejects a publication: NOPERM/.test(broker.issues().join()));
    await operate(server, [["ACL", "SETUSER", "app", "reset", ">one", ...RULES]]);
    await serves(broker);
  },
});

const RIGHTS = ["nopass", ...RULES];

for (
  const [kind, database, rights] of [
    ["is missing", "2", RIGHTS],
    ["is not permitted", "1", [...RIGHTS, "-select"]],
  ] as const
) {
  Deno.test({
    name: `RedisBroker uses no other database if that of its URL ${kind}, and names the cause`,
    ignore: isRedisMissing,
    async fn() {
      await using _timers = TIMERS;
      await using server = await RedisServer.start({ settings: { databases: "2" } });
      await server.run("ACL", "SETUSER", "default", ...rights);
      await using broker = new RedisBroker({ url: `${server.url}/${database}` });
      await until(() => /not been reached .*: (ERR|NOPERM)/.test(broker.issues().join()));
      await assertRejects(() => broker.store.claims("user"), BrokerError);
      assertEquals(await server.run("dbsize"), "0");
    },
  });
}

Deno.test({
  name: "RedisBroker on a cluster reconnects after the password was rejected, and names the cause",
  ignore: isRedisMissing,
  async fn() {
    await rejectedCluster();
    await noTimers();
  },
});

async function rejectedCluster(): Promise<void> {
  await using cluster = await RedisCluster.start();
  const setPassword = async (rule: string) => {
    for (const node of cluster.nodes) {
      await node.run("ACL", "SETUSER", "root", ">root", ...RULES);
      await operate(node, [["ACL", "SETUSER", "default", "resetpass", rule]]);
    }
  };
  await setPassword(">one");
  const client = new Redis.Cluster(cluster.startupNodes, { redisOptions: { password: "one" } });
  client.on("error", () => {});
  await using broker = new RedisBroker({ client });
  client.disconnect();
  await serves(broker);
  await setPassword(">two");
  await until(() => /WRONGPASS/.test(broker.issues().join()));
  await using late = new RedisBroker({ client });
  await until(() => /not been reached since the start: WRONGPASS/.test(late.issues().join()));
  for (const node of cluster.nodes) {
    await operate(node, [["ACL", "SETUSER", "default", "resetpass", ">one"]]);
  }
  await serves(broker);
  await serves(late);
}
