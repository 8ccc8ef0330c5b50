/**
 * Code that a page loads first. The parts that load later import all of this code, so that bundlers
 * keep the code in one file, which packs better than two.
 *
 * @module
 */
import "./connect.ts";
import "../transport/race/lazy_race.ts";
