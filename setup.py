"""What TATS needs, and what it offers on top."""

import platform
from pathlib import Path

from setuptools import Extension, find_packages, setup

# The decoding step on a CPU; without a compiler TATS installs, and samples slower (cpu_step.py).
IS_X86 = platform.machine() in ("x86_64", "AMD64")
CPU_STEP = Extension(
    "tats.sampling.engines._cpu_step",
    sources=["tats/sampling/engines/cpu_step.cpp"],
    depends=["setup.py"],
    extra_compile_args=["-O3", "-fopenmp", "-std=c++17", *(["-mavx2", "-mfma"] if IS_X86 else [])],
    extra_link_args=["-fopenmp"],
    optional=True,
)

setup(
    name="tats",
    version="0.1.0",
    description="Long video generation with a time-agnostic VQGAN and a time-sensitive transformer",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["tats", "tats.*"]),
    ext_modules=[CPU_STEP],
    install_requires=[
        "torch>=2.6",
        "pytorch-lightning>=2.6,<3",
        "torchmetrics>=1.4",
        "av>=14",
        "imageio>=2.34",
        "einops>=0.7",
        "jaxtyping>=0.2.30",
        "h5py>=3.10",
        "tqdm>=4.66",
        "numpy>=1.26",
        "pillow>=10.2",
        "regex>=2023.6",
        "ftfy>=6.1",
        "tensorboard>=2.15",
        "matplotlib>=3.8",
        "safetensors>=0.4",
    ],
    extras_require={
        "ffmpeg": ["imageio-ffmpeg>=0.5"],
        "download": ["gdown>=5.2"],
        "wandb": ["wandb>=0.17"],
        "hub": ["huggingface_hub>=0.25"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "mypy>=1.11",
            "nbclient>=0.10",  # runs the notebook in its test
            "nbformat>=5.10",
            "ipykernel>=6.29",
        ],
    },
)
