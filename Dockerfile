FROM public.ecr.aws/lambda/python:3.13

# "packages" is all that scikit-learn models need; "packages training" adds mlflow, for models of other flavors.
ARG CATEGORIES="packages"

RUN pip install --no-cache-dir pipenv==2026.10.3

COPY Pipfile Pipfile.lock ${LAMBDA_TASK_ROOT}/
RUN pipenv install --system --deploy --categories "${CATEGORIES}" && rm -rf ~/.cache

COPY lambda_function.py aggregation.py artifacts.py delivery.py model.py rides.py settings.py telemetry.py \
    ${LAMBDA_TASK_ROOT}/

CMD ["lambda_function.lambda_handler"]
