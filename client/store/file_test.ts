import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { DatabaseSync } from "node:sqlite";
import process from "node:process";
import { StoreError } from "../../errors.ts";
import { TextLineStream } from "../../tests/soak/processes/lines.ts";
import { checkAfterKill, testStore } from "./conformance/mod.ts";
import { type FileSettings, FileStore } from "./file.ts";
import type { Store } from "./store.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

const ALL = { from: bytes() };

function fileStore(path: string, settings: Partial<FileSettings> = {}): FileStore {
  const defaults = { owner: "null", durability: "relaxed", maxBytes: 268_435_456 } as const;
  return new FileStore({ path, ...defaults, ...settings });
}

/** Runs a test with the path of a file in a folder of its own. */
async function withPath(test: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(`${folder}/test.db`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const put = (store: Store, key: number, size = 1) =>
  store.write({ puts: [{ key: bytes(key), value: new Uint8Array(size).fill(key) }] });

async function keysOf(store: Store): Promise<number[]> {
  return (await store.read(ALL)).entries.map(({ key }) => key[0]!);
}

/** Checks how a call rejects. */
async function assertFails(
  call: () => Promise<unknown>,
  reason: StoreError["reason"],
  message: RegExp,
): Promise<void> {
  const error = await assertRejects(call, StoreError);
  assertMatch(error.message, message);
  assertEquals(error.reason, reason);
}

const folders = new Map<string, string>();
testStore("FileStore", (storage) => {
  const folder = folders.get(storage) ?? Deno.makeTempDirSync();
  folders.set(storage, folder);
  return fileStore(`${folder}/test.db`);
}, {
  async remove(storage) {
    await Deno.remove(folders.get(storage)!, { recursive: true });
    folders.delete(storage);
  },
});

/** Starts a program that writes batches, and kills it once it has written some. */
async function killWriter(path: string, batches: number): Promise<number> {
  const program = new URL("file_kill_fixture.ts", import.meta.url);
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", program.href, path],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  let written = 0;
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) {
    written = Number(line);
    if (--batches === 0) child.kill("SIGKILL");
  }
  return written;
}

Deno.test("FileStore has whole batches after its process was killed", async () => {
  await withPath(async (path) => {
    for (const batches of [1, 7, 20]) {
      const written = await killWriter(path, batches);
      const store = fileStore(path);
      await checkAfterKill(store, written);
      await store.close();
    }
  });
});

Deno.test("FileStore keeps the entries of each owner apart in one file", async () => {
  await withPath(async (path) => {
    for (const [key, owner] of [`"ann"`, `"bob"`, "null"].entries()) {
      const store = fileStore(path, { owner });
      await store.delete(ALL);
      await put(store, key);
      await store.close();
    }
    const ann = fileStore(path, { owner: `"ann"` });
    assertEquals(await keysOf(ann), [0]);
    await ann.close();
  });
});

Deno.test("FileStore opens at its first operation, for one store at a time, and for its user only", async () => {
  await withPath(async (path) => {
    const first = fileStore(path, { durability: "strict" });
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
    assertEquals(await put(first, 1), "strict");
    if (Deno.build.os !== "windows") assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
    const second = fileStore(path);
    await assertFails(() => put(second, 2), "unavailable", /^Cannot write .*test\.db: another /);
    await first.close();
    await put(second, 2);
    assertEquals(await keysOf(second), [1, 2]);
    await second.close();
  });
});

Deno.test("FileStore says that the file is full, and goes on", async () => {
  await withPath(async (path) => {
    const store = fileStore(path, { maxBytes: 200_000 });
    await put(store, 1, 100_000);
    await assertFails(() => put(store, 2, 150_000), "full", /: the disk, or the file with its/);
    assertEquals(await keysOf(store), [1]);
    await store.delete(ALL);
    await put(store, 3, 150_000);
    assertEquals(await keysOf(store), [3]);
    await store.close();
  });
});

Deno.test("FileStore rejects files that it cannot read, and leaves them as they are", async () => {
  await withPath(async (path) => {
    const rejects = async (reason: StoreError["reason"], message: RegExp) => {
      const before = await Deno.readFile(path);
      const store = fileStore(path);
      await assertFails(() => put(store, 1), reason, message);
      await assertFails(() => store.read(ALL), reason, message);
      await store.close();
      assertEquals(await Deno.readFile(path), before);
    };
    await Deno.writeTextFile(path, "This is no database, but a text. ".repeat(100));
    await rejects("failed", /the file is not a SQLite database$/);

    await Deno.remove(path);
    const other = new DatabaseSync(path);
    other.exec("CREATE TABLE other (a)");
    other.close();
    await rejects("failed", /Another program wrote the file$/);

    await Deno.remove(path);
    const store = fileStore(path);
    for (let key = 1; key < 100; key++) await put(store, key, 3_000);
    await store.close();
    const newer = new DatabaseSync(path);
    newer.exec("PRAGMA user_version = 2");
    newer.close();
    await rejects("failed", /The file has the version 2 of another release; this one reads 1$/);
  });
});

Deno.test("FileStore reports a damaged file when it meets the damage", async () => {
  await withPath(async (path) => {
    const store = fileStore(path);
    for (let key = 1; key < 200; key++) await put(store, key, 3_000);
    await store.close();
    const file = await Deno.readFile(path);
    file.fill(0xaa, 8_192);
    await Deno.writeFile(path, file);
    const damaged = fileStore(path);
    await assertFails(
      () => damaged.read(ALL),
      "failed",
      /: the file is damaged; move it away to start with an empty one$/,
    );
    await damaged.close();
  });
});

Deno.test("FileStore says why it is unavailable: no folder, no permission, no SQLite", async () => {
  await withPath(async (path) => {
    const folder = path.slice(0, -"/test.db".length);
    for (
      const [path, why] of [
        [`${folder}/none/a.db`, /Cannot open .*: the folder .*none does not exist; create it$/],
        [folder, /: the path is a folder$/],
      ] as const
    ) {
      await assertFails(() => put(fileStore(path), 1), "unavailable", why);
    }
    const store = fileStore(path);
    using _none = stub(process, "getBuiltinModule", () => undefined as never);
    await assertFails(() => put(store, 1), "unavailable", /this runtime has no node:sqlite/);
  });
  const program = `
    import { FileStore } from ${JSON.stringify(new URL("file.ts", import.meta.url).href)};
    const store = new FileStore({ path: "a.db", owner: "null", durability: "relaxed", maxBytes: 1e6 });
    await store.write({}).catch(({ reason, message }) => console.log(reason, message));
  `;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--no-check", "--no-prompt", "--allow-read"],
      `data:application/typescript,${encodeURIComponent(program)}`,
    ],
    stdin: "null",
    stderr: "inherit",
  }).output();
  assertMatch(new TextDecoder().decode(stdout), /^unavailable Cannot open .*a\.db: Requires write/);
});
