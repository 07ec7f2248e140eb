"""What is shipped: locks with hashes, reasons for dependencies, the wheel's contents, the image's recipe and how it runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rig import Connection, RawUpstream, Started, archive_lines, free_port, raw_request, wait_for

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("archive", "dashboard", "gateway")
LOCKS = ("requirements.lock", "requirements-dev.lock")

TOP_LEVEL = {
    *(".ci", ".dockerignore", ".editorconfig", ".github", ".gitignore", "Dockerfile", "Makefile", "openspec", "pyproject.toml", "tests"),
    *("ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "README.md", "docs", *ROOMS, *LOCKS),
}
"""What lies at the top. One more is a decision, made here."""

FLOORS = {"starlette": (0, 49, 1), "h11": (0, 16, 0), "brotli": (1, 2, 0)}
"""The first releases without a hole that this product's way of using them would open."""


# Locks


def pins(lock: str) -> dict[str, tuple[str, str]]:
    """Each locked package: its version, and the marker that says where it is wanted."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in filter(None, text.splitlines()):
        match = re.fullmatch(r"(\S+)==(\S+)(?: ; (.*?))?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert match, f"not a hashed pin: {line[:80]}"
        found[match[1]] = (match[2], match[3] or "")
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_pins_with_hashes_and_nothing_else(lock: str) -> None:
    assert pins(lock)  # no index, no address, no path: each line is a pin with its hashes


def test_both_locks_agree() -> None:
    dev = pins("requirements-dev.lock")
    differing = {
        name: (version, dev.get(name)) for name, (version, _) in pins("requirements.lock").items() if dev.get(name, ("",))[0] != version
    }
    assert not differing


def test_the_locks_satisfy_the_project() -> None:
    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    groups = PROJECT["dependency-groups"]
    wanted = [
        (Requirement(line), run) for line in [*PROJECT["project"]["dependencies"], *groups["build"], *PROJECT["build-system"]["requires"]]
    ]
    wanted += [(Requirement(line), dev) for line in groups["dev"] if isinstance(line, str)]
    for requirement, lock in wanted:
        version = lock.get(canonicalize_name(requirement.name), ("", ""))[0]
        assert version, f"{requirement} is not locked: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version!r}: make lock"


@pytest.mark.parametrize("name", FLOORS)
def test_known_holes_stay_closed(name: str) -> None:
    assert tuple(int(part) for part in pins("requirements.lock")[name][0].split(".")[:3]) >= FLOORS[name]


def test_every_direct_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in [*PROJECT["project"]["dependencies"], *(line for group in PROJECT["dependency-groups"].values() for line in group)]:
        if isinstance(line, str):
            assert re.search(rf'^ *"{re.escape(line)}", +# \S', text, flags=re.MULTILINE), f"{line}: why?"


# The tree


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def test_nothing_is_at_the_top_by_chance() -> None:
    assert {name.split("/")[0] for name in tracked(".")} <= TOP_LEVEL


def test_tests_are_no_package() -> None:
    assert not [name for name in tracked("tests") if name.endswith("__init__.py")]


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec make test", "no check that only CI knows, and the last words are pytest's"


def test_make_lists_every_command() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[0].split()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    unlisted = [target for target in phony if not re.search(rf"^  make {target} +\S", listed, flags=re.MULTILINE)]
    assert unlisted == ["wstest", "env", "dev", "installed"], "what is not a command but a step of one"


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from a copy of what is tracked, without a network."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked(*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=source, check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_three_rooms_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == tracked(*ROOMS)
    assert {Path(name).name for name in info} == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"}
    assert not [name for name in names if name.endswith(".pth")], "nothing runs when an interpreter starts"


def test_what_is_installed_runs_nothing_when_an_interpreter_starts() -> None:
    """A .pth file with an import runs in every interpreter of the environment; only our own work tree and the tests' tools have one."""
    runtime = runtime_packages()
    for distribution in importlib.metadata.distributions():
        if canonicalize_name(distribution.name) in runtime:
            assert not [file for file in distribution.files or () if file.suffix == ".pth"], distribution.name


def runtime_packages() -> set[str]:
    """The project's dependencies and theirs, as installed here; without the project itself."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            inner = Requirement(line)
            wanted = not inner.marker or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
            if wanted and canonicalize_name(inner.name) not in found:
                inner.marker = None
                waiting.append(inner)
    return found


# The image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), comments gone and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, arguments.strip()) for name, arguments in pairs]


def final_stage() -> list[tuple[str, str]]:
    every = instructions()
    last = max(index for index, (name, _) in enumerate(every) if name == "FROM")
    return every[last:]


def final(name: str) -> str:
    """The one argument of the instruction `name` in the stage that is shipped."""
    found = [arguments for instruction, arguments in final_stage() if instruction == name]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(final("ENV")))


def health_command() -> list[str]:
    command: list[str] = json.loads(final("HEALTHCHECK").split("CMD", 1)[1])
    return command


def test_the_base_is_pinned_and_slim() -> None:
    bases = {arguments.split()[0] for name, arguments in instructions() if name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim(-\w+)?(@sha256:[0-9a-f]{64})?", bases.pop())


def test_the_image_is_made_from_the_lock_alone() -> None:
    installs = [
        part.strip() for name, arguments in instructions() if name == "RUN" for part in arguments.split("&&") if "pip install" in part
    ]
    assert len(installs) == 2
    assert {"--require-hashes", "--only-binary", "requirements.lock"} <= set(installs[0].split())
    assert {"--no-index", "--no-deps", "--no-build-isolation"} <= set(installs[1].split())
    assert not [
        name for name, arguments in instructions() if name == "ADD" or (name == "RUN" and re.search(r"\b(curl|wget|apt-get)\b", arguments))
    ]


def test_the_image_ships_only_what_runs() -> None:
    run = next(arguments for name, arguments in instructions() if name == "RUN" and "uninstall" in arguments)
    removed = {canonicalize_name(name) for part in re.findall(r"uninstall --yes ([^&]+)", run) for name in part.split()}
    everywhere = {name for name, (_, marker) in pins("requirements.lock").items() if not marker}
    assert removed == (everywhere - runtime_packages()) | {"pip"}


def test_the_image_runs_as_nobody_in_particular_and_is_told_to_stop() -> None:
    user, _, group = final("USER").partition(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert isinstance(json.loads(final("ENTRYPOINT")), list)
    assert isinstance(json.loads(final("CMD")), list)
    assert final("STOPSIGNAL") == "SIGTERM"
    environment = image_environment()
    assert environment["PYTHONSAFEPATH"] == environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert json.loads(final("VOLUME")) == [environment["VERBATIM_ARCHIVE"]]
    assert not [value for name, value in environment.items() if "TOKEN" in name or "KEY" in name]


def test_the_build_sees_only_what_the_image_is_made_of() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {word for name, arguments in instructions() if name == "COPY" and "--from" not in arguments for word in arguments.split()[:-1]}
    assert allowed == copied


# The image's way of running, without an engine: another user, no capability that writes, a root that cannot be written

MOUNTED = r"""
mount --bind "$WRITABLE" "$WRITABLE"
while read -r _ place type _; do
    case $type in proc|sysfs|cgroup*|devtmpfs|devpts|mqueue|securityfs|debugfs|tracefs|bpf|binfmt_misc|hugetlbfs) continue ;; esac
    place=$(printf %b "$place")
    [ "$place" = "$WRITABLE" ] || mount -o remount,bind,ro "$place"
done < /proc/mounts
"""
"""Makes everything but the folder read-only, in a mount namespace of its own that ends with the process."""

AS_NOBODY = """
caps=-all,+dac_read_search
cd /
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps "$caps" --ambient-caps "$caps" --bounding-set "$caps" "$@"
"""
"""Another user's identity. Reading stays allowed everywhere, as in an image: the interpreter may lie in somebody's closed home folder."""


def contained(writable: Path) -> list[str]:
    """The words before a command that make it run as a container would, as nearly as this machine allows; says which way it is."""
    if os.geteuid() != 0:
        print("not root here: the gateway runs as this user, and its root can be written")
        return ["sh", "-ec", 'cd / && exec "$@"', "sh"]
    for path in (writable, *writable.iterdir()):
        os.chown(path, 10001, 10001)
    namespace = ["unshare", "--mount", "--", "env", f"WRITABLE={writable}", "sh", "-ec"]
    if subprocess.run([*namespace, MOUNTED], capture_output=True, check=False).returncode == 0:
        return [*namespace, MOUNTED + AS_NOBODY, "sh"]
    print("mount namespaces are not permitted here: another user, but a root that is merely not his")
    return ["sh", "-ec", AS_NOBODY, "sh"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it and nothing else; the dependencies come from the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-index",
        "--no-deps",
        "--disable-pip-version-check",
        "--root-user-action",
        "ignore",
    ]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    return folder


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder outside of pytest's own, which is closed to other users, as access(2) notices even where reading is allowed."""
    with tempfile.TemporaryDirectory(prefix="verbatim-volume-") as folder:
        yield Path(folder)


async def test_it_runs_as_the_image_does(installed: Path, volume: Path, tmp_path: Path) -> None:
    """The wheel, as somebody without rights, on a root that cannot be written: it starts, is healthy, relays, records and drains."""

    async def answer(connection: Connection) -> None:
        await connection.read_message()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await connection.wait_ended()

    archive = volume / "archive"
    archive.mkdir()
    prefix = contained(volume)
    port = free_port()
    environment = image_environment() | {
        "PATH": f"{installed / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(installed),
        "VERBATIM_HOST": "127.0.0.1",
        "VERBATIM_PORT": str(port),
        "VERBATIM_VIEWER_HOST": "127.0.0.1",
        "VERBATIM_VIEWER_PORT": "0",
        "VERBATIM_ARCHIVE": str(archive),
        "VERBATIM_MIN_FREE": "0",
    }
    async with RawUpstream(answer) as upstream:
        environment["VERBATIM_ROUTES_OPENAI_UPSTREAM"] = upstream.url
        command = [*prefix, *json.loads(final("ENTRYPOINT")), *json.loads(final("CMD"))]
        gateway = Started(command, log=tmp_path / "log", cwd=tmp_path, env=environment)
        try:
            await wait_for(lambda: not gateway.running or healthy(environment))
            assert gateway.running, gateway.output()
            got = await raw_request(port, b"GET /openai/v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert got.endswith(b"\r\n\r\nok")
        finally:
            code = await gateway.stop()
    assert code == 0, gateway.output()
    assert not healthy(environment)
    assert "Traceback" not in gateway.output(), gateway.output()
    assert [exchange.parts[0]["request"]["target"] for exchange in archive_lines(archive)] == ["/openai/v1/models"]
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in archive.iterdir()} == {10001}


def healthy(environment: dict[str, str]) -> bool:
    """What the image's own HEALTHCHECK says."""
    return subprocess.run(health_command(), env=environment, cwd="/", capture_output=True, check=False).returncode == 0
