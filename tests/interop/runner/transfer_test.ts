import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { memoryPair } from "../../../transport/mod.ts";
import { fetchFiles, FileFolder, serveFiles, type TransferSession } from "./transfer.ts";

const CARRIERS = ["bidirectional", "unidirectional", "datagram"] as const;

/** A folder with one file, and an empty folder for fetched files. */
class Folders implements AsyncDisposable {
  readonly #root: string;
  readonly www: FileFolder;
  readonly downloads: FileFolder;

  private constructor(root: string) {
    this.#root = root;
    this.www = new FileFolder(`${root}/www`);
    this.downloads = new FileFolder(`${root}/downloads`);
  }

  static async create(): Promise<Folders> {
    const folders = new Folders(await Deno.makeTempDir());
    await folders.www.save("greeting", new TextEncoder().encode("hello\nPUSH of a file\n"));
    return folders;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.#root, { recursive: true });
  }
}

for (const carrier of CARRIERS) {
  Deno.test(`fetchFiles() saves the files of serveFiles() by ${carrier}`, async () => {
    await using folders = await Folders.create();
    await using pair = memoryPair();
    const served = serveFiles(pair.server, folders.www);
    const request = { names: ["greeting"], into: folders.downloads };
    await fetchFiles(pair.client, carrier, request);
    assertEquals(await folders.downloads.read("greeting"), await folders.www.read("greeting"));
    pair.client.close();
    await served;
  });

  for (const name of ["missing", "../downloads/secret", "/etc/hostname"]) {
    Deno.test(`serveFiles() fails when ${carrier} requests ${name}`, async () => {
      await using folders = await Folders.create();
      await folders.downloads.save("secret", new Uint8Array(1));
      await using pair = memoryPair();
      const served = serveFiles(pair.server, folders.www).finally(() => pair.server.close());
      const request = { names: [name], into: folders.downloads };
      const fetched = fetchFiles(pair.client, carrier, request);
      await assertRejects(() => served);
      await assertRejects(() => fetched);
    });
  }
}

Deno.test("fetchFiles() repeats the request for a lost datagram", async () => {
  using time = new FakeTime();
  await using folders = await Folders.create();
  const requests: string[] = [];
  const asked = Promise.withResolvers<void>();
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>({
    transform(request, controller) {
      requests.push(new TextDecoder().decode(request));
      if (requests.length === 1) return asked.resolve();
      controller.enqueue(new TextEncoder().encode("PUSH greeting\nhello"));
    },
  });
  const session = { datagrams: { readable, writable } } as TransferSession;
  const fetched = fetchFiles(session, "datagram", {
    names: ["greeting"],
    into: folders.downloads,
  });
  await asked.promise;
  await time.tickAsync(500);
  await fetched;
  assertEquals(requests, ["GET greeting", "GET greeting"]);
  assertEquals(new TextDecoder().decode(await folders.downloads.read("greeting")), "hello");
});
