"""cifar5m-weights as a user meets it: output, exit codes, one line on an error."""

import hashlib
import subprocess
import sys

import pytest
import torch

import worlds.runtime.torchvision_ops  # noqa: F401
from cifar5m.commands import weights
from cifar5m.weights import ho_ema as ema_weights
from cifar5m.weights.download import RemoteFile
from cifar5m.weights.ho_ema import SOURCES, Source
from tests.cifar5m.loopback import servers
from tests.cifar5m.published_network import TINY, made_checkpoint


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A loopback server of a tiny EMA checkpoint, known as ho-ema, and an empty cache."""
    torch.save(made_checkpoint(), tmp_path / "published.ckpt")
    body = (tmp_path / "published.ckpt").read_bytes()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    with servers() as start:
        server = start(body=body)
        known = {"md5": hashlib.md5(body).hexdigest()}
        sources = {
            "ho-ema": Source(RemoteFile("ema.ckpt", server.url, **known), "ema", "tiny"),
            "mirror": Source(RemoteFile("mirror.ckpt", server.url), "ema", "tiny, no hash"),
        } | {name: source for name, source in SOURCES.items() if source.kind == "non-ema"}
        monkeypatch.setattr(ema_weights, "SOURCES", sources)
        monkeypatch.setattr("cifar5m.weights.convert.UNET_CONFIG", TINY)
        yield server


def run(capsys, *argv):
    code = weights.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_fetch_list_and_check_tell_one_story(server, tmp_path, capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "ho-ema: EMA, not here\n" in out
    assert f"    url   {server.url}\n" in out
    assert "hash  md5 82ed3067fd1002f5cf4c339fb80c4669" in out
    assert f"cache: {tmp_path / 'cache'} " in out

    server.faults = [{"cut": 5000}, {"cut": 5000}]
    code, out, err = run(capsys, "fetch")
    folder = tmp_path / "cache" / "weights" / "ho-ema"
    assert (code, out) == (0, f"{folder}\n")
    assert err.count("connection cut") == 2

    _, out, _ = run(capsys, "list")
    assert "ho-ema: EMA, ready\n" in out

    code, out, _ = run(capsys, "check", str(folder))
    assert code == 0
    assert "EMA (converted from ho-ema, whose hash is known)" in out
    assert "(published: 35,746,307)" in out  # a tiny network here


def test_a_broken_off_download_shows_in_the_list(server, capsys):
    server.faults = [{"cut": 5000}, {"status": 404}]
    code, out, err = run(capsys, "fetch")
    assert (code, out) == (2, "")
    assert "HTTP 404" in err.splitlines()[-1]
    assert "ho-ema: EMA, 5,000 bytes of it downloaded\n" in run(capsys, "list")[1]


def test_a_file_without_a_published_hash_is_named_by_the_one_it_has(server, capsys):
    code, out, _ = run(capsys, "fetch", "mirror")
    assert code == 0
    digest = hashlib.sha256(server.body).hexdigest()
    assert f"no hash of this file is published; it has sha256 {digest}\n" in out


def test_a_file_from_disk_needs_no_server(server, tmp_path, capsys):
    code, _, _ = run(capsys, "fetch", "ho-ema", "--from-file", str(tmp_path / "published.ckpt"))
    assert code == 0
    assert server.seen == []


def test_check_calls_another_file_unknown_and_exits_1(server, tmp_path, capsys):
    torch.save(made_checkpoint(seed=9), tmp_path / "own.ckpt")
    code, out, _ = run(capsys, "check", str(tmp_path / "own.ckpt"))
    assert code == 1
    assert "own.ckpt: unknown (not in the list of known files)\n" in out
    assert hashlib.sha256((tmp_path / "own.ckpt").read_bytes()).hexdigest() in out


@pytest.mark.parametrize(
    "argv, message",
    [
        (["fetch", "google/ddpm-cifar10-32"], "FID 12.1 to 12.4 where the EMA weights give 3.2"),
        (["fetch", "ho-non-ema"], "--allow-non-ema"),
        (["fetch", "ho-emma"], "'ho-emma' is none of the known weights: ho-ema, mirror"),
        (["fetch", "ho-ema", "--from-file", "/absent"], "No such file or directory"),
        (["check", "/absent"], "/absent is neither a file nor a folder"),
        (["check", __file__], "not a file of weights"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(server, capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("cifar5m-weights: ")
    assert err.count("\n") == 1
    assert server.seen == []


@pytest.mark.parametrize("argv", [[], ["fetsh"], ["check"], ["list", "--all"]])
def test_a_wrong_command_line_is_one_line_and_exit_code_2(capsys, argv):
    with pytest.raises(SystemExit) as exit_:
        weights.main(argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_explain_gives_the_measured_reason(capsys):
    code, out, _ = run(capsys, "explain")
    assert code == 0
    assert "google/ddpm-cifar10-32" in out
    assert "12.44" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_list_needs_no_torch_model_library():
    code = "from cifar5m.commands.weights import main; import sys; main(['list']); "
    code += "sys.exit(int('diffusers' in sys.modules or 'torchvision' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hub-non-ema: not EMA" in done.stdout
