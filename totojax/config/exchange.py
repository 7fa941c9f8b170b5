"""Config keys of the jobs that exchange models with other people's programs."""

from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS


@section("export")
class Exporting(Section):
  """What is written of a run."""

  what: str = field(
    "transformers", "for whom; or parameters as they are", choices=("transformers", "plain")
  )
  head: bool = field(True, 'of "plain": with the head; False: what features need')
  dtype: str = field("float32", "of the tensors", choices=("float32", "bfloat16"))

  def __post_init__(self):
    if not self.head and self.what != "plain":
      raise ConfigError(
        f"export.head is False with export.what {self.what!r}, which always has the head; use"
        " --config.export.what=plain"
      )


@section("", run="export")
class Export(Job):
  """`run = "export"`: a pre-trained model for transformers and vLLM, or plain tensors."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  export: Exporting = field(Exporting(), "what is written")


@section("importing")
class Importing(Section):
  """A LLaMA of somebody else's, and which of its rows are which tokens.

  Attributes:
    codes_at: row of code 0; -1: no row is kept, and embedding and head are
      drawn anew, as for a model of text.
    specials: rows of padding, video start, end and image start; -1: none.
  """

  path: str = field("", "folder with config.json or params.json, and its tensors")
  layout: str = field(
    "auto",
    "of rotary pairs: halves are Hugging Face's, neighbours Meta's and EasyLM's",
    choices=("auto", "halves", "neighbours"),
  )
  codes_at: int = field(4, "row of code 0; -1: embeddings are drawn anew", at_least=-1)
  specials: tuple[int, ...] = field((0, 1, 2, 3), "rows of pad, video, end, image; -1: none")
  tokenizer: str = field("", "whose codes they are, a file; '': as an export of ours says")
  grid: int = field(0, "tokens a side; 0: as an export of ours says", at_least=0)
  frames: int = field(0, "latent frames; 0: as an export of ours says", at_least=0)

  def __post_init__(self):
    if len(self.specials) != 4 or min(self.specials) < -1:
      raise ConfigError(
        f"importing.specials is {self.specials}; give four rows (padding, video start, end, image"
        " start), -1 for one that there is not"
      )


@section("", run="import")
class Import(Job):
  """`run = "import"`: a run of pre-training out of somebody else's LLaMA."""

  seed: int = field(0, "of what is drawn anew", at_least=0, below=SEEDS)
  importing: Importing = field(Importing(), "what is read")
