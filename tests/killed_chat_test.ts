import { checkKilledChat } from "./programs/killed_chat.ts";

Deno.test("Client.publish() arrives once, in order, though the server was killed, with SqliteBroker", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await checkKilledChat("sqlite", `${folder}/chat.db`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("Client.publish() arrives at the next server, though the server was killed, with MemoryBroker", async () => {
  await checkKilledChat("memory", "");
});
