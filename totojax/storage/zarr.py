"""Writes the arrays of stores; `objects.open_array` reads them."""

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from totojax.storage import objects


def write_array(
  path: objects.Path, values: np.ndarray, *, single_records: bool, attributes: Mapping[str, Any]
) -> None:
  """Writes `values` [records, ...] as one Zarr 3 array, replacing any other.

  The array is one file: a Zarr shard whose inner chunks are single records, or
  the whole array, each with a crc32c, and the index of the chunks as well.

  Args:
    path: directory of the array.
    values: the records, at least one.
    single_records: one record per inner chunk, for random reads.
    attributes: JSON kept beside the array.

  Raises:
    objects.StoreError: when the storage refuses, with the path.
  """
  import tensorstore as ts

  inner = [1, *values.shape[1:]] if single_records else list(values.shape)
  checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
  sharding = {
    "chunk_shape": inner,
    "codecs": checked,
    "index_codecs": checked,
    "index_location": "end",
  }
  spec = {
    "driver": "zarr3",
    "kvstore": objects.kvstore_spec(path),
    # A record of zeros would otherwise not be written, and then be missing.
    "store_data_equal_to_fill_value": True,
    "metadata": {
      "shape": list(values.shape),
      "data_type": values.dtype.name,
      "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(values.shape)}},
      "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
      "attributes": dict(attributes),
    },
  }
  context = objects.context(os.getpid())
  array = objects.ask(
    path, lambda: ts.open(spec, create=True, delete_existing=True, context=context), "written"
  )
  objects.ask(path, lambda: array.write(values), "written")
