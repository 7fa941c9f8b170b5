"""TensorBoard's event files in an object store, which has no file that grows."""

from totojax.storage import objects


def register(url: str) -> None:
  """Has tensorboardX write what has this URL's scheme by `objects`."""
  from tensorboardX import record_writer

  record_writer.register_writer_factory(url.split(":")[0], _Object)


class _Object:
  """A file in an object store that is put as a whole at each flush."""

  def __init__(self, url: str):
    self._url, self._data, self._put = url, bytearray(), 0
    self.write = self._data.extend

  @classmethod
  def open(cls, url: str) -> "_Object":
    return cls(url)

  def flush(self) -> None:
    if len(self._data) > self._put:
      objects.write(self._url, bytes(self._data), limit_s=0.0)
      self._put = len(self._data)

  close = flush
