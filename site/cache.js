// Keeps all files of the site in the browser. The build puts the names of the files and the hash of their contents here:
// another build is another cache, used as soon as no page of the earlier one is open.

const FILES = ["./"];
const NAME = "e2v-site HASH";

self.addEventListener("install", (event) => {
  // `reload`: never a file of an earlier build from the browser's own cache.
  const requests = FILES.map((file) => new Request(file, { cache: "reload" }));
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  const older = async () => {
    const names = (await caches.keys()).filter((name) => name.startsWith("e2v-site ") && name !== NAME);
    await Promise.all(names.map((name) => caches.delete(name)));
    await self.clients.claim(); // the page waits for this before it loads its models, so that they are loaded once
  };
  event.waitUntil(older());
});

self.addEventListener("fetch", (event) => {
  event.respondWith(
    caches.open(NAME).then(async (cache) => (await cache.match(event.request, { ignoreSearch: true })) ?? fetch(event.request)),
  );
});
