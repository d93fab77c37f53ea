"""Batches for NumPy and JAX are torch's, byte for byte, in memory that nothing copied."""

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.processes import Forked
from tests.worlds.small_stores import write_shards
from worlds import ArrayStore, IdealLoader, RealLoader, SequentialLoader, StreamLoader
from worlds.data.splits import as_split

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
LABELS = RANDOM.integers(0, 10, 120)
POOL = ArrayStore(IMAGES, LABELS).train


def loader(**options):
    return RealLoader(POOL, 100, 16, 9, augment="crop+flip", **options)


@pytest.mark.parametrize("normalize", ["symmetric", "imagenet", None])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_numpy_has_the_bytes_of_torch_in_both_layouts(layout, normalize):
    made = zip(
        loader(normalize=normalize),
        loader(normalize=normalize, output="numpy", layout=layout),
        strict=True,
    )
    for (x, y), (array, labels) in made:
        wanted = (x.permute(0, 2, 3, 1) if layout == "NHWC" else x).contiguous().numpy()
        assert array.flags.c_contiguous
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
        assert array.tobytes() == wanted.tobytes()
        assert labels.tobytes() == y.numpy().tobytes()


def test_labels_are_int32_or_one_hot_where_asked():
    for (_, y), (_, short), (_, hot) in zip(
        loader(), loader(labels="int32"), loader(labels="one-hot", output="numpy"), strict=True
    ):
        assert short.dtype == torch.int32
        assert short.tolist() == y.tolist() == hot.argmax(1).tolist()
        assert (hot.dtype, hot.shape) == (np.float32, (16, 10))
        assert (hot.sum(1) == 1).all()


def test_a_batch_that_is_kept_as_an_array_is_not_written_to_again():
    kept = [(x, x.copy()) for x, _ in loader(output="numpy")]
    assert all((x == copy).all() for x, copy in kept)


def test_a_pickled_loader_goes_on_with_its_output():
    begun = loader(output="numpy", layout="NHWC")
    next(iter(begun))
    rest = [x for x, _ in pickle.loads(pickle.dumps(begun))]
    assert [x.tobytes() for x in rest] == [x.tobytes() for x, _ in begun]
    assert rest[0].shape == (16, 32, 32, 3)


def test_streams_have_the_same_outputs(tmp_path):
    write_shards(tmp_path, IMAGES[:100], LABELS[:100])
    options = {"workers": 0, "augment": "flip"}
    arrays = StreamLoader(
        str(tmp_path), 16, output="numpy", layout="NHWC", labels="one-hot", **options
    )
    for (x, y), (array, hot) in zip(
        StreamLoader(str(tmp_path), 16, **options), arrays, strict=True
    ):
        assert array.tobytes() == x.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        assert hot.argmax(1).tolist() == y.tolist()
    raw = StreamLoader(str(tmp_path), 100, steps=1, workers=0, normalize=None, output="numpy")
    ((pixels, labels),) = raw
    (found,) = np.nonzero((IMAGES[:100] == pixels[0].transpose(1, 2, 0)).all((1, 2, 3)))
    assert labels[0] == LABELS[found[0]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output": "tensorflow"}, "output must be one of torch, numpy, jax, got 'tensorflow'"),
        ({"layout": "nhwc"}, "layout must be one of NCHW, NHWC, got 'nhwc'"),
        ({"labels": "float"}, "labels must be one of int64, int32, one-hot, got 'float'"),
        ({"output": "numpy", "dtype": torch.bfloat16}, "has no torch.bfloat16 on cpu"),
    ],
)
def test_an_output_that_is_none_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        loader(**options)


def test_features_have_no_layout_and_numbers_are_no_classes():
    features = RANDOM.normal(size=(50, 8)).astype(np.float32)
    pool = ArrayStore(features, RANDOM.integers(0, 3, 50)).train
    (x, y), *_ = SequentialLoader(pool, 50, output="numpy", labels="int32")
    assert (x.tobytes(), y.dtype) == (features.tobytes(), np.int32)
    with pytest.raises(ValueError, match="is for uint8 images"):
        SequentialLoader(pool, 50, layout="NHWC")
    dataset = torch.utils.data.TensorDataset(torch.randn(20, 3), torch.randn(20))
    with pytest.raises(ValueError, match="labels='int32' is for classes"):
        IdealLoader(as_split(dataset), 5, labels="int32")


def compare_jax_with_torch():
    """Raises AssertionError where a batch for JAX is not torch's, byte for byte."""
    import jax

    assert jax.devices()[0].platform == "cpu"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for layout in ("NCHW", "NHWC"):
            given = loader(dtype=dtype, layout=layout, output="jax")
            handed, inner = [], given._handout

            def hand_out(batch, handed=handed, inner=inner):
                handed.append(batch[0])  # torch's tensor, to compare addresses
                return inner(batch)

            given._handout = hand_out
            for (x, y), (array, labels) in zip(loader(dtype=dtype), given, strict=True):
                wanted = (x.permute(0, 2, 3, 1) if layout == "NHWC" else x).contiguous()
                assert isinstance(array, jax.Array)
                assert str(array.dtype) in str(dtype)
                assert array.shape == tuple(wanted.shape)
                assert np.asarray(array).tobytes() == wanted.view(torch.uint8).numpy().tobytes()
                assert labels.dtype == "int32"
                assert labels.tolist() == y.tolist()
                assert array.unsafe_buffer_pointer() == handed[-1].data_ptr()  # no copy
    images, labels = next(iter(loader(normalize=None, output="jax", labels="one-hot")))
    assert images.dtype == "uint8"
    assert labels.shape == (16, 10)
    print("equal")


def test_jax_has_the_bytes_of_torch_without_a_copy():
    if find_spec("jax") is None:
        pytest.skip("jax is not installed")
    # JAX has threads of its own, which the tests that fork would inherit: it gets its own process.
    process = Forked(compare_jax_with_torch)
    assert process.wait() == 0, process.error
    assert process.out == "equal\n"
