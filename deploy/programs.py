"""Finds the programs that Usher's tools run, and gets those that are missing.

A program is looked for on the machine, then in what was unpacked below `.local/` before. If it is in neither place it
is installed with apt (as root), or fetched with apt and unpacked below `.local/` (as anybody else). No service is
started, and nothing outside `.local/` is touched but by apt itself.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCAL = PROJECT / ".local"

APT_TIMEOUT_S = 600
"""For one call of apt: some 30 MB over a slow line, and another apt that holds the lock meanwhile."""

APT_LOCK_WAIT_S = 120
"""A machine that has just been started runs apt on its own for a minute or so."""

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
"""Looked through after PATH, since a user's PATH often lacks the sbin folders, where mariadbd lives."""

C_LIBRARY = frozenset({"libc6", "libc-bin", "libc-dev-bin", "libc6-dev", "locales"})
"""Never unpacked: a second C library under the system's own loader crashes every program that meets it."""


class ProgramMissingError(Exception):
    """A program is not on this machine and could not be fetched; the message says what to install."""


@dataclass(frozen=True)
class Program:
    """A program that can be run.

    Attributes:
        path: the file to execute.
        name: argv[0]; some programs look at the name they are run under.
        before: arguments that come before the caller's.
        environment: variables to add to the caller's own.
        root: the folder that plays `/` for this program: `/`, or where its packages were unpacked.
    """

    path: Path
    name: str
    before: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    root: Path = Path("/")

    def command(self, *arguments: str) -> list[str]:
        """The argument list, beginning with argv[0]; run it with `executable=path`."""
        return [self.name, *self.before, *arguments]

    def full_environment(self) -> dict[str, str]:
        """This process's environment with what the program needs in addition."""
        return {**os.environ, **self.environment}


@dataclass(frozen=True)
class Place:
    """Where programs can be: the machine itself, or a folder with unpacked packages.

    Attributes:
        root: what plays `/`.
        folders: the folders with programs, in the order in which they are searched.
        environment: variables that programs from here need.
    """

    root: Path
    folders: tuple[Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def program(self, *names: str) -> Path | None:
        """The first executable file of one of these names; an earlier name wins over an earlier folder."""
        candidates = (folder / name for name in names for folder in self.folders)
        return next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)


@dataclass(frozen=True)
class Need:
    """Something that is needed, how it is recognised, and which Debian packages bring it.

    Attributes:
        name: names the folder below `.local/programs`.
        what: how a message calls it.
        locate: finds it in a place.
        packages: the leanest set that brings it; none of them starts a service.
    """

    name: str
    what: str
    locate: Callable[[Place], Program | None]
    packages: tuple[str, ...]


def machine() -> Place:
    """The machine: the folders of PATH, then the system's usual ones."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *SYSTEM_FOLDERS]
    return Place(Path("/"), tuple(dict.fromkeys(Path(folder) for folder in folders if folder)))


def unpacked(root: Path) -> Place:
    """A folder into which packages were unpacked; its libraries go before the machine's."""
    folders = tuple(root / folder.lstrip("/") for folder in SYSTEM_FOLDERS)
    libraries = sorted({str(path.parent) for path in root.glob("**/lib*.so*")})
    return Place(root, folders, {"LD_LIBRARY_PATH": os.pathsep.join(libraries)})


def _at_least(program: Program, lowest: tuple[int, int]) -> Program | None:
    """The program, if it runs at all and its `--version` is high enough."""
    try:
        answer = subprocess.run(
            program.command("--version"),
            executable=program.path,
            env=program.full_environment(),
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"(?:Ver |v=|^curl )(\d+)\.(\d+)", answer.stdout)
    return program if version and (int(version[1]), int(version[2])) >= lowest else None


def _locate_redis(place: Place) -> Program | None:
    # redis-check-rdb is the same binary as the server; it decides by the name it is run under. Debian's redis-tools
    # brings only that one, without a service.
    path = place.program("redis-server", "valkey-server", "redis-check-rdb", "valkey-check-rdb")
    if path is None:
        return None
    return _at_least(Program(path, "redis-server", environment=place.environment, root=place.root), (7, 0))


def _locate_mariadb(place: Place) -> Program | None:
    path = place.program("mariadbd")
    if path is None or place.program("mariadb-install-db") is None:
        return None
    return _at_least(Program(path, "mariadbd", environment=place.environment, root=place.root), (10, 6))


def _locate_mariadb_dump(place: Place) -> Program | None:
    path = place.program("mariadb-dump")
    return Program(path, "mariadb-dump", environment=place.environment, root=place.root) if path else None


def _locate_luacheck(place: Place) -> Program | None:
    script = place.program("luacheck")
    if script is None:
        return None
    if place.root == Path("/"):
        return Program(script, "luacheck")
    # The script names its interpreter and its modules by absolute paths, which hold only where it is installed.
    interpreter = place.program("lua5.1", "lua5.3", "lua5.4")
    if interpreter is None:
        return None
    version = interpreter.name.removeprefix("lua")
    modules = place.root / "usr/share/lua" / version
    libraries = ";".join(f"{folder}/?.so" for folder in sorted(place.root.glob(f"usr/lib/**/lua/{version}")))
    paths = {"LUA_PATH": f"{modules}/?.lua;{modules}/?/init.lua;;", "LUA_CPATH": f"{libraries};;"}
    return Program(interpreter, interpreter.name, (str(script),), {**place.environment, **paths}, place.root)


def _locate_wrk(place: Place) -> Program | None:
    path = place.program("wrk")
    return Program(path, "wrk", environment=place.environment, root=place.root) if path else None


def _locate_curl(place: Place) -> Program | None:
    path = place.program("curl")
    # The documents use --json, which is new in 7.82.
    return _at_least(Program(path, "curl", environment=place.environment, root=place.root), (7, 82)) if path else None


def _locate_openssl(place: Place) -> Program | None:
    path = place.program("openssl")
    return Program(path, "openssl", environment=place.environment, root=place.root) if path else None


def _locate_pip_wheel(place: Place) -> Program | None:
    """Finds pip as Debian's wheel; the "program" is a folder inside the wheel, for Python to run."""
    wheels = sorted(place.root.glob("usr/share/python-wheels/pip-*.whl"))
    return Program(wheels[-1] / "pip", "pip", root=place.root) if wheels else None


REDIS = Need("redis", "Redis 7.0 or later (or Valkey)", _locate_redis, ("redis-tools",))
MARIADB = Need("mariadb", "MariaDB 10.6 or later", _locate_mariadb, ("mariadb-server-core", "mariadb-client-core"))
MARIADB_DUMP = Need("mariadb-dump", "mariadb-dump", _locate_mariadb_dump, ("mariadb-client",))
LUACHECK = Need("luacheck", "luacheck", _locate_luacheck, ("lua-check",))
WRK = Need("wrk", "wrk", _locate_wrk, ("wrk",))
CURL = Need("curl", "curl 7.82 or later", _locate_curl, ("curl",))
OPENSSL = Need("openssl", "openssl", _locate_openssl, ("openssl",))
PIP_WHEEL = Need("pip", "pip", _locate_pip_wheel, ("python3-pip-whl",))
NEEDS = {need.name: need for need in (REDIS, MARIADB, MARIADB_DUMP, LUACHECK, WRK, CURL, OPENSSL, PIP_WHEEL)}


def find(need: Need, local: Path = LOCAL) -> Program | None:
    """The program if it is here already, on the machine or unpacked; nothing is fetched."""
    found = need.locate(machine())
    if found is None and (local / "programs" / need.name).is_dir():
        found = need.locate(unpacked(local / "programs" / need.name))
    return found


def provide(need: Need, local: Path = LOCAL) -> Program:
    """The program, fetched if need be. Safe to call by several processes at once.

    Raises:
        ProgramMissingError: it is not here and cannot be had; the message says what to install.
    """
    found = find(need, local)
    if found is not None:
        return found
    with locked(local / "programs.lock"):
        return find(need, local) or _fetch(need, local)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, waiting for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(need: Need, local: Path) -> Program:
    if shutil.which("apt-get") is None:
        raise ProgramMissingError(f"{need.what} is needed. Please install it; there is no apt-get here to do it with.")
    routes = [_install, _unpack] if os.geteuid() == 0 else [_unpack]
    reasons = []
    for route in routes:
        try:
            route(need, local)
        except subprocess.SubprocessError as exc:
            reasons.append(_reason(exc))
            continue
        found = find(need, local)
        if found is not None:
            return found
        reasons.append(f"{' '.join(need.packages)}: the packages do not contain it, or it does not run")
    raise ProgramMissingError(
        f"{need.what} is needed and could not be fetched ({'; '.join(reasons)}). Please install it: "
        f"sudo apt-get update && sudo apt-get install --no-install-recommends {' '.join(need.packages)}"
    )


def _reason(exc: subprocess.SubprocessError) -> str:
    """The last line with which a command failed, or how it ended."""
    if isinstance(exc, subprocess.CalledProcessError):
        lines = [line for line in (exc.stderr or exc.stdout or "").splitlines() if line.strip()]
        if lines:
            return lines[-1].removeprefix("E: ")
    return str(exc)


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    """Runs a command of apt or dpkg quietly; returns its output, and raises `SubprocessError` when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    answer = subprocess.run(
        arguments,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=APT_TIMEOUT_S,
        check=True,
    )
    return answer.stdout


def _install(need: Need, _local: Path) -> None:
    """Installs the packages as root; package lists are fetched when they are missing or too old to be of use."""
    say(f"installing {' '.join(need.packages)} with apt")
    waiting = ("-o", f"DPkg::Lock::Timeout={APT_LOCK_WAIT_S}")
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *waiting, *need.packages)
    try:
        _apt(*install)
    except subprocess.CalledProcessError:
        _apt("apt-get", "update", *waiting)
        _apt(*install)


def _unpack(need: Need, local: Path) -> None:
    """Fetches the packages and whatever of their dependencies is missing here, and unpacks them below `.local/`."""
    say(f"fetching {' '.join(need.packages)} into {local / 'programs'} (nothing is installed)")
    try:
        _download_and_unpack(need, local, ())
    except subprocess.CalledProcessError:
        # The machine's package lists are missing or too old, and only root may renew those: lists of our own then.
        apt = local / "apt"
        (apt / "lists/partial").mkdir(parents=True, exist_ok=True)
        (apt / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        own = ("-o", f"Dir::State::lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}")
        _apt("apt-get", "update", *own)
        _download_and_unpack(need, local, own)


def _download_and_unpack(need: Need, local: Path, options: Sequence[str]) -> None:
    root = local / "programs" / need.name
    part = root.with_name(f"{need.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "packages").mkdir(parents=True)
    _apt("apt-get", "download", *options, *_missing_packages(need.packages, options), cwd=part / "packages")
    for package in sorted((part / "packages").glob("*.deb")):
        _apt("dpkg", "-x", str(package), str(part))
    shutil.rmtree(part / "packages")
    shutil.rmtree(root, ignore_errors=True)
    part.rename(root)


def _missing_packages(packages: Sequence[str], options: Sequence[str]) -> list[str]:
    """What apt would install for these packages, as `name=version`; asking needs no rights."""
    ask = ("apt-get", "install", "--simulate", "--no-install-recommends", "-o", "Debug::NoLocking=1")
    would = re.findall(r"^Inst (\S+) (?:\[\S*\] )?\((\S+)", _apt(*ask, *options, *packages), re.MULTILINE)
    wanted = [f"{name}={version}" for name, version in would if name not in C_LIBRARY]
    return wanted or list(packages)


def say(text: str) -> None:
    """Tells the person at the terminal what takes time; standard output stays free for results."""
    print(f"usher: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """`get NAME…` makes sure that programs are here; `run NAME ARGUMENT…` runs one in this process's place."""
    match arguments:
        case ["get", *names] if names and set(names) <= set(NEEDS):
            for name in names:
                provide(NEEDS[name])
            return 0
        case ["run", name, *rest] if name in NEEDS:
            program = provide(NEEDS[name])
            done = subprocess.run(program.command(*rest), executable=program.path, env=program.full_environment(), check=False)
            return done.returncode
        case _:
            say(f"usage: python -m deploy.programs get NAME… | run NAME ARGUMENT… (names: {', '.join(NEEDS)})")
            return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ProgramMissingError as missing:
        say(str(missing))
        sys.exit(1)
