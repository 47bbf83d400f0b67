# Build:  docker build -t bids_speechdecode .
#   with a model's weights inside:   --build-arg SPEECH_MODEL=facebook/wav2vec2-large-xlsr-53
#   with a CPU build of torch, or from a mirror:   --build-arg PIP_OPTIONS="..." (options of pip)
# Run:    docker run --rm --read-only --network none --tmpfs /tmp --user "$(id -u):$(id -g)" \
#             -v /data:/data:ro -v /out:/out bids_speechdecode /data /out participant
#   with weights that are outside:   -v /models/xlsr:/model:ro ... --speech-model /model
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_OPTIONS=""
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt setup.cfg pyproject.toml README.md LICENSE ./
COPY bids_speechdecode bids_speechdecode
# PIP_OPTIONS is several words. The tests of the libraries, and what one compiles extensions of torch
# with, stay out of the image.
# hadolint ignore=SC2086
RUN pip install --no-cache-dir ${PIP_OPTIONS} -c constraints.txt ".[demo,nwb,mef]" \
    && find /opt/venv -type d \( -name tests -o -path "*/torch/test" -o -path "*/torch/include" \) \
        -prune -exec rm -rf {} + \
    && find /opt/venv -type f -path "*/torch/bin/*" -not -name torch_shm_manager -delete

FROM build AS models
ARG SPEECH_MODEL=""
ENV HF_HOME=/opt/models
RUN mkdir -p "$HF_HOME" \
    && if [ -n "$SPEECH_MODEL" ]; then \
        python -c "import sys; from bids_speechdecode.audio.model_files import find_model; print(find_model(sys.argv[1]))" \
            "$SPEECH_MODEL"; \
    fi \
    && chmod -R a+rX "$HF_HOME"

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="bids_speechdecode" \
      org.opencontainers.image.description="A BIDS App that decodes heard speech from intracranial EEG" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY --from=models /opt/models /opt/models
COPY --from=build /opt/venv /opt/venv
# Everything that a library wants to write goes to /tmp, the only writable place besides /out;
# nothing is asked of a network; packages in the home of whoever runs it are not seen.
# The number of threads is that of --n-procs, or of OMP_NUM_THREADS from outside.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    MPLBACKEND=Agg \
    NUMBA_CACHE_DIR=/tmp/numba \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    MNE_DONTWRITE_HOME=true \
    _MNE_FAKE_HOME_DIR=/tmp \
    HF_HOME=/opt/models \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    OMP_NUM_THREADS=4 \
    OPENBLAS_NUM_THREADS=4 \
    MKL_NUM_THREADS=4 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 1000:1000
ENTRYPOINT ["bids_speechdecode"]
CMD ["--help"]
