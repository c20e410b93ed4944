# UNTESTED: written without a machine that has Docker and a GPU.
#
#   docker build -t orrery .
#   docker run --gpus all -v "$PWD/runs:/orrery/runs" orrery \
#       recipes/koopman_lm.py --backend jax
#
# JAX and PyTorch bring the CUDA libraries in their wheels; the driver is the
# host's. The versions are those of constraints.txt; for a bit-reproducible
# image pin BASE by digest.
ARG BASE=python:3.11.11-slim-bookworm
FROM ${BASE}

# jax with its CUDA plugin (default), or torch: --build-arg BACKEND=torch
ARG BACKEND=jax
ENV KERAS_BACKEND=${BACKEND} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TF_CPP_MIN_LOG_LEVEL=3

WORKDIR /orrery
# The packages first: they change less often than the code.
COPY constraints.txt ./
RUN case "${BACKEND}" in \
      jax) backend="jax[cuda12]" ;; \
      torch) backend="torch" ;; \
      *) echo "BACKEND is ${BACKEND}; allowed: jax, torch" >&2; exit 1 ;; \
    esac \
 && python -m pip install -c constraints.txt "${backend}" \
      keras h5py keras-hub tokenizers matplotlib
COPY . .
RUN python -m pip install -c constraints.txt -e ".[text,plot]" \
 && python -c "import orrery; print(orrery.__version__)"

ENTRYPOINT ["python"]
CMD ["recipes/koopman_lm.py", "--help"]
