"""Hubs that answer, refuse, or take a connection and stay silent; and caches without a hub."""

from __future__ import annotations

import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest

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


@pytest.mark.parametrize(("code", "answers"), [(200, True), (404, True), (403, False)])
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


@pytest.mark.parametrize("library", ["timm", "open_clip", "transformers"])
def test_without_a_hub_the_libraries_look_at_the_cache_alone(
    library, no_hub, tmp_path, monkeypatch, capfd
):
    import open_clip
    import timm
    import transformers

    load = {
        "timm": lambda: timm.create_model("resnet18", pretrained=True, cache_dir=tmp_path),
        "open_clip": lambda: open_clip.create_model_from_pretrained(
            "RN50", "openai", cache_dir=str(tmp_path)),
        "transformers": lambda: transformers.AutoModel.from_pretrained(
            "nobody/nothing", cache_dir=tmp_path),
    }[library]
    start = time.monotonic()
    with pytest.raises(SingError) as caught:
        from_hub("the weights of a net", load, advice="or take another")
    assert time.monotonic() - start < 10  # they alone ask six times, 23 s a file
    assert "Retry" not in "".join(capfd.readouterr())
    message = str(caught.value)
    assert message.startswith("The weights of a net could not be had: ")
    for part in (str(hub_caches()["huggingface_hub"]), "or take another", "profile offline"):
        assert part in message
    # And nothing of it stays behind.
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
    assert "HF_HUB_OFFLINE" not in os.environ


def test_what_goes_wrong_at_a_hub_that_answers_is_told(server):
    with pytest.raises(SingError, match=r"KeyError: 'no such'\. The hub answers"):
        from_hub("a thing", lambda: {}["no such"], url=f"{server}/200")
