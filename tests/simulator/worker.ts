/** The thread of a simulation: its globals are on virtual time before the program loads. */
import { textOf } from "../../base/error_text.ts";
import { installGlobals, type NetworkGlobals } from "./globals.ts";
import { SimulatedNetwork } from "./network/network.ts";
import type { SimulationContext, SimulationEnd, SimulationStart } from "./simulate.ts";
import { Simulation } from "./simulation.ts";

const thread = globalThis as unknown as {
  onmessage: (event: MessageEvent<SimulationStart>) => void;
  addEventListener(type: string, listener: (event: Event) => void): void;
  postMessage(message: SimulationEnd): void;
};

thread.onmessage = async ({ data }) => thread.postMessage(await simulationOf(data));

async function simulationOf(start: SimulationStart): Promise<SimulationEnd> {
  const { module, network: conditions, input, ...options } = start;
  let simulation: Simulation;
  let network: SimulatedNetwork;
  try {
    simulation = new Simulation(options);
    network = new SimulatedNetwork(simulation, conditions);
  } catch (error) {
    return { failure: textOf(error) };
  }
  thread.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    simulation.noteError("does not handle a rejection:", (event as PromiseRejectionEvent).reason);
  });
  thread.addEventListener("error", (event) => {
    event.preventDefault();
    simulation.noteError("does not catch an error:", (event as ErrorEvent).error);
  });

  // Programs have neither: packages that find one would look for their files next to this module.
  for (const name of ["importScripts", "location"]) Reflect.deleteProperty(globalThis, name);
  using _globals = installGlobals(simulation, globalsOf(simulation, network));
  let program: unknown;
  try {
    program = (await import(module) as { readonly default?: unknown }).default;
  } catch (error) {
    return { failure: `Cannot simulate: ${module} must load, received "${textOf(error)}"` };
  }
  if (typeof program !== "function") {
    const rule = `the default export of ${module} must be a function`;
    return { failure: `Cannot simulate: ${rule}, received ${typeof program}` };
  }
  try {
    const context: SimulationContext = { simulation, network, input };
    await program(context);
  } catch (error) {
    // Errors of events are already findings.
    const isFound = simulation.findings.at(-1)?.text === `throws ${error}`;
    if (!isFound) simulation.noteError("ends with", error);
  }
  const { seed, findings, digest, events, nowMs: simulatedMs, checkpoints, trace } = simulation;
  return { result: { seed, findings, digest, events, simulatedMs, checkpoints, trace } };
}

/** Creates the network globals, for code on any host. */
function globalsOf(simulation: Simulation, network: SimulatedNetwork): NetworkGlobals {
  const here = (verb: string) => {
    const { current } = simulation;
    if (current !== undefined && simulation.hosts.has(current.name)) return current;
    throw new TypeError(
      `Cannot ${verb}: the call must be in an event of a host, received one of the scenario`,
    );
  };
  return {
    fetch: async (input, init) => await network.fetch(here("fetch"))(input, init),
    WebSocket: class {
      static readonly CONNECTING = 0;
      static readonly OPEN = 1;
      static readonly CLOSING = 2;
      static readonly CLOSED = 3;

      constructor(url: string | URL, protocols: string | readonly string[] = []) {
        const all = typeof protocols === "string" ? [protocols] : protocols;
        return network.sockets(here("open WebSocket"))(new URL(url), all);
      }
    },
  };
}
