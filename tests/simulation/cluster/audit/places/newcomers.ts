/** Nodes that have just started, and have not heard of the other nodes yet. */
import { CloseCode } from "../../../../../errors.ts";
import { between } from "../../chance.ts";
import type { Audit, Expect } from "../audit.ts";
import { GONE_MS, KNOWN_MS, ROUND_MS, Service, type ServiceNode } from "./service.ts";

/** The user with all places taken on the old node. */
const USER = "tenant";

/** Topic of the messages to the user. */
const TOPIC = "note";

/** Messages to the user. */
const NOTES = 4;

/** Time behind the start in which a new node sends and is asked, in milliseconds. */
const YOUNG_MS = 700;

/**
 * Starts a node beside another with all places of a user, which runs or is frozen.
 *
 * @param audit The audit.
 */
export async function auditNewcomers(audit: Audit): Promise<void> {
  const { random } = audit;
  const expect: Expect = (...outcome) => audit.examine("places", ...outcome);
  const max = 1 + Math.floor(2 * random());
  const service = new Service(audit, "newcomers", { maxSessionsPerUser: max });
  const old = service.start();
  const got: unknown[][] = [];
  const tenants = Array.from({ length: max }, (_, i) => {
    const own: unknown[] = got[i] = [];
    return service.enter(USER, old, {
      onMessage: ({ topic, data }) => void (topic === TOPIC && own.push(data)),
    });
  });
  const areIn = await audit.until(() => tenants.every(({ isConnected }) => isConnected));
  expect(`${max} sessions of the first node`, true, areIn);
  await audit.pause(between(random, ROUND_MS, 1_500));

  // A node that a new one has not heard of is not gone before the new one has listened for as long.
  const frozenMs = random() < 0.4 ? between(random, ROUND_MS, GONE_MS - ROUND_MS) : 0;
  const thawed = frozenMs > 0 ? service.freeze(old, frozenMs) : undefined;
  const young = service.start();
  const tryPlace = () => audit.tryToEnter(service.enter(USER, young));
  // A new node does not know of a node that is silent in the first moments.
  const told = frozenMs === 0 ? tell(audit, young, random) : [];
  await audit.pause(between(random, 0, YOUNG_MS));
  const asked = frozenMs === 0 ? young.server.sessions(USER) : undefined;
  do {
    expect("session at a new node", "refused", await tryPlace());
  } while (old.host.isFrozen);
  const notes = await told;
  await thawed;
  await audit.pause(ROUND_MS);
  expect("messages of a new node to a user", Array(max).fill(notes), got);
  if (asked !== undefined) expect("sessions that a new node lists", max, (await asked).length);

  if (random() < 0.5) {
    const ended = await young.server.disconnect(USER, { code: CloseCode.forbidden });
    expect("closed sessions on all nodes", { closed: max, isComplete: true }, ended);
    await audit.pause(ROUND_MS);
  } else {
    old.host.kill({ power: true });
    const deadMs = audit.nowMs;
    const ended = young.server.disconnect(USER).then((ended) => {
      const isInTime = audit.nowMs - deadMs <= KNOWN_MS + ROUND_MS;
      expect("sessions of a dead node", { closed: 0, isComplete: true, isInTime: true }, {
        ...ended,
        isInTime,
      });
    });
    const outcome = await tryPlace();
    expect("session in a place of a node that has just died", "refused", outcome);
    // The new node has to listen before the old node is surely gone.
    await audit.pause(2 * KNOWN_MS);
    await ended;
  }
  expect("session in a free place", "connected", await tryPlace());
  await Promise.all(tenants.map((client) => client.close()));
  await service.close();
}

/** Sends to the user from the first moment of a node, some times. */
async function tell(
  audit: Audit,
  { server }: ServiceNode,
  random: () => number,
): Promise<number[]> {
  const notes: number[] = [];
  for (let n = 0; n < NOTES; n++) {
    server.to(USER).send(TOPIC, n);
    notes.push(n);
    await audit.pause(between(random, 0, YOUNG_MS / NOTES));
  }
  return notes;
}
