"""Send a dataset folder to the Hugging Face Hub: what is there is left, the card comes last.

    files = published_files(folder, shards)        # after verify and write_card
    publish(folder, files, Hub("user/name"), private=True)

Files are uploaded by huggingface_hub's `upload_folder`, some hundred megabytes a call, a shard's
three files together, `plan.json` in the first: it claims the repository for its plan. A killed run
resumes by the same command: committed files are known from a listing of the repository and by
their recorded hashes, and sent but uncommitted bytes are known to the Hub. The client uses hf_xet
where it is installed ($HF_HUB_DISABLE_XET=1 for plain LFS) and retries single requests; the calls
are retried here.
"""

import builtins
import glob
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from cifar5m.labels.labeling import LABELS_FOLDER, SUMMARY, labeling_names
from worlds.data.hub import HubBusyError, patiently
from worlds.formats.layout import AUDIT, CARD, PARQUET_FOLDER, PLAN, TIMM_INFO, Shard
from worlds.formats.plan import differences, load_plan
from worlds.formats.shards import find_record, load_record
from worlds.runtime.errors import first_line
from worlds.runtime.files import sha256_of
from worlds.runtime.http import RETRIED, asked_wait, describe_status
from worlds.runtime.json_files import load_json
from worlds.runtime.progress import Phase

# The Hub advises 50 to 100 files a commit; the bytes bound what a progress bar jumps by.
_COMMIT_FILES: Final = 99
_COMMIT_BYTES: Final = 256 << 20
_OF_THE_HUB: Final = {".gitattributes", CARD}  # what a new repository may hold already


class PublishError(RuntimeError):
    """The Hub could not be reached or did not take it; the same command goes on later."""


@dataclass(frozen=True)
class File:
    """A file of the folder, under the same path in the repository."""

    path: str
    bytes: int
    sha256: str | None = None  # where a record says it, so that a shard need not be read again
    content: builtins.bytes | None = None  # sent in place of what the file holds


def _new_api() -> Any:
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise ValueError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write"
        )
    return HfApi()


@dataclass(frozen=True)
class Hub:
    """A dataset repository, with retries around every call.

    `phase` reports bytes and retries, and may raise in every second of a pause; `api` is
    huggingface_hub's client.
    """

    repo: str
    phase: Phase
    api: Any = field(default_factory=_new_api)

    def call(self, name: str, **options: Any) -> Any:
        """Call the method `name` of the client on this repository."""
        method = getattr(self.api, name)
        return self.patiently(lambda: method(repo_id=self.repo, repo_type="dataset", **options))

    def patiently(self, call: Callable[[], Any]) -> Any:
        """Return what `call` returns, repeated while the Hub is busy or out of reach."""
        try:
            return patiently(call, partial(_judge, self.repo), partial(_pause, self.phase))
        except HubBusyError as error:
            raise PublishError(
                f"{error}; what is sent is kept: run the same command again"
            ) from error


def published_files(folder: Path, shards: Sequence[Shard], parquet: bool = False) -> list[File]:
    """List the files of `folder` to publish, in the order of sending; `shards` are the finished
    ones. The files that the plan names `beside` them and second labelings are included.

    The timm listing and the card, at the end, have 0 bytes if not written yet. Raises ValueError if
    the plan names a file outside `folder`.
    """
    beside = [_inside(folder, path) for path in load_plan(folder).beside or ()]
    paths = [PLAN, *(path for path in beside if (folder / path).is_file())]
    for shard in shards:
        paths += map(str, (shard.tar, shard.arrays, shard.record))
    # Second labelings, as far as they are made.
    for name in labeling_names(folder):
        place = folder / LABELS_FOLDER / name
        done = [shard for shard in shards if find_record(place, shard) is not None]
        inner = [Path(PLAN), *(path for shard in done for path in (shard.arrays, shard.record))]
        inner += [Path(SUMMARY)] if (place / SUMMARY).is_file() else []
        paths += [str((place / path).relative_to(folder)) for path in inner]
    # What else was made of the shards.
    if (folder / AUDIT).is_file():
        paths.append(AUDIT)
    if parquet:
        paths += [str(parquet_path(shard)) for shard in shards]
    hashes = {str(shard.tar): load_record(folder, shard).sha256 for shard in shards}
    return [_file(folder, path, hashes.get(path)) for path in [*paths, TIMM_INFO, CARD]]


def _file(folder: Path, path: str, sha256: str | None) -> File:
    """Return a file as it is sent: a plan without the directories of this machine."""
    _inside(folder, path)
    # Directories in a plan are of this machine: only the names are published.
    if Path(path).name == PLAN:
        plan = load_json(folder / path, dict[str, Any])
        public = plan | {"about": _without_directories(plan.get("about", {}))}
        if public["about"] != plan.get("about", {}):
            content = (json.dumps(public, indent=2) + "\n").encode()
            return File(path, len(content), content=content)
    size = (folder / path).stat().st_size if (folder / path).is_file() else 0
    return File(path, size, sha256)


def _without_directories(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_directories(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_directories(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _inside(folder: Path, path: str) -> str:
    """Return a path to publish. Raises ValueError unless it is a plain one that stays in `folder`,
    also behind links.
    """
    inside = Path(os.path.realpath(folder / path)).is_relative_to(os.path.realpath(folder))
    if not inside or path.startswith("/") or os.path.normpath(path) != path:
        raise ValueError(
            f"{folder / PLAN} names the file {path!r}, which is not inside {folder}: "
            "remove it from `beside`, or the link; nothing was sent"
        )
    return path


def parquet_path(shard: Shard) -> Path:
    """Return the path of a shard's Parquet file, relative to the dataset directory."""
    return Path(PARQUET_FOLDER, f"{shard.tar.stem}.parquet")


def publish(
    folder: Path,
    files: Sequence[File],
    hub: Hub,
    private: bool = False,
) -> int:
    """Upload the files that the repository lacks; return their number.

    Raises ValueError if the repository holds another plan or other files, is public where `private`
    is asked for, or is not the token's to write; PublishError if the Hub fails at every attempt.
    """
    # Send what the repository lacks, in order: the plan first, the card last.
    claim_repo(hub, load_json(folder / PLAN, dict[str, Any]), private)
    present = hub_files(hub)
    missing = [file for file in files if not _is_there(folder, file, present.get(file.path))]
    hub.phase.total = sum(file.bytes for file in missing)
    hub.phase()
    for batch in batches(missing):
        first, others = batch[0].path, len(batch) - 1
        message = f"Add {first}" + (f" and {others} more" if others else "")
        if (content := batch[0].content) is not None:  # alone in its batch
            sent: dict[str, Any] = {"path_or_fileobj": content, "path_in_repo": first}
            hub.call("upload_file", **sent, commit_message=message)
        else:
            patterns = [glob.escape(file.path) for file in batch]
            sent = {"folder_path": folder, "allow_patterns": patterns}
            hub.call("upload_folder", **sent, commit_message=message)
        hub.phase(sum(file.bytes for file in batch))
    return len(missing)


def claim_repo(hub: Hub, plan: dict[str, Any], private: bool) -> None:
    """Create the repository, or check that it is this plan's or nobody's yet."""
    if not hub.call("repo_exists"):
        hub.call("create_repo", private=private, exist_ok=True)
        return
    info = hub.call("repo_info")
    if private and not info.private:
        raise ValueError(
            f"{hub.repo} is public already; make it private on its page, or go without"
        )
    # An empty repository is free; one with a plan must have this one.
    names = hub_files(hub).keys() - _OF_THE_HUB
    if not names:
        return
    if PLAN not in names:
        raise ValueError(
            f"{hub.repo} holds other files ({', '.join(sorted(names)[:3])}) and no {PLAN}; "
            f"choose another `repo`"
        )
    try:
        path = Path(hub.call("hf_hub_download", filename=PLAN, revision=info.sha))
        present = load_json(path, dict[str, Any])
    except ValueError as error:
        raise ValueError(
            f"the {PLAN} of {hub.repo} cannot be read ({first_line(error)}); choose another `repo`"
        ) from error
    if present.get("fingerprint") != plan["fingerprint"]:
        found = "; ".join(differences(present, plan)[:3])
        raise ValueError(
            f"{hub.repo} holds another plan; differing: {found}. choose another `repo`"
        )


def hub_files(hub: Hub) -> dict[str, Any]:
    """List the repository's files by path, as huggingface_hub's RepoFile."""
    found = hub.call("list_repo_tree", recursive=True)
    entries = hub.patiently(lambda: list(found))
    return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}


def _is_there(folder: Path, file: File, present: Any) -> bool:
    # Large files are known by sha256, small ones by git's hash.
    if present is None or present.size != file.bytes:
        return False
    if present.lfs is not None:
        return present.lfs.sha256 == (file.sha256 or sha256_of(folder / file.path))
    data = (folder / file.path).read_bytes() if file.content is None else file.content
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return present.blob_id == blob.hexdigest()  # git's name of the content


def batches(files: Sequence[File]) -> Iterator[list[File]]:
    """Cut a list of files, in its order, into what goes into one commit; the card goes alone, and
    so does a file that is not sent as it is.
    """
    # A batch ends where the next file would exceed a bound, or goes alone.
    batch: list[File] = []
    for file in files:
        size = sum(each.bytes for each in batch) + file.bytes
        alone = file.path == CARD or any(f.content is not None for f in (file, *batch[:1]))
        if batch and (len(batch) == _COMMIT_FILES or size > _COMMIT_BYTES or alone):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _pause(phase: Phase, line: str, seconds: float) -> None:
    """Wait, and give the phase its say in every second."""
    phase.note(line)
    for _ in range(math.ceil(seconds)):
        phase()
        time.sleep(1)


def _judge(repo: str, error: Exception) -> tuple[str, float]:
    """Return one line for a failure that may pass, and the seconds that the Hub asks to wait."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    cause: BaseException = error
    while isinstance(cause, RuntimeError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__  # a client thread's error, which comes wrapped
    if isinstance(cause, HfHubHTTPError):
        answer = cause.response
        _raise_if_final(cause, answer.status_code, repo)
        reason = describe_status(answer.status_code, answer.reason_phrase)
        return f"the Hub is busy ({reason})", asked_wait(answer.headers)
    # An error page in place of an answer, and a download that found no connection, may pass.
    may_pass = isinstance(cause, json.JSONDecodeError | LocalEntryNotFoundError)
    if isinstance(cause, OfflineModeIsEnabled):
        raise ValueError("HF_HUB_OFFLINE is set: unset it to publish") from error
    if isinstance(cause, ValueError) and not may_pass:
        raise PublishError(" ".join(str(cause).split())) from error
    of_the_network = may_pass or isinstance(cause, HTTPError | OSError | RuntimeError)
    if isinstance(cause, FileNotFoundError | PermissionError) or not of_the_network:
        raise cause
    return f"the Hub cannot be reached ({first_line(cause)})", 0.0


def _raise_if_final(error: Exception, status: int, repo: str) -> None:
    """Raise what trying again does not change, in one line."""
    if status in RETRIED:
        return
    if status == 401:
        raise ValueError("the Hub does not accept the token; run `hf auth login`") from error
    if status == 403:
        raise ValueError(
            f"the token may not write to {repo}; use one with write access, or another `repo`"
        ) from error
    raise PublishError(f"the Hub refused {repo}: {first_line(error)}") from error
