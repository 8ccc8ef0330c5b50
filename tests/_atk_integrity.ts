// deno-lint-ignore-file
import { createHash } from "node:crypto";
import { dial } from "../client.ts";
import { listen } from "./servers.ts";
import { directStream, directReadable, directWritable } from "../transport/direct.ts";
const protocol = Deno.args[0] ?? "skein.1";
const TOTAL = Number(Deno.args[1] ?? 200) * 1e6;
let seed = Number(Deno.args[2] ?? 1);
const rnd = () => { seed = (seed * 1664525 + 1013904223) >>> 0; return seed / 2 ** 32; };
const int = (n: number) => Math.floor(rnd() * n);
const opened = Promise.withResolvers<any>();
const server = listen({ webTransport: false, onOpen: (s: any) => opened.resolve(s), ...(protocol === "skein.1" ? {} : {}) });
const client: any = await dial(server.url, { transports: ["websocket"], protocols: protocol === "skein.1" ? undefined : [protocol] } as any);
const far: any = protocol === "skein.1" || protocol.endsWith(".skein.1") ? await opened.promise : await opened.promise;
console.log(client.protocol ?? client.connection.protocol, client.connection.transport);
const hashes = new Map<string, string>(); // key -> sent hash
let done = 0, bytes = 0;
const errors: string[] = [];
function hash() { return createHash("sha256"); }
async function writer(w: any, key: string, size: number, mode: number) {
  const h = hash();
  let left = size;
  const chunk = () => { const n = Math.min(left, 1 + int([10, 1000, 20_000, 150_000, 600_000][int(5)])); left -= n; const b = new Uint8Array(n); for (let i = 0; i < n; i += 97) b[i] = int(256); h.update(b); return b; };
  if (mode === 0) {
    const d = directWritable(w);
    while (left > 0) await d.write(chunk());
    await d.close();
  } else if (mode === 1) {
    const wr = w.getWriter();
    while (left > 0) { const p = wr.write(chunk()); if (rnd() < 0.5) await p; else p.catch(() => {}); if (rnd() < 0.3) await wr.ready; }
    await wr.close();
  } else {
    await new ReadableStream({ pull(c) { if (left > 0) c.enqueue(chunk()); else c.close(); } }).pipeTo(w);
  }
  return h.digest("hex");
}
async function reader(r: any, mode: number) {
  const h = hash(); let n = 0;
  const add = (b: Uint8Array) => { h.update(b); n += b.byteLength; structuredClone(b, { transfer: [b.buffer] }); };
  if (mode === 0) { const d = directReadable(r); for (let b; (b = await d.read()) !== null;) { add(b!); if (rnd() < 0.01) await new Promise((r) => setTimeout(r, 3)); } }
  else if (mode === 1) { const rd = r.getReader({ mode: "byob" }); let buf = new ArrayBuffer(1 + int(100_000)); while (true) { const { done, value } = await rd.read(new Uint8Array(buf)); if (value?.byteLength) { h.update(value); n += value.byteLength; } if (done) break; buf = value.buffer; } }
  else if (mode === 2) { for await (const b of r) { add(b); } }
  else { await r.pipeTo(new WritableStream({ write: (b: Uint8Array) => add(b) })); }
  return { h: h.digest("hex"), n };
}
// each stream first sends 8-byte key
async function run(local: any, remote: any, name: string) {
  // accept loop on remote
  const accept = (async () => {
    const bi = (async () => { for await (const s of remote.connection.incomingBidirectionalStreams) void onBi(s).catch((e) => errors.push(name + " bi " + e)); })();
    const uni = (async () => { for await (const s of remote.connection.incomingUnidirectionalStreams) void onUni(s).catch((e) => errors.push(name + " uni " + e)); })();
    await Promise.all([bi, uni]);
  })();
  accept.catch(() => {});
  // echo: the hash is sent back. For uni it is reported through a map by order.
  async function onBi(s: any) {
    const mode = int(4);
    // half of them: echo everything back
    const d = directStream(s);
    const first = await d.read(); // 1 byte kind + maybe more
    const kind = first![0];
    if (kind === 0) { // echo by pipe
      const wr = s.writable.getWriter();
      const rest = first!.subarray(1); if (rest.length) await wr.write(rest);
      wr.releaseLock();
      await s.readable.pipeTo(s.writable);
    } else { // abort in the middle
      await d.read();
      d.cancel({ streamErrorCode: 7 }); d.abort({ streamErrorCode: 9 });
    }
  }
  async function onUni(s: any) {
    const { h } = await reader(s, int(4));
    uniGot.push(h);
  }
  const uniSent: string[] = [], uniGot: string[] = [];
  let left = TOTAL / 2;
  let active: Promise<unknown>[] = [];
  const one = async () => {
    while (left > 0) {
      const size = Math.min(left, 1 + int([100, 10_000, 300_000, 5_000_000][int(4)])); left -= size; bytes += size;
      const what = rnd();
      if (what < 0.45) { const w = await local.connection.createUnidirectionalStream({ sendOrder: int(3) }); uniSent.push(await writer(w, "", size, int(3))); }
      else if (what < 0.9) {
        const s = await local.connection.createBidirectionalStream();
        const d = directWritable(s.writable); await d.write(Uint8Array.of(0));
        const [a, b] = await Promise.all([writer(s.writable, "", size, int(3)), reader(s.readable, int(4))]);
        if (a !== b.h) errors.push(`${name} echo of ${size} differs: ${b.n}`);
      } else {
        const s = await local.connection.createBidirectionalStream();
        const d = directStream(s); await d.write(Uint8Array.of(1));
        await d.write(new Uint8Array(size)).catch((e: any) => { if (e.streamErrorCode !== 7) errors.push("w " + e); });
        let n = await d.read().catch((e: any) => e.streamErrorCode);
        if (n !== 9) errors.push(`${name} abort: ${n}`);
      }
      done++;
    }
  };
  for (let i = 0; i < 20; i++) active.push(one().catch((e) => errors.push(name + " " + e.stack)));
  await Promise.all(active);
  for (let i = 0; i < 100 && uniGot.length < uniSent.length; i++) await new Promise((r) => setTimeout(r, 20));
  const a = uniSent.toSorted().join(), b = uniGot.toSorted().join();
  if (a !== b) errors.push(`${name} uni differ ${uniSent.length} ${uniGot.length}`);
}
const t = performance.now();
const watchdog = setInterval(() => { console.log("…", done, (bytes / 1e6) | 0, "MB", client.connection.counters?.streamsClosed, (Deno.memoryUsage().rss / 1e6) | 0); }, 3000);
await Promise.all([run(client, far, "c>s"), run(far, client, "s>c")]);
clearInterval(watchdog);
console.log("done", done, "streams", (bytes / 1e6) | 0, "MB in", (performance.now() - t) | 0, "ms; errors:", errors.slice(0, 5), errors.length);
await new Promise((r) => setTimeout(r, 50));
for (const s of [client, far]) console.log(s.connection.counters, s.connection.unreadStreams);
await client.close(); await server.close();
