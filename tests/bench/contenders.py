"""Who is measured: how each proxy is found, configured and started.

All get the same core, one worker, kept connections, no log, no buffering.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template

from processes import Tree, free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass(frozen=True, slots=True)
class Start:
    """What a contender needs to begin: a folder of its own, the ports, and the settings it was asked for."""

    folder: Path
    port: int
    origin: int
    ca: Path | None = None
    """What vouches for an origin that speaks TLS; None: it speaks plain HTTP."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.origin}" if self.ca else f"http://127.0.0.1:{self.origin}"


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the tables."""

    name: str
    title: str
    command: Callable[[Start], list[str]] | None
    """Writes what settings it needs and says the command; None: the origin itself, without a proxy."""
    version: Callable[[], str]
    missing: Callable[[], str]
    """Why it cannot run here and what would help, or an empty string."""
    prefix: str = ""
    """What stands before the origin's path."""
    records: bool = False
    all_cores: bool = False
    only: tuple[str, ...] = ()
    """The workloads it is measured with; none named: all that do not ask for some contenders only."""


def answers(command: list[str]) -> str:
    """The first line a command prints, or an empty string."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def needs(program: str, package: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else f"{program} is not installed (Debian package {package})"


def needs_python(program: str, package: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else f"{program} is not on the PATH (pip install '{package}' in a venv of its own)"


def fill(template: str, target: Path, **names: object) -> Path:
    """Write the template file of this folder with its $NAMES filled in."""
    target.write_text(Template((HERE / template).read_text()).safe_substitute(names))
    return target


TRUSTING = """proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;
    proxy_ssl_session_reuse on;"""


def nginx(start: Start) -> list[str]:
    user = "user root;" if os.geteuid() == 0 else ""  # the worker must reach its folder
    tls = TRUSTING.format(ca=start.ca) if start.ca else ""
    scheme = "https" if start.ca else "http"
    names = {"FOLDER": start.folder, "PORT": start.port, "ORIGIN": start.origin, "USER": user, "SCHEME": scheme, "TLS": tls}
    path = fill("nginx.conf", start.folder / "nginx.conf", **names)
    return ["nginx", "-e", "stderr", "-p", str(start.folder), "-c", str(path)]


def caddy(start: Start) -> list[str]:
    path = fill("Caddyfile", start.folder / "Caddyfile", PORT=start.port, ORIGIN=start.origin)
    return ["caddy", "run", "--config", str(path), "--adapter", "caddyfile"]


def haproxy(start: Start) -> list[str]:
    return ["haproxy", "-db", "-q", "-f", str(fill("haproxy.cfg", start.folder / "haproxy.cfg", PORT=start.port, ORIGIN=start.origin))]


def mitmdump(start: Start) -> list[str]:
    """As a reverse proxy that writes every flow to a file, which is what it records with."""
    where = ["--mode", f"reverse:{start.url}", "--listen-host", "127.0.0.1", "--listen-port", str(start.port)]
    return ["mitmdump", "-q", *where, "-w", str(start.folder / "flows"), "--set", f"confdir={start.folder}"]


def litellm(start: Start) -> list[str]:
    """Its pass-through endpoints, without a database: they relay and log nothing."""
    endpoints = "".join(f'    - path: "{path}"\n      target: "{start.url}{path}"\n' for path in ("/json", "/upload"))
    settings = start.folder / "litellm.yaml"
    general = "  dangerously_permit_weak_or_unset_master_key: true\n  pass_through_endpoints:\n"
    settings.write_text(f"model_list: []\ngeneral_settings:\n{general}{endpoints}")
    return [
        "litellm",
        "--config",
        str(settings),
        "--host",
        "127.0.0.1",
        "--port",
        str(start.port),
        "--num_workers",
        "1",
        "--telemetry",
        "False",
    ]


def node(start: Start) -> list[str]:
    return ["node", str(HERE / "node_proxy.js"), str(start.port), str(start.origin)]


def naive(start: Start) -> list[str]:
    return [sys.executable, str(HERE / "naive.py"), str(start.port), str(start.origin)]


def verbatim(record: bool, *, archive: Path | None = None, more: str = "") -> Callable[[Start], list[str]]:
    """Verbatim with these settings; the archive lies in the contender's folder where no other place is named."""

    def command(start: Start) -> list[str]:
        settings, place = start.folder / "verbatim.toml", archive or start.folder / "archive"
        settings.write_text(
            f'host = "127.0.0.1"\nport = {start.port}\narchive = "{place}"\nviewer = false\naccess_log = false\n'
            f'record = {str(record).lower()}\n{more}\n[routes.bench]\nupstream = "{start.url}"\n'
            + (f'ca_file = "{start.ca}"\n' if start.ca else "")
        )
        return [*console_script(), "serve"]

    return command


def console_script() -> list[str]:
    """`verbatim` of this environment, or the module where only the sources are here."""
    script = Path(sys.executable).with_name("verbatim")
    return [str(script)] if script.exists() else [sys.executable, "-c", "import sys; from gateway.cli import main; sys.exit(main())"]


def verbatim_missing() -> str:
    done = subprocess.run([*console_script(), "serve", "--help"], capture_output=True, cwd=ROOT, timeout=30, env=environment())
    return "" if done.returncode == 0 else "`verbatim serve` does not start in this environment"


def verbatim_version() -> str:
    sources = (ROOT / "gateway" / "__init__.py").read_text()
    return (
        next((line.split('"')[1] for line in sources.splitlines() if line.startswith("__version__")), "")
        + f", Python {sys.version.split()[0]}"
    )


def environment() -> dict[str, str]:
    """The child's environment: the sources of this folder first, and no setting of the caller's that changes the runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERBATIM_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


def libraries() -> str:
    import httpx
    import starlette
    import uvicorn

    return f"Starlette {starlette.__version__}, httpx {httpx.__version__}, uvicorn {uvicorn.__version__}"


FULLY = ("json", "upload")
"""As much as goes through: what slow peers are asked for, whose latency at a fixed rate says nothing more."""
COMMON = ("json", "json-rate", "upload", "upload-rate", "sse", "sse-paced", "sse-32", "crowd")

CONTENDERS = (
    Contender("direct", "no proxy", None, lambda: "", lambda: ""),
    Contender("nginx", "nginx", nginx, lambda: answers(["nginx", "-v"]).rpartition("/")[2], needs("nginx", "nginx-light")),
    Contender("caddy", "Caddy", caddy, lambda: answers(["caddy", "version"]), needs("caddy", "caddy")),
    Contender("haproxy", "HAProxy", haproxy, lambda: answers(["haproxy", "-v"]).split(" ")[2], needs("haproxy", "haproxy"), only=COMMON),
    Contender("node", "Node, 20 lines", node, lambda: answers(["node", "--version"]), needs("node", "nodejs")),
    Contender("naive", "Starlette + httpx", naive, libraries, lambda: ""),
    Contender(
        "mitmdump",
        "mitmdump, writing flows",
        mitmdump,
        lambda: answers(["mitmdump", "--version"]).partition(": ")[2],
        needs_python("mitmdump", "mitmproxy"),
        only=FULLY,
    ),
    Contender(
        "litellm",
        "LiteLLM, pass-through",
        litellm,
        lambda: answers(["litellm", "--version"]).rpartition("=")[2].strip(),
        needs_python("litellm", "litellm[proxy]"),
        only=FULLY,
    ),
    Contender("off", "**Verbatim, not recording**", verbatim(False), verbatim_version, verbatim_missing, prefix="/bench"),
    Contender("on", "**Verbatim, recording**", verbatim(True), verbatim_version, verbatim_missing, prefix="/bench", records=True),
    Contender(
        "on2",
        "**Verbatim, recording, on any core**",
        verbatim(True),
        verbatim_version,
        verbatim_missing,
        "/bench",
        True,
        True,
    ),
    Contender(
        "off2", "**Verbatim, on any core**", verbatim(False), verbatim_version, verbatim_missing, "/bench", all_cores=True, only=FULLY
    ),
    Contender(
        "workers2",
        "**Verbatim, two workers, on any core**",
        verbatim(False, more="workers = 2"),
        verbatim_version,
        verbatim_missing,
        "/bench",
        all_cores=True,
        only=FULLY,
    ),
)


class Running:
    """A contender at work before an origin."""

    def __init__(self, contender: Contender, *, folder: Path, origin: int, on: str, ca: Path | None = None) -> None:
        """Start it and wait until it relays. Raises RuntimeError with the end of its log where it does not within 60 seconds."""
        self.contender = contender
        self.folder = folder
        self.tree: Tree | None = None
        self.port = origin
        log = folder / "log"
        if contender.command:
            start = Start(folder, free_port(), origin, ca)
            self.port = start.port
            self.tree = Tree(
                contender.command(start),
                on=on,
                folder=folder,
                log=log,
                environment={**environment(), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            )
        deadline = time.monotonic() + 60  # LiteLLM takes half of that
        while not self._relays():
            if time.monotonic() > deadline or (self.tree and self.tree.process.poll() is not None):
                self.stop()
                raise RuntimeError(f"{contender.name} does not relay: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.idle_mb = self.tree.rss() if self.tree else 0.0

    def _relays(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self.contender.prefix + "/json")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it; a Verbatim has its archive whole on disk when this returns."""
        if self.tree:
            self.tree.stop()


def build_origin(folder: Path) -> list[str]:
    """The origin's command: the C one, compiled now, or the slower Python one where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = folder / "origin"
    if compiler and subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "origin.c")], capture_output=True).returncode == 0:
        return [str(program)]
    return [sys.executable, str(HERE / "origin.py")]


def start_tls_origin(folder: Path, on: str) -> tuple[Tree, int, Path]:
    """nginx answering over TLS, its port, and the file of who vouches for it. Raises RuntimeError where it does not begin."""
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "files").mkdir()
    (folder / "files" / "json").write_bytes(b"x" * 1024)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    path = fill("nginx_origin.conf", folder / "nginx_origin.conf", FOLDER=folder, PORT=port, USER=user)
    tree = Tree(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)], on=on, folder=folder, log=folder / "tls-origin.log")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return tree, port, folder / "ca.pem"
        time.sleep(0.02)
    tree.stop()
    raise RuntimeError("the TLS origin does not start: " + (folder / "tls-origin.log").read_text()[-2000:])


def start_origin(folder: Path, on: str) -> tuple[Tree, int]:
    """The origin and its port. Raises RuntimeError where it does not begin."""
    tree = Tree(build_origin(folder), on=on, folder=folder, log=folder / "origin.log", pipe=True)
    line = tree.out.readline()
    if not line.strip().isdigit():
        tree.stop()
        raise RuntimeError("the origin does not start: " + (folder / "origin.log").read_text()[-2000:])
    return tree, int(line)
