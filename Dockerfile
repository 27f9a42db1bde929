FROM public.ecr.aws/lambda/python:3.13 AS base


FROM base AS packages

# "packages" is all that scikit-learn models need; "packages training" adds mlflow, for models of other flavors.
ARG CATEGORIES="packages"

WORKDIR /build
COPY Pipfile.lock ./
COPY scripts/environment.py scripts/requirements.py ./scripts/
# Into the task root, which is searched first: what the base image brings, a boto3 of its own, stays apart.
# Nobody needs the packages' commands and tests here. Python looks for them, since a small base image need not have "find".
# The bytecode is never compared with its source: nothing changes in an image, and an unpacked one may have other dates.
RUN python3 -m scripts.requirements ${CATEGORIES} > requirements.txt \
    && python3 -m pip install --no-deps --require-hashes --only-binary :all: --no-cache-dir --no-compile \
        --root-user-action ignore --target "${LAMBDA_TASK_ROOT}" --requirement requirements.txt \
    && rm -rf "${LAMBDA_TASK_ROOT:?}/bin" \
    && python3 -c 'import glob, shutil, sys; \
        [shutil.rmtree(folder, True) for folder in glob.glob(sys.argv[1], recursive=True)]' \
        "${LAMBDA_TASK_ROOT}/**/tests" \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "${LAMBDA_TASK_ROOT}" \
    && chmod -R a+rX "${LAMBDA_TASK_ROOT}"


FROM base AS model

# A folder of the build context that holds an MLmodel file, to go into the image; by default there is none in it.
ARG MODEL=""

WORKDIR /opt/model
# COPY needs something to copy: without a model, a file that does not stay.
COPY ${MODEL:-Pipfile.lock} ./
# Another folder would only be missed when the function starts.
RUN rm -f Pipfile.lock \
    && if [ -n "${MODEL}" ]; then \
        [ -f MLmodel ] || { echo "MODEL=${MODEL} is no folder with an MLmodel file" >&2; exit 1; }; \
        while read -r key file; do \
            [ "${key}" != "pickled_model:" ] || [ -f "${file}" ] \
                || { echo "MODEL=${MODEL} lacks ${file}, which its MLmodel names" >&2; exit 1; }; \
        done < MLmodel; \
    fi \
    && chmod -R a+rX .


FROM base AS modules

COPY lambda_function.py artifacts.py model.py rides.py settings.py ${LAMBDA_TASK_ROOT}/
COPY streaming/*.py ${LAMBDA_TASK_ROOT}/streaming/
# Lambda runs the function as a user of its own, which must be able to read what a strict umask made here.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash "${LAMBDA_TASK_ROOT}" \
    && chmod -R a+rX "${LAMBDA_TASK_ROOT}"


FROM base

COPY --from=packages ${LAMBDA_TASK_ROOT}/ ${LAMBDA_TASK_ROOT}/
COPY --from=model /opt/model/ /opt/model/
COPY --from=modules ${LAMBDA_TASK_ROOT}/ ${LAMBDA_TASK_ROOT}/

# Set to nothing it counts as not set. joblib would otherwise warn at each cold start that Lambda has no /dev/shm.
ARG MODEL=""
ENV MODEL_LOCATION=${MODEL:+/opt/model} JOBLIB_MULTIPROCESSING=0

CMD ["lambda_function.lambda_handler"]
