# The image of the workers, and of beat, Flower and the operator's commands: the shop's own, and one line more.
# Built from the repository's top: docker build --file docker/worker.Dockerfile --tag tasks-service-worker .
#
# For an image that you have already, this is all:
#
#   FROM acme/shop:1.2
#   RUN pip install tasks-service
#   ENV TASKS_APP=acme.service

# This repository's release of the library, as `pip install tasks-service` would fetch it.
FROM python:3.11-slim-bookworm AS library
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY pyproject.toml hatch_build.py README.md LICENSE /build/
COPY tasks_service /build/tasks_service
RUN pip wheel --no-deps --wheel-dir /wheels /build

# The image that a shop has: its Python, its Celery, its own code. Here the shop is the deployment that ships.
FROM python:3.11-slim-bookworm AS shop
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin tasks
RUN python -m venv /opt/shop
ENV PATH=/opt/shop/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY docker/worker.lock /build/
RUN pip install --require-hashes --requirement /build/worker.lock
COPY beat_schedule.py /app/
COPY workers /app/workers
WORKDIR /app

# What this service adds to it: one line.
FROM shop
COPY --from=library /wheels /wheels
RUN pip install /wheels/*.whl
ENV TASKS_APP=workers.app
USER tasks
EXPOSE 5555
STOPSIGNAL SIGTERM
CMD ["sh", "-c", "exec celery -A \"$TASKS_APP\" worker --task-events --without-mingle --without-gossip"]
