"""What a compiled program does, read from the TPU compiler's own text.

The text of a compiled TPU program says for each operation how many cycles the
compiler expects it to take (`estimated_cycles`). Operations in a loop are
written once, so they are multiplied by the loop's trip count, which is read
from its condition. (`cost_analysis()` does not, and counts each operation
without a cost as minus one second, so it is not used.)

Three kinds of operation have no estimate: Pallas kernels (see `kernels.py`),
collectives (see `Collective`), and gathers, scatters and waits for copies,
which are taken as nothing.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{")
_LINE = re.compile(r"^ +(?:ROOT )?%([\w.-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_\w+)=\{?%([\w.-]+)")
_GROUPS = (
  re.compile(r"replica_groups=\[\d+,(?P<size>\d+)\]"),
  re.compile(r"replica_groups=\{\{(?P<members>[\d,]+)\}"),
  re.compile(r"replica_groups=mesh\[(?P<axes>[^\]]*)\] \{(?P<used>[^}]*)\}"),
)
# Between slices the compiler has chips send what is left of an exchange to the
# host's network: 'rendezvous="all-reduce.41_0", target="{1,2}x{0:3}"' of two
# slices.
_BETWEEN_HOSTS = re.compile(
  r'_xla_host_transfer_rendezvous="(?P<kind>[a-z-]+)[^"]*".*'
  r'_xla_megascale_target="\{(?P<slices>[\d,]+)\}'
)
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
LINKS, NETWORK = "links", "network"  # of a slice's chips, and between slices


@dataclasses.dataclass(frozen=True)
class Operation:
  """One line of a computation."""

  name: str  # its own
  opcode: str  # "fusion", "custom-call", ..
  shape: str  # of the result, as text
  rest: str  # operands and attributes, as text
  times: int  # how often it runs in one step
  cycles: int  # of one run, as the compiler estimates them; 0 where it does not
  op_name: str  # where in the traced program it comes from


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between chips."""

  kind: str  # one of `COLLECTIVES`
  times: int  # how often it runs in one step
  group: int  # chips that take part in one exchange
  # Of one run: the whole array that is gathered, reduced, scattered or
  # exchanged by a group.
  payload_bytes: int
  op_name: str  # where in the traced program it comes from
  over: str = LINKS  # `LINKS` of a slice, or the `NETWORK` between slices

  @property
  def sent_bytes(self) -> float:
    """What each chip sends in one run, on a ring."""
    if self.kind == "collective-permute":
      return float(self.payload_bytes)
    passes = 2 if self.kind == "all-reduce" else 1
    return passes * self.payload_bytes * (self.group - 1) / self.group


def _computation(role: str, operation: Operation) -> str:
  """The computation that is the "body" or "condition" of a loop."""
  name = re.search(rf"{role}=%([\w.-]+)", operation.rest)
  if name is None:
    raise ValueError(
      f"the loop {operation.name} of the compiled program has no {role}; its"
      " text is not that of an optimised HLO module"
    )
  return name[1]


class Module:
  """The text of a compiled program, cut into computations.

  Raises:
    ValueError: the text is no optimised HLO module.
  """

  def __init__(self, text: str):
    self._lines: dict[str, list[str]] = {}
    self._entry = ""
    lines: list[str] = []
    for line in text.splitlines():
      head = _HEAD.match(line)
      if head:
        lines = self._lines.setdefault(head[1], [])
        if line.startswith("ENTRY"):
          self._entry = head[1]
      elif line.startswith(" "):
        lines.append(line)
    if not self._entry:
      raise ValueError(
        "the compiled program has no ENTRY computation; its text is not that"
        " of an optimised HLO module"
      )

  def operations(self) -> Iterator[Operation]:
    """Every operation that runs; what is fused counts as the one it is."""
    for name, times in self._runs(self._entry, 1):
      yield from self._operations(name, times)

  def collectives(self) -> list[Collective]:
    """Every exchange; one that is spread over several fusions counts once."""
    exchanges = {}
    for operation in self._inner_operations():
      kind = operation.opcode.removesuffix("-start")
      sent = kind == "send" and _BETWEEN_HOSTS.search(operation.rest)
      if sent:
        exchanges[("send", operation.name)] = Collective(
          kind=sent["kind"],
          times=operation.times,
          group=len(sent["slices"].split(",")),
          payload_bytes=array_bytes(operation.shape)[0],
          op_name=operation.op_name,
          over=NETWORK,
        )
      if kind in COLLECTIVES:
        channel = re.search(r"channel_id=(\d+)", operation.rest)
        key = channel[1] if channel else operation.name
        exchanges.setdefault((kind, key), _collective(operation, kind))
    return list(exchanges.values())

  def _inner_operations(self) -> Iterator[Operation]:
    """Every operation that runs, and those that they are fused of."""
    for name, times in self._runs(self._entry, 1):
      for inner in (name, *self._fused(name)):
        yield from self._operations(inner, times)

  def _operations(self, name: str, times: int) -> Iterator[Operation]:
    for line in self._lines.get(name, ()):
      head = _LINE.match(line)
      opcode = head and _OPCODE.search(head[2])
      if not head or not opcode:
        continue
      rest = head[2][opcode.end() - 1 :]
      cycles, op_name = _CYCLES.search(rest), _NAME.search(rest)
      yield Operation(
        name=head[1],
        opcode=opcode[1],
        shape=head[2][: opcode.start()],
        rest=rest,
        times=times,
        cycles=int(cycles[1]) if cycles else 0,
        op_name=op_name[1] if op_name else "",
      )

  def _runs(self, name: str, times: int) -> Iterator[tuple[str, int]]:
    """(computation, runs in one step) of the entry and all bodies of loops."""
    yield name, times
    for operation in self._operations(name, times):
      if operation.opcode == "while":
        trips = self._trips(_computation("condition", operation))
        yield from self._runs(_computation("body", operation), times * trips)
      elif operation.opcode in ("call", "conditional"):
        for called in _CALLED.findall(operation.rest):
          yield from self._runs(called, times)

  def _fused(self, name: str) -> set[str]:
    """Computations that the operations of one are made of."""
    computations: set[str] = set()
    queue = [name]
    while queue:
      for operation in self._operations(queue.pop(), 1):
        if operation.opcode in ("while", "call", "conditional"):
          continue
        new = set(_CALLED.findall(operation.rest)) - computations
        computations |= new
        queue += new
    return computations

  def _trips(self, condition: str) -> int:
    """Of a loop that counts from 0 while `i < constant`."""
    constants, operations = {}, list(self._operations(condition, 1))
    for operation in operations:
      value = re.match(r"\((\d+)\)", operation.rest)
      if operation.opcode == "constant" and value:
        constants[operation.name] = int(value[1])
    for operation in operations:
      for name in re.findall(r"%([\w.-]+)", operation.rest):
        if name in constants:
          return constants[name]
    raise ValueError(
      f"the trip count of the loop with condition {condition} cannot be read,"
      " so neither cycles nor traffic of this program are known"
    )


def array_bytes(shape: str) -> list[int]:
  """Of each array in the text of a shape, "(bf16[2,8]{1,0}, s32[])"."""
  sizes = []
  for kind, sides in _ARRAY.findall(shape):
    digits = re.search(r"\d+", kind)
    bits = int(digits[0]) if digits else 8
    count = math.prod(int(side) for side in sides.split(",") if side)
    sizes.append(count * bits // 8)
  return sizes


def _collective(operation: Operation, kind: str) -> Collective:
  group, arrays = _group(operation.rest), array_bytes(operation.shape)
  # (operands, results, ...): what is gathered is the largest of them.
  starts = operation.opcode.endswith("-start") and kind != "all-reduce"
  payload = max(arrays) if starts else sum(arrays)
  if kind == "reduce-scatter":
    payload *= group
  return Collective(kind, operation.times, group, payload, operation.op_name)


def _group(rest: str) -> int:
  """Chips of one group; a permutation has pairs."""
  for pattern in _GROUPS:
    match = pattern.search(rest)
    if not match:
      continue
    parts = match.groupdict()
    if "size" in parts:
      return int(parts["size"])
    if "members" in parts:
      return len(parts["members"].split(","))
    sizes = dict(re.findall(r"'([\w.-]+)'=(\d+)", parts["axes"]))
    split = re.findall(r"'([\w.-]+)'", parts["used"])
    return math.prod(int(sizes[axis]) for axis in split)
  return 2
