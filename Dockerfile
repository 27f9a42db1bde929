ARG BASE=public.ecr.aws/lambda/python:3.13

# The last target, lambda, is the default one: the function that consumes a Kinesis stream.

FROM ${BASE} AS base


FROM base AS packages

# "packages" is enough for scikit-learn models; "packages training" adds mlflow, for models of other flavors.
ARG CATEGORIES="packages"

WORKDIR /build
COPY Pipfile.lock ./
COPY scripts/environment.py ./scripts/
# The packages go into the task root, because Python searches it first; the base image has a boto3 of its own elsewhere.
# The packages' commands and tests are removed, with Python, because a small base image may lack "find".
# Python never compares the bytecode with its source: files in an image do not change, but unpacking may change dates.
RUN python3 scripts/environment.py --requirements ${CATEGORIES} > requirements.txt \
    && python3 -m pip install --no-deps --require-hashes --only-binary :all: --no-cache-dir --no-compile \
        --root-user-action ignore --target "${LAMBDA_TASK_ROOT}" --requirement requirements.txt \
    && rm -rf "${LAMBDA_TASK_ROOT:?}/bin" \
    && python3 -c 'import glob, shutil, sys; \
        [shutil.rmtree(folder, True) for folder in glob.glob(sys.argv[1], recursive=True)]' \
        "${LAMBDA_TASK_ROOT}/**/tests" \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "${LAMBDA_TASK_ROOT}" \
    && chmod -R a+rX "${LAMBDA_TASK_ROOT}"


FROM base AS model

# A folder of the build context with an MLmodel file; it is copied into the image. By default the image has no model.
ARG MODEL=""

WORKDIR /opt/model
# COPY needs a source: without a model, it copies a file that the next step removes.
COPY ${MODEL:-Pipfile.lock} ./
# Check the folder now, because a wrong one would only be noticed when the function starts.
RUN rm -f Pipfile.lock \
    && if [ -n "${MODEL}" ]; then \
        [ -f MLmodel ] || { echo "MODEL=${MODEL} is not a folder with an MLmodel file" >&2; exit 1; }; \
        while read -r key file; do \
            [ "${key}" != "pickled_model:" ] || [ -f "${file}" ] \
                || { echo "MODEL=${MODEL} lacks ${file}, which its MLmodel names" >&2; exit 1; }; \
        done < MLmodel; \
    fi \
    && chmod -R a+rX .


FROM base AS lambda-modules

COPY lambda_function.py arns.py artifacts.py clients.py flavors.py linear_models.py model.py pickled_code.py rides.py \
    settings.py skops_*.py ${LAMBDA_TASK_ROOT}/
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
