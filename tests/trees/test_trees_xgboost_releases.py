"""Old and new releases of XGBoost, each in an environment of its own, load every kind of model that is written and predict the same.

The environments are made with pip, from the package index that this machine is set to. Where it cannot be reached, they are skipped.
"""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from hansa.trees.xgboost_json import to_json
from made_models import features_of, made_models
from other_python import environment

RELEASES = {"2.1.4": (3, 11), "3.0.5": (3, 11), "3.2.0": (3, 11), "3.4.1": (3, 12)}
"""XGBoost's release -> the least Python that it takes."""

PREDICT = """
import pathlib, sys
import numpy as np
import xgboost

folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.json")):
    booster = xgboost.Booster(model_file=str(path))
    names, types = booster.feature_names, booster.feature_types
    features = np.load(path.with_suffix(".features.npy"))
    matrix = xgboost.DMatrix(features, feature_names=names, feature_types=types, enable_categorical=True)
    np.save(path.with_suffix("." + xgboost.__version__ + ".npy"), booster.predict(matrix))
print(xgboost.__version__)
"""


@pytest.fixture(scope="module", params=RELEASES)
def python(request, tmp_path_factory):
    """The interpreter of an environment with this release."""
    folder = tmp_path_factory.mktemp(f"xgboost-{request.param}")
    return environment(folder, f"xgboost-cpu=={request.param}", least=RELEASES[request.param])


@pytest.mark.slow
def test_a_release_predicts_as_this_package_does(python, tmp_path):
    models = made_models()
    for name, ensemble in models.items():
        (tmp_path / f"{name}.json").write_bytes(to_json(ensemble))
        np.save(tmp_path / f"{name}.features.npy", features_of(name).T)
    done = subprocess.run([str(python), "-c", PREDICT, str(tmp_path)], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    release = done.stdout.strip()
    wrong = {}
    for name, ensemble in models.items():
        found = np.load(tmp_path / f"{name}.{release}.npy")
        wanted = ensemble.predict(features_of(name))
        worst = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else f"shape {found.shape}"
        if worst != pytest.approx(0, abs=1e-6 * max(1.0, float(np.abs(wanted).max()))):
            wrong[name] = worst
    assert wrong == {}
