/**
 * The server under measurement in `shared_port.ts`: an echo with a handler that computes. `--reuse
 * <port>` shares the port with other processes; without the option the module is for `deno serve`.
 *
 * @module
 */
import { createServer, serve, type ServerOptions } from "../../mod.ts";

/** About a third of a millisecond. */
const STEPS = 200_000;

const options: ServerOptions = {
  path: "/ws",
  onMessage({ topic, data }, session) {
    if (topic === "echo" && work() !== undefined) session.send("echo", data);
  },
};

const [flag, port] = Deno.args;
if (flag === "--reuse") {
  const shared = { port: Number(port), hostname: "127.0.0.1", reusePort: true } as const;
  serve({ ...options, ...shared, webTransport: false, onListen() {} });
}

export default { fetch: createServer(options).fetch };

function work(): number {
  let x = 1;
  for (let i = 0; i < STEPS; i++) x = Math.imul(x, 1_664_525) + 1_013_904_223 | 0;
  return x;
}
