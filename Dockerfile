# A server of one model, for the processor:
#
#     docker build --tag mlvlab_jax:0.1.0 .
#     docker run --read-only --tmpfs /tmp --tmpfs /cache:mode=0700,uid=10001 --publish 127.0.0.1:8000:8000 \
#         --env MLVLAB_SERVE_TOKEN --volume /srv/models/digits:/models/digits:ro \
#         mlvlab_jax:0.1.0 --package /models/digits
#
# Versions and hashes are those of requirements.lock. It also holds what only development needs, so all of it is fetched
# and checked in the first stage, and the second takes of these files what the extras below ask for, and nothing else.
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS wheels
WORKDIR /source
COPY requirements.lock .
RUN python -m pip wheel --no-cache-dir --no-deps --require-hashes --requirement requirements.lock --wheel-dir /wheels

FROM python:${PYTHON} AS install
ARG EXTRAS=serve,track
WORKDIR /source
COPY LICENSE README.md pyproject.toml ./
COPY mlvlab_jax mlvlab_jax
# setuptools, which builds the project, is one of the locked packages.
RUN --mount=from=wheels,source=/wheels,target=/wheels \
    python -m venv /opt/mlvlab \
    && /opt/mlvlab/bin/python -m pip install --no-cache-dir --no-index --find-links /wheels ".[${EXTRAS}]" \
    && /opt/mlvlab/bin/python -m pip uninstall --yes pip

FROM python:${PYTHON}
COPY --from=install /opt/mlvlab /opt/mlvlab
# Compiled programs go to /cache: mount a volume of this user there and the next start is fast.
RUN install --directory --owner 10001 --group 10001 --mode 0700 /cache
ENV PATH=/opt/mlvlab/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-m", "mlvlab_jax.serving.probe", "ready"]
# Every address but loopback asks for a token: MLVLAB_SERVE_TOKEN, or --token-file.
ENTRYPOINT ["python", "-m", "mlvlab_jax.serve", "--host", "0.0.0.0"]
