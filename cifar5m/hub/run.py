"""Verify a dataset directory, write its card, and send it to the Hugging Face Hub.

publish("out/tiny", "user/name", private=True)
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from cifar5m.hub import publish as sending
from cifar5m.hub.card import Facts, made_files, write_card
from cifar5m.hub.parquet import pyarrow_or_hint, write_parquets
from cifar5m.labels.labeling import LABELS_FOLDER
from cifar5m.shards.verify import Report, verify
from worlds.data.hub import HUB
from worlds.data.remote import find_shards, read_samples
from worlds.formats.dataset import DatasetFolder
from worlds.formats.shards import read_samples as local_samples
from worlds.runtime.errors import first_line
from worlds.runtime.progress import OnProgress, Phase

_READ_BACK: Final = 100  # samples that are compared after an upload
_HARMLESS: Final = {"duplicate", "foreign", "temporary"}  # counted in the card, or not published


@dataclass(frozen=True)
class PublishResult:
    """A published dataset: its address, its files, how many of them this call sent, and how many
    samples were streamed back from the Hub and found equal.
    """

    url: str
    files: int
    sent: int
    read_back: int

    def __str__(self) -> str:
        return (
            f"{self.sent} files sent, {self.files - self.sent} were there already, "
            f"{self.read_back} samples read back: {self.url}"
        )


def publish(
    directory: str | Path,
    repo: str,
    *,
    private: bool = False,
    license: str | None = None,
    parquet: bool = False,
    partial: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> PublishResult:
    """Send a verified dataset to the Hub, its card last; the same call again resumes.

    Args:
        directory: The dataset directory; card and Parquet files are written into it.
        repo: Dataset repository, "USER/NAME", created if missing.
        private: Create the repository private.
        license: The Hub's name of it, by default the plan's.
        parquet: Write and send Parquet files too.
        partial: Send the finished shards of an unfinished dataset.
        workers: Processes that verify, at least 1; by default one a CPU.
        on_progress: Called with images and bytes done; may raise to stop.

    Returns:
        The address and how many files were sent.

    Raises:
        ValueError: If the directory has problems, or the repository is not yours or holds another
            plan.
        PublishError: If the Hub fails for longer than the retries last.
    """
    # Everything local first: a problem is found before anything is sent.
    facts = check_dataset(directory, repo, license, parquet, partial, workers, on_progress)
    write_card(facts)
    if parquet:
        phase = Phase("parquet", sum(map(len, facts.shards)), on_progress)
        for shard in write_parquets(facts.folder, facts.shards, facts.plan["extension"]):
            phase(len(shard))
    files = sending.published_files(facts.folder, facts.shards, parquet)
    # One bar over all files instead of the client's one a file.
    with _without_bars():
        hub = sending.Hub(repo, Phase("publish", None, on_progress, unit="B"))
        sent = sending.publish(facts.folder, files, hub, private)
    url = f"{hub.api.endpoint}/datasets/{repo}"
    return PublishResult(url, len(files), sent, read_back(facts))


def check_dataset(
    directory: str | Path,
    repo: str,
    license: str | None = None,
    parquet: bool = False,
    partial: bool = False,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Facts:
    """Return what the card is written from; ValueError for what speaks against publishing."""
    folder = Path(directory)
    _check_repo(repo)
    if parquet:
        pyarrow_or_hint()
    # Only what was verified is published.
    report = verify(folder, workers=workers, on_progress=on_progress)
    _check_report(folder, report, partial)
    dataset = DatasetFolder.open(folder)
    finished = [shard for shard in dataset.shards if dataset.is_finished(shard)]
    if not finished:
        raise ValueError(f"{folder} has no finished shard: generate first")
    return Facts(folder, repo, finished, report.duplicates, license, parquet=parquet)


def planned_files(facts: Facts) -> list[sending.File]:
    """Return every file with its bytes, those of the card as they would be written."""
    sizes = {name: len(content) for name, content in made_files(facts).items()}
    files = sending.published_files(facts.folder, facts.shards, facts.parquet)
    return [replace(file, bytes=sizes.get(file.path, file.bytes)) for file in files]


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"repo: {error}") from error
    if repo.count("/") != 1:
        raise ValueError(f"repo must be USER/NAME, got {repo!r}")


def _check_report(folder: Path, report: Report, partial: bool) -> None:
    """Raise ValueError for the first problem that speaks against publishing."""
    # Duplicates are counted in the card, foreign files are not sent.
    harmless = _HARMLESS | ({"missing"} if partial else set())
    problems = [problem for problem in report.problems if problem.kind not in harmless]
    if not problems:
        return
    more = f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""
    hint = f"see cifar5m-verify {folder}, repair with cifar5m-verify --repair"
    if all(problem.kind == "missing" for problem in problems):
        of_labels = all(problem.path.startswith(f"{LABELS_FOLDER}/") for problem in problems)
        work = "labeling, with cifar5m-label" if of_labels else "generating"
        hint = f"finish {work}, or send the finished shards with partial=True"
    raise ValueError(f"{problems[0]}{more}: {hint}")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the Hub's client from drawing progress bars."""
    from huggingface_hub import utils

    shown = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def read_back(facts: Facts) -> int:
    """Stream the first samples of one shard from the Hub; return how many were compared.

    The shard is chosen by the plan's fingerprint. Raises PublishError if a sample differs from the
    local one, or cannot be read.
    """
    # The same shard at every run, another one for every dataset.
    shard = facts.shards[int(facts.plan["fingerprint"][:8], 16) % len(facts.shards)]
    where, compared = f"{facts.repo}: {shard.tar}", 0
    names = "__key__", facts.plan["extension"], "cls"
    try:
        shards = find_shards(f"{HUB}{facts.repo}", shard.split)
        remote = next(s for s in shards.items if s.url.endswith(str(shard.tar)))
        local = islice(local_samples(facts.folder / shard.tar), _READ_BACK)
        with closing(read_samples(remote)) as samples:
            for (index, image, label), found in zip(local, samples, strict=False):
                expected = [f"{index:09d}", image, str(label).encode()]
                if [found.get(name) for name in names] != expected:
                    raise sending.PublishError(
                        f"{where}: sample {index:09d} read back differs from the one sent: publish "
                        "again"
                    )
                compared += 1
    except (OSError, ValueError) as error:
        raise sending.PublishError(
            f"{where} is sent but cannot be read back ({first_line(error)}): run the same command "
            "again"
        ) from error
    return compared
