"""What a run shows in a marimo notebook: the cells of views.ipynb. `marimo edit examples/views_marimo.py` opens it.

marimo asks an object for `_repr_html_`, as Jupyter does: nothing has to be turned on.
"""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import pandas as pd

    import hansa
    from hansa.demo.telecom import FEATURES, simulate_operators

    made = pd.DataFrame(simulate_operators(seed=7, cells=(3_000, 2_500, 2_000)))
    cells = made[["operator", *list(FEATURES)[:6], "sleeping_cell"]]
    parties = hansa.split(cells, by="operator")
    return cells, hansa, parties, pd, simulate_operators


@app.cell
def _(hansa, parties):
    described = hansa.describe(parties, label="sleeping_cell")
    described
    return (described,)


@app.cell
def _(hansa, parties):
    run = hansa.fit(parties, label="sleeping_cell", rounds=15, max_depth=3, evaluation_fraction=0.3, progress=False)
    run
    return (run,)


@app.cell
def _(cells, hansa, pd, run, simulate_operators):
    others = pd.DataFrame(simulate_operators(seed=8, cells=(900, 800, 700)))
    found = hansa.evaluate(run.model, others[cells.columns.drop("operator")], label="sleeping_cell")
    found
    return (found,)


if __name__ == "__main__":
    app.run()
