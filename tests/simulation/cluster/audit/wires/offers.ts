/** Lists of subprotocols that pages offer: the server chooses by section 1 of the protocol. */
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";
import { shuffled } from "../../chance.ts";

/** Pages, each with an offer of its own. */
const PAGES = 8;

/** Most subprotocols of one offer. */
const MOST = 5;

/** The subprotocol of sessions with messages. */
const SKEIN = "skein.1";

/** Subprotocols of QMux in the order in which a server prefers each group. */
const STREAMS = [
  ["qmux-02.skein.1", "qmux-01.skein.1"],
  ["qmux-02", "qmux-01"],
  ["qmux-02.chat", "qmux-01.chat", "qmux-01.skein.12"],
] as const;

/** Subprotocols that no server chooses. */
const UNKNOWN = [
  "qmux-00",
  "qmux-03",
  "webtransport",
  "qmux-2.chat",
  "qmux-02.",
  "skein.12",
  "skein.2",
  "chat",
] as const;

/** Announces a token: not chosen, and without a meaning beside other protocols than those of Skein. */
const TOKEN_MARK = "skein.auth";

/** Chooses as the protocol says; empty for a plain session. */
function chosen(offered: readonly string[]): string {
  if (offered.includes(SKEIN)) return SKEIN;
  for (const group of STREAMS) {
    const first = offered.find((name) => (group as readonly string[]).includes(name));
    if (first !== undefined) return first;
  }
  return "";
}

/** Draws an offer of subprotocols, each at most once. */
function drawn(random: () => number): string[] {
  // Without those that come first, the others decide.
  const groups = STREAMS.slice(Math.floor(STREAMS.length * random()));
  const known = random() < 0.2 ? [SKEIN, ...groups.flat()] : groups.flat();
  const length = 1 + Math.floor(MOST * random());
  const names = shuffled(random, [...known, ...UNKNOWN]).slice(0, length);
  const isAnnounced = random() < 0.3 && !/skein\.1$/.test(chosen(names));
  return isAnnounced ? shuffled(random, [...names, TOKEN_MARK]) : names;
}

/**
 * Opens pages with drawn offers.
 *
 * @param audit The audit.
 */
export async function auditOffers(audit: Audit): Promise<void> {
  const random = audit.chanceOf("offers");
  const host = audit.host("offers");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    onRefusal() {},
    onError() {},
  }));
  for (let page = 0; page < PAGES; page++) {
    const offered = drawn(random);
    const url = new URL(`wss://${host.name}/`);
    const socket = audit.network.sockets(audit.host("offers-page"))(url, offered);
    let outcome: string | undefined;
    socket.onopen = () => outcome = `in with "${socket.protocol}"`;
    socket.onclose = ({ code }) => outcome ??= `closed with ${code}`;
    await audit.until(() => outcome !== undefined);
    const what = `page that offers ${offered.join(", ")}`;
    audit.examine("lives", what, `in with "${chosen(offered)}"`, outcome ?? "no answer");
    socket.close(1_000);
  }
  await server.close();
}
