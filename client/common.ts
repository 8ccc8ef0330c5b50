/**
 * What a page loads at first. The parts that it loads later import all of it, so
 * that bundlers keep it in one file, which packs better than two.
 *
 * @module
 */
import "./connect.ts";
import "../transport/race/lazy_race.ts";
