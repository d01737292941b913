from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from sing_nb.errors import SingError
from sing_nb.study.tracking import tracked

CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}


def python(code, **env):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        env={**CLEAN, **env}, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Listener:
    """A proxy that counts who asks for it and answers nobody."""

    def __enter__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.asked = []
        threading.Thread(target=self._serve, daemon=True).start()
        address = "http://{}:{}".format(*self.server.getsockname())
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        both = [*names, *(name.lower() for name in names)]
        self.env = {**dict.fromkeys(both, address), "NO_PROXY": "", "no_proxy": ""}
        return self

    def _serve(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            self.asked.append(client.recv(200))
            client.close()

    def __exit__(self, *error):
        self.server.close()


# Python's own sockets may go nowhere but to this machine.
GUARD = """
    import socket
    connect = socket.socket.connect
    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"network: {address}")
        return connect(self, address)
    socket.socket.connect = guarded
"""


def test_off_is_silent_and_never_imports_wandb(tmp_path):
    said = python(f"""
        import sys
        from sing_nb.study.tracking import tracked
        with tracked("off", {str(tmp_path / "runs")!r}, "one", {{}}) as log:
            log({{"loss": 1.0}})
        print("wandb" in sys.modules)
    """)
    assert said.strip() == "False"
    assert not (tmp_path / "runs").exists()


def test_offline_writes_files_and_sends_nothing(tmp_path):
    with Listener() as proxy:
        said = python(GUARD + f"""
    from sing_nb.study.tracking import tracked
    with tracked("offline", {str(tmp_path)!r}, "mlp3-mse", {{"hidden": 7}}) as log:
        for epoch in range(3):
            log({{"fold 0/train_mse": 1 / (1 + epoch)}})
    import wandb
    print(wandb.run is None)
""", HOME=str(tmp_path / "home"), **proxy.env)
    assert said.strip() == "True"  # closed, and not a word besides
    assert proxy.asked == []
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = run.glob("*.wandb")
    content = log.read_bytes()
    for word in (b"fold 0/train_mse", b"hidden", b"mlp3-mse", b"sing-translators"):
        assert word in content, word


def test_the_proxy_would_have_seen_it():
    with Listener() as proxy:
        python("""
            import urllib.request
            try:
                urllib.request.urlopen("https://api.wandb.ai", timeout=10)
            except OSError:
                pass
        """, **proxy.env)
    assert b"api.wandb.ai" in proxy.asked[0]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(SingError, match=r"pip install wandb.*leave wandb_mode at 'off'"),
        tracked("offline", tmp_path, "one", {}),
    ):
        pass


def test_an_unknown_mode_gets_a_suggestion(tmp_path):
    with (
        pytest.raises(SingError, match="Unknown wandb_mode 'ofline'; did you mean 'offline'"),
        tracked("ofline", tmp_path, "one", {}),
    ):
        pass
