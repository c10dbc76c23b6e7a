"""Check the contents of a release, and write the oldest dependencies that it admits.

check_dist.py DIST               the sdist and the wheel in the folder DIST; writes DIST/lowest.txt
check_dist.py --installed PYTHON the packages that the environment of PYTHON holds
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "holdfast"
# The TypeScript of the browser client: the sdist has it, the wheel has what is built from it.
BUILT_FROM = "holdfast/browser/source"
# hatchling adds the last two by itself.
SDIST_TOP = set(
    "src tests examples docs CHANGELOG.md LICENSE README.md pyproject.toml"
    " PKG-INFO .gitignore".split()
)
SDIST_HAS = {
    "src/holdfast/py.typed",
    f"src/{BUILT_FROM}/client.ts",
    f"src/{BUILT_FROM}/package-lock.json",
    "tests/conftest.py",
    "README.md",
    "LICENSE",
}
# anyio needs idna, and sniffio until 4.12.
INSTALLED = {PACKAGE, "anyio", "typing_extensions", "idna", "sniffio", "pip", "setuptools"}


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    code = {name for name in names if name.startswith(f"{PACKAGE}/")}
    source = {
        file.relative_to(ROOT / "src").as_posix()
        for file in (ROOT / "src" / PACKAGE).rglob("*")
        if file.is_file() and file.suffix != ".pyc" and "node_modules" not in file.parts
    }
    source = {name for name in source if not name.startswith(f"{BUILT_FROM}/")}
    assert f"{PACKAGE}/py.typed" in code, "the wheel has no py.typed"
    assert code == source, f"wheel and source differ in {sorted(code ^ source)}"
    rest = {name for name in names - code if not name.split("/")[0].endswith(".dist-info")}
    assert not rest, f"the wheel has beside the package {sorted(rest)}"
    print(f"{path.name}: {len(code)} files, as in src/ without {BUILT_FROM}")


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {""}
    top = {name.split("/")[0] for name in names}
    assert top <= SDIST_TOP, f"the sdist has {sorted(top - SDIST_TOP)}"
    assert names >= SDIST_HAS, f"the sdist lacks {sorted(SDIST_HAS - names)}"
    stray = {
        name
        for name in names
        if "__pycache__" in name or "node_modules" in name or name.endswith(".pyc")
    }
    assert not stray, f"the sdist has {sorted(stray)}"
    print(f"{path.name}: {len(names)} files")


def write_lowest(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lowest = [each.replace(">=", "==") for each in project["dependencies"]]
    assert all("==" in each for each in lowest), f"a dependency without lower bound: {lowest}"
    for extra in project["optional-dependencies"].values():
        loose = [each for each in extra if ">=" not in each and not each.startswith(PACKAGE)]
        assert not loose, f"an extra without lower bound: {loose}"
    path.write_text("\n".join(lowest) + "\n", "utf-8")


def check_installed(python: str) -> None:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    names = {each["name"].lower().replace("-", "_") for each in json.loads(listed.stdout)}
    assert names <= INSTALLED, f"the bare environment has {sorted(names - INSTALLED)}"
    print("installed:", *sorted(names))


def main(arguments: list[str]) -> None:
    match arguments:
        case ["--installed", python]:
            check_installed(python)
        case [folder]:
            (wheel,) = Path(folder).glob("*.whl")
            (sdist,) = Path(folder).glob("*.tar.gz")
            check_wheel(wheel)
            check_sdist(sdist)
            write_lowest(Path(folder) / "lowest.txt")
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
