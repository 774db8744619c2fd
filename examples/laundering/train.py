"""All banks train under the plan, in this process; every receiver keeps its model file.

python train.py
"""

from __future__ import annotations

from pathlib import Path

import hansa


def main() -> None:
    plan = hansa.read_plan(Path("plan.toml"))
    tables = {
        bank: hansa.read_rows(Path(f"{bank}.csv"), plan.schema, label_kind=plan.parameters.label_kind)
        for bank in plan.parties
    }
    run = hansa.train_in_process(plan, tables)
    for bank, party in run.parties.items():
        if party.model is None:
            print(f"{bank}: the plan does not name it a receiver, so it has no model")
        else:
            Path(f"{bank}-model.json").write_bytes(party.model)
            print(f"{bank}: {bank}-model.json")


if __name__ == "__main__":
    main()
