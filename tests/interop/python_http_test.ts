/** Runs the recipe for Python, with nothing but its standard library, while the server is killed. */
import { assertEquals } from "@std/assert";
import { isMissing } from "../brokers/programs.ts";
import { pageBlocks, PageServer } from "../programs/page_server.ts";
import { isRedisMissing, RedisServer } from "../brokers/redis_server.ts";
import { lowPort } from "../networks/ports.ts";
import { PeerServer } from "./peers.ts";

const PAGE = "docs/recipes/python.md";

/** Publications, and how often the server is killed. */
const [PUBLICATIONS, KILLS] = [200, 3] as const;

/** Publishes each number twice in one thread, and prints what it follows in another one. */
const PROGRAM = `
import json, threading
from skein_http import follow, publish

def publish_all():
    for n in range(${PUBLICATIONS}):
        for _ in range(2):
            publish("orders", n, key=f"order-{n}")

publish("orders", "first", "first")
for event_id, event in follow("orders", last=1):
    print(json.dumps(event), flush=True)
    if event.get("data") == "first":
        threading.Thread(target=publish_all, daemon=True).start()
    if event.get("data") == ${PUBLICATIONS - 1}:
        break
`;

Deno.test({
  name:
    "the recipe for Python publishes and follows each message once, though the server is killed",
  ignore: isRedisMissing || await isMissing("python3", "Python"),
  async fn() {
    await using redis = await RedisServer.start();
    const blocks = await pageBlocks(PAGE);
    const port = lowPort();
    const text = blocks.get("server.ts")!.replace("port: 8000", `port: ${port}`);
    await using server = new PageServer(text, { port, env: { REDIS_URL: redis.url } });
    await server.start();

    const folder = await Deno.makeTempDir();
    const library = blocks.get("skein_http.py")!.replace("localhost:8000", `127.0.0.1:${port}`);
    await Deno.writeTextFile(`${folder}/skein_http.py`, library);
    await Deno.writeTextFile(`${folder}/main.py`, PROGRAM);
    await using program = new PeerServer(
      new Deno.Command("python3", {
        args: [`${folder}/main.py`],
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
    const events: unknown[] = [];
    for (let kills = 0; events.length <= PUBLICATIONS;) {
      events.push(await program.next());
      if (kills < KILLS && events.length > (kills + 1) * PUBLICATIONS / (KILLS + 1)) {
        kills++;
        await server.kill();
        await server.start();
      }
    }
    const numbers = Array.from({ length: PUBLICATIONS }, (_, n) => ({ data: n }));
    assertEquals(events, [{ data: "first" }, ...numbers]);
  },
});
