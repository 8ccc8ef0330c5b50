/** Tests the page about backends in any language, and its receivers in Python and PHP. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { TEMPLATES } from "../../cli/templates/templates.ts";
import { lowPort } from "../networks/ports.ts";
import { until } from "../waiting.ts";
import { isInstalled } from "./programs.ts";
import { walk } from "./walk.ts";

const PAGE = "docs/recipes/any-backend.md";

const hasPhp = await isInstalled("php");
const hasPython = await isInstalled("python3");

walk([PAGE], { ports: [9000, 9001], ignore: !hasPhp || !hasPython });

const KEY = new Uint8Array(32).fill(7);
const FIVE_MINUTES_S = 300;

Deno.test("The page about backends shows the options and the check of the template", async () => {
  const page = await Deno.readTextFile(new URL(`../../${PAGE}`, import.meta.url));
  const { files } = TEMPLATES["hooks"]!;
  const [check] = /^def is_signed[^]*?(?=\n\n\n)/m.exec(files["backend.py"]!)!;
  for (const text of [files["skein.json"]!, check]) assert(page.includes(text), text);
});

/** A call, with a signature that a test may spoil. */
interface Call {
  readonly id: string;
  readonly timeS: number;
  readonly body: string;
}

async function signatureOf({ id, timeS, body }: Call, secret = KEY): Promise<string> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", secret, algorithm, false, ["sign"]);
  const text = new TextEncoder().encode(`${id}.${timeS}.${body}`);
  return `v1,${new Uint8Array(await crypto.subtle.sign("HMAC", key, text)).toBase64()}`;
}

const nowS = () => Math.floor(Date.now() / 1_000);

const subscribing = (): Call => ({
  id: crypto.randomUUID(),
  timeS: nowS(),
  body: JSON.stringify({ type: "subscribe", topic: "room:tea", user: "ann" }),
});

/** Runs a receiver on a free port, in a folder of its own. */
async function openReceiver(file: string, argsOf: (port: number) => readonly string[]) {
  const folder = await Deno.makeTempDir({ prefix: "receiver-" });
  await Deno.writeTextFile(`${folder}/${file}`, TEMPLATES["hooks"]!.files[file]!);
  const port = lowPort();
  const [program, ...args] = argsOf(port) as [string, ...string[]];
  const child = new Deno.Command(program, {
    args,
    cwd: folder,
    env: {
      HOOKS_SECRET: `whsec_${KEY.toBase64()}`,
      TMPDIR: folder,
    },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let printed = "";
  const read = async (stream: ReadableStream<Uint8Array>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) printed += text;
  };
  const reading = Promise.all([read(child.stdout), read(child.stderr)]);
  await until(() => /Waiting for calls|started/.test(printed));
  const post = async (body: BodyInit, headers: Record<string, string>) => {
    const response = await fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers, body });
    return { status: response.status, text: await response.text() };
  };
  return {
    printed: () => printed,
    post,
    async call(call: Call, spoilt: Partial<Record<string, string>> = {}) {
      const headers = {
        "webhook-id": call.id,
        "webhook-timestamp": String(call.timeS),
        "webhook-signature": await signatureOf(call),
        ...spoilt as Record<string, string>,
      };
      return await post(call.body, headers);
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
      await reading;
      await Deno.remove(folder, { recursive: true });
    },
  };
}

const OTHER_KEY = new Uint8Array(32).fill(8);

/** Ways in which a call is not the server's. */
const FORGERIES = fc.oneof(
  fc.constantFrom("", "v1,", "v1", " ", "v1, v1,", "v2,AAAA", "é", "v1," + "A".repeat(9_000)).map(
    (signature) => ({ "webhook-signature": signature }),
  ),
  fc.base64String().map((mac) => ({ "webhook-signature": `v1,${mac}` })),
  fc.constantFrom("", "0", "-1", "1e9", "NaN", "9".repeat(13), "9".repeat(5_000), " ", "１２").map(
    (time) => ({ "webhook-timestamp": encodeURIComponent(time) }),
  ),
  fc.integer({ min: -60, max: 60 }).filter((s) => s !== 0).map((s) => ({
    "webhook-timestamp": String(nowS() + s),
  })),
  fc.uuid().map((id) => ({ "webhook-id": id })),
);

const RECEIVERS = [
  ["backend.py", hasPython, (port: number) => ["python3", "backend.py", `${port}`]],
  ["backend.php", hasPhp, (port: number) => ["php", "-S", `127.0.0.1:${port}`, "backend.php"]],
] as const;

for (const [file, isHere, argsOf] of RECEIVERS) {
  Deno.test({
    name: `${file} denies a publication that is not a text, and serves on`,
    ignore: !isHere,
    async fn() {
      await using receiver = await openReceiver(file, argsOf);
      const publish = async (said: object) => {
        const body = JSON.stringify({ type: "publish", topic: "room:tea", user: "ann", ...said });
        const { status, text } = await receiver.call({ ...subscribing(), body });
        return [status, JSON.parse(text)];
      };
      const denied = { allow: false, code: "invalid", message: "Write a text" };
      for (const said of [{}, { data: null }, { data: { text: "Tea" } }, { base64: "AQID" }]) {
        assertEquals(await publish(said), [200, denied], JSON.stringify(said));
      }
      assertEquals(await publish({ data: " Tea? " }), [200, { allow: true, data: "Tea?" }]);
    },
  });

  Deno.test({
    name: `${file} refuses forged, late and replayed calls`,
    ignore: !isHere,
    async fn() {
      await using receiver = await openReceiver(file, argsOf);
      const isAccepted = async (...args: Parameters<typeof receiver.call>) => {
        const { status, text } = await receiver.call(...args);
        assert([200, 401, 413].includes(status), text);
        assertEquals(status === 200, text.includes("allow"));
        return status === 200;
      };
      assertEquals(await isAccepted(subscribing()), true);
      await fc.assert(
        fc.asyncProperty(FORGERIES, async (forgery) => !await isAccepted(subscribing(), forgery)),
        { numRuns: 100, seed: 68 },
      );
      await fc.assert(
        fc.asyncProperty(fc.nat(), fc.integer({ min: 1, max: 127 }), async (at, change) => {
          const call = subscribing();
          const bytes = new TextEncoder().encode(call.body);
          bytes[at % bytes.length]! ^= change;
          const { status } = await receiver.post(bytes, {
            "webhook-id": call.id,
            "webhook-timestamp": String(call.timeS),
            "webhook-signature": await signatureOf(call),
          });
          return status === 401;
        }),
        { numRuns: 50, seed: 68 },
      );
      for (const lateS of [-FIVE_MINUTES_S - 60, FIVE_MINUTES_S + 60]) {
        assertEquals(await isAccepted({ ...subscribing(), timeS: nowS() + lateS }), false);
      }
      for (const lateS of [-FIVE_MINUTES_S + 60, FIVE_MINUTES_S - 60]) {
        assertEquals(await isAccepted({ ...subscribing(), timeS: nowS() + lateS }), true);
      }
      const call = subscribing();
      const [own, other] = [await signatureOf(call), await signatureOf(call, OTHER_KEY)];
      assertEquals(await isAccepted(call, { "webhook-signature": other }), false);
      assertEquals(await isAccepted(call, { "webhook-signature": `${other} ${own}` }), true);
      // The receiver may close the connection before all of it is sent.
      const large = isAccepted({ ...call, body: call.body + " ".repeat(65_536) });
      assertEquals(await large.catch((error) => error instanceof TypeError ? false : error), false);

      const join = { type: "join", topic: "room:tea", user: "ann", at: 1, joinedAt: 1, data: null };
      const event = { ...subscribing(), id: "join:room:tea/ann/1", body: JSON.stringify(join) };
      for (let i = 0; i < 3; i++) assertEquals((await receiver.call(event)).status, 204);
      await until(() => receiver.printed().includes("join {"));
      assertEquals(receiver.printed().split("join {").length, 2);
    },
  });
}
