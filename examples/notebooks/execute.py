"""Run notebooks with the Python that runs this script, and keep their outputs in the files: those named, or all of this folder.

python execute.py [NOTEBOOK...]

No kernel is registered anywhere: the kernel is `ipykernel` of this very Python.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
LIMIT_S = 600
"""Of one cell; the first one that trains may have to compile kernels."""


class ThisPython(KernelSpecManager):
    """Knows one kernel, whatever the name: the Python that runs this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """See `KernelSpecManager`."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in its folder; the notebook with its outputs. Raises nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    manager: Any = AsyncKernelManager(kernel_spec_manager=ThisPython())
    client = NotebookClient(
        notebook, km=manager, timeout=LIMIT_S, resources={"metadata": {"path": str(path.parent)}}, record_timing=False
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(path.name)


if __name__ == "__main__":
    main()
