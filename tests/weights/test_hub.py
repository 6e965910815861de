"""The Hugging Face hub, against a small one of our own on 127.0.0.1."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.weights import hub
from simsiam_jax.weights.hub import HubFile


def one_line(excinfo: pytest.ExceptionInfo[InputError]) -> str:
    text = str(excinfo.value)
    assert "\n" not in text
    return text


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (f"hf:timm/resnet18.a1_in1k@{COMMIT}", HubFile("timm/resnet18.a1_in1k", COMMIT)),
        (f"hf:a/b/sub/x.safetensors@{COMMIT}", HubFile("a/b", COMMIT, "sub/x.safetensors")),
        ("weights.safetensors", None),
        ("imagenet", None),
    ],
)
def test_names_on_the_hub_are_told_from_paths(text: str, file: HubFile | None) -> None:
    assert hub.parse(text) == file


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:resnet18",
        "hf:a/b/model.pth",
        "hf:a/b@",
        "hf:a/b/../c.safetensors",
        "hf:a/b@../x",
        "hf:a/b c",
        "hf:/a/b",
    ],
)
def test_malformed_names_on_the_hub_name_the_flag_and_the_form(text: str) -> None:
    with pytest.raises(InputError, match=r"^--init=hf:.*the form is hf:OWNER/REPO"):
        hub.parse(text)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("hf:a/b", "hf:a/b"),
        ("hf:a/b@main", "hf:a/b"),
        ("hf:a/b@refs/pr/1", "hf:a/b"),
        (f"hf:a/b@{COMMIT[:39]}", "hf:a/b"),
        ("hf:a/b/sub/x.safetensors@v1.0", "hf:a/b/sub/x.safetensors"),
    ],
)
def test_a_name_without_a_commit_is_refused_and_says_where_commits_are(text: str, given: str) -> None:
    with pytest.raises(InputError, match=rf"^--init={text}: .*may mean another file tomorrow") as info:
        hub.parse(text)
    assert f"give --init={given}@REVISION, the 40 digits of a commit" in one_line(info)
    assert one_line(info).endswith("https://huggingface.co/a/b/commits/main")


class FakeHub:
    """One repository as the hub serves it: commits, the branch `main`, and what was asked for."""

    repo = "owner/tiny"
    filename = "model.safetensors"

    def __init__(self, url: str) -> None:
        self.url = url
        self.store_url = url.replace("127.0.0.1", "localhost")
        self.commits: dict[str, bytes] = {}
        self.main = ""
        self.sent: dict[str, bytes] = {}  # what goes over the wire in place of a commit's content
        self.large_files = True
        self.requests: list[str] = []

    def commit(self, content: bytes) -> str:
        """Puts a new content at the head of `main`; its commit."""
        self.main = hashlib.sha1(b"commit" + content).hexdigest()
        self.commits[self.main] = content
        return self.main

    def file(self, commit: str) -> HubFile:
        content = self.commits[commit]
        return HubFile(self.repo, commit, self.filename, len(content), hashlib.sha256(content).hexdigest())

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if path.removeprefix("/") in self.commits:
            return 200, {}, self.sent.get(path[1:], self.commits[path[1:]])
        self.requests.append(f"{method} {path}")
        if not path.startswith(f"/{self.repo}/resolve/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        revision, _, filename = path.removeprefix(f"/{self.repo}/resolve/").partition("/")
        commit = self.main if revision == "main" else revision
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if filename != self.filename:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = self.commits[commit]
        body = self.sent.get(commit, content)
        tag = (hashlib.sha256 if self.large_files else hashlib.sha1)(content).hexdigest()
        if not self.large_files:
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}, body
        # A large file lies on another host.
        headers = {"X-Repo-Commit": commit, "X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(body))}
        return 302, {**headers, "ETag": '"of the redirection"', "Location": f"{self.store_url}/{commit}"}, b""


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on this machine that the library talks to, with empty caches."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = served.answer(self.command, self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = FakeHub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    point_at(served.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield served
    server.shutdown()
    server.server_close()
    from huggingface_hub import close_session

    close_session()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def asked(file: HubFile) -> HubFile:
    """The same file as `--init=hf:` names it: by its commit, with size and sha256 unknown."""
    return HubFile(file.repo, file.revision, file.filename)


@pytest.mark.parametrize("large_files", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_is_fetched_at_its_commit_and_once(fake_hub: FakeHub, known: bool, large_files: bool) -> None:
    fake_hub.large_files = large_files
    first = fake_hub.file(fake_hub.commit(b"first" * 1000))
    fake_hub.commit(b"second" * 1000)
    file = first if known else asked(first)
    path, digest = hub.fetch(file)
    assert path.read_bytes() == b"first" * 1000
    assert path.name == "model.safetensors"
    assert digest == first.sha256
    assert {request.split()[1] for request in fake_hub.requests} == {
        f"/owner/tiny/resolve/{first.revision}/model.safetensors"
    }
    fake_hub.requests.clear()
    assert hub.fetch(file) == (path, digest)
    assert fake_hub.requests == []


@pytest.mark.parametrize("known", [True, False])
def test_a_flipped_byte_is_refused_until_the_named_file_is_deleted(fake_hub: FakeHub, known: bool) -> None:
    right = fake_hub.file(fake_hub.commit(b"weights" * 1000))
    file = right if known else asked(right)
    fake_hub.sent[fake_hub.main] = b"weights" * 999 + b"weightS"
    for _ in ("fetched", "cached"):
        with pytest.raises(InputError, match=f"should have the sha256 {right.sha256}, found [0-9a-f]{{64}}; delete /"):
            hub.fetch(file)
    fake_hub.sent.clear()
    with pytest.raises(InputError) as excinfo:
        hub.fetch(file)
    Path(one_line(excinfo).split("delete ")[1].removesuffix(" to fetch it again")).unlink()
    assert hub.fetch(file)[0].read_bytes() == b"weights" * 1000


def test_a_wrong_size_is_refused(fake_hub: FakeHub) -> None:
    pinned = fake_hub.file(fake_hub.commit(b"weights" * 1000))
    fake_hub.sent[fake_hub.main] = b"weights" * 999
    with pytest.raises(InputError, match="should be 7000 bytes long, found 6993; delete /"):
        hub.fetch(pinned)


def test_a_file_damaged_in_the_cache_is_refused(fake_hub: FakeHub) -> None:
    pinned = fake_hub.file(fake_hub.commit(b"weights" * 1000))
    path, _ = hub.fetch(pinned)
    path.resolve().write_bytes(b"WEIGHTS" * 1000)
    with pytest.raises(InputError, match="should have the sha256"):
        hub.fetch(pinned)


def test_either_size_or_sha256_is_checked_where_only_one_is_known(fake_hub: FakeHub) -> None:
    commit = fake_hub.commit(b"weights" * 1000)
    with pytest.raises(InputError, match="should be 6999 bytes long, found 7000"):
        hub.fetch(HubFile(fake_hub.repo, commit, size=6999))
    with pytest.raises(InputError, match=f"should have the sha256 {'0' * 64}"):
        hub.fetch(HubFile(fake_hub.repo, commit, sha256="0" * 64))


def test_names_that_the_hub_does_not_know_say_which_part(fake_hub: FakeHub) -> None:
    fake_hub.commit(b"weights")
    cases = {
        HubFile(
            "owner/absent", fake_hub.main
        ): r"owner/absent/model\.safetensors .* \(no such repository, or a private one\)",
        HubFile(fake_hub.repo, fake_hub.main, "other.safetensors"): r"\(the repository has no such file\)",
        HubFile(fake_hub.repo, COMMIT): rf"\(the repository has no revision {COMMIT}\)",
    }
    for file, words in cases.items():
        with pytest.raises(InputError, match=rf"^--init: cannot fetch .*{words}; download it elsewhere") as excinfo:
            hub.fetch(file)
        one_line(excinfo)


def test_an_unreachable_hub_is_one_line_with_a_way_round(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    file = fake_hub.file(fake_hub.commit(b"weights"))
    words = r"^--init: cannot fetch owner/tiny/model\.safetensors from the Hugging Face hub \({}\); .*--init=PATH$"
    point_at("http://127.0.0.1:9", monkeypatch)  # the discard port: nobody listens
    with pytest.raises(InputError, match=words.format("the hub cannot be reached")) as excinfo:
        hub.fetch(file)
    one_line(excinfo)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=words.format("HF_HUB_OFFLINE is set")):
        hub.fetch(file)


def test_a_file_that_is_in_the_cache_needs_no_hub(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    file = asked(fake_hub.file(fake_hub.commit(b"weights")))
    first = hub.fetch(file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(file) == first


def test_the_library_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        hub.fetch(HubFile("a/b", COMMIT))


def test_a_fresh_process_asks_for_the_one_file_and_prints_nothing(fake_hub: FakeHub, tmp_path: Path) -> None:
    """The library as a user has it, settings read from the environment: no listing, no telemetry, no progress bar."""
    fake_hub.commit(b"weights" * 1000)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": fake_hub.url,
        "HF_HOME": str(tmp_path / "home"),
    }
    program = f"from simsiam_jax.weights import hub; hub.fetch(hub.parse('hf:owner/tiny@{fake_hub.main}'))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {request.split()[1] for request in fake_hub.requests} == {
        f"/owner/tiny/resolve/{fake_hub.main}/model.safetensors"
    }
