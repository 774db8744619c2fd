"""Make up the transfers of four banks, from a fixed seed: what this project trains on. No row is real.

python make_transfers.py

transfers.csv     last quarter's transfers of all banks, labelled, with a column that says whose each row is
BANK.csv          one bank's, without that column: what a member brings
next-quarter.csv     new transfers of all banks, with a column `bank`, and with what investigators found later

One transfer in about a hundred belongs to a laundering scheme, of one of three kinds:

* `mule`: a young account passes on at once nearly all that it received.
* `smurf`: many round amounts just under the reporting limit of 10,000.
* `loop`: large amounts to new partners abroad, which come back within days.

Every bank meets one kind often and the others seldom, because its customers differ. So each bank has few examples of most kinds, and
can learn them from the others. Honest transfers look much like each kind in some features, never in all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

BANKS = {
    "harbour": (9_000, (0.006, 0.003, 0.002)),
    "meadow": (6_000, (0.002, 0.006, 0.003)),
    "orchard": (5_000, (0.003, 0.002, 0.006)),
    "summit": (4_000, (0.003, 0.003, 0.003)),
}
"""Bank -> its transfers in a quarter, and the shares of them that are `mule`, `smurf` and `loop`."""

REPORTING_LIMIT = 10_000.0
SEED, SEED_OF_NEXT_QUARTER = 11, 12


def transfers(rng: np.random.Generator, rows: int, shares: tuple[float, float, float]) -> pd.DataFrame:
    """One bank's transfers: eight features and the label `laundering`."""
    mule, smurf, loop = (rng.random(rows) < share for share in shares)
    smurf &= ~mule
    loop &= ~(mule | smurf)

    amount = np.exp(rng.normal(6.0, 1.5, rows))
    is_rent_or_pay = rng.random(rows) < 0.15  # honest round amounts
    amount = np.where(is_rent_or_pay, np.round(amount, -2) + 100, amount)
    amount = np.where(smurf, np.round(rng.uniform(0.4, 0.99, rows) * REPORTING_LIMIT, -1), amount)
    amount = np.where(loop, np.exp(rng.normal(8.0, 1.1, rows)), amount)

    age_days = rng.gamma(1.3, 900, rows)
    age_days = np.where(mule, rng.gamma(1.4, 300, rows), age_days)

    passed_on = rng.beta(1.2, 2.5, rows)  # share of the last week's receipts that left again
    passed_on = np.where(mule, rng.beta(5, 2, rows), np.where(loop, rng.beta(3, 2, rows), passed_on))

    hours_held = rng.gamma(1.2, 110, rows)
    hours_held = np.where(mule, rng.gamma(1.5, 25, rows), np.where(loop, rng.gamma(2, 40, rows), hours_held))

    same_day = rng.poisson(1.2, rows) + rng.poisson(np.where(rng.random(rows) < 0.05, 6, 0))
    same_day = np.where(smurf, 1 + rng.poisson(2.5, rows), same_day)

    abroad = (rng.random(rows) < np.where(loop, 0.7, np.where(mule, 0.35, 0.12))).astype(int)
    new_partner = (rng.random(rows) < np.where(loop | mule, 0.7, 0.25)).astype(int)
    cash_share = rng.beta(1, 6, rows)
    cash_share = np.where(smurf, rng.beta(2.5, 3, rows), cash_share)

    return pd.DataFrame(
        {
            "amount": amount.round(2),
            "account_age_days": age_days.round(),
            "passed_on_share": passed_on.round(3),
            "hours_held": hours_held.round(1),
            "transfers_same_day": same_day,
            "abroad": abroad,
            "new_partner": new_partner,
            "cash_share": cash_share.round(3),
            "laundering": (mule | smurf | loop).astype(int),
        }
    )


def all_banks(seed: int) -> pd.DataFrame:
    """All banks' transfers."""
    rng = np.random.default_rng(seed)
    tables = []
    for bank, (rows, shares) in BANKS.items():
        table = transfers(rng, rows, shares)
        table.insert(0, "bank", bank)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    quarter = all_banks(SEED)
    quarter.to_csv("transfers.csv", index=False)
    for bank, table in quarter.groupby("bank"):
        table.drop(columns="bank").to_csv(f"{bank}.csv", index=False)
    all_banks(SEED_OF_NEXT_QUARTER).to_csv("next-quarter.csv", index=False)
    print("tables:", ", ".join(sorted(path.name for path in Path().glob("*.csv"))))


if __name__ == "__main__":
    main()
