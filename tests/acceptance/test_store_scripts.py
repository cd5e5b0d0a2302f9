"""The scripts with which containers start the stores, run with real stores and a stand-in for the images."""

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pymysql
import pytest
import redis

from deploy.local import MARIADB_FOR_TESTS, MariaDB, Redis, free_port
from deploy.programs import PROJECT, REDIS, provide
from tests.stores import Admin
from tests.waiting import wait_until

STORES = PROJECT / "deploy" / "stores"
AWKWARD = "p'w\"\\ $(touch made) `touch made` %s #;"
"""A password that ends whatever is not written with care."""
SERVICE = {"*": {"SELECT", "INSERT", "UPDATE"}, "reconcile_run": {"DELETE"}, "reconcile_finding": {"DELETE"}}
"""What the service may do."""

RUN_SQL = """
import sys, pymysql
from pymysql.constants.CLIENT import MULTI_STATEMENTS
connection = pymysql.connect(unix_socket=sys.argv[1], user="root", client_flag=MULTI_STATEMENTS)
text = sys.stdin.read()
with connection.cursor() as cursor:
    if text:
        cursor.execute(text)
        while cursor.nextset():
            pass
"""

IMAGE = """
set -eo pipefail
shopt -s nullglob
docker_process_sql() {
  %(run_sql)s
}
docker_process_init_files() {
  local f
  for f; do
    if [ -x "$f" ]; then "$f"; else . "$f"; fi
  done
}
docker_process_init_files "$@"
echo "the image goes on: $-"
"""
"""What of the official mariadb image's own script matters here: the options it sets, and how it treats a file."""


def run(command: Sequence[str | Path], folder: Path, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """A command with these variables and nothing else of Usher's."""
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --- MariaDB ----------------------------------------------------------------------------------------------------------

PASSWORDS = {"USHER_DATABASE_PASSWORD": AWKWARD, "USHER_MIGRATION_DATABASE_PASSWORD": "of who migrates"}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[MariaDB]:
    """A MariaDB that knows nothing of Usher yet."""
    with MariaDB(tmp_path / "mariadb", settings=MARIADB_FOR_TESTS) as server:
        with Admin(server) as admin:
            admin.run("DROP USER usher@'127.0.0.1', usher_migrate@'127.0.0.1'")
            admin.run("DROP DATABASE usher")
        yield server


def image(
    server: MariaDB, folder: Path, variables: Mapping[str, str], *, executable: bool = False
) -> "subprocess.CompletedProcess[str]":
    """What the image does with the script, when it is among its files and accounts.sql is elsewhere."""
    script = folder / "docker-entrypoint-initdb.d" / "mariadb-accounts.sh"
    script.parent.mkdir(exist_ok=True)
    shutil.copyfile(STORES / script.name, script)
    script.chmod(0o755 if executable else 0o644)
    run_sql = shlex.join([sys.executable, "-c", RUN_SQL, str(server.socket)])
    here = {"USHER_ACCOUNTS_SQL": str(STORES / "accounts.sql")}
    return run(["bash", "-c", IMAGE % {"run_sql": run_sql}, "image", script], folder, {**here, **variables})


def accounts(server: MariaDB) -> set[str]:
    with closing(pymysql.connect(unix_socket=str(server.socket), user="root")) as root, root.cursor() as cursor:
        cursor.execute("SELECT CONCAT(User, '@', Host) FROM mysql.user WHERE User LIKE 'usher%'")
        return {row[0] for row in cursor.fetchall()}


def grants(server: MariaDB, user: str, password: str) -> dict[str, set[str]]:
    """What an account may do on Usher's database (`*`) and on single tables, as it learns itself after its login."""
    login = pymysql.connect(host="127.0.0.1", port=server.port, user=user, password=password, database="usher")
    with closing(login) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GRANTS")
        found = [re.match(r"GRANT ([A-Z, ]+) ON `usher`\.(\S+) TO ", row[0]) for row in cursor.fetchall()[1:]]
        return {one[2].strip("`"): set(one[1].split(", ")) for one in found if one}


def test_the_image_makes_the_accounts(fresh: MariaDB, tmp_path: Path) -> None:
    """With any password, from a variable or a file; the image's own settings stay, and nothing of a password is printed."""
    secret = tmp_path / "secret"
    secret.write_text(f"{AWKWARD}\n", encoding="utf-8")
    variables = {"USHER_DATABASE_PASSWORD_FILE": str(secret), "USHER_MIGRATION_DATABASE_PASSWORD": "of who migrates"}

    done = image(fresh, tmp_path, variables)

    assert (0, "") == (done.returncode, done.stderr)
    assert ["the image goes on"] == [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert "e" in done.stdout.rpartition(" ")[2]
    assert "u" not in done.stdout.rpartition(" ")[2]
    assert {"usher@%", "usher_migrate@%"} == accounts(fresh)
    assert SERVICE == grants(fresh, "usher", AWKWARD)
    assert {"*": SERVICE["*"] | {"CREATE", "ALTER", "DROP", "INDEX"}} == grants(fresh, "usher_migrate", "of who migrates")
    assert not (tmp_path / "made").exists()


def test_running_it_again_changes_passwords_and_takes_other_rights_away(fresh: MariaDB, tmp_path: Path) -> None:
    here = {"USHER_ACCOUNTS_HOST": "127.0.0.0/255.0.0.0"}
    assert 0 == image(fresh, tmp_path, {**PASSWORDS, **here}).returncode
    assert {"usher@127.0.0.0/255.0.0.0", "usher_migrate@127.0.0.0/255.0.0.0"} == accounts(fresh)
    with Admin(fresh) as admin:
        admin.run("GRANT ALL PRIVILEGES ON usher.* TO usher@'127.0.0.0/255.0.0.0' WITH GRANT OPTION")

    assert 0 == image(fresh, tmp_path, {**PASSWORDS, **here, "USHER_DATABASE_PASSWORD": "another"}).returncode

    assert SERVICE == grants(fresh, "usher", "another")
    with pytest.raises(pymysql.err.OperationalError):
        grants(fresh, "usher", AWKWARD)


@pytest.mark.parametrize("missing", PASSWORDS)
@pytest.mark.parametrize("value", [None, ""])
def test_without_a_password_no_account_is_made(fresh: MariaDB, tmp_path: Path, missing: str, value: str | None) -> None:
    """And the image stops, since the service could not come in."""
    variables = {name: password for name, password in PASSWORDS.items() if name != missing}
    done = image(fresh, tmp_path, variables if value is None else {**variables, missing: value})
    assert 0 != done.returncode
    assert ("", f"mariadb-accounts.sh: {missing} or {missing}_FILE must be set\n") == (done.stdout, done.stderr)
    assert set() == accounts(fresh)


def test_accounts_without_passwords_are_refused_by_the_file_itself(fresh: MariaDB) -> None:
    """Whoever runs accounts.sql by hand and forgets the first line is told."""
    text = (STORES / "accounts.sql").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN_SQL, str(fresh.socket)], input=text, capture_output=True, text=True, check=False
    )
    assert 0 != done.returncode
    assert "Set @usher_password and @usher_migrate_password first." in done.stderr
    assert set() == accounts(fresh)


@pytest.mark.parametrize("given", ["@usher_password", "@usher_migrate_password"])
def test_one_password_alone_changes_nothing(fresh: MariaDB, given: str) -> None:
    """Not even by a client that goes on after the error, as the one that people type into does."""
    statements = [line for line in (STORES / "accounts.sql").read_text(encoding="utf-8").splitlines() if line.endswith(";")]
    refused = []
    with closing(pymysql.connect(unix_socket=str(fresh.socket), user="root")) as root, root.cursor() as cursor:
        for statement in [f"SET {given} = 'alone';", *statements]:
            try:
                cursor.execute(statement)
            except pymysql.err.MySQLError as error:
                refused.append(error.args[1])
        cursor.execute("SHOW DATABASES LIKE 'usher'")
        databases = cursor.fetchall()
    assert ["Set @usher_password and @usher_migrate_password first."] == refused
    assert set() == accounts(fresh)
    assert () == databases


def test_an_executable_script_says_what_is_wrong(fresh: MariaDB, tmp_path: Path) -> None:
    """The image would run it by itself, where it cannot reach the server; it must not print passwords to the log instead."""
    done = image(fresh, tmp_path, PASSWORDS, executable=True)
    assert 0 != done.returncode
    assert "" == done.stdout
    assert "executable bit" in done.stderr


def test_a_person_pipes_it_to_any_mariadb(fresh: MariaDB, tmp_path: Path) -> None:
    """What it prints holds no password in clear."""
    printed = run(["sh", STORES / "mariadb-accounts.sh", "print"], tmp_path, PASSWORDS)
    assert (0, "") == (printed.returncode, printed.stderr)
    assert [] == [password for password in PASSWORDS.values() if password in printed.stdout]
    subprocess.run([sys.executable, "-c", RUN_SQL, str(fresh.socket)], input=printed.stdout, text=True, check=True)
    assert SERVICE == grants(fresh, "usher", AWKWARD)


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image_of_redis(tmp_path: Path) -> Path:
    """A folder in whose `bin` there is a redis-server, as in the image."""
    program = provide(REDIS)
    script = tmp_path / "bin" / "redis-server"
    script.parent.mkdir()
    variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in program.environment.items())
    name, *before = program.command()
    command = shlex.join([str(program.path), *before])
    script.write_text(f'#!/bin/bash\n{variables}exec -a {shlex.quote(name)} {command} "$@"\n', encoding="utf-8")
    script.chmod(stat.S_IRWXU)
    return tmp_path


@contextmanager
def started(folder: Path, variables: Mapping[str, str]) -> Iterator[int]:
    """The port of a Redis that the script started."""
    port = free_port()
    output = folder / "output"
    with output.open("wb") as words:
        process = subprocess.Popen(
            [STORES / "redis-server.sh", "--bind", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **variables},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "Ready to accept" in output.read_text(),
            timeout_s=30,
            what=output.read_text,
        )
        assert process.poll() is None, output.read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def test_redis_starts_with_its_settings_and_accounts(image_of_redis: Path) -> None:
    """The passwords come from a variable or a file, and are nowhere in clear afterwards."""
    secret = image_of_redis / "secret"
    secret.write_text("of people\n", encoding="utf-8")
    folder = image_of_redis / "in memory"
    folder.mkdir()
    variables = {
        "USHER_REDIS_PASSWORD": AWKWARD,
        "REDIS_OPERATOR_PASSWORD_FILE": str(secret),
        "REDIS_ACL_FOLDER": str(folder),
    }
    with started(image_of_redis, variables) as port:
        with redis.Redis(port=port, username="operator", password="of people", decode_responses=True) as operator:
            assert {"maxmemory-policy": "allkeys-lru"} == operator.config_get("maxmemory-policy")
        with redis.Redis(port=port, username="usher", password=AWKWARD) as service:
            assert service.ping()
            with pytest.raises(redis.exceptions.NoPermissionError):
                service.flushall()
        with redis.Redis(port=port) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()
    users = folder / "users.acl"
    assert 0 == users.stat().st_mode & 0o077
    for text in (users.read_text(encoding="utf-8"), (image_of_redis / "output").read_text()):
        assert AWKWARD not in text
        assert "of people" not in text
    assert not (image_of_redis / "made").exists()


def test_both_ways_render_the_same_accounts(image_of_redis: Path, redis_server: Redis) -> None:
    """`make run` and the tests have the accounts that containers have."""
    variables = {"USHER_REDIS_PASSWORD": redis_server.password, "REDIS_OPERATOR_PASSWORD": redis_server.operator_password}
    with started(image_of_redis, variables):
        pass
    rendered = (image_of_redis / "users.acl").read_text(encoding="utf-8")
    assert rendered == (redis_server.folder / "users.acl").read_text(encoding="utf-8")
    assert hashlib.sha256(redis_server.password.encode()).hexdigest() in rendered


@pytest.mark.parametrize("missing", ["USHER_REDIS_PASSWORD", "REDIS_OPERATOR_PASSWORD"])
def test_redis_does_not_start_without_a_password(image_of_redis: Path, missing: str) -> None:
    """One line says which; nothing listens, and no account file is left behind."""
    variables = {"USHER_REDIS_PASSWORD": "a", "REDIS_OPERATOR_PASSWORD": "b", missing: ""}
    done = run([STORES / "redis-server.sh", "--port", "1"], image_of_redis, variables)
    assert (1, "", f"redis-server.sh: {missing} or {missing}_FILE must be set\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )
    assert not (image_of_redis / "users.acl").exists()


def test_redis_does_not_start_when_a_secret_cannot_be_read(image_of_redis: Path) -> None:
    variables = {"USHER_REDIS_PASSWORD": "a", "REDIS_OPERATOR_PASSWORD_FILE": str(image_of_redis / "nowhere")}
    done = run([STORES / "redis-server.sh"], image_of_redis, variables)
    assert 0 != done.returncode
    assert "nowhere" in done.stderr


def test_redis_itself_is_not_told_the_passwords(tmp_path: Path) -> None:
    """Neither in its arguments nor in its environment, which others on the machine may see."""
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\nenv\n', encoding="utf-8")
    program.chmod(stat.S_IRWXU)
    variables = {"USHER_REDIS_PASSWORD": "of the service", "REDIS_OPERATOR_PASSWORD": "of people"}
    done = run([STORES / "redis-server.sh", "--port", "1"], tmp_path, variables)
    assert 0 == done.returncode
    assert f"{STORES / 'redis.conf'} --aclfile {tmp_path / 'users.acl'} --port 1" == done.stdout.splitlines()[0]
    assert [] == [password for password in variables.values() if password in done.stdout]
