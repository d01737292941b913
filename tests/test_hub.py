from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest
import torch

import sing_nb.models.hub as module
from sing_nb.errors import SingError
from sing_nb.models.hub import from_hub, hub_caches, hub_reachable


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(int(self.path.rsplit("/", 1)[-1]))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def silent(monkeypatch):
    """An address that takes connections and never answers; patience is short."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/weights.pth"


@pytest.fixture
def no_hub(monkeypatch):
    """The Hugging Face hub at an address where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize(
    ("code", "answers"), [(200, True), (404, True), (403, False), (503, False)]
)
def test_any_answer_counts_but_a_refusal_on_the_way(server, code, answers):
    assert hub_reachable(f"{server}/{code}") is answers


def test_offline_mode_is_believed(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub_reachable() is False


def test_who_never_answers_is_given_up_in_time(silent):
    start = time.monotonic()
    with pytest.raises(SingError, match="does not answer"):
        from_hub("the weights of a net", lambda: 1 / 0, url=silent)
    assert time.monotonic() - start < 5


def test_without_a_hub_only_the_cache_is_asked(no_hub):
    seen = []

    def load():
        seen.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        return "from the cache"

    assert from_hub("a thing", load) == "from the cache"
    assert seen == [True]
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_the_message_says_what_was_wanted_where_the_cache_is_and_what_works(no_hub):
    def load():
        return huggingface_hub.hf_hub_download("nobody/nothing", "model.safetensors")

    with pytest.raises(SingError) as caught:
        from_hub("the weights of timm/nothing", load, advice="or take another")
    message = str(caught.value)
    assert message.startswith("The weights of timm/nothing could not be had.")
    for part in (str(hub_caches()["huggingface_hub"]), "or take another", "profile offline works"):
        assert part in message
    assert "\n" not in message


def test_a_file_in_torchs_cache_needs_no_hub(no_hub, silent, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights.pth").write_bytes(b"kept")
    assert from_hub("a net", lambda: "loaded", url=silent) == "loaded"


def test_what_goes_wrong_at_a_hub_that_answers_is_told(server):
    with pytest.raises(SingError, match=r"The hub answers, but: KeyError: 'no such'"):
        from_hub("a thing", lambda: {}["no such"], url=f"{server}/200")


def test_errors_that_say_what_to_do_are_left_alone(server):
    def load():
        raise SingError("Take the other one.")

    with pytest.raises(SingError, match=r"^Take the other one\.$"):
        from_hub("a thing", load, url=f"{server}/200")
