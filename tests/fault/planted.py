"""Plants bugs in a copy of this tree, one at a time, and looks whether the test that is named for each turns red.

python -m tests.fault.planted [NAME ...]    a table; exit code 1 when a bug goes unseen, or its test cannot run here
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PARTS = ("broadcaster", "clients", "tests", "pyproject.toml")

POWER = "tests/fault/test_store_power.py::test_what_was_acknowledged_survives_a_power_cut_right_after"


@dataclass(frozen=True)
class Plant:
    """`edits` are (file, what stands there, what is put in its place); `test` must fail then, and pass without them."""

    name: str
    test: str
    edits: tuple[tuple[str, str, str], ...]


PLANTS = (
    Plant(
        "a blob is not flushed",
        f"{POWER}[alpha 1-ext4]",
        (("broadcaster/store/blobs.py", "            sync(self._fd)\n", ""),),
    ),
    Plant(
        "a directory is not flushed",
        f"{POWER}[alpha 1-btrfs]",
        (("broadcaster/store/folders.py", "        sync(self.fd)\n", "        pass\n"),),
    ),
    Plant(
        "synchronous=NORMAL",
        f"{POWER}[numbers-ext4]",
        (("broadcaster/store/sqlite.py", '"synchronous": 2', '"synchronous": 1'),),
    ),
    Plant(
        "answered before it is durable",
        "tests/fault/real/test_kill_at_calls.py::test_a_kill_at_a_system_call_of_a_change_loses_nothing[upload]",
        (
            (
                "broadcaster/broker/broker.py",
                "            self._keep(upload, kept)\n",
                "            self._keep(upload, kept)\n            self._done(upload, info)\n",
            ),
        ),
    ),
    Plant(
        "the next number is max + 1",
        "tests/fault/real/test_kill_broadcaster.py::test_acknowledged_archived_versions_survive_and_no_number_is_used_twice",
        (
            (
                "broadcaster/server/core.py",
                "numbers=Numbers(loaded.floors),",
                "numbers=Numbers({(one.info.namespace, one.info.model_id): one.info.number for one in loaded.versions}),",
            ),
        ),
    ),
    Plant(
        "applied without its digest",
        "tests/unit/test_follow_machine.py::test_pushed_bytes_of_another_digest_are_read_again",
        (("broadcaster/protocol/machines/follow.py", "if incoming.assembly.digest == version.digest:", "if True:"),),
    ),
    Plant(
        "fetched without its digest",
        "tests/unit/test_fetch_machine.py::test_wrong_bytes_are_never_taken_for_the_version",
        (("broadcaster/protocol/machines/fetch.py", "if self.assembly.digest == self.version.digest:", "if True:"),),
    ),
    Plant(
        "a flush that failed is tried again",
        "tests/fault/test_store_disk.py::test_a_flush_that_failed_is_never_tried_again",
        (
            (
                "broadcaster/store/folders.py",
                "        os.fsync(fd)\n",
                "        try:\n            os.fsync(fd)\n        except OSError:\n            os.fsync(fd)\n",
            ),
        ),
    ),
    Plant(
        "a chunk is served unchecked",
        "tests/integration/test_archive_care.py::test_damage_is_store_corrupt_on_the_wire_and_the_same_payload_published_again_heals_it",
        (
            (
                "broadcaster/store/reading.py",
                "        if found != version.chunk_digests[index * CHUNK_DIGEST : (index + 1) * CHUNK_DIGEST]:",
                "        if False:",
            ),
        ),
    ),
    Plant(
        "a flush that failed leaves the archive writable",
        "tests/integration/test_archive_care.py::test_the_live_path_goes_on_while_the_archive_is_read_only_and_it_comes_back_by_itself",
        (
            (
                "broadcaster/store/gate.py",
                "            if isinstance(error, SyncFailed) or error.errno in _BROKEN:",
                "            if False:",
            ),
        ),
    ),
    Plant(
        "what failed halfway is left for the next start",
        "tests/fault/test_settling.py::test_what_left_memory_meanwhile_is_there_again",
        (("broadcaster/broker/broker.py", "        self.settling.tick()\n", ""),),
    ),
    Plant(
        "a page of a search looks at all versions again",
        "tests/unit/test_searching.py::test_all_pages_together_look_at_few_versions_more_than_there_are[-metrics.m-policy]",
        (("broadcaster/broker/results.py", "        if after < found.after:", "        if True:"),),
    ),
    Plant(
        "the scrub believes times of files",
        "tests/fault/test_store_scrub.py::test_the_scrub_finds_a_flipped_bit_that_nobody_read",
        (
            (
                "broadcaster/store/scrub.py",
                "            yield from self._compare(fd, sha256, quarantined=False)",
                "            if os.fstat(fd).st_mtime > self.last_complete:\n"
                "                yield from self._compare(fd, sha256, quarantined=False)",
            ),
        ),
    ),
    Plant(
        "the scrub sets aside what was healed meanwhile",
        "tests/fault/test_store_scrub.py::test_a_blob_healed_while_the_scrub_read_the_damaged_one_stays",
        (
            (
                "broadcaster/store/quarantine.py",
                "            if self._identity(sha256) == found:\n                self._set_aside",
                "            if True:\n                self._set_aside",
            ),
        ),
    ),
    Plant(
        "the quarantine is forgotten at a start",
        "tests/fault/test_store_scrub.py::test_the_scrub_finds_a_flipped_bit_that_nobody_read",
        (("broadcaster/store/archive.py", "            self._notes += self._quarantine.load()\n", ""),),
    ),
    Plant(
        "a restored archive goes on where its backup was",
        "tests/integration/test_archive_care.py::test_a_backup_beside_four_learners_comes_back_whole_and_no_number_is_used_again",
        (("broadcaster/store/floors.py", "number + step if above is None", "number if above is None"),),
    ),
    Plant(
        "a backup copies damage",
        "tests/fault/test_store_backup.py::test_damage_in_the_archive_is_told_and_never_copied",
        (("broadcaster/store/copying.py", "            if staged.sha256 != sha256:", "            if False:"),),
    ),
)


def copy_of_the_tree(folder: Path) -> Path:
    """What the tests need of this tree, as it is now."""
    tree = folder / "tree"
    tree.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, tree / part)
    return tree


def plant(tree: Path, bug: Plant) -> None:
    """Raises ValueError when the code is not what the plant was made for."""
    for name, before, after in bug.edits:
        text = (tree / name).read_text()
        if text.count(before) != 1:
            raise ValueError(f"{bug.name}: {name} has {text.count(before)} times: {before.strip()!r}")
        (tree / name).write_text(text.replace(before, after))


def outcome(tree: Path, test: str) -> tuple[str, str]:
    """What became of a test there: passed, failed, skipped or broken; and why."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tree.parent / "tmp"),
        test,
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    last = [said for said in done.stdout.splitlines() if re.match(r"E  |skipped: ", said)]
    why = last[-1].removeprefix("E").strip()[:150] if last else ""
    if done.returncode == 1 and re.search(r"\b1 failed", done.stdout):
        return "failed", why
    if done.returncode == 0:
        return ("passed" if re.search(r"\b1 passed", done.stdout) else "skipped"), why
    return "broken", (done.stdout + done.stderr)[-1000:]


def look(bug: Plant) -> tuple[bool, str]:
    """Whether the bug is seen by its test, and a line about it."""
    began = time.monotonic()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mb-planted-", dir=shm if os.access(shm, os.W_OK) else None) as folder:
        tree = copy_of_the_tree(Path(folder))
        healthy, why = outcome(tree, bug.test)
        if healthy != "passed":
            return False, f"NOT RUN   {bug.name}: without the bug, its test is {healthy}: {why}"
        plant(tree, bug)
        planted, why = outcome(tree, bug.test)
    seen, seconds = planted == "failed", time.monotonic() - began
    said = "red" if seen else planted.upper()
    return seen, f"{said:8}  {bug.name} ({seconds:.0f} s)\n          {bug.test}\n          {why}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="bugs to plant, by a part of their name; all by default")
    names = parser.parse_args().names
    bugs = [bug for bug in PLANTS if not names or any(name in bug.name for name in names)]
    unseen = 0
    for bug in bugs:
        seen, line = look(bug)
        unseen += not seen
        print(line, flush=True)
    print(f"{len(bugs) - unseen} of {len(bugs)} planted bugs turned their test red")
    return 1 if unseen or not bugs else 0


if __name__ == "__main__":
    sys.exit(main())
