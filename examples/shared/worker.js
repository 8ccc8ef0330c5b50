// The server puts FILES in front of this script: the hash of each of the page's files, by path.
const CACHE = `page ${Object.values(FILES)}`;

addEventListener("install", (event) => event.waitUntil(fill()));
addEventListener("activate", (event) => event.waitUntil(takeOver()));
addEventListener("message", ({ data }) => data === "activate" && skipWaiting());
addEventListener("fetch", (event) => {
  const { url, method, destination } = event.request;
  const { origin, pathname } = new URL(url);
  // Requests of a script have no destination, so a session never passes through here.
  const isFile = method === "GET" && destination !== "" && origin === location.origin;
  if (isFile && Object.hasOwn(FILES, pathname)) event.respondWith(read(pathname, event.request));
});

/** Stores all files. It fails if one of them is missing, or belongs to another version. */
async function fill() {
  const requests = Object.entries(FILES).map(([path, integrity]) =>
    new Request(path, { integrity, cache: "no-cache" })
  );
  await (await caches.open(CACHE)).addAll(requests);
}

/** Removes the earlier version, and serves the pages that are open already. */
async function takeOver() {
  const old = (await caches.keys()).filter((name) => name.startsWith("page ") && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await clients.claim();
}

async function read(path, request) {
  const cache = await caches.open(CACHE);
  return await cache.match(path, { ignoreVary: true }) ?? fetch(request);
}
