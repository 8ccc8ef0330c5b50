/**
 * The client of a page with one mutation; `bundle_test.ts` measures its bundle.
 *
 * @module
 */
import { connect, defineContract } from "../../client.ts";
import type { StandardSchema } from "../../base/standard_schema.ts";
import { defineMutations } from "../../session/mutations/mod.ts";

const seat: StandardSchema<{ readonly seat: string }> = {
  "~standard": { version: 1, vendor: "page", validate: (value) => ({ value: Object(value) }) },
};

const contract = defineContract({
  state: { "hall:{id}": { collections: { seats: seat }, mutations: { claimSeat: seat } } },
});

const mutations = defineMutations(contract, {
  claimSeat: (tx, { seat }, { id }) => tx.insert("seats", seat, { seat: id }),
});

using hall = await connect("/session", { contract }).state("hall:1", { mutations });
await hall.mutate.claimSeat({ seat: "7" });
