"""Files of torch.save, whoever wrote them."""

import pytest
import torch

from worlds.runtime.checkpoints import load_checkpoint


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_smaller_than_a_readers_block_is_loaded(zipped, tmp_path):
    state = {"w": torch.arange(6.0).view(2, 3)}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    torch.testing.assert_close(load_checkpoint(tmp_path / "w.pt"), state)
