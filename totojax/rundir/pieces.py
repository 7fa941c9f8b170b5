"""How far a job is that is made piece by piece: one note for each piece.

A note is a JSON file, FOLDER/NAME.json, that appears whole and after all that
it speaks of. A job that was killed, at any moment, reads the notes and goes on
with the pieces that have none; what such a piece left behind is made again.
Several machines may make pieces of one folder, and one piece twice.
"""

from collections.abc import Mapping
import json
from typing import Any

from totojax.rundir import files
from totojax.storage import objects


class Pieces:
  """The notes in a folder (a path or a URL), which is made if need be."""

  def __init__(self, folder: objects.Path):
    self._folder = objects.text(folder)

  def read(self, piece: int | str) -> dict[str, Any] | None:
    """The note of a piece, or None where it was not made.

    Args:
      piece: its number, or its name.

    Raises:
      Damaged: the note is no JSON object.
    """
    data = objects.read(self._file(piece))
    if data is None:
      return None
    try:
      note = json.loads(data)
      if not isinstance(note, dict):
        raise ValueError("it holds no JSON object")
    except ValueError as error:
      raise self.damaged(piece, error) from error
    return note

  def require(self, piece: int | str) -> dict[str, Any]:
    """The note of a piece; ValueError where it was not made, or as `read`."""
    note = self.read(piece)
    if note is None:
      raise ValueError(
        f"{self._file(piece)} does not exist: this"
        " piece was not made; run the job again, it makes what is missing"
      )
    return note

  def write(self, piece: int | str, note: Mapping[str, Any]) -> None:
    """Says that a piece is made; replaces an earlier note in one step.

    Storage writes it, not `files`: two machines that make one piece must not
    rename each other's half.
    """
    data = (json.dumps(note, indent=2) + "\n").encode()
    objects.write(self._file(piece), data)

  def damaged(self, piece: int | str, reason: object) -> files.Damaged:
    """The error for a note that is not what its job writes."""
    advice = "; remove it, and the job makes this piece again"
    return files.Damaged(self._file(piece), reason, advice)

  def _file(self, piece: int | str) -> str:
    name = f"{piece:05d}" if isinstance(piece, int) else piece
    return f"{self._folder}/{name}.json"
