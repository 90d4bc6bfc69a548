"""Nobody but the owner on this machine reaches what gennape starts: sockets, tokens and folders of a local Ray."""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gennape.errors import ServiceError
from gennape.platform.cluster import connection as cluster
from gennape.platform.cluster import session as ray_session
from gennape.platform.cluster.connection import local_ray, tighten_token
from gennape.platform.cluster.session import PREFIX, VARIABLE, marked, remove_stale, session_folder

ROOT = Path(__file__).resolve().parents[3]


def ports():
    spec = importlib.util.spec_from_file_location("open_ports", ROOT / "benchmarks" / "open_ports.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["open_ports"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PORTS = ports()
#: Verbs that take half a minute and more, and start what ``search`` and ``ui`` start, too.
LONG = ("serve", "convert", "pretrain", "label", "tune", "verify")


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


# Every verb ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Verbs run here one after another; ``verify`` goes on from what ``search`` left."""
    path = tmp_path_factory.mktemp("verbs")
    PORTS.prepare(path)
    return path


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=pytest.mark.drill) if verb in LONG else verb for verb in PORTS.VERBS]
)
def test_all_that_a_verb_starts_listens_on_loopback(folder, verb):
    if verb == "verify" and not (folder / "ws" / "runs").exists():
        PORTS.measure("search", folder)
    found = PORTS.measure(verb, folder)
    assert len(found) >= (1 if verb == "ui" else 6)  # a local Ray alone has nine
    assert [listening for listening in found if listening.open] == []


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_search_in_one_process_listens_nowhere(folder, monkeypatch):
    monkeypatch.setitem(PORTS.VERBS, "search", PORTS.VERBS["search"].replace("--cluster", "--local"))
    assert PORTS.measure("search", folder) == set()


def test_a_socket_on_every_interface_is_seen():
    with socket.create_server(("0.0.0.0", 0)) as everyone, socket.create_server(("127.0.0.1", 0)) as here:  # noqa: S104
        found = {listening.port: listening.open for listening in PORTS.listening(os.getpid())}
        assert found[everyone.getsockname()[1]]
        assert not found[here.getsockname()[1]]


def _join(rank, folder):
    import torch

    from gennape.predictors.encoder.data_parallel import join_group

    torch.set_num_threads(1)
    join_group("gloo", str(folder / "meeting"), rank, 2, 120.0)
    total = torch.tensor([1.0 + rank])
    torch.distributed.all_reduce(total)
    found = PORTS.listening(os.getpid())
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    (folder / str(rank)).write_text(f"{total.item()} {len(found)} {sum(listening.open for listening in found)}")


@pytest.mark.cluster
def test_workers_of_one_machine_join_without_an_open_port(tmp_path):
    """PyTorch's usual store of a group listens on every interface."""
    import torch

    torch.multiprocessing.spawn(_join, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        total, listening, open_to_others = (tmp_path / str(rank)).read_text().split()
        assert float(total) == 3.0
        assert int(listening) >= 1
        assert int(open_to_others) == 0


# A local Ray ---------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.usefixtures("no_ray")
def test_a_local_ray_is_private_whatever_the_environment_says(monkeypatch, tmp_path):
    """Ray's module is imported by then, as in every verb that serves; the variables would open all of it."""
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    reset_auth_token_state()  # a process keeps the token that it read: earlier tests have that of another home
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    mask = os.umask(0o022)
    try:
        with local_ray(num_cpus=1):
            assert ray.get(ray.remote(_seen).remote()) == ("token", 0o077)
            listening = PORTS.listening(os.getpid())
            assert len(listening) >= 6
            assert not any(found.open for found in listening)
            session = Path(ray._private.worker._global_node.get_session_dir_path())
            outer = session.parents[1]
            assert outer.name.startswith(PREFIX)
            assert mode(outer) == 0o700
            assert mode(tmp_path / ".ray" / "auth_token") == 0o600
            assert mode(tmp_path / ".ray") == 0o700
        assert not outer.exists()
        assert os.umask(0o022) == 0o022
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    finally:
        os.umask(mask)
        reset_auth_token_state()


def _seen():
    mask = os.umask(0o077)
    os.umask(mask)
    return os.environ["RAY_AUTH_MODE"], mask


@pytest.fixture(autouse=True, scope="module")
def by_value():
    """Ray's workers cannot import test modules."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_ray_that_would_be_open_is_not_used(monkeypatch, tmp_path):
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "on_loopback", lambda: False)
    with pytest.raises(ServiceError, match="would be open to others"):
        cluster._start(1, tmp_path)


@pytest.mark.parametrize(("asks", "near", "warned"), [(False, False, True), (True, False, False), (False, True, False)])
def test_joining_a_cluster_that_asks_for_no_token_warns(monkeypatch, caplog, asks, near, warned):
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(cluster, "on_loopback", lambda: near)
    monkeypatch.setattr(cluster, "_asks_for_token", lambda: asks)
    with caplog.at_level(logging.WARNING):
        cluster._join("10.0.0.1:6379")
    assert ("asks for no token" in caplog.text) is warned
    assert ("10.0.0.1:6379" in caplog.text) is warned


# The token -----------------------------------------------------------------------------------------------------------


def test_a_token_that_others_could_read_is_theirs_no_longer_and_said_to_have_been(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("0" * 64)
    token.chmod(0o644)
    tighten_token()
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert "could read" in caplog.text
    assert "0000" not in caplog.text
    caplog.clear()
    tighten_token()
    assert caplog.text == ""


def test_no_token_and_a_link_in_its_place_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    tighten_token()
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o644)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").symlink_to(other)
    tighten_token()
    assert mode(other) == 0o644


# Folders -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def parent(monkeypatch):
    """A short folder for temporary files: Ray's sockets need one."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "gettempdir", lambda: name)
        yield Path(name)


def test_a_session_has_a_private_folder_and_takes_it_along(parent):
    with session_folder() as first, session_folder() as second:
        assert first != second
        assert first.parents[1] == parent
        assert mode(first.parent) == 0o700
        (first / "logs").mkdir()
        (first / "logs" / "raylet.out").write_text("words")
    assert list(parent.iterdir()) == []


def test_what_killed_commands_left_is_removed_and_nothing_else(parent):
    dead, starting, killed_early, foreign = (parent / f"{PREFIX}{name}" for name in ("dead", "now", "early", "link"))
    for made in (dead, starting, killed_early):
        made.mkdir()
    (dead / "lock").touch()
    (dead / "r").mkdir()
    os.utime(killed_early, (0, 0))
    (parent / "elsewhere").mkdir()
    (parent / "elsewhere" / "lock").touch()
    foreign.symlink_to(parent / "elsewhere")
    with session_folder() as alive:
        remove_stale(parent)
        assert sorted(path.name for path in parent.iterdir()) == sorted(
            [alive.parent.name, starting.name, foreign.name, "elsewhere"]
        )


def test_a_folder_that_another_process_holds_stays(parent):
    held = parent / f"{PREFIX}held"
    held.mkdir()
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_stale(parent)
        assert held.is_dir()
    remove_stale(parent)
    assert not held.exists()


def sleeper():
    """A process and a child of it, as Ray's daemons have workers."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def tree(process):
    root, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while not root.children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return [root, *root.children()]


@pytest.mark.cluster
@pytest.mark.usefixtures("parent")
def test_processes_of_a_session_end_with_it_and_no_others():
    with session_folder() as folder:
        with marked(folder):
            mine = sleeper()
        other = sleeper()
        ends, stays = tree(mine), tree(other)
        assert len(ends) == len(stays) == 2
    mine.wait(0)
    other.kill()
    assert not any(process.is_running() for process in ends[1:])
    assert stays[1].is_running()
    stays[1].kill()
    other.wait()
    assert VARIABLE not in os.environ


@pytest.mark.cluster
def test_what_a_killed_command_started_ends_at_the_next_start(parent):
    dead = parent / f"{PREFIX}dead"
    (dead / "r").mkdir(parents=True)
    (dead / "lock").touch()
    with marked(dead / "r"):
        left = sleeper()
    below = tree(left)
    remove_stale(parent)
    left.wait(0)
    assert not any(process.is_running() for process in below[1:])
    assert not dead.exists()


def test_of_another_user_nothing_is_removed(parent, monkeypatch):
    theirs = parent / f"{PREFIX}theirs"
    theirs.mkdir()
    (theirs / "lock").touch()
    monkeypatch.setattr(ray_session.os, "geteuid", lambda: os.getuid() + 1)
    remove_stale(parent)
    assert theirs.is_dir()


def test_a_folder_too_deep_for_sockets_is_passed_by(monkeypatch, tmp_path):
    import tempfile

    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / ("deep" * 20)))
    with session_folder() as folder:
        assert folder.parents[1] == Path("/tmp")  # noqa: S108
        name = "session_2026-11-30_21-31-29_609123_4194304/sockets/plasma_store"
        assert len(str(folder / name)) <= 103


@pytest.mark.usefixtures("parent")
def test_no_room_for_a_folder_is_said(monkeypatch):
    import tempfile

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with (
        pytest.raises(ServiceError, match=r"No space left on device\); make room there, or set another TMPDIR"),
        session_folder(),
    ):
        pass


def test_a_folder_without_a_lock_may_belong_to_a_command_that_just_starts(parent):
    made = parent / f"{PREFIX}x"
    made.mkdir()
    os.utime(made, (time.time() - 40,) * 2)
    remove_stale(parent)
    assert made.is_dir()
    os.utime(made, (time.time() - 80,) * 2)
    remove_stale(parent)
    assert not made.exists()
