"""What `deploy/` holds: units that systemd takes, services' files that are read, a container file whose sources are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from hansa.declared import decode
from hansa.errors import PlanError
from hansa.service.config import ServiceDocument

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*@.*"))
INSTRUCTIONS = (
    "FROM",
    "WORKDIR",
    "COPY",
    "RUN",
    "ENV",
    "USER",
    "VOLUME",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path):
    for each in UNITS:
        # What is not on this machine: the command and its account.
        text = each.read_text().replace("/opt/hansa/bin/hansa", shutil.which("true") or "")
        text = re.sub(r"^(User|Group)=.*$", "DynamicUser=yes", text, flags=re.MULTILINE)
        (tmp_path / each.name.replace("@", "@aurora")).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name.replace("@", "@aurora"))], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_unit_ends_as_services_do():
    text = (DEPLOY / "systemd" / "hansa@.service").read_text()
    assert "SuccessExitStatus=143" in text
    assert "RestartPreventExitStatus=1 2" in text
    assert "--service" in text


def test_the_composed_hosts_share_nothing_but_the_network_and_their_files_are_read():
    composed = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    services = composed["services"]
    assert set(services) == {"hub", "aurora", "borealis"}
    mounted = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    assert len(set(mounted)) == len(mounted) == 9
    assert set(composed["volumes"]) == {volume for volume in mounted if not volume.startswith("./")}
    assert [name for name, service in services.items() if "ports" in service] == ["hub"]
    for name, service in services.items():
        assert service["command"][2] == "--service"
        path = DEPLOY / "compose" / name / "service.toml"
        document = decode(tomllib.loads(path.read_text()), ServiceDocument, str(path), PlanError, {})
        assert document.state == "/var/lib/hansa/service"


def test_the_container_file_copies_what_is_there_and_runs_as_no_root():
    text = re.sub(r"\\\n", " ", (DEPLOY / "Containerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert {line[0] for line in lines} <= set(INSTRUCTIONS)
    for kind, rest in lines:
        if kind == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((DEPLOY.parent / source).exists() for source in sources)
    kinds = [line[0] for line in lines]
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
