"""Readers of XGBoost's model files that are not XGBoost: treelite, m2cgen and ONNX read of a file what they read of XGBoost's own.

XGBoost's own file is made of ours: XGBoost loads it, and saves it. Packages come from the package index that this machine is set to.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from hansa.trees.xgboost_json import to_json
from made_models import features_of, made_models
from other_python import environment

READERS = {
    "treelite": ("treelite==4.8.1", "xgboost-cpu==3.2.0"),
    "m2cgen": ("m2cgen==0.10.0", "xgboost-cpu==2.1.4", "scikit-learn<1.6"),
    "onnx": ("onnxmltools==1.16.0", "skl2onnx", "onnxruntime", "xgboost-cpu==3.2.0"),
}

READ = """
import importlib, json, pathlib, sys
import numpy as np
import xgboost

folder, reader = pathlib.Path(sys.argv[1]), sys.argv[2]


def treelite(path, features):
    import treelite

    loaded = treelite.frontend.load_xgboost_model(str(path), format_choice="json")
    return treelite.gtil.predict(loaded, features)


def m2cgen(path, features):
    import m2cgen

    objective = json.loads(path.read_text())["learner"]["objective"]["name"]
    kinds = {"binary:logistic": xgboost.XGBClassifier, "multi:softprob": xgboost.XGBClassifier}
    model = kinds.get(objective, xgboost.XGBRegressor)()
    model.load_model(path)
    names = {}
    exec(m2cgen.export_to_python(model), names)
    scores = np.array([names["score"](row.tolist()) for row in features])
    return scores[:, 1] if objective == "binary:logistic" else scores


def onnx(path, features):
    import onnxmltools, onnxruntime
    from onnxmltools.convert.common.data_types import FloatTensorType

    kind = [("rows", FloatTensorType([None, features.shape[1]]))]
    made = onnxmltools.convert_xgboost(xgboost.Booster(model_file=str(path)), initial_types=kind)
    found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"rows": features})[-1]
    return found[:, 1] if found.ndim == 2 and found.shape[1] == 2 else found


found = {}
for path in sorted(folder.glob("*.json")):
    features = np.load(path.with_suffix(".npy"))
    own = path.with_suffix(".own.json")
    xgboost.Booster(model_file=str(path)).save_model(own)
    told = []
    for file in (path, own):
        try:
            scores = np.asarray(globals()[reader](file, features), np.float64)
            told.append(scores.reshape(len(features), -1).tolist())
        except Exception as error:
            told.append(type(error).__name__)
    found[path.stem] = told
    own.unlink()
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=READERS)
def reader(request, tmp_path_factory):
    """A reader's name, and the interpreter of an environment that has it."""
    return request.param, environment(tmp_path_factory.mktemp(request.param), *READERS[request.param])


@pytest.mark.slow
def test_a_reader_reads_what_it_reads_of_a_file_of_xgboost(reader, tmp_path):
    """The same scores, or the same refusal; and it reads trees of numbers as they are."""
    name, python = reader
    models = {kind: plainly_named(model) for kind, model in made_models().items()}
    for kind, model in models.items():
        (tmp_path / f"{kind}.json").write_bytes(to_json(model))
        np.save(tmp_path / f"{kind}.npy", features_of(kind).T)
    done = subprocess.run([str(python), "-c", READ, str(tmp_path), name], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told) == set(models)
    right = []
    for kind, (ours, own) in told.items():
        assert (type(ours), ours if isinstance(ours, str) else None) == (
            type(own),
            own if isinstance(own, str) else None,
        ), kind
        if isinstance(ours, str):
            continue
        np.testing.assert_allclose(ours, own, rtol=1e-6, atol=1e-9, err_msg=kind)
        wanted = np.asarray(models[kind].predict(features_of(kind)), np.float64).reshape(len(ours), -1)
        if np.shape(ours) == wanted.shape and np.allclose(ours, wanted, rtol=1e-5, atol=1e-6):
            right.append(kind)
    print(f"{name} reads {len(right)} of {len(models)} kinds: {', '.join(sorted(right))}")
    print(f"not: {', '.join(sorted(set(models) - set(right)))}")
    assert right, told


def plainly_named(model):
    """A model whose features are called f0, f1, ...: names that ONNX's converter insists on."""
    return replace(model, feature_names=tuple(f"f{place}" for place in range(len(model.feature_names))))
