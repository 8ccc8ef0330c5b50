/** The bank of the soak test of mutations. */

/** Id of the bank. */
export const ID = "bank:soak";

/** Number of accounts, and the coins of each at first. */
const [ACCOUNTS, FIRST_COINS] = [100, 100];

/** The rows of a new bank. */
export const ROWS = {
  coins: Object.fromEntries(
    Array.from({ length: ACCOUNTS }, (_, i) => [`account-${i}`, FIRST_COINS]),
  ),
};
