"""The table of checks: each is a pure function from surroundings to a finding, with what to do where something is wrong."""

from __future__ import annotations

from collections.abc import Callable

from broadcaster.cli.checks.finding import Finding, ok, problem, warning
from broadcaster.cli.checks.places import archive_disk, archive_flush, archive_place, index, slot_memory, slot_place
from broadcaster.cli.checks.surroundings import Surroundings
from broadcaster.cli.output import size
from broadcaster.server.core import RESERVED

DESCRIPTORS = 4096
"""A connection takes one, a slot two."""
_BESIDE = 256 << 20
"""Bytes of memory for all that is not payloads: three processes and their libraries."""


def python(found: Surroundings) -> Finding:
    text = ".".join(map(str, found.python))
    if found.python < (3, 11):
        return problem("python", text, "use Python 3.11 or newer")
    return ok("python", text)


def packages(found: Surroundings) -> Finding:
    missing = [name for name, version in found.packages.items() if version is None]
    if missing:
        return problem("packages", f"missing: {', '.join(missing)}", "pip install 'model-broadcaster[server]'")
    return ok("packages", " ".join(f"{name} {version}" for name, version in found.packages.items()))


def libzmq(found: Surroundings) -> Finding:
    if tuple(int(part) for part in found.libzmq.split(".")[:2]) < (4, 3):
        return problem("libzmq", found.libzmq, "install a pyzmq wheel (26.4 or newer), which brings libzmq 4.3")
    return ok("libzmq", found.libzmq)


def curve(found: Surroundings) -> Finding:
    if not found.curve:
        return problem("curve", "this libzmq was built without CURVE", "install a pyzmq wheel, which brings one that has it")
    return ok("curve", "there")


def descriptors(found: Surroundings) -> Finding:
    soft, hard = found.descriptors
    if hard != -1 and hard < DESCRIPTORS:
        remedy = f"raise it: ulimit -n {DESCRIPTORS * 4}, --ulimit nofile=65536:65536, or LimitNOFILE= of a unit"
        return warning("descriptors", f"at most {hard}: a connection takes one, a slot two", remedy)
    if hard != -1 and hard - RESERVED < found.connections:
        remedy = (
            f"raise it to {found.connections + RESERVED} (ulimit -n, --ulimit nofile=, LimitNOFILE=), or lower --max-connections"
        )
        return warning("descriptors", f"at most {hard}: {hard - RESERVED} of {found.connections} connections", remedy)
    return ok("descriptors", f"{_limit(soft)}, raised to {_limit(hard)} at the start")


def memory(found: Surroundings) -> Finding:
    of = "this container" if found.memory_limit is not None else "this machine"
    most = found.memory_limit if found.memory_limit is not None else found.memory
    text = f"{size(most)} for {of}, {size(found.budget)} of it for payloads" if most else "not known"
    if most and found.budget + _BESIDE > most:
        # What lies in shared memory counts as the container's, whoever reads it.
        remedy = f"raise the limit to {size(found.budget + 2 * _BESIDE)}, or lower --memory-budget"
        return (problem if found.budget > most else warning)("memory", text, remedy)
    return ok("memory", text)


def keys(found: Surroundings) -> Finding:
    loose = [key for key in found.keys if key.mode & (0o077 if key.secret else 0o022)]
    if loose:
        told = ", ".join(f"{key.path} is {key.mode:04o}" for key in loose)
        commands = "; ".join(f"chmod {'0700' if key.directory else '0600'} {key.path}" for key in loose)
        return problem("keys", f"{told}: others than its user can get at it", commands)
    strange = [str(key.path) for key in found.keys if not key.ours]
    if strange:
        return warning("keys", f"of another user: {', '.join(strange)}", "chown them to the user that the broadcaster runs as")
    files = sum(not key.directory for key in found.keys)
    return ok("keys", f"{files} file(s), of this user alone" if files else "none yet")


def access(found: Surroundings) -> Finding:
    if found.open_to:
        remedy = "give keys and tokens and leave --insecure and --grpc-open out, or bind 127.0.0.1 only"
        return warning("access", f"INSECURE: everyone who can reach {', '.join(found.open_to)} gets in", remedy)
    return ok("access", "nobody without a key or a token from outside this machine")


def advertise(found: Surroundings) -> Finding:
    if found.unknown_name:
        remedy = "make the name known here, or leave --advertise out where clients connect by the name that they know"
        return warning("advertise", f"{found.unknown_name} cannot be resolved here", remedy)
    return ok("advertise", "nothing that could not be resolved")


def ports(found: Surroundings) -> Finding:
    named = {name: f"{name} {host}:{number}" for name, (host, number, _) in found.ports.items()}
    for state, remedy in {
        "taken": "end what listens there (ss -ltnp names it), or choose another with --{}-port",
        "forbidden": "this user may not listen there: choose an address of this machine, and a number above 1023",
    }.items():
        if wrong := [name for name, (_, _, port) in found.ports.items() if port == state]:
            told = ", ".join(named[name] for name in wrong)
            return problem("ports", f"{state}: {told}", remedy.format(wrong[0]))
    running = [named[name] for name, (_, _, port) in found.ports.items() if port == "broadcaster"]
    if running:
        return ok("ports", f"a broadcaster serves: {', '.join(running)}")
    return ok("ports", f"free: {', '.join(named.values())}")


def _limit(count: int) -> str:
    return "no limit" if count == -1 else str(count)


CHECKS: tuple[Callable[[Surroundings], Finding], ...] = (
    python,
    packages,
    libzmq,
    curve,
    archive_place,
    archive_disk,
    archive_flush,
    index,
    slot_place,
    slot_memory,
    memory,
    descriptors,
    ports,
    advertise,
    keys,
    access,
)
"""In the order in which they are told."""


def examine(found: Surroundings) -> list[Finding]:
    """All findings, one for each check."""
    return [check(found) for check in CHECKS]
