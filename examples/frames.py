"""The same rows as frames of pandas, polars and Arrow and as NumPy arrays give the same model, to the byte.

python examples/frames.py
"""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

import hansa

rng = np.random.default_rng(1)
rows = pd.DataFrame(rng.normal(size=(600, 3)), columns=["f0", "f1", "f2"])
rows["operator"] = np.array(["aurora", "borealis", "cirrus"])[np.arange(600) % 3]
rows["fault"] = (rows["f0"] + rows["f1"] ** 2 > 1).astype(int)

models = {}
for library, frame in {"pandas": rows, "polars": pl.from_pandas(rows), "Arrow": pa.Table.from_pandas(rows)}.items():
    models[library] = hansa.fit(hansa.split(frame, by="operator"), label="fault", rounds=10).model.to_json()
operators = hansa.split(rows, by="operator")
arrays = {name: (part[["f0", "f1", "f2"]].to_numpy(), part["fault"].to_numpy()) for name, part in operators.items()}
models["NumPy"] = hansa.fit(arrays, rounds=10).model.to_json()
assert len(set(models.values())) == 1
print(f"{', '.join(models)}: the same model of {len(models['NumPy']):,} bytes")
