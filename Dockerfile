# The image named in the rules' `container:`, for machines with or without a GPU:
#   docker build -t rl4vlm:0.1.0 .
#   apptainer build rl4vlm.sif docker-daemon://rl4vlm:0.1.0
# The CUDA libraries come with the locked torch. The base image adds the settings that let a container use the host's
# driver. Docker pulls it by its digest; the tag only tells readers what it is. With `--build-arg LOCK=cpu`, a smaller
# torch without CUDA is installed from TORCH_INDEX (without a hash), then the lock for CPUs.
FROM nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# The compilers build ALFWorld's planner and Jericho. Triton also needs them at run time, for its kernels.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        cmake g++ gcc git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'

# The virtual environment comes first on PATH, so that `python` is its Python. PYTHONPATH=. makes a clone of the project
# in the working folder take precedence over the installed package: a clone's rules must run that clone's code.
# Snakemake asks for the user's name, and the image has no entry for a user of the host (`docker run --user`).
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

# Run without root rights, in a mounted folder.
RUN useradd --uid 10001 --create-home runner
USER 10001
WORKDIR /work
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all"]
