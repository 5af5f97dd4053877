"""What pip needs to know. The tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Not imported: at this moment what cw needs may not be installed yet.
VERSION = re.search(r"VERSION = ['\"](.+)['\"]", (HERE / "cw" / "version.py").read_text()).group(1)

setup(
    name="cluster-workers",  # the package index's `cw` is another project; the import is `cw`
    version=VERSION,
    description="A Python loop on hundreds of cores: function calls on a cluster of master and workers",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The cw authors",
    license="MIT",
    packages=find_packages(include=["cw", "cw.*"]),
    package_data={"cw": ["py.typed", "top/*.tcss", "web/page/*"]},
    entry_points={"console_scripts": ["cw = cw.cli.main:main"]},
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "bluelet>=0.2.0",
        "cloudpickle>=3.1,<4",
        "cryptography>=42",
        "xxhash>=3",
        'tomli>=2; python_version < "3.11"',  # reads ~/.cw/slurm.toml; later Pythons have it as tomllib
    ],
    extras_require={
        "progress": ["tqdm"],
        "report": ["matplotlib>=3.8"],
        "top": ["textual>=8,<9"],
        "web": ["aiohttp>=3.10,<4", "textual>=8,<9", "textual-serve>=1.1,<2"],
        "joblib": ["joblib>=1.5,<2"],
        "examples": ["matplotlib", "tqdm"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"],
        "test": [
            "hypothesis",
            "joblib",
            "loky",
            "matplotlib",
            "mypy",
            "numpy",
            "pandas",
            "pydantic",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "textual>=8,<9",
            "tqdm",
        ],
        "notebook": ["ipykernel>=6.20,<8", "ipywidgets>=8,<9", "nbclient>=0.10,<1", "nbformat>=5.9,<6"],
        "recipes": [
            "adaptive>=1.3,<2",
            "dask[array]>=2025.1,<2027",
            "dynesty>=3,<4",
            "emcee>=3.1,<4",
            "joblib>=1.5,<2",
            "nevergrad>=1.0.5,<2",
            "optuna>=4,<6",
            "pandas>=2.2,<4",
            "pymoo>=0.6.2,<0.7",
            "scikit-learn>=1.6,<2",
            "scipy>=1.13,<2",
            "xarray>=2025.1,<2027",
        ],
        "bench": [
            "dask[distributed]",
            "executorlib[cache]",
            "ipyparallel",
            "joblib",
            "loky",
            "numpy",
            "parsl",
            "ray",
            "scikit-learn",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 16)),
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
