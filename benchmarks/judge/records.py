"""What is known of each edit, kept beside its picture so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One edit of one technique. made_from: a digest of the prompt and the picture; error: "" or the host's sentence.

    calls, rows, peak (bytes): None where the host could not be asked. measures: by name, see `tables.COLUMNS`.
    """

    case: str
    technique: str
    made_from: str
    seconds: float
    error: str = ""
    calls: int | None = None
    rows: int | None = None
    peak: int | None = None
    measures: dict[str, float] = field(default_factory=dict)


class Records:
    """The records in `folder`, a line each in `records.jsonl`, of which a case's last counts, and the pictures."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "records.jsonl"
        self._known: dict[tuple[str, str], Record] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else ():
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the line at which a run was killed
            self._known[record.technique, record.case] = record

    def picture(self, technique: str, case: str) -> Path:
        return self.folder / technique / f"{case.replace('/', '-')}.png"

    def known(self, technique: str, case: str, made_from: str) -> Record | None:
        """The record of an edit that was made from the same things and whose picture is here."""
        record = self._known.get((technique, case))
        if record is None or record.made_from != made_from or record.error:
            return None
        return record if self.picture(technique, case).is_file() else None

    def save_picture(self, technique: str, case: str, data: bytes) -> None:
        place = self.picture(technique, case)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".partial")
        partial.write_bytes(data)
        os.replace(partial, place)

    def add(self, record: Record) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = self.file.is_file() and not self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as file:
            file.write(("\n" if begun else "") + json.dumps(asdict(record)) + "\n")
        self._known[record.technique, record.case] = record

    def of(self, technique: str) -> dict[str, Record]:
        """By case."""
        return {case: record for (name, case), record in self._known.items() if name == technique}
