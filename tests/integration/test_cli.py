"""The commands that speak to a broadcaster, each as a process of its own against a real one; and those for an archive at rest."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import BASE, FREE, command, environment, on_terminal, refused


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster")) as started:
        yield started


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:100].strip("-")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


# --- no broadcaster ------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_url() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def test_where_nobody_answers_the_error_names_address_and_remedy(silent_url: str) -> None:
    said = refused(command("models", url=silent_url), 3)
    assert silent_url in said and "broadcaster serve" in said


def test_a_url_that_is_none_is_wrong_usage() -> None:
    assert "nonsense" in refused(command("models", "--url", "nonsense"), 2)


# --- publish, fetch, watch -----------------------------------------------------------------------------------------


def test_what_was_published_is_fetched_the_same(broadcaster: BroadcasterProcess, file: Path, model: str, tmp_path: Path) -> None:
    about = ["--metric", "return=1.5", "--metric", "loss=nan", "--user-data", "note=[red]a=b\x1b[31m"]
    done = command("publish", file, "--model", model, "--archived", *about, "--json", url=broadcaster.url)
    version = json.loads(done.stdout)
    assert (version["number"], version["archived"], version["size"]) == (1, True, file.stat().st_size)
    assert version["metrics"] == {"return": 1.5, "loss": None} and version["user_data"] == {"note": "[red]a=b\x1b[31m"}
    fetched = command("fetch", model, url=broadcaster.url, cwd=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / f"{model}-1").read_bytes() == file.read_bytes()
    listed = command("versions", model, url=broadcaster.url).stdout
    assert "[red]a=b\\x1b[31m" in listed and "\x1b" not in listed


def test_a_directory_comes_back_as_one(broadcaster: BroadcasterProcess, model: str, tmp_path: Path) -> None:
    (tmp_path / model / "deep").mkdir(parents=True)
    (tmp_path / model / "deep" / "file").write_text("hello")
    assert command("publish", ".", url=broadcaster.url, cwd=tmp_path / model).stdout.startswith(f"{model} 1: ")
    assert command("fetch", model, "--out", "back", url=broadcaster.url, cwd=tmp_path).returncode == 0
    assert (tmp_path / "back" / "deep" / "file").read_text() == "hello"
    assert "not empty" in refused(command("fetch", model, "--out", "back", "--force", url=broadcaster.url, cwd=tmp_path), 1)


def test_the_model_is_named_after_the_file(broadcaster: BroadcasterProcess, tmp_path: Path) -> None:
    (tmp_path / "champion.safetensors").write_bytes(b"x")
    assert command("publish", "champion.safetensors", url=broadcaster.url, cwd=tmp_path).stdout.startswith("champion ")
    (tmp_path / "not a name.bin").write_bytes(b"x")
    assert "not a name" in refused(command("publish", "not a name.bin", url=broadcaster.url, cwd=tmp_path), 2)


def test_a_version_is_found_by_number_and_from_the_end(broadcaster: BroadcasterProcess, model: str, tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        (tmp_path / text).write_text(text)
        assert command("publish", text, "--model", model, url=broadcaster.url, cwd=tmp_path).returncode == 0
    for ref, text in {"1": "one", "-1": "three", "-2": "two"}.items():
        done = command("fetch", model, ref, "--out", f"got{ref}", "--json", url=broadcaster.url, cwd=tmp_path)
        assert json.loads(done.stdout)["path"] == f"got{ref}", done.stderr
        assert (tmp_path / f"got{ref}").read_text() == text


def test_a_fetch_overwrites_nothing_unless_forced(
    broadcaster: BroadcasterProcess, file: Path, model: str, tmp_path: Path
) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    (tmp_path / f"{model}-1").write_text("precious")
    assert "--force" in refused(command("fetch", model, url=broadcaster.url, cwd=tmp_path), 1)
    assert (tmp_path / f"{model}-1").read_text() == "precious"
    assert command("fetch", model, "--force", url=broadcaster.url, cwd=tmp_path).returncode == 0
    assert (tmp_path / f"{model}-1").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "arguments", [["fetch", "nobody"], ["versions", "nobody"], ["archive", "nobody"], ["delete", "nobody", "1"]]
)
def test_what_is_not_there_has_an_exit_code_of_its_own(broadcaster: BroadcasterProcess, arguments: list[str]) -> None:
    done = command(*arguments, "--json", url=broadcaster.url)
    refused(done, 4)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unknown-model" and error["facts"]["model_id"] == "nobody" and "nobody" in error["message"]


@pytest.mark.parametrize(
    "about", [["--metric", "x"], ["--metric", "x=y"], ["--user-data", "=1"], ["--metric", "x=1", "--metric", "x=2"]]
)
def test_annotations_that_are_none_are_wrong_usage(file: Path, about: list[str]) -> None:
    refused(command("publish", file, *about), 2)


def test_what_the_disk_refuses_is_one_line(broadcaster: BroadcasterProcess, file: Path, model: str, tmp_path: Path) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    done = command("fetch", model, "--out", tmp_path / "no" / "where", "--json", url=broadcaster.url)
    refused(done, 1)
    assert json.loads(done.stdout)["error"]["code"] == "os-error"


def test_a_watcher_prints_each_version_as_it_comes(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    line = [*BASE, "watch", model, "--count", "3", "--json"]
    with subprocess.Popen(line, cwd=ROOT, env=environment(broadcaster.url), stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        for number in range(1, 4):
            assert command("publish", file, "--model", model, url=broadcaster.url).returncode == 0
            assert json.loads(watcher.stdout.readline())["number"] == number
        assert watcher.wait(10) == 0


def test_a_watch_that_sees_too_little_ends_with_a_timeout(broadcaster: BroadcasterProcess, model: str) -> None:
    assert "0 came" in refused(command("watch", model, "--count", 1, "--timeout", 0.3, url=broadcaster.url), 5)
    assert command("watch", model, "--timeout", 0.3, url=broadcaster.url).returncode == 0


def test_an_interrupted_watch_says_so(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    line = [*BASE, "watch", model]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, cwd=ROOT, env=environment(broadcaster.url), text=True, **pipes) as watcher:
        assert watcher.stdout is not None and model in watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        assert watcher.communicate(timeout=10)[1].strip() == "error: interrupted"
        assert watcher.returncode == 130


def test_a_reader_that_has_enough_gets_no_traceback(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    line = '"$@" | true'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *BASE, "versions", model],
        cwd=ROOT,
        env=environment(broadcaster.url),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


# --- models --------------------------------------------------------------------------------------------------------


def test_models_and_versions_are_listed(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    for _ in range(2):
        command("publish", file, "--model", model, url=broadcaster.url)
    (found,) = (one for one in json.loads(command("models", "--json", url=broadcaster.url).stdout) if one["model_id"] == model)
    assert (found["newest"], found["versions"]) == (2, 2)
    assert re.search(rf"^{model} +2 +2 ", command("models", url=broadcaster.url).stdout, re.M)
    assert [one["number"] for one in json.loads(command("versions", model, "--json", url=broadcaster.url).stdout)] == [1, 2]
    assert json.loads(command("models", "--json", "--namespace", "elsewhere", url=broadcaster.url).stdout) == []


def test_a_transient_version_is_archived_later(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    archived = json.loads(command("archive", model, "-1", "--json", url=broadcaster.url).stdout)
    assert archived["archived"] and re.fullmatch("[0-9a-f]{64}", archived["sha256"])


def test_deleting_a_version_leaves_the_others(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    for _ in range(2):
        command("publish", file, "--model", model, url=broadcaster.url)
    done = command("delete", model, 1, "--json", url=broadcaster.url)
    assert json.loads(done.stdout) == {"deleted": {"namespace": "default", "model_id": model, "number": 1}}
    assert [one["number"] for one in json.loads(command("versions", model, "--json", url=broadcaster.url).stdout)] == [2]


def test_a_whole_model_is_deleted_only_when_somebody_says_yes(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    command("publish", file, "--model", model, url=broadcaster.url)
    assert "--yes" in refused(command("delete", model, url=broadcaster.url), 2)
    code, said = on_terminal(["delete", model], broadcaster.url, answer="n\n")
    assert code == 130 and f"Delete the model {model} and its 1 version(s)" in said
    assert command("versions", model, url=broadcaster.url).returncode == 0
    code, said = on_terminal(["delete", model], broadcaster.url, answer="y\n")
    assert code == 0, said
    assert command("versions", model, url=broadcaster.url).returncode == 4


def test_the_figures_of_the_broadcaster_are_shown(broadcaster: BroadcasterProcess) -> None:
    assert json.loads(command("stats", "--json", url=broadcaster.url).stdout)["requests"] >= 1
    assert re.search(r"^requests +\d+$", command("stats", url=broadcaster.url).stdout, re.M)


# --- on a terminal -------------------------------------------------------------------------------------------------


def test_on_a_terminal_tables_are_drawn_and_markup_is_text(broadcaster: BroadcasterProcess, file: Path, model: str) -> None:
    command("publish", file, "--model", model, "--user-data", "note=[red]x[/red] \x1b[5m", url=broadcaster.url)
    code, said = on_terminal(["versions", model], broadcaster.url)
    assert code == 0 and "─" in said and "note=[red]x[/red] \\x1b[5m" in said and "\x1b[5m" not in said


def test_on_a_terminal_a_transfer_shows_how_far_it_is(broadcaster: BroadcasterProcess, model: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(8 << 20))
    code, said = on_terminal(["publish", str(tmp_path / "big"), "--model", model], broadcaster.url)
    assert code == 0 and f"publishing {model}" in said and "8.0 MiB" in said and f"{model} 1: 8 MiB" in said


# --- offline -------------------------------------------------------------------------------------------------------


def test_an_archive_is_verified_and_its_index_made_anew(file: Path, tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "life") as process:
        assert command("publish", file, "--archived", url=process.url).returncode == 0
        beside = command("verify", process.archive_dir)
        assert "all right" in beside.stdout and "a broadcaster is using it" in beside.stdout and beside.returncode == 0
        for other in (["rebuild-index"], ["migrate"]):
            assert "in use" in refused(command(*other, process.archive_dir), 2)
    archive = tmp_path / "life" / "archive"
    assert command("verify", archive).stdout.rstrip().endswith("all right")
    rebuilt = command("rebuild-index", archive, "--json")
    assert json.loads(rebuilt.stdout) == {"models": 1, "versions": 1, "notes": []}
    (blob,) = (path for path in (archive / "blobs").rglob("*") if path.is_file())
    blob.chmod(0o600)
    with blob.open("r+b") as opened:
        opened.write(b"damage")
    done = command("verify", archive)
    assert done.returncode == 1 and "damaged: default/weights version 1" in done.stdout


def test_an_archive_in_use_is_backed_up_and_restored(file: Path, tmp_path: Path) -> None:
    backup, new = tmp_path / "backup", tmp_path / "new"
    with BroadcasterProcess(tmp_path / "life") as process:
        assert command("publish", file, "--archived", url=process.url).returncode == 0
        done = command("backup", process.archive_dir, backup, "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["copied"] == 1, done
        assert "0 of them copied" in command("backup", process.archive_dir, backup).stdout
    assert "it is a backup" in refused(command("serve", *FREE, "--archive-dir", backup), 2)
    done = command("restore", backup, new)
    assert done.returncode == 0 and "above those of the backup" in done.stdout, done
    assert command("verify", new, "--quick").stdout.rstrip().endswith("all right")
    with BroadcasterProcess(tmp_path / "next", archive_dir=new) as process:
        assert command("fetch", "weights", "1", "--out", tmp_path / "again", url=process.url).returncode == 0
        assert (tmp_path / "again").read_bytes() == file.read_bytes()
        done = command("publish", file, "--json", url=process.url)
        assert json.loads(done.stdout)["number"] > 1_000_000


def test_what_is_no_archive_is_not_made_one(tmp_path: Path) -> None:
    for name in ("verify", "rebuild-index", "backup"):
        more = [tmp_path / "backup"] if name == "backup" else []
        assert "it is no archive" in refused(command(name, tmp_path, *more), 2)
        assert "does not exist" in refused(command(name, tmp_path / "none", *more), 2)
    assert "it is no backup" in refused(command("restore", tmp_path, tmp_path / "new"), 2)
    assert list(tmp_path.iterdir()) == []
