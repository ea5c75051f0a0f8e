"""Who is let in over HTTP, under which names, and what becomes of those who misbehave."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner

import clients
from broadcaster.cli import main
from broadcaster.web.routes import ROUTES
from broadcaster.web.tokens import add_token, remove_token
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess

ROLES = {"actor": ["*/*"], "learner": ["*/*"], "admin": ["*/*"], "limited": ["default/pol*"]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BroadcasterProcess, dict[str, str]]]:
    """A broadcaster with tokens, by the names in ROLES."""
    process = BroadcasterProcess(tmp_path_factory.mktemp("guarded") / "broadcaster", http=True)
    process.options += ["--http-allowed-host", "models.example, other.example", "--advertise", "sidecar"]
    file = process.archive_dir / "keys" / "http-tokens.toml"
    tokens = {name: add_token(file, name, "admin" if name == "limited" else name, models) for name, models in ROLES.items()}
    with process:
        with clients.connect(process.ipc_url) as client:
            client.publisher("policy").publish(b"weights")
            client.publisher("value").publish(b"weights")
        yield process, tokens


@pytest.fixture
def web(guarded: tuple[BroadcasterProcess, dict[str, str]]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded[0].ready["http"], timeout=20) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def paths() -> list[tuple[str, str | None]]:
    """Every route that ends, filled in, with the role that it needs."""
    filled = {"model": "policy", "ref": "1", "name": "nothing.css"}
    return [(route.path.format(**filled), route.role) for route in ROUTES if route.path != "/v1/events"]


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_without_a_token_only_probes_and_the_empty_page_are_answered(web: httpx.Client) -> None:
    for path, role in paths():
        said = web.get(path)
        if role is not None:
            assert said.status_code == 401 and said.json()["code"] == "token-needed", path
            assert said.headers["www-authenticate"].startswith("Bearer")
    assert web.get("/livez").status_code == web.get("/readyz").status_code == 200
    assert web.get("/v1/events").status_code == 401 and web.get("/").status_code == 401


@pytest.mark.parametrize("role", ["actor", "learner", "admin"])
def test_every_role_gets_what_is_its_own(
    guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client, role: str
) -> None:
    ranks = ["actor", "learner", "admin"]
    for path, needed in paths():
        status = web.get(path, headers=bearer(guarded[1][role])).status_code
        allowed = needed is None or ranks.index(role) >= ranks.index(needed)
        assert (status == 403) is not allowed and status != 401, (path, status)


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer x",
        "Basic YWRtaW46YWRtaW4=",
        "bearer " + "a" * 999,
        "Bearer \xff\xfe",
        "{token}",
        "Bearer {token}x",
    ],
)
def test_a_wrong_token_is_no_token(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client, header: str) -> None:
    said = web.get("/v1/models", headers={"Authorization": header.replace("{token}", guarded[1]["admin"]).encode("latin-1")})
    assert said.status_code == 401 and guarded[1]["admin"] not in said.text


def test_a_token_for_some_models_sees_no_others(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client) -> None:
    limited = bearer(guarded[1]["limited"])
    assert [model["model_id"] for model in web.get("/v1/models", headers=limited).json()["models"]] == ["policy"]
    assert web.get("/v1/models?limit=1&after=policy", headers=limited).json() == {"models": [], "next": None}
    assert web.get("/v1/models/policy/versions/1/data", headers=limited).content == b"weights"
    for path in ("/v1/models/value", "/v1/models/value/versions", "/v1/models/value/versions/1/data", "/v1/events?model=value"):
        assert web.get(path, headers=limited).status_code == 403, path
    for path in (
        "/v1/models/value/subscribers",
        "/v1/models/nothing",
        "/v1/models/policy?namespace=lab",
        "/metrics",
        "/v1/stats",
    ):
        assert web.get(path, headers=limited).status_code == 403, path
    with web.stream("GET", "/v1/events", headers=limited) as said, clients.connect(guarded[0].ipc_url) as client:
        lines = said.iter_lines()
        next(lines)
        client.publisher("value").publish(b"x")
        client.publisher("policy").publish(b"x")
        told = next(line for line in lines if line.startswith("data: ") and '"published"' in line)
    assert '"model_id": "policy"' in told


def test_a_token_that_is_taken_back_ends_within_seconds_what_it_allowed(
    guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client
) -> None:
    file = guarded[0].archive_dir / "keys" / "http-tokens.toml"
    token = add_token(file, "passing", "admin")
    wait_until(lambda: web.get("/v1/models", headers=bearer(token)).status_code == 200, "it is known")
    web.get("/", params={"token": token}, follow_redirects=False)
    assert web.get("/v1/models").status_code == 200
    assert remove_token(file, "passing")
    taken = time.monotonic()
    wait_until(lambda: web.get("/v1/models", headers=bearer(token)).status_code == 401, "it is known no more")
    assert time.monotonic() < taken + 5
    assert web.get("/v1/models").status_code == 401


def test_a_browser_shows_its_token_once(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client) -> None:
    token = guarded[1]["admin"]
    said = web.get("/", params={"token": token}, follow_redirects=False)
    assert said.status_code == 303 and said.headers["location"] == "/" and said.headers["cache-control"] == "no-store"
    cookie = said.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie and token not in said.headers["set-cookie"]
    assert web.get("/").status_code == web.get("/v1/models").status_code == 200
    web.cookies.clear()
    assert web.get("/v1/models").status_code == 401
    assert web.get("/", params={"token": "wrong"}).status_code == 401
    web.cookies.set("broadcaster", "guess")
    assert web.get("/v1/models").status_code == 401


def test_no_token_is_ever_logged(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client) -> None:
    for token in guarded[1].values():
        web.get("/", params={"token": token}, follow_redirects=False)
        web.get("/nothing", params={"token": token}, headers=bearer(token))
        assert token not in guarded[0].log()


def test_the_first_token_closes_the_door_of_a_broadcaster_that_runs(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path, http=True) as process, httpx.Client(base_url=process.ready["http"], timeout=20) as web:
        assert web.get("/v1/models").status_code == 200
        found = CliRunner().invoke(main, ["token", "first", "--archive-dir", str(process.archive_dir)])
        token = found.stdout.strip()
        assert found.exit_code == 0 and "http-tokens.toml" in found.stderr and token not in found.stderr
        wait_until(lambda: web.get("/v1/models").status_code == 401, "a token is needed")
        assert web.get("/v1/models", headers=bearer(token)).status_code == 200
        listed = CliRunner().invoke(main, ["token", "--archive-dir", str(process.archive_dir)])
        assert "first" in listed.stdout and token not in listed.output
        assert CliRunner().invoke(main, ["token", "first", "--remove", "--archive-dir", str(process.archive_dir)]).exit_code == 0
        wait_until(lambda: web.get("/v1/models", headers=bearer(token)).status_code == 401, "nobody is let in")


# --- names, headers, TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("LOCALHOST:5553", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("10.1.2.3", 200),
        ("sidecar:5553", 200),
    ]
    + [("models.example", 200), ("other.example.", 200), ("evil.example", 421), ("localhost.evil.example", 421), ("", 421)]
    + [("models.example.evil", 421), ("127.0.0.1.evil.example", 421), ("[::1", 421), ("a@localhost", 421)],
)
def test_only_our_own_names_are_answered(
    guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client, host: str, status: int
) -> None:
    said = web.get("/v1/models", headers=bearer(guarded[1]["admin"]) | {"Host": host})
    assert said.status_code == status
    assert web.get("/livez", headers={"Host": host}).status_code == 200


def test_every_answer_has_strict_headers(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client) -> None:
    admin = bearer(guarded[1]["admin"])
    for said in [web.get(path, headers=admin) for path, _ in paths()] + [web.get("/nothing"), web.post("/v1/models")]:
        policy = said.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert said.headers["x-content-type-options"] == "nosniff" and said.headers["referrer-policy"] == "no-referrer"
        assert said.headers["x-request-id"] and "server" not in said.headers and "access-control-allow-origin" not in said.headers


def test_an_address_that_others_reach_needs_a_token_or_a_word(tmp_path: Path) -> None:
    refused = BroadcasterProcess(tmp_path / "refused", options=["--http-host", "0.0.0.0"], http=True)
    try:
        with pytest.raises(AssertionError, match="http-host: 0.0.0.0 can be reached over the network"):
            refused.start()
    finally:
        refused.close()


def test_a_certificate_turns_tls_on(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of this test, and is not here")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    options = ["--http-cert", str(certificate), "--http-key", str(key)]
    with BroadcasterProcess(tmp_path / "tls", options=options, http=True) as process:
        assert process.ready["http"].startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(process.ready["http"] + "/readyz", verify=context, timeout=20).json()["ready"]
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert httpx.get(process.ready["http"] + "/livez", verify=context, timeout=20).text == "ok\n"
        with pytest.raises(httpx.TransportError):
            httpx.get(process.ready["http"].replace("https", "http") + "/livez", timeout=20)
    wrong = BroadcasterProcess(tmp_path / "wrong", options=["--http-cert", str(key), "--http-key", str(key)], http=True)
    try:
        with pytest.raises(AssertionError, match="http-cert"):
            wrong.start()
    finally:
        wrong.close()


# --- who misbehaves --------------------------------------------------------------------------------------------------


def raw(process: BroadcasterProcess, sent: bytes, *, seconds: float = 20.0) -> bytes:
    """What comes back until the other side closes."""
    where = urlsplit(process.ready["http"])
    with socket.create_connection((where.hostname, where.port), timeout=seconds) as line:
        with contextlib.suppress(OSError):
            line.sendall(sent)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while part := line.recv(65536):
                got += part
                if len(got) > 1 << 20:
                    break
        return got


GARBAGE = [
    b"\0" * 4096,
    b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % at for at in range(20_000)) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
    b"GET /%00%ff%c0%ae%c0%ae/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /static/..%2f..%2f__init__.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /static/%2e%2e/app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
    b'GET / HTTP/1.1\r\nHost: localhost\r\nCookie: broadcaster="\\303\\012"; ;;==\r\nConnection: close\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("sent", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_and_changes_nothing(
    guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client, sent: bytes
) -> None:
    got = raw(guarded[0], sent)
    assert got == b"" or got.startswith(b"HTTP/1.1 4"), got[:200]
    assert b"Traceback" not in got and b"root:" not in got and b"from __future__" not in got
    assert web.get("/livez").status_code == 200
    assert guarded[0].running and all(Path(f"/proc/{pid}").exists() for pid in guarded[0].pids)


def test_methods_that_change_something_are_refused(guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"):
        said = web.request(method, "/v1/models/policy", headers=bearer(guarded[1]["admin"]))
        assert said.status_code == 405 and said.headers["allow"] == "GET, HEAD"


def test_who_sends_a_request_byte_by_byte_is_hung_up_on(guarded: tuple[BroadcasterProcess, dict[str, str]]) -> None:
    """Three at a time, so that this takes as long as one: a silent one, a slow head, a slow body."""
    where = urlsplit(guarded[0].ready["http"])
    starts = [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n"]
    begun = time.monotonic()
    lines = [socket.create_connection((where.hostname, where.port), timeout=0.2) for _ in starts]
    for line, start in zip(lines, starts, strict=True):
        line.sendall(start)
    left = set(lines[1:])
    closed = 0

    def all_closed() -> bool:
        nonlocal closed
        for line in list(left):
            with contextlib.suppress(TimeoutError):
                try:
                    line.sendall(b"x")
                    gone = line.recv(1 << 16) == b""
                except OSError as error:
                    if isinstance(error, TimeoutError):
                        raise
                    gone = True
                if gone:
                    left.discard(line)
                    closed += 1
        return not left

    wait_until(all_closed, "both are hung up on", seconds=20)
    lines[0].settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        assert lines[0].recv(10) == b""
    assert time.monotonic() < begun + 20
    for line in lines:
        line.close()


def test_hundreds_of_silent_connections_leave_room_for_others(
    guarded: tuple[BroadcasterProcess, dict[str, str]], web: httpx.Client
) -> None:
    where = urlsplit(guarded[0].ready["http"])
    pids = guarded[0].pids
    with contextlib.ExitStack() as open_ones:
        for _ in range(400):
            open_ones.enter_context(socket.create_connection((where.hostname, where.port), timeout=20))
        assert web.get("/livez").status_code == 200
    assert guarded[0].pids == pids and os.path.exists(f"/proc/{pids[2]}")
