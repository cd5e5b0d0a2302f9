"""Results on disk: a folder for each run, in it a JSON document for each measurement and one for the run itself."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
RUN = "run.json"
FAILED = "failed.json"

Record = dict[str, Any]


class Run(NamedTuple):
    """A run that was made: `about` it, the `records` of its measurements, in order, and the steps that `failed`."""

    about: Mapping[str, Any]
    records: Sequence[Record]
    failed: Sequence[Record] = ()


def new_folder(at: datetime) -> Path:
    """A folder for the run that began at this moment."""
    folder = RESULTS / at.strftime("%Y-%m-%dT%H%M%S")
    folder.mkdir(parents=True)
    return folder


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Machine, options, and when."""
    (folder / RUN).write_text(json.dumps(about, indent=1) + "\n")


def write(folder: Path, record: Record) -> None:
    """One measurement."""
    name = f"{record['number']:04d}-{record['section']}-{record['load']}-{record['strategy']}-{record['users']}.json"
    (folder / name).write_text(json.dumps(record, indent=1) + "\n")


def write_failed(folder: Path, failed: Sequence[Record]) -> None:
    """All steps that could not be measured so far, each with its `why`."""
    (folder / FAILED).write_text(json.dumps(failed, indent=1) + "\n")


def read(folder: Path) -> Run:
    """The run in a folder."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))]
    failed = json.loads((folder / FAILED).read_text()) if (folder / FAILED).exists() else ()
    return Run(json.loads((folder / RUN).read_text()), sorted(records, key=lambda record: record["number"]), failed)


def newest() -> Path:
    """The folder of the newest run.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(path.parent for path in RESULTS.glob(f"*/{RUN}"))
    if not found:
        raise FileNotFoundError(f"no run in {RESULTS}")
    return found[-1]
