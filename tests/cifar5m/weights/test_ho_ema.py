"""Which weights are let in, from where, and what is said of the others."""

import hashlib
import json
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import worlds.runtime.torchvision_ops  # noqa: F401
from cifar5m.weights import convert as conversion
from cifar5m.weights import ho_ema as ema_weights
from cifar5m.weights.convert import (
    PARAMETERS,
    UNET_CONFIG,
    build_unet,
    convert,
    read_state,
    tensors_sha256,
    unet_state,
    weights_file,
)
from cifar5m.weights.download import FetchError, RemoteFile
from cifar5m.weights.ho_ema import (
    SOURCES,
    Source,
    converted_folder,
    download_folder,
    identify,
    install,
    install_known,
    read_provenance,
    refuse_known_non_ema,
    source_name,
)
from tests.cifar5m.loopback import servers
from tests.cifar5m.published_network import TINY, made_checkpoint


@pytest.fixture(scope="module", autouse=True)
def _networks_are_measured_once():
    """diffusers builds a whole network for its shapes: here nearly always those of TINY."""
    measure, known = conversion._shapes, {}

    def shapes(config):
        key = repr(sorted(config.items()))
        if key not in known:
            known[key] = measure(config)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_shapes", shapes)
        yield


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with servers() as start:
        yield start


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An EMA checkpoint, a raw one, and a mirror of the first as a zipped diffusers folder."""
    folder = tmp_path_factory.mktemp("published")
    torch.save(made_checkpoint(seed=0), folder / "ema.ckpt")
    torch.save(made_checkpoint(seed=1), folder / "raw.ckpt")
    torch.save(convert(made_checkpoint(seed=0), TINY), folder / "w.bin")
    with zipfile.ZipFile(folder / "mirror.zip", "w") as archive:
        archive.write(folder / "w.bin", "ddpm/unet/diffusion_pytorch_model.bin")
    (folder / "w.bin").unlink()
    return folder


@pytest.fixture
def published(monkeypatch, serve, files):
    """SOURCES with tiny files behind loopback servers; returns the servers by name."""
    running, sources = {}, {}
    for name, file in [("ho-ema", "ema.ckpt"), ("mirror", "mirror.zip"), ("raw", "raw.ckpt")]:
        body = (files / file).read_bytes()
        running[name] = serve(body=body)
        known = {} if name == "mirror" else {"md5": hashlib.md5(body).hexdigest()}
        sources[name] = Source(
            RemoteFile(file, running[name].url, **known),
            "non-ema" if name == "raw" else "ema",
            f"the {name} file",
            "google/ddpm-cifar10-32" if name == "raw" else None,
        )
    monkeypatch.setattr(ema_weights, "SOURCES", sources)
    return running


def load(source="ho-ema", *, cache, allow_non_ema=False, config=TINY):
    """The network of a source, or of a file or folder, and what its weights are."""
    path = source
    if not Path(source).exists():
        name = source_name(source) or source
        path = install(name, cache, config=config, allow_non_ema=allow_non_ema)
    refuse_known_non_ema(weights_file(path), allow_non_ema)
    weights = identify(path, cache, config)
    return build_unet(unet_state(read_state(weights.file), config), config), weights


EMA_TENSORS = tensors_sha256(convert(made_checkpoint(seed=0), TINY))


def test_the_default_is_downloaded_and_converted_once(published, tmp_path):
    unet, weights = load(cache=tmp_path)
    assert weights.kind == "ema"
    assert weights.why == "converted from ho-ema, whose hash is known"
    assert weights.tensors_sha256 == EMA_TENSORS == tensors_sha256(unet.state_dict())
    assert weights.parameters == sum(p.numel() for p in unet.parameters())
    again, same = load(cache=tmp_path)
    assert same == weights
    assert torch.equal(again.conv_in.weight, unet.conv_in.weight)
    assert len(published["ho-ema"].seen) == 1


def test_the_converted_folder_is_a_diffusers_folder_that_says_where_it_comes_from(
    published, files, tmp_path
):
    from diffusers import UNet2DModel

    folder = install("ho-ema", tmp_path, config=TINY)
    assert folder == converted_folder("ho-ema", tmp_path)
    state = UNet2DModel.from_pretrained(folder, local_files_only=True).state_dict()
    assert tensors_sha256(state) == EMA_TENSORS
    provenance = read_provenance(folder)
    assert provenance.source_md5 == hashlib.md5((files / "ema.ckpt").read_bytes()).hexdigest()
    assert (provenance.name, provenance.kind, provenance.evidence) == ("ho-ema", "ema", "hash")
    assert [p.name for p in folder.parent.iterdir() if p.name.endswith(".part")] == []


@pytest.mark.parametrize("damage", ["flip", "delete", "config", "provenance", "old converter"])
def test_a_damaged_conversion_is_made_anew_from_the_download(published, tmp_path, damage):
    folder = install("ho-ema", tmp_path, config=TINY)
    weights = folder / "diffusion_pytorch_model.safetensors"
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "delete":
        weights.unlink()
    elif damage == "config":
        (folder / "config.json").unlink()
    elif damage == "provenance":
        (folder / "provenance.json").write_text("{")
    else:
        made = json.loads((folder / "provenance.json").read_text())
        (folder / "provenance.json").write_text(json.dumps(made | {"converter": 0}))
    _, found = load(cache=tmp_path)
    assert found.tensors_sha256 == EMA_TENSORS
    assert len(published["ho-ema"].seen) == 1  # the download itself was whole


def test_four_processes_at_once_download_and_convert_once(published, tmp_path, monkeypatch):
    converted = []
    real = ema_weights._convert
    monkeypatch.setattr(
        ema_weights, "_convert", lambda *args: (converted.append(args[0]), real(*args))
    )
    threads = [
        threading.Thread(target=install, args=("ho-ema", tmp_path), kwargs={"config": TINY})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converted == ["ho-ema"]
    assert read_provenance(converted_folder("ho-ema", tmp_path)) is not None


def test_weights_that_cannot_be_reached_are_one_line_that_says_what_to_do(published, tmp_path):
    published["ho-ema"].faults = [{"status": 404}]
    with pytest.raises(FetchError) as error:
        load(cache=tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"download {published['ho-ema'].url} by hand" in line
    assert f"put it at {tmp_path / 'downloads' / 'ema.ckpt'}" in line
    assert "the bundled `tiny` works offline" in line


def test_a_file_put_by_hand_under_its_name_is_taken(published, files, tmp_path):
    download_folder(tmp_path).mkdir()
    (download_folder(tmp_path) / "ema.ckpt").write_bytes((files / "ema.ckpt").read_bytes())
    assert load(cache=tmp_path)[1].kind == "ema"
    assert published["ho-ema"].seen == []


def test_install_from_a_file_checks_its_hash(published, files, tmp_path):
    with pytest.raises(FetchError, match=r"raw.ckpt is not ema.ckpt: md5 \w{32}, expected \w{32}"):
        install("ho-ema", tmp_path, config=TINY, from_file=files / "raw.ckpt")
    folder = install("ho-ema", tmp_path, config=TINY, from_file=files / "ema.ckpt")
    assert read_provenance(folder).tensors_sha256 == EMA_TENSORS
    assert published["ho-ema"].seen == []


def test_a_mirror_without_a_hash_is_ema_by_its_publishers_word(published, tmp_path):
    _, weights = load("mirror", cache=tmp_path)
    assert weights.kind == "ema"
    assert weights.why == "converted from mirror, by its publisher's word"
    assert weights.tensors_sha256 == EMA_TENSORS


def test_an_installed_mirror_serves_as_the_default(published, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEP_BOOTSTRAP_CACHE", str(tmp_path))
    folder = install("mirror", tmp_path, config=TINY)
    assert install_known("ho-ema") == folder
    assert published["ho-ema"].seen == []


@pytest.mark.parametrize("name", ["raw", "google/ddpm-cifar10-32"])
def test_the_raw_weights_are_refused_by_name_before_any_download(published, tmp_path, name):
    with pytest.raises(ValueError, match=r"FID 12\.1 to 12\.4 .*--allow-non-ema") as error:
        load(name, cache=tmp_path)
    assert "\n" not in str(error.value)
    assert published["raw"].seen == []
    _, weights = load(name, cache=tmp_path, allow_non_ema=True)
    assert weights.kind == "non-ema"


def test_the_raw_weights_are_refused_by_hash_under_any_name(published, files, tmp_path):
    renamed = tmp_path / "ema-really.ckpt"
    renamed.write_bytes((files / "raw.ckpt").read_bytes())
    with pytest.raises(ValueError, match="is not the EMA network"):
        load(renamed, cache=tmp_path)
    assert load(renamed, cache=tmp_path, allow_non_ema=True)[1].kind == "non-ema"


def test_the_hubs_bin_file_is_refused_by_hash(published, tmp_path, monkeypatch):
    file = tmp_path / "some.bin"
    torch.save(convert(made_checkpoint(seed=3), TINY), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert identify(file, tmp_path, TINY).kind == "unknown"
    monkeypatch.setattr(ema_weights, "HUB_NON_EMA_BIN", frozenset({digest}))
    assert identify(file, tmp_path, TINY).kind == "non-ema"


def test_the_known_file_is_taken_from_anywhere(published, files, tmp_path):
    assert load(files / "ema.ckpt", cache=tmp_path)[1].why == "the published file ho-ema"
    assert published["ho-ema"].seen == []


def test_an_unknown_file_is_called_unknown(published, tmp_path):
    file = tmp_path / "own.ckpt"
    torch.save(made_checkpoint(seed=7), file)
    _, weights = load(file, cache=tmp_path)
    assert (weights.kind, weights.why) == ("unknown", "not in the list of known files")
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_same_tensors_in_another_file_are_recognised_once_the_known_file_is_here(
    published, tmp_path
):
    folder = tmp_path / "mirror-of-a-mirror"
    build_unet(convert(made_checkpoint(seed=0), TINY), TINY).save_pretrained(folder)
    assert identify(folder, tmp_path, TINY).kind == "unknown"
    install("ho-ema", tmp_path, config=TINY)
    found = identify(folder, tmp_path, TINY)
    assert (found.kind, found.why) == ("ema", "the same tensors as ho-ema")


@pytest.mark.parametrize(
    "origin", ["google/ddpm-cifar10-32", "/c/hub/models--google--ddpm-cifar10-32/snapshots/ff05"]
)
def test_a_folder_that_was_saved_from_the_hubs_checkpoint_is_refused(published, tmp_path, origin):
    folder = tmp_path / "saved"
    build_unet(convert(made_checkpoint(seed=5), TINY), TINY).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"_name_or_path": origin}))
    with pytest.raises(ValueError, match="comes from google/ddpm-cifar10-32"):
        load(folder, cache=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"downsample_padding": 1},
        {"freq_shift": 0},
        {"flip_sin_to_cos": True},
        {"attention_head_dim": 8},
        {"norm_eps": 1e-5},
        {"block_out_channels": [8, 8, 16, 16]},
    ],
)
def test_a_folder_with_other_settings_is_refused_by_name(published, tmp_path, change):
    folder = tmp_path / "folder" / "unet"
    build_unet(convert(made_checkpoint(seed=0), TINY), TINY).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    key = next(iter(change))
    with pytest.raises(ValueError, match=rf"config.json sets {key} to .*network has") as error:
        load(folder.parent, cache=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message", [("{", "is not valid JSON"), ("[]", "expected `object`, got `array`")]
)
def test_a_broken_config_is_one_line(published, tmp_path, text, message):
    build_unet(convert(made_checkpoint(), TINY), TINY).save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "folder", cache=tmp_path)


def test_a_name_that_nobody_knows_lists_those_that_are(published, tmp_path):
    with pytest.raises(ValueError, match="none of the known weights: ho-ema, mirror, raw"):
        install("ho-emma", tmp_path)


def test_a_mirror_that_holds_another_network_leaves_nothing_converted(
    published, tmp_path, monkeypatch
):
    sources = dict(ema_weights.SOURCES)
    monkeypatch.setitem(sources, "raw", replace(sources["raw"], kind="ema"))
    monkeypatch.setattr(ema_weights, "SOURCES", sources)
    with pytest.raises(ValueError, match=r"temb.dense.0.weight is"):
        install("raw", tmp_path)  # read as the real width
    assert not converted_folder("raw", tmp_path).exists()


def test_the_published_sources_are_what_the_project_says_they_are():
    assert SOURCES["ho-ema"].file.md5 == "1fa350b952534ae442b1d5235cce5cd3"
    assert {name: source.kind for name, source in SOURCES.items()} == {
        "ho-ema": "ema",
        "diff-pruning-ema": "ema",
        "fusing-ema": "ema",
        "ho-non-ema": "non-ema",
        "hub-non-ema": "non-ema",
    }
    assert source_name("google/ddpm-cifar10-32") == "hub-non-ema"
    assert source_name("fusing/ddpm-cifar10-ema") == "fusing-ema"
    assert source_name("google/ddpm-celebahq-256") is None
    assert all(source.file.hashes for source in SOURCES.values() if source.kind == "non-ema")
    assert len({source.file.name for source in SOURCES.values()}) == len(SOURCES)


@pytest.mark.slow
def test_the_real_width_is_saved_and_loaded_whole(tmp_path):
    file = tmp_path / "real.ckpt"
    torch.save(made_checkpoint(width=128), file)
    unet, weights = load(file, cache=tmp_path, config=UNET_CONFIG)
    assert weights.parameters == PARAMETERS
    assert unet.config["block_out_channels"] == (128, 256, 256, 256)
