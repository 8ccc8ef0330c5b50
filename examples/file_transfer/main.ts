/**
 * Sends a file over a stream and shows the progress. If the connection is lost, the transfer
 * resumes.
 *
 * ```sh
 * deno run -N -R -W --unstable-net examples/file_transfer/main.ts --receive ./received
 * deno run -N -R --unstable-net examples/file_transfer/main.ts --send holiday.mp4
 * ```
 *
 * With `--once` the program sends a file to its own server over WebTransport and over WebSocket,
 * breaks each connection once, and exits.
 *
 * @module
 */
import { send } from "./client.ts";
import { sha256Of } from "./inbox.ts";
import { receiveInto } from "./server.ts";
import { ONCE, optionsOf, PORT } from "../shared/options.ts";

const options = optionsOf({
  run: "deno run -N -R -W --unstable-net examples/file_transfer/main.ts",
  about: "Sends a file over a stream, and resumes after a lost connection.",
}, {
  receive: { value: "FOLDER", help: "receives files into this folder" },
  port: PORT,
  send: { value: "FILE", help: "sends this file" },
  to: { value: "URL", default: "http://localhost:8000", help: "the server to send to" },
  once: ONCE,
});
if (options.once) await demonstrate();
else if (options.receive !== undefined) {
  await using server = receiveInto(options.receive, options.port);
  console.log(`Send files to ${server.url}`);
  await new Promise(() => {});
} else if (options.send !== undefined) {
  const { send: file, to } = options;
  const path = await send(to, file, { name: file, onProgress: progress("sent") });
  console.log(`stored as ${path}`);
} else console.error("Pass --receive FOLDER, or --send FILE");

/** Draws a progress bar: in place on a terminal, otherwise a line for each quarter. */
function progress(label: string): (bytes: number, size: number) => void {
  const isTerminal = Deno.stdout.isTerminal();
  let quarters = 0;
  return (bytes, size) => {
    const percent = percentOf(bytes, size);
    const bar = (of: number) =>
      `${label} [${"#".repeat(of / 5).padEnd(20, ".")}] ${`${of}`.padStart(3)} %`;
    if (isTerminal) {
      const end = percent === 100 ? "\n" : "";
      Deno.stdout.writeSync(new TextEncoder().encode(`\r${bar(percent)}${end}`));
    } else while (quarters < Math.floor(percent / 25)) console.log(bar(++quarters * 25));
  };
}

function percentOf(part: number, whole: number): number {
  return Math.floor(100 * part / Math.max(1, whole));
}

/** Sends a file to this program's server, and breaks each connection once. */
async function demonstrate(): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "skein-" });
  const path = `${folder}/holiday.bin`;
  try {
    await using server = receiveInto(`${folder}/received`, 0);
    for (const transport of ["webtransport", "websocket"] as const) {
      const label = transport.padEnd(12);
      const draw = progress(label);
      // 32 MiB with a different number at each position, so that misplaced bytes are detected.
      const numbers = new Uint32Array(2 ** 23).map((_, i) => i + transport.length);
      await Deno.writeFile(path, new Uint8Array(numbers.buffer));
      let isCut = false;
      const stored = await send(server.url, path, {
        name: "../../holiday.bin",
        transports: [transport],
        onProgress(bytes, size, cut) {
          draw(bytes, size);
          if (isCut || bytes < size / 4) return;
          isCut = true;
          console.log(`${label} cut`);
          cut();
        },
        onResume: (offset, size) => console.log(`${label} resumes at ${percentOf(offset, size)} %`),
      });
      const isSame = await sha256Of(stored) === await sha256Of(path);
      const end = stored.replace(/.*([/][0-9a-f]{64})/, "…");
      console.log(`${label} stored as ${end}, ${isSame ? "the same" : "another"}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
