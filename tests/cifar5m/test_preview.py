"""The pictures show what the set holds, also of an unfinished set."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cifar5m.commands.preview import main
from cifar5m.preview import draw_histograms, draw_sheet, survey
from cifar5m.shards.verify import verify
from tests.cifar5m.small_set import images_of, labels_of, make_set, rewrite, shards_of
from worlds.formats.shards import tar_members


def contact_sheet(folder, per_class=10, split=None, seed=0):
    return draw_sheet(survey(folder, split), per_class, seed)


def histograms(folder):
    return draw_histograms(survey(folder))


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "small")


def codes(pixels):
    """The three bytes of each pixel as one number."""
    return (pixels.astype(np.uint32) << [0, 8, 16]).sum(axis=2)


def shows(sheet, image, factor=3):
    """Whether the sheet holds this image, enlarged by whole pixels, at any place."""
    return holds(codes(np.asarray(sheet)), image, factor)


def holds(found, image, factor=3):
    wanted = codes(image.repeat(factor, axis=0).repeat(factor, axis=1))
    height, width = wanted.shape
    corners = (found == wanted[0, 0]).nonzero()
    return any(
        np.array_equal(found[y : y + height, x : x + width], wanted)
        for y, x in zip(*corners, strict=True)
    )


def shown(sheet, folder):
    found = codes(np.asarray(sheet))
    return [
        index
        for shard in shards_of(folder)
        for index, image in zip(range(shard.start, shard.stop), images_of(shard), strict=True)
        if holds(found, image)
    ]


def test_the_sheet_shows_every_image_when_there_is_room(folder):
    assert shown(contact_sheet(folder, per_class=2), folder) == list(range(19))


def test_the_sheet_shows_as_many_of_each_class_as_asked(folder):
    indices = shown(contact_sheet(folder, per_class=1), folder)
    assert sorted(index % 10 for index in indices) == list(range(10))


def test_the_choice_is_random_but_fixed_by_the_seed(folder):
    first = contact_sheet(folder, per_class=1, seed=0)
    assert first.tobytes() == contact_sheet(folder, per_class=1, seed=0).tobytes()
    choices = {tuple(shown(contact_sheet(folder, per_class=1, seed=s), folder)) for s in range(4)}
    # Nine classes hold two images each: all four choices equal has odds 2^-27.
    assert len(choices) > 1


def test_a_choice_does_not_depend_on_how_the_set_is_cut(folder, tmp_path):
    other = make_set(tmp_path / "other", shard_size=14)
    # Both sets have the same indices and labels; only the pixels follow the shard's name.
    assert shown(contact_sheet(folder, 1), folder) == shown(contact_sheet(other, 1), other)


def test_one_split_only(folder):
    indices = shown(contact_sheet(folder, split="test"), folder)
    assert indices == list(range(14, 19))
    assert survey(folder, "test").title == "small: 5 images, split test only"


def test_unfinished_shards_are_left_out_and_said(folder):
    (folder / "meta/train-00001.json").unlink()
    found = survey(folder)
    assert [shard.name for shard in found.skipped] == ["train-00001"]
    assert found.title == "small: 14 images, 3 of 4 shards so far"
    assert shown(contact_sheet(folder), folder) == [*range(5), *range(10, 19)]


def test_a_doubtful_image_is_marked_in_red(folder):
    shard = shards_of(folder)[0]

    def red(sheet):
        pixels = np.asarray(sheet).astype(int)
        return ((pixels - (190, 18, 60)) ** 2).sum(axis=2).min() == 0

    assert not red(contact_sheet(folder))
    probabilities = np.full((5, 10), 0.07) + 0.3 * np.eye(10)[labels_of(shard)]
    blank = np.zeros_like(images_of(shard))
    rewrite(folder, shard, images=blank, probabilities=probabilities)
    assert red(contact_sheet(folder))


def test_large_images_are_not_enlarged(tmp_path):
    folder = make_set(tmp_path / "large", image_shape=[128, 128, 3])
    for shard in shards_of(folder):
        rewrite(folder, shard, images=images_of(shard).repeat(4, axis=1).repeat(4, axis=2))
    first = images_of(shards_of(folder)[0])[0].repeat(4, axis=0).repeat(4, axis=1)
    assert shows(contact_sheet(folder, per_class=2), first, factor=1)


def test_the_histograms_state_counts_and_confidence(folder):
    figure = histograms(folder)
    counts, *panels = figure.axes
    assert [bar.get_height() for bar in counts.patches] == [2] * 9 + [1]
    assert [text.get_text() for text in counts.texts] == ["2\n10.5%"] * 9 + ["1\n5.3%"]
    assert [panel.get_title("left") for panel in panels[:3]] == ["airplane", "automobile", "bird"]
    for panel in panels:
        heights = [bar.get_height() for bar in panel.patches]
        assert sum(heights) == pytest.approx(100)
        assert heights[16] == pytest.approx(100)  # all confidences are 0.82
        assert panel.get_title("right") == "median 82%\n< 50%: 0.0%"


def test_no_number_lies_on_a_bar(folder):
    figure = histograms(folder)
    figure.draw_without_rendering()
    counts = figure.axes[0]
    bars = [bar.get_window_extent() for bar in counts.patches]
    texts = [text.get_window_extent() for text in counts.texts]
    assert len(texts) == 10
    assert not any(text.overlaps(bar) for text in texts for bar in bars)


def test_a_set_without_probabilities_is_shown_without_a_labeler(tmp_path):
    folder = make_set(tmp_path / "given", probabilities="one-hot", labels="given")
    figure = histograms(folder)
    assert len(figure.axes) == 1
    texts = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "labeler" not in texts
    assert shown(contact_sheet(folder, per_class=2), folder) == list(range(19))


def test_a_class_without_images_keeps_its_row_and_panel(folder):
    for shard in shards_of(folder)[1:]:
        (folder / shard.record).unlink()
    sheet, figure = contact_sheet(folder), histograms(folder)
    assert sheet.height == contact_sheet(folder, split="train").height
    assert len(figure.axes) == 11


def test_empty_panels_draw_without_a_warning_also_that_of_the_first_class(folder):
    found = survey(folder)
    label = found.label.clip(1, 6)
    draw_histograms(replace(found, label=label)).savefig(io.BytesIO(), dpi=30)


@pytest.mark.parametrize("arguments", [{"per_class": 0}, {"per_class": -1}])
def test_a_bad_number_is_refused(folder, arguments):
    with pytest.raises(ValueError, match="images per class must be at least 1"):
        contact_sheet(folder, **arguments)


def test_a_set_without_a_finished_shard_is_refused(folder):
    for shard in shards_of(folder):
        (folder / shard.record).unlink()
    with pytest.raises(ValueError, match="none of its 4 shards is finished yet"):
        histograms(folder)


def test_a_damaged_image_is_named(folder):
    path = folder / "data/train-00000-of-00003.tar"
    data = bytearray(path.read_bytes())
    offset = next(offset for name, offset, _ in tar_members(path) if name == "000000002.png")
    data[offset : offset + 8] = b"no image"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"00003\.tar: sample \d+ cannot be decoded"):
        contact_sheet(folder)


def test_the_command_writes_both_pictures_and_names_them_last(folder, capsys):
    (folder / "meta/train-00001.json").unlink()
    assert main([str(folder), "--per-class", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sheet, chart = folder / "preview/contact-sheet.png", folder / "preview/histograms.png"
    assert lines == ["left out 1 of 4 shards, not finished: train-00001", str(sheet), str(chart)]
    with Image.open(sheet) as image:
        assert image.tobytes() == contact_sheet(folder, 2).tobytes()
    with Image.open(chart) as image:
        assert image.size == (1430, 858)
    kinds = {(problem.kind, problem.path) for problem in verify(folder, workers=1).problems}
    assert kinds == {("missing", "meta/train-00001.json")}


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    folder = make_set(tmp_path / "given", probabilities="one-hot", labels="given")
    assert main([str(folder), "--out", str(tmp_path / "new/out")]) == 0
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == [
        "contact-sheet.png",
        "histograms.png",
    ]
    assert not (folder / "preview").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere is not a dataset directory"),
        (["small", "--split", "val"], "no split 'val'; there are ['train', 'test']"),
        (["small", "--per-class", "0"], "images per class must be at least 1, got 0"),
        (["small", "--seed", "-1"], "seed must be in [0, 2^64), got -1"),
        (["small", "--out", "small/plan.json"], "small/plan.json"),
    ],
)
def test_bad_usage_ends_with_two_and_one_line(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder.parent)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert message in line
