"""Install the playbook's requirements into a Colab session, and leave its torch alone.

Colab's torch belongs to its driver; a second one breaks the session. So torch is taken out of the list and pinned
to what is there, and a package that was replaced while its old version is already loaded is reported, because only
a restart of the session mends that.

Left out on purpose: any installing elsewhere. On your own machine `make` or `pip install -r requirements.txt` does it.
"""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

KEPT = ("torch", "torchvision", "torchaudio")


def install_requirements(requirements: str | Path | None = None) -> None:
    """Install what `requirements.txt` lists, except torch; quiet, and quick when all of it is there.

    Raises:
        RuntimeError: pip failed, or a package that is loaded was replaced: restart the session and run again.
    """
    path = Path(requirements or Path(__file__).resolve().parent.parent / "requirements.txt")
    wanted = [line for line in _lines(path) if _name(line) not in KEPT]
    pins = [f"{name}=={version}" for name in KEPT if (version := _version(name))]
    before = {name: _version(name) for name in _loaded()}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted, *pins]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(
            f"expected pip to install {path.name} beside {', '.join(pins) or 'no torch'}; got:\n{reason}"
        )
    replaced = [f"{name} {old} -> {_version(name)}" for name, old in before.items() if old != _version(name)]
    if replaced:
        raise RuntimeError(
            f"replaced while the old version was loaded: {', '.join(replaced)}; "
            "restart the session (Runtime > Restart session) and run this cell again"
        )


def _lines(path: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _name(requirement: str) -> str:
    return re.split(r"[\s=<>!~\[;@]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _loaded() -> list[str]:
    top = {module.split(".")[0] for module in sys.modules}
    packages = metadata.packages_distributions()
    return sorted({name for module in top for name in packages.get(module, ())})
