# The image that the rules' `container:` names. Build, and turn into a .sif for apptainer:
#   docker build -t rl4vlm:0.1.0 .
#   apptainer build rl4vlm.sif docker-daemon://rl4vlm:0.1.0
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        cmake g++ gcc git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# An environment of its own, first on PATH: `python` is its Python.
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /opt/rl4vlm
COPY requirements.txt ./
RUN pip install torch==2.13.0 && pip install -r requirements.txt
COPY pyproject.toml README.md LICENSE rl4vlm-gymnasium.pth ./
COPY rl4vlm ./rl4vlm
RUN pip install --no-deps .

# Not root; the work happens in a folder that is mounted.
RUN useradd --create-home runner
USER runner
WORKDIR /work
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all"]
