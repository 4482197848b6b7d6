# The image that the rules' `container:` names, with or without a GPU:
#   docker build -t rl4vlm:0.1.0 .
#   apptainer build rl4vlm.sif docker-daemon://rl4vlm:0.1.0
# The locked torch brings CUDA's libraries itself; the base adds what shows the container the host's driver. Its tag is
# for reading, the digest is what is pulled. `--build-arg LOCK=cpu` installs the lock without them, and before it the
# small torch, which has no hash, from TORCH_INDEX.
FROM nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The compilers build ALFWorld's planner and Jericho, and at run time triton's kernels.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        cmake g++ gcc git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'

# An environment of its own, first on PATH: `python` is its Python. In a folder with a clone of the project, the package
# is the clone's, so that what runs is what the clone's rules and its revision say; elsewhere it is the image's. Snakemake
# asks for the user's name, which the image does not know of a user of the host (`docker run --user`).
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=. \
    LOGNAME=runner \
    USER=runner

ARG LOCK=cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/rl4vlm
COPY pyproject.toml ./
COPY requirements ./requirements
RUN if [ "$LOCK" = cpu ]; then \
        sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml \
        | pip install --no-deps --retries 1 --timeout 15 --extra-index-url "$TORCH_INDEX" --requirement /dev/stdin; \
    fi \
    && pip install --no-deps --require-hashes -r "requirements/${LOCK}.txt"
COPY README.md LICENSE ./
COPY rl4vlm ./rl4vlm
COPY workflow/resources ./workflow/resources
RUN pip install --no-build-isolation . \
    && pip check

# Not root; the work happens in a folder that is mounted.
RUN useradd --uid 10001 --create-home runner
USER 10001
WORKDIR /work
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all"]
