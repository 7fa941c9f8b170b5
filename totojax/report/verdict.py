"""Does a model beat its baselines: read off validate/metrics.json, in words.

On video the question is put to frames 2 and later (latent ones, where a token is
of several frames), where copying the previous one is possible; on images to all
tokens. A difference counts when it is above
two standard errors. Where the model is no better, the headline says why
(`diagnosis`), if the numbers do.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math

from totojax.report import diagnosis

MODEL = "this model"
NAMES = {
  "copy_per_code": "copy, rate by code",
  "copy": "copy the previous frame",
  "neighbours": "counts of neighbours",
  "unigram": "code frequencies",
  "uniform": "uniform",
}


Z, UNKNOWN = 1.96, "interval unknown"  # of 95 %
_AGAINST = {"unigram": "code frequencies", "neighbours": "counts of left and upper neighbours"}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is said of one source."""

  claim: str  # one sentence
  detail: str  # the numbers behind it
  interval: str  # how far the model is from the best of the others, with its interval
  better: bool | None  # True, False, or None where neither is sure
  losses: dict[str, float]  # nats per token by predictor, the model first
  scope: str  # the tokens that the losses are over
  cause: str | None = None  # why it is not better, as `diagnosis.cause` has it


def sources(metrics: Mapping[str, float]) -> Iterator[str]:
  """Validation sources, in the order of the file."""
  for key in metrics:
    name, _, rest = key.partition("/")
    if rest == "loss":
      yield name


def frame(metrics: Mapping[str, float]) -> str:
  """What tokens are of: a "frame", or a "latent frame", which holds several of them."""
  return "latent frame" if metrics.get("frame_factor", 1) > 1 else "frame"


def judge(
  metrics: Mapping[str, float], source: str, history: diagnosis.History | None = None
) -> Verdict:
  """The verdict on one source; without baselines it only says the loss.

  Args:
    metrics: of validate/metrics.json.
    source: one of `sources`.
    history: how the model came about; without it the headline says no reason.
  """
  later = f"{source}/copy/later_loss" in metrics
  which = "later_loss" if later else "loss"
  place = f"the held-out source \u201c{source}\u201d"
  noun = frame(metrics)
  tokens = f"{noun.capitalize()}s 2 and later" if later else "All tokens"
  scope = f"{tokens} of {place}, in nats per visual token"
  loss = metrics.get(f"{source}/{which}", metrics[f"{source}/loss"])
  losses, baselines = {MODEL: loss}, {}
  for key, name in NAMES.items():
    # Uniform is the same for every token, and no baseline.
    value = metrics.get(f"{source}/{key}/{'loss' if key == 'uniform' else which}")
    if value is not None:
      losses[name] = value
      if key != "uniform":
        baselines[key] = value
  if not baselines:
    claim = f"{loss:.3f} nats per visual token on held-out \u201c{source}\u201d."
    error = _error(metrics, source, which)
    interval = f"95 % from {loss - Z * error:.3f} to {loss + Z * error:.3f}" if error else UNKNOWN
    return Verdict(claim, "There is no baseline to compare with.", interval, None, losses, scope)
  best = min(baselines, key=baselines.__getitem__)
  gap = baselines[best] - loss
  error = math.hypot(_error(metrics, source, which), _error(metrics, f"{source}/{best}", which))
  better = None if abs(gap) <= 2 * error else gap > 0
  verb = {True: "beats", False: "does not beat", None: "is about level with"}[better]
  against = _AGAINST.get(best, f"copying the previous {noun}")
  # Of next to nothing a share says nothing.
  share = f"{abs(gap) / baselines[best]:.0%}; " if abs(gap) < 10 * baselines[best] else ""
  detail = (
    f"{f'On {noun}s 2 and later of' if later else 'On'} {place} it needs {loss:.3f} nats per visual"
    f" token; the best predictor without a network ({NAMES[best]}) needs {baselines[best]:.3f}:"
    f" {abs(gap):.3f} nats {'less' if gap > 0 else 'more'} for the model"
    f" ({share}standard error of the difference"
    f" {f'about {error:.3f}' if error else 'unknown'})."
  )
  interval = f"{abs(gap):.3f} nats per token {'less' if gap > 0 else 'more'} ("
  if sure := error:
    low, high = sorted((abs(gap) - Z * sure, abs(gap) + Z * sure))
    interval += f"95 % from {low:.3f} to {high:.3f})"
  else:
    interval += f"{UNKNOWN})"
  claim, reason = f"The model {verb} {against}.", None
  if history is not None and not better:
    # What is said of training clips is of all their frames.
    loss, baseline = (metrics[f"{prefix}/loss"] for prefix in (source, f"{source}/{best}"))
    copied_frac = baselines[best] / baselines["unigram"] if later else None
    error = _error(metrics, source, "loss")
    reason = diagnosis.cause(
      history, loss=loss, baseline=baseline, copied_frac=copied_frac, error=error
    )
    if reason == "still":
      baseline = baselines[best]
    # Level with the baseline is told as such: only the reason stands below it.
    if reason == "still" or (reason and better is False):
      claim = diagnosis.headline(reason, history, loss=loss, baseline=baseline, frame=noun)
  return Verdict(claim, detail, interval, better, losses, scope, reason)


def rows(metrics: Mapping[str, float], source: str) -> list[tuple[str, ...]]:
  """(predictor, loss on all frames, on later frames) with standard errors."""
  prefixes = {source: MODEL} | {f"{source}/{key}": name for key, name in NAMES.items()}
  out = []
  for prefix, name in prefixes.items():
    cells = [_cell(metrics, f"{prefix}/{which}") for which in ("loss", "later_loss")]
    if any(cells):
      out.append((name, *cells))
  return out if len(out) > 1 else []


def levels(metrics: Mapping[str, float], source: str) -> dict[str, float]:
  """Losses over all frames to draw beside the curves, without near doubles."""
  names = {
    "unigram": "code frequencies",
    "neighbours": "neighbours",
    "copy": "copy",
    "copy_per_code": "copy",
  }
  out = {}
  for key, name in names.items():
    value = metrics.get(f"{source}/{key}/loss")
    if value is not None:
      out[name] = min(value, out.get(name, value))
  return out


def _error(metrics: Mapping[str, float], prefix: str, which: str) -> float:
  """Standard error of a loss; of all frames where that of later ones is not."""
  for key in (f"{prefix}/{which}_sem", f"{prefix}/loss_sem"):
    value = metrics.get(key)
    if value is not None and math.isfinite(value):
      return value
  return 0.0


def _cell(metrics: Mapping[str, float], key: str) -> str:
  value, sem = metrics.get(key), metrics.get(f"{key}_sem")
  if value is None:
    return ""
  known = sem is not None and math.isfinite(sem)
  return f"{value:.4f} ± {sem:.4f}" if known else f"{value:.4f}"
