ARG BASE=public.ecr.aws/lambda/python:3.13
ARG PYTHON_BASE=docker.io/library/python:3.13-slim

# The targets: lambda, the function that consumes a Kinesis stream; web, the web service; and batch, the batch job. They
# have these arguments:
#   CATEGORIES  "packages" is enough for models with a served form; "packages sklearn" (the default) adds scikit-learn, for
#               other scikit-learn models; "packages sklearn dataframe" adds pandas too, for pipelines that were fitted on
#               a DataFrame; "packages training" adds scikit-learn, pandas and mlflow, for other flavors.
#   MODEL       a folder of the build context with an MLmodel file, which is copied into the image. Default: no model.


# ------ lambda ------

FROM ${BASE} AS base


FROM base AS packages

ARG CATEGORIES="packages sklearn"

WORKDIR /build
COPY Pipfile.lock scripts/image/install-packages ./
COPY scripts/environment.py ./scripts/
# The packages go into the task root, because Python searches it first; the base image has a boto3 of its own elsewhere.
RUN ./install-packages "${LAMBDA_TASK_ROOT}" ${CATEGORIES}


FROM base AS model

ARG MODEL=""

COPY scripts/image/check-model /build/
WORKDIR /opt/model
# COPY needs a source: without a model, it copies a file that the next step removes.
COPY ${MODEL:-Pipfile.lock} ./
RUN /build/check-model "${MODEL}"


FROM base AS lambda-modules

COPY lambda_function.py arns.py artifacts.py baselines.py clients.py digests.py drift.py features.py flavors.py forests.py \
    linear_models.py model.py model_metadata.py pickled_code.py proofs.py ride_counts.py rides.py settings.py \
    sklearn_flavor.py skops_*.py ${LAMBDA_TASK_ROOT}/
COPY served/*.py ${LAMBDA_TASK_ROOT}/served/
COPY streaming/*.py ${LAMBDA_TASK_ROOT}/streaming/
# Lambda runs the function as another user, who must be able to read the files even if a strict umask made them.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash "${LAMBDA_TASK_ROOT}" \
    && chmod -R a+rX "${LAMBDA_TASK_ROOT}"


FROM base AS lambda

COPY --from=packages ${LAMBDA_TASK_ROOT}/ ${LAMBDA_TASK_ROOT}/
COPY --from=model /opt/model/ /opt/model/
COPY --from=lambda-modules ${LAMBDA_TASK_ROOT}/ ${LAMBDA_TASK_ROOT}/

# The function ignores an empty MODEL_LOCATION. Without the second variable, joblib would warn at each cold start that
# Lambda has no /dev/shm.
ARG MODEL=""
ENV MODEL_LOCATION=${MODEL:+/opt/model} JOBLIB_MULTIPROCESSING=0

CMD ["lambda_function.lambda_handler"]


# ------ web and batch ------

FROM ${PYTHON_BASE} AS python-base


FROM python-base AS python-installer

WORKDIR /build
COPY Pipfile.lock scripts/image/install-packages ./
COPY scripts/environment.py ./scripts/


FROM python-base AS python-model

ARG MODEL=""

COPY scripts/image/check-model /build/
WORKDIR /opt/model
COPY ${MODEL:-Pipfile.lock} ./
RUN /build/check-model "${MODEL}"


# ------ web ------

FROM python-installer AS web-packages

ARG CATEGORIES="packages sklearn"

RUN ./install-packages /app ${CATEGORIES} web


FROM python-base AS web-modules

WORKDIR /app
COPY web_service.py gunicorn.conf.py arns.py artifacts.py baselines.py clients.py digests.py features.py flavors.py \
    forests.py linear_models.py model.py model_metadata.py pickled_code.py proofs.py ride_counts.py rides.py settings.py \
    sklearn_flavor.py skops_*.py ./
COPY served/*.py ./served/
COPY web/*.py ./web/
COPY web/static ./web/static
RUN python3 -m compileall -q --invalidation-mode unchecked-hash . && chmod -R a+rX .


FROM python-base AS web

WORKDIR /app
COPY --from=web-packages /app/ ./
COPY --from=python-model /opt/model/ /opt/model/
COPY --from=web-modules /app/ ./

# gunicorn listens on PORT unless it gets --bind; some platforms set PORT. The last variable stops joblib's warning that
# there is no /dev/shm.
ARG MODEL=""
ENV MODEL_LOCATION=${MODEL:+/opt/model} PORT=9696 JOBLIB_MULTIPROCESSING=0

# A number, because Kubernetes cannot tell from a name that the user is not root.
USER 10001:10001
EXPOSE 9696
# http.client and not urllib, which would send the request to a proxy if http_proxy is set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-c", "\
import http.client, os, sys; \
service = http.client.HTTPConnection('127.0.0.1', os.environ.get('PORT') or 9696, timeout=4); \
service.request('GET', '/health'); \
sys.exit(service.getresponse().status != 200)"]
# The list makes gunicorn the container's first process, which gets SIGTERM; a shell would not pass it on.
CMD ["python3", "-m", "gunicorn", "web_service:app"]


# ------ batch ------

FROM python-installer AS batch-packages

ARG CATEGORIES="packages sklearn"

RUN ./install-packages /app ${CATEGORIES} batch


FROM python-base AS batch-modules

WORKDIR /app
COPY batch_job.py batch_flow.py arns.py artifacts.py baselines.py clients.py digests.py features.py flavors.py \
    forests.py linear_models.py model.py model_metadata.py pickled_code.py proofs.py ride_counts.py rides.py settings.py \
    sklearn_flavor.py skops_*.py targets.py trip_cells.py trips.py ./
COPY served/*.py ./served/
COPY batch/*.py ./batch/
RUN python3 -m compileall -q --invalidation-mode unchecked-hash . && chmod -R a+rX .


FROM python-base AS batch

WORKDIR /app
COPY --from=batch-packages /app/ ./
COPY --from=python-model /opt/model/ /opt/model/
COPY --from=batch-modules /app/ ./

# Prefect keeps its settings, and the database of a temporary server, in its home. On a busy CPU, that server may take
# longer to start than the 20 seconds that Prefect waits. The last two variables stop the telemetry of Prefect.
ARG MODEL=""
ENV MODEL_LOCATION=${MODEL:+/opt/model} JOBLIB_MULTIPROCESSING=0 \
    PREFECT_HOME=/tmp/prefect PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=120 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

USER 10001:10001
# There is no ENTRYPOINT, because schedulers give the whole command.
CMD ["python3", "-m", "batch_job", "--help"]


# Docker builds the last target by default.
FROM lambda
